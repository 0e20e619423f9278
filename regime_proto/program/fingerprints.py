"""Matches initializers of an exported graph to weights if the exporter's names do not identify them.

The model is exported with numbers in its weights that are unique to each tensor; the graph is then searched for them.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from regime_proto.program.program import ProgramError
from regime_proto.program.values import FLOATS
from regime_proto.runtime.ir import ir
from regime_proto.schema.types import Array
from regime_proto.schema.words import few

_SEED = 0


def fingerprints(shapes: Mapping[str, tuple[Sequence[int], np.dtype[Any]]]) -> dict[str, Array]:
    """Return an array of random numbers between −1 and 1 for each tensor, different for each tensor.

    Parameters
    ----------
    shapes : mapping of str to (shape, dtype)
        By the tensor's name.
    """
    random = np.random.default_rng(_SEED)
    arrays: dict[str, Array] = {}
    for place, (name, (shape, dtype)) in enumerate(shapes.items()):
        array = random.uniform(-1, 1, tuple(shape))
        # The first number is unique to the tensor, which may have only this one. No number is
        # round, unlike most constants.
        array.reshape(-1)[:1] = (place + 1 / np.pi) / len(shapes)
        arrays[name] = array.astype(dtype)
    return arrays


def found_in(model: ir.Model, arrays: Mapping[str, Array], where: str) -> dict[str, str]:
    """Return the initializers that hold the arrays, each with the array's name; axes of length 1 may differ.

    Parameters
    ----------
    model : ir.Model
        After `GatherInitializers`.
    arrays : mapping of str to array
        By the tensor's name; see `fingerprints`. They are compared in the initializer's type.
    where : str
        Named in errors.

    Raises
    ------
    ProgramError
        An array is in no initializer or in several, or two arrays are in one.
    """
    places = {name: _holders(model, array) for name, array in arrays.items()}
    missing = [name for name, holders in places.items() if not holders]
    if missing:
        raise ProgramError(
            f"{where}: {_quoted(missing)} not found in the exported graph: the exporter changed "
            "these weights or merged them with others, so they cannot be inputs; export the "
            "model to ONNX with a different tool and give that file"
        )
    found: dict[str, str] = {}
    for name, holders in places.items():
        if len(holders) > 1 or holders[0] in found:
            others = [found[holder] for holder in holders if holder in found]
            raise ProgramError(
                f"{where}: the exported graph does not distinguish weights: "
                f"{_quoted([name, *others])} in {_quoted(holders)}; export the model to ONNX with "
                "a different tool and give that file"
            )
        found[holders[0]] = name
    return found


def _holders(model: ir.Model, array: Array) -> list[str]:
    return [str(name) for name, value in model.graph.initializers.items() if _holds(value.const_value, array)]


def _holds(tensor: ir.TensorProtocol | None, array: Array) -> bool:
    if tensor is None or tensor.dtype not in FLOATS:
        return False
    if _without_ones(tuple(tensor.shape.numpy())) != _without_ones(array.shape):
        return False
    found = tensor.numpy().reshape(-1)
    return bool(np.array_equal(found, array.astype(found.dtype).reshape(-1)))


def _without_ones(shape: Sequence[int]) -> list[int]:
    return [length for length in shape if length != 1]


def _quoted(names: Iterable[str]) -> str:
    return few([*map(repr, names)])
