"""The slow way: forward hooks on every call of a ReLU in torch, and sums in float64. No cleverness."""

import copy

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn


class Recorder:
    """Collects the input of every ReLU that is called, in order."""

    def __init__(self):
        self.activations = []

    def __enter__(self):
        # nn.ReLU and functional calls both end here.
        self.original = F.relu
        F.relu = self.relu
        return self

    def __exit__(self, *_):
        F.relu = self.original

    def relu(self, values, *args, **kwargs):
        self.activations.append(values.detach().clone())
        return self.original(values, *args, **kwargs)


def pre_activations(model, state, probe, sample_axes):
    """Return z of every gate as (sample, unit) float32 arrays."""
    model = copy.deepcopy(model)
    model.load_state_dict(state)
    model.eval()
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoderLayer):
            module.activation = lambda values: F.relu(values)
            # The fused inference path calls no ReLU that could be seen.
            module.activation_relu_or_gelu = 0
    with Recorder() as recorder:
        model(torch.from_numpy(probe))
    return [
        np.moveaxis(z.numpy(), axis, 0).reshape(len(probe), -1)
        for z, axis in zip(recorder.activations, sample_axes, strict=True)
    ]


def flips(before, after):
    """Return (layer, sample) counts of units whose sign regime changed."""
    return np.array([((a > 0) != (b > 0)).sum(axis=1) for a, b in zip(before, after, strict=True)])


def near_zero(z):
    """Units whose sign two correct engines may see differently."""
    rms = np.sqrt(np.mean(np.square(z), dtype=np.float64))
    return np.abs(z) <= 1e-5 * max(1.0, rms)


def weight_deltas(names, before, after):
    """Return Σ|Δ| and √ΣΔ² of every tensor, in float64."""
    deltas = [after[name].double() - before[name].double() for name in names]
    return np.array([d.abs().sum().item() for d in deltas]), np.array([d.square().sum().sqrt().item() for d in deltas])


def rho(weight_change, pattern_change, window):
    """Return ρ of the `paper` preset by definition, one value after the other."""

    def auc(series):
        smoothed = np.convolve(series, np.full(window, 1 / window), mode="same")
        low, high = np.percentile(smoothed, [0.5, 99.5])
        return np.mean([min(max((value - low) / (high - low), 0), 1) for value in smoothed])

    return auc(weight_change) / auc(pattern_change)
