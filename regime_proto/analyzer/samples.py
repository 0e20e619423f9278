"""The pattern change of every probe sample, and of probes with a different choice of samples."""

from dataclasses import dataclass

import numpy as np
import xarray as xr

from regime_proto.analyzer.series import by_blocks, usable_intervals
from regime_proto.schema.types import Array


@dataclass(frozen=True)
class SampleChanges:
    """Δa, split by sample.

    Layers whose units are distributed over the samples in the same way form a group. Each sample's share of the units
    is the same in all layers of a group, so the layers can be summed before samples are chosen.

    Parameters
    ----------
    parts : tuple of (interval, sample) float64
        For every group, the flips of each sample divided by the units of all samples, summed over the layers and
        divided by the number of all layers.
    shares : tuple of (sample,) float64
        For every group, each sample's share of the units.
    """

    parts: tuple[Array, ...]
    shares: tuple[Array, ...]

    @property
    def samples(self) -> int:
        """Number of probe samples."""
        return len(self.shares[0])

    def of_each(self) -> Array:
        """Return Δa of every sample, (interval, sample) float64: mean over the layers of the share that flipped."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(sum(part / share for part, share in zip(self.parts, self.shares, strict=True)))

    def of_choice(self, counts: Array) -> Array:
        """Return Δa of probes that contain sample x ``counts[x]`` times.

        Parameters
        ----------
        counts : (sample, probe) int

        Returns
        -------
        (interval, probe) float64
        """
        pairs = zip(self.parts, self.shares, strict=True)
        return np.asarray(sum(part @ counts / (share @ counts) for part, share in pairs))


def read_sample_changes(trajectory: xr.Dataset) -> SampleChanges:
    """Return the pattern changes of a trajectory by sample; all layers have the same weight (Eq. 3)."""
    units = trajectory["layer_units"].to_numpy().astype(np.float64)
    counted = units.sum(axis=1) > 0
    units = units[counted]
    totals = units.sum(axis=1)
    shares, group = np.unique(units / totals[:, None], axis=0, return_inverse=True)
    weights = np.zeros((len(shares), len(units)))
    weights[group.ravel(), np.arange(len(units))] = 1 / (totals * len(units))

    def parts(flips: Array) -> Array:
        # (observation, layer, sample) becomes (observation, group, sample).
        return np.asarray(weights @ flips[:, counted].astype(np.float64))

    found = by_blocks(trajectory["flips"], usable_intervals(trajectory), parts)
    return SampleChanges(tuple(np.moveaxis(found, 1, 0)), tuple(shares))
