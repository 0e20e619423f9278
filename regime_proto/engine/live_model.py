"""The interface between the recorder and a model in training, for any framework."""

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
    """The results measured for one state of a model.

    Parameters
    ----------
    sums : (tensor, 2) float64
        Σ|Δ| and ΣΔ² relative to the state measured before, NaN for the first.
    packed : (sample, byte) uint8
        The masks.
    finite : bool
        Whether no weight and no activation was NaN or Inf.
    quantities : mapping of str to array
        Further quantities, by name; "previous" means the state measured before.
    problem : str
        Why a quantity could not be measured; empty if there is no problem.
    seconds : float
        How long a device worked on it while the host continued; 0 if the host measured.
    """

    sums: Array
    packed: Array
    finite: bool
    quantities: Mapping[str, Array] = field(default_factory=dict)
    problem: str = ""
    seconds: float = 0.0


Pending = Callable[[], Measurement]
"""A measurement that may still run on a device; the call waits for it."""


class Engine(Protocol):
    """Measures the states of one model."""

    name: str
    """Its name and version."""
    device: str
    asynchronous: bool
    """Whether a measurement continues after `measure` has returned."""
    collective: bool
    """Whether other processes take part in every measurement."""
    start: Mapping[str, Array]
    """The first state, with which later ones are compared, whole and on the host.

    Empty if there is none, or no process has it. It may be set to the first state of an earlier
    run, unless measuring is collective.
    """

    def measure(self, model: object, *, begins: bool = False) -> Pending:
        """Measure the current state of the model, and keep its weights for comparison with the next one.

        Parameters
        ----------
        model : object
            The state, if it is not part of the followed model; otherwise None.
        begins : bool
            Make this the first state, with which it and later states are compared.
        """

    def noise(self, model: object) -> Mapping[str, float]:
        """Measure the noise floor at the current state of the model; return attributes of the trajectory."""

    def wait(self, model: object) -> None:
        """Wait for pending training work on a device, if `measure` would wait: this time is not spent on observing."""

    def agreed(self, stride: int | None) -> int | None:
        """Return the stride of the recording process; if measuring is collective, all processes call this."""


@dataclass(frozen=True)
class LiveModel:
    """A model that is followed during training.

    Parameters
    ----------
    adapter : str
        The adapter that follows it, in words.
    program : Program
    probe : mapping of str to array
        Bound to the inputs of the program, and `probe.COUNTED` if there is one.
    tensors : callable
        Returns the current weights on the host under the program's names: every trainable tensor and every weight
        input of the graph. Its argument is that of `Engine.measure`. Views of live memory are allowed.
    native : callable, optional
        Returns the framework's own engine for a meter, or raises a `RegimeError`.
    native_only : bool
        Whether `tensors` returns only the initial weights, so that no other engine can be used.
    takes_params : bool
        Whether the weights are passed to every observation because they are not part of the model.
    wait : callable, optional
        Waits until the current weights have been computed; its argument is that of `tensors`. None
        if `tensors` does not wait.
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
    """Uses ONNX Runtime for masks and NumPy for weights; works with every framework.

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
    """Return whether no weight is NaN or Inf. A finite sum of |Δ| proves this; otherwise the weights are checked."""
    suspects = [name for name, finite in zip(names, np.isfinite(sums[:, 0]), strict=True) if not finite]
    return not non_finite(weights, suspects)
