"""A dry run says what would be written, and writes nothing."""

import re
import shutil

import nets
import numpy as np
import pytest
from commands import assert_one_line, regime, tree

import regime_proto
from regime_proto.cli.command import options_of
from regime_proto.cli.main import main


def writes(command):
    return bool({"--output", "--out", "--overwrite"} & {name for option in options_of(command) for name in option.opts})


# What each command is given, and the files that it says it would write.
WRITING = {
    "analyze": (["checkpoints"], ["checkpoints.regime.h5"]),
    "convert": (["checkpoints", "-o", "new/run.h5"], ["new/run.h5"]),
    "program": (["--model", "nets:make_mlp", "--probe", "val.npy", "-o", "other"], ["program.onnx", "probe.npz"]),
    "demo": (["--out", "demo"], ["demo/checkpoints", "demo/checkpoints.regime.h5"]),
    "merge": (["cut.h5.segments"], ["cut.h5"]),
    "thin": (["run.h5", "--masks", "none", "-o", "small.h5"], ["small.h5"]),
    "export": (["run.h5", "--to", "csv", "-o", "curves.csv"], ["curves.csv"]),
    "example": (["-o", "example.h5"], ["example.h5"]),
    "compare": (["run.h5", "--to", "csv", "-o", "table.csv"], ["table.csv"]),
    "plot": (["run.h5", "-o", "figure.svg"], ["figure.svg"]),
    "report": (["run.h5", "-o", "page.html"], ["page.html"]),
    "linearize": (["checkpoints", "-o", "maps.npz"], ["maps.npz"]),
}


class Stop(Exception):
    pass


def stop_at(number):
    def progress(done, total):
        if done == number:
            raise Stop

    return progress


def cut_off(source, output, number, **options):
    """Convert, and stop after so many observations."""
    with pytest.raises(Stop):
        regime_proto.convert(source, output, progress=stop_at(number), **options)


@pytest.fixture(scope="module")
def filled(mlp_run, tmp_path_factory):
    """A folder with checkpoints, a finished trajectory and an unfinished one. Read only."""
    folder = tmp_path_factory.mktemp("filled")
    run = shutil.copytree(mlp_run, folder / "checkpoints")
    np.save(folder / "val.npy", nets.probe(nets.make_mlp()))
    regime_proto.synthetic.trajectory(steps=9, path=folder / "run.h5")
    cut_off(run, folder / "cut.h5", 5)
    return folder


@pytest.fixture
def workplace(filled, tmp_path, monkeypatch):
    """A copy of `filled`, to work in."""
    folder = shutil.copytree(filled, tmp_path / "work")
    monkeypatch.chdir(folder)
    return folder


def test_every_command_that_writes_has_a_dry_run():
    writing = {name for name, command in main.commands.items() if writes(command)}
    assert writing == set(WRITING), "a command that writes: give it options.dry_run, and stand in WRITING"
    for name in writing:
        assert "--dry-run" in {long for option in options_of(main.commands[name]) for long in option.opts}, name


@pytest.mark.parametrize("name", WRITING)
def test_a_dry_run_writes_nothing_and_names_the_files(workplace, name):
    """Nor does it once all is written: then there is nothing to write, or it is refused just as in earnest."""
    arguments, files = WRITING[name]
    before = tree(workplace)
    done = regime(name, *arguments, "--dry-run", "--quiet")
    assert done.exit_code == 0, done.output
    assert done.stdout == ""
    for file in files:
        assert re.search(rf"^dry run: would write \S*{re.escape(file)} \(", done.stderr, re.MULTILINE), done.stderr
    assert tree(workplace) == before
    if name == "demo":
        # It takes long; test_cli.py runs it.
        return
    assert regime(name, *arguments).exit_code == 0
    untouched, before = before, tree(workplace)
    assert before != untouched
    again = regime(name, *arguments, "--dry-run")
    if name in ("thin", "example"):
        assert_one_line(again, "exists; replace it with --overwrite")
        again = regime(name, *arguments, "--overwrite", "--dry-run")
        assert f"dry run: would replace {files[0]} (" in again.stderr
    elif name == "linearize":
        assert_one_line(again, "maps.npz: exists; replace it with --overwrite")
        again = regime(name, *arguments, "--overwrite", "--dry-run")
    if name not in ("thin", "example"):
        assert "dry run: would write nothing: " in again.stderr
    assert again.exit_code == 0
    assert tree(workplace) == before


