"""What goes from lab to lab: examples, checks, smaller copies, and the program inside the file."""

import json
import os
import shutil

import h5py
import nets
import numpy as np
import pytest
import trajectories
from commands import assert_one_line, regime
from nets import save_run

import regime_proto
from regime_proto.schema import validate
from regime_proto.schema.segments import Segments
from regime_proto.schema.writer import TrajectoryWriter


@pytest.fixture
def wrong(valid, tmp_path):
    path = tmp_path / "wrong.h5"
    shutil.copy(valid, path)
    with h5py.File(path, "r+") as file:
        file["flips"][66, 0, 2] = 14
        file["notes"] = [1]
    return path


def test_the_example_is_valid_small_and_analyzed(tmp_path):
    path = tmp_path / "new/example.h5"
    assert regime("example", "-o", path).exit_code == 0
    assert validate(path) == []
    assert path.stat().st_size < 100_000
    result = regime("analyze", path)
    assert result.exit_code == 0
    assert "Patterns settled earlier" in result.stdout
    assert_one_line(regime("example", "-o", path), "exists; replace it with --overwrite")
    assert regime("example", "-o", path, "--overwrite").exit_code == 0
    assert_one_line(regime("example", "-o", tmp_path, "--overwrite"), "not a file; choose another output")
    notes = tmp_path / "notes.md"
    notes.write_text("mine")
    for command in (["example"], ["thin", path, "--masks", "none"]):
        assert_one_line(regime(*command, "-o", notes, "--overwrite"), "it is not replaced: choose another output")
    assert notes.read_text() == "mine"


def test_validate_says_what_is_wrong(valid, wrong, tmp_path):
    good = regime("validate", valid)
    assert (good.exit_code, good.stdout, good.stderr) == (0, f"{valid}: valid\n", "")
    bad = regime("validate", wrong, valid)
    assert bad.exit_code == 1
    first, *rest = bad.stdout.splitlines()
    assert first == f"{wrong}: invalid, 2 errors, 1 warning"
    assert rest[0].split(maxsplit=1) == [
        "error", "/flips: expected at most layer_units, found more in row 66 [flips-bound]",
    ]  # fmt: skip
    assert rest[2].split(maxsplit=1) == [
        "warning", "/notes: expected a name of the format, or one in /extra, found another name [name-known]",
    ]  # fmt: skip
    assert rest[3] == f"{valid}: valid"


def test_warnings_alone_leave_a_file_valid(valid, tmp_path):
    path = tmp_path / "more.h5"
    shutil.copy(valid, path)
    with h5py.File(path, "r+") as file:
        file["notes"] = [1]
    found = regime("validate", path)
    assert found.exit_code == 0
    assert found.stdout.startswith(f"{path}: valid, 1 warning\n")


def test_validate_tells_what_it_could_not_read_from_what_is_wrong(valid, wrong, tmp_path):
    for others in ([], [valid], [wrong]):
        found = regime("validate", tmp_path / "none.h5", *others)
        assert found.exit_code == 2
        assert found.stderr == f"error: {tmp_path / 'none.h5'}: no such file or directory\n"
    assert regime("validate", tmp_path).exit_code == 2
    # Never a count: many wrong files are as wrong as one.
    assert regime("validate", *[wrong] * 5).exit_code == 1


def test_validate_in_json(valid, wrong, tmp_path):
    result = regime("validate", "--json", valid, wrong, tmp_path / "none.h5")
    assert result.exit_code == 2
    found = json.loads(result.stdout)
    assert found["json_version"] == 1
    good, bad, none = found["files"]
    assert good == {"path": str(valid), "valid": True, "error": None, "problems": []}
    assert bad["valid"] is False
    assert bad["problems"][1] == {
        "rule": "flips-bound",
        "severity": "error",
        "where": "/flips",
        "expected": "at most layer_units",
        "found": "more in row 66",
    }
    assert none["valid"] is None
    assert "no such file" in none["error"]


