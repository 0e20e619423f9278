"""Shell completion, options from the environment, and answers to mistyped names."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from commands import assert_one_line, regime

import regime_proto
from regime_proto.cli.command import in_capitals, long_name, options_of
from regime_proto.cli.main import main
from regime_proto.conversion.following import require_folder
from regime_proto.plugins.open_directory import open_directory
from regime_proto.program.probe import load_lines, load_probe
from regime_proto.schema.errors import RegimeError
from regime_proto.schema.nearest import cannot_open, no_such

REGIME = Path(sys.executable).with_name("regime")


def completion(**variables):
    """Ask as a shell does, which starts the command without arguments."""
    return CliRunner().invoke(main, [], prog_name="regime", env=variables, catch_exceptions=False).stdout


def test_a_shell_starts_the_command_to_complete():
    variables = {"_REGIME_COMPLETE": "bash_complete", "COMP_WORDS": "regime in", "COMP_CWORD": "1"}
    done = subprocess.run([REGIME], env={**os.environ, **variables}, capture_output=True, text=True, check=True)
    assert done.stdout == "plain,inspect\n"


@pytest.mark.parametrize(
    ("shell", "registers"),
    [("bash", "complete -o nosort -F "), ("zsh", "compdef "), ("fish", "complete --no-files --command regime")],
)
def test_the_scripts_for_completion(shell, registers):
    script = completion(_REGIME_COMPLETE=f"{shell}_source")
    assert registers in script
    assert f"_REGIME_COMPLETE={shell}_complete" in script


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("regime in", ["plain,inspect"]),
        ("regime analyze --pres", ["plain,--preset"]),
        ("regime analyze --preset ", ["plain,paper", "plain,strict"]),
        ("regime export --to c", ["plain,csv"]),
        ("regime analyze check", ["file,check"]),
        ("regime validate ru", ["file,ru"]),
    ],
)
def test_completion_gives_the_words_that_fit(typed, words):
    count = len(typed.split(" ")) - 1
    answer = completion(_REGIME_COMPLETE="bash_complete", COMP_WORDS=typed, COMP_CWORD=str(count))
    assert answer.splitlines() == words


def trajectory(folder):
    return regime_proto.synthetic.trajectory(steps=9, path=folder / "run.h5")


def test_every_option_has_a_variable_of_its_name():
    found = {
        option.envvar: f"REGIME_{in_capitals(name)}_{in_capitals(long_name(option))}"
        for name, command in main.commands.items()
        for option in options_of(command)
    }
    assert all(variable == expected for variable, expected in found.items())
    assert {"REGIME_ANALYZE_PRESET", "REGIME_ANALYZE_JSON", "REGIME_EXPORT_TO", "REGIME_DEMO_OUT"} <= set(found)


def test_options_from_the_environment(tmp_path, monkeypatch):
    path = trajectory(tmp_path)
    monkeypatch.setenv("REGIME_ANALYZE_PRESET", "strict")
    assert "preset strict" in regime("analyze", path).stdout
    # The command line counts more.
    assert "preset paper" in regime("analyze", path, "--preset", "paper").stdout
    monkeypatch.setenv("REGIME_ANALYZE_JSON", "1")
    assert regime("analyze", path).stdout.startswith("{")
    monkeypatch.setenv("REGIME_ANALYZE_JSON", "0")
    assert not regime("analyze", path).stdout.startswith("{")
    monkeypatch.setenv("REGIME_EXPORT_TO", "csv")
    assert regime("export", path).stdout.startswith("step,")


def test_several_values_from_the_environment(run, monkeypatch):
    monkeypatch.setenv("REGIME_ANALYZE_GATES", "body.2 !body.2")
    assert_one_line(regime("analyze", run, "--dry-run"), "is left to track")


def test_variables_that_concern_nothing_here_are_left_alone(tmp_path, monkeypatch):
    for name in ("REGIME_VERSION", "REGIME_HELP", "REGIME_REQUIRE_READERS", "REGIME_CONVERT_PRESENT"):
        monkeypatch.setenv(name, "0.1.0")
    done = regime("analyze", trajectory(tmp_path), "-q")
    assert (done.exit_code, done.stderr) == (0, "")


def test_a_variable_that_names_no_option_is_warned_of(tmp_path, monkeypatch):
    monkeypatch.setenv("REGIME_ANALYZE_PREST", "strict")
    done = regime("analyze", trajectory(tmp_path))
    assert done.exit_code == 0
    assert (
        "warning: REGIME_ANALYZE_PREST: regime analyze has no such option; did you mean REGIME_ANALYZE_PRESET?\n"
        in done.stderr
    )
    assert "PREST" not in regime("analyze", tmp_path / "run.h5", "--quiet").stderr


@pytest.mark.parametrize(
    ("variable", "value", "code", "message"),
    [
        ("PRESET", "stric", 2, "'stric' is not one of 'paper', 'strict'; did you mean strict? (set by {})"),
        (
            "STEPS",
            "9",
            1,
            "error: --steps '9': expected A:B with whole numbers",
        ),
        ("JSON", "maybe", 2, "'maybe' is not a valid boolean"),
        ("POLL", "soon", 2, "'soon' is not a valid float"),
        ("MODEL", "a:b", 1, "--model applies only to a directory of checkpoints: leave it out (set by {})"),
    ],
)
def test_a_bad_value_is_one_line_that_names_the_variable(tmp_path, monkeypatch, variable, value, code, message):
    name = f"REGIME_ANALYZE_{variable}"
    monkeypatch.setenv(name, value)
    done = regime("analyze", trajectory(tmp_path))
    assert (done.exit_code, done.stdout) == (code, "")
    [line] = done.stderr.splitlines()
    assert message.format(name) in line
    assert f"(set by {name})" in line


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["anlyze", "x"], "no command anlyze; did you mean analyze? (see regime --help)"),
        (["fly"], "no command fly (see regime --help)"),
        (["--versoin"], "no option --versoin; did you mean --version? (see regime --help)"),
        (["analyze", "x", "--prset=paper"], "no option --prset; did you mean --preset? (see regime analyze --help)"),
        (["analyze"], "Missing argument 'SOURCE' (see regime analyze --help)"),
        (["export", "x"], "Missing option '--to'. Choose from: csv, netcdf, json (see regime export --help)"),
        (
            ["export", "x", "--to", "netdcf"],
            "Invalid value for '--to': 'netdcf' is not one of 'csv', 'netcdf', 'json'; did you mean netcdf? (see {})",
        ),
    ],
)
def test_wrong_usage_is_one_line(arguments, line):
    done = regime(*arguments)
    line = line.format("regime export --help")
    assert (done.exit_code, done.stdout, done.stderr) == (2, "", f"error: {line}\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ["analyze", "rnu.h5"],
        ["inspect", "rnu.h5"],
        ["check", "rnu.h5"],
        ["validate", "rnu.h5"],
        ["merge", "rnu.h5"],
        ["thin", "rnu.h5", "--masks", "none", "-o", "x.h5"],
        ["export", "rnu.h5", "--to", "csv"],
        ["program", "rnu.h5", "-o", "x"],
        ["convert", "rnu.h5", "-o", "x.h5"],
    ],
)
def test_a_mistyped_file_is_answered_with_the_nearest(tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    trajectory(tmp_path)
    done = regime(*arguments)
    assert done.exit_code in (1, 2)
    [line] = done.stderr.splitlines()
    assert line.startswith("error: rnu.h5: no s")
    assert line.endswith("; did you mean run.h5?")


def test_mistyped_models_and_probes(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert_one_line(regime("analyze", "checkpionts"), "no such file or directory; did you mean checkpoints.$")
    probe = ["--probe", "checkpoints/prob.npz"]
    assert_one_line(regime("analyze", "checkpoints", *probe), "no such file; did you mean checkpoints/probe.npz.$")
    model = ["--model", "chekpoints/program.onnx"]
    assert_one_line(regime("analyze", "checkpoints", *model), "did you mean checkpoints/program.onnx.$")
    assert_one_line(regime("inspect", "checkpoints/progam.onnx"), "did you mean checkpoints/program.onnx.$")


def test_wherever_a_path_is_missing(tmp_path):
    (tmp_path / "lines.txt").touch()
    for look in (open_directory, require_folder, load_probe, load_lines):
        with pytest.raises(RegimeError, match=r"line.txt: no such .*; did you mean .*/lines.txt\?$"):
            look(tmp_path / "line.txt")


def test_the_nearest_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("runs/first.h5", "runs/.hidden.h5", "rums/second.h5"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = {
        "runs/frist.h5": "runs/first.h5",
        # Two folders are near, and one of them holds such a file.
        "rnus/second.h5": "rums/second.h5",
        str(tmp_path / "runs/frist.h5"): str(tmp_path / "runs/first.h5"),
    }
    for typed, meant in found.items():
        assert no_such(Path(typed)) == f"{typed}: no such file or directory; did you mean {meant}?"
    for typed in ("elsewhere/x.h5", "runs/hidden.h5", "/proc/none/x", "runs/first.h5/x"):
        assert no_such(Path(typed), "file") == f"{typed}: no such file"


def test_what_the_system_says_otherwise():
    assert cannot_open(Path("x"), PermissionError(13, "Permission denied")) == "x: Permission denied"
