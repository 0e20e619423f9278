"""Seconds to list a directory of many checkpoints: to recognise them and put them in order, as `regime inspect` does.

    python tests/benchmarks/listing.py --checkpoints 1000

A layout is a function that writes one checkpoint, by step, and is added to `LAYOUTS`.
"""

import argparse
import io
import json
import shutil
import statistics
import tempfile
import time
import warnings
import zipfile
from pathlib import Path

import h5py
import numpy as np
import onnx
import orbax.checkpoint as ocp
import skops.io
import torch
import torch.distributed.checkpoint as dcp
from flax import serialization
from models import describe_machine, print_head, print_row
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file
from sklearn.neural_network import MLPClassifier

from regime_proto.plugins.open_directory import open_directory

BOUND_SECONDS = 2.0
TENSORS = {"a.weight": np.ones((8, 8), np.float32), "a.bias": np.ones(8, np.float32)}


def torch_file(root, step):
    state = {name: torch.from_numpy(array) for name, array in TENSORS.items()}
    torch.save({"model": state, "step": step, "epoch": step / 10, "loss": 1.0}, root / f"step_{step}.pt")


def torch_file_by_number(root, step):
    """The order is in the payload only: every file is opened."""
    state = {name: torch.from_numpy(array) for name, array in TENSORS.items()}
    torch.save({"model": state, "step": 10 * step}, root / f"ckpt_{step}.pt")


def safetensors_file(root, step):
    save_file(TENSORS, root / f"step_{step}.safetensors", metadata={"step": str(step)})


def onnx_file(root, step):
    weight = numpy_helper.from_array(TENSORS["a.weight"], "w")
    nodes = [helper.make_node("MatMul", ["x", "w"], ["z"]), helper.make_node("Relu", ["z"], ["y"])]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 8]) for name in "xy"]
    model = helper.make_model(helper.make_graph(nodes, "g", ends[:1], ends[1:], [weight]))
    onnx.save(model, root / f"step_{step}.onnx")


def folder(root, step):
    (root / f"step{step}").mkdir()
    save_file(TENSORS, root / f"step{step}" / "weights.safetensors")


def huggingface(root, step):
    """As the Trainer of transformers saves, with all that was logged before in every checkpoint."""
    path = root / f"checkpoint-{step}"
    path.mkdir()
    config = {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2"}
    (path / "config.json").write_text(json.dumps(config))
    save_file(TENSORS, path / "model.safetensors", metadata={"format": "pt"})
    history = [{"step": past, "epoch": past / 10, "loss": 1.0, "learning_rate": 1e-3} for past in range(1, step + 1)]
    state = {"global_step": step, "epoch": step / 10, "log_history": history}
    (path / "trainer_state.json").write_text(json.dumps(state))
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"):
        (path / name).write_bytes(b"PK\3\4")


def npz_file(root, step):
    np.savez(root / f"state-{step}.npz", step=step, **TENSORS)


def lightning_file(root, step):
    state = {f"net.{name}": torch.from_numpy(array) for name, array in TENSORS.items()}
    content = {"epoch": step // 10, "global_step": step, "pytorch-lightning_version": "2.6.6", "state_dict": state}
    torch.save(content, root / f"epoch={step // 10}-step={step}.ckpt")


def accelerate_folder(root, step):
    path = root / f"checkpoint_{step}"
    path.mkdir()
    save_file(TENSORS, path / "model.safetensors")
    for name in ("optimizer.bin", "random_states_0.pkl", "scheduler.bin"):
        (path / name).write_bytes(b"PK\3\4")


def dcp_folder(root, step):
    state = {name: torch.from_numpy(array) for name, array in TENSORS.items()}
    with warnings.catch_warnings():
        # Without a group of processes torch says that there is one.
        warnings.simplefilter("ignore")
        dcp.save({"model": state, "step": step}, storage_writer=dcp.FileSystemWriter(root / f"step-{step}"))


def keras_archive(root, step):
    """The order is in the count of the optimizer only: every archive is opened."""
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        file["layers/dense/vars/0"], file["layers/dense/vars/1"] = TENSORS.values()
        file["optimizer/vars/0"] = np.int32(10 * step)
    with zipfile.ZipFile(root / f"ckpt_{step}.keras", "w") as archive:
        archive.writestr("metadata.json", json.dumps({"keras_version": "3.15.1"}))
        archive.writestr("config.json", "{}")
        archive.writestr("model.weights.h5", content.getvalue())


def orbax_folder(root, step):
    """As the manager of checkpoints saves: the first is its own, the others are copies."""
    if step == 1:
        with ocp.CheckpointManager(root) as manager:
            manager.save(step, args=ocp.args.StandardSave({"params": TENSORS, "loss": np.float32(1)}))
    else:
        shutil.copytree(root / "1", root / str(step))


def flax_file(root, step):
    (root / f"state_{step}.msgpack").write_bytes(serialization.to_bytes({"params": TENSORS, "step": step}))


def skops_file(root, step):
    if step == 1:
        inputs = np.ones((4, 8), np.float32)
        model = MLPClassifier((8,)).partial_fit(inputs, [0, 1, 0, 1], classes=[0, 1])
        skops.io.dump(model, root / "step_1.skops")
    else:
        shutil.copy(root / "step_1.skops", root / f"step_{step}.skops")


LAYOUTS = {
    "accelerate": accelerate_folder,
    "dcp": dcp_folder,
    "flax": flax_file,
    "folder": folder,
    "huggingface": huggingface,
    "keras, order in the payload": keras_archive,
    "lightning": lightning_file,
    "npz": npz_file,
    "onnx": onnx_file,
    "orbax": orbax_folder,
    "safetensors": safetensors_file,
    "sklearn": skops_file,
    "torch": torch_file,
    "torch, order in the payload": torch_file_by_number,
}


def seconds_to_list(root, repeats):
    """Return the median, and what was found."""
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        source = open_directory(root)
        times.append(time.perf_counter() - begin)
    return statistics.median(times), source


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoints", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--layout", choices=LAYOUTS, action="append", help="may be repeated; default: all")
    options = parser.parse_args()
    print(describe_machine("numpy", "onnx", "safetensors", "torch"), end="\n\n")
    print_head(["layout", "adapter", "checkpoints", "seconds", f"bound {BOUND_SECONDS:g} s"])
    missed = []
    for name in options.layout or LAYOUTS:
        with tempfile.TemporaryDirectory() as folder:
            for step in range(1, options.checkpoints + 1):
                LAYOUTS[name](Path(folder), step)
            seconds, source = seconds_to_list(Path(folder), options.repeats)
        assert len(source.checkpoints) == options.checkpoints
        met = seconds <= BOUND_SECONDS
        missed += [] if met else [name]
        count = str(options.checkpoints)
        print_row([name, source.adapter, count, f"{seconds:.3f}", "met" if met else "missed"])
    raise SystemExit(bool(missed))


if __name__ == "__main__":
    main()
