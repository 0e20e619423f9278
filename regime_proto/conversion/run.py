"""Converts a sequence of checkpoints into a trajectory file."""

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from regime_proto.checkpoints.locations import as_place, downloading
from regime_proto.conversion import measured_files
from regime_proto.conversion.distributing import cluster_of, distribute
from regime_proto.conversion.epoch_length import epoch_length
from regime_proto.conversion.existing import lacking, missing_in, refusal
from regime_proto.conversion.measuring import measuring_of
from regime_proto.conversion.observing import Observing, Progress
from regime_proto.conversion.order_check import judging, sketched
from regime_proto.conversion.plan import Plan, make_plan
from regime_proto.conversion.provenance import embedded_files, header_of, provenance
from regime_proto.conversion.settings import ConversionSettings
from regime_proto.conversion.sharding import agreed, foreseen_rows
from regime_proto.engine.calibrated import Calibrated
from regime_proto.quantities.installed import choose, known_quantities
from regime_proto.quantities.interior_flips import looking_at, points_of
from regime_proto.runtime.device import runtime_version
from regime_proto.schema.assemble import note
from regime_proto.schema.doubts import describe_invalid, describe_order
from regime_proto.schema.errors import RegimeError, RegimeWarning
from regime_proto.schema.files import segments_folder
from regime_proto.schema.header import Header
from regime_proto.schema.notes import notes_in, read_order_doubt
from regime_proto.schema.policy import MaskPolicy
from regime_proto.schema.reader import existing_header, open_checked
from regime_proto.schema.segments import Segments, discard_segments, kept_observations, require_free
from regime_proto.schema.shards import Shard
from regime_proto.schema.writer import TrajectoryWriter, rows_to_resume, rows_to_take_up

Grown = Callable[[Plan, "Done"], Plan | None]


