"""Distributes the measurement of a run over the workers of a cluster; only this process writes the results."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from regime_proto.conversion import measured_files
from regime_proto.conversion.observing import Progress
from regime_proto.conversion.parting import foreseen_parts
from regime_proto.conversion.plan import Plan
from regime_proto.conversion.settings import ConversionSettings
from regime_proto.conversion.tasks import Images, Recipe, look, measure_rows, versions
from regime_proto.engine.executors.dask import Cluster, Worker, connected, require_alike
from regime_proto.engine.executors.tasks import Task
from regime_proto.integrity.sketch import Sketches
from regime_proto.runtime.cards import visible_cards
from regime_proto.runtime.device import Device
from regime_proto.schema.errors import RegimeError
from regime_proto.schema.hdf5 import chunk_steps
from regime_proto.schema.words import few
from regime_proto.schema.writer import TrajectoryWriter

# A task measures the checkpoint before its first one again; with this many of its own that costs little.
_FEWEST_ROWS = 16
# Tasks per worker, if there are enough segments: several small tasks shorten the wait for the last one.
_EACH = 4
# Share of a worker's memory that may be used before Dask spills to disk and pauses the worker.
_SHARE = 0.65
# Memory that the imported libraries use.
LIBRARIES_BYTES = 300 * 2**20


@contextmanager
def cluster_of(settings: ConversionSettings, work: Sequence[object], device: Device) -> Iterator[Cluster | None]:
    """Connect to the cluster in the settings; yield None if this process does the work or there is none.

    Parameters
    ----------
    settings : ConversionSettings
    work : sequence
        What is to be done; if empty, no connection is made.
    device : Device
        The device of this process. If it is a GPU that no option names, each local process gets a GPU of its own.
    """
    if not work:
        yield None
    elif settings.client is not None:
        yield Cluster(settings.client)
    elif settings.scheduler is not None:
        cards = visible_cards() if device.kind == "cuda" and ":" not in settings.device else []
        with connected(settings.scheduler, cards) as cluster:
            yield cluster
    else:
        yield None


def distribute(
    plan: Plan,
    cluster: Cluster,
    writer: TrajectoryWriter,
    gaps: Sequence[range],
    *,
    settings: ConversionSettings,
    sketches: Sketches,
    progress: Progress | None,
) -> None:
    """Let a cluster measure observations and write them as they arrive; the writer then resumes after them.

    Parameters
    ----------
    plan : Plan
    cluster : Cluster
    writer : TrajectoryWriter
    gaps : sequence of range
        The missing observations.
    settings : ConversionSettings
    sketches : Sketches
        Receives the sketches of the states.
    progress : callable, optional
        Called with the number of observations done and their total.

    Raises
    ------
    RegimeError
        The workers cannot measure the run, or one of them failed. Results that arrived before are kept.
    """
    _require_possible(plan)
    recipe = Recipe.of(plan, writer.header, settings)
    workers = cluster.workers
    _require_ready(cluster, workers, recipe, memory_by_threads(plan, settings))
    threads = sum(worker.threads for worker in workers)
    tasks = [_task(plan, rows) for rows in divided(gaps, chunk_steps(writer.header), threads)]
    total = len(plan.fingerprints)
    done = total - sum(map(len, gaps))
    try:
        for number, images in cluster.carry_out(tasks, recipe):
            for index, content in images.segments.items():
                writer.take(index, content, rows=images.lengths[index])
            for place, sketch in images.sketches.items():
                sketches.put(plan.source.checkpoints[place], sketch)
            [rows] = tasks[number].arguments
            done += sum(len(range(max(rows.start, gap.start), min(rows.stop, gap.stop))) for gap in gaps)
            if progress is not None:
                progress(done, total)
    finally:
        # A received segment may be the one that this process has begun.
        writer.resume(plan.fingerprints)
    measured_files.remember(plan.fingerprints, plan.source.checkpoints, 0, total)


def divided(gaps: Sequence[range], per_segment: int, workers: int) -> list[range]:
    """Divide observations into tasks of whole segments; a task has several if they are short or numerous.

    Parameters
    ----------
    gaps : sequence of range
        The missing observations.
    per_segment : int
        Observations in a full segment.
    workers : int
        Tasks that run at once.

    Returns
    -------
    list of range
        The observations of each task.
    """
    whole = [range(gap.start // per_segment * per_segment, gap.stop) for gap in gaps]
    segments = sum(-(-len(rows) // per_segment) for rows in whole)
    each = max(segments // (_EACH * workers), min(-(-_FEWEST_ROWS // per_segment), segments // workers), 1)
    step = each * per_segment
    return [
        range(start, min(start + step, rows.stop)) for rows in whole for start in range(rows.start, rows.stop, step)
    ]


def _task(plan: Plan, rows: range) -> Task[Images]:
    steps = [plan.source.checkpoints[number].step for number in (rows[0], rows[-1])]
    return Task(measure_rows, (rows,), f"{plan.source.root}, steps {steps[0]} to {steps[1]}")


def _require_possible(plan: Plan) -> None:
    if plan.source.copies is not None:
        raise RegimeError(
            f"{plan.source.root}: a scheduler requires checkpoints that all workers can read; download them first, or "
            "divide the run with --shard, where each process downloads its own"
        )
    if plan.variants is not None:
        raise RegimeError(
            f"{plan.source.root}: the checkpoints hold different graphs, which a scheduler cannot measure; divide the "
            "run with --shard"
        )


def memory_by_threads(plan: Plan, settings: ConversionSettings) -> Callable[[int], int]:
    """Return a function from the number of threads of a worker to the memory that it needs, in bytes."""
    parts = foreseen_parts(plan, settings)
    return plan.predicted_memory_bytes if parts is None else lambda threads: threads * parts.memory_bytes


def _require_ready(
    cluster: Cluster, workers: Sequence[Worker], recipe: Recipe, needed_by: Callable[[int], int]
) -> None:
    """Raise an error unless all workers have the same versions, read the same files and have enough memory."""
    require_able(cluster, workers, needed_by)
    require_seen(cluster, look, recipe)


def require_able(cluster: Cluster, workers: Sequence[Worker], needed_by: Callable[[int], int]) -> None:
    """Raise an error unless all workers have the same versions as this process and enough memory for a run.

    Parameters
    ----------
    cluster : Cluster
    workers : sequence of Worker
    needed_by : callable
        Maps the number of threads of a worker to the bytes that it needs, without the libraries.

    Raises
    ------
    RegimeError
        There is no worker, a version differs, or a worker has too little memory.
    """
    if not workers:
        raise RegimeError("the cluster has no worker yet; wait for one: client.wait_for_workers(1)")
    require_alike(cluster.ask(versions), versions())
    for worker in workers:
        needed = LIBRARIES_BYTES + needed_by(worker.threads)
        if worker.memory and needed > _SHARE * worker.memory:
            raise RegimeError(
                f"worker {worker.address}: its memory limit is {worker.memory / 1e9:.1f} GB, but the run needs about "
                f"{needed / 1e9:.1f} GB per worker, mapped files included; start workers with --memory-limit "
                f"{needed / _SHARE / 1e9:.1f}GB or 0, or with fewer threads"
            )


def require_seen(cluster: Cluster, looks: Callable[..., str], what: object) -> None:
    """Raise an error if a check on any worker returns a reason why the files cannot be read there.

    Parameters
    ----------
    cluster : Cluster
    looks : callable
        The check, run on every worker with `what`; returns the reason, or an empty text.
    what : object

    Raises
    ------
    RegimeError
        A worker returned a reason.
    """
    blind: dict[str, list[str]] = {}
    for address, found in cluster.ask(looks, what).items():
        if found:
            blind.setdefault(str(found), []).append(address)
    if blind:
        reason, where = next(iter(blind.items()))
        raise RegimeError(f"worker {few(where)}: {reason}")
