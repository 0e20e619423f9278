"""The gate: what a file is made of, looked at before anything in it is indexed.

A file can make the HDF5 library read other files (external links and storage, virtual datasets), run other
code (filter plug-ins) or fill the memory (chunks that inflate). None of that belongs into a trajectory.
"""

import math
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import h5py
from h5py import h5a, h5d, h5l, h5o, h5t, h5z
from regime_proto.schema.layout import BARE_DIMENSION, MAX_ENTRY_BYTES
from regime_proto.schema.validation.rules import Problem

MAX_OBJECTS = 10_000
MAX_ATTRIBUTES = 1_000
MAX_ATTRIBUTE_BYTES = 2**20
MAX_CHUNK_BYTES = 64 * 2**20
# Deflate makes at most 1,032 bytes of one: chunks below this cannot become larger than 256 MiB.
MAX_TRUSTED_STORED_BYTES = 256 * 2**20 // 1032

_FILTERS = {h5z.FILTER_DEFLATE: "deflate", h5z.FILTER_SHUFFLE: "shuffle", h5z.FILTER_FLETCHER32: "fletcher32"}
_CHECKSUM_BYTES = 4
# Length, address and number in a heap.
_STRING_REFERENCE_BYTES = 16
# By these HDF5 attaches dimension scales: they refer to objects, but only within the file.
_OF_SCALES = {b"DIMENSION_LIST", b"REFERENCE_LIST"}


def structure_problems(
    file: h5py.File, *, entry_bytes: int = MAX_ENTRY_BYTES, opaque: bool = False, only: Sequence[str] | None = None
) -> Iterator[Problem]:
    """Yield what is wrong with the structure of an open file; nothing is read but metadata.

    Parameters
    ----------
    file : h5py.File
    entry_bytes : int
        The largest dataset, or entry of one that grows.
    opaque : bool
        Whether values of a kind that HDF5 does not know may be in it, as for bfloat16.
    only : sequence of str, optional
        The paths of the objects that are going to be used; nothing else is looked at.
    """
    objects: list[tuple[str, Any]] = []
    if only is None:
        yield from _walk(file.id, objects)
    for path in only or ():
        yield from _along(file.id, path, objects)
    size = file.id.get_filesize()
    for path, found in objects:
        yield from _attribute_problems(path, found)
        if isinstance(found, h5d.DatasetID):
            yield from _dataset_problems(path, found, size, entry_bytes, opaque=opaque)


def _walk(root: Any, objects: list[tuple[str, Any]]) -> Iterator[Problem]:
    """Collect all objects, without following anything but hard links to what was not yet seen."""
    objects.append(("/", root))
    seen = {h5o.get_info(root).addr}
    waiting = [("", root)]
    while waiting:
        prefix, group = waiting.pop()
        for name in group:
            path = f"{prefix}/{name.decode(errors='replace')}"
            if group.links.get_info(name).type != h5l.TYPE_HARD:
                yield Problem("link-hard", path, "a hard link", "a link to another name or file")
                continue
            address = h5o.get_info(group, name).addr
            if address in seen:
                yield Problem("link-single", path, "an object of its own", "another name of an object seen before")
                continue
            seen.add(address)
            found = h5o.open(group, name)
            objects.append((path, found))
            if len(objects) > MAX_OBJECTS:
                yield Problem("object-kind", "/", f"at most {MAX_OBJECTS:,} objects", "more")
                return
            if isinstance(found, h5py.h5g.GroupID):
                waiting.append((path, found))
            elif not isinstance(found, h5d.DatasetID):
                yield Problem("object-kind", path, "a dataset or a group", "a named type")


def _along(root: Any, path: str, objects: list[tuple[str, Any]]) -> Iterator[Problem]:
    """Collect the objects on a path, as far as it goes, without following anything but hard links."""
    found, place = root, ""
    for name in path.split("/"):
        if not isinstance(found, h5py.h5g.GroupID) or name.encode() not in list(found):
            return
        place = f"{place}/{name}"
        if found.links.get_info(name.encode()).type != h5l.TYPE_HARD:
            yield Problem("link-hard", place, "a hard link", "a link to another name or file")
            return
        found = h5o.open(found, name.encode())
        objects.append((place, found))


def _attribute_problems(path: str, owner: Any) -> Iterator[Problem]:
    count = h5a.get_num_attrs(owner)
    if count > MAX_ATTRIBUTES:
        yield Problem("attribute-size", path, f"at most {MAX_ATTRIBUTES:,} attributes", f"{count:,}")
        return
    for index in range(count):
        attribute = h5a.open(owner, index=index)
        where = f"{path}@{attribute.name.decode(errors='replace')}"
        size = math.prod(attribute.shape or ()) * _item_bytes(attribute.get_type())
        if size > MAX_ATTRIBUTE_BYTES:
            yield Problem("attribute-size", where, f"at most {MAX_ATTRIBUTE_BYTES:,} bytes", f"{size:,}")
        if attribute.name not in _OF_SCALES and not _is_plain(attribute.get_type()):
            yield Problem("attribute-kind", where, "a number or a string", _name_of(attribute.get_type()))


def _dataset_problems(path: str, dataset: Any, file_size: int, entry_bytes: int, *, opaque: bool) -> Iterator[Problem]:
    properties = dataset.get_create_plist()
    layout = properties.get_layout()
    if layout == h5d.VIRTUAL or properties.get_external_count():
        found = "a virtual dataset" if layout == h5d.VIRTUAL else "external storage"
        yield Problem("storage-inside", path, "data in the file", found)
        return
    if not _is_plain(dataset.get_type()) and not (opaque and isinstance(dataset.get_type(), h5t.TypeOpaqueID)):
        yield Problem("type-plain", path, "integers, floats or strings", _name_of(dataset.get_type()))
        return
    if layout == h5d.CHUNKED:
        yield from _chunk_problems(path, dataset, properties, file_size, entry_bytes)
    else:
        yield from _contiguous_problems(path, dataset, entry_bytes)


