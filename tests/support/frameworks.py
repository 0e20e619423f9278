"""One network in five frameworks: the same layers, and writers of the same weights by each framework's own means.

Between the frameworks weights go about by layer and name, in the layout of JAX: kernels are (inputs, outputs) or (row,
column, channel in, channel out), images (sample, row, column, channel).
"""

import warnings

import numpy as np
import onnx
import torch
from libraries import needed
from torch import nn

import regime_proto

CLASSES = 3
SIDE = 8
STATES = 9
EPSILON = 1e-5

MLP = ("dense", 12, 16), ("relu",), ("dense", 16, 10), ("relu",), ("dense", 10, CLASSES)
MLP_NORM = (
    ("dense", 12, 16),
    ("norm", 16),
    ("relu",),
    ("dense", 16, 10),
    ("norm", 10),
    ("relu",),
    ("dense", 10, CLASSES),
)
CONV = (
    ("conv", 1, 4, "same"), ("norm", 4), ("relu",), ("pool",), ("conv", 4, 6, "valid"), ("relu",), ("flatten",),
    ("dense", 24, 11), ("relu",), ("dense", 11, CLASSES),
)  # fmt: skip
NETWORKS = {"mlp": MLP, "mlp with norm": MLP_NORM, "conv": CONV}


def probe(layers, samples=32):
    """Return inputs in the layout of JAX."""
    shape = (SIDE, SIDE, 1) if layers[0][0] == "conv" else (layers[0][1],)
    return np.random.default_rng(1).normal(size=(samples, *shape)).astype("float32")


def channels_first(images):
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2)) if images.ndim == 4 else images


# --- torch: trained for the weights of all -------------------------------------------------------------------------


class Torch(nn.Module):
    def __init__(self, layers):
        super().__init__()
        torch.manual_seed(0)
        make = {
            "dense": lambda wide, out: nn.Linear(wide, out),
            "conv": lambda wide, out, padding: nn.Conv2d(wide, out, 3, padding=padding),
            "norm": lambda width: (nn.BatchNorm2d if layers[0][0] == "conv" else nn.BatchNorm1d)(width, eps=EPSILON),
            "relu": nn.ReLU,
            "pool": lambda: nn.MaxPool2d(2),
            "flatten": nn.Flatten,
        }
        self.body = nn.Sequential(*(make[kind](*sizes) for kind, *sizes in layers))

    def forward(self, x):
        return self.body(x)


def trained(layers):
    """Return the weights after every step of a training in torch, by layer and name."""
    model = Torch(layers).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9)
    generator = torch.Generator().manual_seed(2)
    inputs = torch.from_numpy(channels_first(probe(layers, samples=64)))
    labels = torch.randint(0, CLASSES, (64,), generator=generator)
    states = [_from_torch(model)]
    for _ in range(STATES - 1):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
        states.append(_from_torch(model))
    return states


def _from_torch(model):
    names = {"weight": "kernel", "bias": "bias", "running_mean": "mean", "running_var": "var"}
    state = {}
    for index, layer in enumerate(model.body):
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.BatchNorm1d | nn.BatchNorm2d):
            held = {
                names[key]: value.detach().numpy().copy() for key, value in layer.state_dict().items() if key in names
            }
            kernel = held.pop("kernel")
            if kernel.ndim == 1:
                held["scale"] = kernel
            else:
                held["kernel"] = _kernel(kernel, model, index)
            state[index] = held
    return state


