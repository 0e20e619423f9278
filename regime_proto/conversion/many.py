"""Converts many runs in one call: several at once, in local processes or on the workers of a cluster.

Each run is a task that writes its own trajectory. This lets small runs use all cores. Threads within a small run gain
nothing: file access and Python code, in which threads wait for each other, take most of its time.
"""

import json
import os
import threading
import warnings
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from regime_proto.checkpoints.locations import as_place, downloading, is_published, is_remote
from regime_proto.conversion.distributing import (
    LIBRARIES_BYTES,
    cluster_of,
    memory_by_threads,
    require_able,
    require_seen,
)
from regime_proto.conversion.plan import Exporting, Plan, exported, make_plan, probe_of
from regime_proto.conversion.run import run_plan, warn_of_doubts
from regime_proto.conversion.run_names import names_of
from regime_proto.conversion.settings import ConversionSettings
from regime_proto.engine.executors.dask import Cluster
from regime_proto.engine.executors.processes import Processes
from regime_proto.engine.executors.tasks import Executor, InThisProcess, Task
from regime_proto.plugins.open_directory import open_directory
from regime_proto.program.probe import Probe, as_probe, probe_sha256
from regime_proto.runtime.device import cores, find_device
from regime_proto.runtime.memory import available_bytes
from regime_proto.schema.errors import RegimeError, RegimeWarning
from regime_proto.schema.types import Progress

# Share of the free memory that may be used.
_SHARE = 0.5


@dataclass(frozen=True)
class Run:
    """A run to be converted.

    Parameters
    ----------
    name : str
        Name of the run, from which its trajectory gets its name.
    source : Path
        Directory of its checkpoints.
    output : Path
        The trajectory to write.
    """

    name: str
    source: Path
    output: Path


@dataclass(frozen=True)
class Outcome:
    """Result of the conversion of one of several runs.

    Parameters
    ----------
    name : str
        Name of the run, from which its trajectory gets its name.
    source : Path
        Directory of its checkpoints.
    path : Path
        The trajectory.
    observations : int
        Number of observations in the trajectory; 0 after an error.
    written : bool
        False if the trajectory existed already.
    error : str, optional
        Why there is no trajectory, in one line.
    warnings : tuple of str
        Warnings of the conversion.
    """

    name: str
    source: Path
    path: Path
    observations: int = 0
    written: bool = False
    error: str | None = None
    warnings: tuple[str, ...] = ()


def convert_many(
    sources: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    output_dir: str | os.PathLike[str],
    *,
    progress: Progress | None = None,
    **options: Any,
) -> list[Outcome]:
    """Convert several runs, each into a trajectory of its own, identical to the one that `convert` writes.

    A run that fails does not stop the others. Existing trajectories of the same inputs stay unchanged, and interrupted
    conversions resume: the same call can be repeated.

    Parameters
    ----------
    sources : path, or iterable of path
        Directories of checkpoints, or their URLs.
    output_dir : path
        Folder for the trajectories, each named ``NAME.h5``. NAME is the name of the directory, preceded by as many
        parts of its path as are needed to distinguish it from the others.
    progress : callable, optional
        Called with the number of runs that have ended and their total.
    **options
        The options of `convert` except `shard`, the same for all runs. `workers` is the number of cores to use:
        several runs are converted at once, each in its own process, as far as memory allows. With `client` or
        `scheduler`, each run is measured by one worker, which must be able to write to `output_dir`.

    Returns
    -------
    list of Outcome
        In the order of `sources`. A run whose `error` is not None has no trajectory, or an unfinished one.

    Raises
    ------
    RegimeError
        No run can be converted with these options, or two directories cannot be distinguished.

    Warns
    -----
    RegimeWarning
        The warnings of `convert`, preceded by the name of the run.
    """
    if options.get("shard") is not None:
        raise RegimeError("shard: a shard is a part of one run; convert each run separately with regime_proto.convert")
    given = [sources] if isinstance(sources, str | os.PathLike) else sources
    runs = runs_of([as_place(source) for source in given], Path(output_dir))
    found: dict[str, Outcome] = {}
    with closing(outcomes(runs, ConversionSettings.of(**options))) as ended:
        for outcome in ended:
            found[outcome.name] = outcome
            for warning in outcome.warnings:
                warnings.warn(f"{outcome.name}: {warning}", RegimeWarning, stacklevel=2)
            if progress is not None:
                progress(len(found), len(runs))
    return [found[run.name] for run in runs]


