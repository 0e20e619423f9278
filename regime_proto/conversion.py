"""Converts a sequence of checkpoints into a trajectory file."""

import datetime
import os
import platform
import uuid
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import regime_proto
from regime_proto.analyzer.epochs import observations_per_epoch
from regime_proto.analyzer.series import describe_invalid
from regime_proto.dataset import open_trajectory
from regime_proto.engine.masks import find_layout
from regime_proto.engine.measure import Meter, observe
from regime_proto.engine.session import MaskSession
from regime_proto.plan import Plan, make_plan
from regime_proto.probe import probe_sha256
from regime_proto.schema.errors import RegimeError, RegimeWarning, TrajectoryError
from regime_proto.schema.header import Header
from regime_proto.schema.reader import read_attributes
from regime_proto.schema.writer import TrajectoryWriter, discard_segments

Progress = Callable[[int, int], None]


def convert(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    model: object = None,
    probe: object = None,
    steps: str | None = None,
    every: int | None = None,
    device: str = "auto",
    batches_per_epoch: float | None = None,
    workers: int | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Convert checkpoints into a trajectory file.

    An output that was made of the same inputs is left as it is, and an interrupted conversion goes on where
    it stopped.

    Parameters
    ----------
    source : path
        Directory of checkpoints.
    output : path
        The trajectory file to write.
    model : torch.nn.Module or "MODULE:FACTORY", optional
        Needed unless the directory holds ``program.onnx``.
    probe : array, sequence or mapping of arrays, or path, optional
        The fixed inputs, first axis the sample. Needed unless the directory holds ``probe.npz``.
    steps : str, optional
        ``"A:B"``, both included: the steps to read.
    every : int, optional
        Read every k-th checkpoint only.
    device : {"auto", "cpu", "cuda"}
    batches_per_epoch : float, optional
        Training steps per epoch; with it the smoothing window is known.
    workers : int, optional
        Checkpoints in flight; as many as cores if not given. The result does not depend on it.
    overwrite : bool
        Replace a trajectory, or discard an unfinished one, that was made of other inputs. Other files are never
        replaced.
    progress : callable, optional
        Called with the number of observations done and their total.

    Returns
    -------
    Path
        The output.

    Raises
    ------
    RegimeError
        Says where, what was expected and found, and what to do. Observations made before it are kept.
    """
    plan = make_plan(Path(source), model=model, probe=probe, steps=steps, every=every)
    done = run_plan(
        plan,
        Path(output),
        device=device,
        batches_per_epoch=batches_per_epoch,
        workers=workers,
        overwrite=overwrite,
        progress=progress,
    )
    warn_of_invalid(done.path)
    return done.path


def warn_of_invalid(path: Path) -> None:
    """Warn if observations of a trajectory hold NaN or Inf."""
    with open_trajectory(path) as trajectory:
        invalid = describe_invalid(trajectory)
    if invalid:
        warnings.warn(f"{path}: {invalid}", RegimeWarning, stacklevel=3)


@dataclass(frozen=True)
class Done:
    """The outcome of a conversion.

    Parameters
    ----------
    path : Path
        The trajectory.
    observations : int
        How many it holds.
    written : bool
        False if it was there already.
    """

    path: Path
    observations: int
    written: bool


def run_plan(
    plan: Plan,
    output: Path,
    *,
    device: str = "auto",
    batches_per_epoch: float | None = None,
    workers: int | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Done:
    """Do what `convert` promises, for a plan."""
    plan.source.require_two()
    fingerprints = plan.fingerprints()
    existing = _existing_fingerprint(output)
    if overwrite:
        discard_segments(output)
    elif existing is not None and _is_current(output, existing, fingerprints):
        # A kill between joining the segments and deleting them leaves both.
        discard_segments(output)
        return Done(output, len(fingerprints), written=False)
    header = _header(plan, batches_per_epoch)
    checkpoints = plan.source.checkpoints
    session = MaskSession(plan.program, plan.gates, plan.probe, device=device)
    writer = TrajectoryWriter(output, header.with_attributes(device=session.provider))
    first = writer.resume(fingerprints)
    meter = _calibrate(plan, session)
    with writer:
        observations = observe(meter, checkpoints, plan.source.read, first=first, workers=workers or default_workers())
        for index, observation in enumerate(observations, start=first):
            writer.append(observation, fingerprint=fingerprints[index])
            if progress is not None:
                progress(index + 1, len(checkpoints))
    return Done(output, len(fingerprints), written=True)


def default_workers() -> int:
    """Return the number of cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _existing_fingerprint(output: Path) -> str | None:
    """Return the fingerprint of an output that is there already, None if there is none.

    Raises
    ------
    RegimeError
        The output is something else than a trajectory: nobody's file is replaced by mistake.
    """
    if not output.exists():
        return None
    try:
        return str(read_attributes(output)["source_fingerprint"])
    except TrajectoryError as error:
        raise RegimeError(f"{error}; it is not replaced: choose another output with -o") from None


def _is_current(output: Path, found: str, fingerprints: list[str]) -> bool:
    """Whether `output` holds the whole run; False if it holds the first part of it.

    Raises
    ------
    RegimeError
        It holds something else.
    """
    if found not in fingerprints:
        raise RegimeError(
            f"{output}: exists, and was made of other checkpoints, another program or another probe; "
            "choose another output with -o, or replace it with --overwrite"
        )
    return found == fingerprints[-1]


def _header(plan: Plan, batches_per_epoch: float | None) -> Header:
    attributes: dict[str, object] = {
        "run_id": str(uuid.uuid4()),
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "software": f"regime-proto {regime_proto.__version__}",
        "source_fingerprint": "",
        "source_adapter": plan.source.adapter,
        "step_kind": plan.source.step_kind,
        "probe_sha256": probe_sha256(plan.probe),
        "program_sha256": plan.program.sha256,
        "engine": _engine(),
        "platform": f"{platform.system()} {platform.machine()}",
        "framework": " ".join(f"{name} {version}" for name, version in plan.program.framework.items()),
    }
    if batches_per_epoch is not None:
        attributes["observations_per_epoch"] = observations_per_epoch(
            [checkpoint.step for checkpoint in plan.source.checkpoints],
            plan.source.step_kind,
            batches_per_epoch,
        )
    return Header(
        tensors={tensor.name: tensor.size for tensor in plan.program.trainable},
        layers=tuple(gate.layer(plan.samples) for gate in plan.gates),
        samples=plan.samples,
        attributes=attributes,
        metrics=plan.source.metrics,
    )


def _engine() -> str:
    import onnxruntime

    return f"onnxruntime {onnxruntime.__version__}"


def _calibrate(plan: Plan, session: MaskSession) -> Meter:
    """Find the sample axes, on the first checkpoint."""
    first = plan.source.checkpoints[0]
    weights = plan.program.bind(plan.source.read(first), str(first.path))
    layout = find_layout(session, weights, plan.probe)
    sizes = [gate.layer(plan.samples).bytes for gate in plan.gates]
    return Meter(plan.program, session, layout, np.cumsum([0, *sizes[:-1]]))
