"""Kills and full disks: what was committed is never lost, and going on gives the same file."""

import os
import resource
import shutil
import signal
import time
from functools import partial

import children
import numpy as np
import pytest
import trajectories
from reading import assert_same
from trainings import save_walk

import regime_proto
from regime_proto.schema import assemble, validate
from regime_proto.schema.files import segments_folder
from regime_proto.schema.finish import finish
from regime_proto.schema.segments import Segments
from regime_proto.schema.writer import TrajectoryWriter

STATES = 140
# Observations in four full segments and one that is not.
COUNT = 300

CONVERT = """
import os, signal, sys
import regime_proto.conversion
from pathlib import Path
from regime_proto.conversion.plan import make_plan
from regime_proto.conversion.run import run_plan
from regime_proto.schema import writer

source, output, at, seconds = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
writer.TrajectoryWriter.__init__.__kwdefaults__["seconds"] = seconds
def progress(done, total):
    if done == at:
        os.kill(os.getpid(), signal.SIGKILL)
run_plan(make_plan(Path(source)), Path(output), progress=progress)
"""


@pytest.fixture(scope="module")
def long_run(tmp_path_factory):
    return save_walk(tmp_path_factory.mktemp("long") / "checkpoints", STATES)


@pytest.fixture(scope="module")
def reference(long_run, tmp_path_factory):
    return regime_proto.convert(long_run, tmp_path_factory.mktemp("reference") / "run.h5")


def convert(source, output, *, kill_at=-1, seconds=30.0, limit=None):
    """Convert in a process of its own, whose files cannot grow beyond a limit."""
    return children.run(CONVERT, source, output, kill_at, seconds, prepare=limited(limit))


def limited(size):
    """Return what lets a process write files of so many bytes only."""
    return None if size is None else partial(resource.setrlimit, resource.RLIMIT_FSIZE, (size, size))


def committed(output):
    """Steps that are in the segments."""
    steps = []
    for path in sorted(segments_folder(output).glob("[0-9]*.h5")):
        with regime_proto.open_trajectory(path) as segment:
            steps += segment["step"].values.tolist()
    return steps


def kills(seconds, often, slow):
    """Moments of kills, with the seconds until a segment is written; those of the slow suite are between the others."""
    return [
        *((at, seconds) for at in often),
        *(pytest.param(at, seconds, marks=pytest.mark.slow) for at in slow),
    ]


@pytest.mark.parametrize(
    ("kill_at", "seconds"),
    [*kills(30.0, [63, 64, 65, STATES], [1, 130]), *kills(0.0, [1, 64, STATES], [63, 65, 130])],
)
def test_a_killed_conversion_goes_on(long_run, reference, tmp_path, kill_at, seconds):
    output = tmp_path / "run.h5"
    assert convert(long_run, output, kill_at=kill_at, seconds=seconds).returncode == -signal.SIGKILL
    kept = committed(output)
    # With no delay allowed every observation is committed at once, else every full segment.
    assert len(kept) == (kill_at if seconds == 0 else kill_at - kill_at % 64)
    assert kept == list(range(len(kept)))
    seen = []
    regime_proto.convert(long_run, output, progress=lambda done, total: seen.append(done))
    assert seen == list(range(len(kept) + 1, STATES + 1))
    assert_same(output, reference)
    assert not segments_folder(output).exists()


@pytest.mark.parametrize("lost", [(0,), (1,), (0, 1), (0, 2)])
def test_a_conversion_fills_gaps(long_run, reference, tmp_path, lost):
    """Segments may be missing in the middle, and the rest is not measured again."""
    output = tmp_path / "run.h5"
    assert convert(long_run, output, kill_at=STATES, seconds=0.0).returncode == -signal.SIGKILL
    for number in lost:
        (segments_folder(output) / f"{number:06d}.h5").unlink()
    seen = []
    regime_proto.convert(long_run, output, progress=lambda done, total: seen.append(done))
    rows = (range(64), range(64, 128), range(128, STATES))
    assert seen == [row + 1 for number in lost for row in rows[number]]
    assert_same(output, reference)
    assert not segments_folder(output).exists()


