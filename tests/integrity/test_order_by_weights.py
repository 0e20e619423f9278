"""The weights tell a wrong order of checkpoints, and say nothing against a right one."""

import contextlib
import itertools
import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import nets
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from torch.optim import lr_scheduler as schedules
from trainings import adamw, every, in_memory, sgd, train, warm_restarts

import regime_proto
from regime_proto.checkpoints.source import OtherOrder
from regime_proto.cli.main import main
from regime_proto.conversion.plan import PROBE_FILE, PROGRAM_FILE, make_plan
from regime_proto.conversion.run import run_plan
from regime_proto.integrity import sketch
from regime_proto.integrity.order import contradiction
from regime_proto.integrity.sketch import Sketches
from regime_proto.schema import notes, validate
from regime_proto.schema.dataset import open_trajectory
from regime_proto.schema.errors import RegimeError, RegimeWarning


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Threads cost small networks more than they gain."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def cyclic(optimizer):
    return schedules.CyclicLR(optimizer, 0.001, 0.5, step_size_up=20, cycle_momentum=False)


RUNS = {
    "momentum": (sgd(0.1), None, every(40, 4)),
    "strong momentum": (sgd(0.02, 0.99), None, every(40, 4)),
    "Adam": (adamw(1e-3, 0.01), None, every(40)),
    "cyclic learning rate": (sgd(0.05), cyclic, every(40, 5)),
    "restarts at every step": (sgd(0.1, 0), warm_restarts(50), every(60)),
    "uneven steps": (sgd(0.05), None, (0, 1, 2, 4, 8, 16, 32, 64, 96, 128, 160, 164, 168, 172, 240)),
    "noise around a minimum": (sgd(0.5, 0), None, tuple(range(400, 800, 10))),
    "noise around a minimum, Adam": (adamw(1e-2, 0.5), None, tuple(range(200, 600, 10))),
}


@pytest.fixture(scope="module")
def runs():
    trained = {}
    for (name, (optimizer, schedule, steps)), kind in zip(
        RUNS.items(), itertools.cycle((nets.Mlp, nets.Encoder)), strict=False
    ):
        torch.manual_seed(0)
        states = train(kind(), steps, optimizer=optimizer, schedule=schedule)
        trained[name] = dict(enumerate(states.values()))
    return trained


