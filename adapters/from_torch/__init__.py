"""PyTorch: checkpoints, models, and models in training; also Lightning and distributed checkpoints."""

from regime_proto.moved import attributes

__getattr__ = attributes(__name__, f"{__name__}.adapter")
