"""Reads files of Keras, and exports its models; only the export needs Keras."""

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
# The export uses JAX, and Keras chooses its backend when it is imported.
ENVIRONMENT = {"KERAS_BACKEND": "jax"}
REFINES = ("torch",)
_INSTALL = 'pip install "regime-proto[keras]"'


def accepts(model: object) -> bool:
    """Whether `model` is a Keras model."""
    keras = sys.modules.get("keras")
    return keras is not None and isinstance(model, keras.Model)


def export(model: object, probe: Probe) -> Program:
    """Export a Keras model; see `exporter.export`."""
    try:
        from regime_proto.adapters.from_keras import exporter
    except ImportError as error:
        raise RegimeError(f"exporting a Keras model needs {error.name}; {_INSTALL}") from None
    return exporter.export(model, probe)


def leads(model: object) -> bool:
    """Whether this process is the first of those that train a model together."""
    return bool(_live().leads(model))


def follow(model: object, probe: Probe | None) -> LiveModel | Engine:
    """Follow a Keras model during training; see `follower`."""
    followed: LiveModel | Engine = _live().follow(model, probe)
    return followed


def draw(model: object, loader: object, samples: int, seed: int) -> Probe:
    """Draw a probe from a data loader; see `live.draw_probe`."""
    drawn: Probe = _live().draw(model, loader, samples, seed)
    return drawn


def _live() -> Any:
    with needed("to record a Keras model", _INSTALL):
        from regime_proto.adapters.from_keras import follower
    return follower
