"""The command line, as a user meets it."""

import json
import os
import shlex
import shutil
import subprocess
import sys

import nets
import numpy as np
import pytest
import torch
from commands import REGIME, assert_one_line, regime
from safetensors.numpy import save_file

import regime_proto
from regime_proto.analyzer.besides import besides
from regime_proto.cli.render import sparkline
from regime_proto.plugins.factory import load_model
from regime_proto.plugins.open_directory import open_directory
from regime_proto.schema.errors import RegimeError
from regime_proto.schema.files import segments_folder


def test_analyze_a_directory(run):
    result = regime("analyze", run)
    assert result.exit_code == 0, result.output
    trajectory = run.parent / "checkpoints.regime.h5"
    assert f"wrote {trajectory} (8 observations, masks: all; " in result.stderr
    for word in ("ρ", "AUC_W", "AUC_P", "16 readings", "weights", "patterns", "curve below", "node_relu", "body.2"):
        assert word in result.stdout
    again = regime("analyze", run)
    assert "nothing changed; using" in again.stderr
    assert again.stdout == result.stdout


def test_json_is_one_object_with_the_promised_keys(run):
    result = regime("analyze", run, "--json", "--batches-per-epoch", "4", "--quiet")
    assert result.stderr == ""
    found = json.loads(result.stdout)
    assert found["json_version"] == 1
    assert found.keys() >= {
        "rho", "auc_w", "auc_p", "rho_range", "preset", "observations", "step_kind", "stride", "window", "thresholds",
        "layers", "trajectory", "warnings",
    }  # fmt: skip
    assert found["thresholds"][0].keys() == {"tau", "step_w", "step_p", "ratio"}
    assert found["layers"][0].keys() >= {"layer", "op", "units", "auc_p"}
    assert (found["observations"], found["stride"], found["step_kind"], found["window"]) == (8, 1, "step", 1)
    in_python = regime_proto.analyze(found["trajectory"], batches_per_epoch=4)
    beside = besides(found["trajectory"])
    assert found == json.loads(json.dumps({**in_python.to_json(), **beside}))
    assert found["patterns"]["distinct_regions"][0] > 1


def test_analyze_a_trajectory(tmp_path):
    path = regime_proto.synthetic.trajectory(steps=100, layers=9, observations_per_epoch=20.0, path=tmp_path / "run.h5")
    strict = regime("analyze", path, "--preset", "strict", "--steps", "10:90")
    assert "preset strict" in strict.stdout
    assert "81 observations" in strict.stdout
    assert "largest" in strict.stdout
    assert "3 more, -v shows all" in strict.stdout
    everything = regime("analyze", path, "-v")
    assert "more, -v" not in everything.stdout
    assert all(f"relu_{index}" in everything.stdout for index in range(9))


def test_a_selection_has_a_trajectory_of_its_own(run):
    assert regime("analyze", run, "--every", "2").exit_code == 0
    assert regime("analyze", run, "--steps", "1:6").exit_code == 0
    assert regime("analyze", run).exit_code == 0
    names = {path.name for path in run.parent.glob("*.h5")}
    assert names == {"checkpoints.every2.regime.h5", "checkpoints.steps1-6.regime.h5", "checkpoints.regime.h5"}


def test_model_and_probe_win_over_the_directory(run, probe_file, in_tests, tmp_path):
    (run / "program.onnx").write_bytes(b"spoiled")
    np.save(run / "probe.npz", np.ones(3))
    output = tmp_path / "run.h5"
    result = regime("analyze", run, "--model", "nets:make_mlp", "--probe", probe_file, "-o", output)
    assert result.exit_code == 0, result.output
    assert output.is_file()