def convert(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    model: object = None,
    probe: object = None,
    probe_text: str | os.PathLike[str] | None = None,
    steps: str | None = None,
    every: int | None = None,
    gates: Sequence[str] = (),
    sample_units: int | None = None,
    sample_seed: int = 0,
    device: str = "auto",
    batches_per_epoch: float | None = None,
    workers: int | None = None,
    masks: str = "auto",
    embed: str = "program",
    noise: str = "quick",
    measure: str | Sequence[str] = (),
    interior_points: int | None = None,
    distance: bool = False,
    notes: Mapping[str, object] | None = None,
    adapter: str | None = None,
    step_pattern: str | None = None,
    weights: str | None = None,
    keep_downloads: bool = False,
    overwrite: bool = False,
    shard: str | None = None,
    client: object = None,
    scheduler: str | None = None,
    parts: str | int = "auto",
    progress: Progress | None = None,
) -> Path:
    """Convert checkpoints into a trajectory file.

    An existing output of the same inputs stays unchanged, and an interrupted conversion resumes where it stopped.

    Parameters
    ----------
    source : path
        Directory of checkpoints; its URL (``s3://bucket/run``), which is opened with fsspec; or a sequence of
        checkpoints on the Hugging Face Hub: ``hf://ORG/NAME@GLOB``, see `regime_proto.checkpoints.hub.address`.
    output : path
        The trajectory file to write.
    model : torch.nn.Module or "MODULE:FACTORY", optional
        The model, or a function without arguments that builds it, such as ``"mypkg.net:make"``. Also models of other
        frameworks, and paths of ``.onnx`` and ``.pt2`` files. Required unless the directory holds ``program.onnx`` or
        the checkpoints describe their model.
    probe : array, sequence or mapping of arrays, or path, optional
        Fixed inputs of the model, (sample, ...) each. Several inputs are given by name, or in their order. Required
        unless the directory holds ``probe.npz``.
    probe_text : path, optional
        A UTF-8 text file with one sample per line, instead of a probe. The tokenizer next to the weights creates the
        probe from it.
    steps : str, optional
        Steps to read, as ``"A:B"``, both included. Default: all steps.
    every : int, optional
        Read only every k-th checkpoint. Default: every checkpoint.
    gates : sequence of str
        Gates to track: globs over module paths and node names, ``op:Gelu``, ``kind:smooth``. A leading ``!`` leaves
        gates out. Default: all ReLUs and other piecewise linear gates.
    sample_units : int, optional
        Number of units of each layer to measure, chosen at random; the standard error is reported. Meant for very
        large activations. Default: all units.
    sample_seed : int
        Random seed for `sample_units`.
    device : str
        Device of the forward passes: ``auto``, ``cpu``, ``cuda``, or ``cuda:1`` for the second of several GPUs.
    batches_per_epoch : float, optional
        Training steps per epoch, from which the smoothing window follows. Default: determined from the checkpoints.
    workers : int, optional
        Number of checkpoints measured at once. The result does not depend on it. Default: the number of cores, fewer
        if memory is short.
    masks : str
        Observations whose masks are stored: ``all``, ``every=N``, ``none`` or ``auto``. ``auto`` keeps all masks if
        the file is expected to stay below 2 GB, otherwise an evenly spaced selection. Flips and deltas are always
        complete.
    embed : {"program", "all", "none"}
        What the trajectory carries so that others can run the same protocol: the program, both program and probe, or
        neither.
    noise : {"quick", "full", "none"}
        How the noise floor is measured. ``quick`` moves every weight of the last state by one unit in the last place,
        which needs one more forward pass. ``full`` does this, and also repeats the pass with a different number of
        threads (for a GPU: on the CPU), for the first, the middle and the last state: nine more passes. The
        trajectory records the method.
    measure : str or sequence of str
        Quantities to measure in addition to weight deltas and flips: names, or the groups ``"all"``, ``"weights"``,
        ``"patterns"`` and ``"function"``. The command ``regime quantities`` lists them. Comparing with the first or
        the last checkpoint needs memory for one more state each. Quantities that a trajectory already holds are kept.
    interior_points : int, optional
        Number of points between two checkpoints at which the quantity ``interior_flips`` is measured. Default: the
        number in the existing trajectory, otherwise 3.
    distance : bool
        The same as ``measure="weight_distance_l2"``, for older scripts.
    notes : mapping of str to str, int, float or bool, optional
        Facts about the run to store: ``model``, ``dataset``, ``optimizer``, ``family``, ``seed``, ``batch_size``,
        ``learning_rate``, or any other name of letters, digits and underscores. They are added to the existing notes
        or replace them; nothing is measured again.
    adapter : str, optional
        Name of the adapter that reads the directory. Default: the one that recognises it.
    step_pattern : str, optional
        Regular expression with one group, which matches the step in the names of files or folders.
    weights : str, optional
        Key of the weights in the checkpoints, or a prefix of their names: for averages (``ema``), or for one of
        several models.
    keep_downloads : bool
        Keep the checkpoints that are downloaded from the Hub, in the folder ``OUTPUT.downloads``. By default each is
        removed after its successor has been compared with it.
    overwrite : bool
        Replace an existing trajectory, or discard an unfinished one of different inputs. Files that are not
        trajectories are never replaced.
    shard : str, optional
        ``"I/N"``: measure only the I-th of N parts. Its segments are written to the folder ``OUTPUT.segments``, to
        which other processes may write at the same time. `regime_proto.schema.finish.finish` joins the parts.
    client : distributed.Client, optional
        Client of a Dask cluster whose workers measure. All workers must read the checkpoints under the same path, and
        have the same versions of regime, NumPy and ONNX Runtime.
    scheduler : str, optional
        Dask cluster whose workers measure, as the address of its scheduler or the scheduler's file. ``"local:N"``
        starts N local processes.
    parts : str or int
        Measure models larger than memory part by part, with only the tensors of one part of the program in memory.
        ``auto`` does so if two states in float32 do not fit into half of the free memory; ``off`` never does; a number
        is the smallest number of parts. The result is bit for bit the same. Requires checkpoints of PyTorch or
        safetensors, or folders of these.
    progress : callable, optional
        Called with the number of observations done and their total.

    Returns
    -------
    Path
        The output; for a shard, the folder of segments.

    Raises
    ------
    RegimeError
        The conversion is not possible, or a checkpoint cannot be measured. Observations made before it are kept.
    """
    settings = ConversionSettings.of(
        model=model,
        probe=probe,
        probe_text=None if probe_text is None else Path(probe_text),
        steps=steps,
        every=every,
        gates=gates,
        sample_units=sample_units,
        sample_seed=sample_seed,
        measure=measure,
        interior_points=interior_points,
        distance=distance,
        adapter=adapter,
        step_pattern=step_pattern,
        weights=weights,
        device=device,
        batches_per_epoch=batches_per_epoch,
        workers=workers,
        masks=masks,
        embed=embed,
        noise=noise,
        notes=notes,
        keep_downloads=keep_downloads,
        overwrite=overwrite,
        shard=shard,
        client=client,
        scheduler=scheduler,
        parts=parts,
    )
    with downloading(as_place(source), name_of_part(Path(output), settings.shard), keep=keep_downloads) as place:
        done = run_plan(make_plan(place, settings), Path(output), settings, progress=progress)
    if done.shard is None:
        warn_of_doubts(done.path)
    return done.path


