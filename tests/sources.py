"""Writes one and the same run as each source of checkpoints does, with the library itself."""

import argparse
import json

import nets
import numpy as np
import onnx
import torch
from safetensors.torch import save_file

STEPS = (0, 10, 20, 100, 110)
LOSS = {step: 1 / (step + 1) for step in STEPS}


def states():
    """Return the states of a small run by step."""
    trained = nets.train(nets.make_mlp(), len(STEPS))
    return {
        step: {name: tensor.clone() for name, tensor in model.state_dict().items()}
        for step, model in zip(STEPS, trained, strict=True)
    }


def torch_files(folder):
    for step, state in states().items():
        torch.save({"model": state, "step": step, "loss": LOSS[step]}, folder / f"ckpt_{step}.pt")


def torch_files_with_objects(folder):
    """Only torch's own reader takes these."""
    for step, state in states().items():
        payload = {"state_dict": state, "step": step, "loss": LOSS[step], "args": argparse.Namespace(lr=1)}
        torch.save(payload, folder / f"ckpt_{step}.pth")


def safetensors_files(folder):
    for step, state in states().items():
        save_file(state, folder / f"step_{step}.safetensors", metadata={"step": str(step), "loss": str(LOSS[step])})


def npz_files(folder):
    for step, state in states().items():
        arrays = {name: tensor.numpy() for name, tensor in state.items()}
        np.savez(folder / f"state-{step}.npz", step=step, loss=LOSS[step], **arrays)


def sharded_folders(folder):
    for step, state in states().items():
        inner = folder / f"step{step}"
        inner.mkdir()
        names, weight_map = list(state), {}
        for shard, part in enumerate((names[:5], names[5:]), start=1):
            file = f"model-0000{shard}-of-00002.safetensors"
            save_file({name: state[name] for name in part}, inner / file, metadata={"loss": str(LOSS[step])})
            weight_map |= dict.fromkeys(part, file)
        (inner / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def onnx_files(folder):
    """Graphs that differ in weights only."""
    model, probe = nets.make_mlp(), torch.from_numpy(nets.probe(nets.make_mlp()))
    for step, state in states().items():
        model.load_state_dict(state)
        exported = torch.onnx.export(model.eval(), (probe,), dynamo=True, optimize=False, verbose=False)
        proto = exported.model_proto
        onnx.helper.set_model_props(proto, {"step": str(step), "loss": str(LOSS[step])})
        onnx.save(proto, folder / f"net_{step}.onnx")
