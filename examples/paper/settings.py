"""The settings of a row: values from the table, and values that a user may choose."""

from dataclasses import asdict, dataclass
from typing import Any

from regime_proto.examples.paper.rows import Row
from regime_proto.schema.errors import RegimeError

STANDARD, UNIT = SCALINGS = ("standard", "unit")


@dataclass(frozen=True)
class Settings:
    """The settings of one training.

    Parameters
    ----------
    row : str
        Name of the row.
    epochs : int
        Maximum number of epochs.
    batch_size : int
    momentum : float
        Momentum of SGD.
    dropout : float or None
        Rate of every dropout of the network; None for the network's own.
    scaling : {"standard", "unit"}
        Scale images by mean and deviation of each channel, or to the range from 0 to 1.
    seed : int
        Random seed for the initial weights, the order of the batches, the dropout and the probe.
    steps : int or None
        Stop after this number of updates.
    least_improvement : float
        Relative decrease of the validation loss that early stopping counts as progress.
    width : float
        1 for the real network, less for a narrower one.
    image_size : int or None
        Side in pixels to which images are resized, if the network resizes them; None for the network's own.
    validation_samples : int or None
        Validate with only this number of samples, the first ones.
    checkpoints : int
        Number of states kept for the structural share, at geometrically growing steps; 0 for none.
    every : int
        Number of updates between observations; the paper observes every update.
    device : str
        ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.
    data : str or None
        Folder of the real data set.
    """

    row: str
    epochs: int
    batch_size: int
    momentum: float = 0.0
    dropout: float | None = None
    scaling: str = STANDARD
    seed: int = 0
    steps: int | None = None
    least_improvement: float = 0.0
    width: float = 1.0
    image_size: int | None = None
    validation_samples: int | None = None
    checkpoints: int = 16
    every: int = 1
    device: str = "cpu"
    data: str | None = None

    def __post_init__(self) -> None:
        least = {"epochs": 1, "batch_size": 2, "seed": 0, "steps": 2, "validation_samples": 1, "every": 1}
        for name, lowest in least.items():
            value = getattr(self, name)
            if value is not None and value < lowest:
                raise RegimeError(f"--{name.replace('_', '-')} {value}: expected {lowest} or more")
        for name in ("momentum", "dropout", "least_improvement"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < 1:
                raise RegimeError(f"--{name.replace('_', '-')} {value:g}: expected 0 or more, and less than 1")
        if self.scaling not in SCALINGS:
            raise RegimeError(f"--scaling {self.scaling}: expected {' or '.join(SCALINGS)}")
        if self.checkpoints < 0 or self.checkpoints == 1:
            raise RegimeError(f"--checkpoints {self.checkpoints}: expected 2 or more, or 0 for none")

    @property
    def patience(self) -> int:
        """Number of epochs without progress after which the training ends: a third of all epochs."""
        return max(1, round(self.epochs / 3))

    @property
    def probe_samples(self) -> int:
        """0.2 × batch size."""
        return max(1, round(0.2 * self.batch_size))

    @property
    def folder(self) -> str:
        """Name of the folder of this training, from the settings that most often differ."""
        parts = [self.row, f"batch-{self.batch_size}"]
        if self.momentum:
            parts.append(f"momentum-{self.momentum:g}")
        if self.dropout is not None:
            parts.append(f"dropout-{self.dropout:g}")
        if self.scaling != STANDARD:
            parts.append(f"scaling-{self.scaling}")
        if self.least_improvement:
            parts.append(f"least-improvement-{self.least_improvement:g}")
        if self.width != 1:
            parts.append(f"width-{self.width:g}")
        return "-".join([*parts, f"seed-{self.seed}"])

    def to_json(self) -> dict[str, Any]:
        """Return plain values for a JSON object."""
        return asdict(self)


def settings_of(row: Row, **chosen: Any) -> Settings:
    """Return the settings of a row, with the values that a user has chosen; None means not chosen.

    Raises
    ------
    RegimeError
        A value is out of range, or momentum is chosen for an optimizer without momentum.
    """
    given = {name: value for name, value in chosen.items() if value is not None}
    if given.get("momentum") and row.optimizer != "SGD":
        raise RegimeError(f"--momentum {given['momentum']:g}: applies only to SGD, but {row.name} uses {row.optimizer}")
    stated = {"epochs": row.epochs, "batch_size": row.batch_size, "momentum": row.momentum}
    return Settings(row=row.name, **(stated | given))