def spoiled(workplace):
    (workplace / "checkpoints/program.onnx").write_bytes(b"spoiled")


def of_another_shape(workplace):
    np.savez(workplace / "checkpoints/probe.npz", features=np.ones((6, 11), np.float32))


def another_run(workplace):
    shutil.copy(workplace / "run.h5", workplace / "checkpoints.regime.h5")


def other_segments(workplace):
    cut_off(workplace / "checkpoints", workplace / "checkpoints.regime.h5", 3, gates=["body.2"])


def a_file_in_the_way(workplace):
    (workplace / "checkpoints.regime.h5").write_text("mine")


@pytest.mark.parametrize("spoil", [spoiled, of_another_shape, another_run, other_segments, a_file_in_the_way])
def test_what_is_wrong_is_as_wrong_as_in_earnest(workplace, spoil):
    spoil(workplace)
    before = tree(workplace)
    dry = regime("analyze", "checkpoints", "--dry-run")
    assert tree(workplace) == before
    earnest = regime("analyze", "checkpoints")
    assert (dry.exit_code, dry.stdout, dry.stderr) == (1, "", earnest.stderr)


def test_where_nothing_can_be_written(workplace):
    for name, arguments in {
        "convert": ["checkpoints"],
        "example": [],
        "thin": ["run.h5", "--masks", "none"],
        "export": ["run.h5", "--to", "csv"],
    }.items():
        assert_one_line(regime(name, *arguments, "-o", "val.npy/x.h5", "--dry-run"), "Not a directory.*another output")
    assert_one_line(regime("demo", "--out", "run.h5", "--dry-run"), "run.h5: exists and is not a demo")


def test_what_is_there_already_is_counted(workplace):
    said = regime("convert", "checkpoints", "-o", "cut.h5", "--dry-run").stderr
    assert re.search(
        r"would write cut.h5 \(8 observations, 5 already in cut.h5.segments, 3 to be added; masks: all; about",
        said,
    )
    regime("convert", "checkpoints", "-o", "half.h5", "--steps", "0:3")
    said = regime("convert", "checkpoints", "-o", "half.h5", "--dry-run").stderr
    assert "would replace half.h5 (8 observations, 4 already in half.h5, 4 to be added; masks: all" in said
    said = regime("convert", "checkpoints", "-o", "half.h5", "--dry-run", "--overwrite", "--masks", "every=2").stderr
    assert "would replace half.h5 (8 observations, none measured yet; masks: every=2; about" in said


def test_a_second_writer_is_told(workplace):
    from regime_proto.schema.segments import Segments

    with Segments(workplace / "cut.h5"):
        for arguments in (["convert", "checkpoints", "-o", "cut.h5"], ["merge", "cut.h5"]):
            assert_one_line(regime(*arguments, "--dry-run"), "another process is writing it")


def test_a_run_that_is_followed(workplace):
    (workplace / "soon").mkdir()
    said = regime("analyze", "soon", "--follow", "--dry-run")
    assert said.exit_code == 0
    assert "would wait for checkpoints (soon: no checkpoint found" in said.stderr
    assert "then write soon.regime.h5" in said.stderr
    assert "would write checkpoints.regime.h5 (8" in regime("analyze", "checkpoints", "--follow", "--dry-run").stderr
    assert_one_line(regime("analyze", "sooon", "--follow", "--dry-run"), "no such directory; did you mean soon?")


def test_what_writes_nothing_says_so(workplace):
    before = tree(workplace)
    analyzed = regime("analyze", "run.h5", "--dry-run", "--quiet")
    assert (analyzed.stdout, analyzed.stderr) == ("", "dry run: would analyze run.h5, and write nothing\n")
    printed = regime("export", "run.h5", "--to", "json", "--dry-run", "--quiet")
    assert (printed.stdout, printed.stderr) == ("", "dry run: would print json, and write no file\n")
    assert tree(workplace) == before
