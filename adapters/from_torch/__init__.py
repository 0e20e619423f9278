"""PyTorch: its checkpoints, its models, and models in training; Lightning and accelerate beside it."""

from regime_proto.moved import attributes

__getattr__ = attributes(__name__, f"{__name__}.adapter")
