"""The Breast Cancer MLP of the paper's Table I, trained with a checkpoint at every step.

Run it with ``python -m regime_proto.examples.breast_cancer DIR``, then ``regime analyze DIR/checkpoints
--model regime_proto.examples.breast_cancer:make --probe DIR/probe.npz``.

The paper states the widths (64, 32), batch normalisation, dropout, SGD with learning rate 1e-2 and weight decay
1e-4, and 18 epochs. It does not state the batch size and the dropout rate; 128 and 0.2 are our choice.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split
from torch import nn

EPOCHS = 18
BATCH = 128
PROBE_SAMPLES = round(0.2 * BATCH)


def make() -> nn.Module:
    """Return the network: 30 features, 2 classes."""
    return nn.Sequential(
        nn.Linear(30, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Dropout(0.2),
        nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.2),
        nn.Linear(32, 2),
    )  # fmt: skip


def load_data() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return training features, validation features, training labels, validation labels."""
    features, labels = load_breast_cancer(return_X_y=True)
    split = train_test_split(features.astype("float32"), labels, test_size=0.2, random_state=0, stratify=labels)
    train, validation = (torch.from_numpy((part - split[0].mean(0)) / split[0].std(0)) for part in split[:2])
    return train, validation, torch.from_numpy(split[2]), torch.from_numpy(split[3])


def train(out: Path, *, seed: int = 0, batch_size: int = BATCH) -> float:
    """Train the network, and write ``out/probe.npz`` and ``out/checkpoints/step_NNNNNN.pt``.

    Returns
    -------
    float
        The accuracy on the validation samples.
    """
    train_x, validation_x, train_y, validation_y = load_data()
    checkpoints = out / "checkpoints"
    checkpoints.mkdir(parents=True, exist_ok=True)
    np.savez(out / "probe.npz", validation_x[:PROBE_SAMPLES].numpy())

    torch.manual_seed(seed)
    model = make()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2, weight_decay=1e-4)
    batches = -(-len(train_x) // batch_size)
    step = 0

    def save(loss: float) -> None:
        payload = {"model": model.state_dict(), "step": step, "epoch": step / batches, "loss": loss}
        torch.save(payload, checkpoints / f"step_{step:06d}.pt")

    save(float("nan"))
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(train_x)).split(batch_size):
            loss = nn.functional.cross_entropy(model(train_x[batch]), train_y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
            save(loss.item())
    model.eval()
    with torch.no_grad():
        return float((model(validation_x).argmax(1) == validation_y).float().mean())


if __name__ == "__main__":
    print(f"validation accuracy {train(Path(sys.argv[1])):.3f}")
