"""Strides that are chosen so that observing takes at most a share of the time: on clocks that are turned by hand."""

import math
import re
import time

import nets
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from recording import extra, rows

import regime_proto
from regime_proto import RegimeError, Settling
from regime_proto.recording.pace import Pace
from regime_proto.recording.schedule import Share, Steps, as_every
from regime_proto.recording.strides import Strides
from regime_proto.schema import validate

pytestmark = pytest.mark.usefixtures("nets_are_exported_once")


class Clock:
    """Shows the time that it has been told to let pass."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def run(share, cost, per_step, *, steps, first=0, pace=None, device=None):
    """Train with made-up times; return the pace, the observed steps, and what observing them took of all time.

    Parameters
    ----------
    cost, per_step : callable
        Seconds, of the number of an observation or of a step.
    device : callable, optional
        Seconds that a device is at work on an observation; the training waits for it, the host does not.
    """
    clock = Clock()
    pace = Pace(Share(share, clock)) if pace is None else pace(clock)
    observed, spent, later = [], [], 0.0
    begun = clock.now
    for step in range(first, first + steps):
        if step > first:
            clock.now += per_step(step) + later
            later = 0.0
        if pace.is_due(step):
            pace.start()
            spent.append(cost(len(spent)))
            clock.now += spent[-1]
            if device is not None:
                pace.count_device(device(len(spent) - 1) if len(spent) > 1 else 0.0)
                later = device(len(spent)) - spent[-1]
            pace.keep_to(step, pace.finish(step))
            observed.append(step)
    return pace, observed, sum(spent) / (clock.now - begun)


def noisy(seed, spread):
    generator = np.random.default_rng(seed)
    return lambda value: value * float(np.exp(generator.normal(0, spread)))


@settings(max_examples=40)
@given(
    share=st.sampled_from([0.01, 0.05, 0.2, 0.5]),
    ratio=st.floats(1e-3, 30),
    spread=st.sampled_from([0.0, 0.1, 0.4]),
    seed=st.integers(0, 2**16),
)
def test_the_share_is_kept_and_made_use_of(share, ratio, spread, seed):
    """With times that vary, and a first observation that takes ten times as long as the others."""
    times = noisy(seed, spread)
    needed = ratio * (1 - share) / share
    _, observed, taken = run(
        share,
        lambda number: times(ratio) * (10 if number == 0 else 1),
        lambda _: times(1.0),
        steps=int(120 * max(needed, 1)),
    )
    assert taken <= 1.05 * share + 12 * ratio / (120 * max(needed, 1))
    # Another stride would have taken less than seven tenths of the share, had it been half as long.
    most = 2 * ratio * (1 - 0.7 * share) / (0.7 * share)
    assert np.diff(observed)[-1] <= max(1, most * (2 if spread else 1))


@pytest.mark.parametrize("ratio", [0.01, 0.3, 0.42, 2.2, 40.0])
@pytest.mark.parametrize("seed", range(3))
def test_few_strides_are_chosen_where_nothing_changes(ratio, seed):
    times = noisy(seed, 0.3)
    pace, observed, _ = run(0.05, lambda _: times(ratio), lambda _: times(1.0), steps=int(4000 * max(1, ratio)))
    strides = pace.strides.text.split()
    assert len(strides) <= 4, strides
    changes = np.diff(observed)
    late = len(observed) // 4
    assert (changes[late:] == pace.stride).all()
    assert not any(step % pace.stride for step in observed[late:])


def test_a_stride_follows_what_observing_and_training_take():
    cost = {"now": 1.0}

    def of_observation(_):
        return cost["now"]

    def of_step(step):
        cost["now"] = 1.0 if step < 20_000 else 8.0 if step < 60_000 else 0.1
        return 1.0

    pace, observed, taken = run(0.1, of_observation, of_step, steps=100_000)
    changes = dict(zip(observed[1:], np.diff(observed), strict=True))

    def stride_near(step):
        return changes[min(changes, key=lambda other: abs(other - step))]

    assert (stride_near(19_000), stride_near(59_000), stride_near(99_000)) == (16, 128, 2)
    assert taken < 0.1
    assert pace.share == pytest.approx(taken, rel=1e-3)


def test_rare_long_observations_count():
    """Of 20 observations one takes 60 times as long: no median says so."""
    _, observed, taken = run(0.1, lambda number: 60.0 if number % 20 == 7 else 1.0, lambda _: 1.0, steps=100_000)
    assert taken <= 0.105
    assert np.diff(observed).max() >= 32


def test_a_pause_of_the_training_makes_no_room():
    """A validation or a laptop that sleeps takes time, in which nothing would have been observed."""
    pace, observed, _ = run(0.1, lambda _: 1.0, lambda step: 1e5 if step in (500, 1000) else 1.0, steps=5000)
    assert pace.share < 0.01
    assert (np.diff(observed)[5:] == 16).all()


def test_what_a_device_takes_counts_where_the_host_goes_on():
    """The host asks a GPU for everything within a thousandth of the time that it takes."""
    pace, observed, _ = run(0.1, lambda _: 0.002, lambda _: 1.0, steps=20_000, device=lambda _: 2.0)
    assert pace.stride == np.diff(observed)[-1] == 32
    assert pace.share == pytest.approx(2 / 34, rel=0.05)


def test_time_that_stands_still_makes_no_stride_endless():
    pace, observed, _ = run(0.5, lambda _: 1.0, lambda _: 0.0, steps=3000)
    assert pace.stride <= 4 * 16**3
    assert len(observed) >= 4


def test_steps_that_are_not_asked_of_are_made_up_for():
    """Where a training shows every third state only, strides of 4 do not wait for multiples of 12."""
    clock = Clock()
    pace = Pace(Share(0.05, clock))
    found = []
    for step in range(0, 24, 3):
        if pace.is_due(step):
            pace.start()
            pace.keep_to(step, 4)
            found.append(step)
    assert found == [0, 6, 9, 12, 18, 21]


@pytest.mark.parametrize(("text", "value"), [("5%", 0.05), ("0.5 %", 0.005), (" 99.9% ", 0.999), (".5%", 0.005)])
def test_percentages(text, value):
    assert as_every(text).value == pytest.approx(value)
    assert str(as_every(text)) == f"{100 * value:g}%"


@pytest.mark.parametrize(
    "wrong",
    ["5", "0%", "100%", "150%", "-1%", "x%", "%", "", "5%%", "nan%", "1e1%", "٥%", 0, -3, 2.5, True, None, b"5%"],
)
def test_what_is_no_schedule(wrong, tmp_path):
    model = nets.make_mlp()
    with pytest.raises(RegimeError, match=r'a whole number of 1 or more, .* for example every="5%"') as found:
        regime_proto.record(model, nets.probe(model), tmp_path / "run.h5", every=wrong)
    assert str(found.value).startswith(f"every={wrong!r}: ")
    assert "\n" not in str(found.value)
    assert list(tmp_path.iterdir()) == []


@given(st.lists(st.tuples(st.integers(-5, 10**12), st.integers(1, 2**30)), max_size=30))
def test_strides_are_read_as_they_were_written(pairs):
    strides = Strides()
    for step, (_, stride) in zip(sorted(step for step, _ in pairs), pairs, strict=True):
        strides.add(step, stride)
    again = Strides(strides.text)
    assert again.text == strides.text
    assert again.last == strides.last
    for step, _ in pairs:
        assert again.at(step) == strides.at(step)


@pytest.mark.parametrize("text", ["", "4", "0:4, 8:16", "0:x", "0:4  8:16", "\n", "0:4\n", "٠:4"])
def test_what_others_wrote_is_no_stride(text):
    assert Strides(text).last is None
    assert not Strides(text).resume(100)


def test_the_attribute_of_a_long_run_stays_small():
    strides = Strides()
    for number in range(5000):
        strides.add(10**9 + number, 2 ** (number % 2 + 10))
    assert len(strides.text) < 2**15
    assert strides.text.startswith(f"{10**9}:")
    assert strides.at(10**9 + 5000) == strides.last


def test_a_run_goes_on_at_the_stride_that_it_had():
    strides = Strides("0:4 8:16 64:32")
    assert [strides.at(step) for step in (0, 4, 8, 16, 64, 96)] == [None, 4, 4, 16, 16, 32]

    def pace(clock):
        made = Pace(Share(0.1, clock))
        made.strides = Strides("0:4 8:16 64:32", 40)
        return made

    found, observed, _ = run(0.1, lambda _: 1.0, lambda _: 1.0, steps=100, first=41, pace=pace)
    assert observed == [41, 48, 64, 80, 96, 112, 128]
    assert found.strides.text == "0:4 8:16"


def test_steps_that_are_given_say_nothing_unless_strides_were_chosen_before():
    for every, expected in ((8, ("8", "0:4 20:8")), (lambda step: True, ("a function", "0:4 20:0"))):
        schedule = Steps(every)
        schedule.finish(3)
        assert schedule.attributes == {}
        schedule = Steps(every)
        schedule.strides = Strides("0:4 20:16")
        schedule.finish(21)
        schedule.finish(22)
        found = schedule.attributes
        assert found["every_requested"] == expected[0]
        assert found["every_strides"].split()[0] == "0:4"


def make_wide():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(12, 128), torch.nn.ReLU(), torch.nn.Linear(128, 2))


def moved(model, drawn):
    """Move the weights by a random step."""
    with torch.no_grad():
        model[0].weight.add_(torch.randn(model[0].weight.shape, generator=drawn), alpha=0.01)


PROBE = np.random.default_rng(0).standard_normal((24, 12)).astype(np.float32)


def recorded(path, *, steps, cost=1.0, share=0.1, **options):
    """Record a net of which steps take a made-up second, and observations what `cost` says; return the last status,
    and all of them.
    """
    clock = Clock()
    model = make_wide()
    seen = []
    drawn = torch.Generator().manual_seed(0)

    def observed(status):
        clock.now += cost(status.step) if callable(cost) else cost
        seen.append(status)

    options = {"on_observation": observed, "every": Share(share, clock), **options}
    with regime_proto.record(model, PROBE, path, **options) as recorder:
        for step in range(steps):
            if step:
                clock.now += 1.0
                moved(model, drawn)
            recorder.observe(step)
        status = recorder.status()
    return status, seen


def test_a_recording_says_what_was_chosen(tmp_path):
    path = tmp_path / "run.h5"
    status, seen = recorded(path, steps=400)
    expected = [0, 4, *range(16, 400, 16)]
    assert rows(path)["step"].tolist() == expected == [status.step for status in seen]
    found = extra(path)
    assert found["every_requested"] == "10%"
    assert found["every_strides"] == "0:4 4:16"
    assert status.stride == 16
    assert re.search(r"^stride +16$", str(status), re.MULTILINE)
    assert (
        status.observing_share == found["every_share"] == pytest.approx(len(expected) / (399 + len(expected)), rel=0.04)
    )
    assert not validate(path)
    assert regime_proto.Status().stride is None


def test_a_recording_of_given_steps_says_nothing_of_strides(tmp_path):
    _, seen = recorded(tmp_path / "run.h5", steps=10, every=2)
    assert not extra(tmp_path / "run.h5")
    assert seen[-1].stride is None
    assert math.isnan(seen[-1].observing_share)


def test_a_resumed_recording_goes_on_at_its_stride(tmp_path):
    path = tmp_path / "run.h5"
    recorded(path, steps=65)
    model = make_wide()
    drawn = torch.Generator().manual_seed(0)
    for _ in range(64):
        moved(model, drawn)
    clock = Clock()

    def observed(_):
        clock.now += 1.0

    options = {"every": Share(0.1, clock), "on_observation": observed}
    with regime_proto.record(model, PROBE, path, resume=64, **options) as recorder:
        for step in range(64, 130):
            recorder.observe(step)
            clock.now += 1.0
    assert rows(path)["step"].tolist() == [0, 4, *range(16, 129, 16)]
    assert rows(path)["valid"].all()
    assert extra(path)["every_strides"] == "0:4 4:16"
    with regime_proto.record(model, PROBE, path, resume=128, every=3) as recorder:
        for step in range(128, 140):
            recorder.observe(step)
    assert extra(path)["every_requested"] == "3"
    assert extra(path)["every_strides"] == "0:4 4:16 129:3"


def test_real_time(tmp_path):
    """Held against a clock of the test's own: the recorder is not asked what it took."""
    model = nets.make_mlp()
    inputs = torch.randn(400, 12)
    spent, counted_from = [], 0.0
    with regime_proto.record(model, nets.probe(model), tmp_path / "run.h5", every="20%") as recorder:
        for step in range(700):
            if step == 100:
                counted_from, spent = time.perf_counter(), []
            for _ in range(3):
                model(inputs).sum().backward()
            begun = time.perf_counter()
            recorder.observe(step)
            spent.append(time.perf_counter() - begun)
        taken = sum(spent) / (time.perf_counter() - counted_from)
        status = recorder.status()
    assert taken <= 0.25
    assert status.observing_share <= 0.25
    assert status.observations >= 20
    assert np.log2(status.stride) == int(np.log2(status.stride))


