"""The sources of checkpoints and models, as the manual lists them: what is done with each, and what it takes.

``python -m regime_proto.adapters.sources_table constraints.txt`` prints the table with the versions that are tested.
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
        What a user has.
    status : str
        What is done with it.
    adapter : str
        The module, as its entry point names it.
    tested : tuple of str
        The distributions whose files or models the tests use.
    extras : tuple of str
        What is installed to read it, beside the base.
    """

    source: str
    status: str
    adapter: str
    tested: tuple[str, ...]
    extras: tuple[str, ...] = ("cpu",)


_TORCH = ("cpu", "torch")

SOURCES = (
    Entry(
        "PyTorch: `.pt .pth .ckpt .bin`, `.pth.tar`, `.th`, no suffix", "read; plain files without torch too", "torch",
        ("torch",), _TORCH,
    ),
    Entry("`torch.export`: `.pt2`", "taken as the model", "torch", ("torch",), _TORCH),
    Entry("safetensors: `.safetensors`", "read", "safetensors", ("safetensors",)),
    Entry("folders of weights, single or sharded: `step1000/`", "read", "folder", ("safetensors",)),
    Entry(
        "Hugging Face: `checkpoint-500/`", "read; the model is built from `config.json`", "huggingface",
        ("transformers",), ("cpu", "huggingface"),
    ),
    Entry(
        "Hugging Face Hub: `'hf://ORG/NAME@step*'`", "fetched one by one: branches and tags, repositories, commits",
        "huggingface", ("huggingface-hub",), ("cpu", "hub", "huggingface"),
    ),
    Entry("Lightning: `.ckpt`", "read", "lightning", ("lightning",), _TORCH),
    Entry("accelerate: `checkpoint_3/`", "read; its counter is no step", "accelerate", ("accelerate",), _TORCH),
    Entry("FSDP, torch distributed checkpoints: `.distcp`", "read, without a process group", "dcp", ("torch",), _TORCH),
    Entry("ONNX: `.onnx`", "read, and taken as the model", "onnx", ("onnx",)),
    Entry("NumPy: `.npz`", "read", "npz", ("numpy",)),
    Entry(
        "Keras 3: `.keras`, `.weights.h5`, older `.h5`",
        "read without Keras; models taken through JAX", "keras", ("keras", "jax2onnx"), ("cpu", "keras"),
    ),
    Entry("JAX: Orbax, `10/`", "read without JAX", "orbax", ("orbax-checkpoint", "tensorstore"), ("cpu", "flax")),
    Entry("JAX: flax `.msgpack`", "read without JAX", "flax", ("flax", "msgpack"), ("cpu", "flax")),
    Entry(
        "JAX: flax.nnx modules, pairs (function, parameters)",
        "taken as the model", "jax", ("flax", "jax", "jax2onnx"), ("cpu", "jax"),
    ),
    Entry(
        "scikit-learn: `MLPClassifier`, `MLPRegressor` in `.skops`",
        "read without scikit-learn; taken as the model", "sklearn", ("scikit-learn", "skops", "skl2onnx"),
        ("cpu", "sklearn"),
    ),
    Entry(
        "DeepSpeed: `global_step500/`",
        "read where one file holds the model, else answered with the command that converts it", "advice", (),
    ),
    Entry("Megatron: `iter_0000500/`", "answered with what to do", "advice", ()),
    Entry("LoRA adapters without their base", "answered with the command that merges them", "advice", ("peft",)),
    Entry(
        "pickled estimators of scikit-learn", "refused, with the command that converts them", "advice",
        ("scikit-learn",),
    ),
    Entry("Equinox: `.eqx`", "answered with the command that converts them", "advice", ("equinox",)),
    Entry("pickled parameters of JAX: `.pkl`", "refused, with the command that converts them", "advice", ("jax",)),
    Entry(
        "TensorFlow: `.index`, SavedModel; PaddlePaddle: `.pdparams`; Stable-Baselines3: `.zip`",
        "answered with the command that converts them", "advice", (),
    ),
    Entry("whole pickled modules, TorchScript", "answered with the command that converts them", "torch", ("torch",)),
)  # fmt: skip


def render(versions: Mapping[str, str]) -> str:
    """Return the table in Markdown.

    Parameters
    ----------
    versions : mapping of str to str
        Of the distributions that are tested.
    """
    lines = ["| source | status | tested with | install |", "|---|---|---|---|"]
    for entry in SOURCES:
        tested = ", ".join(f"{name} {versions[name]}" for name in entry.tested) or "files of its layout"
        install = f'`pip install "regime-proto[{",".join(entry.extras)}]"`'
        lines.append(f"| {entry.source} | {entry.status} | {tested} | {install} |")
    return "\n".join(lines) + "\n"


def versions_in(constraints: Path) -> dict[str, str]:
    """Return the versions in a file of constraints."""
    pins = (line.partition("==") for line in constraints.read_text(encoding="utf-8").splitlines())
    return {name: version for name, equals, version in pins if equals}


if __name__ == "__main__":
    sys.stdout.write(render(versions_in(Path(sys.argv[1]))))
