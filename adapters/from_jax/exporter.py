"""Exports flax.nnx modules, and JAX functions with their parameters, as programs."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from regime_proto.adapters.from_jax.functions import program_of_function, require_taken
from regime_proto.checkpoints.param_trees import nested, tree_payload
from regime_proto.checkpoints.payload import state_of
from regime_proto.program.probe import Probe
from regime_proto.program.program import Program, Tensor
from regime_proto.schema.errors import RegimeError
from regime_proto.schema.types import Array, read_only

_PARAMS = "params"

Trees = tuple[Any, Any]
"""The tree of trained tensors, and the tree of all others."""
LeafPath = tuple[str, ...]
"""Path of a leaf in the trees; it begins with the number of the tree."""


def export_module(module: nnx.Module, probe: Probe) -> Program:
    """Export a flax.nnx module in evaluation mode; the module stays unchanged.

    Variables of type `nnx.Param` count as trained, running statistics do not. The states of random number generators
    become constants.

    Raises
    ------
    RegimeError
        The module fails on the probe, has no trainable parameter, or cannot be exported.
    """
    evaluated = nnx.clone(module)
    evaluated.eval()
    graph, parameters, rest = nnx.split(evaluated, nnx.Param, ...)
    inputs = _inputs(type(module).__call__, probe)

    def call(states: Sequence[Any], arrays: Mapping[str, Any]) -> Any:
        return _called(nnx.merge(graph, *states), (), arrays, probe)

    return _export(call, (parameters, rest), inputs, type(module).__name__, framework={"flax": version("flax")})


def export_pair(function: Callable[..., Any], parameters: Any, probe: Probe) -> Program:
    """Export a function of parameters and inputs.

    If the parameters have a key ``params``, as those from ``init`` of flax.linen, its content counts as trained. In
    other nested dicts and lists, everything of a floating-point type does.

    Raises
    ------
    RegimeError
        The function fails on the probe, has no trainable parameter, or cannot be exported.
    """
    where = getattr(function, "__name__", type(function).__name__)
    inputs = _inputs(function, probe)
    collections = _is_collections(parameters)

    def call(given: Sequence[Any], arrays: Mapping[str, Any]) -> Any:
        whole = {**given[0], **given[1]} if collections else given[0]
        return _called(function, (whole,), arrays, probe)

    try:
        return _export(
            call, split_parameters(parameters), inputs, where, above=int(collections and len(parameters) > 1)
        )
    except RegimeError as error:
        if collections or where != "apply":
            raise
        raise RegimeError(f"{error}; flax.linen expects the dict that init returns, {{'params': …}}") from None


def split_parameters(parameters: Any) -> Trees:
    """Return the parameters of a pair as two trees."""
    if not _is_collections(parameters):
        return parameters, ()
    return {_PARAMS: parameters[_PARAMS]}, {name: tree for name, tree in parameters.items() if name != _PARAMS}


def _is_collections(parameters: Any) -> bool:
    return isinstance(parameters, Mapping) and _PARAMS in parameters


def leaves_of(trees: Trees) -> list[tuple[LeafPath, Any]]:
    """Return the leaves of the trees with their paths, in the order in which JAX flattens them."""
    found = jax.tree_util.tree_flatten_with_path(trees)[0]
    return [(tuple(str(_key(entry)) for entry in path), leaf) for path, leaf in found]


def arrays_of(leaves: Sequence[tuple[LeafPath, Any]]) -> dict[LeafPath, Array]:
    """Return leaves on the host in the types in which JAX computes, without keys of random number generators."""
    return {path: _array(leaf) for path, leaf in leaves if not _is_random_key(leaf)}


def _export(
    call: Callable[[Sequence[Any], Mapping[str, Any]], Any],
    trees: Trees,
    probe: Mapping[str, Array],
    where: str,
    *,
    above: int = 0,
    framework: Mapping[str, str] | None = None,
) -> Program:
    """Export a function of two trees, of trained tensors and of others, and of the probe.

    `above` is the number of keys of a name that lead to its module.
    """
    found, structure = leaves_of(trees), jax.tree.structure(trees)
    arrays = arrays_of(found)
    names = names_of(arrays, where)
    weights = {name: arrays[path] for path, name in names.items()}

    def function(given: Mapping[str, Any], inputs: Mapping[str, Any]) -> Any:
        leaves = [given[names[path]] if path in names else leaf for path, leaf in found]
        return call(jax.tree.unflatten(structure, leaves), inputs)

    tensors = [
        Tensor(name, arrays[path].shape, path[0] == "0" and jnp.issubdtype(arrays[path].dtype, jnp.floating))
        for path, name in names.items()
    ]
    if not any(tensor.trainable for tensor in tensors):
        raise RegimeError(f"{where}: no parameter has a floating-point type, so there is nothing to measure")
    return program_of_function(
        function,
        tensors=tensors,
        weights=weights,
        probe=probe,
        modules={name: ".".join(name.split(".")[above:-1]) or name for name in weights},
        framework=framework or {},
        where=where,
    )


def names_of(arrays: Mapping[LeafPath, Array], where: str) -> dict[LeafPath, str]:
    """Return the names of tensors by path, as in a checkpoint with the same trees."""
    # A state takes read-only arrays as they are, and views of all others: these are known by their identity below.
    arrays = {path: read_only(array) for path, array in arrays.items()}
    tree = nested((path[1:], array) for path, array in arrays.items())
    names = {id(array): name for name, array in state_of(tree_payload(tree), where).tensors.items()}
    unnamed = [path for path, array in arrays.items() if id(array) not in names and array.dtype.kind in "fV"]
    if unnamed:
        raise RegimeError(
            f"{where}: {'.'.join(unnamed[0][1:])} is named like an optimizer state or an average, which are not "
            "weights of the model; rename it, or leave it out"
        )
    return {path: names[id(array)] for path, array in arrays.items() if id(array) in names}


def _inputs(function: Callable[..., Any], probe: Probe) -> dict[str, Array]:
    """Return the probe by the names of the function's arguments, the first of which receives the parameters."""
    arguments = list(inspect.signature(function).parameters.values())[1:]
    if probe.names is not None and any(argument.kind == argument.VAR_KEYWORD for argument in arguments):
        names = list(probe.names)
    elif any(argument.kind == argument.VAR_POSITIONAL for argument in arguments):
        names = [f"input_{index}" for index in range(len(probe.arrays))]
    else:
        names = [argument.name for argument in arguments if argument.kind != argument.VAR_KEYWORD]
    inputs = probe.bind(names)
    require_taken(inputs, probe)
    return inputs


def _called(function: Callable[..., Any], first: tuple[Any, ...], arrays: Mapping[str, Any], probe: Probe) -> Any:
    return function(*first, *arrays.values()) if probe.names is None else function(*first, **arrays)


def _key(entry: Any) -> Any:
    """Return the key, index or attribute of one step of a path."""
    return next(getattr(entry, name) for name in ("key", "idx", "name") if hasattr(entry, name))


def _array(leaf: Any) -> Array:
    array = np.asarray(leaf)
    return array.astype(jax.dtypes.canonicalize_dtype(array.dtype))


def _is_random_key(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
