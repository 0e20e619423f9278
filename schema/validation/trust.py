"""Remembers which files this machine wrote or has checked, so that they are not checked again.

A record holds what changes whenever a file is replaced, written to or given other times: size, inode and the times of
the last change of contents and status. None of that survives a copy from another machine.
"""

import hashlib
import os
from contextlib import suppress
from pathlib import Path

from regime_proto.schema import layout

MAX_RECORDS = 4096


def record(path: Path) -> None:
    """Remember that `path`, as it is now, is a sound trajectory. Where that cannot be written, it is checked again."""
    with suppress(OSError, RuntimeError):
        place = _place(path)
        place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        place.write_text(_state(path), encoding="utf-8")
        _forget_oldest(place.parent)


def is_trusted(path: Path) -> bool:
    """Whether `path` is a sound trajectory that has not changed since that was recorded."""
    try:
        return _place(path).read_text(encoding="utf-8") == _state(path)
    except (OSError, RuntimeError, UnicodeDecodeError):
        return False


def _place(path: Path) -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "regime-proto" / "checked" / hashlib.sha256(os.fsencode(path.resolve())).hexdigest()


def _state(path: Path) -> str:
    status = path.stat()
    parts = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    return " ".join(map(str, (layout.VERSION, *parts)))


def _forget_oldest(folder: Path) -> None:
    records = list(folder.iterdir())
    if len(records) > MAX_RECORDS:
        records.sort(key=lambda path: path.stat().st_mtime)
        for old in records[: MAX_RECORDS // 2]:
            old.unlink(missing_ok=True)
