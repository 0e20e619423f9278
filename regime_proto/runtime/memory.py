"""The memory that this process may use."""

import contextlib
import ctypes
import os
from pathlib import Path


def available_bytes() -> int:
    """Return the bytes of free memory, within the limits of a container too."""
    free = [_free_in_system(), *_free_in_group()]
    return max(0, min(free))


def _free_in_system() -> int:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return int(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2)


def _free_in_group() -> list[int]:
    folder = Path("/sys/fs/cgroup")
    try:
        limit = int((folder / "memory.max").read_text())
        used = int((folder / "memory.current").read_text())
    except (OSError, ValueError):
        return []
    return [limit - used]


def give_back() -> None:
    """Return freed memory that the C library's allocator has kept to the system.

    Otherwise blocks of some megabytes that threads allocate and free in turn can add up to a whole model.
    """
    # Only glibc has this function; elsewhere it, or the C library itself, is not found.
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
