"""The first state of a recording, kept beside it: whoever goes on measures distances from it."""

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
    """Return where the first state of the recording `output` is kept."""
    return output.with_name(output.name + SUFFIX)


def write_start(path: Path, start: Sequence[Array], *, run: str, step: int) -> None:
    """Keep the first state; a kill leaves the old file or the new one.

    Parameters
    ----------
    path : Path
    start : sequence of arrays
        In the order of the trajectory. Half precision is widened, as it is before differences are formed: NumPy's
        files know no bfloat16.
    run : str
        The ``run_id`` of the recording.
    step : int
        Its first step.

    Raises
    ------
    OSError
        The disk is full, for instance; nothing is left behind.
    """
    with replacing(path) as file:
        # Numbered, since names of tensors may be any; the first says what the others are.
        np.savez(file, np.array(_mark(run, step)), *map(widest, start))


def require_own(path: Path) -> None:
    """Raise a `RegimeError` if something else is where a first state is to be written."""
    if path.exists() or path.is_symlink():
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                is_own = str(arrays["arr_0"]).startswith("run ")
        except (OSError, ValueError, TypeError, KeyError, EOFError, BadZipFile):
            is_own = False
        if not is_own:
            raise RegimeError(
                f"{path}: exists, and is no first state of a recording; move it away, or record into another output"
            )


def read_start(path: Path, *, run: str, step: int) -> list[Array]:
    """Return the first state of a recording that is gone on with.

    Parameters
    ----------
    path : Path
    run, step
        As it was written.

    Raises
    ------
    RegimeError
        It is not there, is damaged, or is another recording's.
    """
    advice = "put the file back, or record into another output"
    try:
        # Of a damaged file that it opens itself NumPy leaves it to others to close it.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            mark, *start = (arrays[f"arr_{number}"] for number in range(len(arrays.files)))
    except FileNotFoundError:
        raise RegimeError(
            f"{path}: missing, the first state, from which distances are measured (of sharded weights none is kept); "
            f"{advice}"
        ) from None
    except (OSError, ValueError, TypeError, KeyError, EOFError, BadZipFile) as error:
        raise RegimeError(f"{path}: damaged ({' '.join(str(error).split())[:100]}); {advice}") from None
    if str(mark) != _mark(run, step):
        raise RegimeError(
            f"{path}: the first state of {str(mark)[:100]}, expected that of {_mark(run, step)}; {advice}"
        )
    return start


def _mark(run: str, step: int) -> str:
    return f"run {run}, step {step}"
