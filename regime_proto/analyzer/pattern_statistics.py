"""How many patterns a layer has on the probe, and how evenly they are used; from stored masks."""

import itertools
from dataclasses import dataclass

import numpy as np
import xarray as xr

from regime_proto.analyzer.masks import MaskSelection, select_masks
from regime_proto.schema.header import Layer
from regime_proto.schema.numbers import finite
from regime_proto.schema.types import Array

# Pairs of samples that the first indicator is averaged over; of fewer samples all pairs are taken.
_PAIRS = 300
_SEED = 0


@dataclass(frozen=True)
class PatternStatistics:
    """Statistics of the patterns of a run's layers on the probe.

    Parameters
    ----------
    steps : (pick,) int64
        Observations that are looked at, evenly spaced among those whose masks are stored.
    layers : tuple of str
    samples : int
        Samples that are looked at.
    distinct : (pick, layer) int64
        Different patterns among the samples (Hartmann et al. 2021, who count them over the training set).
    entropy : (pick, layer) float64
        Of the patterns, in bits: −Σ p log₂ p, at most log₂ of the samples.
    jaccard_first, jaccard_last : (pick, layer) float64
        Patterns in common with the first, and with the last of the picks, as a share of those that either has.
    distinct_regions : (pick,) int64
        Different patterns of the whole network: the regions that the probe visits.
    oui_pairs : (pick, layer) float64
        Overfitting-underfitting indicator (2025, its code): mean over pairs of samples of min(Hamming distance, ⌊n/2⌋)
        / ⌊n/2⌋ for n units.
    oui_units : (pick, layer) float64
        The indicator of OUIDecay: mean over units of min(s, B − s) / ⌊B/2⌋, where s of B samples have the unit on.
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
        """Return plain values: the layers' mean at each step, and the layers themselves at the last one."""
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
    """Return the mean over the layers, (pick,) float64, given (pick, layer); NaN where none is known."""
    known = np.isfinite(values)
    counts = known.sum(axis=1)
    mean: Array = np.where(counts > 0, np.where(known, values, 0).sum(axis=1) / np.maximum(counts, 1), np.nan)
    return mean


def pattern_statistics(trajectory: xr.Dataset) -> PatternStatistics | None:
    """Return the statistics of a trajectory's patterns; None where fewer than two masks are stored.

    Parameters
    ----------
    trajectory : xarray.Dataset
        What `open_trajectory` returned.
    """
    selection = select_masks(trajectory)
    return None if selection is None else statistics_of(selection)


def statistics_of(selection: MaskSelection) -> PatternStatistics:
    """Return the statistics of masks that were read."""
    return PatternStatistics(
        steps=selection.steps,
        layers=tuple(layer.name for layer in selection.layers),
        samples=selection.masks.shape[1],
        distinct_regions=np.array([len(_counts(rows)) for rows in selection.masks]),
        **{name: np.stack(columns, axis=1) for name, columns in _columns(selection).items()},
    )


def _columns(selection: MaskSelection) -> dict[str, list[Array]]:
    """Return every statistic by its name, a column for each layer."""
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
    """Return how many samples have each pattern, given (sample, byte) uint8."""
    found: dict[bytes, int] = {}
    for row in rows:
        pattern = row.tobytes()
        found[pattern] = found.get(pattern, 0) + 1
    return found


def _entropy(counts: dict[bytes, int]) -> float:
    shares = np.array(list(counts.values())) / sum(counts.values())
    # Of one pattern it would be -0.
    return abs(float(np.sum(shares * np.log2(shares))))


def _jaccard(counts: dict[bytes, int], others: dict[bytes, int]) -> float:
    return len(counts.keys() & others.keys()) / len(counts.keys() | others.keys())


def _pairs(samples: int) -> Array:
    """Return pairs of different samples, (pair, 2) int64: all, or some drawn at random, always the same."""
    pairs = np.array(list(itertools.combinations(range(samples), 2)), np.int64).reshape(-1, 2)
    if len(pairs) <= _PAIRS:
        return pairs
    return pairs[np.sort(np.random.default_rng(_SEED).choice(len(pairs), _PAIRS, replace=False))]


def _pairs_apart(rows: Array, layer: Layer, units: Array, pairs: Array) -> float:
    """Return min(Hamming distance, ⌊n/2⌋) / ⌊n/2⌋, the mean over pairs of samples; NaN without pairs or units."""
    planes = rows.reshape(len(rows), len(layer.thresholds), -1)
    apart = np.bitwise_or.reduce(planes[pairs[:, 0]] ^ planes[pairs[:, 1]], axis=1)
    distances = np.bitwise_count(apart).sum(axis=1, dtype=np.int64)
    half = np.minimum(units[pairs[:, 0]], units[pairs[:, 1]]) // 2
    known = half > 0
    if not known.any():
        return float("nan")
    return float(np.mean(np.minimum(distances[known], half[known]) / half[known]))


def _split_units(rows: Array, layer: Layer) -> float:
    """Return min(s, B − s) / ⌊B/2⌋, the mean over units; NaN of one sample. Units of padding count as off."""
    samples = len(rows)
    if samples < 2:
        return float("nan")
    first = rows.reshape(samples, len(layer.thresholds), -1)[:, 0]
    on = np.unpackbits(first, axis=1, count=layer.width).sum(axis=0, dtype=np.int64)
    return float(np.mean(np.minimum(on, samples - on)) / (samples // 2))
