"""A page in a real browser, without a network: it draws, answers to mouse and keyboard, and can be read by all."""

from dataclasses import replace

import pytest
from browsers import launched, needs_browser, serious_findings
from trajectories import LAYERS, header
from trajectories import write as write_trajectory

import regime_proto
from regime_proto.report.page.page import report

pytestmark = needs_browser

THEME = "document.documentElement.dataset.theme"
FIGURES = ("curves", "raw", "readings", "layers", "areas", "strides", "agreement", "samples", "units")


def until(page, script, expected=True):
    """Wait until a script gives what is expected; the page's own policy forbids to wait inside it."""
    for _ in range(200):
        if page.evaluate(script) == expected:
            return
        page.wait_for_timeout(25)
    assert page.evaluate(script) == expected


@pytest.fixture(scope="module")
def browser():
    with launched() as found:
        yield found


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    paths = []
    for seed in range(2):
        paths.append(folder / f"run{seed}.h5")
        regime_proto.synthetic.trajectory(
            steps=400, layers=6, samples=8, units=64, noise=0.2, seed=seed, observations_per_epoch=20, path=paths[-1]
        )
    full = write_trajectory(folder / "full.h5", count=40)
    for name, runs in {"one": paths[:1], "several": [*paths, full]}.items():
        (folder / f"{name}.html").write_text(report(runs), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def opened(browser, pages):
    """Open a page, offline; every message of the console and every request is an error.

    To load a page and to draw it takes seconds, so tests share one where they leave it as it was.
    """
    contexts, shared, messages = [], {}, []

    def load(name, **options):
        context = browser.new_context(offline=True, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: messages.append(message.text))
        page.on("pageerror", lambda error: messages.append(str(error)))
        page.on("request", lambda request: request.url.startswith("file:") or messages.append(request.url))
        page.goto((pages / f"{name}.html").as_uri())
        until(page, "document.documentElement.dataset.drawn !== undefined")
        return page

    def open_page(name, *, width=1100, scheme="light", own=False, **options):
        assert messages == []
        size = {"width": width, "height": 900}
        if own:
            return load(name, viewport=size, color_scheme=scheme, **options)
        if name not in shared:
            shared[name] = load(name, viewport=size, color_scheme=scheme)
        shared[name].set_viewport_size(size)
        shared[name].emulate_media(color_scheme=scheme)
        until(shared[name], THEME, scheme)
        return shared[name]

    yield open_page
    for context in contexts:
        context.close()
    assert messages == []


def test_all_figures_are_drawn_with_their_data(opened):
    page = opened("one")
    for name in FIGURES:
        drawn = page.evaluate(
            """id => {
              const plot = document.getElementById(id);
              return [plot._fullData.filter((trace) => trace.visible === true).length, plot.calcdata.flat().length,
                      plot.querySelectorAll(".main-svg").length];
            }""",
            f"r0-{name}-plot",
        )
        assert min(drawn) > 0, (name, drawn)
    lines = page.locator("#r0-curves-plot .scatterlayer .trace path.js-line")
    assert lines.count() == 2
    assert len(lines.first.get_attribute("d")) > 1000


def test_hovering_tells_the_numbers(opened):
    page = opened("one")
    plot = page.locator("#r0-curves-plot")
    plot.scroll_into_view_if_needed()
    box = plot.locator(".nsewdrag").first.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    label = plot.locator(".hoverlayer .legend")
    label.wait_for()
    assert "Δw, normalised 0." in label.text_content()
    assert "Δa, normalised 0." in label.text_content()


def test_a_legend_hides_a_curve_by_mouse_and_by_keyboard(opened):
    page = opened("one")
    toggle = page.locator("#r0-curves-plot .legendtoggle").first
    until(page, "document.getElementById('r0-curves-plot')._fullData[0].visible")
    toggle.click()
    until(page, "document.getElementById('r0-curves-plot')._fullData[0].visible", "legendonly")
    for expected in (True, "legendonly"):
        page.locator("#r0-curves-plot .legendtoggle").first.focus()
        page.keyboard.press("Enter")
        until(page, "document.getElementById('r0-curves-plot')._fullData[0].visible", expected)
    assert page.evaluate("document.activeElement.getAttribute('aria-label')").startswith("weights")
    assert page.evaluate("document.activeElement.getAttribute('aria-pressed')") == "false"
    page.keyboard.press("Enter")
    until(page, "document.getElementById('r0-curves-plot')._fullData[0].visible")


def test_switches_make_scales_logarithmic(opened):
    page = opened("one")
    page.get_by_label("logarithmic Δw and Δa").press("Space")
    assert page.evaluate("document.getElementById('r0-raw-plot')._fullLayout.yaxis.type") == "log"
    page.get_by_label("logarithmic Δw and Δa").press("Space")
    assert page.evaluate("document.getElementById('r0-raw-plot')._fullLayout.yaxis.type") == "linear"
    before = page.evaluate("document.getElementById('r0-layers-plot')._fullData[0].z[0][0]")
    page.locator("#r0-layers").get_by_label("logarithmic colours").check()
    after = page.evaluate("document.getElementById('r0-layers-plot')._fullData[0].z[0][0]")
    assert 10**after == pytest.approx(before)
    page.locator("#r0-layers").get_by_label("logarithmic colours").uncheck()
    assert page.evaluate("document.getElementById('r0-layers-plot')._fullData[0].z[0][0]") == before


def test_names_are_drawn_letter_by_letter(opened, pages):
    names = ["<b>bold</b> &lt; %{y}", "var(--weight)"]
    layers = tuple(replace(layer, name=name, path="") for layer, name in zip(LAYERS, names, strict=True))
    runs = [pages / "<i>one.h5", pages / "&lt;two.h5"]
    for number, path in enumerate(runs):
        head = header(layers=layers)
        write_trajectory(path, head=head.with_attributes(run_id=str(number)), count=30)
    (pages / "names.html").write_text(report(runs, resamples=0), encoding="utf-8")
    page = opened("names", own=True)
    ticks = "[...document.querySelectorAll('#r0-layers-plot .ytick text')].map((tick) => tick.textContent)"
    assert sorted(page.evaluate(ticks)) == names
    legend = page.locator("#all-overlay-plot .legendtext")
    assert legend.all_text_contents() == ["<i>one", "&lt;two"]
    # By keyboard a run is shown or hidden, whatever it is called.
    page.locator("#all-overlay-plot .legendtoggle").last.focus()
    page.keyboard.press("Enter")
    shown = "document.getElementById('all-overlay-plot')._fullData.map((trace) => trace.visible)"
    until(page, f"String({shown})", "true,true,legendonly,legendonly")


def luminance(color):
    channels = [int(part) / 255 for part in color[color.index("(") + 1 : -1].split(",")[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_what_is_drawn_stands_out_in_light_and_dark(opened, scheme):
    # Who has chosen a theme is no longer asked by the system.
    page = opened("one", scheme=scheme, own=True)
    ground = luminance(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert (ground < 0.1) == (scheme == "dark")
    colors = page.evaluate(
        """() => [...document.querySelectorAll("#r0-curves-plot .scatterlayer .js-line")]
             .map((line) => getComputedStyle(line).stroke)
             .concat([getComputedStyle(document.querySelector("#r0-curves-plot .xtick text")).fill])"""
    )
    for color, least in zip(colors, (3, 3, 4.5), strict=True):
        high, low = sorted((luminance(color), ground), reverse=True)
        assert (high + 0.05) / (low + 0.05) >= least
    page.locator("#theme").click()
    assert (luminance(page.evaluate("getComputedStyle(document.body).backgroundColor")) < 0.1) == (scheme == "light")


@pytest.mark.parametrize("name", ["one", "several"])
@pytest.mark.parametrize("width", [375, 1100])
def test_nothing_is_wider_than_the_window(opened, name, width):
    page = opened(name, width=width)
    ends = "[...document.querySelectorAll('.plot .main-svg')].map((one) => one.getBoundingClientRect().right)"
    until(page, f"document.documentElement.scrollWidth <= {width} && Math.max(...{ends}) <= {width}")


def test_a_printed_page_holds_all_runs_in_light(opened):
    page = opened("several", scheme="dark", own=True)
    total = page.locator(".plot").count()
    assert int(page.evaluate("document.documentElement.dataset.drawn")) < total
    page.evaluate(
        """() => addEventListener("beforeprint", () => {
             const right = (one) => one.getBoundingClientRect().right;
             window.printed = Math.max(...[...document.querySelectorAll(".plot .main-svg")].map(right));
           })"""
    )
    content = page.pdf(format="A4")
    assert content.startswith(b"%PDF")
    # A4 has 794 pixels, a letter 816, less the margins.
    assert 600 < page.evaluate("window.printed") < 720
    assert page.evaluate("document.documentElement.dataset.drawn") == str(total)
    page.emulate_media(media="print")
    until(page, THEME, "light")
    page.emulate_media(media="screen")
    until(page, THEME, "dark")


def test_folded_runs_open_by_keyboard_and_by_link(opened):
    page = opened("several", own=True)
    assert page.evaluate("document.getElementById('r1-curves-plot')._fullData === undefined")
    page.locator("#run1 > summary").focus()
    page.keyboard.press("Enter")
    until(page, "document.getElementById('r1-curves-plot')._fullData !== undefined")
    page.get_by_role("navigation").get_by_text("full").click()
    until(page, "document.getElementById('r2-raw-plot')._fullData !== undefined")


@pytest.mark.parametrize(("name", "scheme", "width"), [("one", "light", 1100), ("several", "dark", 375)])
def test_axe_finds_nothing_serious(opened, name, scheme, width):
    page = opened(name, scheme=scheme, width=width, own=True, bypass_csp=True)
    if name == "one":
        page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    assert serious_findings(page) == []
