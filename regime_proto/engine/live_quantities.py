"""Measures quantities of a model in training: a failure ends the recording, not the training."""

from collections.abc import Mapping

from regime_proto.engine.seeing import preactivations_of
from regime_proto.engine.session import NOTHING_SEEN, Seen
from regime_proto.quantities.base import State
from regime_proto.quantities.measuring import Measures
from regime_proto.schema.errors import RegimeError
from regime_proto.schema.types import Array

WHERE = "the model in training"


class Quantified:
    """Applies quantities to one state after another.

    Parameters
    ----------
    measures : Measures
    """

    def __init__(self, measures: Measures) -> None:
        self._measures = measures
        self._previous_masks: Array | None = None
        self._previous_seen = NOTHING_SEEN
        self._first_masks: Array | None = None

    def row(
        self,
        current: Mapping[str, Array],
        previous: Mapping[str, Array],
        first: Mapping[str, Array],
        packed: Array,
        *,
        begins: bool,
        seen: Seen = NOTHING_SEEN,
    ) -> tuple[dict[str, Array], str]:
        """Return the values of one state by quantity, and why one could not be computed; empty if all were computed.

        Parameters
        ----------
        current, previous, first : mapping of str to array
            The weights, with the names and in the order of the trajectory; empty if unknown or not needed.
        packed : (sample, byte) uint8
            The masks of the current state.
        begins : bool
            Whether it is the first state.
        seen : Seen
            Further results of the pass.
        """
        if begins:
            self._first_masks = packed
        # Weights that are not needed are absent; a kept state has weights or masks.
        outputs, units = self._previous_seen.outputs, self._measures.network.layer_units
        before = None if self._previous_masks is None else State(previous, self._previous_masks, outputs=outputs)
        start = State(first, self._first_masks) if first or self._first_masks is not None else None
        self._previous_masks, self._previous_seen = packed, seen
        state = State(current, packed, preactivations_of(seen, units), seen.outputs)
        try:
            return self._measures.row(state, {"previous": before, "first": start}, WHERE), ""
        except RegimeError as error:
            unknown = {quantity.name: self._measures.unknown(quantity) for quantity in self._measures.quantities}
            return unknown, str(error)
