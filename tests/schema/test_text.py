"""Names in files, and names of files, are text: in every command, on every kind of output."""

import csv
import io
import json
import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from commands import regime
from hypothesis import given
from hypothesis import strategies as st
from rich.text import Text
from trajectories import LAYERS, header
from trajectories import write as write_trajectory

import regime_proto
from regime_proto.cli import render
from regime_proto.cli.main import main
from regime_proto.report.tables import to_csv, to_latex, to_markdown
from regime_proto.schema.text import csv_cell, printable

# Markup of rich, control characters of terminals (of one byte and of two), an order of reading, formulas, templates.
HOSTILE = "=1+1[/][red]\x1b[31m\x9b2J\u202e<b>$x$%{y}\\"
# Not UTF-8; a folder that ends with [ and a file that begins with ] make [/] of a path.
HOSTILE_FILE = os.fsdecode(b"=[red]\x1b]0;title\x07\xe9[")
HARMLESS = "name"
HIDDEN = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def program(name):
    """A network of two products with a gate in between, whose names all hold `name`."""
    make = onnx.helper
    nodes = [
        make.make_node("MatMul", ["x", f"{name}.first"], [f"{name}.product"], name=f"{name}.matmul"),
        make.make_node("Relu", [f"{name}.product"], [f"{name}.gate"], name=f"{name}.relu"),
        make.make_node("MatMul", [f"{name}.gate", f"{name}.second"], ["y"], name=f"{name}.out"),
    ]
    weights = [
        onnx.numpy_helper.from_array(np.ones(shape, np.float32), f"{name}.{which}")
        for which, shape in (("first", (4, 8)), ("second", (8, 2)))
    ]
    graph = make.make_graph(
        nodes, "net",
        [make.make_tensor_value_info("x", onnx.TensorProto.FLOAT, (3, 4))],
        [make.make_tensor_value_info("y", onnx.TensorProto.FLOAT, (3, 2))],
        weights,
    )  # fmt: skip
    return make.make_model(graph, opset_imports=[make.make_opsetid("", 18)], ir_version=9)


def workplace(folder, name, file):
    """Lay out checkpoints, their program and probe, and two trajectories, with `name` and `file` in every text."""
    place = folder / f"{file}"
    (place / "checkpoints").mkdir(parents=True)
    random = np.random.default_rng(0)
    state = {f"{name}.first": random.normal(size=(4, 8)), f"{name}.second": random.normal(size=(8, 2))}
    for step in range(4):
        # The second never changes.
        grown = {**state, f"{name}.first": state[f"{name}.first"] * (1 + 0.1 * step)}
        tensors = {key: torch.tensor(value, dtype=torch.float32) for key, value in grown.items()}
        content = io.BytesIO()
        torch.save({"model": tensors, "step": step, "epoch": step / 2, name: {name: name}}, content)
        (place / "checkpoints" / f"]{file}step_{step}.pt").write_bytes(content.getvalue())
    (place / "checkpoints" / f"]{file}.optimizer.txt").write_text("none", encoding="utf-8")
    onnx.save(program(name), str(folder / "net.onnx"))
    (folder / "net.onnx").rename(place / "]net.onnx")
    np.save(folder / "val.npy", random.normal(size=(3, 4)).astype(np.float32))
    (folder / "val.npy").rename(place / "]val.npy")
    layers = (
        replace(LAYERS[0], name=f"{name}1", op=f"{name}Relu", path=f"{name}/1"),
        replace(LAYERS[1], name=f"{name}2", path=f"{name}/2"),
    )
    for number in range(2):
        head = header(
            layers=layers,
            tensors={f"{name}.weight": 40, f"{name}.bias": 4},
            metrics=("loss", f"{name} accuracy"),
            extra={"model": name, "seed": f"{name}{number}", f"key{name}": f"{name} value"},
        )
        head = head.with_attributes(run_id=f"{name}{number}", software=name, source_fingerprint=name)
        write_trajectory(place / f"]{number}.h5", head=head, count=30)
    (place / "]bad.h5").write_bytes(b"nothing")
    table = f'file,"{name}"\n"]0.h5","{name} label"\n"{name}",other\n'
    (place / "]labels.csv").write_text(table, encoding="utf-8")
    return place


