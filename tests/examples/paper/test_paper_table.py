"""Results beside the published rows, and the study of the settings."""

import csv
import io
import json
import statistics
from dataclasses import replace

import pytest
from click.testing import CliRunner

from regime_proto.examples.paper import study as study_module
from regime_proto.examples.paper.command import main
from regime_proto.examples.paper.results import Outcome, write_outcomes
from regime_proto.examples.paper.rows import ROWS, row_called
from regime_proto.examples.paper.settings import settings_of
from regime_proto.examples.paper.study import BATCH_SIZES, grid, run_all, variations
from regime_proto.examples.paper.table import lines, lines_of, nearest, read_outcomes, to_page, typed


def paper(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def outcome(row, *, rho=1.0, data="MNIST", stands_for=None, **chosen):
    settings = settings_of(row_called(row), **chosen)
    return Outcome(
        row=row, settings=settings, data=data, origin="", stands_for=stands_for, parameters=1, steps=5, epochs=2.0,
        ended="all steps done", score=0.9, score_kind="accuracy", loss_first=1.0, loss_last=0.5, auc_w=0.2, auc_p=0.1,
        rho=rho, rho_range=[0.5, 2.0], settled=True, structural_share=None, structural_below=None, warnings=[],
        seconds=1.0, made_with={},
    )  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    """Three seeds of one row, another batch size, and a stand-in."""
    found = [outcome("mlp-mnist", rho=rho, seed=seed) for seed, rho in enumerate((0.5, 1.0, None))]
    found.append(outcome("mlp-mnist", rho=2.0, batch_size=256))
    found.append(outcome("mlp-har", rho=3.0, data="motion (stand-in for HAR)", stands_for="HAR"))
    for number, one in enumerate(found):
        write_outcomes(tmp_path / f"{number}.json", [one])
    return tmp_path


def test_seeds_are_averaged_and_settings_are_not(folder):
    found = lines(read_outcomes([folder]))
    assert [(line.row.name, len(line.outcomes)) for line in found] == [
        ("mlp-har", 1),
        ("mlp-mnist", 3),
        ("mlp-mnist", 1),
    ]
    rho = found[1].spread("rho")
    assert (rho.runs, rho.mean) == (2, 0.75)
    assert rho.deviation == pytest.approx(statistics.stdev((0.5, 1.0)))
    table = typed(found)
    named = [dict(zip(table.headings, row, strict=True)) for row in table.rows]
    assert named[1]["ρ"] == "0.75 ± 0.35"
    assert named[1]["published ρ"] == "0.71"
    assert named[1]["structural share"] == ""
    assert named[2]["chosen"] == "batch 256, momentum 0"
    assert "stand-in" in named[0]["trained on"]
    assert any("not a reproduction" in sentence for sentence in table.below)


@pytest.mark.parametrize("kind", ["markdown", "csv", "latex", "html"])
def test_a_stand_in_is_named_in_every_output(kind, folder, tmp_path):
    path = tmp_path / "table"
    done = paper("table", folder, "--format", kind, "-o", path, "--row", "mlp-har")
    assert done.exit_code == 0, done.output
    text = path.read_text(encoding="utf-8")
    assert "stand-in for HAR" in text
    assert "mlp-mnist" not in text
    if kind == "csv":
        (row,) = csv.DictReader(io.StringIO(text))
        assert (row["stands_for"], row["rho_mean"], row["published_rho"]) == ("HAR", "3.0", "1.05")
    if kind == "html":
        assert text.startswith("<!doctype html>")
        assert "http" not in text.split("<script>")[0].replace("http-equiv", "")


def test_rho_against_the_batch_size_leaves_out_what_differs_otherwise(folder, tmp_path):
    outcomes = [outcome("mlp-mnist", rho=9.0, dropout=0.2), outcome("mlp-mnist", rho=4.0, momentum=0.9)]
    write_outcomes(folder / "more.json", outcomes)
    done = paper("table", folder, "--by-batch-size", "--row", "mlp-mnist")
    assert done.exit_code == 0, done.output
    assert [[cell.strip() for cell in line.split("|")[1:-1]] for line in done.stdout.splitlines()[2:4]] == [
        ["mlp-mnist", "MNIST", "0", "0.75 ± 0.35 (2)", "2.00 (1)", "0.71"],
        ["mlp-mnist", "MNIST", "0.9", "4.00 (1)", "–", "0.71"],
    ]
    assert "are left out: 1." in done.stdout
    refused = paper("table", folder, "--by-batch-size", "--format", "csv")
    assert refused.stderr == "error: --by-batch-size: cannot be written as csv; choose --format markdown or latex\n"


def test_the_nearest_setting_is_that_of_the_smallest_factors():
    far, near = outcome("mlp-mnist", batch_size=32), outcome("mlp-mnist", batch_size=256)
    # Published are 0.29 and 0.41.
    found = nearest(lines([replace(far, auc_w=0.29, auc_p=0.9), replace(near, auc_w=0.2, auc_p=0.41)]))
    assert [row[:2] for row in found.rows] == [("mlp-mnist", "batch 256, momentum 0")]
    assert found.rows[0][3:7] == ("0.20", "0.29", "0.41", "0.41")
    standing_in = outcome("mlp-har", data="motion (stand-in for HAR)", stands_for="HAR")
    assert nearest(lines([standing_in, replace(far, auc_w=None)])).rows == ()


def test_lines_about_one_training_keep_the_stand_in_apart():
    said = lines_of(outcome("mlp-har", data="motion (stand-in for HAR)", stands_for="HAR"))
    assert said[2].startswith("published for HAR, not for this stand-in: score 0.97")
    assert lines_of(outcome("mlp-mnist"))[2] == "published: score 0.94, AUC_W 0.29, AUC_P 0.41, ρ 0.71"


def test_the_figure_has_a_panel_for_each_row(folder, tmp_path):
    path = tmp_path / "study.svg"
    assert paper("table", folder, "--figure", path).exit_code == 0
    text = path.read_text()
    assert text.count('id="axes_') == 2
    wrong = paper("table", folder, "--figure", tmp_path / "study.xyz")
    assert wrong.stderr == f"error: {tmp_path}/study.xyz: expected a file name that ends with .png, .svg, .pdf\n"
    (tmp_path / "short").mkdir()
    write_outcomes(tmp_path / "short/result.json", [outcome("mlp-mnist", steps=3)])
    none = paper("table", tmp_path / "short", "--figure", tmp_path / "short.png")
    assert "error: --figure: found no training without options other than" in none.stderr
    assert (wrong.stdout, none.stdout) == ("", "")


def test_names_in_results_are_text_in_the_page(folder):
    page = to_page(lines([outcome("mlp-mnist", data="<script>alert(1)</script>")]))
    assert "<script>alert" not in page


def test_a_folder_without_results_is_one_line(tmp_path):
    done = paper("table", tmp_path)
    assert done.exit_code == 1
    assert done.stderr == f"error: {tmp_path}: no results in it; expected a folder written by run or study\n"
    (tmp_path / "x.json").write_text(json.dumps({"json_version": 1}))
    done = paper("table", tmp_path)
    assert done.stderr.startswith(f"error: {tmp_path / 'x.json'}: not the results of rows")
    assert done.stderr.count("\n") == 1


def test_the_grid_holds_every_setting_once():
    trainings = grid(ROWS[:6], 2)
    assert len(set(trainings)) == len(trainings) == 2 * len(BATCH_SIZES) * (4 * 2 + 2)
    assert {one.momentum for one in trainings if one.row == "mlp-adult"} == {0}
    # The first seed of everything comes before the second of anything.
    assert [one.seed for one in trainings] == sorted(one.seed for one in trainings)


def test_other_settings_are_varied_one_at_a_time():
    found = variations(ROWS[:6], 1)
    assert [(one.row, one.dropout, one.scaling, one.least_improvement) for one in found if one.row == "mlp-mnist"] == [
        ("mlp-mnist", 0.2, "standard", 0.0),
        ("mlp-mnist", None, "unit", 0.0),
        ("mlp-mnist", None, "standard", 0.01),
    ]
    # Without dropout, or without images, there is nothing to vary.
    assert {one.dropout for one in found if one.row in ("mlp-har", "lenet5-mnist")} == {None}
    assert {one.scaling for one in found if one.row == "mlp-adult"} == {"standard"}
    assert len({one.folder for one in found}) == len(found)


def test_the_study_runs_what_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setattr(study_module, "BATCH_SIZES", (32,))
    monkeypatch.setattr(study_module, "MOMENTA", (0.9,))
    trainings = study_module.grid([row_called("mlp-breast-cancer")], 1, steps=3)
    said = list(run_all(trainings, tmp_path, workers=1))
    name = "mlp-breast-cancer-batch-32-momentum-0.9-seed-0"
    assert said[0] == "1 of 1 trainings to run"
    assert said[1].startswith(f"{name}: ρ ")
    assert [path.name for path in tmp_path.glob("*.json")] == [f"{name}.json"]
    assert not (tmp_path / "unfinished").exists()
    assert [line.outcomes[0].settings.momentum for line in lines(read_outcomes([tmp_path]))] == [0.9]
    assert list(run_all(trainings, tmp_path)) == ["0 of 1 trainings to run"]
