"""The built manual holds together: links lead somewhere, nothing comes from a network, no public name is missing."""

import inspect
import re

import pytest
from manual import SITE, anchors, links, require_built, site_pages, source_pages, target, without_scripts
from quantities_page import FORMULAS, family, own_quantities

import regime_proto
from regime_proto import schema
from regime_proto.plugins import protocols

pytestmark = pytest.mark.usefixtures("built")

# Sphinx makes these itself.
ALSO = {"genindex", "search", "py-modindex"}

# Elements that load what they name as the page is opened; of `link` and `a` some do.
LOADING = ("script", "img", "iframe", "source", "video", "audio", "embed", "object", "input", "form")


@pytest.fixture(scope="module")
def built():
    require_built()


@pytest.fixture(scope="module")
def pages(built):
    return {path: path.read_text(encoding="utf-8") for path in site_pages()}


@pytest.fixture(scope="module")
def known(pages):
    """The anchors of every page."""
    return {path: anchors(page) for path, page in pages.items()}


def broken(pages, known):
    for path, page in pages.items():
        for _, address in links(without_scripts(page)):
            found = target(path, address)
            if found is None:
                continue
            file, anchor = found
            if not file.is_file() or (anchor and anchor not in known.get(file, {anchor})):
                yield f"{path.relative_to(SITE)}: {address}"


def test_every_local_link_leads_to_a_file_and_an_anchor(pages, known):
    assert sum(len(links(page)) for page in pages.values()) > 1000
    assert list(broken(pages, known)) == []


def test_a_broken_link_is_found(pages, known):
    index = SITE / "index.html"
    page = '<a href="start.html#nowhere">one</a> <img src="none.png"> <a href="start.html">good</a>'
    assert list(broken({index: page}, known)) == ["index.html: start.html#nowhere", "index.html: none.png"]


def test_every_page_can_be_reached_from_the_first(pages):
    reached, rest = set(), [SITE / "index.html"]
    while rest:
        path = rest.pop()
        if path in pages and path not in reached:
            reached.add(path)
            rest += [found[0] for _, address in links(pages[path]) if (found := target(path, address))]
    names = {str(path.relative_to(SITE).with_suffix("")) for path in reached}
    assert sorted(names - ALSO) == source_pages()


def loaded_from_elsewhere(page):
    for element, address in links(page):
        if re.match(r"(https?:)?//", address) and element in LOADING:
            yield address
    yield from re.findall(
        r'<link\b[^>]*rel="(?!next|prev|canonical|author)[^"]*"[^>]*href="((?:https?:)?//[^"]*)"', page
    )


def test_no_page_and_no_style_loads_from_elsewhere(pages):
    assert list(loaded_from_elsewhere('<script src="https://cdn.example/a.js"></script>')) != []
    assert list(loaded_from_elsewhere('<link rel="stylesheet" href="//cdn.example/a.css" />')) != []
    assert {address for page in pages.values() for address in loaded_from_elsewhere(page)} == set()
    for style in SITE.rglob("*.css"):
        text = style.read_text(encoding="utf-8")
        assert re.findall(r"""(?:url\(|@import\s)\s*["']?(?:https?:)?//[^)"']*""", text) == [], style


def test_the_site_is_small():
    assert sum(path.stat().st_size for path in SITE.rglob("*") if path.is_file()) < 20e6


def test_every_public_name_is_in_the_reference(pages):
    documented = set().union(*(anchors(page) for path, page in pages.items() if path.parent == SITE / "api"))
    names = [f"regime_proto.{name}" for name in regime_proto.__all__ if name != "synthetic"]
    names += [f"regime_proto.schema.{name}" for name in schema.__all__]
    names += [f"module-{regime_proto.synthetic.__name__}", "regime_proto.synthetic.trajectory"]
    abilities = [name for name, one in vars(protocols).items() if getattr(one, "__module__", "") == protocols.__name__]
    names += [f"{protocols.__name__}.{name}" for name in abilities if not name.startswith("_")]
    assert set(names) - documented == set()


@pytest.mark.parametrize("name", [name for name in regime_proto.__all__ if name.islower() and name != "synthetic"])
def test_every_parameter_of_a_public_function_is_explained(name):
    function = getattr(regime_proto, name)
    text = inspect.getdoc(function)
    for parameter in inspect.signature(function).parameters:
        assert re.search(rf"^(.*, |\*\*)?{parameter}( :|,|$)", text, re.MULTILINE), parameter
    # A bar draws what it can.
    assert name == "progress_bar" or "\nRaises\n" in text


def test_every_quantity_has_a_section_with_its_formula(pages):
    page = pages[SITE / "quantities.html"]
    for quantity in own_quantities().values():
        stem = family(quantity)
        assert stem in FORMULAS, f"{stem}: no formula in docs/extensions/quantities_page.py"
        _, found, rest = page.partition(f'id="{stem.replace("_", "-")}"')
        section, _, _ = rest.partition("<section")
        assert found, stem
        assert "<math" in section, stem
        assert quantity.stored.variable.name in section
    assert set(FORMULAS) == {family(quantity) for quantity in own_quantities().values()}
