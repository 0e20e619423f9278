"""Names as figures show them: short, no two alike, and letter by letter as they are in the file."""

import html
import io
import re
from dataclasses import replace

import matplotlib.text
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pages import plots_of
from trajectories import LAYERS, header
from trajectories import write as write_trajectory

import regime_proto
from regime_proto.analyzer.settings import AnalysisSettings
from regime_proto.report.names import distinct, in_plotly
from regime_proto.report.page.page import report
from regime_proto.report.print import figure as print_figure
from regime_proto.report.print.drawn import read_run

LONGEST = 34
BERT = [
    f"/bert/encoder/layer.{number}/{part}/Relu · bert.encoder.layer.{number}.{part.replace('/', '.')}"
    for number in range(12)
    for part in ("attention/self/activation_function", "intermediate/intermediate_act_fn")
]


@given(st.lists(st.text(st.sampled_from("ab1/. …"), max_size=60), max_size=12), st.integers(12, 40))
@example(["a" * 50, "a" * 50, "a" * 50 + "b", f"{'a' * 20}… (1)"], 24)
@example(["run", "run", "run (1)"], 12)
def test_no_two_names_are_alike_and_none_is_too_long(names, longest):
    found = distinct(names, longest)
    assert len(found) == len(names)
    assert len(set(found)) == len(found)
    assert all(len(name) <= longest for name in found)
    for name, short in zip(names, found, strict=True):
        if len(name) <= longest and names.count(name) == 1:
            assert short == name or short.startswith(name)


def test_a_short_name_tells_where_the_name_differs_from_others():
    found = distinct(BERT, LONGEST)
    for name, short in zip(BERT, found, strict=True):
        number, part = re.search(r"layer\.(\d+)/(\w+)", name).groups()
        assert f"layer.{number}/{part}/" in short
    assert distinct([f"/encoder/layer.{number}/intermediate/act_fn/Relu" for number in range(3)], LONGEST) == [
        f"…layer.{number}/intermediate/act_fn/Relu" for number in range(3)
    ]


def test_many_names_are_shortened_at_once():
    names = [f"/model/layers.{number}/mlp/{'x' * 40}/Relu" for number in range(3000)]
    assert len(set(distinct(names, LONGEST))) == 3000


@pytest.fixture(scope="module")
def deep(tmp_path_factory):
    layers = tuple(replace(LAYERS[0], name=name.split(" ")[0], path=name.split(" ")[-1]) for name in BERT[:14])
    metrics = tuple(f"validation/very/long/name/of/metric/{kind}_loss/mean" for kind in ("first", "second"))
    head = header(layers=layers, metrics=("loss", *metrics))
    return write_trajectory(tmp_path_factory.mktemp("deep") / "deep.h5", head=head, count=30)


def test_figures_draw_a_place_for_every_layer(deep):
    plots = plots_of(report([deep], resamples=0))
    rows = plots["r0-layers"]["traces"][0]["y"]
    assert len(set(rows)) == len(rows) == 14
    for figure in ("areas", "units"):
        for trace in plots[f"r0-{figure}"]["traces"]:
            assert trace["x"] == rows


NASTY = '<b>&lt;"%{x} $a$ [/]\x1b[31m\u202e'


def test_captions_and_figures_show_names_as_they_are(tmp_path):
    layers = (replace(LAYERS[0], name=NASTY, path=""), replace(LAYERS[1], name="var(--weight)", path=""))
    page = report([write_trajectory(tmp_path / "run.h5", head=header(layers=layers), count=30)], resamples=0)
    shown = r'<b>&lt;"%{x} $a$ [/]\x1b[31m\u202e'
    assert html.escape(shown, quote=False).replace('"', "&#34;") in page
    # Escaped twice it would be seen as entities.
    assert "&amp;lt;b" not in page
    assert "\x1b" not in page
    assert "\u202e" not in page
    rows = plots_of(page)["r0-layers"]["traces"][0]["y"]
    assert [html.unescape(row) for row in rows] == [shown, "var(--weight)"]
    assert not any("%{" in row or row.startswith("var(") for row in rows)
    assert in_plotly("plain name") == "plain name"


def test_runs_of_one_name_are_told_apart_in_print_and_nothing_is_a_formula(tmp_path):
    paths = [tmp_path / f"{seed}.h5" for seed in range(3)]
    for path in paths:
        regime_proto.synthetic.trajectory(steps=20, path=path)
    runs = [
        replace(
            read_run(path, AnalysisSettings(resamples=0)), name=f"a model $x$ with the same name of {'many ' * 9}words"
        )
        for path in paths
    ]
    figure = print_figure.figure([*runs, replace(runs[0], name=NASTY)], columns=2)
    titles = [axes.get_title(loc="left").partition("\n")[0] for axes in figure.axes]
    assert len(set(titles[:4])) == 4
    assert titles[3].startswith('<b>&lt;"%{x} \\$a\\$')
    assert "\x1b" not in "".join(titles)
    assert not any(matplotlib.text.cbook.is_math_text(title) for title in titles)
    figure.savefig(io.BytesIO(), format="png", dpi=50)


def test_long_metrics_are_told_apart_in_a_legend(deep):
    names = ("validation/very/long/name/of/metric/first_loss", "validation/very/long/name/of/metric/second_loss")
    run = read_run(deep, AnalysisSettings(resamples=0))
    run = replace(run, metrics=dict.fromkeys(names, run.metrics["loss"]))
    [legend] = print_figure.figure([run]).legends
    texts = [text.get_text() for text in legend.get_texts()]
    assert len(set(texts)) == len(texts) == 4
    assert max(map(len, texts)) <= 24
