"""What a result shows of itself, and draws."""

import subprocess
import sys

import pytest
from PIL import Image
from runs import LENET, make_run, synthetic

import regime_proto
from regime_proto.analyzer.verdict import verdict


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("run") / "run <b>.h5", noise=0.1, observations_per_epoch=6.0, notes=LENET)


@pytest.fixture(scope="module")
def result(path):
    return regime_proto.analyze(path, resamples=20)


def test_a_prompt_shows_the_numbers_and_what_they_say(result):
    lines = repr(result).split("\n")
    assert lines[0] == result.trajectory
    assert lines[1] == "31 observations to step 30, stride 1, smoothed over 2, preset paper"
    assert lines[2].split()[:2] == ["ρ", f"{result.rho:.2f}"]
    assert verdict(result) in lines
    assert len(lines) < 20


def test_a_notebook_shows_the_same_and_the_curves(result):
    page = result._repr_html_()
    assert f"{result.rho:.2f}" in page
    assert "run &lt;b&gt;.h5" in page
    assert "<b>" not in page
    assert page.count("<polyline") == 2
    assert len(page) < 20_000


def test_many_layers_are_counted(tmp_path):
    regime_proto.synthetic.trajectory(steps=30, layers=9, units=8, path=tmp_path / "run.h5")
    assert "… and 3 layers more, in .layers" in repr(regime_proto.analyze(tmp_path / "run.h5", resamples=0))


def test_warnings_are_shown():
    found = regime_proto.analyze(synthetic(steps=10), resamples=0)
    assert f"warnings: {found.warnings[0]}" in repr(found)
    assert f"<summary>warnings ({len(found.warnings)})</summary>" in found._repr_html_()


def test_plot_returns_a_figure_that_a_notebook_shows(result, path, tmp_path):
    from matplotlib.figure import Figure

    drawn = result.plot(layers="map")
    assert isinstance(drawn, Figure)
    assert len(drawn.axes) == 3
    assert drawn.axes[0].get_title("left").startswith(rf"$\rho$ = {result.rho:.2f}")
    # matplotlib moves the layout a little whenever a figure is drawn again.
    picture = drawn._repr_png_()
    (tmp_path / "figure.png").write_bytes(picture)
    with Image.open(tmp_path / "figure.png") as image:
        assert image.size == (round(3.5 * 150), round(drawn.get_figheight() * 150))
    # The same as from the file, where the settings are the same.
    assert regime_proto.figure(path, layers="map")._repr_png_() == picture


def test_several_runs_stand_side_by_side(result, path):
    drawn = regime_proto.figure([result, path])
    assert len({axes.get_position().x0 for axes in drawn.axes}) == 2


def test_plot_refuses_a_result_without_its_file(tmp_path):
    with pytest.raises(regime_proto.RegimeError, match=r"data set in memory.*analyze its file"):
        regime_proto.analyze(synthetic(steps=30), resamples=0).plot()
    path = make_run(tmp_path / "run.h5")
    found = regime_proto.analyze(path, resamples=0)
    path.unlink()
    with pytest.raises(regime_proto.RegimeError, match=r"run\.h5"):
        found.plot()
    make_run(path)
    with pytest.raises(regime_proto.RegimeError, match=r"run\.h5: now holds a different run .*analyze it again"):
        found.plot()


def test_a_missing_matplotlib_is_named(path):
    code = f"""
import sys
import regime_proto
from regime_proto import *
assert "matplotlib" not in sys.modules
sys.modules["matplotlib"] = None
try:
    regime_proto.analyze({str(path)!r}, resamples=0).plot()
except regime_proto.RegimeError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == 'figures need matplotlib: pip install "regime-proto[report]"\n'
