"""Shows the observations of a recorder in TensorBoard."""

import math
from typing import Any

from regime_proto.recording.observations import Callback, Status


def to_tensorboard(writer: Any, *, prefix: str = "regime") -> Callback:
    """Return a callback that writes every observation: ``record(…, on_observation=to_tensorboard(writer))``.

    Parameters
    ----------
    writer : torch.utils.tensorboard.SummaryWriter
        The writer, or another object with its method `add_scalar`. The caller must close it.
    prefix : str
        Prefix of the names of the curves, ``regime/weight_change`` and ``regime/pattern_change``.
    """

    def forward(status: Status) -> None:
        for name in ("weight_change", "pattern_change"):
            value = getattr(status, name)
            if not math.isnan(value):
                writer.add_scalar(f"{prefix}/{name}", value, global_step=status.step)

    return forward
