"""Creates a recorder for a model before its training."""

import os
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from regime_proto.conversion.plan import STORED_BIT_PER_BIT
from regime_proto.conversion.provenance import embedded_files, header_of, provenance
from regime_proto.engine.live_model import Engine, LiveModel, RuntimeEngine
from regime_proto.engine.measure import Meter, MeterSettings
from regime_proto.engine.seeing import obstacle
from regime_proto.plugins.protocols import Following
from regime_proto.plugins.registry import follower_for
from regime_proto.program.gates import find_gates, select_gates
from regime_proto.program.probe import Probe, as_probe, probe_sha256
from regime_proto.program.sample_axes import axes_of
from regime_proto.quantities.base import Quantity
from regime_proto.quantities.installed import asked_for
from regime_proto.quantities.measuring import stored_bytes
from regime_proto.recording.background_writer import Journal
from regime_proto.recording.first_state import require_own, start_path
from regime_proto.recording.observations import Callback, Ledger
from regime_proto.recording.recorder import Recorder
from regime_proto.recording.schedule import Every
from regime_proto.recording.settings import AUTO, RecordingSettings
from regime_proto.recording.settling import Settling
from regime_proto.recording.strides import STRIDES, Strides
from regime_proto.runtime.device import cores, find_device
from regime_proto.schema import layout
from regime_proto.schema.errors import RegimeError, RegimeWarning
from regime_proto.schema.header import Header
from regime_proto.schema.policy import MaskPolicy, fitting_policy, parse_policy
from regime_proto.schema.reader import existing_header
from regime_proto.schema.segments import Segments, segment_paths

# Size of the probe in the paper, as a share of a batch.
PROBE_SHARE = 0.2
# Number of observations for which masks="auto" plans: the length of a run is unknown at its start.
EXPECTED_OBSERVATIONS = 100_000


def record(
    model: object,
    probe: object,
    output: str | os.PathLike[str],
    *,
    every: Every = 1,
    engine: str = "auto",
    gates: Sequence[str] = (),
    sample_units: int | None = None,
    sample_seed: int = 0,
    masks: str = "auto",
    embed: str = "program",
    measure: str | Sequence[str] = (),
    distance: bool = False,
    notes: Mapping[str, object] | None = None,
    batches_per_epoch: float | None = None,
    loader: object = None,
    batch_size: int | None = None,
    seed: int = 0,
    resume: bool | int = False,
    overwrite: bool = False,
    on_observation: Callback | None = None,
    on_settled: Callback | None = None,
    settling: Settling | None = None,
    seconds: float = 30.0,
) -> Recorder:
    """Record the dynamics of a training run from inside its loop.

    The probe is run in evaluation mode, separately from the training: the mode, running statistics, gradients, hooks,
    random state and autocast settings of the model are neither used nor changed.

    Parameters
    ----------
    model : object
        The model in training: a torch.nn.Module, wrapped or not; a Keras model; a flax.nnx module; or, for JAX, a pair
        ``(function, parameters)``, whose current parameters are then passed to `Recorder.observe`.
    probe : array, sequence or mapping of arrays, path, or "auto"
        Fixed inputs of the model, (sample, ...) each, by argument name or in their order. ``"auto"`` draws 0.2 × batch
        size samples from `loader`, once.
    output : path
        The trajectory file to write.
    every : int, callable or str
        Steps to observe: those that the number divides, or for which the function returns True. A percentage such as
        ``"5%"`` is the largest share of the training time that observing may take, counted from the first observation.
        The recorder then chooses strides, always powers of two, from measured times, and stores them in the trajectory
        (``every_strides``). Changes over different strides are different quantities: analyze a part of the run with a
        single stride.
    engine : {"auto", "native", "onnx"}
        How masks are computed: ``native`` by the framework itself, for PyTorch only; ``onnx`` by ONNX Runtime.
        ``auto`` is ``native`` where possible.
    gates, sample_units, sample_seed, embed : optional
        As in `regime_proto.convert`.
    masks : str
        Observations whose masks are stored: ``all``, ``every=N``, ``none`` or ``auto``. ``auto`` stores an evenly
        spaced selection that keeps 100,000 observations below 2 GB.
    measure : str or sequence of str
        Quantities to measure in addition to weight deltas and flips, as in `regime_proto.convert`. Comparing with the
        first observation needs one more copy of the weights in memory, and one next to the output
        (``NAME.h5.start.npz``) for resuming. Sharded weights are not written to it, so their recordings with such
        quantities cannot be resumed. Quantities of whole tensors are computed on the host. A quantity that cannot be
        recorded (``recorded: no`` in ``regime quantities``) raises an error if it is named, and is left out of a group
        with a warning.
    distance : bool
        The same as ``measure="weight_distance_l2"``, for older scripts.
    notes : mapping of str to str, int, float or bool, optional
        As in `regime_proto.convert`.
    batches_per_epoch : float, optional
        Training steps per epoch, which smoothing needs if no epochs are passed to `Recorder.observe`. Steps count from
        0.
    loader : iterable, optional
        Data loader of validation samples, from which ``"auto"`` draws the probe.
    batch_size : int, optional
        Batch size of the training, for ``"auto"``. Default: the batch size of `loader`.
    seed : int
        Random seed for drawing the probe; it is stored in the trajectory.
    resume : bool or int
        Resume the trajectory of an earlier run, if there is one, after the current state of the model. Later
        observations are dropped. A number is the step of that state; True determines it at the first observation.
    overwrite : bool
        Replace an existing trajectory, or discard the segments of an unfinished one.
    on_observation : callable, optional
        Called with a `Status` after every observation; on a GPU one observation later.
    on_settled : callable, optional
        Called once with a `Status`, when patterns have settled.
    settling : Settling, optional
        When patterns count as settled. Default: ``Settling()``.
    seconds : float
        Longest time between two writes, in seconds. A segment is written after 64 observations at the latest. If the
        process is killed, at most the observations since the last write are lost.

    Returns
    -------
    Recorder
        Use it as a context manager: ``with record(…) as recorder``.

    Raises
    ------
    RegimeError
        An argument is invalid, the model cannot be recorded, or the output exists or does not fit.
    """
    settings = RecordingSettings(
        every=every,
        engine=engine,
        gates=gates,
        sample_units=sample_units,
        sample_seed=sample_seed,
        masks=masks,
        embed=embed,
        measure=asked_for(measure, distance=distance),
        notes=notes,
        batches_per_epoch=batches_per_epoch,
        loader=loader,
        batch_size=batch_size,
        seed=seed,
        resume=resume,
        overwrite=overwrite,
        on_observation=on_observation,
        on_settled=on_settled,
        settling=settling,
        seconds=seconds,
    )
    follower = follower_for(model)
    if follower.leads(model):
        return _recorder(follower, model, probe, Path(output), settings)
    followed = follower.follow(model, None)
    assert not isinstance(followed, LiveModel)  # noqa: S101
    _begin(followed, None, settings)
    return Recorder(followed, settings.schedule, None, keep_first=settings.keeps_first)