def test_convert_program_and_inspect(run, probe_file, in_tests, tmp_path):
    for name in ("program.onnx", "probe.npz"):
        (run / name).unlink()
    bare = regime("inspect", run)
    assert bare.exit_code == 0
    assert "step_0007.pt" in bare.stdout
    assert "not yet ready to analyze" in bare.stderr
    written = regime("program", "--model", "nets:make_mlp", "--probe", probe_file, "-o", run)
    assert written.exit_code == 0, written.output
    ready = regime("inspect", run)
    for word in ("torch", "8, by a step in the file name", "features: float32[6, 12]", "body.2", "52 units", "memory"):
        assert word in ready.stdout
    assert "node_relu" in regime("inspect", run / "program.onnx").stdout
    converted = regime("convert", run, "-o", tmp_path / "run.h5")
    assert converted.exit_code == 0
    assert converted.stdout == ""
    inspected = regime("inspect", tmp_path / "run.h5").stdout
    for word in ("8, step 0 to 7", "metrics", "loss", "regime_version", "node_relu"):
        assert word in inspected


def test_program_does_not_replace_another(run, probe_file, in_tests):
    before = (run / "program.onnx").read_bytes()
    regime("program", "--model", "nets:make_mlp", "--probe", probe_file, "-o", run)
    assert (run / "program.onnx").read_bytes() == before
    (run / "program.onnx").write_bytes(b"mine")
    refused = regime("program", "--model", "nets:make_mlp", "--probe", probe_file, "-o", run)
    assert_one_line(refused, "program.onnx: exists and differs; replace it with --overwrite")
    assert (run / "program.onnx").read_bytes() == b"mine"
    assert regime("program", "--model", "nets:make_mlp", "--probe", probe_file, "-o", run, "--overwrite").exit_code == 0


def test_program_is_compared_with_the_checkpoints_first(run, probe_file, in_tests, tmp_path):
    payload = torch.load(run / "step_0000.pt")
    del payload["model"]["body.0.bias"]
    torch.save(payload, run / "step_0000.pt")
    (run / "program.onnx").unlink()
    refused = regime("program", "--model", "nets:make_mlp", "--probe", probe_file, "-o", run)
    assert_one_line(refused, "step_0000.pt: 1 tensor missing: 'body.0.bias'")
    assert not (run / "program.onnx").exists()


def empty(run):
    shutil.rmtree(run)
    run.mkdir()


def absent(run):
    shutil.rmtree(run)


def one_only(run):
    for path in run.glob("step_*[1-7].pt"):
        path.unlink()


def truncated(run):
    path = run / "step_0004.pt"
    path.write_bytes(path.read_bytes()[:300])


def hostile(run):
    class Hostile:
        def __reduce__(self):
            return exec, ("raise SystemExit('run!')",)

    torch.save({"model": {}, "x": Hostile()}, run / "step_0004.pt")


def change(run, step, edit):
    payload = torch.load(run / f"step_{step:04d}.pt")
    edit(payload["model"])
    torch.save(payload, run / f"step_{step:04d}.pt")


def missing(run):
    change(run, 4, lambda state: state.pop("body.4.weight"))


def extra(run):
    change(run, 4, lambda state: state.update({"body.9.weight": torch.ones(2)}))


def shape(run):
    change(run, 4, lambda state: state.update({"body.4.weight": torch.ones(2, 2)}))


def same_step(run):
    shutil.copy(run / "step_0004.pt", run / "step_4.pt")


def probe_shape(run):
    np.savez(run / "probe.npz", features=np.ones((6, 11), np.float32))


def probe_dtype(run):
    np.savez(run / "probe.npz", features=np.ones((6, 12)))


def probe_nan(run):
    np.savez(run / "probe.npz", features=np.full((6, 12), np.nan, np.float32))


def probe_name(run):
    array = np.ones((6, 12), np.float32)
    np.savez(run / "probe.npz", features=array, featured=array)


def no_probe(run):
    (run / "probe.npz").unlink()


def no_program(run):
    (run / "program.onnx").unlink()


def no_program_but_onnx(run):
    (run / "program.onnx").write_bytes(b"onnx")


def names_without_number(run):
    for letter, path in zip("abcdefgh", sorted(run.glob("*.pt")), strict=True):
        payload = torch.load(path)
        torch.save(payload["model"], run / f"{letter}.pt")
        path.unlink()


