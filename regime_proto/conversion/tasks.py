"""Some observations of a run as a task that any process can carry out: what it is sent, and what comes back."""

import platform
import threading
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import onnxruntime

import regime_proto
from regime_proto.conversion.measuring import Measuring, measuring_of
from regime_proto.conversion.observing import Observing
from regime_proto.conversion.order_check import sketched
from regime_proto.conversion.plan import Plan, planned
from regime_proto.conversion.settings import ConversionSettings
from regime_proto.integrity.sketch import Sketches
from regime_proto.plugins.open_directory import open_directory
from regime_proto.program.program import Program
from regime_proto.quantities.interior_flips import looks_between
from regime_proto.schema.errors import RegimeError
from regime_proto.schema.header import Header
from regime_proto.schema.segments import MemorySegments
from regime_proto.schema.types import Array
from regime_proto.schema.writer import TrajectoryWriter


@dataclass(frozen=True)
class Recipe:
    """What all tasks of a run are sent.

    Parameters
    ----------
    root : Path
        The checkpoints, which every worker sees under this path.
    settings : ConversionSettings
        Those that say how checkpoints are chosen and measured.
    program : bytes
    probe : mapping of str to array
    fingerprints : tuple of str
        See `Plan.fingerprints`.
    header : Header
        Of the trajectory.
    versions : mapping of str to str
        See `versions`.
    key : str
        Tells it from others.
    """

    root: Path
    settings: ConversionSettings
    program: bytes
    probe: Mapping[str, Array]
    fingerprints: tuple[str, ...]
    header: Header
    versions: Mapping[str, str]
    key: str

    @classmethod
    def of(cls, plan: Plan, header: Header, settings: ConversionSettings) -> "Recipe":
        """Make the recipe of a plan."""
        needed = ConversionSettings(
            steps=settings.steps,
            every=settings.every,
            gates=settings.gates,
            sample_units=settings.sample_units,
            sample_seed=settings.sample_seed,
            measure=tuple(quantity.name for quantity in plan.quantities),
            interior_points=plan.interior_points if looks_between(plan.quantities) else None,
            source=settings.source,
            device=settings.device,
            noise=settings.noise,
            parts=settings.parts,
            workers=1,
        )
        fingerprints = tuple(plan.fingerprints)
        root = plan.source.root.absolute()
        key = uuid.uuid4().hex
        return cls(root, needed, plan.program.content, plan.probe, fingerprints, header, versions(), key)


@dataclass(frozen=True)
class Images:
    """What a task brings back.

    Parameters
    ----------
    segments : mapping of int to bytes
        Whole trajectory files, by the number of the segment.
    lengths : mapping of int to int
        Observations of each.
    sketches : mapping of int to array
        Of the states that were read, by number of the checkpoint.
    """

    segments: dict[int, bytes]
    lengths: dict[int, int]
    sketches: dict[int, Array]


def versions() -> dict[str, str]:
    """Return the versions of what results depend on."""
    return {
        "regime": regime_proto.__version__,
        "numpy": np.__version__,
        "onnxruntime": onnxruntime.__version__,
        "HDF5": h5py.version.hdf5_version,
        "Python": ".".join(platform.python_version_tuple()[:2]),
    }


def look(recipe: Recipe) -> str:
    """Return what keeps this process from the checkpoints of a recipe, in words; nothing if all is well."""
    try:
        _plan(recipe)
    except RegimeError as error:
        return str(error)
    return ""


def measure_rows(recipe: Recipe, rows: range) -> Images:
    """Measure some observations of a run, which fill whole segments but for the end of the run.

    Raises
    ------
    RegimeError
        As `convert`.
    """
    with _lock:
        prepared = _prepared(recipe)
    segments = MemorySegments()
    # Whole segments only.
    writer = TrajectoryWriter(segments, recipe.header, seconds=float("inf"))
    writer.go_to(rows.start)
    observing = Observing(prepared.plan, prepared.measuring, writer, progress=None, remembers=False)
    observing.begin([rows], noise=recipe.settings.noise)
    writer.flush()
    checkpoints = prepared.plan.source.checkpoints
    taken = {number: prepared.sketches.take(checkpoints[number]) for number in rows}
    sketches = {number: sketch for number, sketch in taken.items() if sketch is not None}
    return Images(segments.images, segments.lengths, sketches)


@dataclass(frozen=True)
class _Prepared:
    """A run that this process has made ready."""

    recipe: Recipe
    plan: Plan
    sketches: Sketches
    measuring: Measuring


_lock = threading.Lock()
_latest: list[_Prepared] = []


def _prepared(recipe: Recipe) -> _Prepared:
    """Return the run of a recipe; the latest one is kept, since many tasks are of one."""
    if _latest and _latest[0].recipe.key == recipe.key:
        return _latest[0]
    _latest.clear()
    _require_same_versions(recipe)
    plan, sketches = sketched(_plan(recipe))
    measuring = measuring_of(plan, recipe.settings)
    measuring.let_go()
    _latest.append(_Prepared(recipe, plan, sketches, measuring))
    return _latest[0]


def _require_same_versions(recipe: Recipe) -> None:
    """Raise an error if this process, which may have joined later, has other versions than those asked before."""
    for name, version in versions().items():
        if version != recipe.versions[name]:
            raise RegimeError(
                f"worker on {platform.node()}: {name} {version}, where the conversion was started "
                f"{recipe.versions[name]}; install the same versions there"
            )


def _plan(recipe: Recipe) -> Plan:
    """Return the plan of a recipe.

    Raises
    ------
    RegimeError
        The checkpoints that are found here are others.
    """
    settings = recipe.settings
    source = open_directory(recipe.root, settings.source).select(settings.steps, settings.every)
    # Later ones may have come since.
    source = source.part(range(len(recipe.fingerprints)))
    plan = planned(source, Program.parse(recipe.program, "the program"), recipe.probe, settings)
    for number, (found, expected) in enumerate(zip(plan.fingerprints, recipe.fingerprints, strict=False)):
        if found != expected:
            raise RegimeError(
                f"{source.checkpoints[number].path}: another file here than where the conversion was started (its "
                "name, size or time); all must see the same files, or copies with the same times"
            )
    if len(plan.fingerprints) != len(recipe.fingerprints):
        raise RegimeError(
            f"{recipe.root}: {len(plan.fingerprints)} checkpoints here, {len(recipe.fingerprints)} where the "
            "conversion was started"
        )
    return plan
