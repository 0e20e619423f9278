"""Several runs beside each other."""

import csv
import io
import json
import math
import re
import statistics
from dataclasses import asdict, replace

import numpy as np
import pandas as pd
import pytest
from commands import assert_one_line, regime
from hypothesis import given
from hypothesis import strategies as st
from runs import LENET, MLP, make_run, make_runs

import regime_proto
from regime_proto.analyzer.settled import Settled
from regime_proto.cli.main import main
from regime_proto.comparison import compare
from regime_proto.comparison.columns import describe_first
from regime_proto.comparison.labels import labels_of
from regime_proto.comparison.spread import centre, spread
from regime_proto.report.tables import FORMATS, to_latex, to_markdown
from regime_proto.schema.epochs import epochs_spanned
from regime_proto.schema.errors import RegimeError


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    """Four runs. Read only."""
    return make_runs(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def results(paths):
    """What was found in them."""
    return [regime_proto.analyze(path) for path in paths]


@pytest.fixture(scope="module")
def found_in_memory():
    """A result without a file."""
    trajectory = regime_proto.synthetic.trajectory(steps=30, units=64, noise=0.1)
    return regime_proto.analyze(trajectory, batches_per_epoch=6)


@pytest.fixture
def tenth(found_in_memory):
    """The like of a run at every tenth step."""
    return replace(found_in_memory, stride=10)


def labelled(folder, text):
    path = folder / "labels.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_published_runs_have_the_published_mean():
    found = regime_proto.compare(reference="paper")
    assert len(found.rows) == 18
    whole = found.summaries[0]
    assert (whole.source, whole.by, whole.rho.runs) == ("paper", None, 18)
    # The paper prints 3.85, 6.43 and 2.03.
    assert whole.rho.mean == pytest.approx(3.854, abs=5e-4)
    assert whole.rho.upper == pytest.approx(6.43, abs=5e-3)
    assert whole.rho.lower == pytest.approx(2.04, abs=5e-3)
    assert whole.rho.median == pytest.approx(2.725)
    assert [(part.value, part.rho.runs) for part in found.summaries[1:]] == [
        ("MLP", 4),
        ("convolutional", 7),
        ("transformer", 7),
    ]
    assert not found.warnings


def test_the_published_areas_and_ratios_agree():
    for row in regime_proto.compare(reference="paper").rows:
        low, high = ((row.auc_w + sign * 0.005) / (row.auc_p - sign * 0.005) for sign in (-1, 1))
        assert low - 0.05 < row.rho < high + 0.05, row.run


@given(values=st.lists(st.floats(-1e3, 1e3).map(lambda value: round(value, 3)), min_size=1, max_size=12))
def test_means_and_semi_deviations_follow_their_definition(values):
    found = centre([*values, math.nan])
    mean = statistics.fmean(values)
    assert found.runs == len(values)
    assert found.mean == pytest.approx(mean, abs=1e-9)
    assert found.median == pytest.approx(statistics.median(values), abs=1e-9)
    sides = {
        "upper": [v - mean for v in values if v - mean > 1e-9],
        "lower": [mean - v for v in values if mean - v > 1e-9],
    }
    for name, offsets in sides.items():
        if offsets:
            expected = math.sqrt(sum(offset**2 for offset in offsets) / len(offsets))
            assert getattr(found, name) == pytest.approx(expected, rel=1e-6)


def test_nothing_above_or_below_is_undefined():
    for found in (centre([2.0]), centre([2.0, 2.0])):
        assert found.mean == found.median == 2.0
        assert math.isnan(found.upper)
        assert math.isnan(found.lower)
    assert centre([math.nan]).runs == 0
    assert centre([]).to_json() == {"runs": 0, "mean": None, "upper": None, "lower": None, "median": None}


def test_the_spread_is_the_sample_standard_deviation():
    found = spread([1.0, 2.0, 4.0, math.nan])
    assert (found.runs, found.lowest, found.highest) == (3, 1.0, 4.0)
    assert found.deviation == pytest.approx(statistics.stdev([1.0, 2.0, 4.0]))
    assert spread([3.0]).to_json()["deviation"] is None
    assert spread([]).to_json()["mean"] is None


NONE = [math.nan] * 5


@pytest.mark.parametrize(
    ("steps", "epochs", "kind", "batches", "stored", "expected"),
    [
        (range(5), [0, 0.25, 0.5, 0.75, 1], "step", None, None, 1.0),
        (range(5), [math.nan, 0.25, 0.5, 0.75, 1], "step", None, None, 1.0),
        (range(4, 9), [math.nan, 0.25, 0.5, 0.75, math.nan], "step", None, None, 0.5),
        (range(0, 50, 10), NONE, "step", 20.0, None, 2.0),
        (range(5), [0, 1, 2, 3, 4], "step", 2.0, None, 2.0),
        (range(5), NONE, "step", None, 8.0, 0.5),
        (range(2, 7), NONE, "epoch", None, None, 4.0),
        (range(5), NONE, "step", None, None, None),
        (range(5), NONE, "ordinal", None, None, None),
        (range(5), [math.nan, 3, math.nan, math.nan, math.nan], "ordinal", None, None, None),
        (range(5), [math.nan, 3, math.nan, math.nan, math.nan], "step", None, None, 3.0),
        (range(4, 9), [math.nan, 3, math.nan, math.nan, math.nan], "step", None, None, None),
    ],
)
def test_epochs_are_counted_where_they_can_be(steps, epochs, kind, batches, stored, expected):
    found = epochs_spanned(np.array(steps), np.array(epochs, float), kind, batches, stored)
    assert found == (expected if expected is None else pytest.approx(expected))


def test_a_row_holds_what_the_analysis_finds(paths):
    found = regime_proto.compare(paths[2:], preset="strict", steps="3:21", batches_per_epoch=9)
    for row, path in zip(found.rows, paths[2:], strict=True):
        result = regime_proto.analyze(path, preset="strict", steps="3:21", batches_per_epoch=9)
        same = ("rho", "auc_w", "auc_p", "rho_range", "observations", "stride", "step_kind", "window", "preset")
        assert {name: getattr(row, name) for name in same} == {name: getattr(result, name) for name in same}
        assert (row.run, row.trajectory) == (path.name, str(path))
        assert row.epochs == pytest.approx(2.0)
    assert [row.labels for row in found.rows] == [{**MLP, "seed": "2"}, LENET]


def test_results_are_compared_as_their_files_are(paths, results, found_in_memory):
    # A single run of a family deviates by NaN, which equals nothing.
    found = [asdict(regime_proto.compare(runs)) for runs in (results, paths)]
    assert str(found[0]) == str(found[1])
    row = regime_proto.compare([found_in_memory]).rows[0]
    assert (row.run, row.rho, row.labels, row.epochs) == ("run 1", found_in_memory.rho, {}, None)
    assert regime_proto.compare(found_in_memory).rows == (row,)


def test_progress_is_told_run_by_run(results):
    told = []
    regime_proto.compare(results, progress=lambda done, total: told.append((done, total)))
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_runs_of_different_strides_are_not_mixed_silently(results, tenth):
    pattern = r"differ in stride: mlp-0.h5 \(stride 1 step\), run 2 \(stride 10 steps\): compare them separately"
    with pytest.raises(RegimeError, match=pattern):
        regime_proto.compare([results[0], tenth])
    found = regime_proto.compare([results[0], tenth], mixed=True)
    assert found.is_mixed
    assert "the runs differ in stride" in found.warnings[0]
    assert "stride 10 steps" in to_markdown(found)
    alike = regime_proto.compare([tenth])
    assert not alike.is_mixed
    assert "stride" not in to_markdown(alike)


def test_a_count_of_files_is_no_step(found_in_memory):
    with pytest.raises(RegimeError, match=r"run 1 \(stride 1 step\), run 2 \(steps that are only counted\)"):
        regime_proto.compare([found_in_memory, replace(found_in_memory, step_kind="ordinal")])


def test_published_runs_are_of_one_step_and_one_preset(results, tenth):
    with pytest.raises(RegimeError, match="differ in stride: run 1"):
        regime_proto.compare([tenth], reference="paper")
    strict = [replace(result, preset="strict") for result in results]
    for runs in (strict, []):
        with pytest.raises(RegimeError, match=r"differ in preset: .*\(preset paper\)"):
            regime_proto.compare(runs, reference="paper", preset="strict")
    found = regime_proto.compare([replace(tenth, preset="strict")], reference="paper", mixed=True)
    assert sum("different measurements" in warning for warning in found.warnings) == 2
    with pytest.raises(RegimeError, match=r"differ in preset: mlp-0.h5 \(preset paper\), mlp-1.h5 \(preset strict\)"):
        regime_proto.compare([results[0], strict[1]])


def test_uneven_strides_are_told(found_in_memory):
    uneven = replace(found_in_memory, stride=None)
    assert "uneven strides, which may differ between runs: run 1, run 2" in regime_proto.compare([uneven] * 2).warnings
    assert not regime_proto.compare([uneven]).warnings


def test_a_run_that_is_not_smoothed_is_told(results, found_in_memory):
    rough = replace(found_in_memory, window=1)
    found = regime_proto.compare([*results, rough])
    assert any(text.startswith("not smoothed, unlike the other runs: ") for text in found.warnings)
    # What the window of the published runs was is not known: a window of one observation may be 0.3 epochs.
    assert not regime_proto.compare([rough], reference="paper").warnings


def test_equal_warnings_are_told_once(found_in_memory):
    doubtful = replace(found_in_memory, warnings=("few changes",))
    [warning] = regime_proto.compare([doubtful] * 5).warnings
    assert warning == "run 1, run 2, run 3 and 2 more: few changes"


def test_an_undefined_ratio_does_not_count(results, found_in_memory):
    found = regime_proto.compare([replace(found_in_memory, rho=math.nan), *results], sort="rho")
    assert found.summaries[0].rho == regime_proto.compare(results).summaries[0].rho
    assert "ρ is undefined and left out of means: run 1" in found.warnings
    assert found.rows[-1].run == "run 1"
    assert found.to_json()["runs"][-1]["rho"] is None


def test_a_mean_over_different_programs_causes_a_warning(results):
    assert not any("different programs" in warning for warning in regime_proto.compare(results[:3]).warnings)
    [warning] = [text for text in regime_proto.compare(results).warnings if "programs" in text]
    assert warning.startswith("the runs are of 2 different programs, and the mean ρ averages over them")


def test_what_settled_first_beyond_doubt_is_counted(results, found_in_memory):
    sure = replace(found_in_memory, settled=Settled(True, True), rho_range=(1.5, 3), thresholds=(), uncertainty=None)
    other = replace(sure, rho_range=(0.2, 0.8))
    doubtful = replace(sure, rho_range=(0.8, 3))
    short, unknown = replace(sure, settled=Settled(True, False)), replace(sure, settled=Settled(None, True))
    found = regime_proto.compare([sure, sure, other, doubtful, short, unknown], reference="paper")
    first = [row.settled_first for row in found.rows[:7]]
    assert first == ["patterns", "patterns", "weights", None, None, None, None]
    assert describe_first(found.rows) == "patterns settled first in 2 of 6 runs, weights in 1, beyond doubt"
    assert describe_first(found.rows[3:]).startswith("in none of 3 runs it is beyond doubt")
    assert describe_first(found.rows[6:]) == ""
    table = pd.read_csv(io.StringIO(FORMATS["csv"](found)))
    assert table.settled.tolist()[:5] == ["yes"] * 4 + ["no"]
    assert table.settled[5:].isna().all()
    cells = [line.split("|")[-2].strip() for line in to_markdown(found).splitlines() if line.startswith("|")]
    assert cells[0] == "settled"
    assert cells[2:9] == ["yes"] * 4 + ["no", "–", "–"]


def test_names_of_published_runs_are_not_shortened_where_labels_can_be_left_out(paths):
    shown = regime("compare", paths[3], "--reference", "paper").stdout
    assert "RoBERTa on AG News (paper)" in shown
    assert "… model, dataset, optimizer, " in shown
    assert not re.search(r"…[^\n]* \(\d+\)", shown)


def test_runs_of_one_program_with_other_seeds_are_repeats(results):
    [repeat] = regime_proto.compare(results).repeats
    assert repeat.runs == ("mlp-0.h5", "mlp-1.h5", "mlp-2.h5")
    assert repeat.labels == MLP
    values = [result.rho for result in results[:3]]
    assert repeat.rho.deviation == pytest.approx(statistics.stdev(values))
    assert (repeat.rho.lowest, repeat.rho.highest) == (min(values), max(values))
    assert repeat.auc_w.runs == repeat.auc_p.runs == 3


def test_another_setting_or_measurement_makes_no_repeat(results):
    found = regime_proto.compare(results, labels={"mlp-2.h5": {"batch size": "64"}})
    assert [repeat.runs for repeat in found.repeats] == [("mlp-0.h5", "mlp-1.h5")]
    found = regime_proto.compare([replace(results[0], stride=10), *results[1:]], mixed=True)
    assert [repeat.runs for repeat in found.repeats] == [("mlp-1.h5", "mlp-2.h5")]


def test_runs_without_a_program_are_no_repeats(found_in_memory):
    assert not regime_proto.compare([found_in_memory] * 2).repeats


def test_a_label_divides_the_runs(results):
    def divided(**given):
        return [(part.value, part.rho.runs) for part in regime_proto.compare(results, **given).summaries if part.by]

    assert divided() == [("MLP", 3), ("convolutional", 1)]
    assert divided(by="seed") == [("0", 1), ("1", 1), ("2", 1)]
    with pytest.raises(RegimeError, match="--by nothing: no run has this label; expected one of model, dataset, seed"):
        divided(by="nothing")


def test_published_runs_have_means_of_their_own(results):
    found = regime_proto.compare(results, reference="paper")
    assert [(part.source, part.value, part.rho.runs) for part in found.summaries[:4]] == [
        ("run", None, 4),
        ("paper", None, 18),
        ("run", "MLP", 3),
        ("paper", "MLP", 4),
    ]


@pytest.mark.parametrize("sort", compare.SORTS)
def test_rows_are_sorted(results, sort):
    rows = regime_proto.compare(results[::-1], sort=sort).rows
    key = (lambda row: row.run) if sort == "name" else (lambda row: -getattr(row, sort))
    assert list(rows) == sorted(rows, key=key)


def test_rows_keep_the_order_given(results):
    names = [row.run for row in regime_proto.compare(results[::-1]).rows]
    assert names == ["lenet.h5", "mlp-2.h5", "mlp-1.h5", "mlp-0.h5"]


def test_one_run_is_not_compared_with_itself(paths, tmp_path):
    copy = tmp_path / "copy.h5"
    copy.write_bytes(paths[0].read_bytes())
    for second in (paths[0], copy):
        with pytest.raises(RegimeError, match=f"{second.name}: the same run as .*mlp-0.h5 .run_id .*; leave one out"):
            regime_proto.compare([paths[0], second])


@pytest.mark.parametrize(
    ("given", "pattern"),
    [
        ({}, "nothing to compare: give trajectory files, or --reference paper"),
        ({"reference": "me"}, "reference 'me': expected one of paper"),
        ({"reference": "paper", "sort": "size"}, "sort 'size': expected one of rho, auc_w, auc_p, name"),
    ],
)
def test_wrong_arguments(given, pattern):
    with pytest.raises(RegimeError, match=pattern):
        regime_proto.compare(**given)


def test_files_of_one_name_are_told_by_their_paths(tmp_path):
    runs = [make_run(tmp_path / seed / "run.h5") for seed in "ab"]
    assert [row.run for row in regime_proto.compare(runs).rows] == list(map(str, runs))
    with pytest.raises(RegimeError, match=r"'run.h5': 2 of the files have this name; give their paths"):
        regime_proto.compare(runs, labels={"run.h5": {"model": "MLP"}})
    found = regime_proto.compare(runs, labels={str(runs[1]): {"model": "MLP"}})
    assert [row.labels for row in found.rows] == [{}, {"model": "MLP"}]


def test_a_table_of_labels_wins_over_the_files(paths, results, tmp_path, monkeypatch):
    monkeypatch.chdir(paths[0].parent)
    table = labelled(tmp_path, '\ufefffile,model,batch size\nmlp-0.h5,Net,\n./lenet.h5,,"1,024"\n\n')
    rows = regime_proto.compare(results, labels=table).rows
    assert rows[0].labels == {**MLP, "model": "Net", "seed": "0"}
    assert rows[1].labels == {**MLP, "seed": "1"}
    assert rows[3].labels == {**LENET, "batch size": "1,024"}


def test_labels_of_other_files_are_told(results, tmp_path):
    table = labelled(tmp_path, "file,model\nmlp-9.h5,MLP\nx.h5,MLP\n")
    [warning] = regime_proto.compare(results[:1], labels=table).warnings
    assert warning == "labels are given for files that are not compared: 'mlp-9.h5' and 1 more (nearest: 'mlp-0.h5')"


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("name,model\nmlp-0.h5,MLP\n", r"expected a column 'file' .*; found name, model"),
        ("", "expected a column 'file' .*; found nothing"),
        ("file,model\nmlp-0.h5,a\nmlp-0.h5,b\n", "row 3: a second row for 'mlp-0.h5'; leave one out"),
        ("file,model,model\nmlp-0.h5,a,b\n", "column 'model': expected a unique, non-empty name"),
        ("file,\nmlp-0.h5,a\n", "column '': expected a unique, non-empty name"),
        ("file,model\nmlp-0.h5,a,b\n", "row 2 has 3 fields, but the header has 2"),
        ('file,model\n"mlp-0.h5,a\n', "expected CSV in UTF-8, found a different format"),
    ],
)
def test_a_wrong_table_of_labels(paths, tmp_path, text, pattern):
    table = labelled(tmp_path, text)
    assert_one_line(regime("compare", paths[0], "--labels", table), f"labels.csv: {pattern}")


