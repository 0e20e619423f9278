"""The first check: the structure of a file, before anything in it is indexed.

A file can make the HDF5 library read other files (external links and storage, virtual datasets), run other
code (filter plug-ins), fill the memory (chunks that inflate, strings that share their bytes) or return old contents of
the memory (chunks that are too short). None of this belongs in a trajectory.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import h5py
from h5py import h5a, h5d, h5g, h5l, h5o, h5r, h5t, h5z

from regime_proto.schema.layout import BARE_DIMENSION, BY_NAME, MASK, MAX_ENTRY_BYTES, METRIC_PREFIX, QUANTITY_PREFIX
from regime_proto.schema.limits import INFLATION
from regime_proto.schema.validation.chunks import inflated_bytes, stored_problems
from regime_proto.schema.validation.rules import Problem
from regime_proto.schema.validation.strings import are_utf8, attribute_bytes, dataset_bytes, is_utf8, is_variable

# An object must have fewer attributes than this, a file fewer objects, and an attribute fewer bytes.
OBJECTS = 10_000
ATTRIBUTES = 1_000
ATTRIBUTE_BYTES = 2**20
MAX_CHUNK_BYTES = 64 * 2**20

# The inflated size of a file is limited by its size: this many bytes, plus a number of bytes per stored byte. The masks
# of a network that hardly changes inflate to 50 times their size.
FREE_BYTES = 128 * 2**20
# Larger masks are inflated when they are read, or when all rows are checked.
EAGER_BYTES = 2**30

_FILTERS = {h5z.FILTER_DEFLATE: "deflate", h5z.FILTER_SHUFFLE: "shuffle", h5z.FILTER_FLETCHER32: "fletcher32"}
# The plain types, apart from strings.
_STANDARD = [
    *(getattr(h5t, f"STD_{sign}{bits}{order}") for sign in "IU" for bits in (8, 16, 32, 64) for order in ("LE", "BE")),
    *(getattr(h5t, f"IEEE_F{bits}{order}") for bits in (16, 32, 64) for order in ("LE", "BE")),
]
# Length, address and number in a heap.
_STRING_REFERENCE_BYTES = 16
# HDF5 attaches dimension scales with these attributes: they refer to objects, but only within the file.
_DIMENSION_LIST, _REFERENCE_LIST = b"DIMENSION_LIST", b"REFERENCE_LIST"
_OF_SCALES = {_DIMENSION_LIST, _REFERENCE_LIST}


@dataclass
class Objects:
    """The objects of a file that are checked.

    Parameters
    ----------
    file : h5py.File
    found : list of (str, identifier)
        The objects by path that `structure_problems` has reached so far.
    """

    file: h5py.File
    found: list[tuple[str, Any]] = field(default_factory=list)

    @property
    def datasets(self) -> list[tuple[str, Any]]:
        """The objects that hold values."""
        return [(path, found) for path, found in self.found if isinstance(found, h5d.DatasetID)]

    @property
    def file_size(self) -> int:
        """The size of the file, in bytes."""
        return int(self.file.id.get_filesize())


def structure_problems(
    objects: Objects, *, entry_bytes: int = MAX_ENTRY_BYTES, opaque: bool = False, only: Sequence[str] | None = None
) -> Iterator[Problem]:
    """Collect the objects of an open file, and yield their problems; only metadata is read.

    Parameters
    ----------
    objects : Objects
        Objects without any collected yet.
    entry_bytes : int
        The largest allowed size of a fixed dataset, or of one entry of a growing one.
    opaque : bool
        Whether it may hold values of types that HDF5 does not know, such as bfloat16.
    only : sequence of str, optional
        The paths of the objects that will be used; no others are checked.
    """
    if only is None:
        yield from _walk(objects.file.id, objects.found)
    for path in only or ():
        yield from _along(objects.file.id, path, objects.found)
    for path, found in objects.found:
        yield from _attribute_problems(path, found)
        if isinstance(found, h5d.DatasetID):
            yield from _dataset_problems(path, found, entry_bytes, opaque=opaque)


def chunk_problems(objects: Objects, *, later: bool = False) -> Iterator[Problem]:
    """Yield the problems of the stored chunks of a file whose structure is valid, before HDF5 reads any.

    Parameters
    ----------
    objects : Objects
    later : bool
        Leave out masks that are inflated when they are read; see `defers_masks`.
    """
    chunked = [(path, found) for path, found in objects.datasets if _is_chunked(path, found)]
    size = objects.file_size
    total, most = sum(inflated_bytes(found) for _, found in chunked), FREE_BYTES + INFLATION.value * size
    if total > most:
        advice = INFLATION.advice((total - FREE_BYTES) / max(1, size))
        yield Problem("file-safe", "/", f"at most {most:,} bytes inflated of {size:,}", f"{total:,}; {advice}")
        return
    for path, found in chunked:
        is_later = later and path == f"/{MASK}" and inflated_bytes(found) > EAGER_BYTES
        yield from stored_problems(path, found, size, inflate=not is_later)


def text_problems(objects: Objects) -> Iterator[Problem]:
    """Yield the problems of names, texts and references in a file whose structure is valid.

    All of them are read, as readers do: damaged ones may keep HDF5 busy forever.
    """
    size, used = objects.file_size, 0
    addresses = {address_of(found) for _, found in objects.datasets}
    for path, found in objects.found:
        names = _attribute_names(found)
        if not are_utf8([*names, *(found if isinstance(found, h5g.GroupID) else ())]):
            yield Problem("name-unique", path, "names in UTF-8", "other bytes")
            continue
        sizes = {name: attribute_bytes(h5a.open(found, name)) for name in names}
        large = [f"{path}@{name.decode()}" for name, bytes_ in sizes.items() if bytes_ >= ATTRIBUTE_BYTES]
        if large:
            yield Problem("attribute-size", large[0], f"fewer than {ATTRIBUTE_BYTES:,} bytes", "more")
        used += sum(sizes.values())
        if isinstance(found, h5d.DatasetID) and is_variable(found.get_type()):
            used += dataset_bytes(found, size)
        if used > size:
            # This is possible only if strings share their bytes.
            yield Problem("file-safe", path, f"texts of at most {size:,} bytes, as the file has, together", "more")
            return
        yield from _value_problems(path, found, addresses)


def defers_masks(file: h5py.File) -> bool:
    """Whether the masks of a file are so large that they are only inflated when they are read."""
    stored = file.get(MASK)
    return isinstance(stored, h5py.Dataset) and inflated_bytes(stored.id) > EAGER_BYTES


def inflated_total(file: h5py.File) -> int:
    """Return the inflated size of the datasets in the root group, in bytes."""
    return sum(stored.nbytes for stored in file.values() if isinstance(stored, h5py.Dataset))


def _walk(root: Any, objects: list[tuple[str, Any]]) -> Iterator[Problem]:
    """Collect all objects, following only hard links to objects that have not been seen yet."""
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
            if len(objects) >= OBJECTS:
                yield Problem("object-kind", "/", f"fewer than {OBJECTS:,} objects", "more")
                return
            if isinstance(found, h5g.GroupID):
                waiting.append((path, found))
            elif not isinstance(found, h5d.DatasetID):
                yield Problem("object-kind", path, "a dataset or a group", "a named type")


def _along(root: Any, path: str, objects: list[tuple[str, Any]]) -> Iterator[Problem]:
    """Collect the objects on a path, as far as it exists, following only hard links."""
    found, place = root, ""
    for name in path.split("/"):
        if not isinstance(found, h5g.GroupID) or name.encode() not in list(found):
            return
        place = f"{place}/{name}"
        if found.links.get_info(name.encode()).type != h5l.TYPE_HARD:
            yield Problem("link-hard", place, "a hard link", "a link to another name or file")
            return
        found = h5o.open(found, name.encode())
        objects.append((place, found))


def _attribute_names(owner: Any) -> list[bytes]:
    names: list[bytes] = []
    h5a.iterate(owner, names.append)
    return names


def _attribute_problems(path: str, owner: Any) -> Iterator[Problem]:
    count = h5a.get_num_attrs(owner)
    if count >= ATTRIBUTES:
        yield Problem("attribute-size", path, f"fewer than {ATTRIBUTES:,} attributes", f"{count:,}")
        return
    for index in range(count):
        attribute = h5a.open(owner, index=index)
        where, kind = f"{path}@{attribute.name.decode(errors='replace')}", attribute.get_type()
        size = math.prod(attribute.shape or ()) * _item_bytes(kind)
        if size >= ATTRIBUTE_BYTES:
            yield Problem("attribute-size", where, f"fewer than {ATTRIBUTE_BYTES:,} bytes", f"{size:,}")
        if not (_is_plain(kind) or _attaches(attribute, owner)):
            yield Problem("attribute-kind", where, "a number or a string", _name_of(kind))
        elif attribute.name in _OF_SCALES and _is_plain(kind):
            yield Problem("dimension-scale", where, "references to dimension scales", _name_of(kind))


def _attaches(attribute: Any, owner: Any) -> bool:
    """Whether HDF5 writes this attribute to attach dimension scales."""
    kind = attribute.get_type()
    if attribute.name == _DIMENSION_LIST:
        is_list = isinstance(kind, h5t.TypeVlenID) and kind.get_super().equal(h5t.STD_REF_OBJ)
        return is_list and isinstance(owner, h5d.DatasetID) and attribute.shape == (owner.rank,)
    if attribute.name == _REFERENCE_LIST and isinstance(kind, h5t.TypeCompoundID) and kind.get_nmembers() == 2:
        first, second = kind.get_member_type(0), kind.get_member_type(1)
        return bool(first.equal(h5t.STD_REF_OBJ)) and isinstance(second, h5t.TypeIntegerID) and kind.get_size() <= 24
    return False


def _value_problems(path: str, owner: Any, datasets: set[int]) -> Iterator[Problem]:
    """Read the attributes of an object as readers do, and yield their problems."""
    attributes = h5py.AttributeManager(_Owner(owner))
    for name in attributes:
        where, value = f"{path}@{name}", attributes[name]
        if name.encode() == _REFERENCE_LIST:
            # HDF5 keeps this for itself; it may name deleted datasets.
            continue
        if name.encode() == _DIMENSION_LIST:
            if not all(_leads_to(reference, owner, datasets) for references in value for reference in references):
                yield Problem("dimension-scale", where, "references to datasets of this file", "another reference")
        elif not is_utf8(value):
            yield Problem("attribute-kind", where, "text in UTF-8", "other bytes")


class _Owner:
    """The interface that h5py needs from an object to read its attributes."""

    def __init__(self, identifier: Any) -> None:
        self.id = identifier


def _leads_to(reference: Any, owner: Any, datasets: set[int]) -> bool:
    try:
        found = h5r.dereference(reference, owner)
    except (ValueError, RuntimeError, OSError, KeyError):
        return False
    return isinstance(found, h5d.DatasetID) and address_of(found) in datasets


def address_of(found: Any) -> int:
    """Return a unique address of an object; HDF5 would search the whole file for its name."""
    return int(h5o.get_info(found).addr)


def _dataset_problems(path: str, dataset: Any, entry_bytes: int, *, opaque: bool) -> Iterator[Problem]:
    properties = dataset.get_create_plist()
    layout = properties.get_layout()
    if layout == h5d.VIRTUAL or properties.get_external_count():
        found = "a virtual dataset" if layout == h5d.VIRTUAL else "external storage"
        yield Problem("storage-inside", path, "data in the file", found)
    elif not _is_plain(dataset.get_type()) and not (opaque and isinstance(dataset.get_type(), h5t.TypeOpaqueID)):
        yield Problem("type-plain", path, "integers, floats or strings", _name_of(dataset.get_type()))
    elif dataset.shape is None:
        yield Problem("variable-dims", path, "values, or a length", "neither")
    elif is_unwritten_dimension(path, dataset):
        # Only its length is used.
        return
    elif layout == h5d.CHUNKED:
        yield from _chunked_problems(path, dataset, properties, entry_bytes)
    else:
        yield from _contiguous_problems(path, dataset, entry_bytes)


def is_unwritten_dimension(path: str, dataset: Any) -> bool:
    """Whether a dataset is a dimension without values; no variable is."""
    name = path.rpartition("/")[2]
    is_variable_here = path == f"/{name}" and (name in BY_NAME or name.startswith((METRIC_PREFIX, QUANTITY_PREFIX)))
    if is_variable_here or dataset.rank != 1 or isinstance(dataset.get_type(), h5t.TypeStringID):
        return False
    return _stored_bytes(dataset) == 0 and (text_of(dataset, b"NAME") or "").startswith(BARE_DIMENSION)


def text_of(dataset: Any, name: bytes) -> str | None:
    """Return an attribute that is one text of fixed length, as HDF5 marks dimension scales; None for any other."""
    if not h5a.exists(dataset, name):
        return None
    attribute = h5a.open(dataset, name)
    kind = attribute.get_type()
    if not isinstance(kind, h5t.TypeStringID) or kind.is_variable_str() or attribute.shape != ():
        return None
    return bytes(h5py.AttributeManager(_Owner(dataset))[name.decode()]).decode(errors="replace")


def _stored_bytes(dataset: Any) -> int:
    is_chunked = dataset.get_create_plist().get_layout() == h5d.CHUNKED
    return int(dataset.get_num_chunks() if is_chunked else dataset.get_storage_size())


def _contiguous_problems(path: str, dataset: Any, entry_bytes: int) -> Iterator[Problem]:
    declared = math.prod(dataset.shape) * _item_bytes(dataset.get_type())
    stored = dataset.get_storage_size()
    if stored == 0 and h5a.exists(dataset, b"CLASS"):
        expected = f"a scale with values, or with the NAME {BARE_DIMENSION}…"
        yield Problem("dimension-scale", path, expected, "neither")
    elif declared > entry_bytes:
        yield Problem("size-limit", path, f"at most {entry_bytes:,} bytes", f"{declared:,}")
    elif stored != declared:
        yield Problem("chunk-count", path, f"{declared:,} bytes", f"{stored:,}")


def _chunked_problems(path: str, dataset: Any, properties: Any, entry_bytes: int) -> Iterator[Problem]:
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


def _is_chunked(path: str, dataset: Any) -> bool:
    is_chunked = dataset.get_create_plist().get_layout() == h5d.CHUNKED
    return is_chunked and not is_unwritten_dimension(path, dataset)


def _is_plain(kind: Any) -> bool:
    """Whether a type is a string, an integer that uses all of its bits, or a float of IEEE 754."""
    if isinstance(kind, h5t.TypeStringID):
        return True
    if not isinstance(kind, h5t.TypeIntegerID | h5t.TypeFloatID):
        return False
    return kind.get_size() in (1, 2, 4, 8) and any(kind.equal(standard) for standard in _STANDARD)


def _item_bytes(kind: Any) -> int:
    """Return the stored size of one value, in bytes; a string of variable length is stored elsewhere."""
    return _STRING_REFERENCE_BYTES if isinstance(kind, h5t.TypeStringID) and kind.is_variable_str() else kind.get_size()


def _name_of(kind: Any) -> str:
    return type(kind).__name__.removeprefix("Type").removesuffix("ID").lower()
