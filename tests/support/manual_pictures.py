"""Draws the pictures of the manual, light and dark: its wordmark, and the curves of `regime demo` on the first page."""

import tempfile
from pathlib import Path

import numpy as np
from folders import ROOT
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath

import regime_proto
from regime_proto.cli.main import main

FOLDER = ROOT / "docs/pictures"

# Those of the report.
SCHEMES = {
    "light": {"weight": "#0072b2", "pattern": "#c14b00", "text": "#1b1f24", "grid": "#d5dae0"},
    "dark": {"weight": "#56b4e9", "pattern": "#ff9a52", "text": "#e6e9ed", "grid": "#3b444e"},
}


def wordmark(colors):
    """Return the logo: two falling curves and the name, whose letters are outlines."""
    letters = TextPath((54, 0), "regime", size=34, prop=FontProperties(family="DejaVu Sans", weight="bold"))
    outline = []
    for points, code in letters.iter_segments(curves=True, simplify=False):
        pairs = [f"{x:.1f} {30 - y:.1f}" for x, y in np.reshape(points, (-1, 2))]
        outline.append({1: "M", 2: "L", 3: "Q", 4: "C"}.get(code, "Z") + (" ".join(pairs) if code != 79 else ""))
    width = letters.get_extents().x1 + 2
    return f"""\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} 42" role="img" aria-label="regime">
<path d="M4 5C16 6 17 31 44 33" fill="none" stroke="{colors["weight"]}" stroke-width="5" stroke-linecap="round"/>
<path d="M4 5C9 22 12 33 24 33H44" fill="none" stroke="{colors["pattern"]}" stroke-width="5" stroke-linecap="round"/>
<path d="{"".join(outline)}" fill="{colors["text"]}"/>
</svg>
"""


def favicon(colors):
    return f"""\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 48 38">
<path d="M4 5C16 6 17 31 44 33" fill="none" stroke="{colors["weight"]}" stroke-width="6" stroke-linecap="round"/>
<path d="M4 5C9 22 12 33 24 33H44" fill="none" stroke="{colors["pattern"]}" stroke-width="6" stroke-linecap="round"/>
</svg>
"""


def curves(result, colors):
    """Return the two normalised curves of a run, their areas filled."""
    width, height, left, bottom = 560, 300, 46, 44
    steps = result.curves["step"].values
    across = left + (steps - steps[0]) / (steps[-1] - steps[0]) * (width - left - 12)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-size="14" '
    parts = [f'{head}font-family="system-ui, sans-serif" fill="{colors["text"]}">']

    def down(value):
        return height - bottom - value * (height - bottom - 14)

    for value in (0, 0.5, 1):
        parts.append(f'<path d="M{left} {down(value):.1f}H{width - 12}" stroke="{colors["grid"]}"/>')
        parts.append(f'<text x="{left - 8}" y="{down(value) + 5:.1f}" text-anchor="end">{value:g}</text>')
    for name, area, symbol, dashes in (
        ("weight", result.auc_w, "W", ""),
        ("pattern", result.auc_p, "P", ' stroke-dasharray="7 4"'),
    ):
        values = result.curves[f"{name}_normalised"].values
        line = "L".join(f"{x:.1f} {down(y):.1f}" for x, y in zip(across, values, strict=True))
        color = colors[name]
        parts.append(
            f'<path d="M{left} {down(0):.1f}L{line}L{across[-1]:.1f} {down(0):.1f}Z" fill="{color}" opacity=".16"/>'
        )
        parts.append(
            f'<path d="M{line}" fill="none" stroke="{color}" stroke-width="2.5" stroke-linejoin="round"{dashes}/>'
        )
        y = {"weight": 40, "pattern": 64}[name]
        parts.append(f'<path d="M250 {y - 5}h36" stroke="{color}" stroke-width="2.5"{dashes}/>')
        parts.append(
            f'<text x="296" y="{y}">{name}s: area AUC<tspan font-size="10" dy="3">{symbol}</tspan>'
            f'<tspan dy="-3"> = {area:.2f}</tspan></text>'
        )
    parts.append(f'<text x="296" y="88">ρ = {result.rho:.2f}</text>')
    parts.append(f'<text x="{(left + width) / 2:.0f}" y="{height - 8}" text-anchor="middle">training step</text>')
    for step in (steps[0], 20, 40, 60, steps[-1]):
        x = np.interp(step, steps, across)
        parts.append(f'<text x="{x:.0f}" y="{height - 27}" text-anchor="middle" font-size="12">{step}</text>')
    return "\n".join([*parts, "</svg>", ""])


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "demo"
        main(["demo", "--out", str(out), "--quiet"], standalone_mode=False)
        demo = regime_proto.analyze(f"{out}/checkpoints.regime.h5", resamples=0)
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / "favicon.svg").write_text(favicon(SCHEMES["light"]), encoding="utf-8")
    for scheme, palette in SCHEMES.items():
        (FOLDER / f"regime-{scheme}.svg").write_text(wordmark(palette), encoding="utf-8")
        (FOLDER / f"curves-{scheme}.svg").write_text(curves(demo, palette), encoding="utf-8")
