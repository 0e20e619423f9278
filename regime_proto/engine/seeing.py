"""Data that quantities need in addition to weights and masks, and whether a program provides it."""

from collections.abc import Mapping, Sequence

import numpy as np

from regime_proto.engine.frozen import can_be_frozen
from regime_proto.engine.masks import pack_masks
from regime_proto.engine.session import MaskSession, Seen
from regime_proto.program.beside_masks import Beside, last_product, sample_outputs
from regime_proto.program.gates import Gate
from regime_proto.program.program import Program
from regime_proto.quantities.base import FINGERPRINT, FROZEN, OUTPUTS, PREACTIVATIONS, Preactivations, Quantity
from regime_proto.quantities.measuring import Measures
from regime_proto.schema.types import Array


def beside_of(measures: Measures, program: Program, samples: int) -> Beside:
    """Return the results that a pass must return in addition to the masks."""
    needs = measures.needs()
    of_outputs = not needs.isdisjoint((OUTPUTS, FROZEN))
    return Beside(
        preactivations=PREACTIVATIONS in needs,
        regions=FROZEN in needs,
        outputs=sample_outputs(program, samples)[0] if of_outputs else (),
        fingerprint=FINGERPRINT in needs,
    )


def obstacle(quantity: Quantity, program: Program, gates: Sequence[Gate], samples: int, *, is_one: bool) -> str:
    """Return in words why a program does not provide what a quantity needs; empty if it does.

    Parameters
    ----------
    quantity : Quantity
    program : Program
    gates : sequence of Gate
        The tracked gates.
    samples : int
        Number of samples in the probe.
    is_one : bool
        Whether all checkpoints have this graph.
    """
    needs = set(quantity.needs)
    of_function = not needs.isdisjoint((OUTPUTS, FROZEN, FINGERPRINT))
    if of_function and not is_one:
        return "the checkpoints hold different graphs, but functions can be compared for one graph only"
    if FROZEN in needs and not can_be_frozen(gates):
        return f"no tracked gate can be frozen: all are {gates[0].kind}, for example {gates[0].node} ({gates[0].op})"
    if FINGERPRINT in needs and not last_product(program, samples):
        return "the graph has no product of a weight with a value that has a sample axis"
    if of_function and not needs.isdisjoint((OUTPUTS, FROZEN)):
        return sample_outputs(program, samples)[1]
    return ""


def preactivations_of(seen: Seen, units: Array) -> Preactivations | None:
    """Return statistics of the inputs of gates; NaN if a layer has no counted unit.

    Parameters
    ----------
    seen : Seen
    units : (layer, sample) int64
        Number of counted units.
    """
    if seen.margins is None or seen.squares is None:
        return None
    counted = units.sum(axis=1)
    means = seen.squares.sum(axis=1) / np.where(counted > 0, counted, np.nan)
    return Preactivations(means, np.where(units > 0, seen.margins, np.nan))


class Between:
    """Runs states between two given states.

    Parameters
    ----------
    session : MaskSession
        A session that accepts weights in the program's own types.
    points : int
    """

    def __init__(self, session: MaskSession, points: int) -> None:
        self._session = session
        self._points = points

    def masks(self, previous: Mapping[str, Array], current: Mapping[str, Array]) -> tuple[Array, ...]:
        """Return the packed masks at evenly spaced points on the straight line between two states.

        Parameters
        ----------
        previous, current : mapping of str to array
            Weights, under the program's names.

        Returns
        -------
        tuple of (sample, byte) uint8
        """
        parts = [(point + 1) / (self._points + 1) for point in range(self._points)]
        return tuple(self._run(previous, current, part) for part in parts)

    def _run(self, previous: Mapping[str, Array], current: Mapping[str, Array], part: float) -> Array:
        device = self._session.device
        placed = {}
        for name in self._session.weights:
            before, now = previous[name], current[name]
            if now.dtype.kind in "iub":
                placed[name] = device.place(now)
                continue
            wide = np.float64 if now.dtype == np.float64 else np.float32
            before, now = before.astype(wide), now.astype(wide)
            placed[name] = device.place(before + wide(part) * (now - before))
        return pack_masks(self._session.run(placed))
