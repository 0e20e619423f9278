"""How far one network with one sequence of weights measures alike in five frameworks: bits, Δw and ρ."""

import os
import sys
import tempfile
import warnings
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "jax")
sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

import frameworks
import numpy as np
from frameworks import CASES, masks, measured


def main():
    print("| network | framework | bits | differ | largest relative difference of Δw | ρ | ρ in torch |")
    print("|---|---|---|---|---|---|---|")
    reference = {}
    for network, framework in CASES:
        layers = frameworks.NETWORKS[network]
        states = frameworks.trained(layers)
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if network not in reference:
                reference[network] = measured("torch", layers, states, Path(folder))
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found, result = measured(framework, layers, states, Path(folder))
        expected, in_torch = reference[network]
        pairs = list(zip(masks(found, layers, framework), masks(expected, layers, "torch"), strict=True))
        bits = sum(ours.size for ours, _ in pairs)
        differ = sum(int((ours != theirs).sum()) for ours, theirs in pairs)
        deltas = [one["weight_delta_l1"].values[1:].sum(axis=1) for one in (found, expected)]
        largest = np.abs(deltas[0] / deltas[1] - 1).max()
        rho = f"{result.rho:.6f} | {in_torch.rho:.6f}"
        print(f"| {network} | {framework} | {bits:,} | {differ} | {largest:.0e} | {rho} |", flush=True)


if __name__ == "__main__":
    main()
