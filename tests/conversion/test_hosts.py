"""A run that workers on other hosts measure, one of which loses its network in the middle and gets it back."""

import os
import time

import pytest
from hosts import MISSING, hosts
from reading import assert_same
from trainings import save_walk

import regime_proto
from regime_proto.schema.files import segments_folder

pytestmark = pytest.mark.skipif(MISSING is not None and "REGIME_REQUIRE_READERS" not in os.environ, reason=str(MISSING))

# In sixteen segments.
STATES = 1000
# After so long without an answer Dask takes a connection for lost; it takes no shorter time.
PATIENCE = {"DASK_DISTRIBUTED__COMM__TIMEOUTS__TCP": "11s", "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "11s"}


def until(is_so, seconds, *logs):
    """Wait until something is so."""
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end, [log.read_text() for log in logs]
        time.sleep(0.02)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return save_walk(tmp_path_factory.mktemp("hosts") / "checkpoints", STATES)


@pytest.fixture(scope="module")
def reference(run, tmp_path_factory):
    return regime_proto.convert(run, tmp_path_factory.mktemp("reference") / "run.h5")


@pytest.mark.parametrize("seconds", [1, pytest.param(20, marks=pytest.mark.slow)])
def test_a_host_that_is_cut_off_and_comes_back(run, reference, tmp_path, seconds):
    """For a moment, which nobody notices; and for so long that its tasks are given to others and its worker ends."""
    output, scheduler_log, log = tmp_path / "run.h5", tmp_path / "scheduler.log", tmp_path / "convert.log"
    with hosts(3) as (head, first, second):
        address = f"tcp://{head.address}:8786"
        scheduler = ("-m", "distributed.cli.dask_scheduler", "--host", head.address, "--no-dashboard")
        head.start(*scheduler, log=scheduler_log, **PATIENCE)

        def start_worker(host):
            return host.start(
                *("-m", "distributed.cli.dask_worker", address, "--host", host.address, "--nthreads", 1),
                *("--no-dashboard", "--memory-limit", 0, "--local-directory", tmp_path / host.name),
                log=tmp_path / f"{host.name}.log",
                **PATIENCE,
            )

        def registered():
            return scheduler_log.read_text().count("Register worker")

        cut, _ = start_worker(first), start_worker(second)
        until(lambda: registered() == 2, 60, scheduler_log)
        regime = ("-c", "from regime_proto.cli.main import main; main()")
        command = head.start(*regime, "convert", run, "-o", output, "--scheduler", address, log=log, **PATIENCE)
        until(lambda: len(list(segments_folder(output).glob("0*.h5"))) > 1, 60, log, scheduler_log)
        first.cut_off()
        time.sleep(seconds)
        if seconds == 1:
            # It waits for what that host has.
            assert command.poll() is None, log.read_text()
        first.plug_in()
        assert command.wait(120) == 0, log.read_text()
        if seconds > 1:
            cut.wait(60)
            start_worker(first)
            until(lambda: registered() == 3, 60, scheduler_log)
        else:
            assert cut.poll() is None
            assert registered() == 2
    assert_same(output, reference)
