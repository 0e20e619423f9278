"""scikit-learn: what skops saves of neural networks, and the networks."""

from regime_proto.moved import attributes

__getattr__ = attributes(__name__, f"{__name__}.adapter")
