"""Finds the adapters, built in or third-party, through the entry-point group ``regime_proto.adapters``.

An adapter is a module. It may read checkpoints (`Reader`), export models (`Exporter`), or both; where a checkpoint
is a model too, it may make a program of one (`Describing`).
"""

import warnings
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Protocol, runtime_checkable

from regime_proto.engine.graph.program import Program
from regime_proto.engine.variants import Outline
from regime_proto.ordering import Label
from regime_proto.probe import Probe
from regime_proto.schema.errors import RegimeError, RegimeWarning
from regime_proto.source import State

GROUP = "regime_proto.adapters"


@runtime_checkable
class Reader(Protocol):
    """Reads one kind of checkpoint."""

    SUFFIXES: tuple[str, ...]

    def recognise(self, path: Path) -> bool:
        """Whether `path` is a checkpoint of this kind; cheap, and imports no framework."""

    def peek(self, path: Path) -> Label:
        """Read what a checkpoint says of itself, without its tensors.

        Raises
        ------
        NotACheckpoint
            The file belongs to the run, but holds no model weights.
        RegimeError
            The file is damaged or unsafe.
        """

    def read(self, path: Path) -> State:
        """Read a checkpoint.

        Raises
        ------
        RegimeError
            The file is damaged or unsafe, or holds no model weights.
        """


@runtime_checkable
class Exporter(Protocol):
    """Turns the models of one framework into programs."""

    def accepts(self, model: object) -> bool:
        """Whether `model` is one of this framework's; cheap, and imports no framework."""

    def export(self, model: object, probe: Probe) -> Program:
        """Export the forward graph in evaluation mode; `model` is left as it was.

        Raises
        ------
        RegimeError
            The model does not run on the probe, or cannot be exported.
        """


@runtime_checkable
class Describing(Protocol):
    """Makes a program of a checkpoint that holds its graph beside its weights."""

    def program_of(self, path: Path, probe: Probe) -> Program:
        """Return the forward graph in a checkpoint, whose weights are named as `Reader.read` names them.

        Raises
        ------
        RegimeError
            The file is damaged or unsafe, or its model does not run on the probe.
        """

    def outline(self, path: Path) -> Outline:
        """Return structure and tensors of a checkpoint, to tell whether all have one graph.

        Raises
        ------
        RegimeError
            The file is damaged or unsafe.
        """


@cache
def adapters() -> dict[str, object]:
    """Return the adapter modules by name. One that cannot be imported is left out, with a warning."""
    found: dict[str, object] = {}
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        try:
            found[entry.name] = entry.load()
        except Exception as error:
            warnings.warn(
                f"adapter {entry.name!r} ({entry.value}) is left out: {type(error).__name__}: {error}",
                RegimeWarning,
                stacklevel=2,
            )
    return found


def readers() -> dict[str, Reader]:
    """Return the adapters that read checkpoints."""
    return {name: module for name, module in adapters().items() if isinstance(module, Reader)}


def describing(name: str) -> Describing | None:
    """Return the adapter of that name if its checkpoints hold their graphs."""
    module = adapters().get(name)
    return module if isinstance(module, Describing) else None


def exporter_for(model: object) -> Exporter:
    """Return the adapter that exports `model`.

    Raises
    ------
    RegimeError
        No adapter knows its type.
    """
    for module in adapters().values():
        if isinstance(module, Exporter) and module.accepts(model):
            return module
    kind = f"{type(model).__module__}.{type(model).__qualname__}"
    raise RegimeError(f"model of type {kind}: no adapter exports it; expected a torch.nn.Module or an ONNX model")


def is_model(candidate: object) -> bool:
    """Whether some adapter exports `candidate`."""
    return any(isinstance(module, Exporter) and module.accepts(candidate) for module in adapters().values())
