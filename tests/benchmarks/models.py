"""The models that the benchmarks measure, and runs of them to convert."""

import argparse
import os
import platform
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor, nn

STEP = 1e-3
VOCABULARY = 50257


def make_mlp():
    layers = []
    for inputs in (784, 1024, 1024):
        layers += [nn.Linear(inputs, 1024), nn.BatchNorm1d(1024), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(1024, 10))


def make_lenet():
    convolutions = [nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)]
    convolutions += [nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()]
    dense = [nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10)]
    return nn.Sequential(*convolutions, *dense)


class Block(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu2 = nn.ReLU()
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x):
        hidden = self.relu1(self.bn1(self.conv1(x)))
        return self.relu2(self.bn2(self.conv2(hidden)) + self.shortcut(x))


class ResNet(nn.Module):
    """A ResNet of basic blocks for small images: a 3 × 3 stem, no pooling before the blocks."""

    def __init__(self, depths, stem_stride):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 64, 3, stem_stride, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU())
        blocks, inputs = [], 64
        for stage, depth in enumerate(depths):
            width = 64 * 2**stage
            for index in range(depth):
                blocks.append(Block(inputs, width, 2 if stage > 0 and index == 0 else 1))
                inputs = width
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(inputs, 10)

    def forward(self, x):
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


def make_resnet18():
    return ResNet((2, 2, 2, 2), stem_stride=1)


def make_resnet34():
    # Stride 2 in the stem, as Tiny ImageNet is often trained: the blocks see 32 × 32.
    return ResNet((3, 4, 6, 3), stem_stride=2)


class Logits(nn.Module):
    """A model of transformers that returns its logits only."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x).logits


def make_gpt2():
    from transformers import GPT2Config, GPT2LMHeadModel

    return Logits(GPT2LMHeadModel(GPT2Config(activation_function="relu", use_cache=False)))


def make_vit(width=384):
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        hidden_size=width,
        num_hidden_layers=12,
        num_attention_heads=width // 64,
        intermediate_size=4 * width,
        hidden_act="relu",
    )
    return Logits(ViTForImageClassification(config))


@dataclass(frozen=True)
class Case:
    """A model, its probe, and how many checkpoints of it the speed benchmark converts."""

    title: str
    make: Callable[[], nn.Module]
    probe_shape: tuple[int, ...]
    checkpoints: int
    tokens: bool = False

    def probe(self) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        if self.tokens:
            return torch.randint(VOCABULARY, self.probe_shape, generator=generator)
        return torch.randn(self.probe_shape, generator=generator)


CASES = {
    "mlp": Case("MLP 784-1024³-10, BatchNorm", make_mlp, (26, 784), 120),
    "lenet5": Case("LeNet5, 28×28", make_lenet, (26, 1, 28, 28), 300),
    "resnet18": Case("ResNet-18, 32×32", make_resnet18, (26, 3, 32, 32), 24),
    "resnet34": Case("ResNet-34, 64×64, stem of stride 2", make_resnet34, (26, 3, 64, 64), 10),
    "gpt2": Case("GPT-2 small (ReLU), 4×128 tokens", make_gpt2, (4, 128), 10, tokens=True),
    "vit_s": Case("ViT-S/16 (ReLU), 224×224, 8 samples", make_vit, (8, 3, 224, 224), 12),
}


# Those of the speed on a GPU: as many checkpoints as make its times steady.
ON_A_GPU = {
    "mlp": replace(CASES["mlp"], checkpoints=400),
    "resnet18": replace(CASES["resnet18"], checkpoints=100),
    "resnet34": replace(CASES["resnet34"], checkpoints=100),
    "gpt2": replace(CASES["gpt2"], checkpoints=40),
    "vit_b": Case("ViT-B/16 (ReLU), 224×224, 8 samples", partial(make_vit, 768), (8, 3, 224, 224), 40),
}


def write_run(folder: Path, case: Case, count: int):
    """Save a random walk of the weights; return the plan of its conversion."""
    # The script by hand takes its models from here, and does without regime.
    from regime_proto.conversion.plan import make_plan, write_program

    folder.mkdir()
    torch.manual_seed(0)
    model = case.make()
    write_program(folder, model=model, probe=case.probe().numpy())
    for step in range(count):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += STEP * torch.randn_like(parameter)
        torch.save({"model": model.state_dict(), "step": step}, folder / f"step_{step:05d}.pt")
    return make_plan(folder)


def add_models_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--models", nargs="*", choices=CASES, default=list(CASES), metavar="NAME", help=", ".join(CASES)
    )


def describe_machine(*libraries: str) -> str:
    """Return machine and versions in one line."""
    versions = ", ".join(f"{library} {version(library)}" for library in libraries)
    return (
        f"{platform.platform()}, {len(os.sched_getaffinity(0))} cores; Python {platform.python_version()}, {versions}."
    )


def print_row(cells: list[str]) -> None:
    """Print a row of a Markdown table at once: a long benchmark shows how far it is."""
    print(f"| {' | '.join(cells)} |", flush=True)


def print_head(columns: list[str]) -> None:
    print_row(columns)
    print(f"|{'---|' * len(columns)}", flush=True)