def test_killed_again_and_again(long_run, reference, tmp_path):
    output = tmp_path / "run.h5"
    for kill_at in (70, 71, 139):
        assert convert(long_run, output, kill_at=kill_at, seconds=0.0).returncode == -signal.SIGKILL
        assert len(committed(output)) == kill_at
    regime_proto.convert(long_run, output)
    assert_same(output, reference)


@pytest.mark.parametrize("kept", [27, 64])
def test_a_full_disk_keeps_what_was_committed(long_run, reference, tmp_path, kept):
    output = tmp_path / "run.h5"
    convert(long_run, output, kill_at=kept, seconds=0.0)
    [segment] = segments_folder(output).glob("*.h5")
    before = segment.read_bytes()
    failed = convert(long_run, output, limit=10_000)
    assert failed.returncode == 1
    assert "the disk is full" in failed.stderr
    assert f"; {kept} observations are safe" in failed.stderr
    assert segment.read_bytes() == before
    assert {path.name for path in segments_folder(output).iterdir()} == {segment.name, "lock", "program"}
    regime_proto.convert(long_run, output)
    assert_same(output, reference)


def test_a_disk_that_fills_up_while_joining_keeps_all(long_run, reference, tmp_path):
    output = tmp_path / "run.h5"
    convert(long_run, output, kill_at=STATES)
    largest = max(path.stat().st_size for path in segments_folder(output).iterdir())
    failed = convert(long_run, output, limit=largest + 1)
    assert failed.returncode == 1
    assert f"all {STATES} observations are safe" in failed.stderr
    assert [path.name for path in tmp_path.iterdir()] == [segments_folder(output).name]
    regime_proto.convert(long_run, output)
    assert_same(output, reference)


def often(count, slow):
    """Numbers for `count` runs, and for so many more in the slow suite."""
    return [*range(count), *(pytest.param(number, marks=pytest.mark.slow) for number in range(count, slow))]


def duration_of(start):
    """Return how many seconds a process takes to its end."""
    begun = time.monotonic()
    assert start().wait().returncode == 0
    return time.monotonic() - begun


def killed_after(start, seconds, *, group=True):
    """Start a process and kill it, with its children or without them; return whether that came in time."""
    child = start()
    child.process.join(seconds)
    if child.returncode is None:
        try:
            os.killpg(child.pid, signal.SIGKILL) if group else child.kill()
        except ProcessLookupError:
            # It has not come to make a group of its own.
            child.kill()
    return child.wait().returncode == -signal.SIGKILL


def start_conversion(source, output, seconds):
    return children.start(CONVERT, source, output, -1, seconds, prepare=os.setsid)


@pytest.fixture(scope="module")
def conversion_seconds(long_run, tmp_path_factory):
    """How long a conversion takes that nobody kills, with segments at every moment."""
    output = tmp_path_factory.mktemp("duration") / "run.h5"
    return duration_of(lambda: start_conversion(long_run, output, 0.0))


@pytest.mark.parametrize("number", often(6, 100))
def test_a_conversion_killed_at_any_moment_goes_on(long_run, reference, conversion_seconds, tmp_path, number):
    """With segments at every moment, and with few."""
    output = tmp_path / "run.h5"
    random = np.random.default_rng(number)
    kept = []
    for _ in range(2):
        start = partial(start_conversion, long_run, output, number % 2 * 0.05)
        if not killed_after(start, random.uniform(0, conversion_seconds)) or output.exists():
            break
        assert committed(output)[: len(kept)] == kept
        kept = committed(output)
    seen = []
    regime_proto.convert(long_run, output, progress=lambda done, total: seen.append(done))
    assert len(seen) <= STATES - len(kept)
    assert_same(output, reference)
    assert {path.name for path in tmp_path.iterdir()} == {output.name}


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """The segments of a long run, and the file that they ought to become."""
    folder = tmp_path_factory.mktemp("interrupted")
    head = trajectories.header(policy="every=3")
    observations = list(trajectories.observations(head, COUNT))
    for name in ("reference.h5", "run.h5"):
        with Segments(folder / name) as segments:
            writer = TrajectoryWriter(segments, head)
            for observation in observations:
                writer.append(observation, fingerprint="f")
            writer.flush()
            if name == "reference.h5":
                writer.close()
    return folder


