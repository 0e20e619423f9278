"""Figures for print."""

import io
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from dataclasses import replace

import children
import h5py
import matplotlib
import numpy as np
import pytest
from commands import assert_one_line, regime
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from matplotlib.colors import to_hex
from PIL import Image
from runs import LENET, make_run

import regime_proto
from regime_proto.analyzer.settings import AnalysisSettings
from regime_proto.cli.main import main
from regime_proto.report.print import metrics, style
from regime_proto.report.print.drawn import read_run
from regime_proto.report.print.figure import figure, image
from regime_proto.report.print.panels import LAYERS, mean_between
from regime_proto.report.thinning import extremes
from regime_proto.schema.epochs import epochs_at
from regime_proto.schema.errors import RegimeError
from regime_proto.schema.validation import trust

STEPS = 30
CURVES = AnalysisSettings(resamples=0)
NAN = np.nan


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A run with metrics, one of them logged now and then. Read only."""
    path = tmp_path_factory.mktemp("plot") / "run.h5"
    make_run(path, noise=0.1, observations_per_epoch=6.0, notes={**LENET, "model": "Le$Net_5$"})
    losses = np.linspace(1, 0.1, STEPS + 1)
    with h5py.File(path, "r+") as file:
        for name, values in {"loss": losses, "val_acc": np.where(np.arange(STEPS + 1) % 10, NAN, 1 - losses)}.items():
            variable = file.create_dataset(f"metric_{name}", data=values, chunks=(STEPS + 1,), maxshape=(None,))
            variable.attrs.update({"long_name": name, "units": "1"})
            variable.dims[0].attach_scale(file["step"])
    trust.record(path)
    return path


@pytest.fixture(scope="module")
def run(path):
    return read_run(path, CURVES)


@pytest.fixture(scope="module")
def bare(run):
    """The like of another run, without metrics and epochs."""
    return replace(run, name="bare", metrics={}, epochs=None, layers=run.layers[:, :1])


@pytest.fixture(scope="module")
def files(run):
    """The figure of the run, in every kind of file."""
    return {form: image([run], form, dpi=100) for form in style.FORMATS}


def lines(axes, marker="None"):
    return [line for line in axes.lines if line.get_marker() == marker]


def texts(drawn):
    return [text.get_text() for text in drawn.findobj(matplotlib.text.Text) if text.get_text()]


# Thinning.

curves = hnp.arrays(np.float64, st.integers(1, 300), elements=st.one_of(st.floats(-5, 5), st.just(NAN)))


@given(values=curves, bins=st.integers(1, 40))
def test_thinning_keeps_ends_extremes_and_gaps(values, bins):
    steps = np.arange(len(values)) * 3 + 1
    where, kept = extremes(steps, values, bins)
    assert (where[0], where[-1]) == (steps[0], steps[-1])
    assert (np.diff(where) > 0).all()
    np.testing.assert_array_equal(kept, values[(where - 1) // 3])
    known = np.isfinite(values)
    if known.any():
        assert np.nanmin(kept) == np.nanmin(values)
        assert np.nanmax(kept) == np.nanmax(values)
    # As many pieces of line as before, with the same ends.
    assert pieces(where, kept) == pieces(steps, values)


def pieces(steps, values):
    known = np.concatenate([[False], np.isfinite(values), [False]])
    turns = np.flatnonzero(known[1:] != known[:-1])
    return [(steps[begin], steps[end - 1]) for begin, end in turns.reshape(-1, 2)]


def test_thinning_finds_the_extremes_of_every_bin():
    values = np.sin(np.arange(10_000) ** 2)
    _, kept = extremes(np.arange(10_000), values, 100)
    assert len(kept) <= 202
    for part in np.split(values, 100):
        assert {part.min(), part.max()} <= set(kept)


def test_few_points_are_kept_as_they_are():
    steps, values = np.arange(20), np.random.default_rng(0).random(20)
    assert extremes(steps, values, 10)[1] is values


# Axes.


@pytest.mark.parametrize(
    ("steps", "epochs", "kind", "batches", "stored", "expected"),
    [
        ([0, 1, 2], [0, 0.5, 1], "step", None, None, [0, 0.5, 1]),
        ([0, 10, 20], [NAN] * 3, "step", 20, None, [0, 0.5, 1]),
        ([0, 1, 2], [0, 0.5, 1], "step", 1, None, [0, 1, 2]),
        ([2, 4, 6], [NAN] * 3, "step", None, 4.0, [0.25, 0.5, 0.75]),
        (range(8), [0, 0, 1, 1, 2, 2, 3, 3], "step", None, None, np.arange(8) / 2),
        ([0, 1, 2], [NAN, 0.5, 1], "step", None, None, [0, 0.5, 1]),
        ([1, 2, 3], [NAN, 0.5, 1], "step", None, None, None),
        ([1, 2, 4], [NAN] * 3, "epoch", None, None, [1, 2, 4]),
        ([0, 1, 2], [NAN] * 3, "ordinal", None, None, None),
        ([0, 1, 2], [NAN] * 3, "step", None, None, None),
    ],
)
def test_every_observation_has_an_epoch_of_its_own(steps, epochs, kind, batches, stored, expected):
    found = epochs_at(np.array(steps), np.array(epochs, float), kind, batches, stored)
    if expected is None:
        assert found is None
    else:
        np.testing.assert_allclose(found, expected)


def test_means_of_a_map_weigh_intervals_by_their_length():
    at, values = np.array([0.0, 1.0, 4.0, 6.0]), np.array([3.0, 1.0, NAN])
    np.testing.assert_allclose(mean_between(np.array([0.0, 2.0, 3.0, 5.0, 6.0]), at, values), [2.0, 1.0, 1.0, NAN])


@pytest.mark.parametrize(
    ("asked", "there", "expected"),
    [
        ((), ("lr", "loss", "eval_loss", "third_loss", "val_acc"), (("loss", "eval_loss"), ("val_acc",))),
        ((), ("lr",), ((), ())),
        (("lr", "loss"), ("lr", "loss", "acc"), (("loss",), ("lr",))),
    ],
)
def test_losses_and_scores_are_told_by_their_names(asked, there, expected):
    assert metrics.choose(asked, there) == expected


# What is drawn.


def test_the_figure_holds_the_curves_of_the_analysis(path, run):
    result = regime_proto.analyze(path)
    drawn = figure([run])
    curves, loss, score = drawn.axes
    weights, patterns = lines(curves)
    np.testing.assert_array_equal(weights.get_ydata(), result.curves["weight_normalised"].to_numpy())
    np.testing.assert_array_equal(patterns.get_ydata(), result.curves["pattern_normalised"].to_numpy())
    np.testing.assert_allclose(weights.get_xdata(), np.arange(1, STEPS + 1) / 6)
    assert [to_hex(line.get_color()).upper() for line in (weights, patterns)] == ["#0072B2", "#D55E00"]
    assert weights.get_linestyle() != patterns.get_linestyle()
    assert len(curves.collections) == 2
    np.testing.assert_allclose(lines(loss)[0].get_ydata(), np.linspace(1, 0.1, STEPS + 1))
    [scores] = lines(score, ".")
    np.testing.assert_allclose(scores.get_xdata(), [0, 10 / 6, 20 / 6, 5])
    assert f"$\\rho$ = {result.rho:.2f}, AUC$_W$ {result.auc_w:.2f}, AUC$_P$ {result.auc_p:.2f}" in texts(drawn)
    assert {"epoch", "normalised change", "loss", "score", "weights", "patterns", "val_acc"} <= set(texts(drawn))


def test_thresholds_are_marked_where_the_analysis_finds_them(run):
    curves = figure([run]).axes[0]
    for marker, name in (("o", "step_w"), ("s", "step_p")):
        found = [(line.get_xdata()[0] * 6, line.get_ydata()[0]) for line in lines(curves, marker)]
        expected = [(getattr(t, name), t.tau) for t in run.result.thresholds if getattr(t, name) is not None]
        assert expected
        np.testing.assert_allclose(found, expected)


def test_an_interval_that_is_not_known_is_a_gap(path, tmp_path):
    spoiled = make_run(tmp_path / "gap.h5", values={"valid": np.arange(STEPS + 1) != 12})
    run = read_run(spoiled, CURVES)
    assert np.flatnonzero(np.isnan(run.weights)).tolist() == [11, 12]
    assert np.isfinite(run.patterns).sum() == STEPS - 2
    assert run.epochs is None
    assert run.steps.tolist() == list(range(STEPS + 1))
    assert read_run(path, AnalysisSettings(steps="5:20", resamples=0)).steps.tolist() == list(range(5, 21))


@pytest.mark.parametrize("layers", [None, "map"])
def test_the_axes_reach_over_all_runs(run, layers):
    twice = replace(run, epochs=run.epochs * 2)
    for runs in ([run, twice], [twice, run]):
        for axes in figure(runs, layers=layers).axes[: 6 + 2 * bool(layers)]:
            assert axes.get_xlim() == pytest.approx((-0.2, 10.2))


def test_several_runs_have_the_same_axes(run, bare):
    late = replace(bare, name="late", steps=run.steps + 100)
    drawn = figure([run, bare, late])
    names = {"normalised change", "loss", "score", "step", "not recorded", "bare"}
    assert names < {line for text in texts(drawn) for line in text.split("\n")}
    visible = [axes for axes in drawn.axes if axes.axison]
    assert len(visible) == 9
    assert len({axes.get_xlim() for axes in visible}) == 1
    assert len({axes.get_ylim() for axes in visible if axes.get_ylim()[1] == 1.03}) == 1
    assert drawn.axes[0].get_title(loc="left").startswith("Le\\$Net_5\\$, MNIST & co\n")


def test_different_strides_are_told(run, bare):
    tenth = replace(bare, result=replace(bare.result, stride=10))
    titles = [axes.get_title(loc="left").replace("\n", " ") for axes in figure([run, tenth], columns=2).axes]
    assert [title.split(r" $\rho$")[0].rpartition(", ")[2] for title in titles[:2]] == ["stride 1", "stride 10"]
    assert not [text for text in texts(figure([run, bare])) if "stride" in text]


@pytest.mark.parametrize("layers", LAYERS)
def test_layers_are_drawn(run, bare, layers):
    drawn = figure([run, bare], layers=layers, columns=2)
    panel, other = drawn.axes[2:4]
    if layers == "curves":
        np.testing.assert_array_equal([line.get_ydata() for line in panel.lines], run.layers.T)
        assert len(other.lines) == 1
    else:
        shown = panel.images[0]
        np.testing.assert_allclose(shown.get_array(), run.layers.T, atol=1e-12)
        assert shown.get_extent() == [0, STEPS, 2.5, 0.5]
        assert other.get_ylim() == (1.5, 0.5)


def test_an_undefined_curve_is_left_out(run):
    flat = replace(run, patterns=np.full(STEPS, NAN), result=replace(run.result, rho=NAN, auc_p=NAN))
    assert "$\\rho$ = –" in figure([flat]).axes[0].get_title(loc="left")
    assert image([flat], "png", dpi=50)


# Files.


def test_a_pdf_has_embedded_fonts_and_no_type_3(files):
    content = files["pdf"]
    assert content.startswith(b"%PDF-")
    assert b"/FontFile2" in content
    assert b"/CIDFontType2" in content
    assert b"/Type3" not in content
    assert b"CreationDate" not in content
    width = float(re.search(rb"/MediaBox \[ 0 0 ([\d.]+) ", content)[1])
    assert width == pytest.approx(3.5 * 72)


def test_an_svg_keeps_its_text(files):
    root = ET.fromstring(files["svg"])
    name = "{http://www.w3.org/2000/svg}text"
    found = {"".join(text.itertext()).strip() for text in root.iter(name)}
    assert {"weights", "patterns", "normalised change", "epoch"} <= found
    assert root.get("width") == f"{3.5 * 72:g}pt"
    assert b"dc:date" not in files["svg"]


@pytest.mark.parametrize(("columns", "dpi", "width"), [(1, 50, 175), (2, 100, 716)])
def test_a_png_is_as_wide_as_its_columns(run, columns, dpi, width):
    with Image.open(io.BytesIO(image([run], "png", columns=columns, dpi=dpi))) as picture:
        assert picture.width == width
        assert picture.info["dpi"][0] == pytest.approx(dpi, rel=1e-3)


DRAWING = """
import sys
from pathlib import Path
from regime_proto.analyzer.settings import AnalysisSettings
from regime_proto.report.print.drawn import read_run
from regime_proto.report.print.figure import image, plot
run = read_run(sys.argv[1], AnalysisSettings(resamples=0))
plot(sys.argv[1], f"{sys.argv[2]}/again.png", dpi=100)
for form in ("pdf", "svg"):
    Path(f"{sys.argv[2]}/again.{form}").write_bytes(image([run], form))
