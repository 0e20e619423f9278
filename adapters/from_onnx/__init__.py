"""ONNX files, of one model or one for each checkpoint."""

from regime_proto.moved import attributes

__getattr__ = attributes(__name__, f"{__name__}.adapter")
