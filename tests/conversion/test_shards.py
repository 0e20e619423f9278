"""A run that several processes measure in parts gives the file that one gives, whatever happens to them."""

import os
import shlex
import signal
import time
from functools import partial

import children
import numpy as np
import pytest
from commands import assert_one_line, regime
from reading import assert_same
from trainings import save_walk

import regime_proto
from regime_proto.schema.files import segments_folder
from regime_proto.schema.finish import finish
from regime_proto.schema.notes import read_order_doubt
from regime_proto.schema.reader import open_checked
from regime_proto.schema.segments import AGREED, Segments
from regime_proto.schema.shards import Shard

# In five segments.
STATES = 300

CONVERT = """
import os, signal, sys, time
from pathlib import Path
from regime_proto.conversion.plan import make_plan
from regime_proto.conversion.run import run_plan
from regime_proto.conversion.settings import ConversionSettings
from regime_proto.schema import writer

source, output, shard, seconds, at = sys.argv[1], sys.argv[2], sys.argv[3], float(sys.argv[4]), int(sys.argv[5])
writer.TrajectoryWriter.__init__.__kwdefaults__["seconds"] = seconds
def progress(done, total):
    if done == at:
        os.kill(os.getpid(), signal.SIGKILL)
settings = ConversionSettings.of(shard=shard or None)
run_plan(make_plan(Path(source)), Path(output), settings, progress=progress)
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return save_walk(tmp_path_factory.mktemp("shards") / "checkpoints", STATES)


@pytest.fixture(scope="module")
def reference(run, tmp_path_factory):
    return regime_proto.convert(run, tmp_path_factory.mktemp("reference") / "run.h5", measure="weight_distance_l2")


@pytest.fixture
def output(tmp_path):
    return tmp_path / "run.h5"


def convert(run, output, shard, **options):
    return regime_proto.convert(run, output, shard=shard, measure="weight_distance_l2", **options)


def start(run, output, shard, *, seconds=30.0, kill_at=-1):
    return children.start(CONVERT, run, output, shard, seconds, kill_at)


@pytest.mark.parametrize(("observations", "per_segment"), [(300, 64), (1, 64), (64, 64), (65, 1), (1000, 7)])
@pytest.mark.parametrize("count", [1, 2, 3, 7, 400])
def test_shards_share_all_segments_among_them(observations, per_segment, count):
    rows = [Shard(number, count).rows(observations, per_segment) for number in range(1, count + 1)]
    assert [row for part in rows for row in part] == list(range(observations))
    assert all(part.start % per_segment == 0 for part in rows if part)
    lengths = [-(-len(part) // per_segment) for part in rows]
    assert max(lengths) - min(lengths) <= 1


@pytest.mark.parametrize("count", [1, 3, 7])
def test_shards_in_any_order_give_the_same_file(run, reference, output, count):
    order = np.random.default_rng(count).permutation(count) + 1
    for number in order.tolist():
        assert convert(run, output, f"{number}/{count}") == segments_folder(output)
    assert finish(output).observations == STATES
    assert_same(output, reference)
    assert not segments_folder(output).exists()


def test_jobs_at_once_do_no_harm(run, output, tmp_path):
    """Two for each part, of two divisions of the run."""
    expected = regime_proto.convert(run, tmp_path / "expected.h5")
    jobs = [start(run, output, shard, seconds=0.05) for shard in ("1/2", "1/2", "2/2", "2/3")]
    assert [(job.wait().returncode, job.stderr) for job in jobs] == [(0, "")] * len(jobs)
    assert finish(output).observations == STATES
    assert_same(output, expected)


@pytest.mark.parametrize("seconds", [0.0, 30.0])
def test_a_killed_shard_goes_on(run, output, tmp_path, seconds):
    expected = regime_proto.convert(run, tmp_path / "expected.h5")
    assert start(run, output, "2/2", seconds=seconds, kill_at=210).wait().returncode == -signal.SIGKILL
    kept = held(output)
    # The second part begins at the third segment.
    assert kept == ({2: 64, 3: 18} if seconds == 0 else {2: 64})
    seen = []
    regime_proto.convert(run, output, shard="2/2", workers=3, progress=lambda done, total: seen.append(done))
    assert seen == list(range(128 + sum(kept.values()) + 1, STATES + 1))
    # The rest without shards.
    seen = []
    regime_proto.convert(run, output, progress=lambda done, total: seen.append(done))
    assert seen == list(range(1, 129))
    assert_same(output, expected)


def held(output):
    """Observations in each segment."""
    lengths = {}
    for path in sorted(segments_folder(output).glob("[0-9]*.h5")):
        with regime_proto.open_trajectory(path) as segment:
            lengths[int(path.stem)] = segment.sizes["step"]
    return lengths


def test_killed_at_any_moment(run, output, tmp_path):
    expected = regime_proto.convert(run, tmp_path / "expected.h5")
    random = np.random.default_rng(0)
    kept = {}
    for attempt in range(8):
        job = start(run, output, f"{attempt % 3 + 1}/3", seconds=0.0)
        time.sleep(random.uniform(0.02, 0.4))
        if job.returncode is None:
            job.kill()
        job.wait()
        now = held(output)
        assert all(now.get(index, 0) >= length for index, length in kept.items())
        kept = now
    for shard in ("3/3", "2/3", "1/3"):
        regime_proto.convert(run, output, shard=shard)
    finish(output)
    assert_same(output, expected)


def test_a_slower_job_does_not_replace_what_is_complete(run, output):
    convert(run, output, "1/1")
    whole = (segments_folder(output) / "000001.h5").read_bytes()
    with Segments(output, shared=True) as segments:
        segments.put(1, b"half of it", rows=30)
    assert (segments_folder(output) / "000001.h5").read_bytes() == whole


def test_an_interrupted_conversion_goes_on_in_shards(run, output, tmp_path):
    expected = regime_proto.convert(run, tmp_path / "expected.h5")
    assert start(run, output, "", kill_at=150).wait().returncode == -signal.SIGKILL
    assert held(output) == {0: 64, 1: 64}
    seen = []
    for number in (1, 2, 3):
        regime_proto.convert(run, output, shard=f"{number}/3", progress=lambda done, total: seen.append(done))
    assert seen == list(range(129, STATES + 1))
    finish(output)
    assert_same(output, expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"masks": "none"}, "--masks all, here none"),
        ({"every": 2}, r"the steps 0 to 299 \(300\), here 0 to 298 \(150\)"),
        ({"measure": "weight_distance_l2"}, "the quantities none, here weight_distance_l2"),
        ({"gates": "!*2"}, "the gates .*, here "),
        ({"notes": {"seed": 1}}, "the notes"),
        ({"embed": "none"}, "the embedded files program, here nothing"),
    ],
)
def test_parts_of_another_plan_are_refused(run, output, options, message):
    regime_proto.convert(run, output, shard="2/3")
    before = held(output)
    with pytest.raises(regime_proto.RegimeError, match=f"holds parts of a different plan: {message}"):
        regime_proto.convert(run, output, shard="1/3", **options)
    assert held(output) == before


def test_a_dry_run_says_what_a_part_would_meet(run, output):
    regime_proto.convert(run, output, shard="2/3")
    refused = regime("convert", run, "-o", output, "--shard", "1/3", "--masks", "none", "--dry-run")
    assert_one_line(refused, "holds parts of a different plan: --masks all, here none")
    regime_proto.convert(run, output, steps="0:50", overwrite=True)
    refused = regime("convert", run, "-o", output, "--shard", "1/3", "--dry-run")
    assert_one_line(refused, "holds the first part of this run, but shards measure the whole run")


def test_a_part_is_not_divided_again(run, output):
    with pytest.raises(regime_proto.RegimeError, match="--shard 1/3: cannot be combined with a scheduler"):
        regime_proto.convert(run, output, shard="1/3", scheduler="local:2")


def test_a_checkpoint_that_was_written_again_is_another_plan(run, output, tmp_path):
    copy = tmp_path / "checkpoints"
    copy.mkdir()
    for path in run.iterdir():
        os.link(path, copy / path.name)
    regime_proto.convert(copy, output, shard="2/3")
    content = (copy / "step_7.safetensors").read_bytes()
    (copy / "step_7.safetensors").unlink()
    (copy / "step_7.safetensors").write_bytes(content)
    with pytest.raises(regime_proto.RegimeError, match="a different plan: the files of the checkpoints"):
        regime_proto.convert(copy, output, shard="1/3")


@pytest.mark.parametrize("first", [0, 1])
def test_what_another_run_left_is_not_taken_for_a_part(run, output, first):
    """Two segments stand where the first part is to be: of the same run, or of one that begins later."""

    def stop(done, total):
        if done == 128:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        regime_proto.convert(run, output, steps=f"{first}:250", progress=stop)
    regime_proto.convert(run, output, shard="2/2")
    if first == 0:
        assert finish(output).observations == STATES
        return
    with pytest.raises(regime_proto.TrajectoryError, match="1 of 2 parts incomplete, 128 of 300"):
        finish(output)
    with pytest.raises(regime_proto.TrajectoryError, match="other inputs; choose another output, or remove that"):
        regime_proto.convert(run, output, shard="1/2")


def test_shards_wait_for_one_who_holds_all_and_the_other_way_round(run, output):
    with Segments(output), pytest.raises(regime_proto.TrajectoryError, match="another process is writing it"):
        regime_proto.convert(run, output, shard="1/3")
    with Segments(output, shared=True):
        regime_proto.convert(run, output, shard="1/3")
        for use in (partial(regime_proto.convert, run, output), partial(finish, output)):
            with pytest.raises(regime_proto.TrajectoryError, match=r"another process is writing it|incomplete"):
                use()


def test_shards_of_a_run_that_is_there(run, reference):
    assert convert(run, reference, "1/3") == reference


def test_shards_do_not_discard(run, output):
    with pytest.raises(regime_proto.RegimeError, match="--shard and --overwrite"):
        regime_proto.convert(run, output, shard="1/3", overwrite=True)


@pytest.mark.parametrize("text", ["0/3", "4/3", "3", "1/0", "a/b", "-1/3", "1/3/5"])
def test_a_shard_is_written_as_i_of_n(run, output, text):
    with pytest.raises(regime_proto.RegimeError, match=r"--shard .*: expected I/N"):
        regime_proto.convert(run, output, shard=text)


def test_each_part_judges_its_order(run, output, tmp_path):
    """Two neighbours are swapped in the second of three parts."""
    copy = tmp_path / "checkpoints"
    copy.mkdir()
    names = {"step_150.safetensors": "step_151.safetensors", "step_151.safetensors": "step_150.safetensors"}
    for path in run.iterdir():
        os.link(path, copy / names.get(path.name, path.name))
    with pytest.warns(regime_proto.RegimeWarning, match="150 and 151 seem to be swapped"):
        regime_proto.convert(copy, tmp_path / "expected.h5")
    for number in (1, 2, 3):
        regime_proto.convert(copy, output, shard=f"{number}/3")
    finish(output)
    with open_checked(output) as file:
        assert "150 and 151 seem to be swapped" in read_order_doubt(file)


def test_a_damaged_agreement_is_named(run, output):
    regime_proto.convert(run, output, shard="2/3")
    (segments_folder(output) / AGREED).write_text("{")
    for use in (partial(regime_proto.convert, run, output, shard="1/3"), partial(finish, output)):
        with pytest.raises(regime_proto.TrajectoryError, match=f"{AGREED}: damaged; delete it"):
            use()
    (segments_folder(output) / AGREED).unlink()
    for number in (1, 2, 3):
        regime_proto.convert(run, output, shard=f"{number}/3")
    assert finish(output).observations == STATES


def test_the_commands_of_all_parts(run, output, reference):
    """Those that are printed, and those that a merge names, do it."""
    printed = regime(
        "convert", run, "-o", output, "--measure", "weight_distance_l2", "--shards", "3", "--print-commands"
    )
    commands = printed.stdout.splitlines()
    assert len(commands) == 3
    assert regime(*shlex.split(commands[1])[1:]).exit_code == 0
    refused = regime("merge", segments_folder(output))
    assert refused.exit_code == 1
    assert "2 of 3 parts incomplete, 172 of 300 observations missing; run " in refused.stderr
    for command in refused.stderr.partition("missing; run ")[2].split("; "):
        assert regime(*shlex.split(command)[1:]).exit_code == 0
    assert regime("merge", segments_folder(output)).exit_code == 0
    assert_same(output, reference)


def test_the_environment_says_which_part(run, output, monkeypatch):
    for number in (1, 2):
        monkeypatch.setenv("REGIME_SHARD", f"{number}/2")
        assert f"measured part {number}/2" in regime("convert", run, "-o", output).stderr
    assert finish(output).observations == STATES


def test_an_array_of_jobs_is_pointed_out_only(run, output, monkeypatch):
    for name, value in {"ID": 7, "MIN": 1, "MAX": 9, "STEP": 2}.items():
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", str(value))
    done = regime("convert", run, "-o", output, "--dry-run")
    assert "job 4/5 of a SLURM array: to measure one part of the run per job, pass --shard 4/5" in done.stderr
    assert "300 observations" in done.stderr
    done = regime("convert", run, "-o", output, "--dry-run", "--shard", "2/5")
    assert "SLURM" not in done.stderr
    assert f"measure part 2/5 into {segments_folder(output)} (64 observations)" in done.stderr


def test_how_many_parts_is_asked_for(run, output):
    assert "give the number of parts with --shards N" in regime("convert", run, "-o", output, "--print-commands").stderr
    assert "needs --print-commands" in regime("convert", run, "-o", output, "--shards", "3").stderr
