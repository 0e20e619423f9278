"""Checks that the engine's required libraries are installed; the error says what to install."""

from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from regime_proto.schema.errors import RegimeError

INSTALL = 'pip install "regime-proto[cpu]" (or [gpu] on a machine with an NVIDIA GPU)'


def require_runtime() -> None:
    """Check that onnx_ir and exactly one distribution of ONNX Runtime are installed.

    Raises
    ------
    RegimeError
        The message says what to install or remove.
    """
    for name in ("onnx", "onnx_ir", "onnxruntime"):
        if find_spec(name) is None:
            raise RegimeError(f"{name} is not installed: {INSTALL}")
    if _installed("onnxruntime") and _installed("onnxruntime-gpu"):
        raise RegimeError(
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other's files: run "
            "`pip uninstall onnxruntime onnxruntime-gpu`, then " + INSTALL
        )


def _installed(distribution: str) -> bool:
    try:
        version(distribution)
    except PackageNotFoundError:
        return False
    return True
