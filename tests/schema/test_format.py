"""The document of the format says what the table says that writer, reader and validator share."""

import re
from pathlib import Path

import netCDF4
import pytest

import regime_proto.schema
from regime_proto.schema import hdf5, layout, validate
from regime_proto.schema.validation import guard, structure
from regime_proto.schema.validation.rules import RULES

FORMAT = (Path(regime_proto.schema.__file__).parent / "FORMAT.md").read_text(encoding="utf-8")


def section(title):
    """The text below a heading, up to the next one of its level or a higher one."""
    [text] = re.findall(rf"^#+ {re.escape(title)}\n(.*?)(?=^#|\Z)", FORMAT, re.MULTILINE | re.DOTALL)
    return text


def rows(title):
    """The rows of the table in a section, cells without marks."""
    lines = [line for line in section(title).splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


@pytest.mark.parametrize("variable", [*layout.VARIABLES, *layout.OPTIONAL], ids=lambda variable: variable.name)
def test_every_variable_has_a_section(variable):
    text = " ".join(section(f"`{variable.name}`").split())
    unit = f"unit `{variable.unit}`" if variable.unit else "no unit"
    presence = f"MAY, group `{variable.group}`" if variable.group else "MUST"
    assert text.startswith(f"`({', '.join(variable.dims)})` · `{variable.dtype}` · {unit} · {presence} ")
    assert variable.meaning.lower() in text.lower()


def test_no_section_is_of_another_variable():
    documented = set(re.findall(r"^### `(\w+)`$", FORMAT, re.MULTILINE))
    assert documented == set(layout.BY_NAME)
    assert f"### `{layout.METRIC_PREFIX}<name>`" in FORMAT


def test_the_table_of_dimensions():
    documented = {name.strip("`"): length for name, length, _ in rows("Dimensions")}
    assert tuple(documented) == layout.DIMENSIONS
    assert {name for name, length in documented.items() if length == "unlimited"} == set(layout.GROWING)


def test_the_table_of_attributes():
    def row(attribute):
        choices = f": {', '.join(f'`{choice}`' for choice in attribute.choices)}" if attribute.choices else ""
        presence = "MUST" if attribute.required else "MAY"
        return [f"`{attribute.name}`", f"`{attribute.dtype}`", presence, attribute.meaning + choices]

    assert rows("Root attributes") == [row(attribute) for attribute in layout.ATTRIBUTES]


def test_the_table_of_rules():
    assert rows("Rules") == [[f"`{rule.id}`", rule.severity, rule.text] for rule in RULES.values()]


def test_rules_say_which_word_of_rfc_2119_they_mean():
    for rule in RULES.values():
        assert re.search(r"\b(MUST|SHOULD)\b", rule.text), rule.id
        assert ("SHOULD" in rule.text and "MUST" not in rule.text) == (
            rule.severity == "warning" and rule.id != "version-minor"
        ), rule.id


@pytest.mark.parametrize(
    ("rule", "number"),
    [
        ("object-kind", f"{structure.OBJECTS:,}"),
        ("attribute-size", f"{structure.ATTRIBUTE_BYTES // 2**20} MiB"),
        ("attribute-size", f"{structure.ATTRIBUTES:,}"),
        ("size-limit", f"{structure.MAX_CHUNK_BYTES // 2**20} MiB"),
        ("size-limit", f"{layout.MAX_ENTRY_BYTES // 2**20} MiB"),
    ],
)
def test_limits_are_those_of_the_check(rule, number):
    assert number in RULES[rule].text


@pytest.mark.parametrize("limit", [structure.INFLATION, guard.MEMORY, guard.SECONDS], ids=lambda limit: limit.name)
def test_the_table_of_limits(limit):
    [row] = [row for row in rows("Limits") if f"`{limit.variable}`" in row[-1]]
    assert f"({limit.default}" in row[-1]
    assert str(limit.default) in row[1]


def test_the_clarifications_name_what_is_decoded():
    assert set(re.findall(r"`(\w+)`", section("Clarifications"))) >= layout.DECODED


def test_the_writer_stays_within_the_limits():
    assert hdf5.MAX_SEGMENT_BYTES <= structure.MAX_CHUNK_BYTES
    assert f"at most {hdf5.MAX_CHUNK_STEPS}" in section("Durability")


def test_the_writer_shown_writes_a_valid_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    [block] = re.findall(r"```python\n(.*?)```", section("Writing without this software"), re.DOTALL)
    exec(block, {})
    assert {problem.rule for problem in validate("written.h5")} == set()
    with netCDF4.Dataset("written.h5") as opened:
        assert opened["flips"].dimensions == ("step", "layer", "sample")
    assert regime_proto.analyze("written.h5").observations == 5


def test_the_document_says_which_version_it_is():
    assert FORMAT.startswith(f"# The regime trajectory format, version {layout.VERSION}\n")
    assert layout.VERSION in section("Versions")
