"""Where the work is done: execution providers, sessions, and arrays placed on a device."""

import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime

from regime_proto.runtime.ir import ir
from regime_proto.schema.dtypes import is_numpys
from regime_proto.schema.errors import RegimeError, RegimeWarning
from regime_proto.schema.types import Array

DEVICES = ("auto", "cpu", "cuda")

_CPU = "CPUExecutionProvider"
_CUDA = "CUDAExecutionProvider"
_OPTIONS = {
    _CPU: {},
    # TF32 would let two equal states differ from what float32 arithmetic gives.
    _CUDA: {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC", "arena_extend_strategy": "kSameAsRequested"},
}

Placed = Any
"""An array on a device: an ``onnxruntime.OrtValue``."""


@dataclass(frozen=True)
class Device:
    """A device, and how the work is divided between it and this process.

    Parameters
    ----------
    kind : str
        ``cpu`` or ``cuda``.
    resident : bool
        Whether weights and masks stay on the device, and are compared and packed there. Otherwise NumPy
        does that, on arrays that are in memory anyway.
    """

    kind: str
    resident: bool

    @property
    def provider(self) -> str:
        """The execution provider, as ONNX Runtime names it."""
        return _CUDA if self.kind == "cuda" else _CPU

    def takes(self, dtype: np.dtype[Any]) -> bool:
        """Whether arrays of `dtype` can be placed as they are; others are widened to float32."""
        return is_numpys(dtype) or self.kind == "cpu"

    def place(self, array: Array) -> Placed:
        """Place an array; on the CPU that is a view, and `array` must not be written to any more."""
        array = np.ascontiguousarray(array)
        if is_numpys(array.dtype):
            return onnxruntime.OrtValue.ortvalue_from_numpy(array, self.kind, 0)
        # Types that NumPy does not know by itself, bfloat16 above all.
        return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(array, ir.DataType.from_numpy(array.dtype).value)

    def session(self, model: ir.Model, *, threads: int = 1, brief: bool = False) -> "Session":
        """Return a session that runs `model` here.

        Parameters
        ----------
        model : onnx_ir.Model
        threads : int
        brief : bool
            Give memory back after every run, rather than keep it for the next.

        Raises
        ------
        RegimeError
            ONNX Runtime cannot run the graph, or fell back to another device.
        """
        options = onnxruntime.SessionOptions()
        # Several checkpoints are in flight, each on one thread; a thread pool per run would only contend, and
        # the result would depend on the number of threads.
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.use_deterministic_compute = True
        options.log_severity_level = 4
        options.enable_cpu_mem_arena = not brief
        # Planned in one block, the activations of a pass take a third more memory, and no less time.
        options.enable_mem_pattern = False
        providers = [(name, _OPTIONS[name]) for name in dict.fromkeys((self.provider, _CPU))]
        try:
            session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), options, providers=providers)
        except Exception as error:
            reason = " ".join(str(error).split())
            raise RegimeError(f"ONNX Runtime cannot run the graph on {self.kind}: {reason[:300]}") from None
        if session.get_providers()[0] != self.provider:
            raise RegimeError(
                "device cuda: ONNX Runtime could not start its CUDA provider (driver or CUDA libraries missing); "
                "check nvidia-smi, or use --device cpu"
            )
        return Session(session, self)


class Session:
    """A graph in ONNX Runtime, its inputs and outputs on one device.

    Parameters
    ----------
    session : onnxruntime.InferenceSession
    device : Device
    """

    def __init__(self, session: Any, device: Device) -> None:
        self._session = session
        self._device = device
        self._outputs = [output.name for output in session.get_outputs()]
        self.inputs = frozenset(value.name for value in session.get_inputs())

    def run(self, feeds: Mapping[str, Placed], *, keep: frozenset[str] = frozenset()) -> dict[str, Placed]:
        """Run the graph; safe to call from several threads.

        Parameters
        ----------
        feeds : mapping of str to placed array
            More than the inputs of the graph may be given.
        keep : set of str
            Outputs that stay on the device; the others come to the host.
        """
        binding = self._session.io_binding()
        for name in self.inputs:
            binding.bind_ortvalue_input(name, feeds[name])
        for name in self._outputs:
            binding.bind_output(name, self._device.kind if name in keep else "cpu", 0)
        try:
            self._session.run_with_iobinding(binding)
        except Exception as error:
            reason = " ".join(str(error).split())
            raise RegimeError(f"ONNX Runtime failed on the graph: {reason[:300]}") from None
        return dict(zip(self._outputs, binding.get_outputs(), strict=True))


def find_device(name: str) -> Device:
    """Return the device that the user asked for.

    Parameters
    ----------
    name : {"auto", "cpu", "cuda"}
        ``auto`` takes a GPU where ONNX Runtime can use one.

    Raises
    ------
    RegimeError
        The device is unknown or not available.
    """
    if name not in DEVICES:
        raise RegimeError(f"device {name!r}: expected one of {', '.join(DEVICES)}")
    cpu, cuda = Device("cpu", resident=False), Device("cuda", resident=True)
    if name == "cpu":
        return cpu
    if _CUDA not in onnxruntime.get_available_providers():
        if name == "auto":
            return cpu
        raise RegimeError(
            "device cuda: this onnxruntime has no CUDA provider; "
            'pip uninstall onnxruntime, then pip install "regime-proto[gpu]"'
        )
    onnxruntime.preload_dlls()
    try:
        cuda.session(_identity())
    except RegimeError as error:
        if name == "cuda":
            raise
        warnings.warn(f"{error}; the forward passes run on the CPU", RegimeWarning, stacklevel=2)
        return cpu
    return cuda


def _identity() -> ir.Model:
    """Return the smallest graph: enough to see whether a provider starts."""
    value = ir.Value(name="x", shape=ir.Shape([1]), type=ir.TensorType(ir.DataType.FLOAT))
    node = ir.node("Identity", [value])
    node.outputs[0].name = "y"
    node.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    graph = ir.Graph([value], node.outputs, nodes=[node], opset_imports={"": 18}, name="identity")
    return ir.Model(graph, ir_version=8)


def cores() -> int:
    """Return the number of cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def runtime_version() -> str:
    """Return the name and version of what runs programs."""
    return f"onnxruntime {onnxruntime.__version__}"
