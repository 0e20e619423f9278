"""Measures how often the intervals by the noise of a run hold the truth, and how wide they are."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from noisy_runs import TRENDS, coverage

from regime_proto.analyzer.readings import PRESETS

CASES = [(72, 1, 0.0, 0.2), (300, 10, 0.0, 0.2), (300, 10, 0.5, 0.2), (1000, 30, 0.5, 0.3)]


def main():
    """Print a table."""
    print("| trends | changes | window | correlation | noise | hold AUC_W, AUC_P, ρ | error / true spread |")
    print("|---" * 7 + "|")
    for shape, trend in TRENDS.items():
        for intervals, width, correlation, level in CASES:
            held, ratio = coverage(
                trend, width, PRESETS["paper"], repeats=1000, simulations=300, resamples=200,
                intervals=intervals, correlation=correlation, level=level,
            )  # fmt: skip
            shares, ratios = (", ".join(f"{value:.2f}" for value in values) for values in (held, ratio))
            print(f"| {shape} | {intervals} | {width} | {correlation} | {level} | {shares} | {ratios} |", flush=True)


if __name__ == "__main__":
    main()
