"""Records the state of checkpoint files at measurement, to detect a change that keeps size and time.

A trajectory identifies its checkpoints by size and modification time, which a copy of the run keeps. The status change
time of a file cannot be set, but copying, linking and changing permissions update it. Where it differs, the content is
compared.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from regime_proto.checkpoints.locations import files_in, is_remote
from regime_proto.checkpoints.opening import descriptor_of
from regime_proto.checkpoints.source import Checkpoint
from regime_proto.schema import records
from regime_proto.schema.errors import RegimeError

_KIND = "measured"
MAX_RECORDS = 4096
# Training changes weights throughout a file. The end of a zip archive holds a checksum of each entry.
_SAMPLES, _SAMPLE_BYTES, _END_BYTES = 8, 1024, 4096

_Entry = list[list[Any]] | None


def remember(fingerprints: Sequence[str], checkpoints: Sequence[Checkpoint], first: int, count: int) -> None:
    """Record the checkpoints that were measured. If that fails, only changes of size or time are detected.

    Parameters
    ----------
    fingerprints : sequence of str
        See `Plan.fingerprints`.
    checkpoints : sequence of Checkpoint
    first, count : int
        Index of the first checkpoint that was measured now, and the total number measured.
    """
    if os.name != "posix" or count <= first:
        return
    with suppress(OSError, RuntimeError, RegimeError):
        before = _recalled(fingerprints[first - 1]) if first else []
        entries = [*(before or [None] * first), *(_entry(found.path) for found in checkpoints[first:count])]
        records.write(_KIND, fingerprints[count - 1], json.dumps(entries), most=MAX_RECORDS)


def changed(fingerprints: Sequence[str], checkpoints: Sequence[Checkpoint], count: int) -> Path | None:
    """Return the first checkpoint that changed since it was measured; None if no change is detected.

    Parameters
    ----------
    fingerprints, checkpoints
        See `remember`.
    count : int
        Number of checkpoints that were measured.
    """
    entries = _recalled(fingerprints[count - 1]) if count else None
    for checkpoint, entry in zip(checkpoints, entries or (), strict=False):
        with suppress(OSError, RegimeError):
            if entry is not None and _differs(checkpoint.path, entry):
                return checkpoint.path
    return None


def _differs(place: Path, entry: list[list[Any]]) -> bool:
    files = files_in(place)
    return len(files) != len(entry) or any(
        path.stat().st_ctime_ns != time and _digest(path) != digest
        for path, (time, digest) in zip(files, entry, strict=True)
    )


def _entry(place: Path) -> _Entry:
    if is_remote(place):
        return None
    with suppress(OSError, RegimeError):
        return [[path.stat().st_ctime_ns, _digest(path)] for path in files_in(place)]
    return None


def _digest(path: Path) -> str:
    """Return a hash of evenly spaced parts of a file and of its end."""
    descriptor, size = descriptor_of(path)
    try:
        digest = hashlib.blake2b(digest_size=16)
        for sample in range(_SAMPLES):
            digest.update(os.pread(descriptor, _SAMPLE_BYTES, size * sample // _SAMPLES))
        digest.update(os.pread(descriptor, _END_BYTES, max(0, size - _END_BYTES)))
        return digest.hexdigest()
    finally:
        os.close(descriptor)


def _recalled(fingerprint: str) -> list[_Entry] | None:
    try:
        found: list[_Entry] = json.loads(records.read(_KIND, fingerprint) or "null")
    except ValueError:
        return None
    return found if isinstance(found, list) else None
