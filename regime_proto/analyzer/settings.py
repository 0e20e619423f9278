"""The settings of an analysis."""

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
        The preset does not exist, there are too few resamples, or the thresholds of labels are invalid.
    """

    preset: str = "paper"
    steps: str | None = None
    batches_per_epoch: float | None = None
    resamples: int = RESAMPLES
    stable: float | None = None
    chaotic: float | None = None

    def __post_init__(self) -> None:
        if self.resamples and self.resamples < MIN_RESAMPLES:
            raise RegimeError(f"resamples {self.resamples}: expected at least {MIN_RESAMPLES}, or 0 for no intervals")
        require_thresholds(self.stable, self.chaotic)
        # Raises an error for an unknown preset immediately.
        _ = self.reading

    @cached_property
    def reading(self) -> Reading:
        """The reading that the preset names."""
        return find_preset(self.preset)
