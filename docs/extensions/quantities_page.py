"""Writes the page of quantities from their records: a table of all, and a section for those that have one formula."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from regime_proto.quantities.base import REFERENCES, Quantity
from regime_proto.quantities.installed import GROUP, GROUPS, known_quantities

if TYPE_CHECKING:
    # Tests read this module without Sphinx.
    from sphinx.application import Sphinx
    from sphinx.util.typing import ExtensionMetadata

MARK = "<!-- quantities -->"

# How the definitions of the records are set. A record holds plain text, which is what a file shows.
FORMULAS = {
    "flips": r"\sum_u \left[\, r_{i,u} \ne r_{i-1,u} \,\right]",
    "weight_delta_l1": r"\sum_k \lvert w_{i,k} - w_{i-1,k} \rvert",
    "weight_delta_l2": r"\sqrt{\sum_k (w_{i,k} - w_{i-1,k})^2}",
    "weight_norm_l2": r"\sqrt{\sum_k w_{i,k}^2}",
    "weight_distance_l2": r"\sqrt{\sum_k (w_{i,k} - w_{0,k})^2}",
    "weight_dot": r"\sum_k w_{i,k} \, w_{j,k}",
    "amplitude_distance": r"\tfrac{1}{K} \sum_{k=1}^{K} \lvert A_{i,(k)} - A_{j,(k)} \rvert , \quad "
    r"A_{i,k} = \sqrt{\sum_n w_{i,kn}^2 + b_{i,k}^2}",
    "active_fraction": r"\sum_u m_{i,u} \;/\; (\text{thresholds} \cdot \text{units})",
    "margin": r"\min_u \lvert z_{i,u} - \theta_u \rvert",
    "preactivation_rms": r"\sqrt{\operatorname{mean}_u z_{i,u}^2}",
    "interior_flips": r"\sum_u \left[\, r_{i,u} = r_{i-1,u} \;\text{and}\; "
    r"r_u(w_{i-1} + \tfrac{n}{N+1}(w_i - w_{i-1})) \ne r_{i,u} \;\text{for some}\; n \,\right]",
    "output_change_l2": r"\lVert f(x; w_i) - f(x; w_{i-1}) \rVert_2",
    "fingerprint_cosine": r"\operatorname{mean}_x \cos\left(h_i(x), h_{i-1}(x)\right)",
    "fingerprint_cosine_pooled": r"\cos\left(h_i, h_{i-1}\right)",
    "quantitative_change_l2": r"\lVert q \rVert_2 , \quad q = \tfrac{1}{2}\left[ f(w_i \mid m_j) - f(w_j \mid m_j) "
    r"+ f(w_i \mid m_i) - f(w_j \mid m_i) \right]",
    "structural_change_l2": r"\lVert s \rVert_2 , \quad s = \tfrac{1}{2}\left[ f(w_j \mid m_i) - f(w_j \mid m_j) "
    r"+ f(w_i \mid m_i) - f(w_i \mid m_j) \right]",
    "structural_quantitative_dot": r"\langle q, s \rangle",
    "structural_order_l2": r"\lVert t \rVert_2 , \quad t = f(w_i \mid m_i) - f(w_i \mid m_j) - f(w_j \mid m_i) "
    r"+ f(w_j \mid m_j)",
}

CHAPTERS = ("Always measured", "Weights", "Patterns", "Function")


def own_quantities() -> dict[str, Quantity]:
    """Return the quantities of this distribution; others may be installed where the manual is built."""
    ours = {entry.name for entry in entry_points(group=GROUP) if entry.value.startswith("regime_proto.")}
    return {name: quantity for name, quantity in known_quantities().items() if name in ours}


def family(quantity: Quantity) -> str:
    """Return the name without the observation that the quantity is compared with, where others differ only in that."""
    stem, _, last = quantity.name.rpartition("_")
    return stem if last == quantity.against and stem in FORMULAS else quantity.name


def chapter(quantity: Quantity) -> str:
    if quantity.is_built_in:
        return CHAPTERS[0]
    for title in CHAPTERS[1:3]:
        if GROUPS[title.lower()](quantity):
            return title
    return CHAPTERS[3]


def page(known: Mapping[str, Quantity]) -> str:
    """Return the generated part of the page, in Markdown."""
    families: dict[str, list[Quantity]] = {}
    for quantity in known.values():
        families.setdefault(family(quantity), []).append(quantity)
    for alike in families.values():
        alike.sort(key=lambda quantity: ("", *REFERENCES).index(quantity.against))
    lines = ["| quantity | compared with | one value for each | needs |", "|---|---|---|---|"]
    chapters: dict[str, list[str]] = {title: [] for title in CHAPTERS}
    for name, alike in families.items():
        chapters[chapter(alike[0])].append(name)
    for name in (name for names in chapters.values() for name in names):
        first = families[name][0]
        against = ", ".join(quantity.against for quantity in families[name]) or "–"
        lines.append(f"| [{name}](#{slug(name)}) | {against} | {per(first)} | {', '.join(first.needs)} |")
    for title, names in chapters.items():
        lines += ["", f"## {title}", ""]
        for name in names:
            lines += section(name, families[name])
    return "\n".join(lines)


def slug(name: str) -> str:
    return name.lower().replace(" ", "-")


def per(quantity: Quantity) -> str:
    return " and ".join(("step", *quantity.dims))


def section(name: str, alike: list[Quantity]) -> Iterator[str]:
    """Yield the section of quantities that differ only in the observation they are compared with."""
    first = alike[0]
    facts = {
        "names": ", ".join(f"`{quantity.name}`" for quantity in alike) if len(alike) > 1 else "",
        "one value for each": per(first),
        "compared with": either([f"the {quantity.against} observation" for quantity in alike if quantity.against]),
        "unit": "" if first.unit == "1" else first.unit,
        "curve": f"{in_words(first.curve)} over {' and '.join(first.dims)}" if first.dims else "",
        "needs": ", ".join(first.needs),
        "cost": first.cost,
        "while recording": "measured" if all(quantity.is_recordable for quantity in alike) else recordable(alike),
        "variable": ", ".join(f"`{quantity.stored.variable.name}`" for quantity in alike),
        "definition in the file": f"`{first.definition}`",
        "source": first.source,
    }
    yield from (f"### {name}", "", f"{sentence(first, alike)}", "")
    if name in FORMULAS:
        yield from ("$$", FORMULAS[name], "$$", "")
    for fact, value in facts.items():
        if value:
            yield f":{fact}: {value}"
    yield ""


def sentence(first: Quantity, alike: list[Quantity]) -> str:
    meaning = first.meaning
    if len(alike) > 1:
        meaning = re.sub(rf",? (against|from|with|to) the {first.against} observation", "", meaning)
    return meaning[0].upper() + meaning[1:].rstrip(".") + "."


def in_words(curve: str) -> str:
    return curve.replace("_", " ").replace("root sum squares", "root of the sum of squares")


def recordable(alike: Iterable[Quantity]) -> str:
    names = [f"`{quantity.name}`" for quantity in alike if quantity.is_recordable]
    return f"{either(names)} only" if names else "not measured"


def either(words: list[str]) -> str:
    return " or ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))


def fill(app: Sphinx, docname: str, source: list[str]) -> None:
    if docname == "quantities":
        source[0] = source[0].replace(MARK, page(own_quantities()))


def setup(app: Sphinx) -> ExtensionMetadata:
    app.connect("source-read", fill)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
