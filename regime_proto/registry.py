"""Finds the adapters, built in or third-party, through the entry-point group ``regime_proto.adapters``.

An adapter is a module. It may read checkpoints (`Reader`), export models (`Exporter`), or both, and have further
abilities, each a protocol of its own. Its `REFINES` may name other adapters, which would take the same checkpoints or
models for their own but know less of them.
"""

import difflib
import warnings
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Protocol, TypeVar, runtime_checkable

from regime_proto.engine.graph.program import Program
from regime_proto.engine.variants import Outline
from regime_proto.payload import Label, Payload
from regime_proto.places import first_bytes
from regime_proto.probe import Probe
from regime_proto.recording.live import Engine, LiveModel
from regime_proto.schema.errors import RegimeError, RegimeWarning

T = TypeVar("T")

GROUP = "regime_proto.adapters"
FIRST_BYTES = 512
"""How much of a file `Sniffing` sees."""


@runtime_checkable
class Reader(Protocol):
    """Reads one kind of checkpoint: files with certain suffixes, or folders."""

    SUFFIXES: tuple[str, ...]
    """Of its files; empty where a checkpoint is a folder."""

    def recognise(self, path: Path) -> str | None:
        """Return what tells that `path` is a checkpoint of this kind, in words; None if it is not.

        Cheap, and imports no framework. It is asked of files with the adapter's suffixes, or of folders; of other
        files if the adapter is `Sniffing`.
        """

    def peek(self, path: Path) -> Label:
        """Read what a checkpoint says of itself, without its tensors.

        Raises
        ------
        NotACheckpoint
            The file belongs to the run, but holds no model weights.
        Incomplete
            It is still being written, or was cut off.
        RegimeError
            The file is damaged or unsafe.
        """

    def read(self, path: Path) -> Payload:
        """Read a checkpoint.

        Raises
        ------
        RegimeError
            The file is damaged or unsafe, or holds no model weights.
        """


@runtime_checkable
class Sniffing(Protocol):
    """Knows its files by their first bytes, so that they may have any suffix or none. Beside `Reader`."""

    def sniff(self, start: bytes) -> bool:
        """Whether a file may be of this kind that begins with `start`, its first `FIRST_BYTES` bytes or all of it.

        It is asked of files whose suffix no adapter takes for its own, of any kind and in large numbers, so a few
        bytes that other files may begin with by chance are not enough. `Reader.recognise` has the last word.
        """


@runtime_checkable
class Exporter(Protocol):
    """Turns the models of one framework into programs.

    Its `ENVIRONMENT` may name variables that are set while a model is built on demand, unless the user has set them.
    """

    MODELS: str
    """What it takes, in words."""

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
    """Makes a program of a checkpoint that holds its graph, or says what model it is of, beside its weights."""

    def program_of(self, path: Path, probe: Probe) -> Program:
        """Return the forward graph of a checkpoint, whose weights are named as `Reader.read` names them.

        Raises
        ------
        RegimeError
            The file is damaged or unsafe, or its model does not run on the probe.
        """


@runtime_checkable
class Following(Protocol):
    """Follows models of its framework while they are trained."""

    def follow(self, model: object, probe: Probe | None) -> LiveModel | Engine:
        """Return what a recorder needs of `model`; nothing of the model or its surroundings is changed.

        Where several processes train it, all of them call this. One gets the model; the others get an engine that
        contributes their part of every measurement, or does nothing.

        Parameters
        ----------
        model : object
            One that `Exporter.accepts`.
        probe : Probe, optional
            None in processes that only contribute.

        Raises
        ------
        RegimeError
            The model does not run on the probe, or cannot be exported.
        """

    def leads(self, model: object) -> bool:
        """Whether this process, of those that train the model, is the one that records it."""

    def draw(self, model: object, loader: object, samples: int, seed: int) -> Probe:
        """Draw a probe from what yields validation samples; no random state is changed.

        Parameters
        ----------
        model : object
        loader : object
            A data loader, or any iterable of batches.
        samples : int
        seed : int

        Raises
        ------
        RegimeError
            There are fewer samples, or they are none that the model takes.
        """


@runtime_checkable
class Outlining(Protocol):
    """Reads checkpoints whose graphs may differ from one to the next."""

    def outline(self, path: Path) -> Outline:
        """Return structure and tensors of a checkpoint, to tell whether all have one graph.

        Raises
        ------
        RegimeError
            The file is damaged or unsafe.
        """


@runtime_checkable
class Tokenizing(Protocol):
    """Makes a probe of text, for checkpoints that come with a tokenizer."""

    def tokenize(self, path: Path, lines: Sequence[str], where: str) -> Probe:
        """Return the inputs of the model for each line, with `probe.COUNTED` False on padding.

        Parameters
        ----------
        path : Path
            A checkpoint.
        lines : sequence of str
        where : str
            Named in errors.

        Raises
        ------
        RegimeError
            There is no tokenizer in the checkpoint, or it cannot be read without running code.
        """


@runtime_checkable
class Sharded(Protocol):
    """Reads checkpoints that lie in several files."""

    def shards(self, path: Path) -> Mapping[str, Sequence[str]]:
        """Return the names of the tensors in each file of a checkpoint; nothing where it is one file.

        Raises
        ------
        RegimeError
            The list of the files is damaged.
        """


@runtime_checkable
class Advising(Protocol):
    """Knows files that no adapter reads, and what to do with them."""

    def advice(self, path: Path) -> str | None:
        """Return in one line what `path` is and how to make checkpoints of it that can be read; None if unknown."""


_ABILITIES = (Reader, Exporter, Describing, Outlining, Tokenizing, Advising)


@cache
def adapters() -> dict[str, object]:
    """Return the adapter modules by name. One that cannot be used is left out, with a warning."""
    found: dict[str, object] = {}
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        try:
            module = entry.load()
            if not isinstance(module, _ABILITIES):
                raise TypeError("it has the functions of no protocol in regime_proto.registry")
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
        near = difflib.get_close_matches(name, known, n=1)
        hint = f" (nearest: {near[0]!r})" if near else ""
        raise RegimeError(f"--adapter {name!r}: expected one of {', '.join(known)}{hint}")
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
