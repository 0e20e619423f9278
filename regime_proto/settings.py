"""What a user asks for: the keyword arguments of the public functions, as one object each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from regime_proto.quantities.known import asked_for
from regime_proto.schema.errors import RegimeError
from regime_proto.schema.notes import Note, as_notes


@dataclass(frozen=True)
class Reading:
    r"""How a directory is to be read; what is None is found out.

    Parameters
    ----------
    adapter : str, optional
        The adapter that reads it.
    step_pattern : str, optional
        A regular expression with one group, the step, or the epoch if it is named so (``(?P<epoch>\d+)``), that is
        searched in the names of files or folders; those without it are left out.
    weights : str, optional
        The key under which a checkpoint holds the weights that are meant, or the front of their names.
    """

    adapter: str | None = None
    step_pattern: str | None = None
    weights: str | None = None


AS_RECOGNISED = Reading()


@dataclass(frozen=True)
class ConversionSettings:
    """How checkpoints are converted; the fields are the arguments of `regime_proto.convert`.

    Parameters
    ----------
    model, probe : object, optional
    probe_text : path, optional
    steps : str, optional
    every : int, optional
    gates : tuple of str
    sample_units : int, optional
    sample_seed : int
    measure : tuple of str
    reading : Reading
        How the directory is read: adapter, step pattern and weights.
    device : str
    batches_per_epoch : float, optional
    workers : int, optional
    masks, embed : str
    notes : mapping, optional
    keep_downloads, overwrite : bool

    Raises
    ------
    RegimeError
        A setting contradicts what is possible.
    """

    model: object = None
    probe: object = None
    probe_text: Path | None = None
    steps: str | None = None
    every: int | None = None
    gates: Sequence[str] = ()
    sample_units: int | None = None
    sample_seed: int = 0
    measure: Sequence[str] = ()
    reading: Reading = AS_RECOGNISED
    device: str = "auto"
    batches_per_epoch: float | None = None
    workers: int | None = None
    masks: str = "auto"
    embed: str = "program"
    notes: Mapping[str, object] | None = None
    keep_downloads: bool = False
    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.sample_units is not None and self.sample_units < 2:
            raise RegimeError(f"--sample-units {self.sample_units}: expected 2 or more")
        for name in ("gates", "measure"):
            # A single pattern or name is a sequence of letters, which nobody means.
            given = getattr(self, name)
            object.__setattr__(self, name, (given,) if isinstance(given, str) else tuple(given))

    @classmethod
    def of(
        cls,
        *,
        adapter: str | None = None,
        step_pattern: str | None = None,
        weights: str | None = None,
        distance: bool = False,
        measure: str | Sequence[str] = (),
        **fields: Any,
    ) -> Self:
        """Make settings of arguments as users give them."""
        reading = Reading(adapter, step_pattern, weights)
        return cls(reading=reading, measure=asked_for(measure, distance=distance), **fields)

    @cached_property
    def taken_notes(self) -> dict[str, Note]:
        """The notes as a trajectory can hold them."""
        return as_notes(self.notes or {})
