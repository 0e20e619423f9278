"""Writes small runs of every kind of checkpoint, to be spoiled."""

import argparse
import importlib.util
import io
import json
import sys
import warnings
import zipfile
from pathlib import Path

import h5py
import numpy as np
import onnx
import torch
from safetensors.numpy import save_file

ARRAYS = {"a.weight": np.arange(12, dtype=np.float32).reshape(3, 4), "a.bias": np.ones(3, np.float32)}
STEPS = (1, 2)


def tensors(step):
    return {name: torch.from_numpy(array + step) for name, array in ARRAYS.items()}


def torch_plain(folder):
    for step in STEPS:
        torch.save({"model": tensors(step), "step": step, "loss": 1 / step}, folder / f"step_{step}.pt")


def torch_objects(folder):
    for step in STEPS:
        content = {"model": tensors(step), "step": step, "args": argparse.Namespace(lr=1), "score": np.float64(step)}
        torch.save(content, folder / f"step_{step}.pth")


def torch_old(folder):
    for step in STEPS:
        torch.save({"model": tensors(step)}, folder / f"step_{step}.bin", _use_new_zipfile_serialization=False)


def lightning(folder):
    for step in STEPS:
        content = {"global_step": step, "pytorch-lightning_version": "2.6.6", "state_dict": tensors(step)}
        torch.save(content, folder / f"epoch=0-step={step}.ckpt")


def safetensors(folder):
    for step in STEPS:
        save_file({name: array + step for name, array in ARRAYS.items()}, folder / f"step_{step}.safetensors")


def npz(folder):
    for step in STEPS:
        save = np.savez if step % 2 else np.savez_compressed
        save(folder / f"step_{step}.npz", step=step, **ARRAYS)


def weights_of_keras(step):
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        file["layers/dense/vars/0"], file["layers/dense/vars/1"] = ARRAYS.values()
        file["optimizer/vars/0"] = np.int32(step)
    return content.getvalue()


def keras(folder):
    for step in STEPS:
        with zipfile.ZipFile(folder / f"step_{step}.keras", "w") as archive:
            archive.writestr("metadata.json", json.dumps({"keras_version": "3.15.1"}))
            archive.writestr("config.json", "{}")
            archive.writestr("model.weights.h5", weights_of_keras(step))


def keras_weights(folder):
    for step in STEPS:
        (folder / f"step_{step}.weights.h5").write_bytes(weights_of_keras(step))


def flax(folder):
    import msgpack

    def array(value):
        return msgpack.ExtType(1, msgpack.packb((value.shape, value.dtype.name, value.tobytes())))

    for step in STEPS:
        tree = {"params": {name: array(value) for name, value in ARRAYS.items()}, "step": step}
        (folder / f"step_{step}.msgpack").write_bytes(msgpack.packb(tree))


def sklearn(folder):
    import skops.io
    from sklearn.neural_network import MLPClassifier

    model = MLPClassifier((4,)).partial_fit(np.ones((4, 3), np.float32), [0, 1, 0, 1], classes=[0, 1])
    for step in STEPS:
        skops.io.dump(model, folder / f"step_{step}.skops")


def onnx_models(folder):
    helper = onnx.helper
    for step in STEPS:
        weight = onnx.numpy_helper.from_array(ARRAYS["a.weight"] + step, "a.weight")
        nodes = [helper.make_node("MatMul", ["x", "a.weight"], ["h"]), helper.make_node("Relu", ["h"], ["y"])]
        values = [
            helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
            for name, shape in (("x", [2, 3]), ("y", [2, 4]))
        ]
        graph = helper.make_graph(nodes, "g", values[:1], values[1:], [weight])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
        onnx.helper.set_model_props(model, {"step": str(step)})
        onnx.save(model, folder / f"step_{step}.onnx")


def exported(folder):
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.ReLU()).eval()
    torch.export.save(torch.export.export(model, (torch.ones(2, 3),)), folder / "model.pt2")


def dcp(folder):
    import torch.distributed.checkpoint as distributed

    for step in STEPS:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            writer = distributed.FileSystemWriter(folder / f"step-{step}")
            distributed.save({"model": tensors(step), "step": step}, storage_writer=writer)


def orbax(folder):
    import orbax.checkpoint

    with orbax.checkpoint.CheckpointManager(folder.resolve()) as manager:
        for step in STEPS:
            manager.save(step, args=orbax.checkpoint.args.StandardSave({"params": ARRAYS, "loss": np.float32(1)}))


def sharded(folder):
    for step in STEPS:
        inner = folder / f"step{step}"
        inner.mkdir()
        names = {}
        for number, (name, array) in enumerate(ARRAYS.items(), 1):
            names[name] = f"model-0000{number}-of-00002.safetensors"
            save_file({name: array + step}, inner / names[name])
        (inner / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))


def huggingface(folder):
    for step in STEPS:
        inner = folder / f"checkpoint-{step}"
        inner.mkdir()
        (inner / "config.json").write_text(json.dumps({"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2"}))
        save_file({name: array + step for name, array in ARRAYS.items()}, inner / "model.safetensors")
        state = {"global_step": step, "epoch": step / 10, "log_history": [{"step": step, "loss": 1.0}]}
        (inner / "trainer_state.json").write_text(json.dumps(state))


def accelerate(folder):
    for step in STEPS:
        inner = folder / f"checkpoint_{step}"
        inner.mkdir()
        save_file({name: array + step for name, array in ARRAYS.items()}, inner / "model.safetensors")
        (inner / "random_states_0.pkl").write_bytes(b"\x80\x02N.")


def estimators(folder):
    """What is advised on only."""
    import gzip
    import lzma

    content = b"\x80\x04csklearn.neural_network\nMLPClassifier\n."
    (folder / "a.pkl.gz").write_bytes(gzip.compress(content))
    (folder / "b.pkl.xz").write_bytes(lzma.compress(content))


KINDS = {
    "torch": torch_plain,
    "torch-objects": torch_objects,
    "torch-old": torch_old,
    "lightning": lightning,
    "safetensors": safetensors,
    "npz": npz,
    "keras": keras,
    "keras-weights": keras_weights,
    "flax": flax,
    "sklearn": sklearn,
    "onnx": onnx_models,
    "exported": exported,
    "dcp": dcp,
    "orbax": orbax,
    "sharded": sharded,
    "huggingface": huggingface,
    "accelerate": accelerate,
    "estimators": estimators,
}
NEEDED = {"flax": "msgpack", "sklearn": "skops", "orbax": "orbax.checkpoint", "huggingface": "transformers"}


def available():
    """Return the kinds whose libraries are installed."""
    return [kind for kind in KINDS if kind not in NEEDED or _is_installed(NEEDED[kind])]


def _is_installed(name):
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def main(folder, *without):
    for kind in [kind for kind in available() if kind not in without]:
        place = Path(folder) / kind
        place.mkdir(parents=True)
        KINDS[kind](place)


if __name__ == "__main__":
    main(*sys.argv[1:])
