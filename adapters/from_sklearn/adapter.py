"""Reads scikit-learn's neural networks from skops files, and exports such estimators."""

import sys
from typing import Any

from regime_proto.adapters.from_sklearn.reading import (
    KINDS,
    SUFFIXES,
    WEIGHTS,
    instead_of,
    peek,
    read,
    recognise,
    sniff,
)
from regime_proto.program.probe import Probe
from regime_proto.program.program import Program
from regime_proto.schema.errors import RegimeError

__all__ = ["SUFFIXES", "peek", "read", "recognise", "sniff"]

REFINES = ("npz",)
MODELS = "a scikit-learn neural network"
_INSTALL = 'pip install "regime-proto[sklearn]"'


def accepts(model: object) -> bool:
    """Whether `model` is a scikit-learn estimator, even one that cannot be exported."""
    base = sys.modules.get("sklearn.base")
    return base is not None and isinstance(model, base.BaseEstimator)


def export(model: Any, probe: Probe) -> Program:
    """Export a fitted MLPClassifier or MLPRegressor; see `exporter`.

    Raises
    ------
    RegimeError
        It is a different estimator, was never fitted or does not match the probe, or skl2onnx is missing.
    """
    kind = type(model).__name__
    networks = sys.modules.get("sklearn.neural_network")
    if networks is None or not isinstance(model, tuple(getattr(networks, name) for name in KINDS)):
        raise RegimeError(f"model of type {kind}: {instead_of(kind)}")
    if not all(hasattr(model, name) for name in WEIGHTS):
        raise RegimeError(
            f"model of type {kind}: it has no weights yet; fit it once, for example with partial_fit on a few samples "
            f"{'and classes=… ' if hasattr(model, 'predict_proba') else ''}in the factory, since only its shapes "
            "matter"
        )
    try:
        from regime_proto.adapters.from_sklearn import exporter
    except ImportError:
        raise RegimeError(f"model of type {kind}: skl2onnx is needed to export it; {_INSTALL}") from None
    return exporter.export(model, probe)
