"""scikit-learn: neural networks, and their files saved with skops."""

from regime_proto.moved import attributes

__getattr__ = attributes(__name__, f"{__name__}.adapter")
