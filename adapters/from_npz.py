"""Reads ``.npz`` checkpoints, as `numpy.savez` writes them: one array for each tensor. Needs no framework."""

import contextlib
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

from regime_proto.adapters.first_bytes import first_entry
from regime_proto.checkpoints.archives import read_arrays
from regime_proto.checkpoints.opening import open_file
from regime_proto.checkpoints.param_trees import nested, tree_payload
from regime_proto.checkpoints.payload import TOP, Incomplete, Label, NotACheckpoint, Payload, label_of, numbers_in
from regime_proto.schema.errors import RegimeError
from regime_proto.schema.types import Array

SUFFIXES = (".npz",)


def sniff(start: bytes) -> bool:
    """Whether a file is a zip archive whose first entry is an array."""
    return (first_entry(start) or "").endswith(".npy")


def recognise(path: Path) -> str | None:
    """Recognise a zip archive whose first entry is an array; an empty file counts as a damaged checkpoint."""
    if not path.is_file():
        return None
    with open_file(path) as file:
        start = file.read(256)
    if not start:
        return "an empty file"
    return "a zip archive of arrays, as numpy.savez writes" if start[:4] == b"PK\3\4" and b".npy" in start else None


def peek(path: Path) -> Label:
    """Return step, epoch and metrics from the arrays that are single numbers."""
    return label_of(_payload(_arrays(path, single=True)).facts)


def read(path: Path) -> Payload:
    """Read a checkpoint. Single numbers named like steps, epochs or metrics are not tensors.

    Names such as ``params/Dense_0/kernel`` are paths in a tree, as flax.traverse_util writes them.
    """
    payload = _payload(_arrays(path, single=False))
    if not payload.groups[TOP]:
        raise NotACheckpoint("it holds only single numbers, no arrays")
    return payload


def _arrays(path: Path, *, single: bool) -> dict[str, Array]:
    """Return the arrays of a file; with `single` only single numbers, and an empty array for each of the others."""
    try:
        return read_arrays(path, single=single)
    except (EOFError, zipfile.BadZipFile) as error:
        raise Incomplete(f"{path}: damaged or incomplete ({error}); save it again or remove it") from None
    except (OSError, ValueError, KeyError, NotImplementedError, zlib.error) as error:
        raise RegimeError(f"{path}: damaged, or holds more than arrays of numbers ({error}); save it again") from None


def _payload(arrays: Mapping[str, Array]) -> Payload:
    with_axes = [name for name, array in arrays.items() if array.ndim]
    if with_axes and all("/" in name for name in with_axes):
        # If one name is a prefix of another, the names are not paths.
        with contextlib.suppress(ValueError):
            return tree_payload(nested((name.split("/"), array) for name, array in arrays.items()))
    facts = {name: array[()] for name, array in arrays.items() if array.ndim == 0 and "." not in name}
    return Payload({TOP: {name: array for name, array in arrays.items() if name not in facts}}, numbers_in(facts))
