"""The length of an epoch in a trajectory: given, or kept when checkpoints are added."""

import math

from regime_proto.checkpoints.ordering import option_for_steps
from regime_proto.conversion.plan import Plan
from regime_proto.conversion.settings import ConversionSettings
from regime_proto.schema.epochs import PER_EPOCH, observations_per_epoch
from regime_proto.schema.header import Header


def epoch_length(plan: Plan, settings: ConversionSettings, existing: Header | None = None) -> dict[str, float]:
    """Return the attribute that holds the observations per epoch; empty if they are unknown.

    Parameters
    ----------
    plan : Plan
    settings : ConversionSettings
    existing : Header, optional
        Header of a trajectory with the first observations, whose number is kept if none is given.
    """
    steps = [checkpoint.step for checkpoint in plan.source.checkpoints]
    batches, kind = settings.batches_per_epoch, plan.source.step_kind
    if batches is None and existing is not None and kind == "step":
        held = steps[: plan.fingerprints.index(str(existing.attributes["source_fingerprint"])) + 1]
        stored = float(existing.attributes.get(PER_EPOCH, math.nan))
        if len(held) > 1 and 0 < stored < math.inf:
            batches = stored * (held[-1] - held[0]) / (len(held) - 1)
    if batches is None:
        return {}
    paths = [checkpoint.path for checkpoint in plan.source.checkpoints]
    option = option_for_steps(paths, [entry.path for entry in plan.source.skipped])
    return {PER_EPOCH: observations_per_epoch(steps, kind, batches, option=option)}