# Every command, as it works and as it fails; a word in capitals stands for a path or for the name.
CALLS = """
program --model NET --probe VAL -o CKPT
program RUN -o OUT
program --model NAME --probe NONE -o OUT
inspect CKPT -v
inspect RUN
inspect NET
inspect NONE
inspect BAD
inspect CKPT --adapter NAME
inspect CKPT --step-pattern (NAME
check CKPT -v
check CKPT --json
check CKPT --frozen NAME.*
check NONE
check NONE --json
check PLACE
analyze CKPT --resamples 0
analyze CKPT -v --note seed=NAME --resamples 20
analyze CKPT --note NAME
analyze CKPT -o BAD
analyze CKPT --gates NAME -o OUT/]g.h5
analyze CKPT --weights NAME -o OUT/]w.h5
analyze RUN -v --resamples 20
analyze RUN --json --resamples 0
analyze RUN --steps NAME
analyze NONE
analyze BAD
convert CKPT -o OUT/]c.h5
convert CKPT -o OUT/]d.h5 --dry-run
convert CKPT -o OUT/]c.h5 --masks NAME
convert NONE -o OUT/]c.h5
merge RUN.segments
merge RUN.segments --dry-run
merge NONE
thin RUN --masks none -o OUT/]t.h5
thin RUN --masks none -o RUN
thin BAD --masks none -o OUT/]u.h5
export RUN --to csv
export RUN --to csv -o OUT/]e.csv
export RUN --to json
export RUN --to netcdf -o OUT/]e.nc
export RUN --to NAME
export NONE --to csv
compare RUN OTHER --resamples 0
compare RUN OTHER -v --labels LABELS --resamples 0
compare RUN OTHER --json --resamples 0
compare RUN OTHER --by NAME --resamples 0
compare RUN OTHER --to csv --labels LABELS --resamples 0
compare RUN OTHER --to markdown --labels LABELS --resamples 0
compare RUN OTHER --to latex --labels LABELS --resamples 0
compare RUN OTHER --to csv -o OUT/]c.csv --resamples 0
compare RUN OTHER --labels BAD --resamples 0
compare RUN RUN --resamples 0
compare NONE
plot RUN OTHER -o OUT/]p.svg --layers map
plot RUN OTHER -o OUT/]p.NAME
plot RUN OTHER -o OUT/]p.svg --metric NAME
report RUN OTHER -o OUT/]r.html --resamples 0
report RUN OTHER -o OUT/]r --resamples 0
report NONE -o OUT/]r.html
validate RUN OTHER BAD NONE
quantities
quantities --json
linearize CKPT -o OUT/]maps.npz --samples 0 --overwrite
linearize CKPT -o OUT/]maps.npz --outputs-of NAME
linearize RUN -o OUT/]maps.npz
linearize NONE -o OUT/]maps.npz
linearize BAD -o OUT/]maps.npz --checkpoints CKPT
linearize CKPT -o OUT/]maps.npz --samples NAME
convert CKPT -o OUT/]q.h5 --measure NAME
example -o OUT/]x.h5
example -o PLACE
demo --out OUT/]demo --dry-run
demo --out BAD
"""


def calls(place, name):
    """Return the calls of each command, for the files of a place."""
    words = {
        "RUN": "]0.h5", "OTHER": "]1.h5", "BAD": "]bad.h5", "NONE": "]none", "LABELS": "]labels.csv",
        "NET": "]net.onnx", "VAL": "]val.npy", "CKPT": "checkpoints", "OUT": "]out", "PLACE": "",
    }  # fmt: skip
    values = {word: str(place / file) for word, file in words.items()} | {"NAME": name}
    pattern = re.compile("|".join(values))
    found = {}
    for line in CALLS.split("\n")[1:-1]:
        command, *arguments = line.split()
        spelled = [pattern.sub(lambda word: values[word[0]], argument) for argument in arguments]
        found.setdefault(command, []).append(spelled)
    return found


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """The same twice, with harmless and with hostile names."""
    folder = tmp_path_factory.mktemp("text")
    found = {
        name: workplace(folder / kind, name, file)
        for kind, name, file in (("harmless", HARMLESS, HARMLESS), ("hostile", HOSTILE, HOSTILE_FILE))
    }
    for name, place in found.items():
        done = regime("program", *calls(place, name)["program"][0])
        assert done.exit_code == 0, done.output
    return found


