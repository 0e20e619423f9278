"""How much of what is still to be learned, and of what was learned, needs other patterns: on the digits.

A network 64-128-128-10 is trained with batches of 32 for 939 steps (21 epochs), by Adam and by SGD, and saved at some
steps. The structural share ‖s‖ / (‖s‖ + ‖q‖) against the last and against the first state is that of
`regime convert --measure function`, the mean over 26 samples of the probe. Against the state one step before, the same
is measured of all 940 states.
"""

import tempfile
from pathlib import Path

import numpy as np
import torch
from models import describe_machine, print_head, print_row
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from torch import nn

import regime_proto
from regime_proto.conversion.plan import write_program
from regime_proto.quantities.structure import structural_share

STEPS = (0, 10, 50, 100, 200, 500, 900, 939)
SAMPLES, BATCH = 26, 32
OPTIMIZERS = {
    "Adam, 1e-3": lambda parameters: torch.optim.Adam(parameters, lr=1e-3),
    "SGD, 0.1": lambda parameters: torch.optim.SGD(parameters, lr=0.1),
}


def train(make_optimizer, folder, saved=STEPS):
    """Train, and save the states at some steps."""
    folder.mkdir()
    pixels, labels = (torch.from_numpy(part) for part in load_digits(return_X_y=True))
    pixels = (pixels / 16).float()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10))
    held_out, kept = pixels[:SAMPLES], slice(SAMPLES, None)
    images, classes = pixels[kept], labels[kept]
    write_program(folder, model=model, probe=held_out.numpy())
    optimizer, step = make_optimizer(model.parameters()), 0
    save_file(model.state_dict(), folder / f"step_{step}.safetensors")
    while step < STEPS[-1]:
        order = torch.randperm(len(images))
        for batch in order[: len(order) // BATCH * BATCH].split(BATCH):
            loss = nn.functional.cross_entropy(model(images[batch]), classes[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
            if step in saved:
                save_file(model.state_dict(), folder / f"step_{step}.safetensors")
            if step == STEPS[-1]:
                break


def shares(path, against):
    """Return the structural share at every step, the mean over the samples."""
    with regime_proto.open_trajectory(path) as trajectory:
        parts = [
            trajectory[f"quantity_{part}_change_l2_{against}"].to_numpy() for part in ("structural", "quantitative")
        ]
    found = structural_share(*parts)
    return [float(np.nanmean(row)) if np.isfinite(row).any() else float("nan") for row in found]


def previous(make_optimizer):
    """Return the structural share against the state one step before, at every step but the first."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        train(make_optimizer, folder / "run", range(STEPS[-1] + 1))
        measure = [f"{part}_change_l2_previous" for part in ("structural", "quantitative")]
        path = regime_proto.convert(folder / "run", folder / "run.h5", measure=measure, noise="none")
        return np.array(shares(path, "previous")[1:])


def main():
    print(describe_machine("torch", "onnxruntime"))
    print_head(["optimizer", "against", *map(str, STEPS)])
    for name, make_optimizer in OPTIMIZERS.items():
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            train(make_optimizer, folder / "run")
            path = regime_proto.convert(folder / "run", folder / "run.h5", measure="function")
            for against in ("last", "first"):
                print_row([name, against, *(f"{share:.3f}" for share in shares(path, against))])
    print("\nAgainst the state one step before, every step:\n")
    print_head(["optimizer", "steps", "median", "90 %", "99 %", "largest", "at step", "steps below 0.02"])
    for name, make_optimizer in OPTIMIZERS.items():
        found = previous(make_optimizer)
        spread = [f"{value:.4f}" for value in (*np.nanpercentile(found, (50, 90, 99)), np.nanmax(found))]
        below = f"{np.mean(found < 0.02):.1%}"
        print_row([name, str(len(found)), *spread, str(1 + int(np.nanargmax(found))), below])


if __name__ == "__main__":
    main()
