"""What an analysis is asked for."""

from dataclasses import dataclass
from functools import cached_property

from regime_proto.analyzer.readings import Reading
from regime_proto.analyzer.readings import preset as find_preset
from regime_proto.analyzer.stages import require_thresholds
from regime_proto.schema.errors import RegimeError

RESAMPLES = 200
MIN_RESAMPLES = 20


@dataclass(frozen=True)
class AnalysisSettings:
    """How a trajectory is analyzed; the fields are the arguments of `regime_proto.analyze`.

    Parameters
    ----------
    preset : {"paper", "strict"}
    steps : str, optional
    batches_per_epoch : float, optional
    resamples : int
    stable, chaotic : float, optional

    Raises
    ------
    RegimeError
        There is no such preset, there are too few resamples, or the thresholds of labels are wrong.
    """

    preset: str = "paper"
    steps: str | None = None
    batches_per_epoch: float | None = None
    resamples: int = RESAMPLES
    stable: float | None = None
    chaotic: float | None = None

    def __post_init__(self) -> None:
        if self.resamples and self.resamples < MIN_RESAMPLES:
            raise RegimeError(f"resamples {self.resamples}: expected {MIN_RESAMPLES} at least, or 0 for no intervals")
        require_thresholds(self.stable, self.chaotic)
        # A wrong name is an error at once.
        _ = self.reading

    @cached_property
    def reading(self) -> Reading:
        """The reading of the protocol that the preset stands for."""
        return find_preset(self.preset)
