"""The noise floor: which share of the units flips under a change that means nothing (PROTOCOL, section 3)."""

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

import numpy as np

from regime_proto.engine.device import cores, find_device
from regime_proto.engine.masks import FlipCounter, pack_masks
from regime_proto.engine.measure import Meter
from regime_proto.engine.session import Masks, MaskSession, Placer
from regime_proto.source import Array

SEED = 0


@dataclass(frozen=True)
class NoiseFloor:
    """Flip fractions of states against themselves: means over the layers, the largest over the states.

    NaN where something was not, or could not be, measured.

    Parameters
    ----------
    ulp : float
        Every weight moved by one unit in the last place.
    threads : float
        Two threads in place of one, which may add in another order.
    device : float
        The CPU in place of the GPU.
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
        A few states under the program's names; one at a time is held. Those with NaN or Inf are passed over.
    """
    flips = FlipCounter(meter.layers)
    units = meter.layer_units.sum(axis=1)
    sessions: dict[str, tuple[MaskSession, Placer]] = {}
    found: dict[str, list[float]] = {}

    def run(session: MaskSession, placer: Placer) -> Masks:
        return session.run(placer.place(weights, "noise floor"))

    with ThreadPoolExecutor(cores()) as pool:
        for weights in states:
            sessions = sessions or {"usual": (meter.session, meter.placer), **_others(meter, probe, weights)}
            usual, *others = pool.map(lambda pair: run(*pair), sessions.values())
            if not usual.finite:
                continue
            for name, other in zip(list(sessions)[1:], others, strict=True):
                changed = flips.count(pack_masks(usual), pack_masks(other)).sum(axis=1)
                found.setdefault(name, []).append(float(np.mean(changed[units > 0] / units[units > 0])))
    return NoiseFloor(**{name: max(values) for name, values in found.items()})


def _others(
    meter: Meter, probe: Mapping[str, Array], weights: Mapping[str, Array]
) -> dict[str, tuple[MaskSession, Placer]]:
    """Return sessions that differ from the meter's in nothing that should matter."""

    def session(placer: Placer, **change: int) -> tuple[MaskSession, Placer]:
        made = MaskSession(
            meter.program,
            meter.session.gates,
            probe,
            placer.device,
            dtypes=placer.dtypes,
            rows=meter.rows,
            brief=True,
            **change,
        )
        return made, placer

    others = {"ulp": session(meter.placer, nudged=SEED)}
    if meter.session.device.kind == "cpu":
        others["threads"] = session(meter.placer, threads=2)
    else:
        others["device"] = session(Placer(find_device("cpu"), weights))
    return others
