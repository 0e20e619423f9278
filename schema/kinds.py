"""Kinds of files, by content. A file is only replaced by one of the same kind, so that no checkpoint or run is lost."""

import codecs
import io
import mmap
import re
import struct
import zipfile
from pathlib import Path
from typing import IO, cast

from regime_proto.schema.errors import RegimeError

# The first bytes of every HDF5 file.
HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
# An attribute of curves that are exported as netCDF; HDF5 stores its text unchanged.
CURVES_TITLE = "curves of a trajectory, by regime export"
# The arrays of the affine maps of a network.
MAP_ARRAYS = (
    "step", "sample", "matrix", "offset", "inputs", "outputs", "residual", "radius", "limit", "probe_samples",
    "regions",
)  # fmt: skip

EMPTY = "an empty file"
CURVES = "curves in netCDF"
MAPS = "affine maps in .npz"
HTML = "an HTML page"
FIGURES = {"pdf": "a PDF", "png": "a PNG image", "svg": "an SVG figure"}
TEXT = "text"
OTHER = "another kind of file"

_BY_FIRST_BYTES = {
    b"%PDF-": FIGURES["pdf"],
    b"\x89PNG\r\n\x1a\n": FIGURES["png"],
    b"\x80": "a pickle, which may be a checkpoint",
}
_HEAD = 65_536


def kind_of(content: bytes | mmap.mmap) -> str:
    """Return the kind of the content of a file, in words."""
    head = bytes(content[:_HEAD])
    if not head:
        return EMPTY
    if head.startswith(HDF5_SIGNATURE):
        is_ours = content.find(CURVES_TITLE.encode()) >= 0
        return CURVES if is_ours else "an HDF5 file, which may be a trajectory or a checkpoint"
    if head.startswith(b"PK\x03\x04"):
        return _kind_of_zip(content)
    if _is_safetensors(head, len(content)):
        return "a safetensors file, which may be a checkpoint"
    for first, kind in _BY_FIRST_BYTES.items():
        if head.startswith(first):
            return kind
    return _kind_of_text(head, bytes(content[-1:]))


def kind_of_file(path: Path) -> str:
    """Return the kind of a file, in words; a file that cannot be read has a kind of its own."""
    try:
        if path.stat().st_size == 0:
            return EMPTY
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return kind_of(content)
    except OSError as error:
        return f"a file that cannot be read ({error.strerror})"


def require_kind(path: Path, kind: str) -> None:
    """Raise an error if a file exists that is of a different kind from the one that would replace it.

    Parameters
    ----------
    path : Path
    kind : str
        The result of `kind_of` for the new content.

    Raises
    ------
    RegimeError
        The kinds differ; the message names both.
    """
    found = kind_of_file(path) if path.is_file() else EMPTY
    # An ONNX program has no signature, and a damaged one may be of any kind.
    if found not in ((kind, EMPTY, TEXT) if kind == OTHER else (kind, EMPTY)):
        raise RegimeError(f"{path}: expected {kind}, found {found}; it is not replaced: choose another output")


def _kind_of_zip(content: bytes | mmap.mmap) -> str:
    try:
        # A mapped file can be read like a file.
        file = io.BytesIO(content) if isinstance(content, bytes) else cast(IO[bytes], content)
        with zipfile.ZipFile(file) as archive:
            names = set(archive.namelist())
    except (zipfile.BadZipFile, ValueError, NotImplementedError, struct.error, OSError):
        return "a damaged zip archive"
    if not all(name.endswith(".npy") for name in names):
        return "a zip archive, which may be a checkpoint"
    return MAPS if names == {f"{name}.npy" for name in MAP_ARRAYS} else "an .npz of other arrays"


def _is_safetensors(head: bytes, size: int) -> bool:
    return len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= size - 8


def _kind_of_text(head: bytes, last: bytes) -> str:
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return OTHER
    if re.search(r"[\x00-\x08\x0e-\x1f]", text):
        return OTHER
    # The oldest pickle protocol uses printable characters only.
    if last == b"." and re.match(r"\(|c[\w.]+\n", text):
        return "a pickle, which may be a checkpoint"
    begin = text.lstrip("\ufeff \t\r\n").lower()
    if begin.startswith(("<!doctype html", "<html")):
        return HTML
    return FIGURES["svg"] if begin.startswith(("<?xml", "<svg")) and "<svg" in begin else TEXT
