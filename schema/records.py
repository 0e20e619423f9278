"""What this machine remembers of files, in the user's cache folder: a record for each, of a kind, under a key.

A record that somebody else could have written is not believed.
"""

import os
import stat
from pathlib import Path


def place(kind: str, key: str) -> Path:
    """Return where a record stands."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "regime-proto" / kind / key


def made_place(kind: str, key: str) -> Path:
    """Return where a record stands, in a folder that is there."""
    found = place(kind, key)
    found.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    return found


def read(kind: str, key: str) -> str | None:
    """Return a record; None if there is none that nobody else can have written."""
    try:
        found = place(kind, key)
        return found.read_text(encoding="utf-8") if _is_ours(found.parent) and _is_ours(found) else None
    except (OSError, RuntimeError, ValueError):
        return None


def write(kind: str, key: str, text: str, *, most: int) -> None:
    """Keep a record, and forget the older half of those of its kind where there are more than `most`.

    Raises
    ------
    OSError, RuntimeError
        There is no place for records.
    """
    found = made_place(kind, key)
    # Another process may read it at any time; the group may not write it, whatever the umask.
    temporary = found.with_name(f".{found.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    temporary.replace(found)
    _forget_oldest(found.parent, most)


def _is_ours(found: Path) -> bool:
    """Whether nobody else can have written a record, or a folder of records."""
    status = found.lstat()
    is_plain = stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)
    return is_plain and status.st_uid == os.geteuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _forget_oldest(folder: Path, most: int) -> None:
    records = list(folder.iterdir())
    if len(records) > most:
        records.sort(key=lambda path: path.stat().st_mtime)
        for old in records[: most // 2]:
            old.unlink(missing_ok=True)
