"""Measures a torch module during training with torch itself, on the device of the model."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from regime_proto.adapters.from_torch.live_masks import MaskGraph
from regime_proto.adapters.from_torch.live_parts import Parts
from regime_proto.adapters.from_torch.live_weights import SIZE, DeviceWeights, array_of, wait_for
from regime_proto.engine.live_model import Measurement, Pending, is_finite
from regime_proto.engine.live_quantities import WHERE, Quantified
from regime_proto.engine.measure import Meter
from regime_proto.engine.noise_floor import SEED, noise_of
from regime_proto.engine.session import Seen
from regime_proto.quantities.deltas import KeptWeights
from regime_proto.quantities.installed import choose
from regime_proto.quantities.measuring import Measures, term_columns
from regime_proto.schema.errors import RegimeError
from regime_proto.schema.types import Array


class TorchEngine:
    """Measures masks and weights with torch; on a GPU only results leave the device.

    Parameters
    ----------
    model : torch.nn.Module
    names : sequence of str
        Trainable tensors in the order of the trajectory; only the recording process uses them.
    parts : Parts
        How the weights are distributed over processes.
    meter, masks : optional
        Passed in the recording process only; the others contribute their part of the weights.
    """

    def __init__(
        self,
        model: nn.Module,
        names: Sequence[str],
        parts: Parts,
        *,
        meter: Meter | None = None,
        masks: MaskGraph | None = None,
    ) -> None:
        self.name = f"torch {torch.__version__}"
        self._model = model
        measures = None if meter is None else meter.measures
        needed = set() if masks is None else set(masks.weights)
        if measures is not None and measures.computed.need_weights:
            needed |= set(names)
        chosen = () if measures is None else tuple(one.name for one in measures.terms)
        self._names, self._needed, chosen = parts.agreed((list(names), needed, chosen))
        self._terms = choose(chosen)
        self._parts = parts
        self._held = None if measures is None else _Held(Quantified(measures.computed), measures, self._names)
        self._meter = meter
        self._masks = masks
        weights = parts.weights(model)
        self._device = weights[self._names[0]].device
        self._places = {name: _place(weights[name]) for name in self._names}
        self.device = self._device.type
        self.asynchronous = self._device.type == "cuda"
        self.collective = parts.collective
        self._kept = KeptWeights(self._names)
        self._kept_there = DeviceWeights()

    @property
    def start(self) -> Mapping[str, Array]:
        """See `Engine`; of sharded weights each process holds only its part."""
        if self.collective:
            return {}
        there = zip(self._names, self._kept_there.first, strict=True) if self._kept_there.first else ()
        return {**self._kept.first, **{name: array_of(tensor) for name, tensor in there}}

    @start.setter
    def start(self, start: Mapping[str, Array]) -> None:
        if self.collective:
            raise RegimeError(
                "the weights are now sharded over processes, but the stored first state is whole; with quantities "
                "that compare with the first state, resume without sharding, or record to another output"
            )
        if self._held is not None:
            self._held.first = dict(start)
        if self._device.type == "cpu":
            self._kept.first = start
            return
        weights = self._current()
        self._kept_there.first = [torch.from_numpy(start[name]).to(weights[name]) for name in self._names]

    def measure(self, model: object, *, begins: bool = False) -> Pending:
        """See `Engine`."""
        weights = self._current()
        if self._device.type == "cpu":
            return self._on_host(weights, begins=begins)
        return self._on_device(weights, begins=begins)

    def noise(self, model: object) -> Mapping[str, float]:
        """See `Engine`; moves every weight by one unit in the last place, up or down at random."""
        weights = self._whole(self._current())
        if self._masks is None or self._meter is None:
            return {}
        usual = self._masks.run(weights)
        if not bool(usual.total.isfinite()):
            return {}
        generator = torch.Generator(self._device).manual_seed(SEED)
        nudged = self._masks.run({name: _nudged(tensor, generator) for name, tensor in weights.items()})
        return noise_of(self._meter, usual.packed(), {"ulp": nudged.packed()}).attributes

    def wait(self, model: object) -> None:
        """See `Engine`; does not wait if measuring runs concurrently with the training."""
        if not self.asynchronous:
            wait_for(self._device)

    def agreed(self, stride: int | None) -> int | None:
        """See `Engine`."""
        agreed: int | None = self._parts.agreed(stride)
        return agreed

    def _current(self) -> dict[str, torch.Tensor]:
        weights = self._parts.weights(self._model)
        for name, place in self._places.items():
            now = _place(weights[name]) if name in weights else None
            if now != place:
                raise RegimeError(
                    f"{name} was {_words(place)} when the recorder was created, and is now {_words(now)}; create the "
                    "recorder after moving and wrapping the model"
                )
        return weights

    def _whole(self, weights: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        """Return the weights that the masks need; empty in processes that do not record."""
        needed = {name: tensor for name, tensor in weights.items() if name in self._needed}
        return self._parts.whole(needed, keep=self._masks is not None)

    def _on_host(self, weights: Mapping[str, torch.Tensor], *, begins: bool = False) -> Pending:
        arrays = {name: array_of(self._parts.local(weights[name])) for name in self._names}
        if begins:
            self._kept.begin(arrays)
        others = {"previous": self._kept.previous, "first": self._kept.first}
        columns, problem = self._columns(lambda: term_columns(self._terms, arrays, others, self._names, WHERE))
        sums = np.concatenate([self._kept.change(arrays), columns], axis=1)
        finite = is_finite(arrays, self._names, sums)
        counted = [self._parts.counts(weights[name]) for name in self._names]
        sums, finite = self._parts.total(np.where(np.reshape(counted, (-1, 1)), sums, 0.0), finite)
        weights = self._whole(weights)
        if self._masks is None or self._held is None:
            return _nothing
        masks = self._masks.run(weights)
        packed = masks.packed()
        seen = seen_of(masks.outputs, masks.margins, masks.squares)
        found, why = self._held.row(self._held.on_host(weights), sums[:, 2:], packed, seen, begins=begins)
        finite = finite and bool(masks.total.isfinite())
        measurement = Measurement(sums[:, :2], packed, finite, found, problem or why)
        return lambda: measurement

    def _columns(self, make: Callable[[], Any]) -> tuple[Any, str]:
        """Return the sums of terms; or NaN, and why they could not be computed."""
        try:
            return make(), ""
        except RegimeError as error:
            return np.full((len(self._names), len(self._terms)), np.nan), str(error)

    def _on_device(self, weights: Mapping[str, torch.Tensor], *, begins: bool = False) -> Pending:
        """Start a measurement; its results are copied while the training continues."""
        begun = self._mark()
        local = [self._parts.local(weights[name]) for name in self._names]
        if begins:
            self._kept_there.begin(local)
        columns, problem = self._columns(lambda: self._kept_there.terms(self._terms, local))
        change = self._kept_there.change(local)
        change = torch.cat([change, torch.as_tensor(columns, dtype=change.dtype, device=change.device)], dim=1)
        if self._parts.collective:
            counted = torch.tensor([self._parts.counts(weights[name]) for name in self._names], device=self._device)
            change = self._parts.total_there(torch.where(counted[:, None], change, 0.0))
        weights = self._whole(weights)
        if self._masks is None or self._held is None:
            return _nothing
        held, current = self._held, self._held.on_host(weights)
        masks = self._masks.run(weights)
        results = [_to_host(tensor) for tensor in (change, masks.packed_there(), masks.total)]
        besides = [None if one is None else _to_host(one) for one in (masks.outputs, masks.margins, masks.squares)]
        arrived = self._mark()

        def wait() -> Measurement:
            seconds = 0.0
            if begun is not None and arrived is not None:
                arrived.synchronize()
                seconds = begun.elapsed_time(arrived) / 1000
            sums, packed, total = (np.asarray(result.numpy()) for result in results)
            finite = bool(np.isfinite(sums[:, SIZE]).all() and np.isfinite(total))
            columns = sums[:, SIZE + 1 :].astype(np.float64)
            found, why = held.row(current, columns, packed, seen_of(*besides), begins=begins)
            return Measurement(sums[:, :SIZE].astype(np.float64), packed, finite, found, problem or why, seconds)

        return wait

    def _mark(self) -> Any:
        """Return an event in the queue of the device; None if the device does not work asynchronously."""
        if self._device.type != "cuda":
            return None
        mark = torch.cuda.Event(enable_timing=True)
        # On the stream of the model's GPU, which may not be the current one.
        mark.record(torch.cuda.current_stream(self._device))
        return mark


class _Held:
    """Copies on the host that the recording process keeps for quantities that need whole states.

    Parameters
    ----------
    quantified : Quantified
        The quantities that need whole states.
    measures : Measures
        All quantities.
    names : sequence of str
        Trainable tensors in the order of the trajectory.

    Attributes
    ----------
    first : mapping of str to array
        The first state; empty if it is not needed.
    """

    def __init__(self, quantified: Quantified, measures: Measures, names: Sequence[str]) -> None:
        self._quantified = quantified
        self._measures = measures
        self._names = names
        self._previous: dict[str, Array] = {}
        self.first: dict[str, Array] = {}

    def on_host(self, weights: Mapping[str, torch.Tensor]) -> dict[str, Array]:
        """Return the current weights if quantities need them."""
        if not self._measures.computed.need_weights:
            return {}
        return {name: array_of(weights[name]).copy() for name in self._names}

    def row(
        self, current: dict[str, Array], columns: Array, packed: Array, seen: Seen, *, begins: bool
    ) -> tuple[dict[str, Array], str]:
        """Return the values of all quantities, and why one could not be computed."""
        try:
            found = self._measures.finished(columns, WHERE)
        except RegimeError as error:
            return {one.name: self._measures.unknown(one) for one in self._measures.quantities}, str(error)
        if not self._measures.computed.quantities:
            return found, ""
        if begins and self._measures.computed.keep_first:
            self.first = current
        computed, why = self._quantified.row(current, self._previous, self.first, packed, begins=begins, seen=seen)
        self._previous = current
        return found | computed, why


def seen_of(outputs: torch.Tensor | None, margins: torch.Tensor | None, squares: torch.Tensor | None) -> Seen:
    """Return the results of a forward pass other than masks as arrays."""
    arrays = (None if one is None else np.asarray(one.cpu().numpy()) for one in (outputs, margins, squares))
    return Seen((), *arrays)


def _place(tensor: torch.Tensor) -> tuple[torch.device, torch.Size]:
    return tensor.device, tensor.shape


def _words(place: tuple[torch.device, torch.Size] | None) -> str:
    return "missing" if place is None else f"of shape {list(place[1])} on {place[0]}"


def _nothing() -> Measurement:
    raise AssertionError("only the process that records waits for a measurement")


def _nudged(tensor: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    if tensor.dtype not in (torch.float32, torch.float64):
        return tensor
    up = torch.rand(tensor.shape, generator=generator, device=tensor.device) < 0.5
    return torch.nextafter(tensor, torch.where(up, torch.inf, -torch.inf).to(tensor.dtype))


def _to_host(tensor: torch.Tensor) -> torch.Tensor:
    """Start copying a tensor to the host; on CUDA the copy is complete when a later event is reached."""
    pinned = tensor.device.type == "cuda"
    # The user may have set any default device.
    there = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu", pin_memory=pinned)
    return there.copy_(tensor, non_blocking=pinned)
