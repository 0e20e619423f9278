"""Reads data sets in the formats of Hugging Face: downloaded Parquet files, or Arrow files from `save_to_disk`."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from regime_proto.schema.errors import RegimeError

LAYOUT = "or the Hugging Face data set: SPLIT-00000-of-NNNNN.parquet, or the folder of save_to_disk"
_SHARD = re.compile(r"(\d{5})-of-(\d{5})\.\w+$")


def read_split(folder: Path, splits: Sequence[str], columns: Sequence[Sequence[str]]) -> list[Any] | None:
    """Return columns of a split, or None if `folder` holds no such files.

    Parameters
    ----------
    folder : Path
    splits : sequence of str
        Possible names of the split.
    columns : sequence of sequence of str
        Possible names of each requested column.

    Returns
    -------
    list of pyarrow.ChunkedArray or None
        One for each of `columns`.

    Raises
    ------
    RegimeError
        A file is damaged or missing, or lacks a column; or two folders hold the split.
    """
    paths = [path for split in splits for path in _files(folder, split)]
    if not paths:
        return None
    if others := {path.parent for path in paths} - {paths[0].parent}:
        raise RegimeError(
            f"{folder}: {splits[0]} files in {paths[0].parent} and in {min(others)}; give the folder of one of them"
        )
    _require_all_shards(paths)
    tables = [(path, _table(path)) for path in paths]
    return [
        pa.chunked_array([chunk for path, table in tables for chunk in _column(path, table, names)])
        for names in columns
    ]


def _files(folder: Path, split: str) -> list[Path]:
    patterns = (f"**/{split}-*.parquet", f"**/{split}.parquet", f"**/{split}/*.parquet", f"**/{split}/data-*.arrow")
    return next((found for pattern in patterns if (found := sorted(folder.glob(pattern)))), [])


def _require_all_shards(paths: Sequence[Path]) -> None:
    shard = _SHARD.search(paths[0].name)
    if shard is not None and int(shard[2]) != len(paths):
        raise RegimeError(f"{paths[0].parent}: {len(paths)} files of {shard[2]} that {paths[0].name} speaks of")


def _table(path: Path) -> pa.Table:
    try:
        if path.suffix == ".parquet":
            # Files are read one by one; read as a set, names of folders would become columns.
            return parquet.ParquetFile(path).read()
        return pa.ipc.open_stream(pa.memory_map(str(path))).read_all()
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise RegimeError(f"{path}: cannot be read as {path.suffix[1:]} ({reason}); download it again") from None


def _column(path: Path, table: pa.Table, names: Sequence[str]) -> list[Any]:
    name = next((name for name in names if name in table.column_names), None)
    if name is None:
        wanted, found = " or ".join(names), ", ".join(table.column_names) or "no column"
        raise RegimeError(f"{path}: no column {wanted}; it has {found}")
    if table.column(name).null_count:
        raise RegimeError(f"{path}: the column {name} lacks {table.column(name).null_count} values")
    return list(table.column(name).chunks)


def texts_of(column: Any, where: Path) -> list[str]:
    """Return a column of texts.

    Raises
    ------
    RegimeError
        It holds values of a different type.
    """
    return _values(column, where, "texts", pa.types.is_string, pa.types.is_large_string)


def numbers_of(column: Any, where: Path) -> list[int]:
    """Return a column of whole numbers.

    Raises
    ------
    RegimeError
        It holds values of a different type.
    """
    return _values(column, where, "whole numbers", pa.types.is_integer)


def _values(column: Any, where: Path, wanted: str, *kinds: Any) -> list[Any]:
    if not any(is_kind(column.type) for is_kind in kinds):
        raise RegimeError(f"{where}: a column of {column.type}, expected {wanted}")
    values: list[Any] = column.to_pylist()
    return values


def images_of(column: Any, where: Path) -> list["ImageCell"]:
    """Return a column of images, which are read when they are asked for.

    Raises
    ------
    RegimeError
        It holds values of a different type.
    """
    kind = column.type
    is_binary = pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0
    if not is_binary or not pa.types.is_binary(kind.field("bytes").type):
        raise RegimeError(f"{where}: a column of {kind}, expected images with their bytes")
    return [ImageCell(column, row, where) for row in range(len(column))]


class ImageCell:
    """The content of an image that lies in a column."""

    def __init__(self, column: Any, row: int, where: Path) -> None:
        self._column, self._row, self._where = column, row, where

    def __str__(self) -> str:
        return f"{self._where}: image {self._row}"

    def read(self) -> bytes:
        """Return the bytes.

        Raises
        ------
        RegimeError
            There are none: only a path was saved.
        """
        content: bytes | None = self._column[self._row]["bytes"].as_py()
        if content is None:
            raise RegimeError(f"{self}: has no bytes, only the path of a file elsewhere")
        return content