def name_of_part(output: Path, shard: Shard | None) -> Path:
    """Return the output, or for a shard a name of its own, under which it keeps its own files."""
    return output if shard is None else output.with_name(f"{output.name}.{shard.number}-of-{shard.count}")


def warn_of_doubts(path: Path) -> None:
    """Warn if observations of a trajectory hold NaN or Inf, or if the weights contradict the order of the steps."""
    with open_checked(path) as file:
        doubts = describe_invalid(file), describe_order(read_order_doubt(file))
    for doubt in doubts:
        if doubt:
            warnings.warn(f"{path}: {doubt}", RegimeWarning, stacklevel=3)


@dataclass(frozen=True)
class Done:
    """The result of a conversion.

    Parameters
    ----------
    path : Path
        The trajectory; for a shard, the folder of segments.
    observations : int
        Number of observations in it; for a shard, only its own.
    written : bool
        False if the output was already complete.
    changed : tuple of str
        What was added or changed in a trajectory that was complete, in words.
    shard : Shard, optional
        The part of the run that was measured, while the whole is not complete.
    """

    path: Path
    observations: int
    written: bool
    changed: tuple[str, ...] = ()
    shard: Shard | None = None


@dataclass(frozen=True)
class Decision:
    """What a conversion has to do, determined before any checkpoint is run.

    Parameters
    ----------
    plan : Plan
        The plan, including the quantities of an existing trajectory, which are kept.
    existing : Header, optional
        Header of an existing trajectory that is resumed; None if a new one is written.
    is_complete : bool
        Whether the existing trajectory holds all observations.
    lacking : tuple of str
        What a complete trajectory lacks apart from observations, in words: notes, the number of batches per epoch.
    """

    plan: Plan
    existing: Header | None
    is_complete: bool
    lacking: tuple[str, ...] = ()


def decide(plan: Plan, output: Path, settings: ConversionSettings) -> Decision:
    """Decide what has to be done for a plan, as far as can be determined before a checkpoint is run.

    Raises
    ------
    RegimeError
        The output holds a different run, different masks, or not all of the requested quantities.
    """
    plan.source.require_two()
    plan = _with_held_against_last(plan, output, settings)
    existing = _existing(plan, output, settings)
    if existing is None:
        return Decision(plan, None, is_complete=False)
    if _is_current(output, existing, plan):
        return Decision(plan, existing, is_complete=True, lacking=_lacking(plan, existing, settings))
    if settings.shard is not None:
        raise RegimeError(
            f"{output}: holds the first part of this run, but shards measure the whole run; choose another output, or "
            "resume without --shard"
        )
    return Decision(_keeping(plan, existing), existing, is_complete=False)


@dataclass(frozen=True)
class _Start:
    """Where a conversion starts or resumes.

    Parameters
    ----------
    held : int
        Number of observations that exist already.
    where : Path
        The file or folder that holds them: the trajectory, or the segments of an interrupted conversion.
    """

    held: int
    where: Path


