"""Studies how the published numbers depend on settings that the paper does not state, for the small rows."""

import multiprocessing
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from regime_proto.examples.paper.results import Outcome, write_outcomes
from regime_proto.examples.paper.rows import Row, row_called
from regime_proto.examples.paper.settings import UNIT, Settings, settings_of
from regime_proto.schema.errors import RegimeError
from regime_proto.schema.numbers import number

BATCH_SIZES = (32, 64, 128, 256)
MOMENTA = (0.0, 0.9)
# Further settings that the paper leaves open.
OTHERS: dict[str, Any] = {"dropout": 0.2, "scaling": UNIT, "least_improvement": 0.01}
IMAGES = ("MNIST", "CIFAR10")
UNFINISHED = "unfinished"


def grid(rows: Sequence[Row], seeds: int, *, steps: int | None = None) -> list[Settings]:
    """Return every training of the study, ordered by seed.

    States are kept for the structural share if batch size and momentum are the row's.

    Parameters
    ----------
    rows : sequence of Row
    seeds : int
    steps : int or None
        Stop each training after this number of updates.
    """
    return [
        settings_of(
            row, batch_size=size, momentum=momentum, seed=seed, steps=steps, checkpoints=_kept(row, size, momentum)
        )
        for seed in range(seeds)
        for row in rows
        for momentum in (MOMENTA if row.optimizer == "SGD" else (0.0,))
        for size in sorted(BATCH_SIZES, reverse=True)
    ]


def variations(rows: Sequence[Row], seeds: int, *, steps: int | None = None) -> list[Settings]:
    """Return trainings that each differ from a row in one setting other than batch size and momentum."""
    return [
        settings_of(row, seed=seed, steps=steps, checkpoints=0, **{name: value})
        for seed in range(seeds)
        for row in rows
        for name, value in OTHERS.items()
        if not (name == "dropout" and not _drops(row)) and not (name == "scaling" and row.data not in IMAGES)
    ]


def _drops(row: Row) -> bool:
    return any(choice.startswith("dropout:") for choice in row.choices)


def _kept(row: Row, size: int, momentum: float) -> int:
    return 16 if (size, momentum) == (row.batch_size, row.momentum) else 0


def run_all(trainings: Sequence[Settings], out: Path, workers: int = 1) -> Iterator[str]:
    """Run the trainings that have no file of results in `out`, and yield one line about each.

    Each writes ``out/NAME.json``; then its trajectory and states are deleted.

    Parameters
    ----------
    trainings : sequence of Settings
    out : Path
    workers : int
        Number of processes, each with one PyTorch thread.

    Raises
    ------
    RegimeError
        A file in `out` does not hold results.
    """
    out.mkdir(parents=True, exist_ok=True)
    there = {outcome.settings for path in sorted(out.glob("*.json")) for outcome in Outcome.read(path)}
    missing = [settings for settings in trainings if settings not in there]
    yield f"{len(missing)} of {len(trainings)} trainings to run"
    # Processes are not forked, because PyTorch has already started threads.
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_one_thread) as pool:
        futures = {pool.submit(_train, settings, out): settings for settings in missing}
        for future in as_completed(futures):
            name = futures[future].folder
            try:
                outcome = future.result()
            except RegimeError as error:
                yield f"{name}: {error}"
                continue
            score = f"{outcome.score_kind} {number(outcome.score)}"
            yield f"{name}: ρ {number(outcome.rho, '.2f')}, {score}, {outcome.seconds:.0f} s"
    if (out / UNFINISHED).exists() and not any((out / UNFINISHED).iterdir()):
        (out / UNFINISHED).rmdir()


def _path(out: Path, settings: Settings) -> Path:
    return out / f"{settings.folder}.json"


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def _train(settings: Settings, out: Path) -> Outcome:
    from regime_proto.examples.paper.running import run

    folder = out / UNFINISHED / settings.folder
    outcome = run(row_called(settings.row), settings, folder, resume=True)
    write_outcomes(_path(out, settings), [outcome])
    shutil.rmtree(folder)
    return outcome
