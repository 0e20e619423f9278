"""Fills the templates of pages; each page is one self-contained HTML file."""

from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from regime_proto import __version__
from regime_proto.report.figure import Figure, Table
from regime_proto.schema.errors import RegimeError
from regime_proto.schema.text import printable


def require_libraries() -> tuple[Any, Any]:
    """Return the modules jinja2 and plotly.

    Raises
    ------
    RegimeError
        The extra `report` is not installed.
    """
    try:
        import jinja2
        import plotly.offline
    except ModuleNotFoundError as error:
        raise RegimeError(f'a report needs {error.name}: pip install "regime-proto[report]"') from None
    return jinja2, plotly


def fill(template: str, **values: object) -> str:
    """Return a page.

    Parameters
    ----------
    template : str
        Name of an asset that extends ``frame.html.j2``.
    **values
        Variables of the template, including ``title``.

    Raises
    ------
    RegimeError
        The extra `report` is not installed.
    """
    jinja2, plotly = require_libraries()
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_asset),
        autoescape=True,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return str(
        environment.get_template(template).render(
            css=_asset("page.css"),
            script=_asset("page.js"),
            library=plotly.offline.get_plotlyjs(),
            version=__version__,
            **values,
        )
    )


def sheet(
    title: str, *, about: str, results: Table, lines: Sequence[str], figures: Sequence[Figure], footer: str
) -> str:
    """Return a page of one table, with sentences and figures below it.

    Parameters
    ----------
    title, about, footer : str
        Texts at the top, below the title, and at the bottom.
    results : Table
    lines : sequence of str
    figures : sequence of Figure

    Raises
    ------
    RegimeError
        The extra `report` is not installed.
    """
    return fill(
        "sheet.html.j2",
        title=title,
        about=about,
        heading="Results",
        results=results,
        lines=lines,
        figures=figures,
        footer=footer,
    )


def _shown(value: object) -> object:
    """Return the filled template. Only text marked as safe is not escaped; it comes from here, never from a file."""
    return value if hasattr(value, "__html__") else printable(str(value), keep="\t\n")


def _asset(name: str) -> str:
    return (files("regime_proto.report.page") / "assets" / name).read_text(encoding="utf-8")
