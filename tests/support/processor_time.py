"""Counts the processor time of every test, its children's too, and fails one that takes too much."""

import os
from collections import Counter
from pathlib import Path

import children
import pytest

LIMIT_SECONDS = 10
# Other frameworks compile what they run.
LIMIT_OF_LIBRARIES = 60
_PROPERTY = "processor seconds"


def pytest_addoption(parser):
    parser.addoption("--processor-times", metavar="FILE", help="Write the processor time of every test to a file.")


def pytest_configure(config):
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Total(config.getoption("--processor-times")))


def spent():
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system + sum(children.spent)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item):
    return (yield from _counted(item))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    return (yield from _counted(item))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item):
    return (yield from _counted(item))


def _counted(item):
    before = spent()
    try:
        return (yield)
    finally:
        item.user_properties.append((_PROPERTY, spent() - before))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Fail a test that is not marked slow and takes longer by itself; what several tests share counts in the total."""
    report = yield
    seconds = [value for name, value in item.user_properties if name == _PROPERTY]
    most = LIMIT_OF_LIBRARIES if item.get_closest_marker("libraries") else LIMIT_SECONDS
    if report.when == "call" and report.passed and seconds[-1] > most and not item.get_closest_marker("slow"):
        report.outcome = "failed"
        report.longrepr = (
            f"took {seconds[-1]:.1f} s of processor time, expected at most {most}; "
            "make it shorter, or mark what repeats itself as slow"
        )
    return report


class _Total:
    """Adds up what the workers report."""

    def __init__(self, path):
        self._path = path
        self._seconds = Counter()

    def pytest_runtest_logreport(self, report):
        if report.when == "teardown":
            self._seconds[report.nodeid] += sum(value for name, value in report.user_properties if name == _PROPERTY)

    def pytest_terminal_summary(self, terminalreporter):
        if not self._seconds:
            return
        terminalreporter.section("processor time")
        for name, seconds in self._seconds.most_common(10):
            terminalreporter.write_line(f"{seconds:7.2f} s  {name}")
        terminalreporter.write_line(f"{self._seconds.total():7.2f} s  all {len(self._seconds)} tests")
        if self._path:
            lines = [f"{seconds:.3f}\t{name}\n" for name, seconds in self._seconds.most_common()]
            Path(self._path).write_text("".join(lines))
