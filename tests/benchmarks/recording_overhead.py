"""What recording costs: time per training step against the bare loop and against hooks by hand; memory.

Variants take turns in blocks of steps, and each block is held against the bare block of its own round: machines differ
from minute to minute. What the recorder writes in the background is waited for at the end of a block. Beside each
median stand the least and the most over the rounds.
"""

import argparse
import gc
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from models import CASES, Logits, describe_machine, print_head, print_row
from torch import Tensor, nn

import regime_proto
from regime_proto.adapters.from_torch.live_weights import array_of, tensors_of
from regime_proto.quantities.deltas import KeptWeights
from regime_proto.schema import hdf5

TOKENS, VOCABULARY = 128, 8192
COLUMNS = ["model", "step, ms", "Δw alone", "Δw and Δa", "hooks by hand"]
SHARE = 0.2


def make_small_gpt2():
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        activation_function="relu",
        use_cache=False,
        n_layer=6,
        n_head=6,
        n_embd=384,
        vocab_size=VOCABULARY,
        bos_token_id=0,
        eos_token_id=0,
    )
    return Logits(GPT2LMHeadModel(config))


@dataclass(frozen=True)
class Training:
    """A model in training; `steps` of it are a block."""

    title: str
    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    batch: int
    steps: int
    tokens: bool = False

    @property
    def samples(self) -> int:
        return round(SHARE * self.batch)

    def inputs(self, samples: int, seed: int = 0) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        if self.tokens:
            return torch.randint(VOCABULARY, (samples, *self.shape), generator=generator)
        return torch.randn(samples, *self.shape, generator=generator)

    def loss(self, outputs: Tensor, inputs: Tensor) -> Tensor:
        if self.tokens:
            return F.cross_entropy(outputs[:, :-1].flatten(0, 1), inputs[:, 1:].flatten())
        return F.cross_entropy(outputs, torch.arange(len(inputs)) % 10)


TRAININGS = {
    "mlp": Training("MLP 784-1024³-10, batch 512", CASES["mlp"].make, (784,), 512, 64),
    "mlp32": Training("MLP 784-1024³-10, batch 32", CASES["mlp"].make, (784,), 32, 192),
    "resnet18": Training("ResNet-18, 32×32, batch 128", CASES["resnet18"].make, (3, 32, 32), 128, 4),
    "gpt2": Training("GPT-2, 6 layers of 384, 16×128 tokens", make_small_gpt2, (TOKENS,), 16, 4, tokens=True),
}


class Loop:
    """A training loop; `after` is what is done behind every step."""

    def __init__(self, training: Training, model: nn.Module) -> None:
        self.training = training
        self.model = model.train()
        self.optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
        self.inputs = training.inputs(training.batch)
        self.steps = 0

    def run(self, after: Callable[[int], object], steps: int) -> None:
        for _ in range(steps):
            self.optimizer.zero_grad()
            self.training.loss(self.model(self.inputs), self.inputs).backward()
            self.optimizer.step()
            self.steps += 1
            after(self.steps)


def nothing(_step):
    return None


def weights_alone(model):
    """Return what the recorder does for Δw."""
    names = [name for name, _ in model.named_parameters()]
    kept = KeptWeights(names)

    def after(_step):
        weights = tensors_of(model)
        kept.change({name: array_of(weights[name]) for name in names})

    return after


def by_hand(model, probe):
    """Return what one writes with hooks: the probe in evaluation mode, masks and weights compared with torch."""
    masks = []
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.register_forward_hook(
                lambda _module, _inputs, output: None if model.training else masks.append(output > 0)
            )
    before = {}
    history = []

    def after(_step):
        masks.clear()
        model.eval()
        with torch.no_grad():
            model(probe)
            model.train()
            weights = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
            if before:
                flips = [(a != b).float().mean().item() for a, b in zip(masks, before["masks"], strict=True)]
                change = sum((weights[name] - before["weights"][name]).abs().sum().item() for name in weights)
                history.append((change / sum(weight.numel() for weight in weights.values()), np.mean(flips)))
        before.update(masks=list(masks), weights=weights)

    return after


def overhead(training: Training, rounds: int, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return milliseconds per bare step, and how many times as long the variants take: (round), (round, variant)."""
    torch.manual_seed(0)
    models = [training.make() for _ in range(4)]
    for model in models[1:]:
        model.load_state_dict(models[0].state_dict())
    probe = training.inputs(training.samples, seed=1)
    loops = [Loop(training, model) for model in models]
    recorder = regime_proto.record(models[2], probe.numpy(), folder / "run.h5", engine="native")
    variants = [nothing, weights_alone(models[1]), recorder.observe, by_hand(models[3], probe)]
    for loop, after in zip(loops, variants, strict=True):
        loop.run(after, 2)
    times = np.zeros((rounds, 4))
    for row in times:
        for index, (loop, after) in enumerate(zip(loops, variants, strict=True)):
            begin = time.perf_counter()
            loop.run(after, training.steps)
            if after == recorder.observe:
                recorder._ledger._journal.flush()
            row[index] = (time.perf_counter() - begin) / training.steps
    recorder.close()
    return 1e3 * times[:, 0], times[:, 1:] / times[:, :1]


def spread(values: np.ndarray, form: str) -> str:
    """Return the median of values, and the least and the most of them."""
    middle, least, most = (format(value, form) for value in (np.median(values), values.min(), values.max()))
    return f"{middle} ({least} to {most})"


def memory(training: Training, folder: Path) -> list[str]:
    """Return the most that the recorder holds, and the two parts that it should consist of.

    Arrays of NumPy and bytes are counted, which is where it keeps things; activations of the probe are torch's, and
    live no longer than a pass.
    """
    torch.manual_seed(0)
    loop = Loop(training, training.make())
    probe = training.inputs(training.samples, seed=1).numpy()
    recorder = regime_proto.record(loop.model, probe, folder / "memory.h5", engine="native", masks="all")
    header = recorder._ledger._journal._writer.header
    observations = hdf5.chunk_steps(header)
    gc.collect()
    tracemalloc.start()
    for step in range(observations + 2):
        recorder.observe(step)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    recorder.close()
    weights = 4 * sum(header.tensors.values())
    segment = observations * header.samples * header.mask_bytes
    return [f"{value / 1e6:.1f}" for value in (peak, weights, segment)] + [str(observations)]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--repeat", type=int, default=5, help="rounds; of the ratios median, least and most are printed"
    )
    parser.add_argument("--models", nargs="*", choices=TRAININGS, default=list(TRAININGS), metavar="NAME")
    options = parser.parse_args()
    print(describe_machine("torch", "onnxruntime", "transformers"))
    print(
        f"\nTime per step against the bare loop, median (least to most) of {options.repeat} rounds; "
        "probe: 0.2 of a batch.\n"
    )
    print_head(COLUMNS)
    with tempfile.TemporaryDirectory() as scratch:
        for name in options.models:
            training = TRAININGS[name]
            steps, ratios = overhead(training, options.repeat, Path(scratch))
            print_row([training.title, spread(steps, ".3g"), *[spread(column, ".2f") for column in ratios.T]])
            (Path(scratch) / "run.h5").unlink()
        print("\nThe most that a recorder holds in memory, megabytes, while a segment fills up and is written:\n")
        print_head(["model", "found", "one copy of the weights", "masks of a segment", "observations of it"])
        for name in options.models:
            print_row([TRAININGS[name].title, *memory(TRAININGS[name], Path(scratch))])
            (Path(scratch) / "memory.h5").unlink()


if __name__ == "__main__":
    main()