def test_merge_and_thin_on_the_command_line(valid, tmp_path):
    assert "nothing left to join" in regime("merge", valid).stderr
    assert_one_line(regime("merge", tmp_path / "a.h5"), "no segments found; expected the folder")
    small = tmp_path / "small.h5"
    done = regime("thin", valid, "--masks", "none", "-o", small)
    assert done.exit_code == 0
    assert f"wrote {small} (" in done.stderr
    assert small.stat().st_size < valid.stat().st_size
    assert_one_line(regime("thin", valid, "--masks", "none", "-o", small), "exists; replace it with --overwrite")
    assert_one_line(regime("thin", valid, "--masks", "none", "-o", valid, "--overwrite"), "an input of this command")
    assert_one_line(
        regime("thin", tmp_path, "--masks", "none", "-o", small, "--overwrite"),
        "a directory of trajectories; expected one file",
    )


def test_an_unfinished_run_is_pointed_at(tmp_path):
    head = trajectories.header().with_attributes(planned_observations=12)
    path = tmp_path / "run.h5"
    with Segments(path) as segments:
        writer = TrajectoryWriter(segments, head)
        for row in trajectories.observations(head, 5):
            writer.append(row, fingerprint="f")
        writer.flush()
    assert_one_line(regime("analyze", path), "no such file or directory; .*run.h5.segments holds an unfinished run")
    assert_one_line(
        regime("analyze", f"{path}.segments"),
        "segments of an unfinished run; run the command that wrote it again, .* `regime merge .* only joins",
    )
    done = regime("merge", f"{path}.segments")
    assert done.exit_code == 0
    assert "holds 5 of 12 planned observations; to measure the rest, run the same regime convert again" in " ".join(
        done.stderr.split()
    )
    assert regime("analyze", path).exit_code == 0


@pytest.mark.parametrize("where", ["file/x.h5", "/proc/x.h5"])
def test_where_nothing_can_be_written(valid, tmp_path, where):
    (tmp_path / "file").touch()
    output = tmp_path / where
    assert_one_line(regime("example", "-o", output), f"{output}|Not a directory|File exists")
    assert_one_line(regime("thin", valid, "--masks", "none", "-o", output), f"{output}: ")
    assert_one_line(regime("merge", "/"), "no segments found")


def test_a_conversion_to_where_nothing_can_be_written_ends(mlp_run):
    assert_one_line(regime("convert", mlp_run, "-o", "/proc/x.h5"), "/proc/x.h5: cannot be written")


def test_a_file_that_may_not_be_read(valid, tmp_path, monkeypatch):
    """The superuser may read everything, so ask in their place."""
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    for command in (
        ["analyze"],
        ["inspect"],
        ["export", "--to", "csv"],
        ["thin", "--masks", "none", "-o", tmp_path / "x"],
    ):
        assert_one_line(regime(*command, valid), "cannot be read; fix its permissions")
    assert regime("validate", valid).exit_code == 2


def test_what_is_not_valid_is_not_made_valid(valid, tmp_path):
    """Without its masks nobody could tell that the flips are wrong."""
    path = tmp_path / "changed.h5"
    shutil.copy(valid, path)
    with h5py.File(path, "r+") as file:
        file["flips"][5, 0, 0] ^= 1
    assert_one_line(regime("thin", path, "--masks", "none", "-o", tmp_path / "x.h5"), "mask-flips")
    assert not (tmp_path / "x.h5").exists()


def test_a_run_that_was_cut_off_says_so(mlp_run, tmp_path):
    class Stop(Exception):
        pass

    def stop(done, total):
        if done == 5:
            raise Stop

    with pytest.raises(Stop):
        regime_proto.convert(mlp_run, tmp_path / "run.h5", progress=stop)
    done = regime("merge", tmp_path / "run.h5.segments")
    assert "(5 observations)" in done.stderr
    assert "5 of 8 planned" in regime("inspect", tmp_path / "run.h5").stdout
    assert "the run was cut off: the file holds 5 of 8 observations" in regime("analyze", tmp_path / "run.h5").stderr
    # The whole run replaces it without being asked to: it is the same run.
    assert regime("convert", mlp_run, "-o", tmp_path / "run.h5").exit_code == 0
    assert "cut off" not in regime("analyze", tmp_path / "run.h5").stderr


