"""Programs of JAX are compiled once for all tests of a process: Keras has every model compile its own again."""

import os
import shutil
import tempfile

_FOLDER = tempfile.mkdtemp(prefix="regime-compiled-")

# Before JAX is imported, and for the children too. Each process of pytest has a folder of its own: one that reads what
# another has written by half would warn.
os.environ["JAX_COMPILATION_CACHE_DIR"] = _FOLDER
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"


def pytest_unconfigure():
    shutil.rmtree(_FOLDER, ignore_errors=True)
