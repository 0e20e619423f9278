"""Removes the wrappers of a module that is trained on several devices, or compiled."""

from typing import Any

from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel


def bare(model: Any) -> nn.Module:
    """Return the module inside DataParallel, DistributedDataParallel or torch.compile."""
    while True:
        if isinstance(model, DataParallel | DistributedDataParallel):
            model = model.module
        elif "_orig_mod" in getattr(model, "_modules", {}):
            model = model._orig_mod
        else:
            return model
