"""Programs of JAX are compiled once for all tests: Keras has every model compile its own again."""

import os
import shutil
import tempfile

import pytest
from libraries import load_exporter, needed

_FOLDER = "JAX_COMPILATION_CACHE_DIR"
_IS_WORKER = "PYTEST_XDIST_WORKER" in os.environ

# Before JAX is imported, and for children too. Workers share the folder: where its size is limited, it is locked.
if not _IS_WORKER:
    os.environ[_FOLDER] = tempfile.mkdtemp(prefix="regime-compiled-")
os.environ["JAX_COMPILATION_CACHE_MAX_SIZE"] = str(2**30)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"


def pytest_unconfigure():
    if not _IS_WORKER:
        shutil.rmtree(os.environ[_FOLDER], ignore_errors=True)


@pytest.fixture(scope="session")
def jax_exports():
    """What the exporter of JAX imports with the first export of a process, hundreds of modules, is there."""
    needed("jax2onnx")
    load_exporter()