def copied(interrupted, folder):
    shutil.copytree(interrupted / "run.h5.segments", folder / "run.h5.segments")
    return folder / "run.h5"


def alone(*, by_child):
    """Make this process, which is about to merge, the first of a group; the join may be left to a child."""
    os.setsid()
    if by_child:
        join_by_child()


def join_by_child():
    """Let this process treat all segments as too large to be joined in its own memory."""
    assemble.IN_MEMORY_BYTES = 0


def start_merge(output, *, by_child=True):
    return children.start_regime("merge", segments_folder(output), prepare=partial(alone, by_child=by_child))


@pytest.fixture(scope="module")
def merge_seconds(interrupted, tmp_path_factory):
    """How long a merge takes that nobody kills."""
    output = copied(interrupted, tmp_path_factory.mktemp("duration"))
    return duration_of(lambda: start_merge(output))


@pytest.mark.parametrize("number", often(6, 110))
def test_a_merge_killed_at_any_moment_is_finished_by_the_next(interrupted, merge_seconds, tmp_path, number):
    """Killed together with the child that joins, or alone, while that goes on; or while it joins in memory."""
    output = copied(interrupted, tmp_path)
    random = np.random.default_rng(number)
    start = partial(start_merge, output, by_child=number % 3 < 2)
    killed_after(start, random.uniform(0, merge_seconds), group=number % 3 == 0)
    assert output.exists() or segments_folder(output).exists()
    done = finish(output)
    assert done.observations == COUNT
    assert_same(output, interrupted / "reference.h5")
    assert validate(output) == []
    assert not segments_folder(output).exists()


def test_merging_again_changes_nothing(interrupted, tmp_path):
    output = copied(interrupted, tmp_path)
    assert finish(segments_folder(output)).joined
    before = output.read_bytes()
    for path in (output, segments_folder(output)):
        again = finish(path)
        assert not again.joined
        assert again.observations == COUNT
    assert output.read_bytes() == before


def test_a_merge_carries_the_program_along(interrupted):
    with regime_proto.open_trajectory(interrupted / "reference.h5") as found:
        assert found["program"].values.tobytes() == b"not really a program"


def test_a_kill_while_segments_are_deleted_does_not_shorten_the_output(interrupted, tmp_path):
    output = copied(interrupted, tmp_path)
    finish(output)
    before = output.read_bytes()
    shutil.copytree(interrupted / "run.h5.segments", segments_folder(output))
    for path in sorted(segments_folder(output).glob("0*.h5"))[3:]:
        path.unlink()
    assert not finish(output).joined
    assert output.read_bytes() == before
    assert not segments_folder(output).exists()


def test_a_merge_does_not_replace_another_run(interrupted, tmp_path):
    output = copied(interrupted, tmp_path)
    regime_proto.synthetic.trajectory(steps=3, path=output)
    with pytest.raises(regime_proto.TrajectoryError, match="belongs to another run"):
        finish(output)
    assert finish(output, overwrite=True).observations == COUNT


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "000003.h5").unlink(), "000003.h5: missing, although 000004.h5 exists"),
        (
            lambda folder: (folder / "000004.h5").write_bytes(b"x" * 9000),
            "000004.h5: a damaged segment .*delete it",
        ),
        (
            lambda folder: (folder / "000003.h5").write_bytes(b"x" * 9000),
            "000003.h5: a damaged segment .*delete it",
        ),
    ],
)
def test_a_spoiled_segment_is_named(interrupted, tmp_path, spoil, message):
    output = copied(interrupted, tmp_path)
    spoil(segments_folder(output))
    with pytest.raises(regime_proto.TrajectoryError, match=message):
        finish(output)
    assert [path.name for path in tmp_path.iterdir()] == [segments_folder(output).name]


