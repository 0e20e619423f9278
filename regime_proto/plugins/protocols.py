"""What adapters can do: one protocol per ability. A module implements the protocols of its abilities."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from regime_proto.checkpoints.payload import Label, Payload
from regime_proto.engine.live_model import Engine, LiveModel
from regime_proto.engine.variants import Outline
from regime_proto.program.probe import Probe
from regime_proto.program.program import Program

FIRST_BYTES = 512
"""The number of bytes of a file that `Sniffing` gets."""


@runtime_checkable
class Reader(Protocol):
    """Reads one kind of checkpoint: files with certain suffixes, or folders."""

    SUFFIXES: tuple[str, ...]
    """The suffixes of its files; empty if a checkpoint is a folder."""

    def recognise(self, path: Path) -> str | None:
        """Return why `path` is a checkpoint of this kind, in words; None if it is not.

        Must be cheap and import no framework. It is called for files with the adapter's suffixes or for folders, and
        for other files if the adapter is `Sniffing`.
        """

    def peek(self, path: Path) -> Label:
        """Read what a checkpoint says about itself, without its tensors.

        Raises
        ------
        NotACheckpoint
            The file belongs to the run, but holds no model weights.
        Incomplete
            The file is still being written, or was cut off.
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
    """Reads checkpoints that are larger than memory. In addition to `Reader`."""

    def read_lazily(self, path: Path) -> Payload:
        """Read a checkpoint like `Reader.read`, but hold none of its tensors in memory.

        Each tensor is an array that views a mapped file, or a `deferred.Deferred`.

        Raises
        ------
        RegimeError
            As in `Reader.read`; or the file is of a kind that can only be read as a whole.
        """


@runtime_checkable
class Sniffing(Protocol):
    """Recognises its files by their first bytes, whatever their suffix. In addition to `Reader`."""

    def sniff(self, start: bytes) -> bool:
        """Whether a file that begins with `start`, its first `FIRST_BYTES` bytes or all of it, may be of this kind.

        It is called for files whose suffix no adapter claims, of any kind and in large numbers. So a few bytes that
        other files may begin with by chance are not enough. `Reader.recognise` decides.
        """


@runtime_checkable
class Exporter(Protocol):
    """Converts the models of one framework to programs.

    Its `ENVIRONMENT` may name variables that are set while a model is built on demand, unless the user has set them.
    """

    MODELS: str
    """The models that it accepts, in words."""

    def accepts(self, model: object) -> bool:
        """Whether `model` belongs to this framework. Must be cheap and import no framework."""

    def export(self, model: object, probe: Probe) -> Program:
        """Export the forward graph in evaluation mode; `model` is unchanged.

        Raises
        ------
        RegimeError
            The model does not run on the probe, or cannot be exported.
        """


@runtime_checkable
class Describing(Protocol):
    """Builds a program from a checkpoint that, in addition to its weights, holds its graph or names its model."""

    def program_of(self, path: Path, probe: Probe) -> Program:
        """Return the forward graph of a checkpoint; its weights have the same names as in `Reader.read`.

        Raises
        ------
        RegimeError
            The file is damaged or unsafe, or its model does not run on the probe.
        """


@runtime_checkable
class Following(Protocol):
    """Measures models of its framework during training."""

    def follow(self, model: object, probe: Probe | None) -> LiveModel | Engine:
        """Return what a recorder needs from `model`; the model and its environment are not changed.

        If several processes train the model, all of them call this. One of them records; the others get an engine that
        contributes their part of every measurement, or does nothing.

        Parameters
        ----------
        model : object
            A model that `Exporter.accepts`.
        probe : Probe, optional
            None in processes that only contribute.

        Raises
        ------
        RegimeError
            The model does not run on the probe, or cannot be exported.
        """

    def leads(self, model: object) -> bool:
        """Whether this process is the one that records the model, among those that train it."""

    def draw(self, model: object, loader: object, samples: int, seed: int) -> Probe:
        """Draw a probe from a source of validation samples; no random state is changed.

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
            There are not enough samples, or the model does not accept them.
        """


@runtime_checkable
class Outlining(Protocol):
    """Reads checkpoints whose graphs may differ from one to the next."""

    def outline(self, path: Path) -> Outline:
        """Return structure and tensors of a checkpoint, to check whether all checkpoints have the same graph.

        Raises
        ------
        RegimeError
            The file is damaged or unsafe.
        """


@runtime_checkable
class Tokenizing(Protocol):
    """Creates a probe from text, for checkpoints with a tokenizer."""

    def tokenize(self, path: Path, lines: Sequence[str], where: str) -> Probe:
        """Return the inputs of the model for all lines, with `probe.COUNTED` False at padding.

        Parameters
        ----------
        path : Path
            A checkpoint.
        lines : sequence of str
        where : str
            The place that errors name.

        Raises
        ------
        RegimeError
            The checkpoint holds no tokenizer, or it cannot be read without running code.
        """


@runtime_checkable
class Sharded(Protocol):
    """Reads checkpoints that consist of several files."""

    def shards(self, path: Path) -> Mapping[str, Sequence[str]]:
        """Return the names of the tensors in each file of a checkpoint; an empty mapping for a single file.

        Raises
        ------
        RegimeError
            The list of the files is damaged.
        """


@runtime_checkable
class Advising(Protocol):
    """Recognises files that no adapter reads, and knows what to do with them."""

    def advice(self, path: Path) -> str | None:
        """Return in one line what `path` is and how to create readable checkpoints from it; None if unknown."""
