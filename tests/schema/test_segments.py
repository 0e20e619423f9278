"""The folder of segments: whose files are in it, and who holds it."""

import errno
import json
import os
import shutil
import signal
import stat

import children
import pytest
import trajectories

import regime_proto
from regime_proto.schema import locks
from regime_proto.schema.assemble import note
from regime_proto.schema.errors import TrajectoryError
from regime_proto.schema.files import create_new, replace_file, segments_folder
from regime_proto.schema.finish import finish, foresee
from regime_proto.schema.segments import Segments, require_free
from regime_proto.schema.writer import TrajectoryWriter

HEAD = trajectories.header()


def write(segments, count=3):
    writer = TrajectoryWriter(segments, HEAD)
    for observation in trajectories.observations(HEAD, count):
        writer.append(observation, fingerprint="f")
    writer.flush()
    return writer


@pytest.fixture
def output(tmp_path):
    return tmp_path / "run.h5"


@pytest.fixture
def unfinished(output):
    with Segments(output) as segments:
        write(segments)
    return output


def content_of(folder):
    """Everything below a folder, links not followed."""
    found = {}
    for path in sorted(folder.rglob("*")):
        found[str(path.relative_to(folder))] = path.read_bytes() if path.is_file() and not path.is_symlink() else None
    return found


def held(output):
    with Segments(output):
        pass


def cleared(output):
    with Segments(output) as segments:
        segments.clear()


USES = [held, cleared, require_free, finish, lambda output: note(output, {"seed": 1})]


def put_file(folder):
    folder.mkdir(exist_ok=True)
    (folder / "thesis.tex").write_text("all of it")


def put_hidden_file(folder):
    folder.mkdir(exist_ok=True)
    (folder / ".run.h5.123.tmp").write_text("mine")


def put_folder(folder):
    (folder / "000000.h5").mkdir(parents=True)


def put_other_lock(folder):
    folder.mkdir(exist_ok=True)
    (folder / "lock").write_text("of another program")


def put_link(folder):
    folder.mkdir(exist_ok=True)
    target = folder.parent / "kept"
    target.write_text("kept")
    (folder / "000001.h5").symlink_to(target)


def link_folder(folder):
    target = folder.parent / "elsewhere"
    target.mkdir()
    (target / "000000.h5").write_text("kept")
    folder.symlink_to(target)


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("put", [put_file, put_hidden_file, put_folder, put_other_lock, put_link, link_folder])
def test_a_folder_with_files_of_others_is_left_as_it_is(output, put, use):
    regime_proto.synthetic.trajectory(steps=3, path=output)
    put(segments_folder(output))
    before = content_of(output.parent)
    with pytest.raises(
        regime_proto.TrajectoryError, match=r"which regime did not write; move it away|a link; expected a folder"
    ):
        use(output)
    assert content_of(output.parent) == before


def test_every_command_that_writes_a_run_leaves_files_of_others(mlp_run, output):
    put_file(segments_folder(output))
    before = content_of(output.parent)
    for overwrite in (False, True):
        with pytest.raises(regime_proto.TrajectoryError, match=r"holds thesis\.tex, which regime did not write"):
            regime_proto.convert(mlp_run, output, overwrite=overwrite)
    assert content_of(output.parent) == before


@pytest.mark.parametrize("name", ["000001.h5", "program"])
def test_a_file_of_a_segments_name_is_deleted_only_if_it_is_one(unfinished, name):
    folder = segments_folder(unfinished)
    (folder / name).write_text("not what the name says")
    before = content_of(folder)
    with (
        Segments(unfinished) as segments,
        pytest.raises(regime_proto.TrajectoryError, match=f"{name}: not deleted, because it is damaged"),
    ):
        segments.clear()
    assert content_of(folder) == before


def test_only_the_folder_is_cleaned(output):
    beside = [output.with_name(name) for name in (".run.h5.notes.tmp", ".run.h5.123.tmp", "run.h5.notes")]
    for path in beside:
        path.write_text("mine")
    leftover = segments_folder(output) / ".regime-0123456789abcdef.tmp"
    with Segments(output) as segments:
        write(segments)
        leftover.write_bytes(b"half")
    with Segments(output) as segments:
        writer = TrajectoryWriter(segments, HEAD)
        assert writer.resume(["f"] * 3) == []
        assert writer.count == 3
        assert not leftover.exists()
        writer.close()
    assert {path.name for path in output.parent.iterdir()} == {output.name, *(path.name for path in beside)}


def test_what_systems_put_beside_files_is_no_obstacle(unfinished):
    (segments_folder(unfinished) / ".nfs0000000012345678").write_bytes(b"")
    assert finish(unfinished).observations == 3


def test_a_copied_folder_can_be_cleared(unfinished, tmp_path):
    other = tmp_path / "other.h5"
    shutil.copytree(segments_folder(unfinished), segments_folder(other))
    cleared(other)
    assert not segments_folder(other).exists()


