"""The noise floor: the share of units that flip under a meaningless change (docs/protocol.md, section 3)."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, astuple, dataclass

import numpy as np

from regime_proto.engine.calibrated import Calibrated
from regime_proto.engine.masks import pack_masks
from regime_proto.engine.measure import Bound, Measured, Meter
from regime_proto.engine.session import Masks, MaskSession, Placer, Running
from regime_proto.program.gates import Gate
from regime_proto.program.program import Program
from regime_proto.runtime.device import cores, find_device
from regime_proto.schema.flips import FlipCounter, pattern_change
from regime_proto.schema.types import Array

SEED = 0
Run = Callable[[Mapping[str, Array]], Masks]
"""A forward pass from a state, under the program's names, to its masks."""


@dataclass(frozen=True)
class NoiseFloor:
    """Flip fractions of states relative to themselves: the mean over layers, the maximum over states.

    NaN if not, or not successfully, measured.

    Parameters
    ----------
    ulp : float
        Every weight moved by one unit in the last place.
    threads : float
        Two threads instead of one, which may add in a different order.
    device : float
        The CPU instead of the GPU.
    """

    ulp: float = np.nan
    threads: float = np.nan
    device: float = np.nan

    @property
    def attributes(self) -> dict[str, float]:
        """The root attributes of a trajectory: each change, and the largest of them."""
        parts = {f"noise_floor_{name}": value for name, value in asdict(self).items() if np.isfinite(value)}
        return {"noise_floor": max(parts.values()), **parts} if parts else {}


def measure_noise(meter: Meter, probe: Mapping[str, Array], states: Iterable[Mapping[str, Array]]) -> NoiseFloor:
    """Measure the noise floor.

    Parameters
    ----------
    meter : Meter
    probe : mapping of str to array
        By program input.
    states : iterable of mappings of str to array
        A few states under the program's names, held one at a time. States with NaN or Inf are skipped.
    """
    runs: dict[str, Run] = {}
    found = [NoiseFloor()]
    with ThreadPoolExecutor(cores()) as pool:
        for weights in states:
            runs = runs or {"usual": meter.run, **_other_runs(meter, probe, weights)}
            futures = {name: pool.submit(run, weights) for name, run in runs.items()}
            masks = {name: future.result() for name, future in futures.items()}
            usual = masks.pop("usual")
            if usual.finite:
                others = {name: pack_masks(other) for name, other in masks.items()}
                found.append(noise_of(meter, pack_masks(usual), others))
    # NaN means not measured; any number replaces it.
    return NoiseFloor(*np.fmax.reduce([astuple(part) for part in found]).tolist())


def measure_one(meter: Meter, probe: Mapping[str, Array], state: Bound, masks: Callable[[], Measured]) -> NoiseFloor:
    """Measure one part of the noise floor of a state with a single pass: the change of weights.

    Parameters
    ----------
    meter : Meter
    probe : mapping of str to array
        By program input.
    state : Bound
    masks : callable
        Waits for its masks, which a different thread may be computing.
    """
    program, usual = meter.program_of(state.checkpoint)
    session = _session(meter, probe, meter.placer, program=program, gates=usual.gates, nudged=SEED)
    nudged = pack_masks(session.run(state.placed))
    measured = masks()
    return noise_of(meter, measured.comparable.packed, {"ulp": nudged}) if measured.finite else NoiseFloor()


def noise_of(meter: Calibrated, usual: Array, others: Mapping[str, Array]) -> NoiseFloor:
    """Return the noise floor of one state.

    Parameters
    ----------
    meter : Calibrated
    usual : (sample, byte) uint8
        Its masks.
    others : mapping of str to (sample, byte) uint8
        Its masks after meaningless changes, by the names of `NoiseFloor`.
    """
    flips = FlipCounter(meter.layers)
    units = meter.layer_units.sum(axis=1)
    changes = {name: flips.count(usual, other).sum(axis=1) for name, other in others.items()}
    return NoiseFloor(**{name: pattern_change(change, units) for name, change in changes.items()})


def _other_runs(meter: Meter, probe: Mapping[str, Array], weights: Mapping[str, Array]) -> dict[str, Run]:
    """Return passes that differ from the meter's only in ways that should not matter."""

    def run(placer: Placer, *, nudged: int | None = None, threads: int = 1) -> Run:
        session = _session(meter, probe, placer, nudged=nudged, threads=threads)
        return lambda weights: session.run(placer.place(weights, "noise floor"))

    others = {"ulp": run(meter.placer, nudged=SEED)}
    if meter.device.kind == "cpu":
        others["threads"] = run(meter.placer, threads=2)
    else:
        others["device"] = run(Placer(find_device("cpu"), weights))
    return others


def _session(
    meter: Meter,
    probe: Mapping[str, Array],
    placer: Placer,
    *,
    program: Program | None = None,
    gates: Sequence[Gate] = (),
    nudged: int | None = None,
    threads: int = 1,
) -> MaskSession:
    """Return a session that differs from the meter's only in ways that should not matter."""
    return MaskSession(
        program or meter.program,
        gates or meter.session.gates,
        probe,
        placer.device,
        dtypes=placer.dtypes,
        rows=meter.rows,
        nudged=nudged,
        running=Running(threads, brief=True),
    )
