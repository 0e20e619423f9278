"""Computes from stored masks how many patterns a layer has on the probe, and how evenly they are used."""

import itertools
from dataclasses import dataclass

import numpy as np
import xarray as xr

from regime_proto.analyzer.masks import MaskSelection, select_masks
from regime_proto.schema.header import Layer
from regime_proto.schema.numbers import finite
from regime_proto.schema.types import Array

# Number of pairs of samples over which the first indicator is averaged; with few samples, all pairs are used.
_PAIRS = 300
_SEED = 0


@dataclass(frozen=True)
class PatternStatistics:
    """Statistics of the patterns of a run's layers on the probe.

    Parameters
    ----------
    steps : (pick,) int64
        Steps of the selected observations, evenly spaced among those whose masks are stored.
    layers : tuple of str
    samples : int
        Number of selected samples.
    distinct : (pick, layer) int64
        Number of different patterns among the samples (Hartmann et al. 2021, who count over the training set).
    entropy : (pick, layer) float64
        Entropy of the patterns in bits, −Σ p log₂ p; at most log₂ of the number of samples.
    jaccard_first, jaccard_last : (pick, layer) float64
        Patterns shared with the first (last) pick, as a fraction of the patterns that occur in either.
    distinct_regions : (pick,) int64
        Number of different patterns of the whole network, which is the number of regions that the probe visits.
    oui_pairs : (pick, layer) float64
        Overfitting-underfitting indicator (2025, its code): mean over pairs of samples of min(Hamming distance, ⌊n/2⌋)
        / ⌊n/2⌋ for n units.
    oui_units : (pick, layer) float64
        The indicator of OUIDecay: mean over units of min(s, B − s) / ⌊B/2⌋, where the unit is on for s of B samples.
    """

    steps: Array
    layers: tuple[str, ...]
    samples: int
    distinct: Array
    entropy: Array
    jaccard_first: Array
    jaccard_last: Array
    distinct_regions: Array
    oui_pairs: Array
    oui_units: Array

    def to_json(self) -> dict[str, object]:
        """Return plain values: the mean over the layers at each step, and every layer at the last step."""
        named = {
            "distinct_patterns": self.distinct,
            "pattern_entropy": self.entropy,
            "jaccard_first": self.jaccard_first,
            "jaccard_last": self.jaccard_last,
            "oui_pairs": self.oui_pairs,
            "oui_units": self.oui_units,
        }
        return {
            "steps": self.steps.tolist(),
            "samples": self.samples,
            "distinct_regions": self.distinct_regions.tolist(),
            **{name: [*map(finite, over_layers(values).tolist())] for name, values in named.items()},
            "layers_at_last_step": [
                {"layer": layer, **{name: finite(float(values[-1, index])) for name, values in named.items()}}
                for index, layer in enumerate(self.layers)
            ],
        }


def over_layers(values: Array) -> Array:
    """Return the mean over the layers, (pick,) float64, given (pick, layer); NaN if no layer is known."""
    known = np.isfinite(values)
    counts = known.sum(axis=1)
    mean: Array = np.where(counts > 0, np.where(known, values, 0).sum(axis=1) / np.maximum(counts, 1), np.nan)
    return mean


def pattern_statistics(trajectory: xr.Dataset) -> PatternStatistics | None:
    """Return the statistics of a trajectory's patterns; None if fewer than two masks are stored.

    Parameters
    ----------
    trajectory : xarray.Dataset
        The result of `open_trajectory`.
    """
    selection = select_masks(trajectory)
    return None if selection is None else statistics_of(selection)


def statistics_of(selection: MaskSelection) -> PatternStatistics:
    """Return the statistics of selected masks."""
    return PatternStatistics(
        steps=selection.steps,
        layers=tuple(layer.name for layer in selection.layers),
        samples=selection.masks.shape[1],
        distinct_regions=np.array([len(_counts(rows)) for rows in selection.masks]),
        **{name: np.stack(columns, axis=1) for name, columns in _columns(selection).items()},
    )


def _columns(selection: MaskSelection) -> dict[str, list[Array]]:
    """Return every statistic by name, with one column per layer."""
    stops = np.cumsum([layer.bytes for layer in selection.layers])
    pairs = _pairs(selection.masks.shape[1])
    found: dict[str, list[Array]] = {}
    for layer, stop, units in zip(selection.layers, stops, selection.units, strict=True):
        masks = selection.masks[:, :, stop - layer.bytes : stop]
        counts = [_counts(rows) for rows in masks]
        column = {
            "distinct": [len(one) for one in counts],
            "entropy": [_entropy(one) for one in counts],
            "jaccard_first": [_jaccard(one, counts[0]) for one in counts],
            "jaccard_last": [_jaccard(one, counts[-1]) for one in counts],
            "oui_pairs": [_pairs_apart(rows, layer, units, pairs) for rows in masks],
            "oui_units": [_split_units(rows, layer) for rows in masks],
        }
        for name, values in column.items():
            found.setdefault(name, []).append(np.array(values))
    return found


def _counts(rows: Array) -> dict[bytes, int]:
    """Return the number of samples with each pattern, given (sample, byte) uint8."""
    found: dict[bytes, int] = {}
    for row in rows:
        pattern = row.tobytes()
        found[pattern] = found.get(pattern, 0) + 1
    return found


def _entropy(counts: dict[bytes, int]) -> float:
    shares = np.array(list(counts.values())) / sum(counts.values())
    # For a single pattern, the sum would be -0.
    return abs(float(np.sum(shares * np.log2(shares))))


def _jaccard(counts: dict[bytes, int], others: dict[bytes, int]) -> float:
    return len(counts.keys() & others.keys()) / len(counts.keys() | others.keys())


def _pairs(samples: int) -> Array:
    """Return pairs of different samples, (pair, 2) int64: all, or a random selection with a fixed seed."""
    pairs = np.array(list(itertools.combinations(range(samples), 2)), np.int64).reshape(-1, 2)
    if len(pairs) <= _PAIRS:
        return pairs
    return pairs[np.sort(np.random.default_rng(_SEED).choice(len(pairs), _PAIRS, replace=False))]


def _pairs_apart(rows: Array, layer: Layer, units: Array, pairs: Array) -> float:
    """Return the mean of min(Hamming distance, ⌊n/2⌋) / ⌊n/2⌋ over pairs of samples; NaN without pairs or units."""
    planes = rows.reshape(len(rows), len(layer.thresholds), -1)
    apart = np.bitwise_or.reduce(planes[pairs[:, 0]] ^ planes[pairs[:, 1]], axis=1)
    distances = np.bitwise_count(apart).sum(axis=1, dtype=np.int64)
    half = np.minimum(units[pairs[:, 0]], units[pairs[:, 1]]) // 2
    known = half > 0
    if not known.any():
        return float("nan")
    return float(np.mean(np.minimum(distances[known], half[known]) / half[known]))


def _split_units(rows: Array, layer: Layer) -> float:
    """Return the mean of min(s, B − s) / ⌊B/2⌋ over units; NaN for one sample. Padding units count as off."""
    samples = len(rows)
    if samples < 2:
        return float("nan")
    first = rows.reshape(samples, len(layer.thresholds), -1)[:, 0]
    on = np.unpackbits(first, axis=1, count=layer.width).sum(axis=0, dtype=np.int64)
    return float(np.mean(np.minimum(on, samples - on)) / (samples // 2))
