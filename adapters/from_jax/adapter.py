"""Exports flax.nnx modules, and JAX functions with their parameters."""

import sys
from collections.abc import Callable, Mapping
from typing import Any, TypeGuard

from regime_proto.adapters.needed import needed
from regime_proto.engine.live_model import Engine, LiveModel
from regime_proto.program.probe import Probe
from regime_proto.program.program import Program
from regime_proto.schema.errors import RegimeError

MODELS = "a flax.nnx module, a pair (function, parameters)"
_INSTALL = 'pip install "regime-proto[jax]"'


def accepts(model: object) -> bool:
    """Whether `model` is a flax.nnx module, a pair of a function and its parameters, or close to one of these."""
    return _is_module(model) or _is_pair(model) or _instead_of(model) is not None


def export(model: object, probe: Probe) -> Program:
    """Export a module or a pair; see `exporter`."""
    _require_model(model)
    with needed("a JAX model", _INSTALL):
        from regime_proto.adapters.from_jax import exporter
    return exporter.export_pair(*model, probe) if _is_pair(model) else exporter.export_module(model, probe)


def leads(model: object) -> bool:
    """Whether this process is the first of those that train a model together."""
    return bool(_live().leads(model))


def follow(model: object, probe: Probe | None) -> LiveModel | Engine:
    """Follow a module or a pair during training; see `follower`."""
    _require_model(model)
    followed: LiveModel | Engine = _live().follow(model, probe)
    return followed


def draw(model: object, loader: object, samples: int, seed: int) -> Probe:
    """Draw a probe from a data loader; see `live.draw_probe`."""
    _require_model(model)
    drawn: Probe = _live().draw(model, loader, samples, seed)
    return drawn


def _live() -> Any:
    with needed("to record a JAX model", _INSTALL):
        from regime_proto.adapters.from_jax import follower
    return follower


def _require_model(model: object) -> None:
    instead = _instead_of(model)
    if instead is not None:
        raise RegimeError(f"model of type {type(model).__name__}: {instead}")


def _is_module(model: object) -> bool:
    nnx = sys.modules.get("flax.nnx")
    return nnx is not None and isinstance(model, nnx.Module)


def _instead_of(model: object) -> str | None:
    """Return advice for a model that is nearly valid; None for any other."""
    linen = sys.modules.get("flax.linen")
    if linen is not None and isinstance(model, linen.Module):
        return "a flax.linen module holds no parameters; return the pair (net.apply, net.init(key, x))"
    if isinstance(model, tuple) and not _is_pair(model) and _is_pair(model[::-1]):
        return "the function must come first in the pair (function, parameters)"
    return None


def _is_pair(model: object) -> TypeGuard[tuple[Callable[..., Any], Any]]:
    return (
        isinstance(model, tuple)
        and len(model) == 2
        and callable(model[0])
        and isinstance(model[1], Mapping | list | tuple)
    )
