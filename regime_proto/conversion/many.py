"""Converts many runs in one call: several at once, in processes of this machine or on the workers of a cluster.

Each run is a task that writes its own trajectory. So small runs take all cores, where threads within a run gain
nothing: most of its time goes into files and Python, for which threads wait for each other.
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

# Of the memory that is free, so much may be taken.
_SHARE = 0.5


@dataclass(frozen=True)
class Run:
    """A run that is to be converted.

    Parameters
    ----------
    name : str
        What it is called, and its trajectory after it.
    source : Path
    output : Path
    """

    name: str
    source: Path
    output: Path


@dataclass(frozen=True)
class Outcome:
    """What became of one of several runs.

    Parameters
    ----------
    name : str
        What it is called, and its trajectory after it.
    source : Path
        The directory of its checkpoints.
    path : Path
        The trajectory.
    observations : int
        How many it holds; 0 after an error.
    written : bool
        False if it was there already.
    error : str, optional
        Why there is none, in one line.
    warnings : tuple of str
        What a user should know of it.
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
    """Convert several runs, each into a trajectory of its own, which is the same as `convert` makes.

    A run that fails does not keep the others from being converted. Trajectories that were made of the same inputs are
    left as they are, and interrupted ones go on: the same call can be repeated.

    Parameters
    ----------
    sources : path, or iterable of path
        Directories of checkpoints, or their URLs.
    output_dir : path
        The folder of the trajectories, ``NAME.h5`` each: NAME is that of the directory, with as much of its path in
        front as tells it from others.
    progress : callable, optional
        Called with the number of runs that have ended and their total.
    **options
        Those of `convert`, the same for all runs, but `shard`. `workers` are the cores to use: several runs are under
        way at once, in processes of their own, as far as there is memory. With `client` or `scheduler` each run is
        measured by one worker, which must be able to write into `output_dir`.

    Returns
    -------
    list of Outcome
        In the order of `sources`. One whose `error` is not None has no trajectory, or an unfinished one.

    Raises
    ------
    RegimeError
        Nothing can be converted with these options, or two directories cannot be told apart.

    Warns
    -----
    RegimeWarning
        What `convert` warns of, with the name of the run in front.
    """
    if options.get("shard") is not None:
        raise RegimeError("shard: a shard is a part of one run; convert each run by itself with regime_proto.convert")
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
    """Return the runs in several directories, with the trajectories that they are to have in a folder.

    Raises
    ------
    RegimeError
        There are none, two cannot be told apart, or the folder cannot be that of trajectories.
    """
    if not sources:
        raise RegimeError("no runs: give directories of checkpoints")
    if folder.exists() and not folder.is_dir():
        raise RegimeError(f"{folder}: not a folder; choose another one for the trajectories")
    runs = [Run(name, source, folder / f"{name}.h5") for name, source in zip(names_of(sources), sources, strict=True)]
    place = folder.resolve()
    for source in sources:
        if not is_remote(source) and place.is_relative_to(source.resolve()):
            raise RegimeError(f"{folder}: is a run, or lies in one ({source}); choose another folder for trajectories")
    return runs


def outcomes(
    runs: Sequence[Run], settings: ConversionSettings, *, exporting: Exporting = nullcontext
) -> Generator[Outcome, None, None]:
    """Convert runs, and yield what became of each as it ends; see `convert_many`.

    Parameters
    ----------
    runs : sequence of Run
    settings : ConversionSettings
        The same for all.
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
        # Most runs have the same settings, which travel once.
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
    """Return the settings of each run, in which a model is a program: it is exported here, once for each probe.

    Parameters
    ----------
    runs : sequence of Run
    settings : ConversionSettings
    exporting : callable, optional
        See `make_plan`.

    Returns
    -------
    list
        The same object for runs of the same settings, and the error of a run that lacks something.

    Raises
    ------
    RegimeError
        No run can be converted with these settings.
    """
    roots = [run.source for run in runs]
    if settings.keep_downloads and not all(map(is_published, roots)):
        raise RegimeError("--keep-downloads applies to checkpoints on the Hugging Face Hub (hf://…)")
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
    """Return what is the same for probes on which a model is exported alike."""
    labels = probe.names or tuple(map(str, range(len(probe.arrays))))
    return json.dumps(probe.names) + probe_sha256(dict(zip(labels, probe.arrays, strict=True)))


@contextmanager
def _executor(
    ready: Sequence[tuple[Run, ConversionSettings]], settings: ConversionSettings
) -> Iterator[tuple[Executor, int | None]]:
    """Yield what carries out the runs, and how many checkpoints of each are to be in flight."""
    plan = _first_plan(ready)
    with cluster_of(settings, ready, find_device(settings.device)) as cluster:
        if cluster is None:
            # What is fetched comes over one line anyway.
            is_here = not any(is_remote(run.source) for run, _ in ready)
            yield _local(len(ready), settings, plan if is_here else None)
            return
        published = next((run for run, _ in ready if is_published(run.source)), None)
        if published is not None:
            raise RegimeError(
                f"{published.source}: a scheduler needs checkpoints that all workers see; fetch them first, or convert "
                "without a scheduler"
            )
        workers = cluster.workers
        if plan is not None:
            require_able(cluster, workers, memory_by_threads(plan, settings))
        require_seen(cluster, _look, [_absolute(run) for run, _ in ready])
        yield cluster, min((worker.threads for worker in workers), default=1)


def _local(count: int, settings: ConversionSettings, plan: Plan | None) -> tuple[Executor, int | None]:
    """Divide the cores of this machine: as many runs at once as there is memory for, each on its part of the cores."""
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
    """Return the plan of the first run that can be planned without fetching anything, as one like the others."""
    with warnings.catch_warnings():
        # They are told when its turn comes.
        warnings.simplefilter("ignore")
        for run, settings in ready:
            if not is_remote(run.source):
                try:
                    return make_plan(run.source, settings)
                except RegimeError:
                    continue
    return None


def _absolute(run: Run) -> Run:
    """Return a run under paths that mean the same in other folders."""
    source = run.source if is_remote(run.source) else run.source.absolute()
    return replace(run, source=source, output=run.output.absolute())


def _look(runs: Sequence[Run]) -> str:
    """Return what keeps this process from runs, in words; nothing if all is well."""
    for run in runs:
        if not is_remote(run.source) and not run.source.is_dir():
            return f"{run.source}: not seen there; all workers must see the runs, and the folder of trajectories"
    folder = runs[0].output.parent
    above = next(place for place in (folder, *folder.parents) if place.exists())
    return "" if os.access(above, os.W_OK) else f"{above}: cannot be written there"


# What a process catches of warnings is of all its threads.
_alone = threading.Lock()


def convert_one(prepared: Sequence[ConversionSettings], run: Run, which: int) -> Outcome:
    """Convert a run, and return what became of it; one at a time in a process.

    Parameters
    ----------
    prepared : sequence of ConversionSettings
    run : Run
    which : int
        The number of its settings among those that are prepared.
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
        return _failed(run, RegimeError("takes more memory than there is; fewer workers take less (--workers 1)"))
    except Exception as error:
        advice = "this is a bug in regime: convert this run by itself with -v, and report what it says"
        return _failed(run, RegimeError(f"{type(error).__name__}: {error}; {advice}"))
    return Outcome(run.name, run.source, run.output, done.observations, done.written)


def _failed(run: Run, error: Exception) -> Outcome:
    return Outcome(run.name, run.source, run.output, error=" ".join(str(error).split()))