def test_a_table_of_labels_that_cannot_be_read(paths, results, tmp_path):
    for path in (tmp_path, tmp_path / "none.csv"):
        with pytest.raises(RegimeError, match=r"cannot be read \(.*\); expected a CSV table of labels"):
            regime_proto.compare(results[:1], labels=path)
    with pytest.raises(RegimeError, match="expected CSV in UTF-8"):
        regime_proto.compare(results[:1], labels=paths[0])


def test_two_entries_for_one_file(paths, results):
    with pytest.raises(RegimeError, match=r"mlp-0.h5.: 'mlp-0.h5' is the same file; leave one out"):
        regime_proto.compare(results[:1], labels={"mlp-0.h5": {}, str(paths[0]): {}})


def test_notes_become_labels_of_one_line():
    notes = {"a": "two\n lines", "b": np.float64(0.1), "c": b"bytes", "d": np.arange(3), "e": " ", "f": np.int32(3)}
    assert labels_of(notes) == {"a": "two lines", "b": "0.1", "c": "bytes", "f": "3"}


# The command.


def test_the_table_of_the_published_runs():
    done = regime("compare", "--reference", "paper")
    assert done.exit_code == 0, done.output
    assert done.stderr == ""
    lines = [line.split() for line in done.stdout.splitlines()]
    assert ["model", "dataset", "optimizer", "epochs", "AUC_W", "AUC_P", "ρ"] in lines
    assert ["GPT-2", "WikiText", "AdamW", "6", "0.97", "0.08", "12.00"] in lines
    assert ["published", "18", "3.85", "+6.43", "−2.04", "2.72"] in lines
    assert "family, weight_decay, learning_rate, validation_score: do not fit, -v shows all" in done.stdout
    everything = regime("compare", "--reference", "paper", "-v")
    assert "do not fit" not in everything.stdout


