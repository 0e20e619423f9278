"""A convolutional network on the digits, in Keras with JAX, saved by `ModelCheckpoint`.

Run it with ``python -m regime_proto.examples.digits_keras DIR``, then ``regime analyze DIR/checkpoints --model
regime_proto.examples.digits_keras:make --probe DIR/probe.npy --batches-per-epoch 22``.

The archives hold the optimizer's step count, by which they are ordered.
"""

import os
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "jax")

import keras
from keras import layers

from regime_proto.examples import digits


def make() -> keras.Model:
    """Return the network."""
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(16, 3, padding="same", use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.MaxPooling2D(),
            layers.Conv2D(32, 3, activation="relu"),
            layers.Flatten(),
            layers.Dense(32, activation="relu"),
            layers.Dense(digits.CLASSES),
        ]
    )


def train(out: Path) -> float:
    """Train, and write ``out/probe.npy`` and ``out/checkpoints/*.keras``; return the validation accuracy."""
    images, validation, labels, validation_labels = digits.load()
    checkpoints = digits.prepare(out, validation)
    keras.utils.set_random_seed(0)
    model = make()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-3), loss, metrics=["accuracy"])
    whole = len(images) // digits.BATCH * digits.BATCH
    name = str(checkpoints / "epoch{epoch:02d}-batch{batch:02d}.keras")
    saving = keras.callbacks.ModelCheckpoint(name, save_freq=digits.EVERY)
    model.fit(
        images[:whole], labels[:whole], batch_size=digits.BATCH, epochs=digits.EPOCHS, callbacks=[saving], verbose=0
    )
    return float(model.evaluate(validation, validation_labels, verbose=0)[1])


if __name__ == "__main__":
    digits.main(train)
