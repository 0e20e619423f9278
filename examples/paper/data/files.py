"""Finds the files of a data set in a folder of the user."""

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from regime_proto.schema.errors import RegimeError


def find(folder: Path, name: str) -> Path | None:
    """Return the file or folder of this name in `folder`, or in a folder inside of it; the shallowest one.

    Parameters
    ----------
    folder : Path
    name : str
        May hold ``*`` and be a path of several parts.
    """
    found = sorted(folder.glob(f"**/{name}"), key=lambda path: (len(path.parts), str(path)))
    return found[0] if found else None


@contextmanager
def reading(path: Path) -> Iterator[Path]:
    """Name a file where reading it fails.

    Raises
    ------
    RegimeError
        What pandas, NumPy, gzip or the system raised of it.
    """
    try:
        yield path
    except (ValueError, LookupError, EOFError, OSError, zlib.error) as error:
        said = " ".join(str(error).split())
        raise RegimeError(f"{path}: cannot be read ({said}); it is damaged, or another file: fetch it again") from None


def require(folder: Path, name: str, layout: str) -> Path:
    """Do what `find` does for a file that must be there.

    Raises
    ------
    RegimeError
        It is not, or it is empty.
    """
    found = find(folder, name)
    if found is None:
        raise RegimeError(f"{folder}: no {name} in it or below; --data expects {layout}")
    if found.is_file() and not found.stat().st_size:
        raise RegimeError(f"{found}: empty; --data expects {layout}")
    return found
