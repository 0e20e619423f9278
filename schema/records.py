"""Records about files that this machine keeps in the user's cache folder. Each record has a kind and a key.

A record that another user could have written is not trusted.
"""

import os
import stat
from pathlib import Path


def place(kind: str, key: str) -> Path:
    """Return the path of a record."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "regime-proto" / kind / key


def made_place(kind: str, key: str) -> Path:
    """Return the path of a record, in an existing folder."""
    found = place(kind, key)
    found.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    return found


def read(kind: str, key: str) -> str | None:
    """Return a record; None if there is none, or another user could have written it."""
    try:
        found = place(kind, key)
        return found.read_text(encoding="utf-8") if _is_ours(found.parent) and _is_ours(found) else None
    except (OSError, RuntimeError, ValueError):
        return None


def write(kind: str, key: str, text: str, *, most: int) -> None:
    """Keep a record, and delete the older half of its kind if there are more than `most`.

    Raises
    ------
    OSError, RuntimeError
        Records cannot be written.
    """
    found = made_place(kind, key)
    # Another process may read it at any time. The group may not write it, whatever the umask.
    temporary = found.with_name(f".{found.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    temporary.replace(found)
    _forget_oldest(found.parent, most)


def _is_ours(found: Path) -> bool:
    """Whether no other user can have written a record or a folder of records."""
    status = found.lstat()
    is_plain = stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)
    return is_plain and status.st_uid == os.geteuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _forget_oldest(folder: Path, most: int) -> None:
    records = list(folder.iterdir())
    if len(records) > most:
        records.sort(key=lambda path: path.stat().st_mtime)
        for old in records[: most // 2]:
            old.unlink(missing_ok=True)
