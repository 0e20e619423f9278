"""Decides whether a run is measured part by part, and in how large parts."""

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

# Larger parts would save nothing: what is handed on between two parts is small.
_LARGEST_PART = 2**30
# Of the free memory one eighth may be weights, and one fourth what is alive between the parts.
_WEIGHTS, _ALIVE = 8, 4
# So many checkpoints go through the parts together, and of as many one is read twice.
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
        Bytes of memory.
    most : int
        Checkpoints that may go through the parts together.
    """

    cutting: Cutting
    workers: int
    free: int
    most: int = _GROUP

    def group(self, meter: PartsMeter) -> int:
        """Return how many checkpoints go through the parts together."""
        each = meter.memory_bytes(0, 1) // 2
        return max(1, min(self.most, self.free // _ALIVE // max(1, each)))


def parting_of(plan: Plan, settings: ConversionSettings) -> Parting | None:
    """Return how a run is measured part by part; None where its states are run whole.

    Raises
    ------
    RegimeError
        It was asked for, and cannot be done.
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
            f"two states of {plan.state_bytes / 1e9:.1f} GB do not fit into half of the free memory "
            f"({free / 1e9:.1f} GB), and are run whole all the same: {obstacle}",
            RegimeWarning,
            stacklevel=3,
        )
        return None
    workers = settings.workers or min(cores(), len(plan.source.checkpoints))
    budget = max(1, min(_LARGEST_PART, free // _WEIGHTS // workers))
    least = 1 if settings.parts == AUTO else int(settings.parts)
    # What is fetched is held for as long as it goes through the parts.
    return Parting(Cutting(budget, least), workers, free, _GROUP if plan.source.copies is None else 1)


def _obstacle(plan: Plan, settings: ConversionSettings) -> str | None:
    """Return in words what keeps a run from being measured part by part, and what to do."""
    try:
        require_measurable(plan.quantities)
    except RegimeError as error:
        return str(error)
    if plan.source.read_lazily is None:
        where = plan.source.root
        return (
            f"{where}: {plan.source.adapter} checkpoints that are read as a whole; save them as safetensors on this "
            "machine, or say --parts off"
        )
    first = next((one.name for one in plan.quantities if one.against == "first"), None)
    if plan.source.copies is not None and first is not None:
        return f"--measure {first}: the first checkpoint would be fetched again for every part; --parts off"
    if plan.variants is not None:
        return "the graphs of the checkpoints differ; say --parts off"
    if settings.noise == "full":
        return "--noise full takes states whole; say --noise quick, or --parts off"
    if find_device(settings.device).kind != "cpu":
        return "parts are run on the CPU; say --device cpu, or --parts off"
    return None


def parted(plan: Plan, parting: Parting) -> PartsMeter:
    """Make the meter of a plan; of its first checkpoint only names and types are read, where the samples are known.

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
            f"{plan.source.root}: a part of the program takes about {needed / 1e9:.1f} GB, and "
            f"{parting.free / 1e9:.1f} GB are free (the largest tensor, {largest.name}, takes "
            f"{4 * largest.size / 1e9:.1f} GB); take fewer probe samples, or a machine with more memory"
        )
    return meter


@dataclass(frozen=True)
class Foreseen:
    """What measuring a run part by part takes.

    Parameters
    ----------
    parts : int
    largest_bytes : int
        Weights of the largest part, as the program computes with them.
    workers, group : int
        See `Parting`.
    memory_bytes : int
        Beside the libraries.
    read_bytes : int
        Of the files of all checkpoints, that of each group's predecessor once more.
    """

    parts: int
    largest_bytes: int
    workers: int
    group: int
    memory_bytes: int
    read_bytes: int


def foreseen_parts(plan: Plan, settings: ConversionSettings) -> Foreseen | None:
    """Return what measuring a run part by part takes; None where its states are run whole.

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
