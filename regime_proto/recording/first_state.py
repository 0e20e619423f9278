"""Stores the first state of a recording next to it, so that a resumed run can measure distances from it."""

from collections.abc import Sequence
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from regime_proto.schema.dtypes import widest
from regime_proto.schema.errors import RegimeError
from regime_proto.schema.files import replacing
from regime_proto.schema.types import Array

SUFFIX = ".start.npz"


def start_path(output: Path) -> Path:
    """Return the path of the first state of the recording `output`."""
    return output.with_name(output.name + SUFFIX)


def write_start(path: Path, start: Sequence[Array], *, run: str, step: int) -> None:
    """Write the first state; if the process is killed, either the old or the new file remains.

    Parameters
    ----------
    path : Path
    start : sequence of arrays
        The trainable tensors in the order of the trajectory. Half precision is widened, as it is before differences are
        computed, since NumPy's files do not support bfloat16.
    run : str
        The ``run_id`` of the recording.
    step : int
        Its first step.

    Raises
    ------
    OSError
        The file cannot be written, for example because the disk is full; no partial file is left.
    """
    with replacing(path) as file:
        # Numbered, since tensor names may hold any characters; the first array describes the others.
        np.savez(file, np.array(_mark(run, step)), *map(widest, start))


def require_own(path: Path) -> None:
    """Raise a `RegimeError` if a different kind of file exists at the path of a first state."""
    if path.exists() or path.is_symlink():
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                is_own = str(arrays["arr_0"]).startswith("run ")
        except (OSError, ValueError, TypeError, KeyError, EOFError, BadZipFile):
            is_own = False
        if not is_own:
            raise RegimeError(
                f"{path}: exists, but is not the first state of a recording; move it away, or record to another output"
            )


def read_start(path: Path, *, run: str, step: int) -> list[Array]:
    """Read the first state of a recording that is resumed.

    Parameters
    ----------
    path : Path
    run : str
        As in `write_start`.
    step : int
        As in `write_start`.

    Returns
    -------
    list of arrays
        The trainable tensors in the order of the trajectory.

    Raises
    ------
    RegimeError
        The file is missing or damaged, or belongs to a different recording.
    """
    advice = "restore the file, or record to another output"
    try:
        # NumPy does not close a damaged file that it has opened itself.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            mark, *start = (arrays[f"arr_{number}"] for number in range(len(arrays.files)))
    except FileNotFoundError:
        raise RegimeError(
            f"{path}: missing; expected the first state, from which distances are measured (never stored for sharded "
            f"weights); {advice}"
        ) from None
    except (OSError, ValueError, TypeError, KeyError, EOFError, BadZipFile) as error:
        raise RegimeError(f"{path}: damaged ({' '.join(str(error).split())[:100]}); {advice}") from None
    if str(mark) != _mark(run, step):
        raise RegimeError(
            f"{path}: holds the first state of {str(mark)[:100]}; expected that of {_mark(run, step)}; {advice}"
        )
    return start


def _mark(run: str, step: int) -> str:
    return f"run {run}, step {step}"