def swinging(rate, steps):
    """Train with all samples at once, at a rate at which the weights swing to and fro."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3))
    inputs = torch.randn(128, 8)
    labels = (inputs @ torch.randn(8, 3)).argmax(1)
    optimizer = torch.optim.SGD(model.parameters(), rate)
    states = {}
    for step in range(max(steps) + 1):
        states[step] = {name: value.detach().clone() for name, value in model.state_dict().items()}
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
    return {index: states[step] for index, step in enumerate(steps)}


# --- Orders -----------------------------------------------------------------------------------------------------------


def swapped(count):
    order = list(range(count))
    for at in (2, count // 2, count - 4):
        order[at], order[at + 1] = order[at + 1], order[at]
    return order


def moved(count):
    order = list(range(count))
    order.insert(1, order.pop(count // 2))
    return order


def shuffled(count):
    return np.random.default_rng(0).permutation(count).tolist()


ORDERS = {
    "by letters": lambda count: sorted(range(count), key=str),
    "interleaved": lambda count: [*range(0, count, 2), *range(1, count, 2)],
    "by number in an epoch": lambda count: [index for start in range(5) for index in range(start, count, 5)],
    "neighbours swapped": swapped,
    "one moved": moved,
    "shuffled": shuffled,
}


def judged(states, order, other=None):
    """Return what the weights say against an order of states, of which there is another one."""
    source = in_memory({step: states[index] for step, index in enumerate(order)})
    if other is not None:
        place = {index: checkpoint.path for index, checkpoint in zip(order, source.checkpoints, strict=True)}
        others = (OtherOrder("the names", tuple(place[index] for index in other)),)
        source = replace(source, other_orders=others)
    sketches = Sketches()
    for checkpoint in source.checkpoints:
        sketches.add(checkpoint, source.read(checkpoint).tensors)
    return contradiction(source, sketches)


@pytest.mark.parametrize("case", RUNS)
def test_nothing_speaks_against_the_right_order(case, runs):
    right = list(range(len(runs[case])))
    assert judged(runs[case], right) is None
    for wrong in ORDERS.values():
        assert judged(runs[case], right, wrong(len(right))) is None


@pytest.mark.parametrize("rate", [1.0, 3.0, 10.0])
@pytest.mark.parametrize("start", [0, 300])
def test_weights_that_swing_are_not_called_disordered(rate, start):
    states = swinging(rate, range(start, start + 60))
    right = list(range(60))
    assert judged(states, right) is None
    for name in ("by letters", "neighbours swapped", "one moved", "shuffled"):
        assert judged(states, right, ORDERS[name](60)) is None


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("case", RUNS)
def test_another_order_in_which_the_way_is_shorter(case, order, runs):
    right = list(range(len(runs[case])))
    wrong = ORDERS[order](len(right))
    against = judged(runs[case], wrong, right)
    # A few neighbours that are swapped cannot be told where the weights do little more than tremble.
    if against is None and order == "neighbours swapped":
        assert case in ("noise around a minimum", "restarts at every step", "uneven steps")
        return
    assert against is not None
    assert "the weights contradict the order (made here): where the order from the names differs" in against.message


@pytest.mark.parametrize("case", ["momentum", "strong momentum", "Adam", "cyclic learning rate"])
def test_neighbours_that_are_swapped_show_by_themselves(case, runs):
    count = len(runs[case])
    against = judged(runs[case], swapped(count))
    assert against.steps == (2, 3, count // 2, count // 2 + 1, count - 4, count - 3)
    pairs = f"2 and 3, {count // 2} and {count // 2 + 1}, {count - 4} and {count - 3}"
    assert against.message.startswith(f"{pairs} seem to be swapped: the other way round, the path of the weights")


@pytest.mark.parametrize("case", [case for case in RUNS if not case.startswith(("uneven", "noise"))])
def test_a_sequence_without_an_order_shows_by_itself(case, runs):
    assert "the weights show no order" in judged(runs[case], shuffled(len(runs[case]))).message


@pytest.mark.parametrize("case", RUNS)
def test_a_reversed_run_cannot_be_told(case, runs):
    """The way back is as long."""
    right = list(range(len(runs[case])))
    assert judged(runs[case], right[::-1]) is None
    assert judged(runs[case], right[::-1], right) is None


def test_noise_has_no_order():
    """Whatever the number of weights: around nothing, or frozen but for a few, or hardly any states."""
    random = np.random.default_rng(0)
    for weights, states in itertools.product((3, 8, 70, 2000), (4, 6, 30)):
        noise = {step: {"w": torch.from_numpy(random.standard_normal(weights))} for step in range(states)}
        right = list(range(states))
        assert judged(noise, right) is None
        assert judged(noise, right, swapped(states) if states > 6 else right) is None


def test_large_and_small_weights(runs):
    for scale in (1e30, 1e-30):
        states = {step: {name: scale * value for name, value in state.items()} for step, state in runs["Adam"].items()}
        assert judged(states, list(range(41))) is None
        assert judged(states, swapped(41)).steps == (2, 3, 20, 21, 37, 38)


def test_states_that_cannot_be_compared_are_left_out(runs):
    states = {step: dict(state) for step, state in runs["Adam"].items()}
    wrong = swapped(len(states))
    expected = judged(states, wrong).steps
    states[9] = {name: value * torch.nan for name, value in states[9].items()}
    states[12] = {"x": torch.zeros(3)}
    states[0] = {**states[0], "only.here": torch.zeros(100)}
    assert judged(states, wrong).steps == expected
    assert judged({step: {"n": torch.tensor([step])} for step in range(9)}, list(range(9))) is None


def test_sketches_are_small_and_of_every_tensor(monkeypatch):
    tensors = {
        "a": np.arange(10**6, dtype=np.float32).reshape(1000, 1000),
        "b": np.ones(3, np.float16),
        "n": np.ones(9, int),
    }
    tensors["c"], tensors["norm.running_mean"] = (np.ones((2, 2)) * 1j + 2).T, np.full(5, 7.0)
    first, *others = in_memory({step: {} for step in range(20)}).checkpoints
    monkeypatch.setattr(sketch, "ALL_ELEMENTS", 5000)
    sketches, lengths = Sketches(), []
    sketches.add(first, tensors)
    whole = sketches.of([first])[1][0]
    assert 900 < len(whole) <= 1024
    assert {1.0, 2.0} < set(whole.tolist())
    assert 7.0 not in whole
    for number, other in enumerate(others, 2):
        sketches.add(other, {name: np.asfortranarray(tensor) for name, tensor in tensors.items()})
        known, table = sketches.of([first, *others])
        assert len(known) == number
        assert table.size <= 5000
        assert (table == table[0]).all()
        lengths.append(table.shape[1])
    # All are thinned as more come.
    assert sorted(set(lengths)) == [len(whole[::stride]) for stride in (8, 4, 2, 1)]


# --- The check --------------------------------------------------------------------------------------------------------


def test_check_finds_a_wrong_order(runs):
    report = regime_proto.check(in_memory(dict(enumerate(runs["Adam"][index] for index in swapped(41)))))
    assert [(finding.rule, finding.severity) for finding in report.findings] == [("order", "error")]
    assert report.findings[0].steps == (2, 3, 20, 21, 37, 38)
    # A state of another run is out of place whatever the order.
    foreign = {step: {name: value + 1 for name, value in runs["Adam"][step].items()} for step in (7,)}
    assert [one.rule for one in regime_proto.check(in_memory(runs["Adam"] | foreign)).findings] == ["detour"]


# --- A conversion -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def states():
    torch.manual_seed(0)
    return list(train(nets.Mlp(), range(80), optimizer=adamw(1e-3, 0.01)).values())


@pytest.fixture(scope="module")
def program(mlp_run, tmp_path_factory):
    """A program and a probe, beside which all checkpoints are saved."""
    folder = tmp_path_factory.mktemp("program")
    for name in (PROGRAM_FILE, PROBE_FILE):
        shutil.copy(mlp_run / name, folder)
    return folder


@pytest.fixture
def root(program, tmp_path):
    return Path(shutil.copytree(program, tmp_path / "run"))


def saved(root, states, order):
    for step, index in enumerate(order):
        torch.save(states[index], root / f"step_{step}.pt")
    return root


def converted(root, output, **options):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", RegimeWarning)
        regime_proto.convert(root, output, **options)
    return [str(warning.message) for warning in caught]


def doubts(output):
    return [text for text in regime_proto.analyze(output, resamples=0).warnings if "order of the checkpoints" in text]


# 64 rows are a segment.
@pytest.mark.parametrize("count", [20, 64, 80])
def test_a_conversion_warns_and_so_does_what_reads_its_file(count, states, root, tmp_path):
    output = tmp_path / "run.h5"
    wrong = saved(root, states, shuffled(count))
    (warning,) = converted(wrong, output, masks="none")
    assert "the order of the checkpoints may be wrong: the weights show no order" in warning
    assert len(doubts(output)) == 1
    # What is there already is not read again, and warns as before.
    assert converted(wrong, output, masks="none", notes={"optimizer": "Adam"}) == [warning]
    assert validate(output) == []
    assert notes.read_notes(output) == {"optimizer": "Adam"}
    result = CliRunner().invoke(main, ["analyze", str(output), "--resamples", "0"], prog_name="regime")
    assert result.stderr.count("the order of the checkpoints may be wrong") == 1
    with pytest.raises(RegimeError, match="regime itself uses this name"):
        converted(wrong, output, masks="none", notes={"order_doubt": "none"})


def test_a_right_order_leaves_no_trace(states, root, tmp_path):
    output = tmp_path / "run.h5"
    assert converted(saved(root, states, range(20)), output) == []
    assert doubts(output) == []
    with open_trajectory(output) as trajectory:
        assert "order_doubt" not in trajectory.attrs


def test_another_order_is_named(states, root, tmp_path):
    """The rules that put checkpoints in order say which others there are."""
    saved(root, states, sorted(range(30), key=str))
    plan = make_plan(root)
    right = [root / f"step_{step}.pt" for step in np.argsort(sorted(range(30), key=str)).tolist()]
    other = OtherOrder("the time of the files", (*right, root / "gone.pt"))
    plan = replace(plan, source=replace(plan.source, other_orders=(other,)))
    run_plan(plan, tmp_path / "run.h5")
    (doubt,) = doubts(tmp_path / "run.h5")
    assert "contradict the order (a step in the file name): where the order from the time of the files differs" in doubt


class Interrupted(Exception):
    """What stops a conversion in a test."""


def interrupt_after(count):
    def progress(done, _):
        if done == count:
            raise Interrupted

    return progress


def test_what_was_found_before_an_interruption_is_kept(states, root, tmp_path):
    order = [*shuffled(40), *range(40, 60)]
    saved(root, states, order)
    output = tmp_path / "run.h5"
    with pytest.raises(Interrupted):
        converted(root, output, progress=interrupt_after(40))
    (warning,) = converted(root, output)
    assert "show no order" in warning


def test_what_was_found_is_taken_back_once_more_states_tell_otherwise(states, root, tmp_path):
    """Only when all of them were read."""
    output = tmp_path / "run.h5"
    order = swapped(16)
    saved(root, states, order)
    assert "seem to be swapped" in converted(root, output)[0]
    for step in range(16, 40):
        torch.save(states[step], root / f"step_{step}.pt")
    assert "seem to be swapped" in converted(root, output)[0]
    saved(root, states, range(40))
    assert converted(root, output, overwrite=True) == []


@pytest.fixture(scope="module")
def in_order(program, states, tmp_path_factory):
    """A trajectory of 20 states in their order; read only."""
    folder = tmp_path_factory.mktemp("in_order")
    converted(saved(Path(shutil.copytree(program, folder / "run")), states, range(20)), folder / "run.h5")
    return folder / "run.h5"


@pytest.mark.parametrize("content", ["a\nb\x1b[31m", 5.0, np.arange(3), ""], ids=str)
def test_what_others_wrote_there_is_one_line_or_nothing(content, in_order, tmp_path):
    import h5py

    output = Path(shutil.copy(in_order, tmp_path / "run.h5"))
    with h5py.File(output, "a") as file:
        file.create_group("extra", track_order=True).attrs["order_doubt"] = content
    found = doubts(output)
    assert len(found) == (content == "a\nb\x1b[31m" if isinstance(content, str) else 0)
    assert all(text.isprintable() for text in found)


def test_a_full_segment_keeps_what_is_noted_after_it(states, root, tmp_path):
    """The output takes its attributes from the last segment, which is not written again for later rows."""
    output = tmp_path / "run.h5"
    saved(root, states, shuffled(64))
    with contextlib.suppress(Interrupted):
        converted(root, output, progress=interrupt_after(64))
    assert not output.exists()
    assert len(converted(root, output)) == 1
