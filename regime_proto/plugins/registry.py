"""Finds the adapters, built in or third-party, through the entry-point group ``regime_proto.adapters``.

An adapter is a module that follows some of the protocols in `plugins.protocols`. Its `REFINES` may name other adapters,
which would take the same checkpoints or models for their own but know less of them.
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
    """Return the adapter modules by name. One that cannot be used is left out, with a warning."""
    found: dict[str, object] = {}
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        try:
            module = entry.load()
            if not isinstance(module, _ABILITIES):
                raise TypeError("it has the functions of no protocol in regime_proto.plugins.protocols")
            found[entry.name] = module
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


def is_checkpoint_file(path: Path) -> bool:
    """Whether a file has the suffix of one that some adapter reads, or begins like one."""
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
        There is none that reads checkpoints.
    """
    known = readers()
    if name not in known:
        raise RegimeError(f"--adapter {name!r}: expected one of {', '.join(known)}{nearest(name, known)}")
    return known[name]


def capable(name: str, ability: type[T]) -> T | None:
    """Return the adapter of that name if it has an ability, one of the protocols above."""
    module = adapters().get(name)
    return module if isinstance(module, ability) else None


def capable_lineage(name: str, ability: type[T]) -> T | None:
    """Return what has an ability: the adapter of that name, or the first of those that it refines."""
    able = (capable(known, ability) for known in (name, *_refined(name)))
    return next((module for module in able if module is not None), None)


def rank(name: str) -> int:
    """Return how special an adapter is: it comes before those that would take for their own what it knows better."""
    return max((1 + rank(refined) for refined in _refined(name)), default=0)


def _refined(name: str) -> tuple[str, ...]:
    refined: tuple[str, ...] = getattr(adapters().get(name), "REFINES", ())
    return refined


def advice_on(paths: Sequence[Path]) -> str | None:
    """Return what is known of the first of `paths` that some adapter has advice on."""
    advisers = [module for module in adapters().values() if isinstance(module, Advising)]
    found = (adviser.advice(path) for path in paths for adviser in advisers)
    return next((advice for advice in found if advice is not None), None)


def exporter_for(model: object) -> Exporter:
    """Return the adapter that exports `model`.

    Raises
    ------
    RegimeError
        No adapter knows its type.
    """
    for name in sorted(adapters(), key=rank, reverse=True):
        module = capable(name, Exporter)
        if module is not None and module.accepts(model):
            return module
    kind = f"{type(model).__module__}.{type(model).__qualname__}"
    raise RegimeError(f"model of type {kind}: no adapter exports it; expected {expected_models()}")


def follower_for(model: object) -> Following:
    """Return the adapter that follows `model` in training.

    Raises
    ------
    RegimeError
        There is none.
    """
    exporter = exporter_for(model)
    if not isinstance(exporter, Following):
        raise RegimeError(
            f"model of type {type(model).__name__}: it is not followed in training; save checkpoints and use "
            "regime analyze"
        )
    return exporter


def is_model(candidate: object) -> bool:
    """Whether some adapter exports `candidate`."""
    return any(exporter.accepts(candidate) for exporter in _exporters())


def expected_models() -> str:
    """Return in words what the adapters export."""
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
