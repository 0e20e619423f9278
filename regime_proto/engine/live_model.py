"""What the recorder needs of a model in training, whatever the framework."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from regime_proto.engine.live_quantities import Quantified
from regime_proto.engine.masks import pack_masks
from regime_proto.engine.measure import Meter
from regime_proto.engine.noise_floor import measure_noise
from regime_proto.program.program import Program
from regime_proto.quantities.deltas import KeptWeights, non_finite
from regime_proto.runtime.device import runtime_version
from regime_proto.schema.types import Array


@dataclass(frozen=True)
class Measurement:
    """What was measured of one state of a model.

    Parameters
    ----------
    sums : (tensor, 2) float64
        Σ|Δ| and ΣΔ² against the state measured before, NaN for the first.
    packed : (sample, byte) uint8
        The masks.
    finite : bool
        Whether no weight and no activation was NaN or Inf.
    quantities : mapping of str to array
        What else is measured, by name; against the state measured before where it is against the previous one.
    problem : str
        Why a quantity could not be measured; empty while all is well.
    seconds : float
        How long a device was at work on it while the host went on; 0 where the host measured.
    """

    sums: Array
    packed: Array
    finite: bool
    quantities: Mapping[str, Array] = field(default_factory=dict)
    problem: str = ""
    seconds: float = 0.0


Pending = Callable[[], Measurement]
"""A measurement that may be under way on a device; the call waits for it."""


class Engine(Protocol):
    """Measures the states of one model."""

    name: str
    """With its version."""
    device: str
    asynchronous: bool
    """Whether a measurement goes on after `measure` has returned."""
    collective: bool
    """Whether other processes take part in every measurement."""
    start: Mapping[str, Array]
    """The first state, which later ones are held against, whole and on the host; empty if there is none, or no process
    has it.

    It may be set to that of an earlier run, unless measuring is collective.
    """

    def measure(self, model: object, *, begins: bool = False) -> Pending:
        """Measure the state that the model is in now, and keep its weights to compare the next one with.

        Parameters
        ----------
        model : object
            The state where it is not part of the model that is followed; None where it is.
        begins : bool
            Hold this state and later ones against this one.
        """

    def noise(self, model: object) -> Mapping[str, float]:
        """Measure the noise floor at the state that the model is in now; return attributes of the trajectory."""

    def wait(self, model: object) -> None:
        """Wait for what the training has asked of a device, if `measure` would: it is not observing that takes it."""

    def agreed(self, stride: int | None) -> int | None:
        """Return the stride of the process that records; where measuring is collective, all processes call this."""


@dataclass(frozen=True)
class LiveModel:
    """A model that is followed in training.

    Parameters
    ----------
    adapter : str
        In words, what follows it.
    program : Program
    probe : mapping of str to array
        Bound to the inputs of the program, and `probe.COUNTED` if there is one.
    tensors : callable
        Returns the current weights on the host under the program's names: every trainable tensor and every weight
        input of the graph. Its argument is that of `Engine.measure`. Views of live memory will do.
    native : callable, optional
        Returns an engine of the framework's own for what a meter measures, or raises a `RegimeError`.
    native_only : bool
        Whether `tensors` gives the weights as they were at the begin only: no other engine will do.
    takes_params : bool
        Whether the weights are given to every observation, and are not part of the model.
    wait : callable, optional
        Waits until the current weights have been computed; its argument is that of `tensors`. None where `tensors`
        does not wait.
    """

    adapter: str
    program: Program
    probe: Mapping[str, Array]
    tensors: Callable[[object], Mapping[str, Array]]
    native: Callable[[Meter], Engine] | None = None
    native_only: bool = False
    takes_params: bool = False
    wait: Callable[[object], object] | None = None


class RuntimeEngine:
    """ONNX Runtime for the masks, NumPy for the weights: works with every framework.

    Parameters
    ----------
    meter : Meter
    live : LiveModel
    """

    asynchronous = False
    collective = False

    def __init__(self, meter: Meter, live: LiveModel) -> None:
        self.name = runtime_version()
        self.device = meter.device.provider
        self._meter = meter
        self._live = live
        self._names = [tensor.name for tensor in live.program.trainable]
        self._kept = KeptWeights(self._names)
        self._quantities = Quantified(meter.measures)

    @property
    def start(self) -> Mapping[str, Array]:
        """See `Engine`."""
        return self._kept.first

    @start.setter
    def start(self, start: Mapping[str, Array]) -> None:
        self._kept.first = start

    def measure(self, model: object, *, begins: bool = False) -> Pending:
        """See `Engine`."""
        weights = self._live.tensors(model)
        if begins:
            self._kept.begin(weights)
        masks = self._meter.run(weights)
        packed = pack_masks(masks)
        current = {name: weights[name] for name in self._names}
        others = self._quantities.row(
            current, self._kept.previous, self._kept.first, packed, begins=begins, seen=masks.seen
        )
        sums = self._kept.change(weights)
        finite = masks.finite and is_finite(weights, self._names, sums)
        measurement = Measurement(sums, packed, finite, *others)
        return lambda: measurement

    def noise(self, model: object) -> Mapping[str, float]:
        """See `Engine`."""
        return measure_noise(self._meter, self._live.probe, [self._live.tensors(model)]).attributes

    def wait(self, model: object) -> None:
        """See `Engine`."""
        if self._live.wait is not None:
            self._live.wait(model)

    def agreed(self, stride: int | None) -> int | None:
        """See `Engine`."""
        return stride


def is_finite(weights: Mapping[str, Array], names: list[str], sums: Array) -> bool:
    """Return whether no weight is NaN or Inf. A finite sum of |Δ| shows that; otherwise they are looked at."""
    suspects = [name for name, finite in zip(names, np.isfinite(sums[:, 0]), strict=True) if not finite]
    return not non_finite(weights, suspects)
