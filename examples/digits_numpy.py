"""An MLP on the digits in pure NumPy, saved as ``.npz``; its forward pass is defined in ONNX.

Run it with ``python -m regime_proto.examples.digits_numpy DIR``, then ``regime analyze DIR/checkpoints --model
regime_proto.examples.digits_numpy:make --probe DIR/probe.npy``.
"""

import itertools
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from regime_proto.examples import digits

WIDTHS = (64, 64, 32, digits.CLASSES)
RATE = 0.2

Weights = dict[str, NDArray[np.float32]]


def initial() -> Weights:
    """Return the initial weights."""
    generator = np.random.default_rng(0)
    weights: Weights = {}
    for layer, (wide, out) in enumerate(itertools.pairwise(WIDTHS)):
        weights[f"layer{layer}.weight"] = (generator.normal(size=(wide, out)) * (2 / wide) ** 0.5).astype("float32")
        weights[f"layer{layer}.bias"] = np.zeros(out, "float32")
    return weights


def make() -> onnx.ModelProto:
    """Return the forward pass; its initializers have the same names as the weights in the checkpoints."""
    weights = initial()
    nodes, last = [], "pixels"
    layers = len(WIDTHS) - 1
    for layer in range(layers):
        product, total, positive = f"product{layer}", f"total{layer}", f"positive{layer}"
        nodes.append(helper.make_node("MatMul", [last, f"layer{layer}.weight"], [product]))
        nodes.append(helper.make_node("Add", [product, f"layer{layer}.bias"], [total]))
        if layer < layers - 1:
            nodes.append(helper.make_node("Relu", [total], [positive], name=f"relu{layer}"))
        last = positive
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["sample", WIDTHS[0]])],
        [helper.make_tensor_value_info(total, TensorProto.FLOAT, ["sample", WIDTHS[-1]])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def _forward(weights: Weights, pixels: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """Return the inputs of every layer, and the logits."""
    values = [pixels]
    for layer in range(len(WIDTHS) - 1):
        total = values[-1] @ weights[f"layer{layer}.weight"] + weights[f"layer{layer}.bias"]
        values.append(np.maximum(total, 0) if layer < len(WIDTHS) - 2 else total)
    return values


def _step(weights: Weights, pixels: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """Take a step of gradient descent; return the loss."""
    *inputs, logits = _forward(weights, pixels)
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    loss = -np.log(shares[np.arange(len(labels)), labels]).mean()
    gradient = shares
    gradient[np.arange(len(labels)), labels] -= 1
    gradient /= len(labels)
    for layer in reversed(range(len(inputs))):
        weight = weights[f"layer{layer}.weight"]
        below = gradient @ weight.T * (inputs[layer] > 0)
        weight -= RATE * inputs[layer].T @ gradient
        weights[f"layer{layer}.bias"] -= RATE * gradient.sum(axis=0)
        gradient = below
    return float(loss)


def train(out: Path) -> float:
    """Train, and write ``out/probe.npy`` and ``out/checkpoints/step_NNNN.npz``; return the validation accuracy."""
    images, validation, labels, validation_labels = digits.load()
    pixels, validation = images.reshape(len(images), -1), validation.reshape(len(validation), -1)
    checkpoints = digits.prepare(out, validation)
    generator = np.random.default_rng(0)
    weights = initial()
    step, per_epoch = 0, len(pixels) // digits.BATCH
    for _ in range(digits.EPOCHS):
        for batch in digits.batches(len(pixels), generator):
            loss = _step(weights, pixels[batch], labels[batch])
            step += 1
            if step % digits.EVERY == 0:
                facts = {"step": step, "epoch": step / per_epoch, "loss": loss}
                np.savez(checkpoints / f"step_{step:04d}.npz", allow_pickle=False, **facts, **weights)
    return float((_forward(weights, validation)[-1].argmax(axis=1) == validation_labels).mean())


if __name__ == "__main__":
    digits.main(train)
