"""From checkpoints to a trajectory: what is to be done, and doing it."""

from regime_proto.moved import attributes

__getattr__ = attributes(__name__, f"{__name__}.run", ("convert", "foresee_plan", "run_plan", "warn_of_doubts"))
