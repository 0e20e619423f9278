"""Changes over different strides in one curve: said, with a part of the run that has one."""

import re

import numpy as np
import pytest
import runs

from regime_proto import analyze

CHANGED = [*range(0, 40, 1), *range(40, 2001, 8)]
PART = re.compile(r"--steps (\d+:\d+) \(every (\d+) steps\)")


def of(steps, *, per_epoch=100.0, kind="step"):
    """Analyze a made-up run at these steps, with the epoch of each."""
    trajectory = runs.synthetic(steps=len(steps) - 1, samples=2, layers=2, noise=0.1, observations_per_epoch=None)
    steps = np.array(steps)
    trajectory = trajectory.assign_coords(step=steps).assign(epoch=("step", steps / per_epoch))
    return trajectory.assign_attrs(step_kind=kind)


def doubts(trajectory, **options):
    return [text for text in analyze(trajectory, resamples=0, **options).warnings if "different quantities" in text]


def test_a_stride_that_changes_is_said_and_the_part_that_is_named_has_one():
    trajectory = of(CHANGED)
    [doubt] = doubts(trajectory)
    assert doubt.startswith("the changes span 1 to 8 steps each")
    assert re.search(r"the smoothing window of \d+ observations spans different fractions of an epoch", doubt)
    part, stride = PART.search(doubt).groups()
    assert part == "40:2000"
    assert stride == "8"
    found = analyze(trajectory, steps=part, resamples=0)
    assert not doubts(trajectory, steps=part)
    assert found.stride == 8
    # 0.3 of an epoch of 100 steps, in observations of this part.
    assert found.window == round(0.3 * 100 / 8)
    assert analyze(trajectory, steps=part, batches_per_epoch=100, resamples=0).window == found.window


def test_without_smoothing_nothing_is_said_of_a_window():
    trajectory = of(CHANGED).drop_vars("epoch").assign(epoch=("step", np.full(len(CHANGED), np.nan)))
    [doubt] = doubts(trajectory)
    assert "window" not in doubt


@pytest.mark.parametrize(
    "steps",
    [
        range(0, 500, 5),
        [*range(0, 500, 5), 501],
        [0, *range(4, 400)],
        np.cumsum(np.random.default_rng(0).integers(90, 111, 100)),
    ],
    ids=["one stride", "the last comes early", "the first is apart", "by the clock"],
)
def test_strides_that_are_as_good_as_equal(steps):
    assert not doubts(of(list(steps)))


def test_a_mere_count_has_no_strides():
    assert not doubts(of(CHANGED, kind="ordinal"))


def test_where_no_part_has_one_stride():
    [doubt] = doubts(of(np.cumsum([1, 4] * 40).tolist()))
    assert "--steps" not in doubt
    assert doubt.endswith("record, or save checkpoints, at a fixed interval of steps")


def test_epochs_are_named_as_such():
    [doubt] = doubts(of(CHANGED, kind="epoch"))
    assert "span 1 to 8 epochs each" in doubt
    assert re.search(r"--steps \d+:\d+ \(every 8 epochs\)", doubt)
