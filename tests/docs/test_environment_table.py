"""The manual's table of environment variables has every one that the code reads, with its default."""

import ast
import re

from folders import ROOT

from regime_proto.checkpoints import limits as of_checkpoints
from regime_proto.engine import trial
from regime_proto.schema import limits
from regime_proto.schema.limits import Limit
from regime_proto.schema.validation import guard

PAGE = (ROOT / "docs/command_line.md").read_text(encoding="utf-8")
ROWS = dict(re.findall(r"^\| `(\w+)`[^|]*\| (.*) \|$", PAGE, re.MULTILINE))
SOURCES = [
    path
    for folder in ("regime_proto", "schema", "adapters", "cli", "examples")
    for path in (ROOT / folder).rglob("*.py")
]


def constants():
    """The texts in the code that are no docstrings."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def defined_limits():
    return [
        one
        for module in (limits, of_checkpoints, guard, trial)
        for one in vars(module).values()
        if isinstance(one, Limit)
    ]


def test_every_variable_of_the_code_is_in_the_table():
    named = {text for text in constants() if re.fullmatch(r"REGIME_[A-Z]+(_[A-Z]+)*", text)}
    assert {"REGIME_SHARD", "REGIME_TRUST_PROGRAMS", "REGIME_DATA_CACHE"} <= named
    wanted = named | {one.variable for one in defined_limits()}
    assert wanted == {name for name in ROWS if name.startswith("REGIME_")}


def test_no_limit_is_defined_elsewhere():
    found = [
        name for path in SOURCES for name in re.findall(r"\bLimit\(\s*\"(\w+)\"", path.read_text(encoding="utf-8"))
    ]
    assert sorted(found) == sorted({one.name for one in defined_limits()})


def test_the_defaults_of_limits_are_those_of_the_code():
    for one in defined_limits():
        assert ROWS[one.variable].split(" | ")[1] == str(one.default), one.variable