def _kernel(weight, model, index):
    """Return a kernel of torch in the layout of JAX; behind images the order of the units is that of the pixels."""
    if weight.ndim == 4:
        return np.ascontiguousarray(weight.transpose(2, 3, 1, 0))
    if index and isinstance(model.body[index - 1], nn.Flatten):
        channels = next(layer for layer in reversed(model.body[:index]) if isinstance(layer, nn.Conv2d)).out_channels
        side = int((weight.shape[1] // channels) ** 0.5)
        weight = weight.reshape(-1, channels, side, side).transpose(0, 2, 3, 1).reshape(len(weight), -1)
    return np.ascontiguousarray(weight.T)


def _to_torch(layers, state):
    """Return a state dict of torch: the inverse of `_from_torch`."""
    model = Torch(layers)
    names = {"bias": "bias", "mean": "running_mean", "var": "running_var", "scale": "weight"}
    found = {}
    for index, held in state.items():
        for key, array in held.items():
            if key != "kernel":
                found[f"body.{index}.{names[key]}"] = torch.from_numpy(array)
            elif array.ndim == 4:
                found[f"body.{index}.weight"] = torch.from_numpy(array.transpose(3, 2, 0, 1).copy())
            else:
                weight = array.T
                if isinstance(model.body[index - 1], nn.Flatten) and index:
                    channels = next(x for x in reversed(model.body[:index]) if isinstance(x, nn.Conv2d)).out_channels
                    side = int((weight.shape[1] // channels) ** 0.5)
                    weight = weight.reshape(-1, side, side, channels).transpose(0, 3, 1, 2).reshape(len(weight), -1)
                found[f"body.{index}.weight"] = torch.from_numpy(weight.copy())
    return found


def pre_activations(layers, state, inputs):
    """Return what goes into each ReLU, in float64, in the layout of JAX: (sample, unit)."""
    model = Torch(layers).double().eval()
    model.load_state_dict(_to_torch(layers, state), strict=False)
    found, hidden = [], torch.from_numpy(channels_first(inputs)).double()
    with torch.no_grad():
        for layer in model.body:
            if isinstance(layer, nn.ReLU):
                value = hidden.numpy()
                found.append((value.transpose(0, 2, 3, 1) if value.ndim == 4 else value).reshape(len(value), -1))
            hidden = layer(hidden)
    return found


def write_torch(folder, layers, states):
    for step, state in enumerate(states):
        torch.save({"model": _to_torch(layers, state), "step": step}, folder / f"step_{step}.pt")
    return Torch(layers)


# --- Keras ---------------------------------------------------------------------------------------------------------


def keras_model(layers):
    import keras

    make = {
        "dense": lambda _, out: keras.layers.Dense(out),
        "conv": lambda _, out, padding: keras.layers.Conv2D(out, 3, padding=padding),
        "norm": lambda _: keras.layers.BatchNormalization(epsilon=EPSILON),
        "relu": keras.layers.ReLU,
        "pool": keras.layers.MaxPooling2D,
        "flatten": keras.layers.Flatten,
    }
    shape = probe(layers).shape[1:]
    return keras.Sequential([keras.Input(shape), *(make[kind](*sizes) for kind, *sizes in layers)])


def write_keras(folder, layers, states, suffix=".weights.h5"):
    model = keras_model(layers)
    order = ("kernel", "scale", "bias", "mean", "var")
    for step, state in enumerate(states):
        for index, held in state.items():
            model.layers[index].set_weights([held[name] for name in order if name in held])
        path = folder / f"step_{step}{suffix}"
        model.save_weights(path) if suffix == ".weights.h5" else model.save(path)
    return model


# --- Flax ----------------------------------------------------------------------------------------------------------


def flax_model(layers):
    from flax import nnx

    rngs = nnx.Rngs(0)
    make = {
        "dense": lambda wide, out: nnx.Linear(wide, out, rngs=rngs),
        "conv": lambda wide, out, padding: nnx.Conv(wide, out, (3, 3), padding=padding.upper(), rngs=rngs),
        "norm": lambda width: nnx.BatchNorm(width, epsilon=EPSILON, rngs=rngs),
        "relu": lambda: nnx.relu,
        "pool": lambda: lambda x: nnx.max_pool(x, (2, 2), strides=(2, 2)),
        "flatten": lambda: lambda x: x.reshape(x.shape[0], -1),
    }
    return nnx.Sequential(*(make[kind](*sizes) for kind, *sizes in layers))


def write_flax(folder, layers, states):
    """Write folders of Orbax."""
    import orbax.checkpoint as ocp
    from flax import nnx

    model = flax_model(layers)
    with ocp.CheckpointManager(folder.absolute()) as manager:
        for step, state in enumerate(states):
            for index, held in state.items():
                nnx.update(model.layers[index], nnx.State({name: nnx.Param(array) for name, array in held.items()}))
            manager.save(step, args=ocp.args.StandardSave(nnx.to_pure_dict(nnx.state(model))))
        manager.wait_until_finished()
    return model


# --- numpy, with a program -----------------------------------------------------------------------------------------


def onnx_model(layers, state):
    """Return a graph that a user of numpy might write, for images with the channel last."""
    nodes, values = [], {}
    last = "x"

    def add(op, *inputs, **attributes):
        nonlocal last
        name = f"v{len(nodes)}"
        nodes.append(onnx.helper.make_node(op, [last, *inputs], [name], **attributes))
        last = name

    for index, (kind, *sizes) in enumerate(layers):
        names = {key: f"layer{index}.{key}" for key in state.get(index, {})}
        values |= {names[key]: array for key, array in state.get(index, {}).items()}
        if kind == "dense":
            add("MatMul", names["kernel"])
            add("Add", names["bias"])
        elif kind == "conv":
            # ONNX wants (channel out, channel in, row, column).
            turned = f"turned{index}"
            nodes.append(onnx.helper.make_node("Transpose", [names["kernel"]], [turned], perm=[3, 2, 0, 1]))
            add("Transpose", perm=[0, 3, 1, 2])
            add("Conv", turned, names["bias"], pads=[1, 1, 1, 1] if sizes[-1] == "same" else [0, 0, 0, 0])
            add("Transpose", perm=[0, 2, 3, 1])
        elif kind == "norm":
            images = layers[0][0] == "conv"
            if images:
                add("Transpose", perm=[0, 3, 1, 2])
            add("BatchNormalization", *(names[key] for key in ("scale", "bias", "mean", "var")), epsilon=EPSILON)
            if images:
                add("Transpose", perm=[0, 2, 3, 1])
        elif kind == "pool":
            add("Transpose", perm=[0, 3, 1, 2])
            add("MaxPool", kernel_shape=[2, 2], strides=[2, 2])
            add("Transpose", perm=[0, 2, 3, 1])
        else:
            add({"relu": "Relu", "flatten": "Flatten"}[kind])
    inputs = [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [None, *probe(layers).shape[1:]])]
    outputs = [onnx.helper.make_tensor_value_info(last, onnx.TensorProto.FLOAT, [None, CLASSES])]
    weights = [onnx.numpy_helper.from_array(array, name) for name, array in values.items()]
    graph = onnx.helper.make_graph(nodes, "net", inputs, outputs, weights)
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)


def write_numpy(folder, layers, states):
    for step, state in enumerate(states):
        arrays = {f"layer{index}.{key}": array for index, held in state.items() for key, array in held.items()}
        np.savez(folder / f"step_{step}.npz", **arrays)
    return onnx_model(layers, states[0])


# --- scikit-learn --------------------------------------------------------------------------------------------------


def write_sklearn(folder, layers, states):
    import skops.io
    from sklearn.neural_network import MLPClassifier

    widths = [out for kind, *sizes in layers if kind == "dense" for out in sizes[1:]]
    inputs = probe(layers)
    model = MLPClassifier(tuple(widths[:-1]), random_state=0)
    model.partial_fit(inputs, np.arange(len(inputs)) % CLASSES, classes=range(CLASSES))
    for step, state in enumerate(states):
        model.coefs_ = [held["kernel"] for held in state.values()]
        model.intercepts_ = [held["bias"] for held in state.values()]
        skops.io.dump(model, folder / f"step_{step}.skops")
    return model


WRITERS = {
    "torch": write_torch,
    "keras": write_keras,
    "flax": write_flax,
    "numpy": write_numpy,
    "sklearn": write_sklearn,
}


LIBRARIES = {"keras": ("keras", "jax2onnx"), "flax": ("flax", "orbax.checkpoint"), "sklearn": ("skops", "skl2onnx")}


# scikit-learn has fully connected networks without normalisation only.
CASES = [(network, framework) for network in NETWORKS for framework in ("keras", "flax", "numpy")]


def measured(framework, layers, states, folder):
    """Return the trajectory of states that a framework wrote, and its result."""
    for name in LIBRARIES.get(framework, ()):
        needed(name)
    checkpoints = folder / "checkpoints"
    checkpoints.mkdir()
    with warnings.catch_warnings():
        # Of the libraries, on each other.
        warnings.simplefilter("ignore")
        model = WRITERS[framework](checkpoints, layers, states)
    inputs = probe(layers)
    given = channels_first(inputs) if framework == "torch" else inputs
    path = regime_proto.convert(checkpoints, folder / "run.h5", model=model, probe=given)
    with regime_proto.open_trajectory(path) as trajectory:
        return trajectory.load(), regime_proto.analyze(path, resamples=0)


def masks(trajectory, layers, framework):
    """Return the masks of every layer, (step, sample, unit), the units in the layout of JAX."""
    found = []
    spans = zip(
        *(trajectory[name].values for name in ("layer_byte_start", "layer_byte_stop", "layer_size")), strict=True
    )
    for (start, stop, size), channels in zip(spans, channels_of(layers), strict=True):
        bits = np.unpackbits(trajectory["mask"].values[:, :, start:stop], axis=2)[:, :, :size]
        if framework == "torch" and channels:
            side = int((size // channels) ** 0.5)
            bits = bits.reshape(*bits.shape[:2], channels, side, side).transpose(0, 1, 3, 4, 2).reshape(bits.shape)
        found.append(bits.astype(bool))
    return found


def channels_of(layers):
    """Return the channels that go into each ReLU, 0 where these are no images."""
    last, found = 0, []
    for kind, *sizes in layers:
        last = sizes[1] if kind == "conv" else 0 if kind == "dense" else last
        if kind == "relu":
            found.append(last)
    return found
