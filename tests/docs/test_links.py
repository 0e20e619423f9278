"""Links between README, manual and the other documents lead somewhere."""

import re

import pytest
from code_blocks import pages, read
from folders import ROOT

DOCUMENTS = [*pages(), "docs/paper.md", "CONTRIBUTING.md"]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_somewhere(name):
    path = ROOT / name
    text = re.sub(r"```.*?```", "", read(name), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        file, _, anchor = target.partition("#")
        aim = (path.parent / file).resolve() if file else path
        assert aim.exists(), target
        if anchor and aim.suffix == ".md":
            assert anchor in anchors(aim), target


def anchors(path):
    """The anchors of headings, as GitHub and the manual make them; those of what a page includes too."""
    text = path.read_text(encoding="utf-8")
    included = [(path.parent / name).resolve() for name in re.findall(r"```\{include\} (\S+)", text)]
    included += [ROOT / name for name in re.findall(r"<!-- file: (\S+) -->", text)]
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    own = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    return own.union(*(anchors(other) for other in included))


def test_the_manual_stays_inside_its_folder():
    """Sphinx does not build what is not below docs/; pictures are copied."""
    for name in pages():
        if name.startswith("docs/"):
            for target in re.findall(r"(?<!!)\[[^\]]*\]\(([^)\s#]+)", read(name)):
                if "://" not in target:
                    assert (ROOT / name).parent.joinpath(target).resolve().is_relative_to(ROOT / "docs"), (name, target)