def runs_of(sources: Sequence[Path], folder: Path) -> list[Run]:
    """Return the runs in several directories, each with the path of its trajectory in a folder.

    Raises
    ------
    RegimeError
        No directory is given, two cannot be distinguished, or the folder cannot hold trajectories.
    """
    if not sources:
        raise RegimeError("no runs to convert; pass directories of checkpoints")
    if folder.exists() and not folder.is_dir():
        raise RegimeError(f"{folder}: exists, but is not a folder; choose another folder for the trajectories")
    runs = [Run(name, source, folder / f"{name}.h5") for name, source in zip(names_of(sources), sources, strict=True)]
    place = folder.resolve()
    for source in sources:
        if not is_remote(source) and place.is_relative_to(source.resolve()):
            raise RegimeError(
                f"{folder}: is inside the run {source}, or is the run itself; choose another folder for the "
                "trajectories"
            )
    return runs


def outcomes(
    runs: Sequence[Run], settings: ConversionSettings, *, exporting: Exporting = nullcontext
) -> Generator[Outcome, None, None]:
    """Convert runs, and yield the outcome of each as it ends; see `convert_many`.

    Parameters
    ----------
    runs : sequence of Run
    settings : ConversionSettings
        The settings for all runs.
    exporting : callable, optional
        See `make_plan`.
    """
    prepared = prepare(runs, settings, exporting=exporting)
    ready = []
    for run, chosen in zip(runs, prepared, strict=True):
        if isinstance(chosen, RegimeError):
            yield _failed(run, chosen)
        else:
            ready.append((run, chosen))
    with _executor(ready, settings) as (executor, workers):
        # Most runs share their settings, which are then sent once.
        distinct = list({id(chosen): chosen for _, chosen in ready}.values())
        shared = [replace(chosen, workers=workers, client=None, scheduler=None) for chosen in distinct]
        places = {id(chosen): place for place, chosen in enumerate(distinct)}
        is_elsewhere = isinstance(executor, Cluster)
        tasks = [
            Task(convert_one, (_absolute(run) if is_elsewhere else run, places[id(chosen)]), str(run.source))
            for run, chosen in ready
        ]
        for number, result in executor.results(tasks, shared):
            run, _ = ready[number]
            if isinstance(result, RegimeError):
                yield _failed(run, result)
            else:
                yield replace(result, source=run.source, path=run.output)


def prepare(
    runs: Sequence[Run], settings: ConversionSettings, *, exporting: Exporting = nullcontext
) -> list[ConversionSettings | RegimeError]:
    """Return the settings of each run with the model exported to a program, once for each probe.

    Parameters
    ----------
    runs : sequence of Run
    settings : ConversionSettings
    exporting : callable, optional
        See `make_plan`.

    Returns
    -------
    list
        One entry for each run: its settings, the same object for runs with the same settings; or its error if
        something is missing.

    Raises
    ------
    RegimeError
        No run can be converted with these settings.
    """
    roots = [run.source for run in runs]
    if settings.keep_downloads and not all(map(is_published, roots)):
        raise RegimeError("--keep-downloads: applies only to checkpoints on the Hugging Face Hub (hf://…)")
    if settings.probe is not None:
        settings = replace(settings, probe=as_probe(settings.probe))
    if settings.probe_text is not None:
        settings = replace(settings, probe_text=settings.probe_text.absolute())
    if settings.model is None:
        return [settings] * len(runs)

    def of_probe(probe: Probe) -> ConversionSettings:
        with exporting():
            return replace(settings, model=exported(roots, settings.model, probe))

    if isinstance(settings.probe, Probe) and settings.probe_text is None:
        return [of_probe(settings.probe)] * len(runs)
    known: dict[str, ConversionSettings] = {}
    prepared: list[ConversionSettings | RegimeError] = []
    for root in roots:
        try:
            source = None if settings.probe_text is None else open_directory(root, settings.source)
            probe = probe_of(root, source, settings)
            key = _key(probe)
            if key not in known:
                known[key] = of_probe(probe)
            prepared.append(known[key])
        except RegimeError as error:
            prepared.append(error)
    return prepared


def _key(probe: Probe) -> str:
    """Return a key that is equal for probes with which the export of a model gives the same program."""
    labels = probe.names or tuple(map(str, range(len(probe.arrays))))
    return json.dumps(probe.names) + probe_sha256(dict(zip(labels, probe.arrays, strict=True)))


