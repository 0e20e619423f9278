"""No function has more branches or parameters than a reader can hold in mind."""

import ast
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
from folders import ROOT

import regime_proto

FOLDERS = ("regime_proto", "adapters", "cli", "schema", "examples")
MOST_BRANCHES, MOST_PARAMETERS = 15, 8

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
# Of these each is one; an operand more of `and` and `or` is one too, and so is each `if` of a comprehension.
BRANCHES = (ast.If, ast.IfExp, ast.For, ast.While, ast.ExceptHandler, ast.Assert, ast.comprehension, ast.match_case)


def branches(function):
    """Return how many branches a function has; those of functions inside it are their own."""
    count, pending = 0, list(ast.iter_child_nodes(function))
    while pending:
        node = pending.pop()
        count += isinstance(node, BRANCHES)
        count += len(node.values) - 1 if isinstance(node, ast.BoolOp) else 0
        count += len(node.ifs) if isinstance(node, ast.comprehension) else 0
        pending += [] if isinstance(node, FUNCTIONS) else ast.iter_child_nodes(node)
    return count


def parameters(function):
    """Return how many arguments a caller may give."""
    given = function.args
    named = [argument.arg for argument in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
    return len(named) - (named[:1] in (["self"], ["cls"])) + sum(map(bool, (given.vararg, given.kwarg)))


def functions_in(tree, front=""):
    """Yield all functions below a node of the syntax tree, with their qualified names."""
    for node in ast.iter_child_nodes(tree):
        name = f"{front}{node.name}" if isinstance(node, (*FUNCTIONS, ast.ClassDef)) else front
        if isinstance(node, FUNCTIONS):
            yield name, node
        yield from functions_in(node, name if name == front else f"{name}.")


@pytest.fixture(scope="module")
def functions():
    """All functions of the package, by file and name."""
    paths = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
    return {
        f"{path.relative_to(ROOT)}: {name}": function
        for path in paths
        for name, function in functions_in(ast.parse(path.read_text()))
    }


def is_command(where, function):
    """Whether a function is a command of the command line."""
    return where.startswith("cli/commands/") and "command" in map(ast.unparse, function.decorator_list)


def public():
    """Return how the names begin of what users call: what the package names, and what the manual calls by its path."""
    found = []
    for value in (getattr(regime_proto, name) for name in regime_proto.__all__):
        module = value if isinstance(value, ModuleType) else sys.modules[value.__module__]
        name = "" if value is module else f"{value.__qualname__}."
        found.append(f"{Path(module.__file__).relative_to(ROOT)}: {name}")
    manual = "".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").glob("*.md")))
    for module, name in re.findall(r"`(regime_proto(?:\.\w+)+)\.(\w+)\(", manual):
        found.append(f"{module.replace('.', '/')}.py: {name}.")
    return tuple(found)


def test_no_function_has_too_many_branches(functions):
    found = {where: count for where, function in functions.items() if (count := branches(function)) > MOST_BRANCHES}
    assert len(functions) > 1000
    assert not found


def test_no_function_but_public_ones_has_too_many_parameters(functions):
    many = {where: count for where, function in functions.items() if (count := parameters(function)) > MOST_PARAMETERS}
    assert "regime_proto/conversion/run.py: convert" in many
    assert "cli/commands/compare.py: compare" in many
    free = public()
    assert not {
        where: count
        for where, count in many.items()
        if not f"{where}.".startswith(free) and not is_command(where, functions[where])
    }


@pytest.mark.parametrize(
    ("count", "body"),
    [
        (0, "return a"),
        (2, "if a: pass\n elif b: pass\n else: pass"),
        (2, "for x in a:\n  while x: pass\n else: pass"),
        (3, "return 1 if a and b and c else 2"),
        (3, "return a or (b and c or d)"),
        (5, "return [x for y in a for x in y if x if not y] or a"),
        (2, "try: pass\n except ValueError: pass\n except OSError: pass\n finally: pass"),
        (3, "assert a\n match a:\n  case 1: pass\n  case _: pass"),
        (1, "def g():\n  if b: pass\n return lambda: a or b"),
        (16, "\n ".join(["if a: pass"] * 16)),
    ],
)
def test_every_kind_of_branch_counts(count, body):
    [function] = ast.parse(f"def f(a):\n {body}").body
    assert branches(function) == count


@pytest.mark.parametrize(
    ("count", "arguments"), [(0, ""), (0, "self"), (1, "a"), (2, "cls, a, *, b"), (5, "a, b, /, *c, d=1, **e")]
)
def test_every_parameter_counts(count, arguments):
    [function] = ast.parse(f"def f({arguments}): pass").body
    assert parameters(function) == count
