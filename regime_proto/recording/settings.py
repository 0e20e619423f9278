"""Settings of a recording."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from regime_proto.quantities.base import Quantity
from regime_proto.quantities.installed import possible
from regime_proto.recording.observations import Callback
from regime_proto.recording.pace import Pace
from regime_proto.recording.schedule import Every, Schedule, Share, Steps, as_every
from regime_proto.recording.settling import Settling
from regime_proto.schema.epochs import observations_per_epoch
from regime_proto.schema.errors import RegimeError
from regime_proto.schema.notes import Note, as_notes
from regime_proto.schema.types import as_tuple

ENGINES = ("auto", "native", "onnx")
AUTO = "auto"


@dataclass(frozen=True)
class RecordingSettings:
    """How a training is recorded; the fields are the arguments of `regime_proto.record`.

    Parameters
    ----------
    every : int, callable or str
    engine : {"auto", "native", "onnx"}
    gates : tuple of str
    sample_units : int, optional
    sample_seed : int
    masks, embed : str
    measure : tuple of str
    notes : mapping, optional
    batches_per_epoch : float, optional
    loader : iterable, optional
    batch_size : int, optional
    seed : int
    resume : bool or int
    overwrite : bool
    on_observation, on_settled : callable, optional
    settling : Settling, optional
    seconds : float

    Raises
    ------
    RegimeError
        A setting is invalid.
    """

    every: Every = 1
    engine: str = AUTO
    gates: Sequence[str] = ()
    sample_units: int | None = None
    sample_seed: int = 0
    masks: str = AUTO
    embed: str = "program"
    measure: Sequence[str] = ()
    notes: Mapping[str, object] | None = None
    batches_per_epoch: float | None = None
    loader: object = None
    batch_size: int | None = None
    seed: int = 0
    resume: bool | int = False
    overwrite: bool = False
    on_observation: Callback | None = None
    on_settled: Callback | None = None
    settling: Settling | None = None
    seconds: float = 30.0

    def __post_init__(self) -> None:
        if self.engine not in ENGINES:
            raise RegimeError(f"engine {self.engine!r}: expected one of {', '.join(ENGINES)}")
        object.__setattr__(self, "gates", as_tuple(self.gates, "gates"))
        # Invalid values raise an error here.
        _ = self.schedule, self.taken_notes, self.quantities, self.observations_per_epoch

    @cached_property
    def schedule(self) -> Schedule:
        """A new schedule, to be used by one recorder."""
        every = as_every(self.every)
        return Pace(every) if isinstance(every, Share) else Steps(every)

    @cached_property
    def observations_per_epoch(self) -> float | None:
        """Observations per epoch, if known in advance: only for a whole number of steps."""
        if self.batches_per_epoch is None:
            return None
        stride = self.every if isinstance(self.every, int) else 1
        found = observations_per_epoch([0, stride], "step", self.batches_per_epoch)
        return found if isinstance(self.every, int) else None

    @cached_property
    def taken_notes(self) -> dict[str, Note]:
        """The notes in the form in which a trajectory stores them."""
        return as_notes(self.notes or {})

    @cached_property
    def quantities(self) -> tuple[Quantity, ...]:
        """The quantities to measure in addition to weight deltas and flips, as far as known without the model."""
        return possible(self.measure, _obstacle)

    def quantities_of(self, obstacle: Callable[[Quantity], str]) -> tuple[Quantity, ...]:
        """Return the quantities that can be measured on a model, and warn about the others.

        Parameters
        ----------
        obstacle : callable
            Returns why a quantity cannot be measured on the model; empty if it can.

        Raises
        ------
        RegimeError
            A quantity that was requested by its own name cannot be measured.
        """
        chosen = possible(self.measure, _obstacle, tell="not measured in a recording")
        return possible(self.measure, obstacle, tell="not measured", among=chosen)

    @property
    def keeps_first(self) -> bool:
        """Whether later states are compared with the first."""
        return any(quantity.against == "first" for quantity in self.quantities)

    @property
    def resumes(self) -> bool:
        """Whether the trajectory of an earlier run is resumed."""
        return self.resume is not False


def _obstacle(quantity: Quantity) -> str:
    """Return why a quantity cannot be recorded; empty if it can."""
    return "" if quantity.is_recordable else "measured only on saved checkpoints, with regime convert --measure"