@pytest.mark.parametrize(
    ("spoil", "pattern"),
    [
        (empty, r"checkpoints: no checkpoint found \(it is empty\); expected files of .*\.pt"),
        (absent, "checkpoints: no such file or directory"),
        (one_only, r"one checkpoint \(step_0000.pt\) to analyze; expected at least two"),
        (truncated, "step_0004.pt: damaged or incomplete"),
        (hostile, "step_0004.pt: refused: the pickle calls builtins.exec"),
        (missing, "step_0004.pt: 1 tensor missing: 'body.4.weight'"),
        (extra, "step_0004.pt: 1 tensor not in the program: 'body.9.weight' .nearest: 'body.._.*.weight'|body"),
        (shape, r"step_0004.pt: body.4.weight is \[2, 2\], but the program expects \[20, 32\]"),
        (same_step, "step_0004.pt and step_4.pt both have step 4|step_4.pt and step_0004.pt both have step 4"),
        (probe_shape, r"probe.npz: features is float32\[6, 11\], but the program expects float32\[6, 12\]"),
        (probe_dtype, r"probe.npz: features is float64\[6, 12\], but the program expects float32\[6, 12\]"),
        (probe_nan, "probe.npz: features holds NaN or Inf"),
        (probe_name, "probe.npz: array 'featured' is not an input.*nearest: 'features'"),
        (no_probe, "no probe.npz in it; pass a fixed set of inputs with --probe FILE"),
        (no_program, "no program.onnx in it; pass a function that builds the model with --model MODULE:FACTORY"),
        (no_program_but_onnx, "program.onnx: not an ONNX model"),
        (names_without_number, "a.pt: no step in the payload and no number in the name"),
    ],
)
def test_bad_directories(run, spoil, pattern):
    spoil(run)
    assert_one_line(regime("analyze", run), pattern)


@pytest.mark.parametrize(
    ("model", "pattern"),
    [
        ("nets", "expected MODULE:FACTORY"),
        ("netz:make_mlp", "no module 'netz' in the installed packages or in"),
        ("nets:make_mpl", "module nets has no 'make_mpl' .nearest: 'make_mlp'"),
        ("nets:raises", r"the factory raised ValueError: no such size \(.*nets.py:\d+\)"),
        ("nets:returns_text", "the factory returned a str; expected a "),
        ("nets:not_callable", "expected a function, found a int"),
        ("nets:no_gate", "the model has no gate to track"),
        ("nets:make_conv", "the model fails on the probe"),
    ],
)
def test_bad_models(run, probe_file, in_tests, model, pattern):
    assert_one_line(regime("analyze", run, "--model", model, "--probe", probe_file), pattern)


def test_code_beside_the_checkpoints_is_never_run(run, probe_file, monkeypatch):
    (run / "evil.py").write_text("raise SystemExit('run!')")
    monkeypatch.chdir(run)
    assert_one_line(regime("analyze", ".", "--model", "evil:make", "--probe", probe_file), "no module 'evil'")


@pytest.mark.parametrize(
    ("arguments", "pattern"),
    [
        (["--batches-per-epoch", "inf"], "expected a finite number above 0"),
        (["--every", "2"], "--every needs the checkpoints"),
        (["--model", "a:b"], "--model applies only to a directory of checkpoints"),
        (["-o", "x.h5"], "--output applies only to a directory of checkpoints"),
        (["--steps", "9"], "--steps '9': expected A:B"),
        (["--batches-per-epoch", "-1"], "expected a finite number above 0"),
    ],
)
def test_options_that_do_not_fit_a_trajectory(tmp_path, arguments, pattern):
    path = regime_proto.synthetic.trajectory(steps=9, path=tmp_path / "run.h5")
    assert_one_line(regime("analyze", path, *arguments), pattern)


