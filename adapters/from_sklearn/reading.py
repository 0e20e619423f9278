"""Reads scikit-learn's neural networks from the files of skops (``.skops``).

A file is read as data: only its weights and loss are used, and nothing is imported.
"""

import contextlib
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from regime_proto.adapters.first_bytes import first_entry
from regime_proto.checkpoints.archives import open_zip, read_array, read_entry
from regime_proto.checkpoints.limits import DESCRIPTION_BYTES, hold_inflation
from regime_proto.checkpoints.opening import open_file, parse_json
from regime_proto.checkpoints.payload import TOP, Incomplete, Label, NotACheckpoint, Payload, label_of, numbers_in
from regime_proto.schema.errors import RegimeError
from regime_proto.schema.types import Array

SUFFIXES = (".skops",)
WEIGHTS = ("coefs_", "intercepts_")
"""The attributes that hold the weights, each a list with one array per layer."""

KINDS = ("MLPClassifier", "MLPRegressor")
_SCHEMA = "schema.json"
_CLASS = re.compile(rb'"__class__": "(\w{1,60})"')

_Node = Mapping[str, Any]


def sniff(start: bytes) -> bool:
    """Whether a file is a zip archive whose first entry is one of skops."""
    entry = first_entry(start) or ""
    return entry == _SCHEMA or entry.endswith(".npy")


def recognise(path: Path) -> str | None:
    """Recognise a zip archive with a schema.json; empty and truncated files count as damaged checkpoints."""
    if not path.is_file():
        return None
    with open_file(path) as file:
        start = file.read(4)
    if start not in (b"", b"PK\x03\x04"):
        return None
    try:
        with open_zip(path) as archive, archive.open(_SCHEMA) as schema:
            kind = _CLASS.search(schema.read(256))
    except KeyError:
        return None
    except Exception:
        return "a damaged or incomplete zip archive"
    inside = f" ({kind[1].decode()})" if kind else ""
    return f"a zip archive with schema.json, as skops.io.dump writes{inside}"


def peek(path: Path) -> Label:
    """Return the loss."""
    with _opened(path) as file:
        file.places()
        return label_of(file.facts())


def read(path: Path) -> Payload:
    """Read the weights of a network, named ``coefs_.0``, ``intercepts_.0``, ``coefs_.1`` and so on, and its loss."""
    with _opened(path) as file:
        tensors = {name: file.array(place, name) for name, place in file.places().items()}
        return Payload({TOP: tensors}, file.facts())


class _File:
    """An open skops file: a tree of nodes, and one entry of the archive for each array.

    Parameters
    ----------
    archive : zipfile.ZipFile
    path : Path
    """

    def __init__(self, archive: zipfile.ZipFile, path: Path) -> None:
        self._archive = archive
        self._path = path
        where = f"{path}: {_SCHEMA}"
        DESCRIPTION_BYTES.hold(where, archive.getinfo(_SCHEMA).file_size, "bytes of JSON")
        self._root: _Node = parse_json(read_entry(archive, _SCHEMA), where)
        self._attributes = self._network()

    def facts(self) -> dict[str, float]:
        """Return the loss; not the counters of an estimator, which restart with every fit."""
        node = self._attributes.get("loss_")
        return {} if node is None else numbers_in({"loss": self._number(self._found(node))})

    def places(self) -> dict[str, str]:
        """Return the entry of every tensor, layer by layer, after checking that all exist with a plausible size."""
        lists = {name: self._found(self._attributes[name])["content"] for name in WEIGHTS}
        layers = zip(*lists.values(), strict=True)
        places = {
            f"{name}.{layer}": str(self._found(node)["file"])
            for layer, nodes in enumerate(layers)
            for name, node in zip(lists, nodes, strict=True)
        }
        if len(set(places.values())) < len(places) or not places:
            raise ValueError(f"{len(places)} tensors in {len(set(places.values()))} entries")
        unpacked = sum(self._archive.getinfo(place).file_size for place in places.values())
        hold_inflation(self._path, unpacked, self._path.stat().st_size)
        return places

    def array(self, place: str, name: str) -> Array:
        """Return the array in an entry of the archive, read-only."""
        array = read_array(self._archive, place)
        dtype = array.dtype
        if dtype.kind != "f" or dtype.itemsize > 8:
            raise RegimeError(f"{self._path}: {name} holds {dtype}; expected float32 or float64; save it again")
        return array if dtype.isnative else array.astype(dtype.newbyteorder("="))

    def _network(self) -> _Node:
        """Return the attributes of the estimator, as nodes."""
        kind = self._root["__class__"]
        # Other objects may have any structure.
        with contextlib.suppress(KeyError, TypeError):
            attributes: _Node = self._root["content"]["content"]
            if all(name in attributes for name in WEIGHTS):
                return attributes
        if kind in KINDS:
            raise RegimeError(
                f"{self._path}: an {kind} without weights, which was saved before it was fitted; remove it"
            )
        raise NotACheckpoint(f"holds a {_printable(kind)}: {instead_of(kind)}")

    def _found(self, node: _Node) -> _Node:
        """Return a node, or the node to which it refers: some versions of skops write an object only once."""
        if node["__loader__"] != "CachedNode":
            return node
        return next(other for other in _nodes(self._root) if other.get("__id__") == node["__id__"])

    def _number(self, node: _Node) -> object:
        if node["__loader__"] == "JsonNode":
            return parse_json(str(node["content"]).encode(), self._path)
        array = self.array(str(node["file"]), "loss_")
        return array[()] if array.ndim == 0 else None


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[_File]:
    """Open a file, and report errors in one line."""
    try:
        with open_zip(path) as archive:
            yield _File(archive, path)
    except RegimeError:
        raise
    except (EOFError, zipfile.BadZipFile) as error:
        reason = _printable(error)
        raise Incomplete(f"{path}: damaged or incomplete ({reason}); save it again or remove it") from None
    except Exception as error:
        reason = f"{type(error).__name__}: {_printable(error)}"
        raise RegimeError(f"{path}: damaged, or not a skops file ({reason}); save it again or remove it") from None


def _nodes(root: object) -> Iterator[_Node]:
    """Yield every node that is written in full; nodes may be nested to any depth."""
    pending = [root]
    while pending:
        part = pending.pop()
        if isinstance(part, dict):
            if part.get("__loader__", "CachedNode") != "CachedNode":
                yield part
            pending += part.values()
        elif isinstance(part, list):
            pending += part


def instead_of(kind: object) -> str:
    """Return advice for a different estimator."""
    expected = f"expected an {' or '.join(KINDS)}"
    if kind == "Pipeline":
        return (
            f"{expected}; use its last step, pipeline[-1], with the inputs after the previous steps as the probe, "
            "pipeline[:-1].transform(X)"
        )
    return f"{expected}; if a wrapper contains one, use the network inside, such as search.best_estimator_"


def _printable(text: object) -> str:
    line = "".join(letter if letter.isprintable() else "?" for letter in " ".join(str(text).split()))
    return line[:200]
