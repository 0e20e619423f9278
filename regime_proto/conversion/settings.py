"""Settings of the public functions: their keyword arguments, as one object each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from regime_proto.plugins.source_settings import AS_DETECTED, SourceSettings
from regime_proto.quantities.installed import asked_for, choose
from regime_proto.quantities.interior_flips import looks_between
from regime_proto.runtime.device_names import require_device
from regime_proto.schema.errors import RegimeError
from regime_proto.schema.nearest import nearest
from regime_proto.schema.notes import Note, as_notes
from regime_proto.schema.shards import Shard
from regime_proto.schema.types import as_tuple

AUTO, OFF = "auto", "off"
NOISE = ("quick", "full", "none")
"""How the noise floor is measured: on the last state, on three states, or not at all."""


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
    source : SourceSettings
        How the directory is read: adapter, step pattern and key of the weights.
    device : str
    batches_per_epoch : float, optional
    interior_points : int, optional
        Default: the number in a trajectory that is resumed, otherwise `interior_flips.INTERIOR_POINTS`.
    workers : int, optional
    masks, embed, noise : str
    notes : mapping, optional
    keep_downloads, overwrite : bool
    shard : Shard, optional
        Measure only this part of the run.
    command : sequence of str
        The command line without its shard, shown if a part is missing.
    client : distributed.Client, optional
        Client of the cluster whose workers measure.
    scheduler : str, optional
        The cluster by address, file or ``local[:N]``.
    parts : str or int
        `AUTO`, `OFF`, or the smallest number of parts of the program; a number may be given as text.

    Raises
    ------
    RegimeError
        A setting is invalid, or two settings contradict each other.
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
    source: SourceSettings = AS_DETECTED
    device: str = "auto"
    batches_per_epoch: float | None = None
    interior_points: int | None = None
    workers: int | None = None
    masks: str = "auto"
    embed: str = "program"
    noise: str = "quick"
    notes: Mapping[str, object] | None = None
    keep_downloads: bool = False
    overwrite: bool = False
    shard: Shard | None = None
    command: Sequence[str] = ()
    client: object = None
    scheduler: str | None = None
    parts: str | int = AUTO

    def __post_init__(self) -> None:
        if self.shard is not None and (self.client is not None or self.scheduler is not None):
            raise RegimeError(
                f"--shard {self.shard}: cannot be combined with a scheduler, which divides the run itself; leave one "
                "of them out"
            )
        if self.shard is not None and self.overwrite:
            raise RegimeError(
                "--shard and --overwrite: cannot be combined, since each part would discard the previous ones; "
                "delete the existing output, or choose another one"
            )
        if self.sample_units is not None and self.sample_units < 2:
            raise RegimeError(f"--sample-units {self.sample_units}: expected 2 or more")
        if self.noise not in NOISE:
            raise RegimeError(f"noise {self.noise!r}: expected one of {', '.join(NOISE)}{nearest(self.noise, NOISE)}")
        require_device(self.device)
        object.__setattr__(self, "parts", _taken_parts(self.parts))
        for name in ("gates", "measure"):
            object.__setattr__(self, name, as_tuple(getattr(self, name), name))
        if self.interior_points is not None and not looks_between(choose(self.measure)):
            raise RegimeError(
                f"--interior-points {self.interior_points}: applies to interior_flips, which is not measured; add "
                "--measure interior_flips, or leave the option out"
            )

    @classmethod
    def of(
        cls,
        *,
        adapter: str | None = None,
        step_pattern: str | None = None,
        weights: str | None = None,
        distance: bool = False,
        measure: str | Sequence[str] = (),
        shard: str | None = None,
        **fields: Any,
    ) -> Self:
        """Create settings from the arguments of the public functions."""
        source = SourceSettings(adapter, step_pattern, weights)
        part = None if shard is None else Shard.parse(shard)
        return cls(source=source, measure=asked_for(measure, distance=distance), shard=part, **fields)

    @cached_property
    def taken_notes(self) -> dict[str, Note]:
        """The notes in the form in which a trajectory stores them."""
        return as_notes(self.notes or {})


def _taken_parts(parts: object) -> str | int:
    if parts in (AUTO, OFF):
        return str(parts)
    try:
        number = int(str(parts))
    except ValueError:
        number = 0
    if number < 1:
        raise RegimeError(f"--parts {parts}: expected {AUTO}, {OFF}, or the smallest number of parts, 1 or more")
    return number
