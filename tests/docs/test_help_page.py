"""What the manual says on citing and on supported versions is what the project's files say."""

import re
import tomllib

from folders import ROOT

import regime_proto


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


def entries(name):
    """Return the BibTeX entries of a page."""
    return "".join(re.findall(r"```bibtex\n(.*?)```", read(name), re.DOTALL))


def test_the_bibtex_entries_are_those_of_readme_and_of_this_version():
    assert entries("README.md").strip() in entries("docs/help.md")
    assert f"version = {{{regime_proto.__version__}}}" in entries("docs/help.md")
    title = re.search(r'^title: "(.*)"$', read("CITATION.cff"), re.MULTILINE)[1]
    assert title in entries("docs/help.md")


def test_the_supported_versions_are_those_of_the_distribution():
    project = tomllib.loads(read("pyproject.toml"))["project"]
    extras = project["optional-dependencies"]
    wanted = [need for needs in (project["dependencies"], *extras.values()) for need in needs]
    oldest = dict(re.fullmatch(r"([\w-]+)(?:\[.*\])?>=(.*)", need).groups() for need in wanted if ">=" in need)
    page = read("docs/quickstart.md").partition("## Supported versions")[2]
    rows = re.findall(r"^\| `([\w-]+)` \| ([\d.]+) \| (.*) \|$", page, re.MULTILINE)
    assert len(rows) >= 10
    for library, version, where in rows:
        assert version == oldest[library], library
        needed_by = [
            name for name, needs in extras.items() if any(re.match(rf"{library}[>\[]", need) for need in needs)
        ]
        assert set(re.findall(r"`(\w+)`", where)) <= set(needed_by), library
    pythons = [name.rpartition(" ")[2] for name in project["classifiers"] if re.search(r":: 3\.\d+$", name)]
    assert f"| Python | {', '.join(pythons)} |" in page
