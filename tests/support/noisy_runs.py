"""Runs whose true spread is known, because they can be made again and again."""

import numpy as np
from scipy.signal import lfilter

from regime_proto.analyzer.areas import area_of
from regime_proto.analyzer.resampling import areas_of_other_courses
from regime_proto.analyzer.uncertainty import interval

TRENDS = {
    "exponential": lambda time: (np.exp(-time / 0.3) + 0.02, np.exp(-time / 0.1) + 0.02),
    "fast": lambda time: (1 / (1 + 50 * time), np.exp(-time / 0.02) + 0.05),
    "flat": lambda time: (0.9 + 0.1 * np.exp(-time / 0.1), np.exp(-time / 0.1) + 0.02),
    "linear": lambda time: (1.02 - time, 1.02 - np.sqrt(time)),
}


def noisy(trend, random, *, intervals, correlation, level):
    """One run: two trends times noise that is correlated in time and between them."""

    def noise():
        white = random.standard_normal(intervals) * np.sqrt(1 - correlation**2)
        return lfilter([1], [1, -correlation], white)

    common = noise()
    curves = trend(np.arange(intervals) / intervals)
    return [curve * np.abs(1 + level * np.sqrt(0.5) * (common + noise())) for curve in curves]


def numbers(weights, patterns, width, reading):
    auc_w, auc_p = (float(area_of(curve, np.ones(len(curve)), width, reading)) for curve in (weights, patterns))
    return auc_w, auc_p, np.log(auc_w / auc_p)


def coverage(trend, width, reading, *, repeats, simulations, resamples, **noise):
    """Return, for AUC_W, AUC_P and log ρ: the share of intervals that hold the true mean, and error over true spread.

    The truth is the mean and the standard deviation of the protocol's numbers over `repeats` runs.
    """
    random = np.random.default_rng(1)
    repeated = np.array([numbers(*noisy(trend, random, **noise), width, reading) for _ in range(repeats)])
    held, errors = np.zeros(3), []
    for seed in range(simulations):
        curves = noisy(trend, random, **noise)
        lengths = np.ones(len(curves[0]))
        drawn = areas_of_other_courses(
            *curves, lengths=lengths, width=width, reading=reading, resamples=resamples, seed=seed
        )
        drawn = np.column_stack([drawn, np.log(drawn[:, 0] / drawn[:, 1])])
        found = [interval(value, of) for value, of in zip(numbers(*curves, width, reading), drawn.T, strict=True)]
        held += [one.low <= true <= one.high for one, true in zip(found, repeated.mean(0), strict=True)]
        errors.append([one.error for one in found])
    return held / simulations, np.mean(errors, axis=0) / repeated.std(axis=0)
