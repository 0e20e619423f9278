"""Records torch modules during training."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel

from regime_proto.adapters.from_torch import exporter
from regime_proto.adapters.from_torch.live_engine import TorchEngine
from regime_proto.adapters.from_torch.live_masks import MaskGraph
from regime_proto.adapters.from_torch.live_parts import Parts, Sharded, Whole
from regime_proto.adapters.from_torch.live_weights import array_of, is_sharded, tensors_of, wait_for
from regime_proto.adapters.from_torch.unsharded import is_wrapped, unsharded
from regime_proto.adapters.from_torch.wrappers import bare
from regime_proto.adapters.live import draw_probe
from regime_proto.adapters.live.idle import Idle
from regime_proto.engine.live_model import Engine, LiveModel, Pending
from regime_proto.engine.masks import is_same_but_rounding, pack_masks
from regime_proto.engine.measure import Meter
from regime_proto.engine.seeing import beside_of
from regime_proto.program.probe import Probe
from regime_proto.schema.errors import RegimeError
from regime_proto.schema.types import Array

Export = Callable[[nn.Module, Probe], exporter.Exported]


class IdleTorch(Idle):
    """Engine of a process with the same weights as the recording process.

    Parameters
    ----------
    model : torch.nn.Module
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model

    def measure(self, model: object, *, begins: bool = False) -> Pending:
        """Raise those errors of the recording process that are common to all processes; do nothing else."""
        Whole().weights(self._model)
        return super().measure(model, begins=begins)


def leads(model: Any) -> bool:
    """Whether this is the recording process: the first of those that train together."""
    return not (dist.is_available() and dist.is_initialized()) or bool(dist.get_rank() == 0)


def follow(model: Any, probe: Probe | None, export_both: Export | None = None) -> LiveModel | Engine:
    """Return the live model or engine of a module for a recorder; see `protocols.Following`.

    Parameters
    ----------
    model : torch.nn.Module
    probe : Probe, optional
    export_both : callable, optional
        Exports the module instead of `exporter.export_both`.
    """
    export_both = export_both or exporter.export_both
    model = bare(model)
    if any(isinstance(module, FullyShardedDataParallel) for module in model.modules()):
        raise RegimeError(
            "FullyShardedDataParallel: cannot be recorded during training; shard the model with fully_shard "
            "(accelerate: fsdp_version=2), or analyze its checkpoints"
        )
    if not is_sharded(model):
        if probe is None:
            return IdleTorch(model)
        plain = unsharded(model, tensors_of(model)) if is_wrapped(model) else model
        return _live(model, plain, probe, Whole(), export_both)
    parts = Sharded()
    weights = parts.whole(parts.weights(model), keep=probe is not None)
    if probe is None:
        return TorchEngine(model, (), parts)
    return _live(model, unsharded(model, weights), probe, parts, export_both)


def draw(model: Any, loader: object, samples: int, seed: int) -> Probe:
    """Draw a probe from a data loader without changing random states; see `live.draw_probe`."""
    with undisturbed():
        return draw_probe.draw(bare(model).forward, loader, samples, seed)


def _live(model: nn.Module, exportable: nn.Module, probe: Probe, parts: Parts, export_both: Export) -> LiveModel:
    with undisturbed(), _own_forward(exportable):
        exported = export_both(exportable, probe)
    program = exported.program
    bound = probe.complete(program.probe_inputs)
    trained = [tensor.name for tensor in program.trainable]
    needed = [name for name in tensors_of(exportable) if name in {*trained, *program.weight_inputs}]

    def tensors(_: object) -> dict[str, Array]:
        weights = tensors_of(exportable if parts.collective else model)
        return {name: array_of(weights[name]) for name in needed}

    def native(meter: Meter) -> Engine:
        beside = beside_of(meter.measures, program, meter.rows[0].samples)
        masks = MaskGraph(exported, meter.gates, meter.rows, tensors_of(exportable), bound, beside=beside)
        _compare(masks, tensors_of(exportable), pack_masks(meter.run(tensors(None))))
        return TorchEngine(model, trained, parts, meter=meter, masks=masks)

    def wait(_: object) -> None:
        wait_for(next(iter(tensors_of(model).values())).device)

    return LiveModel("torch, live", program, bound, tensors, native, native_only=parts.collective, wait=wait)


@contextlib.contextmanager
def _own_forward(model: nn.Module) -> Iterator[None]:
    """Temporarily remove the half-precision `forward` with which accelerate replaced that of a module."""
    wrapped, own = (vars(model).get(name) for name in ("forward", "_original_forward"))
    if wrapped is None or own is None:
        yield
        return
    model.forward = own
    try:
        yield
    finally:
        model.forward = wrapped


def _compare(masks: MaskGraph, weights: Mapping[str, torch.Tensor], expected: Array) -> None:
    """Raise an error unless torch and ONNX Runtime compute the same masks."""
    try:
        found = masks.run(weights).packed()
    except Exception as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise RegimeError(f"torch cannot run the exported program itself: {reason}") from None
    if not is_same_but_rounding(expected, found):
        differing = int(np.bitwise_count(np.bitwise_xor(found, expected)).sum())
        raise RegimeError(f"torch and ONNX Runtime differ in {differing:,} of {8 * expected.size:,} bits of the masks")


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Restore random states, also of GPUs: running the model or reading its data may draw random numbers."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with draw_probe.undisturbed(), torch.random.fork_rng(list(devices)):
        yield
