"""The built manual in a real browser, from a file, without a network."""

import pytest
from browsers import launched, needs_browser, serious_findings
from manual import SITE, require_built, source_pages

pytestmark = [needs_browser, pytest.mark.usefixtures("built")]

# A page of every kind; all others are opened without it.
CHECKED = (
    "index",
    "start",
    "reading",
    "runs/index",
    "gallery/first_run",
    "commands",
    "quantities",
    "api/record",
    "design",
    "paper",
)

# Else axe reads style sheets over, which a page of a file may not.
AS_FILES = {"preload": False}

# What the theme says of itself.
THEME = "[PST]"


@pytest.fixture(scope="module")
def built():
    require_built()


@pytest.fixture(scope="module")
def browser(built):
    with launched() as found:
        yield found


@pytest.fixture(scope="module")
def opened(browser):
    """Open a page; every message and every request that is not for a file is an error."""
    contexts, messages = {}, []

    def asked(request):
        if not request.url.startswith(("file:", "data:", "blob:")):
            messages.append(request.url)

    def context(scheme, width):
        options = {"color_scheme": scheme, "viewport": {"width": width, "height": 900}}
        page = browser.new_context(offline=True, **options).new_page()
        page.on("console", lambda message: message.text.startswith(THEME) or messages.append(message.text))
        page.on("pageerror", lambda error: messages.append(str(error)))
        page.on("request", asked)
        return page

    def open_page(name, *, scheme="light", width=1280):
        if (scheme, width) not in contexts:
            contexts[scheme, width] = context(scheme, width)
        page = contexts[scheme, width]
        page.goto(f"{(SITE / name).as_uri()}.html")
        assert messages == [], name
        return page

    yield open_page
    for page in contexts.values():
        page.context.close()
    assert messages == []


@pytest.mark.parametrize("section", ["api", "gallery", "runs", ""])
def test_every_page_opens_and_fits_a_phone(opened, section):
    names = [name for name in source_pages() if name.rpartition("/")[0] == section]
    for name in names:
        page = opened(name, scheme="dark", width=375)
        assert page.locator("h1").count() == 1, name
        assert page.evaluate("document.documentElement.scrollWidth") <= 375, name
        assert page.evaluate("[...document.images].every((one) => one.loading == 'lazy' || one.naturalWidth > 0)"), name
    assert names


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", CHECKED)
def test_axe_finds_nothing_serious(opened, name, scheme):
    assert serious_findings(opened(name, scheme=scheme), AS_FILES) == []


def test_search_finds_pages_from_a_file(opened):
    page = opened("index")
    page.goto(f"{(SITE / 'search.html').as_uri()}?q=checkpoints")
    results = page.locator("#search-results li a")
    results.first.wait_for()
    page.wait_for_function("document.querySelectorAll('#search-results li').length >= 5")
    results.first.click()
    page.wait_for_load_state()
    assert page.locator("h1").count() == 1


def test_a_formula_is_drawn_by_the_browser(opened):
    page = opened("quantities")
    box = page.locator("math msqrt").first.bounding_box()
    assert box["width"] > 20
    assert box["height"] > 15


def test_code_can_be_copied(opened):
    page = opened("quantities")
    assert page.locator("button.copybtn").count() == page.locator("div.highlight pre").count() > 0
