"""Tests whether weights alone can finish the training once the patterns have settled, on the digits with five seeds.

Run it with ``python -m regime_proto.examples.freeze_patterns OUT``; it takes a minute and writes ``OUT/accuracy.png``
and ``OUT/accuracy.json``.

According to the paper's two time scales, patterns settle first, and weights then refine the function within them. If
so, a network whose patterns are frozen after they settled should end as accurate as one whose patterns keep changing,
and more accurate than one with the patterns of the random initial weights. Here, a gate of the frozen network is open
if it is open, for the same input, in a copy of the network made when the patterns were frozen. The weights keep
training.
"""

import copy
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import regime_proto
from regime_proto.examples import digits

SEEDS = 5
EPOCHS = 30
WIDTH = 64
SETTLING = regime_proto.Settling(threshold=0.2, window=40)
Observe = Callable[[int], bool]
WAYS = ("never frozen", "frozen when settled", "frozen at the start")


class Frozen(nn.Module):  # type: ignore[misc]
    """A network whose gates are open where the gates of another network are.

    Parameters
    ----------
    network : nn.Sequential
        Linear layers and ReLUs; its weights are trained.
    """

    def __init__(self, network: nn.Sequential) -> None:
        super().__init__()
        self.network = network
        self.reference = copy.deepcopy(network).requires_grad_(requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        theirs = x
        for layer, other in zip(self.network, self.reference, strict=True):
            if isinstance(layer, nn.ReLU):
                is_open = theirs > 0
                x, theirs = x * is_open, theirs * is_open
            else:
                x, theirs = layer(x), other(theirs)
        return x


@dataclass
class Run:
    """The result of one training.

    Parameters
    ----------
    way : str
        One of `WAYS`.
    seed : int
    settled : int or None
        The step at which the patterns were frozen; None if never.
    steps, accuracies : list
        The validation accuracy at some steps.
    seconds : float
        Time of the optimizer's steps since the patterns were frozen, or since the same step if they never were.
    """

    way: str
    seed: int
    settled: int | None
    steps: list[int]
    accuracies: list[float]
    seconds: float = 0.0


class Data:
    """The digits as tensors, and their batches in an order that the seed determines."""

    def __init__(self) -> None:
        images, validation, labels, validation_labels = (torch.from_numpy(part) for part in digits.load())
        self.images, self.labels = images.flatten(1), labels
        self.validation, self.validation_labels = validation.flatten(1), validation_labels

    def batches(self, seed: int) -> list[NDArray[np.int64]]:
        """Return the batches of a whole training."""
        generator = np.random.default_rng(seed)
        return [batch for _ in range(EPOCHS) for batch in digits.batches(len(self.images), generator)]

    def accuracy(self, model: nn.Module) -> float:
        """Return the fraction of validation images that are classified correctly."""
        with torch.no_grad():
            return float((model(self.validation).argmax(1) == self.validation_labels).float().mean())


def make() -> nn.Sequential:
    """Return the network: 64 pixels, 10 classes."""
    return nn.Sequential(
        nn.Linear(64, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, digits.CLASSES)
    )


def train(
    model: nn.Module, optimizer: torch.optim.Optimizer, data: Data, run: Run, begin: int, observe: Observe | None = None
) -> int:
    """Train from step `begin` to the end, or until `observe` returns true; return the last step.

    The accuracy is recorded after every epoch.
    """
    batches = data.batches(run.seed)
    each = len(batches) // EPOCHS
    for step, batch in enumerate(batches[begin:], start=begin + 1):
        clock = time.perf_counter()
        loss = nn.functional.cross_entropy(model(data.images[batch]), data.labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        run.seconds += time.perf_counter() - clock
        if step % each == 0:
            run.steps.append(step)
            run.accuracies.append(data.accuracy(model))
        if observe is not None and observe(step):
            return step
    return len(batches)


def adam(model: nn.Module) -> torch.optim.Adam:
    """Return the optimizer of all runs."""
    return torch.optim.Adam([one for one in model.parameters() if one.requires_grad], lr=2e-3)


def until_settled(seed: int, data: Data, out: Path) -> tuple[nn.Sequential, torch.optim.Adam, Run, int]:
    """Train until the recorder reports that the patterns have settled."""
    torch.manual_seed(seed)
    model = make()
    optimizer = adam(model)
    probe = data.validation[: digits.PROBE_SAMPLES].numpy()
    run = Run(WAYS[0], seed, None, [], [])
    settled: list[int] = []

    def note(status: regime_proto.Status) -> None:
        settled.append(status.observations)

    path = out / f"seed-{seed}.h5"
    with regime_proto.record(model, probe, path, overwrite=True, settling=SETTLING, on_settled=note) as recorder:
        recorder.observe(0)

        def observe(step: int) -> bool:
            recorder.observe(step)
            return bool(settled)

        step = train(model, optimizer, data, run, 0, observe)
    return model, optimizer, run, step


def three_ways(seed: int, data: Data, out: Path) -> list[Run]:
    """Train with one seed: patterns never frozen, frozen when they have settled, frozen at the start."""
    model, optimizer, going_on, settled = until_settled(seed, data, out)
    frozen = Frozen(copy.deepcopy(model))
    when_settled = Run(WAYS[1], seed, settled, list(going_on.steps), list(going_on.accuracies))
    theirs = adam(frozen)
    theirs.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    going_on.seconds = 0.0
    train(model, optimizer, data, going_on, settled)
    train(frozen, theirs, data, when_settled, settled)
    torch.manual_seed(seed)
    first = Frozen(make())
    at_start = Run(WAYS[2], seed, 0, [], [])
    train(first, adam(first), data, at_start, 0)
    return [going_on, when_settled, at_start]


def draw(runs: list[Run], path: Path) -> None:
    """Draw the accuracies: a line for each way, with a band for the range over the seeds."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 3.6), layout="constrained")
    for way, colour, line in zip(WAYS, ("#0072b2", "#d55e00", "#009e73"), ("-", "--", "-"), strict=True):
        chosen = [run for run in runs if run.way == way]
        values = np.array([run.accuracies for run in chosen])
        axes.plot(chosen[0].steps, values.mean(axis=0), line, color=colour, label=way)
        axes.fill_between(
            chosen[0].steps, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.15, linewidth=0
        )
    settled = [run.settled for run in runs if run.way == WAYS[1] and run.settled is not None]
    axes.axvspan(min(settled), max(settled), color="0.93", linewidth=0, zorder=0, label="patterns settled")
    axes.set(xlabel="step", ylabel="validation accuracy", ylim=(0.8, 1))
    axes.legend(frameon=False, loc="lower right")
    figure.savefig(path, dpi=150)


def main(out: Path) -> None:
    """Train with all seeds; write figure and numbers, and print the final accuracies."""
    out.mkdir(parents=True, exist_ok=True)
    data = Data()
    runs = [run for seed in range(SEEDS) for run in three_ways(seed, data, out)]
    draw(runs, out / "accuracy.png")
    (out / "accuracy.json").write_text(json.dumps([asdict(run) for run in runs], indent=1))
    print("seed  settled at  " + "  ".join(f"{way:>19}" for way in WAYS))
    for seed in range(SEEDS):
        mine = [run for run in runs if run.seed == seed]
        print(f"{seed:>4}  {mine[1].settled:>10}  " + "  ".join(f"{run.accuracies[-1]:>19.3f}" for run in mine))
    for way in WAYS:
        final = np.array([run.accuracies[-1] for run in runs if run.way == way])
        print(f"{way}: accuracy {final.mean():.4f} ± {final.std(ddof=1):.4f}")
    after = [sum(run.seconds for run in runs if run.way == way) for way in WAYS[:2]]
    print(f"steps since then took {after[1] / after[0]:.2f} times as long frozen as not")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