def _start(decision: Decision, output: Path, header: Header, settings: ConversionSettings) -> _Start:
    """Return where the conversion can resume, without changing any file.

    Raises
    ------
    RegimeError
        There are segments of a different run, and overwriting is not allowed.
    """
    folder, plan = segments_folder(output), decision.plan
    begun = _begun(plan, output, header) if settings.overwrite else rows_to_resume(folder, header, plan.fingerprints)
    if begun or decision.existing is None:
        return _Start(begun, folder)
    return _Start(rows_to_take_up(output, header), output)


def run_plan(
    plan: Plan,
    output: Path,
    settings: ConversionSettings | None = None,
    *,
    progress: Progress | None = None,
    grown: Grown | None = None,
) -> Done:
    """Carry out a plan, as `convert` does.

    Parameters
    ----------
    plan : Plan
    output : Path
        The trajectory to write.
    settings : ConversionSettings, optional
        The settings of the plan.
    progress : callable, optional
        Called with the number of observations done and their total.
    grown : callable, optional
        Called with the plan and the result whenever the output is complete. Returns the plan of the run with its new
        checkpoints, or None to finish.
    """
    settings = settings or ConversionSettings()
    decision = decide(plan, output, settings)
    if grown is not None:
        _require_none_against_last(decision.plan)
    if decision.is_complete:
        # A process killed after joining the segments and before deleting them leaves both.
        discard_segments(output)
        if decision.lacking:
            note(output, settings.taken_notes, epoch_length(plan, settings))
        done = Done(output, len(plan.fingerprints), written=False, changed=decision.lacking)
        more = None if grown is None else grown(plan, done)
        if more is None:
            return done
        decision = decide(more, output, settings)
    return _carry_out(decision, output, settings, progress=progress, grown=grown)


def _carry_out(
    decision: Decision, output: Path, settings: ConversionSettings, *, progress: Progress | None, grown: Grown | None
) -> Done:
    """Measure the missing observations."""
    held = {} if decision.existing is None else notes_in(decision.existing.extra)
    plan, sketches = sketched(decision.plan)
    with Segments(output, shared=settings.shard is not None) as segments:
        measuring = measuring_of(plan, settings)
        header = _header(plan, measuring.meter, settings, decision.existing)
        embedded = embedded_files(plan.program, plan.probe, settings.embed)
        header = replace(header, embedded=embedded, extra=held | settings.taken_notes)
        rows, where = range(len(plan.fingerprints)), segments.folder
        if settings.shard is not None:
            header, rows = agreed(plan, header, segments.folder, settings)
        else:
            start = _start(decision, output, header, settings)
            where = start.where
            if settings.overwrite and not start.held:
                segments.clear()
        writer = TrajectoryWriter(segments, header)
        gaps = writer.resume(plan.fingerprints, rows)
        if where == output and writer.take_up(output, plan.fingerprints):
            gaps = [range(writer.count, rows.stop)]
        _require_unchanged(plan, writer.count)
        observing = Observing(plan, measuring, writer, progress=progress)
        with writer:
            part = rows if segments.is_shared else None
            with judging(plan, sketches, writer, part), cluster_of(settings, gaps, measuring.meter.device) as cluster:
                if cluster is None:
                    observing.begin(gaps, noise=settings.noise)
                    writer.go_to(rows.stop)
                else:
                    measuring.let_go()
                    distribute(plan, cluster, writer, gaps, settings=settings, sketches=sketches, progress=progress)
            while grown is not None:
                writer.publish()
                more = grown(plan, Done(output, writer.count, written=True))
                if more is None:
                    break
                plan = more
                writer.annotate(**_foreseen(plan, plan.mask_policy(settings.masks)))
                with judging(plan, sketches, writer):
                    observing.go_on(plan)
    if settings.shard is not None:
        return Done(segments.folder, len(rows), written=bool(gaps), shard=settings.shard)
    return Done(output, writer.count, written=True)


@dataclass(frozen=True)
class Foreseen:
    """What a conversion would do.

    Parameters
    ----------
    path : Path
        The trajectory.
    observations : int
        Number of observations that it will hold.
    held : int
        Number of observations that exist already.
    where : Path
        The file or folder that holds them: the trajectory, or the segments of an interrupted conversion.
    lacking : tuple of str
        What the trajectory lacks apart from observations, if it holds all of these; see `Decision`.
    """

    path: Path
    observations: int
    held: int
    where: Path
    lacking: tuple[str, ...] = ()


