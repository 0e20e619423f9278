"""Finds the files of a data set in a user's folder."""

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from regime_proto.schema.errors import RegimeError


def find(folder: Path, name: str) -> Path | None:
    """Return the file or folder of this name in `folder` or its subfolders; the shallowest if there are several.

    Parameters
    ----------
    folder : Path
    name : str
        May contain ``*``, and may be a path of several parts.
    """
    found = sorted(folder.glob(f"**/{name}"), key=lambda path: (len(path.parts), str(path)))
    return found[0] if found else None


@contextmanager
def reading(path: Path) -> Iterator[Path]:
    """Add the name of a file to errors from reading it.

    Raises
    ------
    RegimeError
        pandas, NumPy, gzip or the system raised an error.
    """
    try:
        yield path
    except (ValueError, LookupError, EOFError, OSError, zlib.error) as error:
        said = " ".join(str(error).split())
        raise RegimeError(
            f"{path}: cannot be read ({said}); damaged, or not the expected file; download it again"
        ) from None


def require(folder: Path, name: str, layout: str) -> Path:
    """Return what `find` returns, for a file that must exist.

    Raises
    ------
    RegimeError
        The file does not exist, or is empty.
    """
    found = find(folder, name)
    if found is None:
        raise RegimeError(f"{folder}: no {name} in it or below; --data expects {layout}")
    if found.is_file() and not found.stat().st_size:
        raise RegimeError(f"{found}: empty; --data expects {layout}")
    return found
