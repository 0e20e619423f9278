"""When patterns count as settled: on curves whose shape is known, and never by looking ahead."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from regime_proto.recording.settling import Detector, Settling
from regime_proto.schema.errors import RegimeError

STEPS = 2000
WINDOW = 50
TIME = np.arange(1, STEPS + 1)


def noisy(curve, seed=0, spread=0.2):
    """Multiplicative noise, as that of a count of flips."""
    return curve * np.random.default_rng(seed).uniform(1 - spread, 1 + spread, len(curve))


def run(curve, **options):
    """Return the steps at which patterns were found settled, and whether they were at each step."""
    detector = Detector(Settling(**{"window": WINDOW, **options}))
    fired, states = [], []
    for step, value in zip(TIME, curve, strict=False):
        if detector.update(int(step), float(value)):
            fired.append(int(step))
        states.append(detector.is_settled)
    return fired, np.array(states), detector


def crossing(curve, share):
    """The first step from which a curve without noise stays below a share of its peak."""
    above = np.flatnonzero(curve > share * curve.max())
    return int(TIME[above[-1]]) + 1


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("decay", [40, 150, 400])
def test_it_fires_once_within_two_windows_of_the_change(decay, seed):
    curve = np.exp(-TIME / decay)
    fired, states, detector = run(noisy(curve, seed))
    [step] = fired
    # A mean over the past lags behind a curve that falls; the peak is that of means, too.
    assert crossing(curve, 0.1) <= step <= crossing(curve, 0.1) + 2 * WINDOW + 10
    assert states[step - 1 :].all()
    assert detector.settled_at == step
    assert detector.since == step - WINDOW + 1


@pytest.mark.parametrize(
    "curve",
    [
        np.ones(STEPS),
        1 + TIME / STEPS,
        1 - 0.8 * TIME / STEPS,
        np.zeros(STEPS),
        1 + np.sin(TIME / 100) / 2,
    ],
    ids=["flat", "growing", "falls too little", "nothing ever changes", "waves"],
)
def test_it_does_not_fire_where_nothing_settles(curve):
    fired, states, _ = run(noisy(curve))
    assert fired == []
    assert not states.any()


def test_a_warm_up_does_not_settle():
    curve = np.minimum(TIME / 500, 1) * np.exp(-np.maximum(TIME - 500, 0) / 100)
    [step], _, _ = run(noisy(curve))
    assert step > 500


def test_activity_that_returns_takes_it_back_and_it_does_not_fire_again():
    curve = np.exp(-TIME / 80) + 0.5 * ((TIME >= 1000) & (TIME < 1100)) + 1e-3
    fired, states, detector = run(noisy(curve))
    [step] = fired
    assert step < 1000
    assert states[step - 1 : 999].all()
    assert not states[1060]
    assert states[-1]
    assert detector.settled_at == step
    assert detector.since > 1100


def test_the_lowest_values_alone_do_not_settle_a_bursting_curve():
    bursts = np.where(TIME % 30 < 3, 1.0, 0.0)
    fired, _, _ = run(bursts)
    assert fired == []


def test_an_absolute_threshold_needs_no_peak():
    fired, states, _ = run(np.full(STEPS, 1e-3), threshold=1e-2, absolute=True)
    # Means exist from the 50th value on, and 50 of them have to be low.
    assert fired == [2 * WINDOW - 1]
    assert run(np.zeros(STEPS), threshold=1e-2, absolute=True)[0] == [2 * WINDOW - 1]
    assert states[-1]


def test_invalid_observations_are_passed_over():
    curve = noisy(np.exp(-TIME / 80))
    holed = np.repeat(curve, 2)
    holed[1::2] = math.nan
    detector, plain = Detector(Settling(window=WINDOW)), Detector(Settling(window=WINDOW))
    fired = [step for step, value in enumerate(holed) if detector.update(step, value)]
    assert [step // 2 for step in fired] == [step for step, value in enumerate(curve) if plain.update(step, value)]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=120), st.integers(1, 20))
def test_what_it_says_does_not_depend_on_what_comes(values, window):
    """Against a slow account of the definition, which sees nothing but the past."""
    detector = Detector(Settling(threshold=0.3, window=window))
    means, below = [], []
    for number, value in enumerate(values):
        detector.update(number, value)
        past = values[: number + 1]
        if len(past) >= window:
            means.append(math.fsum(past[-window:]) / window)
            below.append(max(means) > 0 and means[-1] <= 0.3 * max(means))
        assert detector.is_settled == (len(below) >= window and all(below[-window:]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": 1.0}, "threshold 1: expected a share of the peak, above 0 and below 1"),
        ({"threshold": 0.0}, "threshold 0: expected a share"),
        ({"threshold": 0.0, "absolute": True}, "threshold 0: expected a positive number"),
        ({"threshold": math.nan}, "threshold nan: expected a share"),
        ({"window": 0}, "window 0: expected 1 observation or more"),
    ],
)
def test_wrong_settings(options, message):
    with pytest.raises(RegimeError, match=message):
        Settling(**options)