def test_the_table_of_runs(paths, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    done = regime("compare", *paths)
    assert done.exit_code == 0, done.output
    for word in ("4 runs", "stride 1 step, preset paper", "LeNet_5", "convolutional", "repeated runs", "these runs"):
        assert word in done.stdout
    assert "lenet.h5" not in done.stdout
    beside = regime("compare", paths[3], "--reference", "paper").stdout
    for word in ("lenet.h5", "PyramidViT on TinyImageNet (paper)", "1 run and 18 published runs"):
        assert word in beside


def test_a_run_without_labels_has_its_file_name(paths, tmp_path):
    bare = make_run(tmp_path / "bare [bold].h5", observations_per_epoch=6.0)
    done = regime("compare", bare, paths[3]).stdout
    assert "bare [bold].h5" in done
    assert "lenet.h5" in done


def test_json_is_one_object(paths, tmp_path):
    rough = make_run(tmp_path / "rough.h5")
    done = regime("compare", paths[0], rough, "--reference", "paper", "--json", "--quiet")
    assert done.stderr == ""
    found = json.loads(done.stdout)
    assert found == json.loads(json.dumps(regime_proto.compare([paths[0], rough], reference="paper").to_json()))
    assert found["json_version"] == 1
    assert found.keys() == {"json_version", "runs", "summaries", "repeats", "is_mixed", "warnings"}
    assert len(found["runs"]) == 20
    assert found["runs"][0]["labels"]["seed"] == "0"
    assert found["runs"][-1]["rho_range"] is None


def test_csv_holds_every_digit(results):
    found = regime_proto.compare(results, labels={"lenet.h5": {"rho": "a name that is taken"}})
    table = pd.read_csv(io.StringIO(FORMATS["csv"](found)))
    assert table.rho.tolist() == pytest.approx([row.rho for row in found.rows], rel=1e-15)
    assert table.rho_high.tolist() == pytest.approx([row.rho_range[1] for row in found.rows], rel=1e-15)
    assert table.label_rho.tolist()[3] == "a name that is taken"
    assert table.seed.tolist()[:3] == [0, 1, 2]


def test_markdown_and_latex_are_escaped(results):
    odd = {"lenet.h5": {"model": r"a|b_c*d", "optimizer": "50% {x}^2 ~ \\y # $1"}}
    found = regime_proto.compare(results, labels=odd)
    in_markdown = to_markdown(found)
    assert r"a\|b\_c\*d" in in_markdown
    widths = {line.replace(r"\|", "").count("|") for line in in_markdown.splitlines() if line.startswith("|")}
    assert len(widths) == 1
    in_latex = to_latex(found)
    assert r"MNIST \& co" in in_latex
    assert r"50\% \{x\}\textasciicircum{}2 \textasciitilde{} \textbackslash{}y \# \$1" in in_latex
    columns = in_latex.split(r"\begin{tabular}{")[1].split("}")[0]
    rows = [line for line in in_latex.splitlines() if line.endswith(r"\\") and "multicolumn" not in line]
    assert {line.replace(r"\&", "").count("&") for line in rows} == {len(columns) - 1}
    assert len(rows) == 5
    assert rf"\multicolumn{{{len(columns)}}}{{l}}{{4 runs: mean $\rho$" in in_latex
    assert all(ord(letter) < 128 for letter in in_latex)


def test_values_are_written_as_in_the_paper():
    found = regime_proto.compare(reference="paper")
    assert "| RoBERTa | AG News | AdamW | transformer | 1e-2 | 2e-5 | 0.92 | 5 | 0.77 | 0.22 | 3.50 |" in to_markdown(
        found
    )
    assert r"18 runs of Table II: mean $\rho$ 3.85 (+6.43, $-$2.04), median 2.72" in to_latex(found)


@pytest.mark.parametrize("form", FORMATS)
def test_a_table_goes_to_a_file_or_to_standard_output(tmp_path, form):
    expected = FORMATS[form](regime_proto.compare(reference="paper"))
    arguments = ("compare", "--reference", "paper", "--to", form)
    assert regime(*arguments).stdout == expected
    output = tmp_path / "new" / "table"
    done = regime(*arguments, "-o", output)
    assert (done.stdout, done.stderr) == ("", f"wrote {output}\n")
    assert output.read_text(encoding="utf-8") == expected
    output.write_text("mine")
    assert_one_line(regime(*arguments, "-o", output), "table: exists and differs; replace it with --overwrite")
    assert regime(*arguments, "-o", output, "--overwrite").exit_code == 0


def test_other_uses_are_one_line(paths, tmp_path):
    assert_one_line(regime("compare"), "nothing to compare: give trajectory files")
    assert_one_line(regime("compare", tmp_path), "a directory; expected a trajectory file: create one with")
    assert_one_line(regime("compare", paths[0].parent), r"a directory of trajectories; expected files: give .*/\*\.h5$")
    assert_one_line(regime("compare", tmp_path / "none.h5"), "none.h5: no such file or directory")
    assert_one_line(regime("compare", paths[0], paths[0]), "the same run as .*mlp-0.h5")
    assert_one_line(
        regime("compare", paths[0], "-o", tmp_path / "x"), "the format is missing; give --to csv, markdown or"
    )
    assert_one_line(regime("compare", paths[0], "--json", "--to", "csv"), "--json and --to csv: cannot be combined")
    taken = regime("compare", *paths, "--to", "csv", "-o", paths[2], "--overwrite")
    assert_one_line(taken, "mlp-2.h5: an input of this command; choose another output")


def test_the_command_offers_what_the_library_does():
    choices = {parameter.name: parameter.type for parameter in main.commands["compare"].params}
    assert tuple(choices["sort"].choices) == compare.SORTS
    assert tuple(choices["reference"].choices) == compare.REFERENCES
    assert tuple(choices["form"].choices) == tuple(FORMATS)


def test_the_table_is_csv_that_a_spreadsheet_reads(paths):
    rows = list(csv.DictReader(io.StringIO(regime("compare", paths[0], "--reference", "paper", "--to", "csv").stdout)))
    assert [row["source"] for row in rows] == ["run"] + ["paper"] * 18
    assert rows[1]["rho_low"] == ""


@pytest.mark.parametrize("label", [None, "model"])
@pytest.mark.parametrize("width", [80, 100])
def test_long_names_do_not_wrap_and_stay_apart(tmp_path, monkeypatch, label, width):
    monkeypatch.setenv("COLUMNS", str(width))
    names = [
        f"hf-EleutherAI-pythia-{size}-deduped-v0@step-star.every20.gates-kind-all" for size in ("70m", "160m", "1b")
    ]
    paths = [tmp_path / f"{name}.regime.h5" for name in names]
    for seed, path in enumerate(paths):
        regime_proto.synthetic.trajectory(steps=30, units=64, noise=0.1, seed=seed, path=path)
    given = []
    if label is not None:
        rows = [f"{path.name},hf://EleutherAI/{name}" for path, name in zip(paths, names, strict=True)]
        given = ["--labels", labelled(tmp_path, "\n".join(["file,model", *rows]) + "\n")]
    done = regime("compare", *paths, *given, "--resamples", "0")
    table = done.stdout.partition("\nrun " if label is None else "\nmodel ")[2].split("\n\n")[0].splitlines()[1:4]
    firsts = [line.split("  ")[0] for line in table]
    assert len({*firsts}) == 3
    assert all("…" in first and size in first for first, size in zip(firsts, ("70m", "160m", "1b"), strict=True))
    assert max(map(len, done.stdout.splitlines())) <= width
    assert "…: names are shortened to fit, -v shows all" in done.stdout
    monkeypatch.setenv("COLUMNS", "300")
    assert names[0] in regime("compare", *paths, *given, "--resamples", "0").stdout


def test_a_run_on_a_stand_in_is_named_as_one_next_to_published_runs(paths, tmp_path):
    table = labelled(tmp_path, f"file,dataset\n{paths[0].name},motion (stand-in for HAR)\n{paths[1].name},HAR\n")
    warned = "trained on a stand-in, not on the published data set, so no published run is reproduced: "
    found = regime_proto.compare(paths[:2], labels=table, reference="paper")
    assert f"{warned}{paths[0].name} (motion (stand-in for HAR))" in found.warnings
    alone = regime_proto.compare(paths[:2], labels=table)
    assert not any("stand-in" in text for text in alone.warnings)


def test_a_comparison_shows_its_table(paths):
    found = regime_proto.compare(paths, reference="paper", resamples=0)
    lines = repr(found).split("\n")
    assert lines[0] == f"{len(paths)} runs and 18 published runs (the paper's Table II)"
    assert lines[1].split()[-3:] == ["AUC_P", "ρ", "range"]
    assert [line for line in lines if line.startswith("… model, dataset, ") and line.endswith(": in .rows")]
    # Title, headings, hidden labels, what settled first.
    assert len(lines) == 4 + len(found.rows) + len(found.summaries) + len(found.warnings)
    page = found._repr_html_()
    assert page.count("<tr>") == 1 + len(found.rows)
    assert "mean ρ" in page
