import numpy as np
import pytest
import xarray as xr

import regime_proto
from regime_proto.synthetic import SHAPES


@pytest.mark.parametrize("shape", SHAPES)
def test_flips_are_those_of_the_masks(shape):
    made = regime_proto.synthetic.trajectory(patterns=shape, steps=12, layers=2, samples=3, units=37)
    bits = [
        np.unpackbits(made["mask"].values[:, :, start:stop], axis=-1)[..., :37]
        for start, stop in zip(made["layer_byte_start"].values, made["layer_byte_stop"].values, strict=True)
    ]
    for layer, masks in enumerate(bits):
        changed = (masks[1:] != masks[:-1]).sum(axis=-1)
        assert made["flips"].values[1:, layer].tolist() == changed.tolist()


def test_the_same_seed_gives_the_same_trajectory(tmp_path):
    first = regime_proto.synthetic.trajectory(noise=0.2, seed=3, steps=20)
    path = regime_proto.synthetic.trajectory(noise=0.2, seed=3, steps=20, path=tmp_path / "a.h5")
    with regime_proto.open_trajectory(path) as second:
        xr.testing.assert_equal(first, second.load())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": "linaer"}, "shape 'linaer': expected an array, or one of linear"),
        ({"weights": np.ones(3), "steps": 4}, "expected 4 heights between 0 and 1"),
        ({"patterns": np.array([0.0, 2.0]), "steps": 2}, "expected 2 heights between 0 and 1"),
    ],
)
def test_wrong_curves(options, message):
    with pytest.raises(regime_proto.RegimeError, match=message):
        regime_proto.synthetic.trajectory(**options)
