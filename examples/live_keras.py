"""A convolutional network on the digits, in Keras with JAX, recorded during training, without saving checkpoints.

Run it with ``python -m regime_proto.examples.live_keras OUT.h5``, then ``regime analyze OUT.h5``.

The callback observes the model after every step, and adds training and validation loss and accuracy.
"""

import os
import sys
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "jax")

import keras

from regime_proto.adapters.from_keras.callback import RegimeCallback
from regime_proto.examples import digits
from regime_proto.examples.digits_keras import make


def train(out: Path) -> float:
    """Train, and write the trajectory ``out``; return the validation accuracy."""
    images, validation, labels, validation_labels = digits.load()
    keras.utils.set_random_seed(0)
    model = make()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-3), loss, metrics=["accuracy"])
    recording = RegimeCallback(validation[: digits.PROBE_SAMPLES], out, overwrite=True)
    history = model.fit(
        images,
        labels,
        batch_size=digits.BATCH,
        epochs=digits.EPOCHS,
        validation_data=(validation, validation_labels),
        callbacks=[recording],
        verbose=0,
    )
    return float(history.history["val_accuracy"][-1])


if __name__ == "__main__":
    print(f"validation accuracy {train(Path(sys.argv[1])):.3f}")
