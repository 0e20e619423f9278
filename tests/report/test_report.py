"""Pages: what figures hold is what the analysis found."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import plotly.graph_objects as graph
import pytest
from commands import assert_one_line, regime
from pages import plots_of
from trajectories import QUANTITIES
from trajectories import write as write_trajectory

import regime_proto
from regime_proto.analyzer.settings import AnalysisSettings
from regime_proto.analyzer.stages import labels_in
from regime_proto.report.binning import bin_edges, bin_means
from regime_proto.report.page.page import chapter, report
from regime_proto.report.view import read_view
from regime_proto.schema.errors import RegimeError


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    paths = []
    for seed, (weights, patterns) in enumerate([("linear", "exponential"), ("hyperbolic", "linear")]):
        paths.append(folder / f"run{seed}.h5")
        regime_proto.synthetic.trajectory(
            weights=weights, patterns=patterns, steps=300, layers=5, samples=6, units=64, noise=0.2, seed=seed,
            observations_per_epoch=20, path=paths[-1],
        )  # fmt: skip
    return paths


@pytest.fixture(scope="module")
def full_run(tmp_path_factory):
    """A file with everything that the format has: metrics, distance, two planes, names that are not plain."""
    return write_trajectory(tmp_path_factory.mktemp("full") / "full.h5", count=40)


def test_every_figure_is_one_that_plotly_knows_and_has_a_name_and_a_table(runs, full_run):
    page = report([runs[0], runs[1], full_run])
    plots = plots_of(page)
    # The full one has quantities, of which one has no map.
    assert len(plots) == 2 + 3 * 10 + 2 * len(QUANTITIES) - 1
    for plot in plots.values():
        graph.Figure(plot["traces"], plot["layout"])
        assert plot["traces"]
    for name in plots:
        assert re.search(rf'id="{name}-plot" role="group" aria-label="[^"]{{30,}}"', page)
        assert page.count(f'<section class="figure" id="{name}"') == 1
    assert page.count('<details class="data">') == len(plots)


def test_the_caption_of_a_quantity_agrees_with_its_curve(mlp_run, tmp_path):
    path = regime_proto.convert(mlp_run, tmp_path / "run.h5", measure="weight_norm_l2", noise="none")
    result = regime_proto.analyze(path, resamples=0)
    values = result.curves["quantity_weight_norm_l2"].to_numpy()
    start = result.quantities["weight_norm_l2"].first
    assert start != values[0]
    ends = f"From {values[0]:.3g} to {values[-1]:.3g}. At the first observation, before the curve begins: {start:.3g}."
    assert ends in report([path])


def test_labels_of_the_run_stand_below_its_curves(mlp_run, tmp_path):
    path = regime_proto.convert(mlp_run, tmp_path / "run.h5", measure="fingerprint_cosine", noise="none")
    page = report([path])
    labels = labels_in(regime_proto.analyze(path).curves)
    [raw] = [plot for name, plot in plots_of(page).items() if name.endswith("raw")]
    marks = next(trace for trace in raw["traces"] if trace["name"] == "label")
    assert marks["text"] == [label for label in labels.labels if label]
    assert len(set(marks["text"])) == 3
    assert f"{labels.share('STABLE'):.0%} STABLE" in page
    assert "the 70th and the 30th percentile of this run, which fix these shares by construction" in page


def test_without_fingerprints_there_are_no_labels(runs):
    page = report(runs[:1])
    assert "STABLE" not in page
    [raw] = [plot for name, plot in plots_of(page).items() if name.endswith("raw")]
    assert all(trace["name"] != "label" for trace in raw["traces"])


def test_figures_hold_what_the_analysis_found(runs):
    page = report(runs[:1], preset="strict")
    plots = plots_of(page)
    result = regime_proto.analyze(runs[0], preset="strict")
    weights, patterns = plots["r0-curves"]["traces"][:2]
    assert weights["x"] == result.curves["step"].values.tolist()
    for trace, name in ((weights, "weight"), (patterns, "pattern")):
        drawn = np.array(trace["y"], float)
        np.testing.assert_allclose(drawn, result.curves[f"{name}_normalised"], rtol=1e-4)
    markers = plots["r0-curves"]["traces"][2:]
    crossings = [step for threshold in result.thresholds for step in (threshold.step_w, threshold.step_p)]
    assert [marker["x"][0] for marker in markers] == [step for step in crossings if step is not None]
    assert "“same” pads the ends with zeros" in page
    dots = plots["r0-readings"]["traces"][0]["x"]
    np.testing.assert_allclose(sorted(dots), sorted(result.readings.values()), rtol=1e-4)
    np.testing.assert_allclose(plots["r0-areas"]["traces"][0]["y"], [one.auc_p for one in result.layers], rtol=1e-4)
    layers = np.array(plots["r0-layers"]["traces"][0]["z"])
    edges = bin_edges(300, 200)
    np.testing.assert_allclose(layers.T, bin_means(result.curves["layer_pattern_change"].values, edges), rtol=1e-3)
    samples = np.array(plots["r0-samples"]["traces"][0]["z"])
    np.testing.assert_allclose(samples.mean(axis=0), layers.mean(axis=0), rtol=1e-3)
    assert f"{result.rho:.2f}" in page
    interval = result.uncertainty.course.rho
    assert f"{interval.low:.3f} – {interval.high:.3f}" in page


def test_metrics_distance_and_warnings_stand_on_the_page(full_run):
    page = report([full_run])
    traces = plots_of(page)["r0-raw"]["traces"]
    assert {"distance from the start", "loss"} <= {trace["name"] for trace in traces}
    loss = next(trace for trace in traces if trace["name"] == "loss")
    np.testing.assert_allclose(loss["y"], 1 / np.arange(1, 41), rtol=1e-4)
    for warning in regime_proto.analyze(full_run).warnings:
        assert warning in page
    assert "<td>program_sha256" not in page
    assert '<th scope="row">program_sha256</th>' in page


def test_a_run_without_masks_or_metrics_says_so(tmp_path):
    path = tmp_path / "run.h5"
    write_trajectory(path, policy="none", metrics=(), count=30)
    page = report([path], resamples=0)
    assert "Fewer than two masks are stored" in page
    assert "no loss or score" in page
    assert "no resamples were requested" in page
    assert not {"r0-strides", "r0-agreement", "r0-units"} & set(plots_of(page))


def test_names_in_a_file_are_text_and_nothing_else(tmp_path):
    nasty = '</script><img src=x onerror=alert(1)><b>"quoted"</b>'
    from dataclasses import replace

    from trajectories import LAYERS, header

    head = header(layers=(replace(LAYERS[0], name=nasty, path=nasty), LAYERS[1]), metrics=("loss", nasty))
    page = report([write_trajectory(tmp_path / "<i>run.h5", head=head, count=30)])

    class Tags(HTMLParser):
        def __init__(self):
            super().__init__()
            self.found = set()

        def handle_starttag(self, tag, attributes):
            self.found.add(tag)

    parser = Tags()
    parser.feed(page)
    assert not {"img", "b", "i"} & parser.found
    for plot in plots_of(page).values():
        assert "<img" not in json.dumps(plot)


def test_steps_restrict_every_figure(runs):
    view = read_view(runs[0], AnalysisSettings(steps="100:200"))
    assert (view.steps[0], view.steps[-1]) == (101, 200)
    assert view.patterns.steps.min() == 100
    assert view.patterns.steps.max() == 200
    assert len(chapter(view).figures) == 10


def test_a_page_of_a_long_run_is_thinned_and_says_how(tmp_path, runs):
    path = tmp_path / "long.h5"
    regime_proto.synthetic.trajectory(steps=5000, layers=1, samples=2, units=8, noise=0.3, path=path)
    page = report([path], resamples=0)
    plots = plots_of(page)
    assert len(plots["r0-curves"]["traces"][0]["x"]) <= 2002
    assert "the smallest and the largest of every 5 values; all numbers use all 5,000" in page
    assert len(plots["r0-layers"]["traces"][0]["z"][0]) == 200
    assert "A column is the mean over 25.0 changes" in page
    assert "The curves show the smallest" not in report(runs[:1])


def test_bin_means_are_means_without_nan():
    values = np.array([1.0, np.nan, 3.0, np.nan, np.nan, 8.0])
    np.testing.assert_array_equal(bin_means(values, np.array([0, 3, 5, 6])), [2.0, np.nan, 8.0])
    assert bin_edges(3, 10).tolist() == [0, 1, 2, 3]


def test_what_cannot_be_read_is_told_in_one_line(tmp_path):
    (tmp_path / "junk.h5").write_bytes(b"junk")
    with pytest.raises(RegimeError, match=r"junk\.h5: expected a trajectory, which is an HDF5 file"):
        report([tmp_path / "junk.h5"])
    with pytest.raises(RegimeError, match="no run given"):
        report([])
    assert Path(tmp_path / "junk.h5").read_bytes() == b"junk"


def test_runs_whose_files_have_one_name_are_told_apart(tmp_path):
    paths = [tmp_path / seed / "run.h5" for seed in "ab"]
    for path in paths:
        path.parent.mkdir()
        regime_proto.synthetic.trajectory(steps=20, path=path)
    page = report(paths, resamples=0)
    for path in paths:
        assert f"<h2>{path}</h2>" in page


def test_the_command_takes_care_of_what_is_there_and_says_what_the_page_warns_of(runs, full_run, tmp_path):
    page, run = tmp_path / "page.html", tmp_path / "run.h5"
    run.write_bytes(Path(full_run).read_bytes())
    done = regime("report", runs[0], run, "-o", page)
    assert done.exit_code == 0, done.output
    assert "differ in stride" in done.stderr
    assert "18 published runs (stride 1 step)" in done.stderr
    assert "differ in stride" in page.read_text(encoding="utf-8")
    assert_one_line(regime("report", runs[0], "-o", tmp_path / "page.pdf"), "expected a file name that ends with .html")
    table = regime("compare", runs[0], "--to", "csv", "-o", run, "--overwrite")
    assert_one_line(
        table, "run.h5: expected text, found an HDF5 file, which may be a trajectory or a checkpoint; it is not"
    )
    assert_one_line(regime("report", run, "-o", page, "--labels", page, "--overwrite"), "an input of this command")
    assert run.read_bytes() == Path(full_run).read_bytes()


def test_the_page_shows_notes_of_the_author_and_names_a_stand_in(mlp_run, tmp_path):
    notes = {"dataset": "motion <b> (stand-in for HAR)", "seed": 3}
    page = report([regime_proto.convert(mlp_run, tmp_path / "run.h5", notes=notes, noise="none")])
    assert "motion &lt;b&gt; (stand-in for HAR)</td>" in re.sub(r"</?code>", "", page)
    assert "so no published run is reproduced: run.h5 (motion &lt;b&gt; (stand-in for HAR))" in page
    assert page.count("note by the author") == len(notes)
