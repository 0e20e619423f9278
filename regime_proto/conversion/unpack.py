"""Extracts the program and the probe that a trajectory carries, so that others can measure in the same way."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from regime_proto.program.probe import FILE_NAME as PROBE_FILE
from regime_proto.program.program import FILE_NAME as PROGRAM_FILE
from regime_proto.program.program import Program
from regime_proto.schema.errors import TrajectoryError
from regime_proto.schema.layout import PROBE, PROGRAM
from regime_proto.schema.reader import open_checked, read_embedded


@dataclass(frozen=True)
class Unpacked:
    """Files extracted from a trajectory.

    Parameters
    ----------
    contents : dict of Path to bytes
        Content of each file.
    inputs : dict of str to str
        Dtype and shape of each input of the program.
    has_probe : bool
        Whether the trajectory carries its probe.
    """

    contents: dict[Path, bytes]
    inputs: dict[str, str]
    has_probe: bool


def unpack(trajectory: Path, root: Path) -> Unpacked:
    """Return the program that a trajectory carries, and its probe if present, as files of the directory `root`.

    Parameters
    ----------
    trajectory : Path
    root : Path
        Directory for the files, which are not written yet.

    Returns
    -------
    Unpacked

    Raises
    ------
    RegimeError
        The trajectory cannot be read or carries no program, or the program is damaged.
    """
    with open_checked(trajectory) as file:
        embedded = read_embedded(file)
        expected = file.attrs.get("program_sha256")
    if PROGRAM not in embedded:
        raise TrajectoryError(
            f"{trajectory}: carries no program; ask its authors for one written with --embed program, or for the "
            "program.onnx itself"
        )
    if expected is not None and hashlib.sha256(embedded[PROGRAM]).hexdigest() != expected:
        raise TrajectoryError(
            f"{trajectory}: its program does not match the hash stored with it; do not trust this file"
        )
    program = Program.parse(embedded[PROGRAM], f"{trajectory}, program")
    names = {PROGRAM: root / PROGRAM_FILE, PROBE: root / PROBE_FILE}
    contents = {names[name]: content for name, content in embedded.items()}
    return Unpacked(contents, {name: str(spec) for name, spec in program.inputs.items()}, PROBE in embedded)
