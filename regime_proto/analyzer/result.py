"""The result of an analysis: ρ, the areas, the steps at which the curves settle, and the layers."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import xarray as xr

import regime_proto
from regime_proto.analyzer.display import display
from regime_proto.analyzer.distance import Distance, read_distance
from regime_proto.analyzer.quantity_curves import QuantityResult
from regime_proto.analyzer.readings import Reading
from regime_proto.analyzer.recorded import Recorded
from regime_proto.analyzer.settled import Settled
from regime_proto.analyzer.stages import Labels
from regime_proto.analyzer.structure import Structure
from regime_proto.analyzer.uncertainty import Uncertainty
from regime_proto.schema.display import Display, Displayed
from regime_proto.schema.notes import Note
from regime_proto.schema.numbers import finite

JSON_VERSION = 1


@dataclass(frozen=True)
class Threshold:
    """The steps from which the two curves stay below a threshold for good.

    Parameters
    ----------
    tau : float
        Threshold on the normalised curves.
    step_w : int or None
        First step from which the curve of the weights stays below it to the end; None if there is none.
    step_p : int or None
        First step from which the curve of the patterns stays below it to the end; None if there is none.
    ratio : float or None
        (step_w − s_0) / (step_p − s_0), where s_0 is the first step; None if undefined.
    """

    tau: float
    step_w: int | None
    step_p: int | None
    ratio: float | None


@dataclass(frozen=True)
class LayerResult:
    """The pattern change of one gate layer.

    Parameters
    ----------
    layer : str
        Name of the layer in the file.
    op : str
        Operation of the gate, such as ``Relu``.
    path : str
        Path of the module in the model.
    units : int
        Units per sample.
    auc_p : float
        Area under the curve of the layer; NaN if its pattern change has no scale.
    """

    layer: str
    op: str
    path: str
    units: int
    auc_p: float


@dataclass(frozen=True, repr=False)
class Result(Displayed):
    """The result of analyzing a trajectory with one preset.

    Parameters
    ----------
    rho : float
        AUC_W / AUC_P; NaN if undefined. Above 1: the patterns settled earlier than the weights, if both settled.
    auc_w : float
        Area under the normalised curve of the weight change; NaN if undefined.
    auc_p : float
        Area under the normalised curve of the pattern change; NaN if undefined.
    rho_range : (float, float) or None
        Lowest and highest ρ over all 16 readings; None if ρ is undefined for all.
    preset : str
        Name of the preset: ``paper`` or ``strict``.
    observations : int
        Number of observed parameter states.
    step_kind : str
        ``step``, ``epoch`` or ``ordinal``.
    stride : int or None
        Steps between observations; None if uneven.
    window : int
        Length of the moving average, in observations.
    thresholds : tuple of Threshold
        When the curves fall below each threshold for good.
    layers : tuple of LayerResult
        The gate layers, in execution order.
    curves : xarray.Dataset
        Raw, smoothed and normalised series over ``step`` and ``layer``; ``weight_distance``, the distance of the
        weights from their initial values, if the file holds it; and for every quantity ``quantity_<name>`` over
        ``step``, and ``quantity_<name>_each`` by tensor, layer or sample.
    readings : dict of Reading to float
        ρ for every reading.
    noise_floor : float or None
        Flip fraction of one state under changes that have no meaning; None if it was not measured.
    late_pattern_change : float
        Mean Δa over the last tenth of the intervals, for comparison with the noise floor.
    pattern_error : float or None
        Largest standard error of Δa due to the sampling of units; None if all units were measured.
    uncertainty : Uncertainty or None
        Intervals for AUC_W, AUC_P and ρ; None if they were not requested.
    trajectory : str or None
        Path of the file.
    warnings : tuple of str
        Why the numbers may say little.
    settled : Settled
        Whether the curves have settled by the end of the run.
    quantities : dict of str to QuantityResult
        Further measured quantities, by name.
    divergence : str or None
        Description of how the run broke: NaN or Inf, or a weight change that explodes at the end.
    structure : Structure or None
        The structural share relative to the last state; None if the trajectory does not hold it.
    labels : Labels or None
        STABLE, TRANSITION or CHAOTIC for every step of `curves`; None if fingerprints were not measured.
    recorded : Recorded or None
        Facts about the run, the model and the probe.
    notes : dict of str to str, int or float
        Notes on the run; empty for a data set in memory.
    """

    rho: float
    auc_w: float
    auc_p: float
    rho_range: tuple[float, float] | None
    preset: str
    observations: int
    step_kind: str
    stride: int | None
    window: int
    thresholds: tuple[Threshold, ...]
    layers: tuple[LayerResult, ...]
    curves: xr.Dataset
    readings: dict[Reading, float]
    noise_floor: float | None
    late_pattern_change: float
    pattern_error: float | None
    uncertainty: Uncertainty | None
    trajectory: str | None
    warnings: tuple[str, ...]
    settled: Settled = field(default_factory=Settled)
    quantities: dict[str, QuantityResult] = field(default_factory=dict)
    divergence: str | None = None
    structure: Structure | None = None
    labels: Labels | None = None
    recorded: Recorded | None = None
    notes: dict[str, Note] = field(default_factory=dict)

    @property
    def distance(self) -> Distance | None:
        """Distance of the weights from their initial values; None if the file does not hold it."""
        return read_distance(self.curves)

    def plot(
        self,
        *,
        columns: int = 1,
        layers: str | None = None,
        metrics: Sequence[str] = (),
        batches_per_epoch: float | None = None,
    ) -> Any:
        """Return a matplotlib figure of the normalised curves; a notebook shows it.

        Parameters
        ----------
        columns, layers, metrics, batches_per_epoch : optional
            As in `regime_proto.figure`.

        Raises
        ------
        RegimeError
            matplotlib is not installed, the result is of a data set in memory, or its file now holds a different run.
        """
        # The top package is lazy: drawing is imported only here, and needs matplotlib.
        return regime_proto.figure(
            self, columns=columns, layers=layers, metrics=metrics, batches_per_epoch=batches_per_epoch
        )

    def _display(self) -> Display:
        return display(self)

    def to_json(self) -> dict[str, Any]:
        """Return plain values for a JSON object; numbers are finite or None."""
        return {
            "json_version": JSON_VERSION,
            "rho": finite(self.rho),
            "auc_w": finite(self.auc_w),
            "auc_p": finite(self.auc_p),
            "rho_range": None if self.rho_range is None else list(self.rho_range),
            "preset": self.preset,
            "observations": self.observations,
            "step_kind": self.step_kind,
            "stride": self.stride,
            "window": self.window,
            **({} if self.recorded is None else self.recorded.to_json()),
            "thresholds": [vars(threshold) for threshold in self.thresholds],
            "settled": vars(self.settled),
            "divergence": self.divergence,
            "layers": [
                {
                    "layer": layer.layer,
                    "op": layer.op,
                    "path": layer.path,
                    "units": layer.units,
                    "auc_p": finite(layer.auc_p),
                }
                for layer in self.layers
            ],
            "readings": [{**vars(reading), "rho": finite(rho)} for reading, rho in self.readings.items()],
            "noise_floor": self.noise_floor,
            "late_pattern_change": finite(self.late_pattern_change),
            "pattern_error": None if self.pattern_error is None else finite(self.pattern_error),
            "distance": None if self.distance is None else {**vars(self.distance), "last": finite(self.distance.last)},
            "structure": None if self.structure is None else self.structure.to_json(),
            "quantities": {
                name: {
                    "unit": quantity.unit,
                    "against": quantity.against,
                    "first": finite(quantity.first),
                    "last": finite(quantity.last),
                    "auc": finite(quantity.auc),
                }
                for name, quantity in self.quantities.items()
            },
            "uncertainty": None if self.uncertainty is None else self.uncertainty.to_json(),
            "notes": {name: finite(note) if isinstance(note, float) else note for name, note in self.notes.items()},
            "trajectory": self.trajectory,
            "warnings": list(self.warnings),
        }