def test_what_is_replaced_keeps_its_permissions(unfinished, tmp_path, own_processes):
    page = tmp_path / "page.html"
    replace_file(page, b"old")
    finish(unfinished)
    for path in (page, unfinished):
        path.chmod(0o640)
    replace_file(page, b"new")
    note(unfinished, {"seed": 1})
    assert [stat.S_IMODE(path.stat().st_mode) for path in (page, unfinished)] == [0o640, 0o640]
    assert page.read_bytes() == b"new"


def test_a_new_file_follows_no_link(tmp_path):
    target = tmp_path / "target"
    target.write_text("kept")
    (tmp_path / "link").symlink_to(target)
    with pytest.raises(FileExistsError):
        create_new(tmp_path / "link")
    assert target.read_text() == "kept"


@pytest.fixture(params=[errno.ENOTSUP, errno.EBADF, errno.ENOLCK])
def without_locks(request, monkeypatch):
    """A file system that has no locks, as far as this process sees it."""

    def refuse(descriptor, operation):
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr(locks.fcntl, "flock", refuse)


def holder_of(output):
    return segments_folder(output) / locks.HOLDER


def test_without_the_systems_lock_a_file_names_the_holder(without_locks, output):
    with Segments(output) as segments:
        assert json.loads(holder_of(output).read_text())["process"] == os.getpid()
        for use in (held, require_free):
            with pytest.raises(regime_proto.TrajectoryError, match=f"is writing it .process {os.getpid()} on"):
                use(output)
        write(segments).close()
    assert [path.name for path in output.parent.iterdir()] == [output.name]


def test_without_the_systems_lock_several_share_and_one_alone_does_not(without_locks, output):
    with Segments(output, shared=True), Segments(output, shared=True):
        require_free(output, shared=True)
        for use in (held, require_free):
            with pytest.raises(regime_proto.TrajectoryError, match="another process is writing it"):
                use(output)
    held(output)
    assert not segments_folder(output).exists()
    with Segments(output), pytest.raises(regime_proto.TrajectoryError, match="another process is writing it"):
        Segments(output, shared=True)


HOLD = """
import errno, sys, time
from pathlib import Path
from regime_proto.schema import locks
from regime_proto.schema.segments import Segments
def refuse(descriptor, operation):
    raise OSError(errno.ENOTSUP, "none")
locks.fcntl.flock = refuse
with Segments(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_what_a_dead_process_left_is_taken_over(without_locks, output):
    holder = children.start(HOLD, output)
    holder.wait_for(lambda: holder.stdout == "held\n")
    with pytest.raises(regime_proto.TrajectoryError, match=f"process {holder.pid} on"):
        held(output)
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    require_free(output)
    with Segments(output) as segments:
        assert json.loads(holder_of(output).read_text())["process"] == os.getpid()
        write(segments)
    assert finish(output).observations == 3


@pytest.mark.parametrize("said", ["elsewhere", "cut off"])
def test_what_another_host_left_is_taken_over_once_it_is_old(without_locks, output, said):
    with Segments(output) as segments:
        write(segments)
    text = json.dumps({"host": "elsewhere", "boot": "", "space": "", "process": os.getpid(), "started": ""})
    holder_of(output).write_text(text if said == "elsewhere" else text[:9])
    with pytest.raises(regime_proto.TrajectoryError, match=r"is writing it \("):
        held(output)
    old = holder_of(output).stat().st_mtime - locks.STALE_SECONDS - 60
    os.utime(holder_of(output), (old, old))
    assert finish(output).observations == 3
    assert not segments_folder(output).exists()


def test_a_holder_renews_its_file(without_locks, output, monkeypatch):
    monkeypatch.setattr(locks, "RENEWED_SECONDS", 0.01)
    with Segments(output):
        os.utime(holder_of(output), (0, 0))
        for _ in range(500):
            if holder_of(output).stat().st_mtime > 0:
                break
            locks.threading.Event().wait(0.01)
        assert holder_of(output).stat().st_mtime > 0


def test_who_was_taken_over_does_not_remove_the_file_of_the_next(without_locks, output):
    first = Segments(output)
    holder_of(output).unlink()
    with Segments(output):
        said = holder_of(output).read_text()
        first.__exit__(None, None, None)
        assert holder_of(output).read_text() == said


def test_a_folder_that_cannot_be_held_is_not_left_behind(output, monkeypatch):
    def refuse(descriptor, operation):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(locks.fcntl, "flock", refuse)
    with pytest.raises(regime_proto.TrajectoryError, match=r"run\.h5: cannot be written \(Input/output error\)"):
        held(output)
    assert list(output.parent.iterdir()) == []


def test_only_a_trajectory_is_replaced(tmp_path):
    """The name of the folder may be that of somebody's checkpoint."""
    with Segments(tmp_path / "run.h5") as segments:
        write(segments)
    (tmp_path / "run.h5").write_bytes(b"mine")
    for act in (finish, foresee):
        with pytest.raises(TrajectoryError, match=r"run\.h5: .*it is not replaced: choose another output"):
            act(tmp_path / "run.h5.segments", overwrite=True)
    assert (tmp_path / "run.h5").read_bytes() == b"mine"
