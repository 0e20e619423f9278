"""What an adapter may be able to do: a protocol for each ability, which a module follows."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from regime_proto.checkpoints.payload import Label, Payload
from regime_proto.engine.live_model import Engine, LiveModel
from regime_proto.engine.variants import Outline
from regime_proto.program.probe import Probe
from regime_proto.program.program import Program

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
class Lazy(Protocol):
    """Reads checkpoints that are larger than memory. Beside `Reader`."""

    def read_lazily(self, path: Path) -> Payload:
        """Read a checkpoint as `Reader.read` does, but hold none of its tensors in memory.

        Each is an array that views a mapped file, or a `deferred.Deferred` in its place.

        Raises
        ------
        RegimeError
            As there; or the file is of a kind that can be read only as a whole.
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
