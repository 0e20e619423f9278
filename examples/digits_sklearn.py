"""An MLP on the digits, in scikit-learn, saved by skops.

Run it with ``python -m regime_proto.examples.digits_sklearn DIR``, then ``regime analyze DIR/checkpoints --model
regime_proto.examples.digits_sklearn:make --probe DIR/probe.npy --batches-per-epoch 22``.
"""

from pathlib import Path

import numpy as np
import skops.io
from sklearn.neural_network import MLPClassifier

from regime_proto.examples import digits

WIDTHS = (64, 32)


def make() -> MLPClassifier:
    """Return the network, with weights of the right shapes."""
    model = MLPClassifier(WIDTHS, random_state=0)
    labels = np.arange(digits.CLASSES)
    return model.partial_fit(np.zeros((digits.CLASSES, 64), "float32"), labels, classes=labels)


def train(out: Path) -> float:
    """Train, and write ``out/probe.npy`` and ``out/checkpoints/step_NNNN.skops``; return the validation accuracy."""
    images, validation, labels, validation_labels = digits.load()
    pixels, validation = images.reshape(len(images), -1), validation.reshape(len(validation), -1)
    checkpoints = digits.prepare(out, validation)
    generator = np.random.default_rng(0)
    model = MLPClassifier(WIDTHS, random_state=0, batch_size=digits.BATCH)
    step = 0
    for _ in range(digits.EPOCHS):
        for batch in digits.batches(len(pixels), generator):
            model.partial_fit(pixels[batch], labels[batch], classes=range(digits.CLASSES))
            step += 1
            if step % digits.EVERY == 0:
                skops.io.dump(model, checkpoints / f"step_{step:04d}.skops")
    return float(model.score(validation, validation_labels))


if __name__ == "__main__":
    digits.main(train)
