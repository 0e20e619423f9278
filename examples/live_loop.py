"""A network on the digits, trained in a plain PyTorch loop and recorded at every step.

Run it with ``python -m regime_proto.examples.live_loop OUT.h5``, then ``regime analyze OUT.h5``.

No checkpoint is written. The recorder observes the model after every update, and reports when its patterns have
settled.
"""

from pathlib import Path

import numpy as np
import torch
from torch import nn

import regime_proto
from regime_proto.examples import digits

EPOCHS = 12


def make() -> nn.Module:
    """Return the network: 64 pixels, 10 classes."""
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, digits.CLASSES))


def say(status: regime_proto.Status) -> None:
    """Print when patterns have settled."""
    print(f"patterns have settled at step {status.step} (epoch {status.epoch:.1f})")


def train(out: Path) -> float:
    """Train, and write the trajectory `out`; return the validation accuracy."""
    images, validation, labels, validation_labels = (torch.from_numpy(part) for part in digits.load())
    images, validation = images.flatten(1), validation.flatten(1)
    torch.manual_seed(0)
    model = make()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    generator = np.random.default_rng(0)
    probe = validation[: digits.PROBE_SAMPLES].numpy()
    settling = regime_proto.Settling(threshold=0.2, window=40)
    step = 0
    with regime_proto.record(model, probe, out, overwrite=True, settling=settling, on_settled=say) as recorder:
        recorder.observe(step, epoch=0)
        for _ in range(EPOCHS):
            batches = digits.batches(len(images), generator)
            for batch in batches:
                loss = nn.functional.cross_entropy(model(images[batch]), labels[batch])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                step += 1
                recorder.observe(step, epoch=step / len(batches), loss=loss.item())
            with torch.no_grad():
                logits = model(validation)
            accuracy = float((logits.argmax(1) == validation_labels).float().mean())
            recorder.log(val_loss=nn.functional.cross_entropy(logits, validation_labels), val_accuracy=accuracy)
    return accuracy


if __name__ == "__main__":
    digits.main(train)
