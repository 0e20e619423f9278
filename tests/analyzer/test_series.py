"""Values of some observations of a variable, read block by block."""

import numpy as np
import pytest
import xarray as xr

from regime_proto.analyzer import series


class Noting:
    """A variable that notes which of its rows are read."""

    def __init__(self, values):
        self.values, self.shape, self.read = xr.DataArray(values), values.shape, []

    def __len__(self):
        return len(self.values)

    def __getitem__(self, rows):
        self.read.append((rows.start, rows.stop))
        return self.values[rows]


@pytest.mark.parametrize(
    ("kept", "read"),
    [
        ([0], [(0, 5)]),
        ([4, 12], [(0, 5), (10, 15)]),
        ([*range(20)], [(0, 5), (5, 10), (10, 15), (15, 20)]),
        # What their shape would be is all there is to know.
        ([], [(0, 5)]),
    ],
)
def test_only_blocks_that_hold_what_is_asked_for_are_read(kept, read, monkeypatch):
    values = np.random.default_rng(0).random((20, 3))
    variable = Noting(values)
    monkeypatch.setattr(series, "_BLOCK_VALUES", 15)
    found = series.by_blocks(variable, np.array(kept, np.int64), lambda rows: rows * 2)
    np.testing.assert_array_equal(found, values[kept] * 2 if kept else np.empty((0, 3)))
    assert variable.read == read
