"""Version, date, bounds and licences say the same wherever they are."""

import ast
import re
import tomllib
from datetime import date
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CHANGELOG = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
# Kinds of change, in the order in which a release lists them.
KINDS = ("Added", "Changed", "Deprecated", "Removed", "Fixed", "Security")
# The names that conda-forge has for distributions.
CONDA_NAMES = {"isal": "python-isal", "matplotlib": "matplotlib-base"}


def version():
    """Return `regime_proto.__version__`, without importing anything: the checks of a release have no libraries."""
    for node in ast.parse((ROOT / "regime_proto/__init__.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and node.targets[0].id == "__version__":
            return node.value.value
    raise AssertionError("regime_proto/__init__.py has no __version__")


def releases():
    """Return version, date and text of the releases in the changelog, newest first."""
    parts = re.split(r"^## (.*)\n", CHANGELOG, flags=re.MULTILINE)[1:]
    heads = [re.fullmatch(r"(\d+\.\d+\.\d+) \((.+)\)", head) for head in parts[::2]]
    assert all(heads), parts[::2]
    return [(*head.groups(), text) for head, text in zip(heads, parts[1::2], strict=True)]


def bounds(requirements):
    """Return the lower bound of each requirement by its normalized name."""
    found = [
        re.fullmatch(r"([A-Za-z0-9_-]+)(?:\[[\w,-]+\])?\s*>=([\d.]+)", requirement) for requirement in requirements
    ]
    assert all(found), requirements
    return {normal(match[1]): match[2] for match in found}


def normal(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def load(path):
    return yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))


def test_the_package_is_the_one_source_of_its_version():
    assert PROJECT["dynamic"] == ["version"]
    assert "version" not in PROJECT


def test_package_changelog_citation_and_recipe_have_one_version_and_date():
    newest, day, _ = releases()[0]
    citation = load("CITATION.cff")
    assert newest == version() == str(citation["version"]) == load("recipe/recipe.yaml")["context"]["version"]
    assert day == str(citation["date-released"])


def test_the_supported_versions_include_this_one():
    assert f"| {'.'.join(version().split('.')[:2])} | yes |" in (ROOT / "SECURITY.md").read_text(encoding="utf-8")


def test_releases_are_dated_and_newest_first():
    found = [(tuple(map(int, number.split("."))), date.fromisoformat(day)) for number, day, _ in releases()]
    assert found == sorted(found, reverse=True)
    assert len({number for number, _ in found}) == len(found)


@pytest.mark.parametrize("release", releases(), ids=lambda release: release[0])
def test_a_release_lists_changes_by_kind(release):
    heads = re.findall(r"^### (.*)$", release[2], re.MULTILINE)
    assert heads, release[0]
    assert heads == sorted(set(heads), key=KINDS.index)
    for head, text in zip(heads, re.split(r"^### .*$", release[2], flags=re.MULTILINE)[1:], strict=True):
        assert text.strip().startswith("* "), head


def test_pythons_are_the_same_in_metadata_sessions_and_workflows():
    prefix = "Programming Language :: Python :: 3."
    said = [name.rsplit(" ", 1)[1] for name in PROJECT["classifiers"] if name.startswith(prefix)]
    assert PROJECT["requires-python"] == f">={said[0]}"
    assert f"python={said}".replace("'", '"') in (ROOT / "noxfile.py").read_text(encoding="utf-8")
    assert load(".github/workflows/tests.yml")["jobs"]["core"]["strategy"]["matrix"]["python"] == said
    assert load("recipe/recipe.yaml")["context"]["python_min"] == said[0]


def test_the_recipe_has_the_bounds_of_the_project():
    recipe = load("recipe/recipe.yaml")["requirements"]
    extras = PROJECT["optional-dependencies"]
    for key, expected in (
        ("run", bounds([*PROJECT["dependencies"], *extras["cpu"]])),
        ("run_constraints", bounds(extras["report"])),
    ):
        found = dict(entry.split(" >=") for entry in recipe[key] if not entry.startswith("python >="))
        names = {normal(CONDA_NAMES.get(name, name)): bound for name, bound in expected.items()}
        assert {normal(name): bound for name, bound in found.items()} == names


def test_the_recipe_starts_the_same_command():
    [entry] = load("recipe/recipe.yaml")["build"]["python"]["entry_points"]
    assert dict([entry.split(" = ")]) == PROJECT["scripts"]


def test_the_recipe_says_the_summary_and_licence_of_the_project():
    about = load("recipe/recipe.yaml")["about"]
    assert (about["summary"], about["license"]) == (PROJECT["description"], PROJECT["license"])


def test_every_direct_dependency_is_pinned():
    pinned = {normal(line.split("==")[0]) for line in (ROOT / "constraints.txt").read_text().splitlines()}
    required = (
        PROJECT["dependencies"] + PROJECT["optional-dependencies"]["cpu"] + PROJECT["optional-dependencies"]["test"]
    )
    own = [requirement for requirement in required if not requirement.startswith("regime-proto[")]
    assert set(bounds(own)) <= pinned


def test_every_library_that_is_installed_has_its_licence_listed():
    text = (ROOT / "THIRD_PARTY_LICENSES.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")][1:]
    listed = {normal(row[0]): row for row in rows}
    extras = PROJECT["optional-dependencies"]
    assert set(bounds([*PROJECT["dependencies"], *extras["cpu"], *extras["report"]])) <= set(listed)
    assert not [name for name, row in listed.items() if row[2] in ("", "UNKNOWN")]
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    pins = {normal(name): pin for name, pin in pins.items()}
    assert {name: row[1] for name, row in listed.items()} == {name: pins[name] for name in listed}, "run make licences"