@pytest.mark.parametrize("every", [Share(0.1), lambda step: step % 7 == 0])
def test_batches_per_epoch_become_epochs_where_strides_are_not_known(every, tmp_path):
    model = nets.make_mlp()
    path = tmp_path / "run.h5"
    with regime_proto.record(model, nets.probe(model), path, every=every, batches_per_epoch=20) as recorder:
        for step in range(50):
            recorder.observe(step, epoch=99.0 if step == 0 else None)
    found = rows(path)
    assert found["epoch"][0] == 99.0
    np.testing.assert_allclose(found["epoch"][1:], found["step"][1:] / 20)
    with regime_proto.open_trajectory(path) as trajectory:
        assert "observations_per_epoch" not in trajectory.attrs
    with pytest.raises(RegimeError, match="--batches-per-epoch 0: expected a finite number above 0"):
        regime_proto.record(model, nets.probe(model), tmp_path / "other.h5", every=every, batches_per_epoch=0)


def test_patterns_are_not_settled_by_another_stride(tmp_path):
    """Weights that go on at random change the patterns as before, by less over fewer steps."""
    _, seen = recorded(
        tmp_path / "run.h5",
        steps=1500,
        cost=lambda step: 2.0 if step < 1000 else 0.05,
        settling=Settling(threshold=0.4, window=10),
    )
    strides = np.diff([status.step for status in seen])
    changes = np.array([status.pattern_change for status in seen[1:]])
    assert (strides[10], strides[-1]) == (32, 1)
    assert changes[-100:].mean() < 0.4 * changes[strides == 32].mean()
    assert not any(status.settled for status in seen)