def test_ordinal_steps_refuse_batches_per_epoch(run):
    for path in run.glob("*.pt"):
        torch.save(torch.load(path)["model"], run / path.name.replace("step_", "net_"))
        path.unlink()
    refused = regime("analyze", run, "--batches-per-epoch", "4")
    assert_one_line(refused, "only count its files")
    assert not list(run.parent.glob("*.h5*"))
    found = json.loads(regime("analyze", run, "--json").stdout)
    assert found["step_kind"] == "ordinal"
    assert "not smoothed" in found["warnings"][0]
    assert "--step-pattern" in found["warnings"][0]
    # What the error says works as it stands.
    option = shlex.split(refused.stderr.partition("training step, pass ")[2].partition("; else")[0])
    assert option == ["--step-pattern", r"^net_(\d+)\.pt$"]
    found = json.loads(regime("analyze", run, "--batches-per-epoch", "4", *option, "--overwrite", "--json").stdout)
    assert (found["step_kind"], found["window"]) == ("step", 1)
    assert not any("not smoothed" in warning for warning in found["warnings"])


def test_nan_weights_are_a_warning(run):
    change(run, 4, lambda state: state["body.0.bias"].fill_(float("nan")))
    result = regime("analyze", run, "--json")
    assert result.exit_code == 0
    [warning] = [text for text in json.loads(result.stdout)["warnings"] if "NaN" in text]
    assert "body.0.bias at step 4" in warning
    assert warning in result.stderr
    assert "body.0.bias at step 4" in regime("convert", run, "-o", run.parent / "again.h5").stderr


def test_an_output_of_another_run(run, tmp_path):
    path = tmp_path / "other.h5"
    regime_proto.synthetic.trajectory(steps=9, path=path)
    before = path.read_bytes()
    assert_one_line(
        regime("convert", run, "-o", path),
        "other.h5: exists, but was converted from different checkpoints.*--overwrite",
    )
    assert path.read_bytes() == before
    assert regime("convert", run, "-o", path, "--overwrite").exit_code == 0


@pytest.mark.parametrize("name", ["notes.md", "checkpoints/step_0003.pt", "checkpoints/probe.npz"])
def test_only_a_trajectory_is_ever_replaced(run, name):
    path = run.parent / name
    if not path.exists():
        path.write_text("mine")
    before = path.read_bytes()
    for more in ((), ("--overwrite",)):
        refused = regime("convert", run, "-o", path, *more)
        assert_one_line(refused, "found another kind of file.*it is not replaced: choose another output")
        assert "--overwrite" not in refused.stderr
    assert path.read_bytes() == before
    assert_one_line(regime("convert", run, "-o", run.parent, "--overwrite"), "not a file; expected a trajectory")


def test_an_output_that_cannot_be_written(run, tmp_path):
    (tmp_path / "file").write_text("")
    assert_one_line(
        regime("convert", run, "-o", tmp_path / "file" / "run.h5"),
        r"cannot be written .*choose another",
    )


@pytest.mark.parametrize(("name", "kind"), [("step_0000.pt", "checkpoint"), ("program.onnx", "program")])
def test_a_single_file_is_no_run(run, name, kind):
    assert_one_line(regime("analyze", run / name), f"a single {kind}; give the directory of the checkpoints")
    if kind == "checkpoint":
        assert_one_line(regime("inspect", run / name), "a single checkpoint")


def test_errors_of_the_system_are_one_line_too():
    assert_one_line(regime("analyze", "x" * 300), "x: File name too long")


def test_an_error_keeps_what_was_observed(run):
    truncated(run)
    regime("analyze", run)
    assert list(segments_folder(run.parent / "checkpoints.regime.h5").glob("*.h5"))


@pytest.mark.parametrize("arguments", [["analyze"], ["analyze", "x", "--preset", "best"], ["convert", "x"], ["fly"]])
def test_usage_errors_exit_with_2(arguments):
    assert regime(*arguments).exit_code == 2


def test_results_without_unicode(tmp_path):
    path = regime_proto.synthetic.trajectory(steps=30, noise=0.1, path=tmp_path / "run.h5")
    done = subprocess.run(
        [REGIME, "analyze", path], env={"PYTHONIOENCODING": "ascii", "PATH": ""}, capture_output=True, check=True
    )
    text = done.stdout.decode("ascii")
    assert "rho" in text
    assert "?" not in text


