"""The processes that tests start are like those that a user starts."""

import resource
import signal
import sys

import children
import pytest


def test_a_child_has_its_own_arguments_environment_and_folder(tmp_path):
    code = "import os, sys; print(sys.argv[1:], os.environ['A'], 'B' in os.environ, os.getcwd())"
    done = children.run(code, "x", 5, env={"A": "1"}, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"['x', '5'] 1 False {tmp_path}\n"


@pytest.mark.parametrize(
    ("code", "expected", "said"),
    [
        ("raise SystemExit(3)", 3, ""),
        ("raise SystemExit('no')", 1, "no\n"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL, ""),
    ],
)
def test_a_child_ends_as_a_process_does(code, expected, said):
    done = children.run(code)
    assert (done.returncode, done.stderr) == (expected, said)


def test_an_error_of_a_child_is_shown():
    done = children.run("1 / 0")
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr


def test_a_child_can_be_interrupted(tmp_path):
    started = tmp_path / "started"
    child = children.start("import sys, time; open(sys.argv[1], 'w'); time.sleep(60)", started)
    child.wait_for(started.exists)
    child.send_signal(signal.SIGINT)
    assert "KeyboardInterrupt" in child.wait(10).stderr


def limit_files():
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))


def test_a_child_has_limits_of_its_own():
    code = "import resource; print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])"
    assert children.run(code, prepare=limit_files).stdout == "64\n"
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 64


def test_the_command_runs_in_a_child():
    done = children.run_regime("--version")
    assert done.returncode == 0
    assert done.stdout.startswith("regime")
    wrong = children.run_regime("analyse")
    assert wrong.returncode == 2
    assert "analyze" in wrong.stderr


def test_children_know_their_interpreter():
    """What they start in turn runs in the same environment."""
    done = children.run("import sys; print(sys.executable, sys.prefix)")
    assert done.stdout.split() == [sys.executable, sys.prefix]


def test_their_processor_time_is_counted():
    before = sum(children.spent)
    children.run("sum(i * i for i in range(3_000_000))")
    assert sum(children.spent) - before > 0.05
