"""ONNX files, as the model or as checkpoints."""

from regime_proto.moved import attributes

__getattr__ = attributes(__name__, f"{__name__}.adapter")
