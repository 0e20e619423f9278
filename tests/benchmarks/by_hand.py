"""What a user writes by hand, a process of its own: hooks on the ReLU modules, differences in torch.

Prints, as JSON, at which second since it was started each checkpoint was done.
"""

import argparse
import json
import time
from pathlib import Path

import torch
from models import CASES
from torch import nn


def changes(masks, before_masks, weights, before_weights):
    """Return mean |Δw| and the mean share of units that flipped, as one writes it with torch."""
    pattern = [(a != b).float().mean().item() for a, b in zip(masks, before_masks, strict=True)]
    weight = sum((weights[name] - before_weights[name]).abs().sum().item() for name in weights)
    return weight / sum(tensor.numel() for tensor in weights.values()), sum(pattern) / len(pattern)


def follow(model, paths, observe):
    """Load each checkpoint into `model`, observe its masks, compare neighbours; yield the two changes."""
    names = [name for name, _ in model.named_parameters()]
    before = None
    for path in paths:
        state = torch.load(path, weights_only=True)["model"]
        model.load_state_dict(state)
        with torch.no_grad():
            current = observe(), {name: state[name] for name in names}
            change = None if before is None else changes(current[0], before[0], current[1], before[1])
        before = current
        yield change


def hooked(model, probe):
    """Return a forward pass with a hook on every ReLU module."""
    masks = []
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.register_forward_hook(lambda _module, _inputs, output: masks.append(output > 0))

    def observe():
        masks.clear()
        model(probe)
        return list(masks)

    return observe


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", choices=CASES)
    parser.add_argument("folder", type=Path)
    parser.add_argument("count", type=int, help="of checkpoints")
    options = parser.parse_args()
    case = CASES[options.model]
    model = case.make().eval()
    times = []
    for _ in follow(model, sorted(options.folder.glob("*.pt"))[: options.count], hooked(model, case.probe())):
        times.append(time.perf_counter())
    print(json.dumps(times))


if __name__ == "__main__":
    main()