def test_sparkline():
    assert sparkline([0, 0.5, 1]) == "▁▅█"
    assert sparkline([np.nan, 1]) == " █"
    assert len(sparkline(np.linspace(1, 0, 1000))) == 60


def test_help_answers_at_once():
    """In processor time, so that what else the machine does counts little; the best of ten."""

    def spent():
        before = os.times()
        subprocess.run([REGIME, "--help"], check=True, capture_output=True)
        after = os.times()
        return after.children_user + after.children_system - before.children_user - before.children_system

    assert any(spent() < 0.4 for _ in range(10))


PARSING = {
    "parses": ("parser.parse_args()", r"the following arguments are required: --data\); move code that reads"),
    "helps": ("parser.print_help(); sys.exit(0)", r"ended the program \(exit code 0.*\); move code that reads"),
    "exits": ("sys.exit('no data')", r"ended the program \(exit code no data\); move code"),
}


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("name", PARSING)
def test_a_module_that_reads_the_command_line_does_not_get_ours(tmp_path, monkeypatch, capsys, name, inside):
    call, message = PARSING[name]
    body = "import argparse, sys\nparser = argparse.ArgumentParser()\nparser.add_argument('--data', required=True)\n"
    module = f"script_{name}_{inside}"
    lines = f"def make():\n    {call}\n" if inside else f"{call}\n"
    (tmp_path / f"{module}.py").write_text(body + lines)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["regime", "analyze", "--data", "here"])
    before = sys.argv, sys.stdout, sys.stderr
    with pytest.raises(RegimeError, match=rf"--model {module}:make: {module} .*{message}") as caught:
        load_model(f"{module}:make", apart_from=[tmp_path / "run"])
    assert "\n" not in str(caught.value)
    assert (sys.argv, sys.stdout, sys.stderr) == before
    assert capsys.readouterr() == ("", "")


def test_a_module_sees_an_empty_command_line_and_may_print(tmp_path, monkeypatch, capsys):
    (tmp_path / "talking.py").write_text(
        "import argparse, sys\nfrom nets import make_mlp\nprint('loading', file=sys.stderr)\n"
        "parser = argparse.ArgumentParser()\nparser.add_argument('--width', default=3)\n"
        "assert parser.parse_args().width == 3\nassert sys.argv == ['talking']\nparser.print_usage(sys.stderr)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["regime", "analyze", "run/"])
    assert load_model("talking:make_mlp", apart_from=[tmp_path / "run"]) is not None
    assert capsys.readouterr().err == "loading\nusage: talking [-h] [--width WIDTH]\n"


def test_a_program_goes_into_a_directory(tmp_path, in_tests):
    np.save(tmp_path / "probe.npy", nets.probe(nets.make_mlp()))
    (tmp_path / "notes.txt").write_text("mine")
    given = ("program", "--model", "nets:make_mlp", "--probe", tmp_path / "probe.npy", "-o")
    for name in ("program.onnx", "probe.npz", "notes.txt"):
        assert_one_line(regime(*given, tmp_path / name), rf"{name}: a file; expected the directory .*: -o {tmp_path}")
        assert not (tmp_path / name).is_dir()
    # As it says.
    assert regime(*given, tmp_path).exit_code == 0
    assert {"program.onnx", "probe.npz"} <= {path.name for path in tmp_path.iterdir()}


@pytest.mark.parametrize("suffix", ["safetensors", "npz"])
def test_a_single_checkpoint_is_named_as_one(tmp_path, suffix):
    folder = tmp_path / "run"
    folder.mkdir()
    weights = {"w": np.ones((2, 3), np.float32), "b": np.ones(3, np.float32)}
    if suffix == "npz":
        np.savez(folder / "best.npz", **weights)
    else:
        save_file(weights, folder / "best.safetensors")
    with pytest.raises(RegimeError, match=r"run: a single checkpoint \(.*best\..*\); give the directory that"):
        open_directory(folder)
