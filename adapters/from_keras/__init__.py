"""Keras 3: its files, its models, and a callback for recording."""

from regime_proto.moved import attributes

__getattr__ = attributes(__name__, f"{__name__}.adapter")