def test_another_lab_measures_in_the_same_way(mlp_run, tmp_path):
    """One lab sends a trajectory; another takes the program out of it, and needs no code of the model."""
    ours = regime_proto.convert(mlp_run, tmp_path / "ours.h5", embed="all")
    theirs = tmp_path / "theirs"
    save_run(theirs, nets.make_mlp(), states=8)
    done = regime("program", ours, "-o", theirs)
    assert done.exit_code == 0
    assert {path.name for path in theirs.iterdir()} >= {"program.onnx", "probe.npz"}
    assert (theirs / "program.onnx").read_bytes() == (mlp_run / "program.onnx").read_bytes()
    again = regime_proto.convert(theirs, tmp_path / "theirs.h5")
    with regime_proto.open_trajectory(ours) as left, regime_proto.open_trajectory(again) as right:
        assert left.attrs["program_sha256"] == right.attrs["program_sha256"]
        assert left.attrs["probe_sha256"] == right.attrs["probe_sha256"]
        np.testing.assert_array_equal(left["flips"], right["flips"])


def test_the_probe_goes_along_only_when_asked(mlp_run, tmp_path):
    """It may be somebody's data."""
    path = regime_proto.convert(mlp_run, tmp_path / "run.h5")
    with regime_proto.open_trajectory(path) as opened:
        assert "program" in opened
        assert "probe" not in opened
    done = regime("program", path, "-o", tmp_path / "new")
    assert done.exit_code == 0
    assert "embeds no probe; pass your own to `regime analyze` with --probe FILE (" in done.stderr
    assert [found.name for found in (tmp_path / "new").iterdir()] == ["program.onnx"]
    bare = regime_proto.convert(mlp_run, tmp_path / "bare.h5", embed="none")
    assert_one_line(regime("program", bare, "-o", tmp_path / "other"), "carries no program; ask its authors")
    with pytest.raises(regime_proto.RegimeError, match="embed 'some': expected one of program, all, none"):
        regime_proto.convert(mlp_run, tmp_path / "x.h5", embed="some")


def test_a_program_tells_nothing_of_the_machine_it_was_made_on(mlp_run, tmp_path):
    path = regime_proto.convert(mlp_run, tmp_path / "run.h5")
    with h5py.File(path) as file:
        content = file["program"][...].tobytes()
        attributes = " ".join(map(str, file.attrs.values()))
    for text in (content, attributes.encode()):
        for trace in (b"/home", b"/root", b"/tmp", b"site-packages", b".py", str(mlp_run).encode()):
            assert trace not in text


def test_a_program_that_was_exchanged_is_refused(mlp_run, tmp_path):
    path = regime_proto.convert(mlp_run, tmp_path / "run.h5")
    with h5py.File(path, "r+") as file:
        file["program"][100] ^= 1
    assert_one_line(
        regime("program", path, "-o", tmp_path / "new"),
        "its program does not match the hash stored with it; do not trust this file",
    )
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--model is missing; give --model and --probe, or a trajectory"),
        (["--model", "nets:make_mlp"], "--probe is missing"),
        (
            ["run.h5", "--model", "nets:make_mlp"],
            "--model: cannot be combined with a trajectory; give either a trajectory, or --model and --probe",
        ),
        (["run.h5", "--probe", "x.npz"], "--probe: cannot be combined with a trajectory; give either a trajectory"),
        (["none.h5"], "none.h5: no such file"),
    ],
)
def test_program_from_too_little_or_too_much(tmp_path, arguments, message):
    assert_one_line(regime("program", *arguments, "-o", tmp_path / "new"), message)


def test_other_programs_are_not_replaced(mlp_run, tmp_path):
    path = regime_proto.convert(mlp_run, tmp_path / "run.h5")
    folder = tmp_path / "other"
    folder.mkdir()
    (folder / "program.onnx").write_bytes(b"mine")
    assert_one_line(regime("program", path, "-o", folder), "exists and differs; replace it with --overwrite")
    assert (folder / "program.onnx").read_bytes() == b"mine"
    assert regime("program", path, "-o", folder, "--overwrite").exit_code == 0
    assert "nothing changed" in regime("program", path, "-o", folder).stderr
