"""How one row is trained: what the table says, and what a user may choose."""

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
        The longest training.
    batch_size : int
    momentum : float
        Of SGD.
    dropout : float or None
        The share of every dropout of the network; None for the network's own.
    scaling : {"standard", "unit"}
        Images by mean and deviation of each channel, or from 0 to 1.
    seed : int
        Of the initial weights, the order of the batches, the dropout and the draw of the probe.
    steps : int or None
        Stop after so many updates.
    least_improvement : float
        What counts as progress for the early stopping: the validation loss falls by this share of it.
    width : float
        1 is the real network, less a narrower one.
    image_size : int or None
        Side in pixels to which images are resized where the network does that; None for the network's own.
    validation_samples : int or None
        Validate with the first so many only.
    checkpoints : int
        States that are kept for the structural share, at steps that grow geometrically; 0 for none.
    every : int
        Observe every so many updates; the paper observes each.
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
        """Epochs without progress after which the training ends: a third of all."""
        return max(1, round(self.epochs / 3))

    @property
    def probe_samples(self) -> int:
        """0.2 × batch size."""
        return max(1, round(0.2 * self.batch_size))

    @property
    def folder(self) -> str:
        """A name for the folder of this training: what most often differs between two of them."""
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
    """Return the settings of a row, but for what a user has chosen; what is None was not chosen.

    Raises
    ------
    RegimeError
        A value is out of range, or momentum is chosen for an optimizer that has none.
    """
    given = {name: value for name, value in chosen.items() if value is not None}
    if given.get("momentum") and row.optimizer != "SGD":
        raise RegimeError(f"--momentum {given['momentum']:g}: {row.name} is trained with {row.optimizer}, not with SGD")
    stated = {"epochs": row.epochs, "batch_size": row.batch_size, "momentum": row.momentum}
    return Settings(row=row.name, **(stated | given))