def foresee_plan(plan: Plan, output: Path, settings: ConversionSettings | None = None) -> Foreseen:
    """Return what `run_plan` would do, without writing anything; only the first checkpoint is read and run.

    Raises
    ------
    RegimeError
        As in `run_plan`, except for errors in the other checkpoints.
    """
    settings = settings or ConversionSettings()
    decision, total = decide(plan, output, settings), len(plan.fingerprints)
    if decision.is_complete:
        return Foreseen(output, total, total, output, lacking=decision.lacking)
    require_free(output, shared=settings.shard is not None)
    if plan.source.copies is not None:
        # The first checkpoint would have to be downloaded before it could be run.
        return _foreseen_unseen(plan, output, decision.existing)
    meter = measuring_of(decision.plan, settings, defers=False).meter
    header = _header(decision.plan, meter, settings, decision.existing)
    if settings.shard is not None:
        return _foreseen_part(plan, output, header, settings)
    start = _start(decision, output, header, settings)
    return Foreseen(output, total, start.held, start.where)


def _foreseen_part(plan: Plan, output: Path, header: Header, settings: ConversionSettings) -> Foreseen:
    folder = segments_folder(output)
    embedded = embedded_files(plan.program, plan.probe, settings.embed)
    rows = foreseen_rows(plan, replace(header, embedded=embedded), folder, settings)
    return Foreseen(output, len(rows), rows_to_resume(folder, header, plan.fingerprints, rows), folder)


def _foreseen_unseen(plan: Plan, output: Path, existing: Header | None) -> Foreseen:
    """Return what `run_plan` would do, as far as can be determined without a state."""
    total, begun = len(plan.fingerprints), kept_observations(output)
    if begun or existing is None:
        return Foreseen(output, total, begun, segments_folder(output))
    return Foreseen(output, total, 1 + plan.fingerprints.index(str(existing.attributes["source_fingerprint"])), output)


def _existing(plan: Plan, output: Path, settings: ConversionSettings) -> Header | None:
    """Return the header of an existing trajectory to resume; None if a new one is to be written.

    Raises
    ------
    RegimeError
        It holds a different run, different masks, or not all of the requested quantities.
    """
    # Opened even if it is to be replaced, since only a trajectory may be replaced.
    existing = existing_header(output)
    if existing is None or settings.overwrite:
        return None
    current = _is_current(output, existing, plan)
    _require_same_points(output, existing, settings.interior_points)
    _require_unchanged(plan, plan.fingerprints.index(existing.attributes["source_fingerprint"]) + 1)
    if current:
        _require_kept(plan, output, existing, None if settings.masks == "auto" else plan.mask_policy(settings.masks))
    return existing


def _require_none_against_last(plan: Plan) -> None:
    held = [quantity.name for quantity in plan.quantities if quantity.against == "last"]
    if held:
        raise RegimeError(
            f"--measure {held[0]}: compares every state with the last one, which does not exist yet while a run is "
            "followed; measure it when the run is finished"
        )


def _with_held_against_last(plan: Plan, output: Path, settings: ConversionSettings) -> Plan:
    """Add to a plan the quantities of its trajectory that compare with the last checkpoint; they identify the run."""
    existing = None if settings.overwrite else existing_header(output)
    held = () if existing is None else tuple(one for one in existing.quantities if one.against == "last")
    return plan if existing is None or not held else _keeping(plan, replace(existing, quantities=held))


def _keeping(plan: Plan, existing: Header) -> Plan:
    """Add to the plan of a run with new checkpoints the quantities that its trajectory holds."""
    chosen = {quantity.name for quantity in plan.quantities}
    missing = [quantity.name for quantity in existing.quantities if quantity.name not in known_quantities()]
    if missing:
        raise RegimeError(
            f"the trajectory holds the quantity {missing[0]}, which must be measured for new checkpoints too but is "
            "not installed here; install the package that measures it, or choose another output with -o"
        )
    quantities = choose(chosen | {quantity.name for quantity in existing.quantities})
    points = points_of(existing.quantities) or plan.interior_points
    return replace(plan, quantities=looking_at(quantities, points), interior_points=points)


