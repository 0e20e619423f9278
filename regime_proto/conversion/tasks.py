"""Tasks that measure some observations of a run in any process: their input and their result."""

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
    """Input of all tasks of a run.

    Parameters
    ----------
    root : Path
        Directory of the checkpoints, which has the same path on every worker.
    settings : ConversionSettings
        Only the settings that decide how checkpoints are selected and measured.
    program : bytes
        The program in ONNX.
    probe : mapping of str to array
        The arrays of the probe by program input.
    fingerprints : tuple of str
        See `Plan.fingerprints`.
    header : Header
        Header of the trajectory.
    versions : mapping of str to str
        See `versions`.
    key : str
        Unique key of the recipe.
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
        """Create the recipe of a plan."""
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
    """Result of a task.

    Parameters
    ----------
    segments : mapping of int to bytes
        Content of whole trajectory files, by segment number.
    lengths : mapping of int to int
        Number of observations in each segment.
    sketches : mapping of int to array
        Sketches of the states that were read, by checkpoint index.
    """

    segments: dict[int, bytes]
    lengths: dict[int, int]
    sketches: dict[int, Array]


def versions() -> dict[str, str]:
    """Return the versions of the software on which results depend."""
    return {
        "regime": regime_proto.__version__,
        "numpy": np.__version__,
        "onnxruntime": onnxruntime.__version__,
        "HDF5": h5py.version.hdf5_version,
        "Python": ".".join(platform.python_version_tuple()[:2]),
    }


def look(recipe: Recipe) -> str:
    """Return the reason why this process cannot measure the checkpoints of a recipe; empty if it can."""
    try:
        _plan(recipe)
    except RegimeError as error:
        return str(error)
    return ""


def measure_rows(recipe: Recipe, rows: range) -> Images:
    """Measure some observations of a run, which fill whole segments except at the end of the run.

    Raises
    ------
    RegimeError
        As in `convert`.
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
    """A run that this process has prepared."""

    recipe: Recipe
    plan: Plan
    sketches: Sketches
    measuring: Measuring


_lock = threading.Lock()
_latest: list[_Prepared] = []


def _prepared(recipe: Recipe) -> _Prepared:
    """Return the prepared run of a recipe; the latest one is kept, since many tasks share it."""
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
    """Raise an error if the versions of this process, which may have joined later, differ from those in the recipe."""
    for name, version in versions().items():
        if version != recipe.versions[name]:
            raise RegimeError(
                f"worker on {platform.node()}: {name} {version}, but {recipe.versions[name]} where the conversion was "
                "started; install the same versions on both"
            )


def _plan(recipe: Recipe) -> Plan:
    """Return the plan of a recipe.

    Raises
    ------
    RegimeError
        The checkpoints found here differ.
    """
    settings = recipe.settings
    source = open_directory(recipe.root, settings.source).select(settings.steps, settings.every)
    # Later checkpoints may have appeared since.
    source = source.part(range(len(recipe.fingerprints)))
    plan = planned(source, Program.parse(recipe.program, "the program"), recipe.probe, settings)
    for number, (found, expected) in enumerate(zip(plan.fingerprints, recipe.fingerprints, strict=False)):
        if found != expected:
            raise RegimeError(
                f"{source.checkpoints[number].path}: differs from the file where the conversion was started (in name, "
                "size or time); all workers must read the same files, or copies with the same times"
            )
    if len(plan.fingerprints) != len(recipe.fingerprints):
        raise RegimeError(
            f"{recipe.root}: {len(plan.fingerprints)} checkpoints on the worker, but {len(recipe.fingerprints)} where "
            "the conversion was started; all workers must read the same files"
        )
    return plan