def _recorder(follower: Following, model: object, probe: object, output: Path, settings: RecordingSettings) -> Recorder:
    """Create the recorder of the process that writes the trajectory."""
    with ExitStack() as stack:
        segments = stack.enter_context(_claimed(output, settings))
        found, origin = _probe(follower, model, probe, settings)
        live = follower.follow(model, found)
        assert isinstance(live, LiveModel)  # noqa: S101
        meter = _meter(live, settings)
        if settings.resumes and meter.measures.keep_first_masks:
            raise RegimeError(
                "resume: a quantity needs the masks of the first state, which are not stored; record again from the "
                "start"
            )
        chosen = _engine(settings.engine, live, meter)
        header = replace(_header(live, meter, chosen, settings), extra=origin | settings.taken_notes)
        protocol: list[object] = [layout.PLAIN_VERSION, live.program.sha256, probe_sha256(live.probe)]
        protocol += [[gate.node for gate in meter.gates], settings.sample_units, settings.sample_seed]
        journal = Journal(segments, header, protocol, seconds=settings.seconds)
        if settings.resumes:
            journal.take_up()
            until = None if settings.resume is True else settings.resume
            settings.schedule.strides = Strides(str(journal.extra.get(STRIDES, "")), until)
        if journal.start:
            names = [tensor.name for tensor in live.program.trainable]
            chosen.start = dict(zip(names, journal.start, strict=True))
        elif settings.keeps_first:
            require_own(start_path(segments.output))
        settling = settings.settling or Settling()
        ledger = Ledger(
            journal,
            meter,
            settling,
            settings.schedule,
            batches_per_epoch=None if settings.observations_per_epoch else settings.batches_per_epoch,
            on_observation=settings.on_observation,
            on_settled=settings.on_settled,
        )
        _begin(chosen, ledger, settings)
        # From here on the recorder closes both.
        stack.pop_all()
    return Recorder(chosen, settings.schedule, ledger, takes_params=live.takes_params, keep_first=settings.keeps_first)


