"""Takes program and probe out of a trajectory that carries them: what others need to measure in the same way."""

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
    """What was taken out of a trajectory.

    Parameters
    ----------
    contents : dict of Path to bytes
        The files.
    inputs : dict of str to str
        What a probe for the program holds: dtype and shape by input.
    has_probe : bool
        Whether the probe was among them.
    """

    contents: dict[Path, bytes]
    inputs: dict[str, str]
    has_probe: bool


def unpack(trajectory: Path, root: Path) -> Unpacked:
    """Return the program that a trajectory carries, and its probe if it carries that, as files of the directory `root`.

    Parameters
    ----------
    trajectory, root : Path

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
        raise TrajectoryError(f"{trajectory}: its program is not the one whose hash it gives: do not trust it")
    program = Program.parse(embedded[PROGRAM], f"{trajectory}, program")
    names = {PROGRAM: root / PROGRAM_FILE, PROBE: root / PROBE_FILE}
    contents = {names[name]: content for name, content in embedded.items()}
    return Unpacked(contents, {name: str(spec) for name, spec in program.inputs.items()}, PROBE in embedded)
