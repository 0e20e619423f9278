"""What a user asks for: the keyword arguments of the public functions, as one object each."""

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
"""How the noise floor is measured: of the last state, of three states, not at all."""


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
        How the directory is read: adapter, step pattern and weights.
    device : str
    batches_per_epoch : float, optional
    interior_points : int, optional
        As many as a trajectory that goes on was made with, else `interior_flips.INTERIOR_POINTS`.
    workers : int, optional
    masks, embed, noise : str
    notes : mapping, optional
    keep_downloads, overwrite : bool
    shard : Shard, optional
        Measure this part of the run only.
    command : sequence of str
        The command line without its shard, for those who miss a part.
    client : distributed.Client, optional
        Whose workers measure.
    scheduler : str, optional
        The same by address, file or ``local[:N]``.
    parts : str or int
        `AUTO`, `OFF`, or how many parts of the program at least; a number may be given as text.

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
                f"--shard {self.shard}: a part is measured by the process that is given it, and a scheduler divides "
                "the run itself; leave one of them out"
            )
        if self.shard is not None and self.overwrite:
            raise RegimeError(
                "--shard and --overwrite: every part would discard those before it; remove what is there, or give "
                "another output"
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
                f"--interior-points {self.interior_points}: goes with interior_flips, which is not measured; add "
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
        """Make settings of arguments as users give them."""
        source = SourceSettings(adapter, step_pattern, weights)
        part = None if shard is None else Shard.parse(shard)
        return cls(source=source, measure=asked_for(measure, distance=distance), shard=part, **fields)

    @cached_property
    def taken_notes(self) -> dict[str, Note]:
        """The notes as a trajectory can hold them."""
        return as_notes(self.notes or {})


def _taken_parts(parts: object) -> str | int:
    if parts in (AUTO, OFF):
        return str(parts)
    try:
        number = int(str(parts))
    except ValueError:
        number = 0
    if number < 1:
        raise RegimeError(f"--parts {parts}: expected {AUTO}, {OFF}, or how many parts at least, 1 or more")
    return number