@pytest.mark.parametrize("command", sorted(main.commands))
def test_hostile_names_change_nothing_but_themselves(places, command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")
    both = [calls(place, name)[command] for name, place in places.items()]
    shown = ""
    for harmless, hostile in zip(*both, strict=True):
        expected, found = regime(command, *harmless), regime(command, *hostile)
        assert found.exit_code == expected.exit_code, (hostile, found.output, expected.output)
        for text in (found.stdout, found.stderr):
            assert not HIDDEN.search(text), (hostile, HIDDEN.search(text), text)
            assert "Traceback" not in text
            assert "this is a bug" not in text
        shown += found.output
    if command == "quantities":
        # It takes no names.
        return
    # What is shown of them is shown whole: nothing was taken for markup.
    assert re.search(r"\[/\]|\[red\]", shown) or command == "merge"
    assert r"\x1b" in shown or "\\u001b" in shown


def test_files_hold_names_as_text(places, tmp_path):
    place = places[HOSTILE]
    runs = [place / "]0.h5", place / "]1.h5"]
    for name, arguments in {
        "page.html": ["report", *runs],
        "figure.svg": ["plot", *runs, "--layers", "map"],
        "table.csv": ["compare", *runs, "--to", "csv"],
        "curves.csv": ["export", runs[0], "--to", "csv"],
    }.items():
        done = regime(*arguments, "-o", tmp_path / name)
        assert done.exit_code == 0, done.output
        text = (tmp_path / name).read_bytes().decode()
        assert not HIDDEN.search(
            text if name != "page.html" else text.partition("<body>")[2].partition("<script>/*")[0]
        )
        if name.endswith(".csv"):
            cells = [cell for row in csv.reader(io.StringIO(text)) for cell in row]
            assert any(cell.startswith("'=1+1") for cell in cells)
            assert not [cell for cell in cells if cell[:1] in tuple("=+@\t\r")]


def test_json_holds_names_exactly(places):
    found = json.loads(regime("analyze", places[HOSTILE] / "]0.h5", "--json").stdout)
    assert found["layers"][0]["layer"] == f"{HOSTILE}1"
    assert found["trajectory"] == str(places[HOSTILE] / "]0.h5")


@given(st.text(st.characters(codec=None)))
def test_a_printable_text_hides_nothing_and_stays_as_it_is(text):
    shown = printable(text)
    assert not HIDDEN.search(shown)
    assert "\n" not in shown
    assert printable(shown) == shown
    shown.encode()
    if not HIDDEN.search(text) and not re.search("[\n\u2028\u2029]", text):
        assert shown == text


@pytest.mark.parametrize("text", ["=1+1", "+1", "@x", "-x", "-1+2", "\tx", "\rx", "-", "\uff1d1", "=", "-e5"])
def test_text_that_is_a_formula_begins_with_an_apostrophe(text):
    assert csv_cell(text) == f"'{text}"


@pytest.mark.parametrize("value", ["a=b", "-1", "-0.5", "-1e-3", "", " x", "1+1", "'x", -1.5, None, 7])
def test_other_cells_are_as_they_are(value):
    assert csv_cell(value) == value


def test_markup_control_characters_and_emoji_reach_no_console(capsys):
    console = render.console()
    render.show(console, ":smile:[bold]x[/]\x1b[31m")
    render.show(console, Text("[red]\x1b]0;t\x9b\n[/red]"))
    assert capsys.readouterr().out == ":smile:[bold]x[/]\\x1b[31m\n[red]\\x1b]0;t\\x9b\n[/red]\n"
    assert next(iter(console.render(Text("a\x1b")))).text == r"a\x1b"


def test_tables_for_papers_and_pages_escape_what_begins_a_line(tmp_path):
    path = regime_proto.synthetic.trajectory(steps=20, path=tmp_path / "one.h5")
    labels = {"one.h5": {"family": "1. item", "model": "[x]|*"}, "other.h5": {"family": "- item"}}
    other = regime_proto.synthetic.trajectory(steps=20, path=tmp_path / "other.h5")
    found = regime_proto.compare([path, other], labels=labels, by="family", resamples=0)
    in_latex = to_latex(found)
    assert "\n{[}x{]}\\textbar{}{*} & " in in_latex
    assert "\n1\\. item, 1 run" in to_markdown(found)
    assert "\n\\- item, 1 run" in to_markdown(found)
    assert "'- item" in to_csv(found)


def test_a_path_with_line_breaks_stays_on_one_line(tmp_path):
    done = regime("analyze", Path(tmp_path, "a\nerror: b"))
    assert len(done.stderr.splitlines()) == 1
