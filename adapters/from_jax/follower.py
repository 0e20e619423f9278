"""Records flax.nnx modules, and pairs of a function and its parameters, during training."""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from flax import linen, nnx

from regime_proto.adapters.from_jax import live_arrays
from regime_proto.adapters.from_jax.exporter import (
    LeafPath,
    Trees,
    arrays_of,
    export_module,
    export_pair,
    leaves_of,
    names_of,
    split_parameters,
)
from regime_proto.adapters.live import draw_probe
from regime_proto.adapters.live.idle import Idle
from regime_proto.engine.live_model import Engine, LiveModel
from regime_proto.program.probe import Probe
from regime_proto.program.program import Program
from regime_proto.schema.errors import RegimeError
from regime_proto.schema.types import Array
from regime_proto.schema.words import few

_TRAINED = "0"
_POSITIONAL = "input_0"


def leads(model: object) -> bool:
    """Whether this is the recording process."""
    return live_arrays.leads()


def follow(model: Any, probe: Probe | None) -> LiveModel | Engine:
    """Return the live model or engine of a module or a pair for a recorder; see `protocols.Following`."""
    if probe is None:
        return Idle()
    with draw_probe.undisturbed():
        is_module = isinstance(model, nnx.Module)
        program = export_module(model, probe) if is_module else export_pair(model[0], model[1], probe)
    return _live(program, _Module(model) if is_module else _Pair(model[1]), probe, takes_params=not is_module)


def draw(model: Any, loader: object, samples: int, seed: int) -> Probe:
    """Draw a probe from a data loader without changing random states; see `live.draw_probe`."""
    takes = _inputs_of(model)
    with draw_probe.undisturbed():
        drawn = live_arrays.as_taken(draw_probe.draw(takes, loader, samples, seed))
    # The arguments of the function have no names.
    return Probe(drawn.arrays, None, drawn.where) if takes == [_POSITIONAL] else drawn


class _Module:
    """The current weights of an nnx module, which holds them itself."""

    def __init__(self, module: nnx.Module) -> None:
        self._module = module
        self.where = type(module).__name__

    def __call__(self, _: object) -> Trees:
        parameters, rest = nnx.split(self._module, nnx.Param, ...)[1:]
        return parameters, rest


class _Pair:
    """The latest parameters passed for a pair; the initial ones only until then."""

    where = "params"

    def __init__(self, parameters: Any) -> None:
        self._begin = parameters

    def __call__(self, parameters: object) -> Trees:
        if parameters is None:
            return split_parameters(self._begin)
        self._begin = None
        return split_parameters(parameters)


def _live(program: Program, trees: _Module | _Pair, probe: Probe, *, takes_params: bool) -> LiveModel:
    arrays = arrays_of(leaves_of(trees(None)))
    paths = {name: path for path, name in names_of(arrays, trees.where).items()}
    expected = {name: (arrays[path].dtype, arrays[path].shape) for name, path in paths.items()}
    trained = {path for path in arrays if path[0] == _TRAINED}
    needed = {tensor.name for tensor in program.trainable} | set(program.weight_inputs)
    del arrays

    def tensors(state: object) -> Mapping[str, Array]:
        leaves = dict(leaves_of(trees(state)))
        _require_paths(leaves, {name: paths[name] for name in needed}, trained, trees.where)
        found = live_arrays.on_host({name: leaves[paths[name]] for name in sorted(needed)}, trees.where)
        for name, array in found.items():
            if (array.dtype, array.shape) != expected[name]:
                raise RegimeError(
                    f"{trees.where}: {name} is {_described(array.dtype, array.shape)}; expected "
                    f"{_described(*expected[name])}, as when the recorder was created"
                )
        return found

    return LiveModel(
        "jax, live",
        program,
        probe.complete(program.probe_inputs),
        tensors,
        takes_params=takes_params,
        wait=lambda state: live_arrays.wait_for(leaf for _, leaf in leaves_of(trees(state))),
    )


def _require_paths(
    leaves: Mapping[LeafPath, Any], needed: Mapping[str, LeafPath], trained: set[LeafPath], where: str
) -> None:
    """Raise an error unless all needed tensors exist, and no new ones are trained."""
    missing = sorted(name for name, path in needed.items() if path not in leaves)
    if missing:
        raise RegimeError(
            f"{where}: lacks {few(missing)}, which existed when the recorder was created; pass the whole tree"
        )
    added = sorted(".".join(path[1:]) for path in leaves if path[0] == _TRAINED and path not in trained)
    if added:
        raise RegimeError(
            f"{where}: has {few(added)}, which did not exist when the recorder was created; create the recorder with "
            "the complete model"
        )


def _described(dtype: Any, shape: tuple[int, ...]) -> str:
    return f"{dtype}{list(shape)}"


def _inputs_of(model: Any) -> Callable[..., Any] | list[str]:
    """Return a function that accepts only the inputs, or names for them."""
    if isinstance(model, nnx.Module):
        return functools.partial(type(model).__call__, model)
    function = model[0]
    owner = getattr(function, "__self__", None)
    if isinstance(owner, linen.Module) and function.__name__ == "apply":
        # It forwards its arguments.
        return functools.partial(type(owner).__call__, owner)
    inputs = list(inspect.signature(function).parameters.values())[1:]
    if any(argument.kind == argument.VAR_POSITIONAL for argument in inputs):
        return [_POSITIONAL]
    return functools.partial(function, None)
