"""Many files are checked in one child, under the limits that each has alone; one that harms it costs nobody else."""

import json
import os
import shutil
import sys
from pathlib import Path

import children
import h5py
import pytest

import regime_proto
from regime_proto.schema.validation import guard, trust
from regime_proto.schema.validation.ahead import checking_ahead


@pytest.fixture
def copies(valid, tmp_path):
    """Files that this machine does not know."""
    return [shutil.copy(valid, tmp_path / f"run_{number}.h5") for number in range(12)]


@pytest.fixture
def started(monkeypatch):
    """How many files each child was given."""
    really, counts = guard.run_child, []

    def counted(command, descriptors=()):
        counts.append(len(descriptors))
        return really(command, descriptors)

    monkeypatch.setattr(guard, "run_child", counted)
    return counts


def refused(path):
    with h5py.File(path, "r+") as file:
        del file["flips"]


def test_files_are_checked_in_few_children_and_known_then(copies, started):
    with checking_ahead(copies) as known:
        records = [known(path) for path in copies]
    assert [record.state for record in records] == [trust.state_of(path) for path in copies]
    assert sorted(started) == [4, 8]
    assert all(map(trust.is_trusted, copies))
    with checking_ahead(copies) as known:
        assert [known(path) for path in copies] == [None] * 12
    assert sorted(started) == [4, 8]


def test_a_file_that_is_refused_costs_the_others_nothing(copies, started, tmp_path):
    refused(copies[2])
    (tmp_path / "text.h5").write_text("no trajectory")
    paths = [*copies[:5], tmp_path / "text.h5", tmp_path / "none.h5"]
    with checking_ahead(paths) as known:
        found = {path.name: known(path) is not None for path in paths}
    assert [name for name, sound in found.items() if not sound] == ["run_2.h5", "text.h5", "none.h5"]
    # Each of the two is looked at once more, alone, before it counts.
    assert started == [6, 1, 3, 1]
    with pytest.raises(regime_proto.TrajectoryError, match=r"run_2.h5: /flips: expected a variable"):
        regime_proto.compare(copies[:5])


def test_a_file_of_which_the_child_dies_costs_the_others_nothing(copies, monkeypatch):
    victim = Path(copies[3]).stat().st_ino
    code = f"""
import os, sys
from regime_proto.schema.validation import check
look = check.look_at
def dying(path, **options):
    if os.stat(path).st_ino == {victim}:
        os.kill(os.getpid(), 11)
    return look(path, **options)
check.look_at = dying
sys.exit(check.main(*sys.argv[1:]))
"""
    counts = []

    def run_child(command, descriptors=()):
        counts.append(len(descriptors))
        opened = f"/proc/{os.getpid()}/fd/"
        return children.run(code, *(text.replace("/dev/fd/", opened) for text in command[4:]))

    monkeypatch.setattr(guard, "run_child", run_child)
    with checking_ahead(copies[:6]) as known:
        assert [known(path) is not None for path in copies[:6]] == [True, True, True, False, True, True]
    assert counts == [6, 1, 2]
    assert not trust.is_trusted(copies[3])
    with pytest.raises(regime_proto.TrajectoryError, match=r"run_3.h5: .*crashes the HDF5 library \(signal 11\)"):
        regime_proto.compare(copies[:6])


def test_each_of_several_files_has_the_limits_that_it_has_alone():
    code = """
import json, resource, sys
from regime_proto.schema.validation.check import _Limits
def begun(sizes):
    limits = _Limits(10**9, 5, sizes)
    found = []
    for size in sizes:
        limits.begin(size)
        found.append([resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_AS, resource.RLIMIT_CPU)])
    return found
print(json.dumps(begun(json.loads(sys.argv[1]))))
"""

    def limits(*sizes):
        done = children.run(code, json.dumps(sizes))
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    megabytes = 100 * 2**20
    [[alone, seconds]] = limits(megabytes)
    (small, few), (large, more), (last, again) = limits(0, megabytes, 0)
    assert large - small == megabytes
    assert last == small
    # Two processes of the same start differ by some pages.
    assert abs(large - alone) < 32 * 2**20
    assert seconds == more
    assert few == again == more - 10


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads peaks as Linux gives them")
def test_a_comparison_of_many_holds_no_more_than_one_of_few(tmp_path):
    first = regime_proto.synthetic.trajectory(steps=200, units=4096, noise=0.1, path=tmp_path / "run_0.h5")
    paths = [first]
    for number in range(1, 40):
        paths.append(shutil.copy(first, tmp_path / f"run_{number}.h5"))
        with h5py.File(paths[-1], "r+") as file:
            file.attrs["run_id"] = f"run {number}"
    with regime_proto.open_trajectory(first) as trajectory:
        each = trajectory.nbytes
    code = """
import resource, sys
import regime_proto
few, many = sys.argv[1:6], sys.argv[1:]
regime_proto.compare(few, batches_per_epoch=10)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert len(regime_proto.compare(many, batches_per_epoch=10).rows) == 40
print(1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before))
"""
    assert each > 2**20
    done = children.run(code, *paths)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 5 * each
