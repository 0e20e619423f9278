"""A run that the workers of a Dask cluster measure gives the file that one process gives, whatever happens to them."""

import os
import shutil
import signal
import time
import warnings
from collections import Counter
from contextlib import contextmanager
from dataclasses import replace

import distributed
import pytest
from children import run_regime, start_regime
from cluster_tasks import die, wait
from commands import regime
from reading import assert_same
from trainings import save_walk
from trajectories import header

import regime_proto
from regime_proto.conversion.distributing import divided
from regime_proto.conversion.plan import make_plan
from regime_proto.conversion.settings import ConversionSettings
from regime_proto.conversion.tasks import Recipe, measure_rows, versions
from regime_proto.engine.executors.dask import Cluster, Task, connected, require_alike
from regime_proto.runtime.cards import VISIBLE
from regime_proto.schema.files import segments_folder

# Distributed leaves sockets of its own to the collector.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")

# In eleven segments.
STATES = 700


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return save_walk(tmp_path_factory.mktemp("cluster") / "checkpoints", STATES)


@pytest.fixture(scope="module")
def reference(run, tmp_path_factory):
    return regime_proto.convert(run, tmp_path_factory.mktemp("reference") / "run.h5")


@contextmanager
def cluster_of(count, threads=1, memory=0):
    with (
        warnings.catch_warnings(),
        distributed.LocalCluster(
            n_workers=count,
            threads_per_worker=threads,
            memory_limit=memory,
            dashboard_address=":0",
            silence_logs=50,
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def client():
    with cluster_of(2) as client:
        yield client


@pytest.fixture
def output(tmp_path):
    return tmp_path / "run.h5"


@pytest.mark.parametrize("per_segment", [1, 7, 64])
@pytest.mark.parametrize("workers", [1, 2, 50])
def test_tasks_are_whole_segments_and_all_of_them(per_segment, workers):
    gaps = [range(3 * per_segment), range(5 * per_segment + per_segment // 2, 700)]
    tasks = divided(gaps, per_segment, workers)
    rows = [row for task in tasks for row in task]
    assert set(rows) >= {row for gap in gaps for row in gap}
    assert rows == sorted(set(rows))
    assert all(task.start % per_segment == 0 for task in tasks)
    segments = -(-len(rows) // per_segment)
    assert len(tasks) >= min(workers, segments) / 2


def test_two_workers_give_the_same_file(run, reference, output, client):
    seen = []
    regime_proto.convert(run, output, client=client, progress=lambda done, total: seen.append(done))
    assert_same(output, reference)
    assert seen == sorted(seen)
    assert seen[-1] == STATES
    assert len(seen) > 2
    assert not segments_folder(output).exists()
    seen.clear()
    regime_proto.convert(run, output, client=client, progress=lambda done, total: seen.append(done))
    assert seen == []


@pytest.mark.parametrize(("count", "threads"), [(1, 1), (1, 3), pytest.param(4, 1, marks=pytest.mark.slow)])
def test_any_number_of_workers_gives_the_same_file(run, reference, output, count, threads):
    with cluster_of(count, threads) as client:
        regime_proto.convert(run, output, client=client)
    assert_same(output, reference)


def test_quantities_against_the_first_state(run, output, tmp_path, client):
    expected = regime_proto.convert(run, tmp_path / "expected.h5", measure="all", steps="0:200")
    regime_proto.convert(run, output, measure="all", steps="0:200", client=client)
    assert_same(output, expected)


@pytest.mark.parametrize("times", [1, pytest.param(10, marks=pytest.mark.slow)])
def test_workers_that_are_killed_are_replaced(run, reference, output, client, times):
    """One of two dies after every task; no task is on more of them than the three that it may be on."""
    killed, hits = [], Counter()

    def progress(done, total):
        # One that was killed before may not have been replaced yet.
        answers = client.run(os.getpid, on_error="return")
        pids = {address: pid for address, pid in answers.items() if isinstance(pid, int)}
        there = {address: keys for address, keys in client.processing().items() if address in pids}
        victims = [address for address, keys in there.items() if all(hits[key] < 2 for key in keys)]
        if len(killed) < times and done < total and victims:
            hits.update(there[victims[0]])
            killed.append(pids[victims[0]])
            os.kill(killed[-1], signal.SIGKILL)

    while len(killed) < times:
        before = len(killed)
        regime_proto.convert(run, output, client=client, progress=progress, overwrite=True)
        assert len(killed) > before
        assert_same(output, reference)


@pytest.mark.parametrize("times", [2, pytest.param(10, marks=pytest.mark.slow)])
def test_a_client_that_is_killed_goes_on(run, reference, output, client, times):
    """It is killed whenever another segment has come back; what did is neither lost nor made again."""
    command = ("convert", run, "-o", output, "--scheduler", client.scheduler.address)

    def kept():
        return {path.name: path.stat().st_mtime_ns for path in segments_folder(output).glob("0*.h5")}

    for _ in range(times):
        before = kept()
        killed = start_regime(*command)
        killed.wait_for(lambda before=before: len(kept()) > len(before))
        killed.kill()
        assert killed.wait().returncode == -signal.SIGKILL
        assert kept().items() >= before.items()
    done = run_regime(*command)
    assert done.returncode == 0, done.stderr
    assert_same(output, reference)


def test_what_came_back_is_kept(run, reference, output, client):
    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        regime_proto.convert(run, output, client=client, progress=stop)
    kept = sorted(path.name for path in segments_folder(output).glob("0*.h5"))
    assert 0 < len(kept) < 11
    lengths = [STATES - 640 if name == "000010.h5" else 64 for name in kept]
    seen = []
    regime_proto.convert(run, output, progress=lambda done, total: seen.append(done))
    assert len(seen) == STATES - sum(lengths)
    assert_same(output, reference)


@pytest.mark.parametrize("fails", [False, True])
def test_a_segment_that_was_begun_is_made_whole(run, reference, output, client, fails):
    """A cluster writes whole segments, and what this process had begun does not replace them."""
    interrupted = 70 if fails else 660

    def stop(done, total):
        if done == interrupted or (fails and done > interrupted):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        regime_proto.convert(run, output, progress=stop)
    assert lengths(output)[-1] == interrupted % 64
    if fails:
        with pytest.raises(KeyboardInterrupt):
            regime_proto.convert(run, output, client=client, progress=stop)
        now = lengths(output)
        assert len(now) > 2 or now == [64, 64]
    else:
        regime_proto.convert(run, output, client=client)
    regime_proto.convert(run, output)
    assert_same(output, reference)


def lengths(output):
    """Observations in the segments."""
    found = []
    for path in sorted(segments_folder(output).glob("0*.h5")):
        with regime_proto.open_trajectory(path) as segment:
            found.append(segment.sizes["step"])
    return found


def test_an_error_of_a_checkpoint_is_that_of_one_process(run, output, tmp_path, client):
    copy = tmp_path / "checkpoints"
    shutil.copytree(run, copy)
    spoiled = copy / "step_300.safetensors"
    spoiled.write_bytes(spoiled.read_bytes()[:-9])
    messages = []
    for options in ({}, {"client": client}):
        with pytest.raises(regime_proto.RegimeError) as caught:
            regime_proto.convert(copy, output, **options)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
    assert "step_300.safetensors" in messages[0]


def test_a_task_of_which_workers_die_is_named():
    with cluster_of(2) as client:
        tasks = [Task(die, (number,), f"steps of task {number}") for number in range(3)]
        with pytest.raises(regime_proto.RegimeError, match=r"steps of task \d: given up after .* most recently tcp"):
            list(Cluster(client).carry_out(tasks, None))


def test_tasks_are_cancelled_when_the_caller_leaves(client):
    tasks = [Task(wait, (0.01,), "short"), *(Task(wait, (0.3,), "long") for _ in range(50))]
    results = Cluster(client).carry_out(tasks, None)
    next(results)
    results.close()
    begun = time.monotonic()
    assert client.submit(sum, [1, 2]).result(timeout=10) == 3
    assert time.monotonic() - begun < 5


def test_workers_that_do_not_see_the_files_are_named(run, output, tmp_path):
    """A worker whose file of the same name is another."""
    copy = tmp_path / "checkpoints"
    shutil.copytree(run, copy)
    with cluster_of(1) as client:
        cluster = Cluster(client)
        moved = tmp_path / "elsewhere"

        class Moved(Cluster):
            def ask(self, call, *arguments):
                copy.rename(moved)
                try:
                    return cluster.ask(call, *arguments)
                finally:
                    moved.rename(copy)

        from regime_proto.conversion import distributing

        original = distributing.Cluster
        distributing.Cluster = lambda given: Moved(given)
        try:
            with pytest.raises(regime_proto.RegimeError, match=r"worker tcp://.*: .*checkpoints: no such"):
                regime_proto.convert(copy, output, client=client)
        finally:
            distributing.Cluster = original


def test_other_versions_are_refused():
    ours = versions()
    answers = {"tcp://a:1": ours, "tcp://b:1": ours | {"numpy": "1.0"}, "tcp://c:1": ours | {"numpy": "1.0"}}
    require_alike({"tcp://a:1": ours}, ours)
    with pytest.raises(regime_proto.RegimeError, match=r"2 workers of 3 \(tcp://b:1, tcp://c:1\): numpy 1.0, but here"):
        require_alike(answers, ours)
    with pytest.raises(regime_proto.RegimeError, match=r"cannot run regime .ModuleNotFoundError: no regime_proto"):
        require_alike({"tcp://a:1": ModuleNotFoundError("no regime_proto")}, ours)


def test_a_worker_that_joins_later_with_other_versions_is_refused(run):
    settings = ConversionSettings()
    plan = make_plan(run, settings)
    recipe = replace(Recipe.of(plan, header(), settings), versions=versions() | {"onnxruntime": "1.0"})
    with pytest.raises(
        regime_proto.RegimeError, match=r"worker on .*: onnxruntime .*, but 1.0 where .* started; install"
    ):
        measure_rows(recipe, range(16))


def test_a_cluster_without_workers(run, output):
    with cluster_of(0) as client, pytest.raises(regime_proto.RegimeError, match="has no worker yet; wait for one"):
        regime_proto.convert(run, output, client=client)


def test_workers_without_the_memory_are_refused(run, output):
    with (
        cluster_of(1, memory="400MiB") as client,
        pytest.raises(
            regime_proto.RegimeError, match=r"its memory limit is 0.4 GB, but the run needs about .*--memory-limit"
        ),
    ):
        regime_proto.convert(run, output, client=client)


def test_each_process_of_this_machine_has_a_card_of_its_own():
    """As far as that shows without cards: by the variable that CUDA reads."""
    with connected("local", ["GPU-a", "GPU-b"]) as cluster:
        assert sorted(cluster.ask(os.getenv, VISIBLE).values()) == ["GPU-a", "GPU-b"]
    with connected("local:3", ["GPU-a", "GPU-b"]) as cluster:
        assert sorted(cluster.ask(os.getenv, VISIBLE).values()) == ["GPU-a", "GPU-a", "GPU-b"]


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("tcp://127.0.0.1:9", "no scheduler answers"),
        ("nobody.json", "no such file"),
        ("locale:2", "no scheduler answers"),
    ],
)
def test_a_scheduler_that_is_not_there(run, output, where, message, monkeypatch):
    monkeypatch.setattr("regime_proto.engine.executors.dask._CONNECTING", 1)
    with pytest.raises(regime_proto.RegimeError, match=f"--scheduler {where}: {message}"):
        regime_proto.convert(run, output, scheduler=where)


def test_a_scheduler_without_workers(monkeypatch, tmp_path):
    monkeypatch.setattr("regime_proto.engine.executors.dask._FIRST_WORKER", 0.5)
    with (
        distributed.LocalCluster(n_workers=0, dashboard_address=":0", silence_logs=50) as cluster,
        pytest.raises(regime_proto.RegimeError, match="no worker connected within"),
        connected(cluster.scheduler_address),
    ):
        pass


def test_the_command_takes_a_scheduler(run, reference, output, client, monkeypatch):
    address = client.scheduler.address
    done = regime("convert", run, "-o", output, "--scheduler", address)
    assert done.exit_code == 0, done.output
    assert_same(output, reference)
    monkeypatch.setenv("DASK_SCHEDULER_ADDRESS", "tcp://127.0.0.1:9")
    monkeypatch.setattr("regime_proto.engine.executors.dask._CONNECTING", 1)
    assert (
        "--scheduler tcp://127.0.0.1:9: no scheduler answers"
        in regime("convert", run, "-o", output, "--overwrite").stderr
    )
