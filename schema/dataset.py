"""Opens a trajectory file as a labelled dataset."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import xarray as xr
from xarray.backends import BackendArray, BackendEntrypoint, CachingFileManager
from xarray.core import indexing

from regime_proto.schema import layout
from regime_proto.schema.errors import TrajectoryError
from regime_proto.schema.files import describe
from regime_proto.schema.notes import ORDER_DOUBT, read_order_doubt
from regime_proto.schema.reader import checked, metric_variables, open_known, read_quantities
from regime_proto.schema.types import Array
from regime_proto.schema.validation.chunks import Chunking, every_offset, inflated_problems
from regime_proto.schema.validation.trust import Record

# HDF5 and netCDF libraries attach dimensions with these attributes; they are internal to them.
_OF_LIBRARIES = {
    "CLASS", "NAME", "DIMENSION_LIST", "REFERENCE_LIST", "_Netcdf4Dimid", "_Netcdf4Coordinates", "_nc3_strict",
    "_NCProperties",
}  # fmt: skip
_NO_FILTERS = dict.fromkeys(("zlib", "szip", "bzip2", "blosc", "zstd", "shuffle", "fletcher32"), False)
# The largest array of fixed-length texts; above this size, texts are kept as objects.
_TEXT_BYTES = 64 * 2**20


def open_trajectory(path: str | os.PathLike[str]) -> xr.Dataset:
    """Open a trajectory file, lazily.

    Values are returned as stored: no attribute changes them, even one that netCDF readers apply.

    Parameters
    ----------
    path : path

    Returns
    -------
    xarray.Dataset
        The variables of the format; values are read when they are used. Close it, or use it as a context manager. If a
        conversion doubted the order of the checkpoints, the attribute ``order_doubt`` says why.

    Raises
    ------
    TrajectoryError
        The file is missing, is not HDF5, or does not follow the format. Also raised later, when values that are read
        are damaged.
    """
    path = Path(path)
    return open_as(path, checked(path))


def open_as(path: Path, known: Record) -> xr.Dataset:
    """Open a checked trajectory file like `open_trajectory`.

    Parameters
    ----------
    path : Path
    known : Record
        The result of the check.
    """
    try:
        return xr.open_dataset(path, engine=_Trajectory, known=known)
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise TrajectoryError(f"{path}: damaged data ({describe(error)}); see regime validate") from None
    except MemoryError:
        raise TrajectoryError(f"{path}: opening it needs more memory than is available") from None


class _Trajectory(BackendEntrypoint):
    """The backend through which xarray opens a checked file."""

    def open_dataset(  # type: ignore[override]
        self,
        filename_or_obj: Any,
        *,
        drop_variables: Any = None,  # noqa: ARG002  (xarray passes it)
        known: Record,
    ) -> xr.Dataset:
        path = Path(filename_or_obj)
        # If the file was closed meanwhile, or is needed in another process, it is opened again.
        manager = CachingFileManager(open_known, path, known.state)
        file = manager.acquire()
        quantities = (quantity.variable for quantity in read_quantities(file))
        known_here = (*layout.BY_NAME.values(), *metric_variables(file), *quantities)
        present = {variable.name: variable for variable in known_here}
        # Each is looked up only once: a lookup takes as long as everything else.
        stored = {name: file[name] for name in file if name in present or name in layout.DIMENSIONS}
        variables = {
            name: _variable(values, present[name].dims, _Stored(manager, path, values, inflate=known.defers))
            for name, values in stored.items()
            if name in present
        }
        # Values first, in the order that xarray itself uses.
        ordered = sorted(variables, key=lambda name: name in layout.DIMENSIONS)
        dataset = xr.Dataset({name: variables[name] for name in ordered}, attrs=_attributes(file.attrs))
        doubt = read_order_doubt(file)
        if doubt is not None:
            dataset.attrs[ORDER_DOUBT] = doubt
        dataset.encoding = {"unlimited_dims": _unlimited(stored), "source": str(path)}
        dataset.set_close(manager.close)
        return dataset


class _Stored(BackendArray):
    """The values of a variable, read when they are used."""

    def __init__(
        self, manager: "CachingFileManager[h5py.File]", path: Path, stored: h5py.Dataset, *, inflate: bool
    ) -> None:
        self.shape, self.dtype = stored.shape, stored.dtype.newbyteorder("=")
        self._manager, self._path, self._name = manager, path, stored.name
        self._inflate = inflate and self._name == f"/{layout.MASK}"

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Array:
        read: Array = indexing.explicit_indexing_adapter(
            key, self.shape, indexing.IndexingSupport.OUTER_1VECTOR, self._read
        )
        return read

    def _read(self, key: tuple[Any, ...]) -> Array:
        try:
            stored = self._manager.acquire()[self._name]
            if self._inflate:
                self._require_inflated(stored, key)
            return np.asarray(stored[key], self.dtype)
        except (OSError, RuntimeError) as error:
            raise TrajectoryError(f"{self._path}: damaged data ({describe(error)}); see regime validate") from None

    def _require_inflated(self, stored: h5py.Dataset, key: tuple[Any, ...]) -> None:
        """Inflate the chunks to be read: there were too many to inflate when the file was checked."""
        box = [_span(part, length) for part, length in zip(key, self.shape, strict=True)]
        offsets = every_offset(stored.id, Chunking.of(stored.id), box)
        problem = next(inflated_problems(self._name, stored.id, offsets), None)
        if problem is not None:
            raise TrajectoryError(f"{self._path}: {problem}")


def _span(part: Any, length: int) -> tuple[int, int]:
    """Return the first position on an axis that an index selects, and one past the last."""
    chosen = np.arange(length)[part] if isinstance(part, slice) else np.atleast_1d(part)
    return (int(chosen.min()), int(chosen.max()) + 1) if len(chosen) else (0, 0)


def _variable(stored: h5py.Dataset, dims: tuple[str, ...], values: _Stored) -> xr.Variable:
    attributes = _attributes(stored.attrs)
    if h5py.check_string_dtype(stored.dtype) is not None:
        texts = _texts(stored)
        return xr.Variable(dims, texts, attributes, {"dtype": texts.dtype})
    encoding = {"dtype": stored.dtype, "contiguous": stored.chunks is None, "chunksizes": stored.chunks, **_NO_FILTERS}
    if stored.chunks is not None:
        encoding["preferred_chunks"] = dict(zip(dims, stored.chunks, strict=True))
        encoding |= {"shuffle": stored.shuffle, "fletcher32": stored.fletcher32}
    if stored.compression == "gzip":
        encoding |= {"zlib": True, "complevel": stored.compression_opts}
    encoding |= {"source": str(values._path), "original_shape": stored.shape}
    return xr.Variable(dims, indexing.LazilyIndexedArray(values), attributes, encoding)


def _texts(stored: h5py.Dataset) -> Array:
    texts = np.asarray(stored.asstr()[...], object)
    longest = max((len(text) for text in texts.ravel()), default=1)
    return texts.astype(str) if 4 * longest * texts.size <= _TEXT_BYTES else texts


def _attributes(stored: h5py.AttributeManager) -> dict[str, Any]:
    return {name: _plain(stored[name]) for name in stored if name not in _OF_LIBRARIES}


def _plain(value: Any) -> Any:
    """Return an attribute like netCDF libraries: text decoded, several texts as a list, one element as a scalar."""
    if isinstance(value, h5py.Empty):
        return "" if value.dtype.kind in "SO" else np.array([], value.dtype)
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, np.ndarray) and value.dtype.kind in "SO":
        value = [text.decode() if isinstance(text, bytes) else text for text in value.ravel().tolist()]
    return value[0] if isinstance(value, list | np.ndarray) and len(value) == 1 else value


def _unlimited(stored: Mapping[str, h5py.Dataset]) -> set[str]:
    """Return the dimensions that can grow."""
    return {name for name in layout.DIMENSIONS if name in stored and stored[name].maxshape[:1] == (None,)}
