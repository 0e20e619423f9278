"""Σ|Δ| and ΣΔ² of tensors of all sizes, against sums in float64."""

import ml_dtypes
import numpy as np
import pytest

from regime_proto.quantities import deltas

RANDOM = np.random.default_rng(0)
SHAPES = [(3,), (), (0,), (5, 7), (deltas.SMALL,), (deltas.SMALL + 1,), (1200, 1100), (2,)]


def states(shapes, dtype=np.float32):
    return [
        {str(index): RANDOM.normal(size=shape).astype(dtype) for index, shape in enumerate(shapes)} for _ in range(2)
    ]


def expected(now, before):
    changes = [now[name].astype(np.float64) - before[name].astype(np.float64) for name in now]
    return np.array([(np.abs(change).sum(), np.square(change).sum()) for change in changes])


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, ml_dtypes.bfloat16, np.int64])
def test_sums_of_tensors_of_all_sizes(dtype):
    now, before = states(SHAPES, dtype)
    np.testing.assert_allclose(deltas.state_sums(now, before, list(now)), expected(now, before), rtol=3e-8)


def test_more_small_tensors_than_are_taken_at_a_time():
    """Each comes out as it does alone, to the last bit, whatever the thread had to do before."""
    shapes = [(size,) for size in RANDOM.integers(1, deltas.SMALL + 1, 100)]
    assert sum(size for (size,) in shapes) > 2 * deltas.BLOCK
    now, before = states(shapes)
    alone = np.concatenate([deltas.state_sums(now, before, [name]) for name in now])
    np.testing.assert_array_equal(deltas.state_sums(now, before, list(now)), alone)
    np.testing.assert_allclose(alone, expected(now, before), rtol=1e-13)