@contextmanager
def _executor(
    ready: Sequence[tuple[Run, ConversionSettings]], settings: ConversionSettings
) -> Iterator[tuple[Executor, int | None]]:
    """Yield the executor of the runs, and the number of checkpoints of each that are measured at once."""
    plan = _first_plan(ready)
    with cluster_of(settings, ready, find_device(settings.device)) as cluster:
        if cluster is None:
            # Parallel runs would share one network connection anyway.
            is_here = not any(is_remote(run.source) for run, _ in ready)
            yield _local(len(ready), settings, plan if is_here else None)
            return
        published = next((run for run, _ in ready if is_published(run.source)), None)
        if published is not None:
            raise RegimeError(
                f"{published.source}: a scheduler requires checkpoints that all workers can read; download them "
                "first, or convert without a scheduler"
            )
        workers = cluster.workers
        if plan is not None:
            require_able(cluster, workers, memory_by_threads(plan, settings))
        require_seen(cluster, _look, [_absolute(run) for run, _ in ready])
        yield cluster, min((worker.threads for worker in workers), default=1)


def _local(count: int, settings: ConversionSettings, plan: Plan | None) -> tuple[Executor, int | None]:
    """Divide the cores of this machine among as many runs as fit into memory at once."""
    most = settings.workers or cores()
    if plan is None or most == 1 or count < 2 or find_device(settings.device).resident:
        return InThisProcess(), settings.workers
    each = LIBRARIES_BYTES + plan.predicted_memory_bytes(1)
    processes = max(1, min(most, count, int(_SHARE * available_bytes()) // each))
    if processes == 1:
        return InThisProcess(), settings.workers
    threads = most // processes
    return Processes(processes, threads=threads), threads


def _first_plan(ready: Sequence[tuple[Run, ConversionSettings]]) -> Plan | None:
    """Return the plan of the first run that can be planned without a download, as an example of all."""
    with warnings.catch_warnings():
        # The warnings appear when the run itself is converted.
        warnings.simplefilter("ignore")
        for run, settings in ready:
            if not is_remote(run.source):
                try:
                    return make_plan(run.source, settings)
                except RegimeError:
                    continue
    return None


def _absolute(run: Run) -> Run:
    """Return a run with absolute paths, which are valid in any working directory."""
    source = run.source if is_remote(run.source) else run.source.absolute()
    return replace(run, source=source, output=run.output.absolute())


def _look(runs: Sequence[Run]) -> str:
    """Return the reason why this process cannot convert runs; empty if it can."""
    for run in runs:
        if not is_remote(run.source) and not run.source.is_dir():
            return (
                f"{run.source}: not found on the worker; all workers must be able to read the runs, and write to the "
                "folder of trajectories"
            )
    folder = runs[0].output.parent
    above = next(place for place in (folder, *folder.parents) if place.exists())
    return (
        ""
        if os.access(above, os.W_OK)
        else f"{above}: not writable on the worker; all workers must be able to write to the folder of trajectories"
    )


# Warnings are caught for all threads of a process at once.
_alone = threading.Lock()


def convert_one(prepared: Sequence[ConversionSettings], run: Run, which: int) -> Outcome:
    """Convert a run, and return its outcome; a process converts one run at a time.

    Parameters
    ----------
    prepared : sequence of ConversionSettings
    run : Run
    which : int
        Index of its settings in `prepared`.
    """
    told: list[str] = []
    with _alone, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", RegimeWarning)
        warnings.showwarning = partial(_tell, told)
        outcome = _converted(run, prepared[which])
    return replace(outcome, warnings=tuple(dict.fromkeys(told)))


def _tell(told: list[str], message: Warning | str, category: type[Warning], *_: object) -> None:
    if issubclass(category, RegimeWarning):
        told.append(str(message))


def _converted(run: Run, settings: ConversionSettings) -> Outcome:
    try:
        with downloading(run.source, run.output, keep=settings.keep_downloads) as place:
            done = run_plan(make_plan(place, settings), run.output, settings)
        warn_of_doubts(done.path)
    except (RegimeError, OSError) as error:
        return _failed(run, error)
    except MemoryError:
        return _failed(run, RegimeError("not enough memory; use fewer workers (--workers 1)"))
    except Exception as error:
        advice = "this is a bug in regime: convert this run separately with -v, and report the output"
        return _failed(run, RegimeError(f"{type(error).__name__}: {error}; {advice}"))
    return Outcome(run.name, run.source, run.output, done.observations, done.written)


def _failed(run: Run, error: Exception) -> Outcome:
    return Outcome(run.name, run.source, run.output, error=" ".join(str(error).split()))