def test_a_segment_is_a_valid_trajectory(interrupted):
    for path in segments_folder(interrupted / "run.h5").glob("*.h5"):
        assert validate(path) == []


@pytest.mark.parametrize("masks", ["every=3", "none"])
def test_a_killed_conversion_that_thins_goes_on(long_run, tmp_path, masks):
    """In the middle of a segment, and at an observation that keeps no masks."""
    reference = regime_proto.convert(long_run, tmp_path / "reference.h5", masks=masks)

    def interrupt(done, total):
        if done == 100:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        regime_proto.convert(long_run, tmp_path / "run.h5", masks=masks, progress=interrupt)
    assert len(committed(tmp_path / "run.h5")) == 100
    with pytest.raises(regime_proto.TrajectoryError, match=f"started with mask_policy {masks}, now all"):
        regime_proto.convert(long_run, tmp_path / "run.h5", masks="all")
    regime_proto.convert(long_run, tmp_path / "run.h5", masks=masks)
    assert_same(tmp_path / "run.h5", reference)


def test_nothing_to_merge_is_an_error(tmp_path):
    with pytest.raises(regime_proto.TrajectoryError, match="no segments found; expected the folder"):
        finish(tmp_path / "run.h5")


def full(*, by_child):
    """Let this process write small files only."""
    limited(20_000)()
    if by_child:
        join_by_child()


@pytest.mark.parametrize(("task", "by_child"), [("merge", False), ("merge", True), ("thin", True)])
def test_a_disk_that_fills_up_leaves_what_was_there(interrupted, tmp_path, task, by_child):
    output = copied(interrupted, tmp_path)
    if task == "thin":
        finish(output)
    before = {path.name for path in tmp_path.iterdir()}
    calls = {"merge": ["merge", str(output)], "thin": ["thin", str(output), "--masks", "none", "-o", f"{output}.new"]}
    done = children.run_regime(*calls[task], prepare=partial(full, by_child=by_child))
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert f"{output}{'.new' * (task == 'thin')}: could not be written: the disk is full (File too large)" in line
    assert {path.name for path in tmp_path.iterdir()} == before
    if task == "merge":
        assert finish(output).observations == COUNT


HOLD = """
import sys, time
from pathlib import Path
from regime_proto.schema.segments import Segments
with Segments(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_second_writer_gets_a_clear_error(long_run, interrupted, tmp_path):
    output = copied(interrupted, tmp_path)
    holder = children.start(HOLD, output)
    holder.wait_for(lambda: holder.stdout == "held\n")
    for work in (
        lambda: regime_proto.convert(long_run, output),
        lambda: regime_proto.convert(long_run, output, overwrite=True),
        lambda: finish(output),
    ):
        with pytest.raises(regime_proto.TrajectoryError, match="another process is writing it"):
            work()
    holder.kill()
    holder.wait()
    # A hold ends with its process, whatever ended that.
    assert finish(output).observations == COUNT


def test_two_conversions_at_once(long_run, reference, tmp_path):
    """One wins, the other says why it did not, and the file is right."""
    output = tmp_path / "run.h5"
    code = "import sys, regime_proto; regime_proto.convert(*sys.argv[1:])"
    writers = [children.start(code, long_run, output) for _ in range(2)]
    done = [writer.wait() for writer in writers]
    codes = sorted(one.returncode for one in done)
    assert codes[0] == 0
    if codes[1]:
        assert any("another process is writing it" in one.stderr for one in done)
    assert_same(output, reference)


def test_stored_masks_compress(reference):
    """The chunk layout lets gzip see that patterns change little from step to step."""
    import h5py

    with h5py.File(reference) as file:
        assert file["mask"].id.get_storage_size() < 0.8 * np.prod(file["mask"].shape)
