"""Plans and carries out the conversion of checkpoints into a trajectory."""

from regime_proto.moved import attributes

__getattr__ = attributes(__name__, f"{__name__}.run", ("convert", "foresee_plan", "run_plan", "warn_of_doubts"))