def _meter(live: LiveModel, settings: RecordingSettings) -> Meter:
    gates = select_gates(find_gates(live.program), settings.gates)
    samples = axes_of(live.probe, live.program.probe_inputs)[0]

    def why_not(quantity: Quantity) -> str:
        return obstacle(quantity, live.program, gates, samples, is_one=True)

    return Meter.calibrate(
        live.program,
        gates,
        live.probe,
        find_device(AUTO if settings.engine == "onnx" or live.native is None else "cpu"),
        live.tensors(None),
        settings=MeterSettings(
            settings.sample_units, settings.sample_seed, threads=cores(), measured=settings.quantities_of(why_not)
        ),
    )


def _header(live: LiveModel, meter: Meter, engine: Engine, settings: RecordingSettings) -> Header:
    attributes = provenance(
        live.program, live.probe, adapter=live.adapter, step_kind="step", engine=engine.name, device=engine.device
    )
    if settings.observations_per_epoch is not None:
        attributes["observations_per_epoch"] = settings.observations_per_epoch
    header = header_of(meter, attributes, sample_units=settings.sample_units, sample_seed=settings.sample_seed)
    header = header.with_attributes(
        mask_policy=str(_policy(settings.masks, header)), mask_policy_requested=settings.masks
    )
    return replace(header, embedded=embedded_files(live.program, live.probe, settings.embed))


def _claimed(output: Path, settings: RecordingSettings) -> Segments:
    """Lock and return the segments of an output.

    Raises
    ------
    RegimeError
        The output exists, but neither `resume` nor `overwrite` is set.
    """
    if settings.resumes and settings.overwrite:
        raise RegimeError("resume and overwrite: mutually exclusive; set only one of them")
    # Only a trajectory may be replaced.
    exists = existing_header(output) is not None
    segments = Segments(output)
    begun = bool(segment_paths(segments.folder))
    if settings.overwrite:
        segments.clear()
    elif not settings.resumes and (exists or begun):
        found = f"{segments.folder}: holds an unfinished run" if begun else f"{output}: exists"
        segments.__exit__(None, None, None)
        raise RegimeError(f"{found}; resume it (resume=True), replace it (overwrite=True), or choose another output")
    return segments


def _probe(
    follower: Following, model: object, probe: object, settings: RecordingSettings
) -> tuple[Probe, dict[str, object]]:
    """Return the probe, and the attributes that describe how it was drawn."""
    loader, batch_size, seed = settings.loader, settings.batch_size, settings.seed
    if not isinstance(probe, str) or probe != AUTO:
        if loader is not None:
            raise RegimeError(
                'both loader= and a probe were passed; pass "auto" as the probe to draw it from the loader, or leave '
                "loader out"
            )
        return as_probe(probe), {}
    if loader is None:
        raise RegimeError('probe "auto": needs a loader of validation samples to draw from; pass loader=…')
    size = batch_size if batch_size is not None else getattr(loader, "batch_size", None)
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise RegimeError('probe "auto": the loader has no batch size; pass that of the training with batch_size=…')
    samples = max(1, round(PROBE_SHARE * size))
    drawn = follower.draw(model, loader, samples, seed)
    return drawn, {"probe_seed": seed, "probe_drawn": f"{samples} samples, {PROBE_SHARE:g} of a batch of {size}"}


def _engine(requested: str, live: LiveModel, meter: Meter) -> Engine:
    if requested == "onnx" and live.native_only:
        raise RegimeError(
            'engine "onnx": not possible, since the weights are sharded over processes; leave the engine out'
        )
    if requested != "onnx" and live.native is not None:
        try:
            return live.native(meter)
        except RegimeError as error:
            if requested == "native" or live.native_only:
                raise
            warnings.warn(f"{error}; masks are computed with ONNX Runtime instead", RegimeWarning, stacklevel=3)
    elif requested == "native":
        raise RegimeError('engine "native": only available for PyTorch; use "onnx", which works with every framework')
    return RuntimeEngine(meter, live)


def _policy(masks: str, header: Header) -> MaskPolicy:
    if masks != AUTO:
        return parse_policy(masks)
    stored = STORED_BIT_PER_BIT * header.samples * header.mask_bytes
    other = 2 * len(header.layers) * header.samples + 16 * len(header.tensors)
    other += stored_bytes(header.quantities, header.sizes)
    return fitting_policy(EXPECTED_OBSERVATIONS * other, int(EXPECTED_OBSERVATIONS * stored))


def _begin(engine: Engine, ledger: Ledger | None, settings: RecordingSettings) -> None:
    """Examine the model for the first time, in all processes that train it."""
    noise = engine.noise(None)
    if ledger is not None:
        ledger.annotate(noise)
    if settings.resumes:
        state = engine.measure(None)()
        if ledger is not None:
            ledger.go_on(state, None if settings.resume is True else settings.resume)
