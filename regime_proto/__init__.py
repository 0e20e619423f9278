"""Measures when activation patterns settle, and when weights settle, while a neural network is trained."""

import importlib
from typing import TYPE_CHECKING, Any

from regime_proto import moved

if TYPE_CHECKING:
    from regime_proto import synthetic
    from regime_proto.analyzer.analyze import analyze
    from regime_proto.analyzer.result import Result
    from regime_proto.comparison.compare import Comparison, compare
    from regime_proto.conversion.linearize import linearize
    from regime_proto.conversion.many import Outcome, convert_many
    from regime_proto.conversion.run import convert
    from regime_proto.integrity.check import check
    from regime_proto.recording.observations import Status
    from regime_proto.recording.record import record
    from regime_proto.recording.recorder import Recorder
    from regime_proto.recording.settling import Settling
    from regime_proto.report.print.runs import figure
    from regime_proto.runtime.progress import progress_bar
    from regime_proto.schema.dataset import open_trajectory
    from regime_proto.schema.errors import RegimeError, RegimeWarning, TrajectoryError

__version__ = "0.2.0"

__all__ = [
    "Comparison",
    "Outcome",
    "Recorder",
    "RegimeError",
    "RegimeWarning",
    "Result",
    "Settling",
    "Status",
    "TrajectoryError",
    "analyze",
    "check",
    "compare",
    "convert",
    "convert_many",
    "figure",
    "linearize",
    "open_trajectory",
    "progress_bar",
    "record",
    "synthetic",
]

# Lazy imports: this is the parent package of the schema, and reading a file must not load xarray, onnx or a framework.
_HOMES = {
    "Comparison": "regime_proto.comparison.compare",
    "Outcome": "regime_proto.conversion.many",
    "Recorder": "regime_proto.recording.recorder",
    "RegimeError": "regime_proto.schema.errors",
    "RegimeWarning": "regime_proto.schema.errors",
    "Result": "regime_proto.analyzer.result",
    "Settling": "regime_proto.recording.settling",
    "Status": "regime_proto.recording.observations",
    "TrajectoryError": "regime_proto.schema.errors",
    "analyze": "regime_proto.analyzer.analyze",
    "check": "regime_proto.integrity.check",
    "compare": "regime_proto.comparison.compare",
    "convert": "regime_proto.conversion.run",
    "convert_many": "regime_proto.conversion.many",
    "figure": "regime_proto.report.print.runs",
    "linearize": "regime_proto.conversion.linearize",
    "open_trajectory": "regime_proto.schema.dataset",
    "progress_bar": "regime_proto.runtime.progress",
    "record": "regime_proto.recording.record",
}

# Import paths of version 0.1.
moved.install()


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name == "synthetic":
        return importlib.import_module("regime_proto.synthetic")
    raise AttributeError(f"module 'regime_proto' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
