"""transformers: folders of checkpoints, models from their config, text as a probe, the Trainer; accelerate."""

from regime_proto.moved import attributes

__getattr__ = attributes(__name__, f"{__name__}.adapter")
