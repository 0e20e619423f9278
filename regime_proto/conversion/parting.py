"""Decides whether a run is measured part by part, and how large the parts are."""

import warnings
from dataclasses import dataclass

from regime_proto.checkpoints.locations import size
from regime_proto.conversion.plan import Plan
from regime_proto.conversion.settings import AUTO, OFF, ConversionSettings
from regime_proto.engine.measure import MeterSettings
from regime_proto.engine.parts import PartsMeter, require_measurable
from regime_proto.program.partition import Cutting
from regime_proto.runtime.device import cores, find_device
from regime_proto.runtime.memory import available_bytes
from regime_proto.schema.errors import RegimeError, RegimeWarning

# Larger parts would save nothing: little data passes between two parts.
_LARGEST_PART = 2**30
# One eighth of the free memory is for weights, one fourth for values alive between the parts.
_WEIGHTS, _ALIVE = 8, 4
# Checkpoints that pass through the parts together; one more read is needed for each such group.
_GROUP = 16


@dataclass(frozen=True)
class Parting:
    """How a run is measured part by part.

    Parameters
    ----------
    cutting : Cutting
    workers : int
        Checkpoints of which a part is run at once.
    free : int
        Free memory, in bytes.
    most : int
        Largest number of checkpoints that pass through the parts together.
    """

    cutting: Cutting
    workers: int
    free: int
    most: int = _GROUP

    def group(self, meter: PartsMeter) -> int:
        """Return the number of checkpoints that pass through the parts together."""
        each = meter.memory_bytes(0, 1) // 2
        return max(1, min(self.most, self.free // _ALIVE // max(1, each)))


def parting_of(plan: Plan, settings: ConversionSettings) -> Parting | None:
    """Return how a run is measured part by part; None if its states are run whole.

    Raises
    ------
    RegimeError
        The option requires parts, but the run cannot be measured in parts.
    """
    if settings.parts == OFF:
        return None
    free = available_bytes()
    if settings.parts == AUTO and 2 * plan.state_bytes <= free // 2:
        return None
    obstacle = _obstacle(plan, settings)
    if obstacle is not None and settings.parts != AUTO:
        raise RegimeError(f"--parts {settings.parts}: {obstacle}")
    if obstacle is not None:
        warnings.warn(
            f"two states of {plan.state_bytes / 1e9:.1f} GB do not fit into half of the free memory ({free / 1e9:.1f} "
            f"GB), but are run whole nevertheless: {obstacle}",
            RegimeWarning,
            stacklevel=3,
        )
        return None
    workers = settings.workers or min(cores(), len(plan.source.checkpoints))
    budget = max(1, min(_LARGEST_PART, free // _WEIGHTS // workers))
    least = 1 if settings.parts == AUTO else int(settings.parts)
    # A downloaded checkpoint stays on the disk while it passes through the parts.
    return Parting(Cutting(budget, least), workers, free, _GROUP if plan.source.copies is None else 1)


def _obstacle(plan: Plan, settings: ConversionSettings) -> str | None:
    """Return why a run cannot be measured part by part, and what to do; None if it can."""
    try:
        require_measurable(plan.quantities)
    except RegimeError as error:
        return str(error)
    if plan.source.read_lazily is None:
        where = plan.source.root
        return (
            f"{where}: {plan.source.adapter} checkpoints here can only be read whole; save them as safetensors on "
            "this machine, or pass --parts off"
        )
    first = next((one.name for one in plan.quantities if one.against == "first"), None)
    if plan.source.copies is not None and first is not None:
        return f"--measure {first}: the first checkpoint would be downloaded again for every part; pass --parts off"
    if plan.variants is not None:
        return "the graphs of the checkpoints differ; pass --parts off"
    if settings.noise == "full":
        return "--noise full requires whole states; pass --noise quick, or --parts off"
    if find_device(settings.device).kind != "cpu":
        return "parts are run only on the CPU; pass --device cpu, or --parts off"
    return None


def parted(plan: Plan, parting: Parting) -> PartsMeter:
    """Create the meter of a plan; if the samples are known, only names and types of the first checkpoint are read.

    Raises
    ------
    RegimeError
        See `PartsMeter.calibrate`; or a part does not fit into memory.
    """
    assert plan.source.read_lazily is not None  # noqa: S101
    checkpoint = plan.source.checkpoints[0]
    first = plan.program.bind(plan.source.read_lazily(checkpoint), str(checkpoint.path), lazily=True)
    settings = MeterSettings(plan.sample_units, plan.sample_seed, measured=plan.quantities)
    meter = PartsMeter.calibrate(
        plan.program, plan.gates, plan.probe, find_device("cpu"), first, cutting=parting.cutting, settings=settings
    )
    needed = meter.memory_bytes(1, 1)
    if needed > parting.free:
        largest = max(plan.program.tensors, key=lambda tensor: tensor.size)
        raise RegimeError(
            f"{plan.source.root}: a part of the program needs about {needed / 1e9:.1f} GB, but only "
            f"{parting.free / 1e9:.1f} GB are free (the largest tensor, {largest.name}, needs "
            f"{4 * largest.size / 1e9:.1f} GB); use fewer probe samples, or a machine with more memory"
        )
    return meter


@dataclass(frozen=True)
class Foreseen:
    """Estimated cost of measuring a run part by part.

    Parameters
    ----------
    parts : int
        Number of parts.
    largest_bytes : int
        Size of the weights of the largest part, in the type with which the program computes.
    workers, group : int
        See `Parting`.
    memory_bytes : int
        Memory needed in addition to the libraries.
    read_bytes : int
        Bytes read from all checkpoints; the predecessor of each group counts twice.
    """

    parts: int
    largest_bytes: int
    workers: int
    group: int
    memory_bytes: int
    read_bytes: int


def foreseen_parts(plan: Plan, settings: ConversionSettings) -> Foreseen | None:
    """Estimate the cost of measuring a run part by part; None if its states are run whole.

    Raises
    ------
    RegimeError
        See `parting_of` and `parted`.
    """
    parting = parting_of(plan, settings)
    if parting is None:
        return None
    meter = parted(plan, parting)
    group = parting.group(meter)
    sizes = [size(checkpoint.path) for checkpoint in plan.source.checkpoints]
    return Foreseen(
        len(meter.graph),
        max(meter.graph.partition.weight_bytes, default=0),
        parting.workers,
        group,
        meter.memory_bytes(parting.workers, min(group, len(sizes))),
        sum(sizes) + sum(sizes[group - 1 : -1 : group]),
    )
