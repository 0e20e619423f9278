"""JAX: checkpoints of Flax and Orbax, flax.nnx modules, and functions with their parameters."""

from regime_proto.moved import attributes

__getattr__ = attributes(__name__, f"{__name__}.adapter")
