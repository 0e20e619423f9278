"""The change of weights in training against a copy of them: what a conversion finds in two states."""

import math

import numpy as np
import pytest

from regime_proto.quantities.deltas import BLOCK, SMALL, KeptWeights, state_sums

SIZES = [0, 5, SMALL, SMALL + 1, BLOCK // 4, BLOCK // 4 + 1, BLOCK + 77]


def states(dtype):
    """Yield states of tensors of all sizes, one of them neither contiguous nor in C order."""
    generator = np.random.default_rng(0)
    state = {f"of {size}": generator.standard_normal(size).astype(dtype) for size in SIZES}
    state["turned"] = generator.standard_normal((600, 500)).astype(dtype).T[::2]
    for _ in range(3):
        yield state
        state = {
            name: (array + 0.01 * generator.standard_normal(array.shape)).astype(dtype) for name, array in state.items()
        }


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_the_change_is_that_of_two_states_and_the_copy_is_the_newest(dtype):
    names = [f"of {size}" for size in SIZES] + ["turned"]
    kept, before = KeptWeights(names), None
    for state in states(dtype):
        found = kept.change(state)
        if before is None:
            assert np.isnan(found).all()
        else:
            # Its blocks are of another length.
            np.testing.assert_allclose(found, state_sums(state, before, names), rtol=1e-13)
            exact = [math.fsum(np.abs(state[name].astype(np.float64) - before[name]).ravel()) for name in names]
            np.testing.assert_allclose(found[:, 0], exact, rtol=1e-7)
        for name in names:
            np.testing.assert_array_equal(kept.previous[name], state[name])
        before = state
