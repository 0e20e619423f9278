"""Recognises the checkpoints in a directory and puts them in order."""

import re
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

from regime_proto.engine.graph.program import FILE_NAME as PROGRAM_FILE
from regime_proto.ordering import Label, NotACheckpoint, has_number, is_pointer, order
from regime_proto.probe import FILE_NAME as PROBE_FILE
from regime_proto.registry import Reader, readers
from regime_proto.schema.errors import RegimeError
from regime_proto.schema.files import SUFFIX
from regime_proto.source import Checkpoint, Skipped, Source, State

_OWN_FILES = (PROGRAM_FILE, PROBE_FILE)


class NoCheckpoint(RegimeError):
    """There is nothing to read in a directory."""


def open_directory(root: Path) -> Source:
    """Return the checkpoints in `root`, in step order.

    Raises
    ------
    RegimeError
        There is no checkpoint, or their order cannot be told.
    """
    if not root.exists():
        raise NoCheckpoint(f"{root}: no such file or directory")
    if not root.is_dir():
        raise RegimeError(f"{root}: a file; expected a directory of checkpoints")
    if root.name.endswith(SUFFIX):
        raise RegimeError(f"{root}: the segments of an unfinished run; finish it with `regime merge {root}`")
    known = readers()
    name, paths, skipped = _recognise(root, known)
    reader = known[name]
    peek = cache(reader.peek)
    paths, others = _without_other_families(paths, peek)
    if not paths:
        raise NoCheckpoint(f"{root}: no checkpoint found; {others[0].path.name}: {others[0].reason}")
    pointers = [path for path in paths if is_pointer(path) or not has_number(path)]
    kept = [path for path in paths if path not in pointers]
    ordered = order(kept or paths, peek)
    steps = dict(ordered.steps)
    for pointer in pointers if kept else ():
        skipped += _place_pointer(pointer, steps, ordered.kind, peek)
    checkpoints = tuple(Checkpoint(step, path) for path, step in sorted(steps.items(), key=lambda item: item[1]))

    def read(checkpoint: Checkpoint) -> State:
        return reader.read(checkpoint.path)

    return Source(
        adapter=name,
        root=root,
        step_kind=ordered.kind,
        order=ordered.reason,
        checkpoints=checkpoints,
        read=read,
        skipped=tuple(skipped + others),
        metrics=_metrics(checkpoints[0].path, peek),
    )


def find_source(root: Path) -> Source | None:
    """Return the checkpoints in `root`, or None if there are none yet."""
    try:
        return open_directory(root)
    except NoCheckpoint:
        return None


def _recognise(root: Path, known: Mapping[str, Reader]) -> tuple[str, list[Path], list[Skipped]]:
    """Return the adapter that recognises most files, its files, and the files left over."""
    entries = sorted(path for path in root.iterdir() if path.name not in _OWN_FILES and not path.name.startswith("."))
    found = {
        name: [path for path in entries if path.suffix in reader.SUFFIXES and reader.recognise(path)]
        for name, reader in known.items()
    }
    best = max(found, key=lambda name: len(found[name]), default=None)
    if best is None or not found[best]:
        suffixes = " ".join(sorted({suffix for reader in known.values() for suffix in reader.SUFFIXES}))
        holds = f"it holds {', '.join(path.name for path in entries[:3])}" if entries else "it is empty"
        raise NoCheckpoint(f"{root}: no checkpoint found ({holds}); expected files of {suffixes}")
    skipped = [Skipped(path, f"no {best} checkpoint") for path in entries if path not in found[best]]
    return best, found[best], skipped


def _without_other_families(paths: list[Path], peek: Callable[[Path], Label]) -> tuple[list[Path], list[Skipped]]:
    """Set files aside that hold something else, such as optimizer states.

    Files whose names differ in digits only are one family, and one look tells what a family holds.
    """
    families: dict[str, list[Path]] = {}
    for path in paths:
        families.setdefault(re.sub(r"\d+", "#", path.name), []).append(path)
    kept, skipped = [], []
    for members in families.values():
        reason = _reason_against(members, peek)
        if reason is None:
            kept += members
        else:
            skipped += [Skipped(path, reason) for path in members]
    return kept, skipped


def _reason_against(members: list[Path], peek: Callable[[Path], Label]) -> str | None:
    for path in members:
        try:
            peek(path)
        except NotACheckpoint as error:
            return str(error)
        except RegimeError:
            # A damaged file says nothing of its family; it is an error when its turn to be read comes.
            continue
        return None
    return None


def _place_pointer(pointer: Path, steps: dict[Path, int], kind: str, peek: Callable[[Path], Label]) -> list[Skipped]:
    """Add a file such as ``last.ckpt`` or ``init.pt`` to `steps` if it says a step of its own; else skip it."""
    try:
        step = peek(pointer).step
    except RegimeError as error:
        return [Skipped(pointer, f"cannot be read: {error}")]
    if kind != "step" or step is None:
        return [Skipped(pointer, "it does not say its step, and its name has none")]
    if step in steps.values():
        return [Skipped(pointer, f"a copy of step {step}")]
    steps[pointer] = step
    return []


def _metrics(path: Path, peek: Callable[[Path], Label]) -> tuple[str, ...]:
    try:
        return peek(path).metrics
    except RegimeError:
        return ()
