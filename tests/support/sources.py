"""Writes one and the same run as each source of checkpoints does, with the library itself."""

import argparse
import json
from itertools import pairwise

import nets
import numpy as np
import onnx
import torch
from safetensors.torch import save_file

STEPS = (0, 10, 20, 100, 110)
LOSS = {step: 1 / (step + 1) for step in STEPS}


def mlp():
    """Return a model without its weights, and a probe for it."""
    return nets.make_mlp(), nets.probe(nets.make_mlp())


def resnet():
    """Return a small model of transformers, and a probe for it."""
    from transformers import ResNetConfig, ResNetForImageClassification

    torch.manual_seed(0)
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    return ResNetForImageClassification(config), {"pixel_values": images.numpy()}


def plain_mlp():
    """Return a model such as scikit-learn has too, and a probe for it."""
    torch.manual_seed(0)
    widths = (12, 32, 20, 16, 8, 3)
    layers = [part for wide in pairwise(widths) for part in (torch.nn.Linear(*wide), torch.nn.ReLU())]
    return torch.nn.Sequential(*layers[:-1]), nets.probe(nets.make_mlp())


def mlp_classifier():
    """Return an estimator of the form of `plain_mlp`, with weights of its own."""
    from sklearn.neural_network import MLPClassifier

    _, probe = plain_mlp()
    return MLPClassifier((32, 20, 16, 8)).partial_fit(probe, np.arange(len(probe)) % 3, classes=range(3))


def keras_mlp():
    """Return a model of Keras of the form of `plain_mlp`, with weights of its own."""
    import keras

    layers = [keras.layers.Dense(width, activation="relu") for width in (32, 20, 16, 8)]
    return keras.Sequential([keras.Input((12,)), *layers, keras.layers.Dense(3)])


def states(make):
    """Return states of a model by step, each some way from the one before."""
    model, _ = make()
    generator = torch.Generator().manual_seed(0)
    found = {}
    for step in STEPS:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
        found[step] = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    return found


def torch_files(folder, states):
    for step, state in states.items():
        torch.save({"model": state, "step": step, "loss": LOSS[step]}, folder / f"ckpt_{step}.pt")


def torch_files_with_objects(folder, states):
    """Only torch's own reader takes these."""
    for step, state in states.items():
        payload = {"state_dict": state, "step": step, "loss": LOSS[step], "args": argparse.Namespace(lr=1)}
        torch.save(payload, folder / f"ckpt_{step}.pth")


def safetensors_files(folder, states):
    for step, state in states.items():
        save_file(state, folder / f"step_{step}.safetensors", metadata={"step": str(step), "loss": str(LOSS[step])})


def npz_files(folder, states):
    for step, state in states.items():
        arrays = {name: tensor.numpy() for name, tensor in state.items()}
        np.savez(folder / f"state-{step}.npz", step=step, loss=LOSS[step], **arrays)


def sharded_folders(folder, states):
    for step, state in states.items():
        inner = folder / f"step{step}"
        inner.mkdir()
        names, weight_map = list(state), {}
        for shard, part in enumerate((names[:5], names[5:]), start=1):
            file = f"model-0000{shard}-of-00002.safetensors"
            save_file({name: state[name] for name in part}, inner / file, metadata={"loss": str(LOSS[step])})
            weight_map |= dict.fromkeys(part, file)
        (inner / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def onnx_files(folder, states):
    """Graphs that differ in weights only: exported once, as each state would be."""
    model, probe = mlp()
    exported = torch.onnx.export(model.eval(), (torch.from_numpy(probe),), dynamo=True, optimize=False, verbose=False)
    proto = exported.model_proto
    weights = [tensor for tensor in proto.graph.initializer if tensor.name in model.state_dict()]
    assert {tensor.name for tensor in weights} >= dict(model.named_parameters()).keys()
    for step, state in states.items():
        for tensor in weights:
            tensor.CopyFrom(onnx.numpy_helper.from_array(state[tensor.name].numpy(), tensor.name))
        onnx.helper.set_model_props(proto, {"step": str(step), "loss": str(LOSS[step])})
        onnx.save(proto, folder / f"net_{step}.onnx")


def dcp_folders(folder, states):
    import torch.distributed.checkpoint as dcp

    for step, state in states.items():
        content = {"model": state, "step": step, "loss": LOSS[step]}
        dcp.save(content, storage_writer=dcp.FileSystemWriter(folder / f"step-{step}"))


def huggingface_folders(folder, states):
    from transformers import TrainerState

    model, _ = resnet()
    for step, state in states.items():
        model.load_state_dict(state)
        model.save_pretrained(folder / f"checkpoint-{step}")
        log = [{"step": step, "epoch": step / 100, "loss": LOSS[step]}]
        trainer = TrainerState(global_step=step, epoch=step / 100, log_history=log)
        trainer.save_to_json(str(folder / f"checkpoint-{step}/trainer_state.json"))


def accelerate_folders(folder, states):
    import accelerate

    accelerator = accelerate.Accelerator(cpu=True)
    model = accelerator.prepare(mlp()[0])
    for step, state in states.items():
        model.load_state_dict(state)
        accelerator.save_state(str(folder / f"step_{step}"))


def lightning_files(folder, states):
    """A training whose optimizer does nothing: the weights are put in at the steps at which they are saved."""
    import lightning
    from torch.utils.data import DataLoader

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = mlp()[0]
            self.automatic_optimization = False

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.0)

        def save_if_due(self):
            if self.global_step in states:
                self.net.load_state_dict(states[self.global_step])
                self.trainer.save_checkpoint(folder / f"{self.global_step}.ckpt")

        def on_train_start(self):
            self.save_if_due()

        def training_step(self, _):
            self.optimizers().step()
            self.save_if_due()

    trainer = lightning.Trainer(
        max_steps=STEPS[-1], accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(Module(), DataLoader(torch.zeros(STEPS[-1], 1)))


def as_tree(state, step):
    """Return a state of torch as JAX's libraries nest theirs: at the dots of its names."""
    params = {}
    for name, tensor in state.items():
        *path, last = name.split(".")
        level = params
        for key in path:
            level = level.setdefault(key, {})
        level[last] = tensor.numpy()
    return {"step": step, "loss": LOSS[step], "params": params}


def orbax_folders(folder, states):
    import orbax.checkpoint as ocp

    with ocp.CheckpointManager(folder) as manager:
        for step, state in states.items():
            manager.save(step, args=ocp.args.StandardSave(as_tree(state, step)))


def flax_files(folder, states):
    from flax import serialization

    for step, state in states.items():
        (folder / f"state_{step}.msgpack").write_bytes(serialization.to_bytes(as_tree(state, step)))


def skops_files(folder, states):
    import skops.io

    estimator = mlp_classifier()
    for step, state in states.items():
        tensors = [tensor.numpy() for tensor in state.values()]
        estimator.coefs_, estimator.intercepts_ = [weight.T for weight in tensors[::2]], tensors[1::2]
        estimator.loss_ = LOSS[step]
        skops.io.dump(estimator, folder / f"step_{step}.skops")


def keras_files(folder, states):
    model = keras_mlp()
    for step, state in states.items():
        model.set_weights([tensor.numpy().T for tensor in state.values()])
        model.save_weights(folder / f"step_{step}.weights.h5")
