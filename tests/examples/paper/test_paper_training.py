"""The rows of the paper's table: trained, killed and resumed, and what they leave."""

import csv
import shutil
import sys

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import regime_proto
from regime_proto.comparison.rows import published
from regime_proto.examples.paper import training
from regime_proto.examples.paper.command import main
from regime_proto.examples.paper.results import Outcome
from regime_proto.examples.paper.rows import ROWS, row_called
from regime_proto.examples.paper.running import run
from regime_proto.examples.paper.settings import settings_of
from regime_proto.examples.paper.training import Training
from regime_proto.schema.errors import RegimeError

ROW = "mlp-breast-cancer"


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def paper(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def in_one_line(result):
    """Return the error that a command has ended with."""
    assert result.exit_code in (1, 2), result.output
    assert result.stdout == ""
    line = result.stderr.strip()
    assert "\n" not in line
    assert line.startswith("error: ")
    return line


def test_the_rows_are_those_of_table_two():
    optimizers = {"SGD (Nesterov 0.9)": "SGD"}
    table = published()
    assert [row.number for row in ROWS] == list(range(1, len(table) + 1))
    for row, stated in zip(ROWS, table, strict=True):
        labels = stated.labels
        assert row.data.replace(" ", "") == labels["dataset"].replace(" ", "")
        assert row.optimizer == optimizers.get(labels["optimizer"], labels["optimizer"])
        assert row.nesterov == ("Nesterov" in labels["optimizer"])
        assert (row.learning_rate, row.weight_decay) == (float(labels["learning_rate"]), float(labels["weight_decay"]))
        assert row.epochs == stated.epochs
        assert row.published.rho == stated.rho


def test_ten_steps_from_the_command_line(tmp_path):
    out = tmp_path / "out"
    done = paper("run", ROW, "--steps", 10, "--checkpoints", 4, "--out", out, "--threads", 1)
    assert done.exit_code == 0, done.output
    assert "mlp-breast-cancer on Breast Cancer: 1.429 epochs, 10 updates (--steps reached)" in done.stdout
    [outcome] = Outcome.read(out / "result.json")
    with regime_proto.open_trajectory(out / "run.h5") as trajectory:
        assert trajectory["step"].to_numpy().tolist() == list(range(11))
        assert trajectory.attrs["observations_per_epoch"] == 7
        # 0.2 × batch size.
        assert trajectory.sizes["sample"] == 13
        losses = trajectory["metric_loss"].to_numpy()
        scores = trajectory["metric_val_score"].to_numpy()
    assert np.isnan(losses[0])
    assert losses[1:4].mean() > losses[-3:].mean()
    assert np.flatnonzero(np.isfinite(scores)).tolist() == [7, 10]
    assert outcome.score == scores[-1]
    result = regime_proto.analyze(out / "run.h5", resamples=0)
    assert (outcome.rho, outcome.auc_w, outcome.auc_p) == (result.rho, result.auc_w, result.auc_p)
    rows = list(csv.DictReader((out / "metrics.csv").read_text().splitlines()))
    assert [int(row["step"]) for row in rows] == [7, 10]
    assert float(rows[0]["loss"]) == pytest.approx(losses[1:8].mean())
    steps = sorted(int(path.stem.split("-")[1]) for path in (out / "checkpoints").iterdir())
    assert (steps[0], steps[-1]) == (0, 10)
    assert 0 < outcome.structural_share < 1
    assert (
        outcome.made_with["torch"] == torch.__version__.split("+")[0] or outcome.made_with["torch"] == torch.__version__
    )
    # To ask again costs nothing, and to ask for something else overwrites nothing.
    assert "no saved state found" not in done.stderr
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    again = paper("run", ROW, "--steps", 10, "--checkpoints", 4, "--out", out, "--resume")
    assert again.stdout == done.stdout
    assert "already holds a training" in in_one_line(paper("run", ROW, "--steps", 10, "--out", out))
    other = in_one_line(paper("run", ROW, "--steps", 12, "--checkpoints", 4, "--out", out, "--resume"))
    assert "steps 10 where 12 is asked for" in other
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def test_a_killed_training_goes_on_as_if_nothing_had_been(tmp_path, monkeypatch):
    # A state after every update.
    monkeypatch.setattr(training, "_SAVE_SECONDS", 0.0)
    monkeypatch.setattr(training, "_SAVE_SHARE", 1e9)
    row = row_called(ROW)
    settings = settings_of(row, steps=16, checkpoints=0)

    def copy(progress, steps, loss):
        # What a kill at this moment would leave.
        if progress.step == 9:
            shutil.copytree(tmp_path / "whole", tmp_path / "killed")

    whole = run(row, settings, tmp_path / "whole", on_step=copy)
    assert not (tmp_path / "killed/run.h5").exists()
    steps, said = [], []

    def note(progress, *_):
        steps.append(progress.step)

    killed = run(row, settings, tmp_path / "killed", resume=True, on_step=note, say=said.append)
    assert said == [f"{tmp_path / 'killed'}: resumes after update 8"]
    # The state of step 8 was saved, that of step 9 was not.
    assert steps == list(range(9, 17))
    with (
        regime_proto.open_trajectory(tmp_path / "killed/run.h5") as one,
        regime_proto.open_trajectory(tmp_path / "whole/run.h5") as other,
    ):
        for name in ("step", "weight_delta_l1", "flips", "metric_loss", "metric_val_score", "valid"):
            np.testing.assert_array_equal(one[name].to_numpy(), other[name].to_numpy(), err_msg=name)
    for name in ("rho", "auc_w", "auc_p", "score", "loss_last", "steps", "ended"):
        assert getattr(killed, name) == getattr(whole, name), name
    first, second = (
        torch.load(tmp_path / name / "state.pt", weights_only=True)["model"] for name in ("killed", "whole")
    )
    assert all(torch.equal(first[name], second[name]) for name in second)


def test_the_training_stops_when_the_validation_loss_does(tmp_path):
    row = row_called(ROW)
    # Every improvement is too small.
    settings = settings_of(row, epochs=9, least_improvement=0.99, checkpoints=0)
    outcome = run(row, settings, tmp_path / "out")
    assert settings.patience == 3
    assert (outcome.epochs, outcome.ended) == (4, "no progress for 3 epochs")
    assert outcome.structural_share is None
    assert not (tmp_path / "out/checkpoints").exists()


def test_a_training_that_diverges_says_so(tmp_path, monkeypatch):
    row = row_called(ROW)
    losses = iter([0.7, 0.6, float("nan")])
    monkeypatch.setattr(Training, "_update", lambda self, indices: next(losses))
    made = Training(row, settings_of(row, checkpoints=0), tmp_path)
    made.run()
    assert made.progress.ended == "diverged: the loss is nan at step 3"
    assert made.progress.step == 3


def test_seeds_and_dropout_change_the_training():
    row = row_called(ROW)

    def weights(**chosen):
        made = Training(row, settings_of(row, **chosen), None)
        return torch.cat([parameter.flatten() for parameter in made.model.parameters()]), made

    same, other = weights(seed=3)[0], weights(seed=4)[0]
    assert torch.equal(weights(seed=3)[0], same)
    assert not torch.equal(same, other)
    _, made = weights(dropout=0.1)
    shares = {module.p for module in made.model.modules() if isinstance(module, torch.nn.Dropout)}
    assert shares == {0.1}
    one, another = (next(weights(seed=seed)[1]._batches()) for seed in (3, 4))
    assert not np.array_equal(one, another)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mlp-mnits"], "row mlp-mnits: not one of the eighteen; did you mean mlp-mnist?"),
        (["mlp-adult", "--momentum", 0.9], "--momentum 0.9: applies only to SGD, but mlp-adult uses Adam"),
        ([ROW, "--momentum", 1.5], "--momentum 1.5: expected 0 or more, and less than 1"),
        ([ROW, "--batch-size", 1], "--batch-size 1: expected 2 or more"),
        ([ROW, "--batch-size", 5000], "--batch-size 5000: Breast Cancer has only 456 training samples"),
        ([ROW, "--device", "gpu9"], "--device gpu9: expected cpu, cuda or cuda:N"),
        ([ROW, "--steps", 2, "--out", "/proc/x"], "/proc/x: cannot be written"),
        ([ROW, "--steps", 1], "--steps 1: expected 2 or more"),
        ([ROW, "--scaling", "none"], "--scaling none: expected standard or unit"),
        ([ROW, "--scaling", "unit"], "--scaling unit: Breast Cancer holds no images; leave out the option"),
        ([ROW, "--checkpoints", 1], "--checkpoints 1: expected 2 or more, or 0 for none"),
        ([ROW, "--width", 1.5], "--width 1.5"),
        ([ROW, "--data", "/nowhere"], "/nowhere: not a folder; --data expects wdbc.data"),
        (["mlp-har", "--data", "."], "no train/X_train.txt in it or below; --data expects the folder UCI HAR Dataset"),
        (
            ["lenet5-mnist", "--batch-size", 8, "--dropout", 0.5, "--data", "DIGITS"],
            "--dropout 0.5: this network has no dropout",
        ),
    ],
)
def test_wrong_input_is_one_line(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_digits(tmp_path / "DIGITS")
    assert message in in_one_line(paper("run", *arguments))
    assert not (tmp_path / "paper-runs").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a CUDA device")
def test_a_device_that_is_not_there_is_refused(tmp_path):
    assert "this machine has no CUDA device" in in_one_line(
        paper("run", ROW, "--device", "cuda", "--out", tmp_path / "o")
    )


def write_digits(folder):
    """Write a few images as MNIST's files hold them."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    for part, count in (("train", 40), ("t10k", 20)):
        pixels = generator.integers(0, 256, (count, 28, 28), np.uint8)
        head = b"\0\0\x08\x03" + b"".join(size.to_bytes(4, "big") for size in pixels.shape)
        (folder / f"{part}-images-idx3-ubyte").write_bytes(head + pixels.tobytes())
        labels = np.arange(count, dtype=np.uint8) % 10
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(
            b"\0\0\x08\x01" + count.to_bytes(4, "big") + labels.tobytes()
        )


def test_a_library_that_is_not_installed_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.delitem(sys.modules, "regime_proto.examples.paper.data.breast_cancer", raising=False)
    monkeypatch.delattr("regime_proto.examples.paper.data.breast_cancer", raising=False)
    assert 'pip install "regime-proto[cpu,paper]"' in in_one_line(paper("run", ROW, "--out", tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_no_training_is_left_alone(tmp_path):
    (tmp_path / "config.json").write_text("[1, 2")
    assert "not JSON" in in_one_line(paper("run", ROW, "--out", tmp_path))
    (tmp_path / "config.json").write_text("[1, 2]")
    assert "holds a training with settings that are none" in in_one_line(
        paper("run", ROW, "--out", tmp_path, "--resume")
    )
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_the_list_shows_every_row():
    shown = paper("list")
    assert shown.exit_code == 0
    assert all(row.name in shown.output for row in ROWS)
    assert "batch size: not stated" in shown.output
    told = paper("list", "mlp-har")
    assert "expects the folder UCI HAR Dataset" in told.output
    assert "score 0.97, AUC_W 0.2, AUC_P 0.19, ρ 1.05" in told.output
    assert "not one of the eighteen" in in_one_line(paper("list", "mlp"))


def test_what_is_not_there_is_not_read(tmp_path):
    path = tmp_path / "result.json"
    for content in ("", "[", "[1]", "{}", '{"a": 1}', '[{"json_version": 1, "row": "x"}]', '[{"json_version": 2}]'):
        path.write_text(content)
        with pytest.raises(RegimeError, match=r"result\.json"):
            Outcome.read(path)
