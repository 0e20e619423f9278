"""Several runs on the command line: a line for each, and an exit status for all."""

import re
import shutil
import signal

import children
import pytest
from commands import assert_one_line, regime, tree
from small_runs import write_runs
from terminals import on_a_terminal_at_once

import regime_proto

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Three runs. Read only."""
    folder = tmp_path_factory.mktemp("made")
    write_runs(folder / "runs", 3, states=10)
    return folder


@pytest.fixture
def workplace(made, tmp_path, monkeypatch):
    folder = shutil.copytree(made, tmp_path / "work")
    monkeypatch.chdir(folder)
    return folder


def spoil(workplace):
    path = workplace / "runs/run_0001/step_4.safetensors"
    path.write_bytes(path.read_bytes()[:-9])


RUNS = ["runs/run_0000/", "runs/run_0001/", "runs/run_0002/"]
CONVERT = ["convert", *RUNS, "--output-dir", "trajectories", "--workers", "1"]


def test_each_run_has_a_line_and_all_are_left_the_second_time(workplace):
    done = regime(*CONVERT, "--workers", "2")
    assert done.exit_code == 0, done.output
    assert done.stdout == ""
    *lines, last = done.stderr.splitlines()
    assert sorted(lines) == [f"run_000{number}: 10 observations" for number in range(3)]
    assert last == "trajectories: 3 runs, 3 written"
    before = tree(workplace / "trajectories")
    again = regime(*CONVERT)
    assert again.exit_code == 0
    *lines, last = again.stderr.splitlines()
    assert sorted(lines) == [f"run_000{number}: 10 observations, up to date" for number in range(3)]
    assert last == "trajectories: 3 runs, 3 up to date"
    assert tree(workplace / "trajectories") == before
    assert regime(*CONVERT, "--quiet").output == ""


def test_a_run_that_fails_is_named_at_the_end(workplace):
    spoil(workplace)
    done = regime(*CONVERT)
    assert done.exit_code == 1
    lines = done.stderr.splitlines()
    assert any(re.match(r"run_0001: error: .*step_4.safetensors", line) for line in lines[:3])
    assert lines[3] == "trajectories: 3 runs, 2 written, 1 failed"
    assert re.match(r"error: run_0001: runs/run_0001/step_4.safetensors: ", lines[4])
    assert re.match(r"error: 1 of 3 runs failed, see above; .* run the same command again", lines[5])
    assert len(lines) == 6
    quiet = regime(*CONVERT, "--quiet").stderr.splitlines()
    assert [line[:16] for line in quiet] == ["error: run_0001:", "error: 1 of 3 ru"]
    shutil.copy("runs/run_0000/step_4.safetensors", "runs/run_0001")
    assert "trajectories: 3 runs, 1 written, 2 up to date" in regime(*CONVERT).stderr


def test_a_dry_run_has_a_line_for_each_and_writes_nothing(workplace):
    regime_proto.convert("runs/run_0002", "trajectories/run_0002.h5")
    shutil.rmtree("runs/run_0001")
    before = tree(workplace)
    done = regime(*CONVERT, "--dry-run")
    assert done.exit_code == 1
    lines = done.stderr.splitlines()
    assert re.match(r"dry run: would write trajectories/run_0000.h5 \(10 observations, none measured yet", lines[0])
    assert re.match(r"dry run: would fail: run_0001: runs/run_0001: no such file or directory", lines[1])
    assert re.match(r"dry run: would write nothing: trajectories/run_0002.h5 already holds all 10", lines[2])
    assert lines[3] == "error: 1 of 3 runs would fail, see above"
    assert tree(workplace) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["-o", "x.h5"],
            r"-o and --output-dir: -o applies to a single run; leave it out, or convert each run with a command",
        ),
        (["--shard", "1/2"], r"--shard and --output-dir: --shard applies to a single run"),
        (["--shards", "2"], r"--shards and --output-dir: "),
        (["--print-commands"], r"--print-commands and --output-dir: "),
        (["runs/run_0000"], r"run_0000: given twice; leave one out"),
        (["--keep-downloads"], r"--keep-downloads: applies only to checkpoints on the Hugging Face Hub"),
        (["--scheduler", "nobody.json"], r"--scheduler nobody.json: no such file"),
    ],
)
def test_what_is_for_one_run_is_refused_for_several(workplace, arguments, message):
    before = tree(workplace)
    assert_one_line(regime(*CONVERT, *arguments), message)
    assert tree(workplace) == before


def test_variables_of_one_run_are_refused_for_several(workplace, monkeypatch):
    monkeypatch.setenv("REGIME_SHARD", "1/2")
    assert_one_line(regime(*CONVERT), r"the variable REGIME_SHARD and --output-dir: ")


def test_several_runs_take_a_folder(workplace):
    assert_one_line(regime("convert", *RUNS), r"3 runs; give a folder for their trajectories: --output-dir DIR")
    assert_one_line(regime("convert", *RUNS, "-o", "x.h5"), r"3 runs, but -o x.h5 is for a single run; give a folder")
    missing = regime("convert", RUNS[0])
    assert missing.exit_code == 2
    assert "Missing option '-o' / '--output', or '--output-dir'" in missing.stderr
    assert "Missing argument 'SOURCE…'" in regime("convert", "--output-dir", "x").stderr
    one = regime("convert", RUNS[0], "--output-dir", "x")
    assert one.stderr.splitlines() == ["run_0000: 10 observations", "x: 1 run, 1 written"]


def test_a_warning_has_the_name_of_its_run(workplace):
    lines = regime(*CONVERT, "--gates", "op:Relu", "--noise", "none", "--embed", "none").stderr.splitlines()
    assert not [line for line in lines if line.startswith("warning:")]
    names = [path.name for path in (workplace / "runs/run_0001").glob("step_*")]
    # One that is still being written.
    last = workplace / "runs/run_0001" / max(names, key=lambda name: int(name[5:].partition(".")[0]))
    last.write_bytes(last.read_bytes()[:-9])
    lines = regime(*CONVERT, "--overwrite").stderr.splitlines()
    [warning] = [line for line in lines if line.startswith("warning:")]
    assert re.match(r"warning: run_0001: .*step_9.safetensors", warning)


def test_ctrl_c_says_how_to_go_on(tmp_path):
    roots = write_runs(tmp_path / "runs", 5, states=300)
    command = ["convert", *map(str, roots), "--output-dir", "trajectories", "--workers", "2"]
    child = children.start_regime(*command, cwd=tmp_path)
    child.wait_for(lambda: list((tmp_path / "trajectories").glob("*.h5")))
    child.send_signal(signal.SIGINT)
    done = child.wait()
    assert done.returncode == 130
    found = re.fullmatch(
        r"error: interrupted; (\d) of 5 runs had ended; resume with the same command", done.stderr.splitlines()[-1]
    )
    assert found, done.stderr
    again = children.run_regime(*command, cwd=tmp_path)
    assert again.returncode == 0
    assert int(found[1]) <= again.stderr.count("up to date") - 1 < 5
    assert len(list((tmp_path / "trajectories").iterdir())) == 5


def test_lines_begin_at_the_margin_where_a_bar_is_drawn(workplace):
    """What a terminal shows in the end: the lines, one below the other, and nothing of the bar."""
    spoil(workplace)
    shown = on_a_terminal_at_once(*CONVERT)
    assert "converting" in shown
    lines = screen(shown)
    assert sum(bool(re.match(r"run_000\d: (10 observations|error: )", line)) for line in lines) == 3
    assert not any(re.search(r"\S.*(run_000\d: 10|converting)", line) for line in lines)


def screen(shown):
    """Return the lines that a terminal shows after all that was written to it, as far as bars need it."""
    lines, row, column = [""], 0, 0
    for part in re.findall(r"\x1b\[[0-9;?]*[A-Za-z]|\r|\n|[^\x1b\r\n]+", shown):
        code = re.fullmatch(r"\x1b\[([0-9;?]*)([A-Za-z])", part)
        if part == "\r":
            column = 0
        elif part == "\n":
            row, column = row + 1, 0
            lines += [""] * (row + 1 - len(lines))
        elif code is None:
            lines[row] = lines[row][:column].ljust(column) + part + lines[row][column + len(part) :]
            column += len(part)
        elif code[2] == "A":
            row -= int(code[1] or 1)
        elif code[2] == "K":
            lines[row] = "" if code[1] == "2" else lines[row][:column]
    return lines
