"""A convolutional network on the digits, in JAX with flax.nnx, saved by Orbax.

Run it with ``python -m regime_proto.examples.digits_flax DIR``, then ``regime analyze DIR/checkpoints --model
regime_proto.examples.digits_flax:make --probe DIR/probe.npy --batches-per-epoch 22``.
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from flax import nnx

from regime_proto.examples import digits


class Net(nnx.Module):  # type: ignore[misc]
    """Two convolutions, with batch normalisation after the first, followed by two linear layers."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.conv1 = nnx.Conv(1, 16, (3, 3), use_bias=False, rngs=rngs)
        self.norm = nnx.BatchNorm(16, momentum=0.9, rngs=rngs)
        self.conv2 = nnx.Conv(16, 32, (3, 3), padding="VALID", rngs=rngs)
        self.fc1 = nnx.Linear(128, 32, rngs=rngs)
        self.fc2 = nnx.Linear(32, digits.CLASSES, rngs=rngs)

    def __call__(self, image: jax.Array) -> jax.Array:
        """Return logits, (sample, class)."""
        hidden = nnx.relu(self.norm(self.conv1(image)))
        hidden = nnx.max_pool(hidden, (2, 2), strides=(2, 2))
        hidden = nnx.relu(self.conv2(hidden)).reshape(len(image), -1)
        return self.fc2(nnx.relu(self.fc1(hidden)))


def make() -> Net:
    """Return the network."""
    return Net(nnx.Rngs(0))


@nnx.jit  # type: ignore[untyped-decorator]
def _step(model: Net, optimizer: Any, images: jax.Array, labels: jax.Array) -> jax.Array:
    def loss_of(model: Net) -> jax.Array:
        return optax.softmax_cross_entropy_with_integer_labels(model(images), labels).mean()

    loss, gradients = nnx.value_and_grad(loss_of)(model)
    optimizer.update(model, gradients)
    return loss


def train(out: Path) -> float:
    """Train, and write ``out/probe.npy`` and ``out/checkpoints/STEP/``; return the validation accuracy."""
    images, validation, labels, validation_labels = digits.load()
    generator = np.random.default_rng(0)
    model = make()
    optimizer = nnx.Optimizer(model, optax.adam(1e-3), wrt=nnx.Param)
    step = 0
    with ocp.CheckpointManager(digits.prepare(out, validation)) as manager:
        for _ in range(digits.EPOCHS):
            for batch in digits.batches(len(images), generator):
                loss = _step(model, optimizer, jnp.asarray(images[batch]), jnp.asarray(labels[batch]))
                step += 1
                if step % digits.EVERY == 0:
                    state = nnx.to_pure_dict(nnx.state(model))
                    saved = ocp.args.Composite(
                        state=ocp.args.StandardSave(state), metrics=ocp.args.JsonSave({"loss": float(loss)})
                    )
                    manager.save(step, args=saved)
    model.eval()
    return float((model(jnp.asarray(validation)).argmax(axis=1) == validation_labels).mean())


if __name__ == "__main__":
    digits.main(train)
