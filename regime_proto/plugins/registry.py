"""Finds the adapters, built in or third-party, through the entry-point group ``regime_proto.adapters``.

An adapter is a module that implements some of the protocols in `plugins.protocols`. Its `REFINES` may name other
adapters that would claim the same checkpoints or models, but know less about them.
"""

import warnings
from collections.abc import Sequence
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import TypeVar

from regime_proto.checkpoints.locations import first_bytes
from regime_proto.plugins.protocols import (
    FIRST_BYTES,
    Advising,
    Describing,
    Exporter,
    Following,
    Outlining,
    Reader,
    Sniffing,
    Tokenizing,
)
from regime_proto.schema.errors import RegimeError, RegimeWarning
from regime_proto.schema.nearest import nearest

T = TypeVar("T")

GROUP = "regime_proto.adapters"

_ABILITIES = (Reader, Exporter, Describing, Outlining, Tokenizing, Advising)


@cache
def adapters() -> dict[str, object]:
    """Return the adapter modules by name. An adapter that cannot be used is ignored, with a warning."""
    found: dict[str, object] = {}
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        try:
            module = entry.load()
            if not isinstance(module, _ABILITIES):
                raise TypeError("expected the functions of a protocol in regime_proto.plugins.protocols, found none")
            found[entry.name] = module
        except Exception as error:
            warnings.warn(
                f"adapter {entry.name!r} ({entry.value}) is ignored: {type(error).__name__}: {error}",
                RegimeWarning,
                stacklevel=2,
            )
    return found


def readers() -> dict[str, Reader]:
    """Return the adapters that read checkpoints."""
    return {name: module for name, module in adapters().items() if isinstance(module, Reader)}


def is_checkpoint_file(path: Path) -> bool:
    """Whether a file has a suffix that an adapter reads, or begins like a file that one reads."""
    start = first_bytes(path, FIRST_BYTES)
    return any(
        path.suffix in reader.SUFFIXES or (isinstance(reader, Sniffing) and reader.sniff(start))
        for reader in readers().values()
    )


def reader_named(name: str) -> Reader:
    """Return the adapter of that name.

    Raises
    ------
    RegimeError
        No adapter of that name reads checkpoints.
    """
    known = readers()
    if name not in known:
        raise RegimeError(f"--adapter {name!r}: expected one of {', '.join(known)}{nearest(name, known)}")
    return known[name]


def capable(name: str, ability: type[T]) -> T | None:
    """Return the adapter of that name if it has an ability, which is one of the protocols."""
    module = adapters().get(name)
    return module if isinstance(module, ability) else None


def capable_lineage(name: str, ability: type[T]) -> T | None:
    """Return the adapter of that name, or the first of those that it refines, that has an ability."""
    able = (capable(known, ability) for known in (name, *_refined(name)))
    return next((module for module in able if module is not None), None)


def rank(name: str) -> int:
    """Return how specific an adapter is: it takes precedence over the adapters that it refines."""
    return max((1 + rank(refined) for refined in _refined(name)), default=0)


def _refined(name: str) -> tuple[str, ...]:
    refined: tuple[str, ...] = getattr(adapters().get(name), "REFINES", ())
    return refined


def advice_on(paths: Sequence[Path]) -> str | None:
    """Return the advice on the first of `paths` for which an adapter has any."""
    advisers = [module for module in adapters().values() if isinstance(module, Advising)]
    found = (adviser.advice(path) for path in paths for adviser in advisers)
    return next((advice for advice in found if advice is not None), None)


def exporter_for(model: object) -> Exporter:
    """Return the adapter that exports `model`.

    Raises
    ------
    RegimeError
        No adapter recognises its type.
    """
    for name in sorted(adapters(), key=rank, reverse=True):
        module = capable(name, Exporter)
        if module is not None and module.accepts(model):
            return module
    kind = f"{type(model).__module__}.{type(model).__qualname__}"
    raise RegimeError(f"model of type {kind}: no adapter exports it; expected {expected_models()}")


def follower_for(model: object) -> Following:
    """Return the adapter that measures `model` during training.

    Raises
    ------
    RegimeError
        There is no such adapter.
    """
    exporter = exporter_for(model)
    if not isinstance(exporter, Following):
        raise RegimeError(
            f"model of type {type(model).__name__}: it cannot be recorded during training; save checkpoints "
            "and use regime analyze"
        )
    return exporter


def is_model(candidate: object) -> bool:
    """Whether any adapter exports `candidate`."""
    return any(exporter.accepts(candidate) for exporter in _exporters())


def expected_models() -> str:
    """Return what the adapters export, in words."""
    *others, last = [exporter.MODELS for exporter in _exporters()]
    return f"{', '.join(others)} or {last}" if others else last


def building_environment() -> dict[str, str]:
    """Return the variables that are set while a model is built, unless the user has set them."""
    variables: dict[str, str] = {}
    for exporter in _exporters():
        variables |= getattr(exporter, "ENVIRONMENT", {})
    return variables


def _exporters() -> list[Exporter]:
    return [module for module in adapters().values() if isinstance(module, Exporter)]
