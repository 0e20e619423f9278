"""What stored masks tell: against plain loops over bits."""

import itertools

import numpy as np
import pytest
from trajectories import bits_of, growing_rows, header

import regime_proto
from regime_proto.analyzer import masks as mask_module
from regime_proto.analyzer.masks import select_masks
from regime_proto.analyzer.patterns import read_patterns
from regime_proto.schema import hdf5


def trajectory_of(tmp_path, count, **options):
    head = header(**options)
    path = tmp_path / "run.h5"
    path.write_bytes(hdf5.image(head, growing_rows(head, count)))
    return head, path


def change(head, one, other):
    pairs = zip(bits_of(head, one), bits_of(head, other), strict=True)
    return np.mean([(first != second).any(axis=1).mean() for first, second in pairs])


@pytest.mark.parametrize("options", [{}, {"policy": "every=3"}], ids=["all", "thinned"])
def test_agreement_and_units_are_those_of_the_bits(tmp_path, options):
    head, path = trajectory_of(tmp_path, 40, **options)
    with regime_proto.open_trajectory(path) as trajectory:
        found = read_patterns(trajectory)
        stored = trajectory["mask"].to_numpy()
        steps = trajectory["mask_step"].to_numpy()
    masks = stored[np.searchsorted(steps, found.steps)]
    expected = [[1 - change(head, one, other) for other in masks] for one in masks]
    np.testing.assert_allclose(found.agreement, expected)
    for index in range(len(head.layers)):
        on = np.array([bits_of(head, mask)[index][:, 0] for mask in masks])
        np.testing.assert_array_equal(found.units.dead[:, index], (~on.any(axis=1)).sum(axis=1))
        np.testing.assert_array_equal(found.units.always_on[:, index], on.all(axis=1).sum(axis=1))
        late = [bits_of(head, mask)[index] for mask in masks[-found.units.late_picks :]]
        often = np.mean([(now != before).any(axis=(0, 1)) for before, now in itertools.pairwise(late)], axis=0)
        assert found.units.restless[index] == (often > 0.5).sum()
    assert (found.samples, found.all_samples, found.stored) == (3, 3, len(steps))


def test_strides_are_means_over_pairs_that_far_apart(tmp_path):
    head, path = trajectory_of(tmp_path, 20)
    with regime_proto.open_trajectory(path) as trajectory:
        found = read_patterns(trajectory).strides
        stored = trajectory["mask"].to_numpy()
    assert found.distances.tolist() == [1, 2, 4, 8, 16]
    np.testing.assert_array_equal(found.steps, 10 * found.distances)
    for distance, mean, low, high, pairs in zip(
        found.distances, found.mean, found.low, found.high, found.pairs, strict=True
    ):
        every = [change(head, stored[at], stored[at + distance]) for at in range(len(stored) - distance)]
        assert pairs == min(16, len(every))
        assert min(every) <= low <= mean <= high <= max(every)
        if len(every) <= 16:
            assert mean == pytest.approx(np.mean(every))


def test_a_restless_unit_and_a_dead_one_are_found():
    trajectory = regime_proto.synthetic.trajectory(steps=60, layers=1, samples=4, units=16, patterns=np.zeros(60))
    masks = trajectory["mask"].to_numpy()
    masks[:] = 0b01000000
    masks[::2, 0, 0] |= 0b00000001
    trajectory["mask"].data[:] = masks
    found = read_patterns(trajectory).units
    # Unit 1 of every byte is on for all samples; the last one of the first byte comes and goes for one sample.
    assert found.restless.tolist() == [1]
    assert set(found.always_on[:, 0]) == {2}
    assert set(found.dead[:, 0]) == {13, 14}


def test_large_masks_are_looked_at_in_part_and_invalid_ones_not_at_all(tmp_path, monkeypatch):
    trajectory = regime_proto.synthetic.trajectory(steps=300, layers=2, samples=8, units=512)
    trajectory["valid"].data[5] = 0
    everything = select_masks(trajectory)
    assert 5 not in everything.steps
    assert 5 not in everything.paired_steps
    assert everything.stored == 300
    monkeypatch.setattr(mask_module, "READ_BYTES", 100_000)
    monkeypatch.setattr(mask_module, "COMPARED_BYTES", 100_000)
    part = select_masks(trajectory)
    assert part.masks.shape[:2] == (16, 2)
    np.testing.assert_array_equal(part.masks, trajectory["mask"].to_numpy()[part.steps][:, [0, 7]])
    assert part.units.shape == (2, 2)


def test_without_masks_there_is_nothing_to_tell():
    trajectory = regime_proto.synthetic.trajectory(steps=10).isel(mask_step=slice(0, 1))
    assert read_patterns(trajectory) is None
