"""A convolutional network on the digits, trained by Lightning and recorded at every step.

Run it with ``python -m regime_proto.examples.live_lightning OUT.h5``, then ``regime analyze OUT.h5``.

The probe is drawn from the validation loader: 0.2 × batch size samples.
"""

from pathlib import Path

import lightning
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from regime_proto.adapters.from_torch.lightning_callback import RegimeCallback
from regime_proto.examples import digits

EPOCHS = 4


class Classifier(lightning.LightningModule):  # type: ignore[misc]
    """A network and its training."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3), nn.ReLU(), nn.Flatten(),
            nn.Linear(128, 32), nn.ReLU(), nn.Linear(32, digits.CLASSES),
        )  # fmt: skip

    def training_step(self, batch: list[torch.Tensor], _: int) -> torch.Tensor:
        """Return the loss of a batch."""
        images, labels = batch
        return nn.functional.cross_entropy(self.net(images), labels)

    def validation_step(self, batch: list[torch.Tensor], _: int) -> None:
        """Log the scores of a batch."""
        images, labels = batch
        logits = self.net(images)
        self.log("val_loss", nn.functional.cross_entropy(logits, labels))
        self.log("val_accuracy", (logits.argmax(1) == labels).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the optimizer."""
        return torch.optim.Adam(self.parameters(), lr=1e-3)


def train(out: Path) -> float:
    """Train, and write the trajectory `out`; return the validation accuracy."""
    images, validation, labels, validation_labels = (torch.from_numpy(part) for part in digits.load())
    samples = TensorDataset(images.movedim(3, 1), labels)
    validation_samples = TensorDataset(validation.movedim(3, 1), validation_labels)
    lightning.seed_everything(0, verbose=False)
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=EPOCHS,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[RegimeCallback("auto", out, module="net", overwrite=True)],
    )
    trainer.fit(
        Classifier(),
        DataLoader(samples, digits.BATCH, shuffle=True, drop_last=True),
        DataLoader(validation_samples, len(validation_samples)),
    )
    return float(trainer.callback_metrics["val_accuracy"])


if __name__ == "__main__":
    digits.main(train)
