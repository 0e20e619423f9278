"""Several runs in one call give what single conversions give, whatever happens to some of them."""

import os
import signal
import warnings
from contextlib import contextmanager
from pathlib import Path

import children
import distributed
import numpy as np
import pytest
from cluster_tasks import die
from reading import assert_same
from small_runs import make_model, probe, write_runs

import regime_proto
from regime_proto.conversion import many
from regime_proto.conversion.many import Outcome, convert_many, prepare, runs_of
from regime_proto.conversion.run_names import names_of
from regime_proto.conversion.settings import ConversionSettings
from regime_proto.engine.executors.processes import Processes
from regime_proto.engine.executors.tasks import Task
from regime_proto.program.program import Program
from regime_proto.schema.files import segments_folder
from regime_proto.schema.segments import kept_observations

pytestmark = pytest.mark.torch

STATES = 12


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Four runs. Read only."""
    return write_runs(tmp_path_factory.mktemp("many") / "runs", 4, states=STATES)


@pytest.fixture(scope="module")
def expected(runs, tmp_path_factory):
    """What each gives by itself."""
    folder = tmp_path_factory.mktemp("expected")
    return {root.name: regime_proto.convert(root, folder / f"{root.name}.h5") for root in runs}


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "trajectories"


def stamp(path):
    """What changes when a file is written; to read it changes the time of the last access."""
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns


def spoiled(root):
    """Cut off a checkpoint in the middle of a run."""
    path = root / "step_5.safetensors"
    path.write_bytes(path.read_bytes()[:-9])


@pytest.mark.parametrize(
    ("sources", "names"),
    [
        (["runs/a", "runs/b/"], ["a", "b"]),
        (["/x/a/ckpt", "/x/b/ckpt"], ["a-ckpt", "b-ckpt"]),
        (["/1/s/ckpt", "/1/t/ckpt", "/2/s/ckpt", "/2/other"], ["1-s-ckpt", "1-t-ckpt", "2-s-ckpt", "other"]),
        (["/x/ckpt", "/ckpt"], ["x-ckpt", "ckpt"]),
        (["/x/../y/run", "/z/run"], ["y-run", "z-run"]),
    ],
)
def test_names_are_as_much_of_the_path_as_tells_runs_apart(sources, names):
    assert names_of(list(map(Path, sources))) == names


def test_runs_that_cannot_be_told_apart_are_refused(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "latest").symlink_to("a")
    with pytest.raises(regime_proto.RegimeError, match=r"a: given twice; leave one out"):
        names_of([tmp_path / "a", tmp_path / "a"])
    with pytest.raises(regime_proto.RegimeError, match=r"latest: given twice, also as .*a; leave one out"):
        names_of([tmp_path / "a", tmp_path / "latest"])
    with pytest.raises(
        regime_proto.RegimeError, match=r"/b-c and /x/b/c: both would be written to b-c.h5; convert one"
    ):
        names_of(list(map(Path, ["/x/b/c", "/y/d/c", "/b-c"])))


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_each_run_gives_what_it_gives_by_itself(runs, expected, folder, workers):
    seen = []
    found = convert_many(runs, folder, workers=workers, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(done, 4) for done in (1, 2, 3, 4)]
    assert [outcome.source for outcome in found] == runs
    for outcome, root in zip(found, runs, strict=True):
        assert outcome == Outcome(root.name, root, folder / f"{root.name}.h5", STATES, written=True)
        assert_same(outcome.path, expected[root.name])
    stamps = [stamp(outcome.path) for outcome in found]
    again = convert_many(runs, folder, workers=workers)
    assert [(outcome.observations, outcome.written) for outcome in again] == [(STATES, False)] * 4
    assert [stamp(outcome.path) for outcome in again] == stamps


@pytest.mark.parametrize("workers", [1, 2])
def test_a_run_that_fails_does_not_stop_the_others(tmp_path, folder, workers):
    roots = write_runs(tmp_path / "runs", 4, states=STATES)
    spoiled(roots[1])
    (roots[2] / "probe.npz").unlink()
    found = convert_many([*roots, tmp_path / "none"], folder, workers=workers)
    assert [outcome.error is None for outcome in found] == [True, False, False, True, False]
    assert "step_5.safetensors" in found[1].error
    assert "no probe.npz in it" in found[2].error
    assert "none: no such file or directory" in found[4].error
    assert not any("\n" in outcome.error for outcome in found if outcome.error)
    # What was measured before the damage is kept, and gone on with once that is mended.
    assert kept_observations(found[1].path) == 5
    [mended] = write_runs(tmp_path / "mended", 1, states=STATES, names=["run"])
    (roots[1] / "step_5.safetensors").write_bytes((mended / "step_5.safetensors").read_bytes())
    again = convert_many(roots, folder, workers=workers)
    assert [outcome.written for outcome in again] == [False, True, False, False]
    assert again[1].error is None
    assert not segments_folder(found[1].path).exists()


def test_a_warning_is_told_under_the_name_of_its_run(tmp_path, folder):
    roots = write_runs(tmp_path / "runs", 3, states=STATES)
    broken = roots[1] / "step_7.safetensors"
    content = broken.read_bytes()
    broken.write_bytes(content[:-4] + np.float32(np.nan).tobytes())
    with pytest.warns(regime_proto.RegimeWarning, match="^run_0001: .*holds? NaN or Inf|^run_0001: .*NaN") as caught:
        found = convert_many(roots, folder, workers=2)
    assert [len(outcome.warnings) for outcome in found] == [0, 1, 0]
    assert [str(warning.message) for warning in caught] == [f"run_0001: {found[1].warnings[0]}"]


@pytest.mark.parametrize("where", ["given", "found"])
def test_a_model_is_exported_once_for_runs_of_the_same_probe(tmp_path, folder, where, monkeypatch, expected):
    roots = write_runs(tmp_path / "runs", 3, states=STATES, self_describing=False)
    options = {"probe": probe()} if where == "given" else {}
    for number, root in enumerate(roots if where == "found" else ()):
        np.save(root / "probe.npy", probe())
        np.savez(root / "probe.npz", input=probe() if number < 2 else 2 * probe())
        (root / "probe.npy").unlink()
    settings = ConversionSettings(model=make_model(), **options)
    prepared = prepare(runs_of(roots, folder), settings)
    assert len({id(one) for one in prepared}) == (1 if where == "given" else 2)
    assert all(isinstance(one.model, Program) for one in prepared)
    found = convert_many(roots, folder, model=make_model(), workers=2, **options)
    assert [outcome.error for outcome in found] == [None] * 3
    for outcome, root in list(zip(found, roots, strict=True))[1:]:
        alone = regime_proto.convert(root, tmp_path / "alone" / f"{root.name}.h5", model=make_model(), **options)
        assert_same(outcome.path, alone)


def test_the_factory_of_a_model_is_imported_here_only(tmp_path, folder, monkeypatch):
    """Worker processes need neither the module nor its framework."""
    roots = write_runs(tmp_path / "runs", 2, states=STATES, self_describing=False)
    (tmp_path / "many_net.py").write_text(
        f"import os\nfrom small_runs import make_model\nassert os.getpid() == {os.getpid()}\n"
    )
    monkeypatch.chdir(tmp_path)
    found = convert_many(roots, folder, model="many_net:make_model", probe=probe(), workers=2)
    assert [outcome.error for outcome in found] == [None, None]
    inside = tmp_path / "runs/run_0001"
    (inside / "inside_net.py").write_text("from small_runs import make_model\n")
    monkeypatch.syspath_prepend(inside)
    with pytest.raises(regime_proto.RegimeError, match="lies in the checkpoint directory"):
        convert_many(roots, folder, model="inside_net:make_model", probe=probe())


def test_what_no_run_can_be_converted_with_is_an_error_at_once(runs, folder, tmp_path):
    refusals = {
        r"no runs to convert; pass directories": ([], folder, {}),
        r"shard: a shard is a part of one run": (runs, folder, {"shard": "1/2"}),
        r"--keep-downloads: applies only to checkpoints on": (runs, folder, {"keep_downloads": True}),
        r"is inside the run": (runs, runs[0] / "new", {}),
        r"exists, but is not a folder; choose another folder": (runs, runs[0] / "step_0.safetensors", {}),
        r"nowhere.npy: no such file": (runs, folder, {"probe": tmp_path / "nowhere.npy"}),
        r"noise 'quik'": (runs, folder, {"noise": "quik"}),
        r"no module 'nowhere'": (runs, folder, {"model": "nowhere:make", "probe": probe()}),
    }
    for message, (sources, place, options) in refusals.items():
        with pytest.raises(regime_proto.RegimeError, match=message):
            convert_many(sources, place, **options)
    assert not folder.exists()


CONVERT = """
import sys
from regime_proto import convert_many
print(sum(outcome.written for outcome in convert_many(sys.argv[2:], sys.argv[1], workers=2)))
"""


def test_a_call_that_was_killed_goes_on(tmp_path, folder):
    roots = write_runs(tmp_path / "runs", 6, states=150)
    child = children.start(CONVERT, folder, *roots)
    child.wait_for(lambda: len(list(folder.glob("*.h5"))) >= 2)
    child.kill()
    child.wait()
    done = {path: stamp(path) for path in folder.glob("*.h5")}
    wait_for_orphans(folder)
    found = convert_many(roots, folder, workers=2)
    assert [outcome.error for outcome in found] == [None] * 6
    assert {path: stamp(path) for path in done} == done
    assert_same(found[5].path, regime_proto.convert(roots[5], tmp_path / "alone.h5"))
    assert not list(folder.glob("*.segments"))


def wait_for_orphans(folder):
    """Wait until the workers of a killed process have kept what they had, and ended."""
    import time

    until = time.monotonic() + 30
    while any(str(folder) in line for line in open_files()):
        assert time.monotonic() < until
        time.sleep(0.05)


def open_files():
    """Yield what the processes of this user have open."""
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            yield str(link.readlink())
        except OSError:
            continue


def test_processes_that_are_interrupted_keep_what_they_have(tmp_path, folder):
    roots = write_runs(tmp_path / "runs", 2, states=400)
    child = children.start(CONVERT, folder, *roots)
    child.wait_for(lambda: list(folder.glob("*.segments/0*.h5")))
    child.send_signal(signal.SIGINT)
    assert child.wait().returncode != 0
    outputs = [folder / f"{root.name}.h5" for root in roots]
    # Of a run that was at its end there is the output, and no segment.
    assert any(output.exists() or kept_observations(output) >= 64 for output in outputs)
    found = convert_many(roots, folder, workers=2)
    assert [outcome.observations for outcome in found] == [400, 400]


def test_a_task_of_which_processes_die_is_given_up_and_the_others_are_done():
    tasks = [Task(die, (number,), f"run {number}") for number in range(4)]
    results = dict(Processes(2).results(tasks, None))
    assert {number: result for number, result in results.items() if number != 1} == {0: 0, 2: 2, 3: 3}
    assert str(results[1]).startswith(
        "run 1: given up: its process failed 4 times; the last one was killed, usually for lack of memory"
    )


def test_a_process_that_cannot_start_says_why(monkeypatch):
    monkeypatch.setattr("regime_proto.engine.executors.processes._MODULE", "regime_proto.nowhere")
    with pytest.raises(regime_proto.RegimeError, match=r"could not be started: it ended with exit code 1 .*nowhere"):
        list(Processes(2).results([Task(die, (0,), "run 0")], None))


def test_large_runs_are_converted_one_after_the_other(runs, monkeypatch):
    """Where memory is short for several."""
    settings = ConversionSettings(workers=4)
    plan = many._first_plan([(run, settings) for run in runs_of(runs, Path("x"))])
    executor, threads = many._local(9, settings, plan)
    assert (executor._count, threads) == (4, 1)
    executor, threads = many._local(2, settings, plan)
    assert (executor._count, threads) == (2, 2)
    monkeypatch.setattr(many, "available_bytes", lambda: 2**30)
    executor, threads = many._local(9, settings, plan)
    assert isinstance(executor, many.InThisProcess)
    assert threads == 4


@contextmanager
def cluster_of(count, threads=1):
    with (
        warnings.catch_warnings(),
        distributed.LocalCluster(
            n_workers=count, threads_per_worker=threads, memory_limit=0, dashboard_address=":0", silence_logs=50
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


# Distributed leaves sockets of its own to the collector.
IN_A_CLUSTER = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")


@IN_A_CLUSTER
@pytest.mark.parametrize("threads", [1, 2])
def test_the_workers_of_a_cluster_give_the_same(runs, expected, folder, tmp_path, threads, monkeypatch):
    [broken] = write_runs(tmp_path / "more", 1, states=STATES, names=["broken"])
    spoiled(broken)
    monkeypatch.chdir(folder.parent)
    with cluster_of(2, threads) as client:
        # A relative folder is that of this process.
        found = convert_many([*runs, broken], folder.name, client=client)
        again = convert_many(runs, folder.name, client=client)
    assert [outcome.path for outcome in found[:-1]] == [Path(folder.name, f"{root.name}.h5") for root in runs]
    for outcome in found[:-1]:
        assert_same(outcome.path, expected[outcome.name])
    assert "step_5.safetensors" in found[-1].error
    assert not any(outcome.written for outcome in again)


@IN_A_CLUSTER
def test_a_worker_that_is_killed_is_replaced(tmp_path, folder):
    roots = write_runs(tmp_path / "runs", 5, states=100)
    killed = []
    with cluster_of(2) as client:

        def progress(done, total):
            if not killed:
                killed.append(next(iter(client.run(os.getpid).values())))
                os.kill(killed[0], signal.SIGKILL)

        found = convert_many(roots, folder, client=client, progress=progress)
    assert killed
    assert [(outcome.observations, outcome.error) for outcome in found] == [(100, None)] * 5


def test_a_single_directory_is_one_run(runs, folder):
    [outcome] = convert_many(str(runs[0]), folder)
    assert (outcome.name, outcome.observations, outcome.error) == ("run_0000", STATES, None)
