"""Advice for files that cannot be read."""

from regime_proto.moved import attributes

__getattr__ = attributes(__name__, f"{__name__}.adapter")
