"""Runs that grow: what is there already is not observed again, and --follow goes on until it is told to stop."""

import functools
import json
import shutil
import signal
import time
from dataclasses import replace

import children
import nets
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from nets import save_run

import regime_proto
from regime_proto.cli.main import main
from regime_proto.conversion.following import grown_plan, wait_for_two
from regime_proto.conversion.plan import make_plan, write_program
from regime_proto.conversion.run import run_plan
from regime_proto.conversion.settings import ConversionSettings
from regime_proto.plugins.open_directory import open_directory
from regime_proto.schema.errors import RegimeError
from regime_proto.schema.files import segments_folder

STATES = 132


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of more checkpoints than a segment holds, and its trajectory."""
    folder = tmp_path_factory.mktemp("whole") / "checkpoints"
    save_run(folder, nets.make_mlp(), states=STATES)
    write_program(folder, model=nets.make_mlp(), probe=nets.probe(nets.make_mlp()))
    return folder, regime_proto.convert(folder, folder.parent / "run.h5")


@pytest.fixture(scope="module")
def with_masks(whole):
    """The trajectories of the whole run by what masks they keep."""

    @functools.cache
    def converted(masks):
        folder, path = whole
        return path if masks == "all" else regime_proto.convert(folder, path.with_stem(masks), masks=masks)

    return converted


@pytest.fixture
def part(whole, tmp_path):
    """The same run before its first checkpoint was written, and what adds those up to a step."""
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    for name in ("program.onnx", "probe.npz"):
        shutil.copy2(whole[0] / name, folder)

    def grow(to):
        for step in range(to):
            if not (folder / f"step_{step:04d}.pt").exists():
                shutil.copy2(whole[0] / f"step_{step:04d}.pt", folder)

    return folder, grow


def assert_same(one, other):
    with regime_proto.open_trajectory(one) as first, regime_proto.open_trajectory(other) as second:
        assert set(first.variables) == set(second.variables)
        for name in first.variables:
            np.testing.assert_array_equal(first[name], second[name], err_msg=name)
        assert first.attrs["source_fingerprint"] == second.attrs["source_fingerprint"]


def counting(plan):
    """Return the plan, and a list of the steps that are read for it."""
    steps, read = [], plan.source.read

    def counted(checkpoint):
        steps.append(checkpoint.step)
        return read(checkpoint)

    return replace(plan, source=replace(plan.source, read=counted)), steps


@pytest.mark.parametrize(
    ("first", "masks"),
    [
        (64, "every=3"),
        (70, "none"),
        (70, "all"),
        pytest.param(10, "all", marks=pytest.mark.slow),
        pytest.param(128, "every=3", marks=pytest.mark.slow),
    ],
)
def test_a_run_that_has_grown_is_added_to(with_masks, part, tmp_path, first, masks):
    folder, grow = part
    grow(first)
    output = regime_proto.convert(folder, tmp_path / "run.h5", masks=masks)
    with regime_proto.open_trajectory(output) as before:
        run_id = before.attrs["run_id"]
    grow(STATES)
    plan, steps = counting(make_plan(folder))
    run_plan(plan, output, ConversionSettings(masks=masks))
    # The last one that was known is read to compare with; three more reads measure the noise, one calibrates.
    known = [step for step in steps if step < first - 1]
    assert len(known) <= 3
    assert set(range(first - 1, STATES)) <= set(steps)
    assert_same(output, with_masks(masks))
    with regime_proto.open_trajectory(output) as after:
        assert after.attrs["run_id"] == run_id
    assert not segments_folder(output).exists()


def test_other_metrics_make_it_observe_all_again(part, tmp_path):
    folder, grow = part
    grow(8)
    output = regime_proto.convert(folder, tmp_path / "run.h5")
    payload = torch.load(folder / "step_0007.pt")
    torch.save({**payload, "step": 8, "accuracy": 0.5}, folder / "step_0008.pt")
    regime_proto.convert(folder, output)
    with regime_proto.open_trajectory(output) as found:
        assert found["metric_accuracy"].values[-1] == 0.5
        assert np.isnan(found["metric_accuracy"].values[:-1]).all()
        assert found.sizes["step"] == 9


def test_other_masks_make_it_observe_all_again(part, tmp_path):
    folder, grow = part
    grow(8)
    output = regime_proto.convert(folder, tmp_path / "run.h5", masks="all")
    grow(12)
    regime_proto.convert(folder, output, masks="every=2")
    with regime_proto.open_trajectory(output) as found:
        assert found["mask_step"].values.tolist() == [0, 2, 4, 6, 8, 10]


def test_following_gives_what_a_conversion_at_the_end_gives(whole, part, tmp_path):
    folder, grow = part
    sizes = iter([20, 21, 70, STATES])
    grow(next(sizes))
    seen = []

    def grown(plan, done):
        with regime_proto.open_trajectory(done.path) as trajectory:
            seen.append(trajectory.sizes["step"])
            assert trajectory.attrs["planned_observations"] == seen[-1]
        more = next(sizes, None)
        if more is None:
            return None
        grow(more)
        return grown_plan(plan, seconds=0.01)

    plan = make_plan(folder)
    output = tmp_path / "run.h5"
    assert run_plan(plan, output, grown=grown).observations == STATES
    assert seen == [20, 21, 70, STATES]
    assert_same(output, whole[1])
    assert not segments_folder(output).exists()


def test_checkpoints_may_be_deleted_once_observed(whole, part, tmp_path):
    folder, grow = part
    grow(5)
    plan = make_plan(folder)
    rounds = []

    def grown(plan, done):
        rounds.append(done.observations)
        if len(rounds) == 2:
            return None
        for step in range(4):
            (folder / f"step_{step:04d}.pt").unlink()
        shutil.copy2(whole[0] / "step_0005.pt", folder)
        return grown_plan(plan, seconds=0.01)

    run_plan(plan, tmp_path / "run.h5", grown=grown)
    assert rounds == [5, 6]
    with (
        regime_proto.open_trajectory(tmp_path / "run.h5") as found,
        regime_proto.open_trajectory(whole[1]) as expected,
    ):
        np.testing.assert_array_equal(found["flips"], expected["flips"][:6])
        np.testing.assert_array_equal(found["weight_delta_l1"], expected["weight_delta_l1"][:6])
    (folder / "step_0005.pt").rename(folder / "step_0009.pt")
    with pytest.raises(RegimeError, match=r"step_0005.pt: deleted before the next checkpoint was measured"):
        grown_plan(
            replace(
                plan,
                source=replace(
                    plan.source,
                    checkpoints=(
                        *plan.source.checkpoints,
                        replace(plan.source.checkpoints[-1], step=5, path=folder / "step_0005.pt"),
                    ),
                ),
            ),
            seconds=0.01,
        )


def test_a_directory_that_is_not_there_is_not_waited_for(tmp_path):
    result = CliRunner().invoke(main, ["analyze", str(tmp_path / "absent"), "--follow"])
    assert result.exit_code == 1
    assert "absent: no such directory" in result.stderr


def test_waiting_says_what_is_missing(part):
    folder, grow = part
    grow(1)
    said = []

    def waiting(missing):
        said.append(missing)
        grow(2)

    wait_for_two(folder, seconds=0.01, waiting=waiting)
    assert said == [f"{folder}: only one checkpoint so far"]


def test_follow_on_the_command_line(whole, part):
    folder, grow = part
    output = folder.parent / "checkpoints.regime.h5"
    child = children.start_regime("analyze", folder, "--follow", "--poll", "0.05", "--json")
    child.wait_for(lambda: "\n" in child.stderr)
    assert "waiting for checkpoints" in child.stderr.splitlines()[0]
    grow(6)
    child.wait_for(lambda: child.stdout.count("\n") == 1)
    # Half a file, as a training process leaves it for a moment.
    content = (whole[0] / "step_0006.pt").read_bytes()
    (folder / "step_0006.pt").write_bytes(content[: len(content) // 2])
    time.sleep(0.3)
    grow(6)
    (folder / "step_0006.pt").write_bytes(content)
    child.wait_for(lambda: child.stdout.count("\n") == 2)
    child.send_signal(signal.SIGINT)
    done = child.wait(60)
    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["observations"] for line in done.stdout.splitlines()] == [6, 7]
    assert "ended; the trajectory is complete up to here" in done.stderr
    assert "Traceback" not in done.stderr
    assert not segments_folder(output).exists()
    with regime_proto.open_trajectory(output) as found, regime_proto.open_trajectory(whole[1]) as expected:
        np.testing.assert_array_equal(found["flips"], expected["flips"][:7])


def test_checkpoints_at_the_end_that_are_not_complete_are_left_out(part):
    folder, grow = part
    grow(8)
    for step, share in ((6, 0.5), (7, 0.0)):
        path = folder / f"step_{step:04d}.pt"
        content = path.read_bytes()
        path.write_bytes(content[: int(share * len(content))])
    with pytest.warns(regime_proto.schema.errors.RegimeWarning, match="cut off, or still being written; left out"):
        source = open_directory(folder)
    assert [checkpoint.step for checkpoint in source.checkpoints] == list(range(6))
    assert source.skipped_by_reason() == {"cut off, or still being written": ["step_0007.pt", "step_0006.pt"]}
