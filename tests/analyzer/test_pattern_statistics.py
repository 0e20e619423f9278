"""Statistics of patterns against plain loops over bits, and known answers."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from trajectories import bits_of, growing_rows, header

import regime_proto
from regime_proto.analyzer.pattern_statistics import pattern_statistics
from regime_proto.schema import hdf5
from regime_proto.schema.flips import FlipCounter


def with_masks(head, masks):
    """Return the rows of a trajectory that has these masks."""
    counter = FlipCounter(head.layers)
    flips = [counter.count(mask, before) for mask, before in zip(masks, [masks[0], *masks], strict=False)]
    return {**growing_rows(head, len(masks)), "mask": masks, "flips": flips}


def masks_of(head, *patterns):
    """Return masks whose layers have a bit pattern for every sample, by state."""
    made = []
    for state in patterns:
        planes = [
            np.packbits(np.array(rows, bool), axis=1)
            for layer, rows in zip(head.layers, state, strict=True)
            for _ in layer.thresholds
        ]
        made.append(np.concatenate(planes, axis=1))
    return made


@pytest.mark.parametrize("options", [{}, {"policy": "every=3"}, {"sampled": True}], ids=["all", "thinned", "sampled"])
def test_statistics_are_those_of_the_bits(tmp_path, options):
    head = header(**options)
    path = tmp_path / "run.h5"
    path.write_bytes(hdf5.image(head, growing_rows(head, 40)))
    with regime_proto.open_trajectory(path) as trajectory:
        found = pattern_statistics(trajectory)
        stored, steps = trajectory["mask"].to_numpy(), trajectory["mask_step"].to_numpy()
    masks = stored[np.searchsorted(steps, found.steps)]
    for index, layer in enumerate(head.layers):
        patterns = [[sample.tobytes() for sample in bits_of(head, mask)[index]] for mask in masks]
        for pick, names in enumerate(patterns):
            counts = Counter(names)
            assert found.distinct[pick, index] == len(counts)
            shares = [count / len(names) for count in counts.values()]
            assert found.entropy[pick, index] == pytest.approx(-sum(share * math.log2(share) for share in shares))
            for other, jaccard in ((patterns[0], found.jaccard_first), (patterns[-1], found.jaccard_last)):
                both = len(set(names) & set(other)) / len(set(names) | set(other))
                assert jaccard[pick, index] == pytest.approx(both)
            bits, half = bits_of(head, masks[pick])[index], layer.width // 2
            apart = [
                min((bits[one] != bits[other]).any(axis=0).sum(), half) / half
                for one, other in itertools.combinations(range(len(bits)), 2)
            ]
            assert found.oui_pairs[pick, index] == pytest.approx(np.mean(apart))
            on = bits[:, 0].sum(axis=0)
            split = np.minimum(on, len(bits) - on) / (len(bits) // 2)
            assert found.oui_units[pick, index] == pytest.approx(np.mean(split))
    whole = [len({sample.tobytes() for sample in mask}) for mask in masks]
    assert found.distinct_regions.tolist() == whole


def test_known_answers(tmp_path):
    """All samples alike; all different, on for one each."""
    head = header()
    alike = [np.ones((3, layer.width)) for layer in head.layers]
    apart = [np.eye(3, layer.width) for layer in head.layers]
    path = tmp_path / "run.h5"
    path.write_bytes(hdf5.image(head, with_masks(head, masks_of(head, alike, apart))))
    with regime_proto.open_trajectory(path) as trajectory:
        found = pattern_statistics(trajectory)
    assert found.distinct.tolist() == [[1, 1], [3, 3]]
    np.testing.assert_allclose(found.entropy, [[0, 0], [math.log2(3)] * 2])
    assert not np.signbit(found.entropy).any()
    assert found.jaccard_first.tolist() == [[1, 1], [0, 0]]
    np.testing.assert_allclose(found.oui_pairs, [[0, 0], [2 / 6, 2 / 8]])
    np.testing.assert_allclose(found.oui_units, [[0, 0], [3 / 13, 3 / 16]])
    said = found.to_json()
    assert said["distinct_regions"] == [1, 3]
    assert said["distinct_patterns"] == [1, 3]
    assert said["layers_at_last_step"][0]["layer"] == head.layers[0].name


def test_without_masks(tmp_path):
    path = tmp_path / "run.h5"
    head = header(policy="none")
    path.write_bytes(hdf5.image(head, growing_rows(head, 5)))
    with regime_proto.open_trajectory(path) as trajectory:
        assert pattern_statistics(trajectory) is None
