"""transformers: checkpoint folders, models from their config, probes from text, and the Trainer; also accelerate."""

from regime_proto.moved import attributes

__getattr__ = attributes(__name__, f"{__name__}.adapter")