assert not {"matplotlib.pyplot", "torch", "tkinter"} & set(sys.modules)
"""


def test_the_same_run_gives_the_same_bytes_without_a_window(path, files, tmp_path):
    subprocess.run([sys.executable, "-c", DRAWING, path, tmp_path], check=True)
    assert {form: (tmp_path / f"again.{form}").read_bytes() for form in style.FORMATS} == files


def test_settings_of_the_user_count_for_nothing_and_stay(run, files):
    settings = {"lines.linewidth": 5, "font.size": 30, "svg.fonttype": "path", "savefig.bbox": "tight"}
    with matplotlib.rc_context(settings):
        assert image([run], "svg", dpi=100) == files["svg"]
        assert all(matplotlib.rcParams[name] == value for name, value in settings.items())


def test_a_long_run_makes_a_small_file(run):
    count = 100_000
    random = np.random.default_rng(0)
    long = replace(
        run, steps=np.arange(count + 1), epochs=None, weights=random.random(count), patterns=random.random(count),
        layers=random.random((count, 3)), metrics={"loss": random.random(count + 1)},
        result=replace(run.result, thresholds=()),
    )  # fmt: skip
    assert len(image([long], "pdf", layers="curves")) < 300_000


# The command, and what is refused.


def test_the_command_writes_what_python_does(path, tmp_path):
    output = tmp_path / "new" / "figure.svg"
    done = regime("plot", path, "-o", output, "--preset", "strict", "--columns", "2", "--metric", "loss")
    assert done.exit_code == 0, done.output
    assert (done.stdout, done.stderr) == ("", f"wrote {output}\n")
    assert output.read_bytes() == image(
        [read_run(path, AnalysisSettings("strict", resamples=0))], "svg", columns=2, metrics=["loss"]
    )
    output.write_text("mine")
    assert_one_line(regime("plot", path, "-o", output, "--overwrite"), "expected an SVG figure, found text; it is not")
    output.write_text("<svg>mine</svg>")
    refused = regime("plot", path, "-o", output)
    assert_one_line(refused, "figure.svg: exists and differs; replace it with --overwrite")
    assert regime("plot", path, "-o", output, "--overwrite", "--quiet").stderr == ""


def test_other_uses_are_one_line(path, tmp_path):
    output = tmp_path / "figure.pdf"
    for name in ("figure.jpg", "figure"):
        assert_one_line(
            regime("plot", path, "-o", tmp_path / name), "expected a file name that ends with one of .pdf, .svg, .png"
        )
    assert_one_line(regime("plot", tmp_path, "-o", output), "a directory; expected a trajectory file")
    assert_one_line(regime("plot", tmp_path / "none.h5", "-o", output), "none.h5: no such file or directory")
    unknown = regime("plot", path, "-o", output, "--metric", "bleu")
    assert_one_line(unknown, "metric 'bleu': no run has it; expected one of loss, val_acc")
    assert not output.exists()


@pytest.mark.parametrize(
    ("count", "given", "pattern"),
    [
        (0, {}, "nothing to draw: give trajectory files"),
        (1, {"columns": 3}, "columns 3: expected one of 1, 2"),
        (1, {"layers": "all"}, "layers 'all': expected one of curves, map"),
        (
            20,
            {},
            r"the figure would be \d+\.\d inches high, a page is 9.5: give fewer runs, or draw it two columns wide",
        ),
        (99, {"columns": 2}, "a page is 9.5: give fewer runs$"),
    ],
)
def test_what_cannot_be_drawn(run, count, given, pattern):
    with pytest.raises(RegimeError, match=pattern):
        figure([run] * count, **given)


def test_runs_that_count_different_things(bare):
    counted = replace(bare, result=replace(bare.result, step_kind="ordinal"))
    assert figure([counted]).axes[-1].get_xlabel() == "checkpoint"
    with pytest.raises(RegimeError, match="the runs count in steps and ordinals, which have no common axis"):
        figure([bare, counted])


def test_more_metrics_than_can_be_told_apart():
    names = ("a_loss", "b_loss", "c_loss")
    with pytest.raises(RegimeError, match="metrics a_loss, b_loss, c_loss: one panel shows at most 2 losses"):
        metrics.choose(names, names)


def test_a_missing_matplotlib_says_what_to_install(path, tmp_path):
    code = f"""
import sys
sys.modules["matplotlib"] = None
from regime_proto.cli.main import main
main(["plot", {str(path)!r}, "-o", {str(tmp_path / "x.pdf")!r}])
"""
    done = children.run(code)
    assert done.returncode == 1
    assert done.stderr.strip() == 'error: figures need matplotlib: pip install "regime-proto[report]"'


def test_the_command_offers_what_the_library_does():
    choices = {parameter.name: parameter.type for parameter in main.commands["plot"].params}
    assert tuple(choices["layers"].choices) == LAYERS
    assert tuple(map(int, choices["columns"].choices)) == tuple(style.WIDTHS)