def _begun(plan: Plan, output: Path, header: Header) -> int:
    """Return the number of observations in segments that this conversion can resume; 0 for a different run."""
    try:
        return rows_to_resume(segments_folder(output), header, plan.fingerprints)
    except RegimeError:
        return 0


def _foreseen(plan: Plan, policy: MaskPolicy) -> dict[str, object]:
    return {
        "planned_observations": len(plan.source.checkpoints),
        "predicted_bytes": plan.predicted_file_bytes(policy),
    }


def _require_unchanged(plan: Plan, count: int) -> None:
    """Raise an error if one of the first `count` checkpoints has changed since it was measured."""
    if plan.source.copies is not None:
        return
    path = measured_files.changed(plan.fingerprints, plan.source.checkpoints, count)
    if path is not None:
        raise RegimeError(
            f"{path}: changed since it was measured, although its size and time are the same; measure all checkpoints "
            "again with --overwrite, or choose another output with -o"
        )


def _lacking(plan: Plan, existing: Header, settings: ConversionSettings) -> tuple[str, ...]:
    """Return what a complete trajectory lacks apart from observations, in words."""
    wanted: dict[str, tuple[Mapping[str, object], Mapping[str, object]]] = {
        "the notes": (settings.taken_notes, notes_in(existing.extra)),
        "the batches per epoch": (epoch_length(plan, settings), existing.attributes),
    }
    return tuple(what for what, (given, held) in wanted.items() if not _holds(held, given))


def _holds(held: Mapping[str, object], given: Mapping[str, object]) -> bool:
    return all(held.get(name) == value for name, value in given.items())


def _require_kept(plan: Plan, output: Path, existing: Header, policy: MaskPolicy | None) -> None:
    """Raise an error unless a trajectory holds the requested masks and quantities; without a policy any masks do."""
    held = existing.mask_policy
    if policy not in (None, held):
        raise RegimeError(
            f"{output}: exists with masks {held}, but {policy} was requested; replace it with --overwrite, or write a "
            "smaller copy with regime thin"
        )
    if missing_in(plan, existing):
        raise lacking(plan, output, existing)


def _require_same_points(output: Path, existing: Header, asked: int | None) -> None:
    """Raise an error if the number of points between two checkpoints is not the requested one."""
    held = points_of(existing.quantities)
    if None not in (asked, held) and asked != held:
        raise RegimeError(
            f"{output}: exists with interior_flips at {held} points between two checkpoints, but {asked} were "
            "requested; to measure these, all checkpoints must be read again: pass --overwrite"
        )


def _is_current(output: Path, existing: Header, plan: Plan) -> bool:
    """Whether `output` holds the whole run; False if it holds only the first part.

    Raises
    ------
    RegimeError
        It holds a different run.
    """
    found = existing.attributes["source_fingerprint"]
    if found not in plan.fingerprints:
        raise refusal(plan, output, existing)
    return bool(found == plan.fingerprints[-1])


def _header(plan: Plan, meter: Calibrated, settings: ConversionSettings, existing: Header | None) -> Header:
    policy = plan.mask_policy(settings.masks)
    attributes = provenance(
        plan.program,
        plan.probe,
        adapter=plan.source.adapter,
        step_kind=plan.source.step_kind,
        engine=runtime_version(),
        device=meter.device.provider,
    )
    if plan.variants is not None:
        attributes["tensors_compared"] = "those that all checkpoints hold with the same shape; their graphs differ"
    attributes.update(epoch_length(plan, settings, existing))
    header = header_of(
        meter,
        attributes,
        sample_units=plan.sample_units,
        sample_seed=plan.sample_seed,
        metrics=plan.source.metrics,
    )
    chosen = {"mask_policy": str(policy), "mask_policy_requested": settings.masks}
    return header.with_attributes(**chosen, **_foreseen(plan, policy))