def _contiguous_problems(path: str, dataset: Any, entry_bytes: int) -> Iterator[Problem]:
    declared = math.prod(dataset.shape) * _item_bytes(dataset.get_type())
    stored = dataset.get_storage_size()
    if stored == 0 and _is_bare_dimension(dataset):
        # A dimension without values: only its length means something.
        return
    if stored == 0 and h5a.exists(dataset, b"CLASS"):
        expected = f"a scale with values, or with the NAME {BARE_DIMENSION}…"
        yield Problem("dimension-scale", path, expected, "neither")
    elif declared > entry_bytes:
        yield Problem("size-limit", path, f"at most {entry_bytes:,} bytes", f"{declared:,}")
    elif stored != declared:
        yield Problem("chunk-count", path, f"{declared:,} bytes", f"{stored:,}")


def _is_bare_dimension(dataset: Any) -> bool:
    if not h5a.exists(dataset, b"NAME"):
        return False
    name = h5a.open(dataset, b"NAME")
    return bytes(h5py.Dataset(dataset).attrs["NAME"]).startswith(BARE_DIMENSION.encode()) if _is_text(name) else False


def _is_text(attribute: Any) -> bool:
    kind = attribute.get_type()
    return isinstance(kind, h5t.TypeStringID) and not kind.is_variable_str() and attribute.shape == ()


def _chunk_problems(path: str, dataset: Any, properties: Any, file_size: int, entry_bytes: int) -> Iterator[Problem]:
    filters = [properties.get_filter(index)[0] for index in range(properties.get_nfilters())]
    unknown = [code for code in filters if code not in _FILTERS]
    if unknown or len(set(filters)) < len(filters):
        found = f"filter number {unknown[0]}" if unknown else "a filter twice"
        yield Problem("filter-known", path, " or ".join(_FILTERS.values()) + ", each once", found)
        return
    shape, chunk, item = dataset.shape, properties.get_chunk(), _item_bytes(dataset.get_type())
    size = math.prod(chunk) * item
    row = math.prod(shape[1:]) * item
    grows = dataset.get_space().get_simple_extent_dims(maxdims=True)[:1] == (h5py.h5s.UNLIMITED,)
    whole = row if grows else row * shape[0]
    for what, found, limit in (
        ("chunks of ", size, MAX_CHUNK_BYTES),
        ("an entry of " if grows else "", whole, entry_bytes),
    ):
        if found > limit:
            yield Problem("size-limit", path, f"{what}at most {limit:,} bytes", f"{found:,}")
            return
    expected = math.prod(-(-length // step) for length, step in zip(shape, chunk, strict=True))
    stored = dataset.get_num_chunks()
    if stored != expected:
        yield Problem("chunk-count", path, f"{expected:,} chunks", f"{stored:,}")
        return
    yield from _stored_chunk_problems(path, dataset, size, filters, file_size)


def _stored_chunk_problems(path: str, dataset: Any, size: int, filters: list[int], file_size: int) -> Iterator[Problem]:
    limit = size + size // 100 + 128
    suspects = []
    total = 0

    def look(chunk: Any) -> Any:
        nonlocal total
        total += chunk.size
        if chunk.size > limit or chunk.byte_offset is None or chunk.byte_offset + chunk.size > file_size:
            return chunk
        if chunk.size > MAX_TRUSTED_STORED_BYTES:
            suspects.append(chunk)
        return None

    wrong = dataset.chunk_iter(look)
    if wrong is not None:
        found = f"{wrong.size:,} bytes at {wrong.byte_offset}"
        yield Problem("chunk-stored", path, f"at most {limit:,} bytes, inside the file of {file_size:,}", found)
    elif total > file_size:
        # Only chunks that share their bytes can do that.
        yield Problem("chunk-stored", path, f"chunks of at most {file_size:,} bytes together", f"{total:,}")
    elif h5z.FILTER_DEFLATE in filters:
        checksum = _CHECKSUM_BYTES if h5z.FILTER_FLETCHER32 in filters else 0
        for chunk in suspects:
            inflated = _inflated(dataset.read_direct_chunk(chunk.chunk_offset)[1], size + checksum)
            if inflated not in (size, size + checksum):
                yield Problem("chunk-inflated", path, f"{size:,} bytes", "more" if inflated > size else f"{inflated:,}")
                return


def _inflated(content: bytes, limit: int) -> int:
    """Return how many bytes a deflated chunk becomes, without holding more than `limit` of them."""
    inflater = zlib.decompressobj()
    try:
        return len(inflater.decompress(content, limit + 1))
    except zlib.error:
        return 0


def _is_plain(kind: Any) -> bool:
    if isinstance(kind, h5t.TypeStringID):
        return True
    return isinstance(kind, h5t.TypeIntegerID | h5t.TypeFloatID) and kind.get_size() in (1, 2, 4, 8)


def _item_bytes(kind: Any) -> int:
    """Return the bytes of one value where it is stored; a string of any length is stored elsewhere."""
    return _STRING_REFERENCE_BYTES if isinstance(kind, h5t.TypeStringID) and kind.is_variable_str() else kind.get_size()


def _name_of(kind: Any) -> str:
    return type(kind).__name__.removeprefix("Type").removesuffix("ID").lower()
