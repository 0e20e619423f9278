"""Reads what Keras saves, and exports its models; only for the latter Keras is needed."""

import sys
from typing import Any

from regime_proto.adapters.from_keras.reading import SUFFIXES, peek, read, recognise, sniff
from regime_proto.adapters.needed import needed
from regime_proto.engine.live_model import Engine, LiveModel
from regime_proto.program.probe import Probe
from regime_proto.program.program import Program
from regime_proto.schema.errors import RegimeError

__all__ = ["SUFFIXES", "peek", "read", "recognise", "sniff"]

MODELS = "a Keras model"
# A program is made through JAX; what Keras computes on is decided when it is imported.
ENVIRONMENT = {"KERAS_BACKEND": "jax"}
REFINES = ("torch",)
_INSTALL = 'pip install "regime-proto[keras]"'


def accepts(model: object) -> bool:
    """Whether `model` is one of Keras."""
    keras = sys.modules.get("keras")
    return keras is not None and isinstance(model, keras.Model)


def export(model: object, probe: Probe) -> Program:
    """Export a model of Keras; see `exporter.export`."""
    try:
        from regime_proto.adapters.from_keras import exporter
    except ImportError as error:
        raise RegimeError(f"a model of Keras needs {error.name} to become a program: {_INSTALL}") from None
    return exporter.export(model, probe)


def leads(model: object) -> bool:
    """Whether this is the first of the processes that train a model together."""
    return bool(_live().leads(model))


def follow(model: object, probe: Probe | None) -> LiveModel | Engine:
    """Follow a model of Keras in training; see `follower`."""
    followed: LiveModel | Engine = _live().follow(model, probe)
    return followed


def draw(model: object, loader: object, samples: int, seed: int) -> Probe:
    """Draw a probe from a data loader; see `live.draw_probe`."""
    drawn: Probe = _live().draw(model, loader, samples, seed)
    return drawn


def _live() -> Any:
    with needed("to follow a model of Keras", _INSTALL):
        from regime_proto.adapters.from_keras import follower
    return follower
