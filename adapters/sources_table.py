"""The supported sources of checkpoints and models, as the manual lists them.

``python -m regime_proto.adapters.sources_table constraints.txt`` prints the table with the tested versions.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Entry:
    """One row.

    Parameters
    ----------
    source : str
        Kind of checkpoint or model.
    status : str
        What regime does with it.
    adapter : str
        Name of the adapter's entry point.
    tested : tuple of str
        Distributions whose files or models the tests use.
    extras : tuple of str
        Extras that must be installed to read it.
    """

    source: str
    status: str
    adapter: str
    tested: tuple[str, ...]
    extras: tuple[str, ...] = ("cpu",)


_TORCH = ("cpu", "torch")

SOURCES = (
    Entry(
        "PyTorch: `.pt .pth .ckpt .bin`, `.pth.tar`, `.th`, no suffix", "read; plain files without torch", "torch",
        ("torch",), _TORCH,
    ),
    Entry("`torch.export`: `.pt2`", "used as the model", "torch", ("torch",), _TORCH),
    Entry("safetensors: `.safetensors`", "read", "safetensors", ("safetensors",)),
    Entry("folders of weights, single or sharded: `step1000/`", "read", "folder", ("safetensors",)),
    Entry(
        "Hugging Face: `checkpoint-500/`", "read; the model is built from `config.json`", "huggingface",
        ("transformers",), ("cpu", "huggingface"),
    ),
    Entry(
        "Hugging Face Hub: `'hf://ORG/NAME@step*'`", "downloaded one by one: branches and tags, repositories, commits",
        "huggingface", ("huggingface-hub",), ("cpu", "hub", "huggingface"),
    ),
    Entry("Lightning: `.ckpt`", "read", "lightning", ("lightning",), _TORCH),
    Entry("accelerate: `checkpoint_3/`", "read; its counter is not a step", "accelerate", ("accelerate",), _TORCH),
    Entry("FSDP, torch distributed checkpoints: `.distcp`", "read, without a process group", "dcp", ("torch",), _TORCH),
    Entry("ONNX: `.onnx`", "read, and used as the model", "onnx", ("onnx",)),
    Entry("NumPy: `.npz`", "read", "npz", ("numpy",)),
    Entry(
        "Keras 3: `.keras`, `.weights.h5`, older `.h5`",
        "read without Keras; models exported through JAX", "keras", ("keras", "jax2onnx"), ("cpu", "keras"),
    ),
    Entry("JAX: Orbax, `10/`", "read without JAX", "orbax", ("orbax-checkpoint", "tensorstore"), ("cpu", "flax")),
    Entry("JAX: flax `.msgpack`", "read without JAX", "flax", ("flax", "msgpack"), ("cpu", "flax")),
    Entry(
        "JAX: flax.nnx modules, pairs (function, parameters)",
        "taken as the model", "jax", ("flax", "jax", "jax2onnx"), ("cpu", "jax"),
    ),
    Entry(
        "scikit-learn: `MLPClassifier`, `MLPRegressor` in `.skops`",
        "read without scikit-learn; used as the model", "sklearn", ("scikit-learn", "skops", "skl2onnx"),
        ("cpu", "sklearn"),
    ),
    Entry(
        "DeepSpeed: `global_step500/`",
        "read if one file holds the model; otherwise the error shows the command that converts it", "advice", (),
    ),
    Entry("Megatron: `iter_0000500/`", "not read; the error shows what to do", "advice", ()),
    Entry(
        "LoRA adapters without their base", "not read; the error shows the command that merges them", "advice",
        ("peft",),
    ),
    Entry(
        "pickled estimators of scikit-learn", "refused, with the command that converts them", "advice",
        ("scikit-learn",),
    ),
    Entry("Equinox: `.eqx`", "not read; the error shows the command that converts them", "advice", ("equinox",)),
    Entry("pickled parameters of JAX: `.pkl`", "refused, with the command that converts them", "advice", ("jax",)),
    Entry(
        "TensorFlow: `.index`, SavedModel; PaddlePaddle: `.pdparams`; Stable-Baselines3: `.zip`",
        "not read; the error shows the command that converts them", "advice", (),
    ),
    Entry(
        "whole pickled modules, TorchScript", "not read; the error shows the command that converts them", "torch",
        ("torch",),
    ),
)  # fmt: skip


def render(versions: Mapping[str, str]) -> str:
    """Return the table in Markdown.

    Parameters
    ----------
    versions : mapping of str to str
        Versions of the tested distributions.
    """
    lines = ["| source | status | tested with | install |", "|---|---|---|---|"]
    for entry in SOURCES:
        tested = ", ".join(f"{name} {versions[name]}" for name in entry.tested) or "files in its layout"
        install = f'`pip install "regime-proto[{",".join(entry.extras)}]"`'
        lines.append(f"| {entry.source} | {entry.status} | {tested} | {install} |")
    return "\n".join(lines) + "\n"


def versions_in(constraints: Path) -> dict[str, str]:
    """Return the versions in a constraints file."""
    pins = (line.partition("==") for line in constraints.read_text(encoding="utf-8").splitlines())
    return {name: version for name, equals, version in pins if equals}


if __name__ == "__main__":
    sys.stdout.write(render(versions_in(Path(sys.argv[1]))))
