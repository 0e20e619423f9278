import os
import signal
import subprocess
from importlib.util import find_spec
from pathlib import Path

import forked
import pytest
import trajectories
from folders import SUPPORT
from hypothesis import settings

from regime_proto.examples.paper.data.packages import cache
from regime_proto.schema import assemble
from regime_proto.schema.validation import guard

# Tests run side by side, a process for each core: threads of one would wait for those of the other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Before it is replaced.
RUN_CHILD = guard.run_child

pytest_plugins = ["compiling", "processor_time", "without_frameworks"]
if find_spec("torch") is not None:
    pytest_plugins += ["exporting", "torch_operators", "torch_runs"]

# How long an example takes says something of the machine, not of the code.
settings.register_profile("regime", deadline=None)
settings.load_profile("regime")

# What Keras would take by itself is not installed.
os.environ.setdefault("KERAS_BACKEND", "jax")
# The graphs that tests make by the hundred are their own; test_trial.py takes this back.
os.environ["REGIME_TRUST_PROGRAMS"] = "1"


# A process runs a file as a whole: those that take longest come first, so that none is left for the end.
LONG = (
    "test_report_browser", "test_recorder_resume", "test_live_distributed", "test_durability", "test_live_trainer",
    "test_onnx_models", "test_huggingface", "test_recorder", "test_quantity_files", "test_following", "test_terminal",
    "test_integrity", "test_quantities", "test_order_by_weights", "test_trial", "test_torch_zip", "test_torch_export",
    "test_validator", "test_hostile_trajectories", "test_hostile_checkpoints", "test_hub",
)  # fmt: skip


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: LONG.index(item.path.stem) if item.path.stem in LONG else len(LONG))


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory):
    """Keep the records of checked files of the tests apart from the user's; packages are fetched once for all tests."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("REGIME_DATA_CACHE", str(cache()))
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True, scope="session")
def forked_processes():
    """Start the processes that check and join files in milliseconds."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        if Path("/proc/self/fd").exists():
            forked.install(monkeypatch)
        yield


@pytest.fixture
def own_processes(monkeypatch):
    """Start the processes that check and join files as users do, for tests of these."""
    monkeypatch.setattr(guard, "run_child", RUN_CHILD)
    monkeypatch.setattr(assemble, "subprocess", subprocess)


@pytest.fixture(scope="session")
def valid(tmp_path_factory):
    """A trajectory of 70 rows that has everything. Read only."""
    return trajectories.write(tmp_path_factory.mktemp("valid") / "run.h5")


@pytest.fixture
def in_tests(monkeypatch):
    """Work where ``nets:make_mlp`` can be imported from the current directory."""
    monkeypatch.chdir(SUPPORT)


def heed_interrupts():
    """Let a child be interrupted, also where the shell ignores SIGINT, as it does for what runs in its background."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
