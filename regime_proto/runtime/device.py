"""Execution providers, sessions, and arrays placed on a device."""

import contextlib
import io
import os
import re
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
import onnxruntime

from regime_proto.runtime.device_names import card_of, require_device
from regime_proto.runtime.ir import ir
from regime_proto.schema.dtypes import is_numpys
from regime_proto.schema.errors import RegimeError, RegimeWarning
from regime_proto.schema.types import Array

_CPU = "CPUExecutionProvider"
_CUDA = "CUDAExecutionProvider"
_OPTIONS = {
    _CPU: {},
    # With TF32, two equal states could differ from the result of float32 arithmetic.
    _CUDA: {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC", "arena_extend_strategy": "kSameAsRequested"},
}
# Passes on one card run one after another, and each state in flight occupies its memory.
_ON_CARD = 4
# Makes a session record where each node runs.
_RECORDS = "session.record_ep_graph_assignment_info"
# ONNX Runtime's levels for its own log on stderr.
_LOG_FATAL, _LOG_WARNING = 4, 2
_NO_MEMORY = re.compile("out of memory|bad.alloc|fail(ed|ure) to allocate|available memory", re.IGNORECASE)


class _Arena:
    """The memory that holds the activations of this process's sessions."""

    is_shared = False


_arena = _Arena()


def share_arena() -> None:
    """Let all later CPU sessions share one arena for activations, which grows by the requested size only.

    Separate arenas grow by powers of two and need a fifth more memory in total. The shared arena
    lives until the process ends, so it suits processes that run one conversion and exit.
    """
    if _arena.is_shared:
        return
    place = onnxruntime.OrtMemoryInfo(
        "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
    )
    as_requested = {"max_mem": 0, "arena_extend_strategy": 1, "initial_chunk_size_bytes": -1}
    config = onnxruntime.OrtArenaCfg({**as_requested, "max_dead_bytes_per_chunk": -1})
    # A different part of the program may have registered one.
    with contextlib.suppress(RuntimeError):
        onnxruntime.create_and_register_allocator(place, config)
        _arena.is_shared = True


Placed = Any
"""An array on a device: an ``onnxruntime.OrtValue``."""


@dataclass(frozen=True)
class Device:
    """A device, and the division of work between it and this process.

    Parameters
    ----------
    kind : str
        ``cpu`` or ``cuda``.
    resident : bool
        Whether weights and masks stay on the device, to be compared and packed there. Otherwise
        NumPy does that, on arrays that are in memory anyway.
    number : int
        Index of the card, if there are several.
    """

    kind: str
    resident: bool
    number: int = 0

    def __str__(self) -> str:
        """Return its name, as a user writes it."""
        return f"{self.kind}:{self.number}" if self.number else self.kind

    @property
    def provider(self) -> str:
        """ONNX Runtime's name of the execution provider."""
        return _CUDA if self.kind == "cuda" else _CPU

    def takes(self, dtype: np.dtype[Any]) -> bool:
        """Whether arrays of `dtype` can be placed unchanged; others are widened to float32."""
        return is_numpys(dtype) or self.kind == "cpu"

    def place(self, array: Array) -> Placed:
        """Place an array; on the CPU this is a view, and `array` must not be modified afterwards."""
        array = np.ascontiguousarray(array)
        if is_numpys(array.dtype):
            try:
                return onnxruntime.OrtValue.ortvalue_from_numpy(array, self.kind, self.number)
            except RuntimeError as error:
                raise RegimeError(self.failure("cannot accept a tensor", error)) from None
        # Types that NumPy itself does not know, mainly bfloat16.
        return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(array, ir.DataType.from_numpy(array.dtype).value)

    def session(
        self,
        model: ir.Model,
        *,
        threads: int = 1,
        brief: bool = False,
        as_is: bool = False,
        constants: Mapping[str, Array] = MappingProxyType({}),
    ) -> "Session":
        """Return a session that runs `model` here.

        Parameters
        ----------
        model : onnx_ir.Model
        threads : int
        brief : bool
            Release memory after every run instead of keeping it for the next.
        as_is : bool
            The graph is `optimized` already, or part of such a graph.
        constants : mapping of str to array
            The data of initializers that have none in the graph; must not be modified afterwards.

        Raises
        ------
        RegimeError
            ONNX Runtime cannot run the graph, or fell back to another device.
        """
        options = _options(threads)
        options.enable_cpu_mem_arena = not brief
        if as_is:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        if _arena.is_shared and self.kind == "cpu" and not as_is:
            options.add_session_config_entry("session.use_env_allocators", "1")
        # If planned as one block, the activations of a pass need a third more memory and save no time.
        options.enable_mem_pattern = False
        named = {str(name) for name in model.graph.initializers}
        given = {name: self.place(array) for name, array in constants.items() if name in named}
        if given:
            options.add_external_initializers(list(given), list(given.values()))
        try:
            session = self._started(ir.to_proto(model).SerializeToString(), options)
        except Exception as error:
            raise RegimeError(self.failure("cannot run the graph", error)) from None
        if session.get_providers()[0] != self.provider:
            raise RegimeError(
                f"device {self}: ONNX Runtime could not start its CUDA provider (driver or CUDA libraries missing); "
                "check nvidia-smi, or use --device cpu"
            )
        return Session(session, self, given)

    def optimized(self, model: ir.Model) -> onnx.ModelProto:
        """Return the graph that a session derives from `model`: operators fused, constants folded.

        Raises
        ------
        RegimeError
            ONNX Runtime cannot run the graph.
        """
        options = _options()
        with tempfile.TemporaryDirectory(prefix="regime-") as folder:
            path = Path(folder, "optimized.onnx")
            options.optimized_model_filepath = str(path)
            try:
                self._started(ir.to_proto(model).SerializeToString(), options)
                return onnx.load(path)
            except Exception as error:
                raise RegimeError(self.failure("cannot run the graph", error)) from None

    def at_once(self, most: int) -> int:
        """Return the number of checkpoints to keep in flight, if this process has cores and memory for `most`."""
        return min(most, _ON_CARD) if self.kind == "cuda" else most

    def _started(self, content: bytes, options: Any) -> Any:
        """Return an ONNX Runtime session that prints nothing and never falls back to a different device."""
        providers = [(name, _OPTIONS[name]) for name in dict.fromkeys((self.provider, _CPU))]
        if self.kind == "cpu":
            return onnxruntime.InferenceSession(content, options, providers=providers)
        options.add_session_config_entry(_RECORDS, "1")
        if self.number:
            providers[0] = (self.provider, {**_OPTIONS[self.provider], "device_id": str(self.number)})
        with _quiet():
            return onnxruntime.InferenceSession(content, options, providers=providers, enable_fallback=0)

    def failure(self, what: str, error: Exception) -> str:
        """Return a one-line message about a failure of ONNX Runtime on this device."""
        reason = " ".join(str(error).split())
        if self.kind == "cpu":
            return f"ONNX Runtime {what} on {self}: {reason[:300]}"
        cards = re.search(r"Invalid device ID: .*\(inclusive\) and (\d+) \(exclusive\)", reason)
        if cards:
            names = "cuda:0" if cards[1] == "1" else f"cuda:0 to cuda:{int(cards[1]) - 1}"
            return f"device {self}: no such card; this machine has {names}"
        if _NO_MEMORY.search(reason):
            advice = "keep fewer checkpoints in flight (--workers 1), use fewer probe samples, or use --device cpu"
            return f"device {self}: ONNX Runtime {what}: the card is out of memory; {advice} ({reason[-100:]})"
        if "cuDNN is unavailable" in reason:
            return (
                f"device {self}: cuDNN 9 was not found; install it (regime-proto[gpu] includes it), or use --device cpu"
            )
        # The provider adds references to its own source code before and after the message.
        said = re.search(r"CUDA failure [^;]*[^;\s]", reason)
        if said:
            return f"device {self}: ONNX Runtime {what}: {said[0]}; check nvidia-smi, or use --device cpu"
        return f"device {self}: ONNX Runtime {what}: {reason[-300:]}"


def _options(threads: int = 1) -> Any:
    options = onnxruntime.SessionOptions()
    # Several checkpoints are in flight, each on one thread. A thread pool per run would only cause
    # contention, and the result would depend on the number of threads.
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.use_deterministic_compute = True
    options.log_severity_level = 4
    return options


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep ONNX Runtime from logging to stderr what is raised as an error here, or is not an error.

    If a card index is given, every session warns about a kind of plugin that is not installed. The
    log level cannot be read; afterwards it is reset to the default.
    """
    onnxruntime.set_default_logger_severity(_LOG_FATAL)
    try:
        yield
    finally:
        onnxruntime.set_default_logger_severity(_LOG_WARNING)


class Session:
    """A graph in ONNX Runtime, its inputs and outputs on one device.

    Parameters
    ----------
    session : onnxruntime.InferenceSession
    device : Device
    constants : mapping of str to placed array
        Data stored outside the graph, which the session itself does not keep in memory.
    """

    def __init__(self, session: Any, device: Device, constants: Mapping[str, Placed]) -> None:
        self._session = session
        self._device = device
        self._constants = constants
        self._outputs = [output.name for output in session.get_outputs()]
        self.inputs = frozenset(value.name for value in session.get_inputs())

    @property
    def on_host(self) -> list[tuple[str, str]]:
        """Operator and name of the nodes that run on the CPU although the session uses a card.

        Some of them may compute shapes. Earlier versions of ONNX Runtime do not report this; the list is then empty.
        """
        if self._device.kind == "cpu" or not hasattr(self._session, "get_provider_graph_assignment_info"):
            return []
        parts = self._session.get_provider_graph_assignment_info()
        nodes = [node for part in parts if part.ep_name == _CPU for node in part.get_nodes()]
        return [(node.op_type, node.name) for node in nodes]

    def run(self, feeds: Mapping[str, Placed], *, keep: frozenset[str] = frozenset()) -> dict[str, Placed]:
        """Run the graph; safe to call from several threads.

        Parameters
        ----------
        feeds : mapping of str to placed array
            May hold more than the inputs of the graph.
        keep : set of str
            Outputs that stay on the device; the others are copied to the host.
        """
        device, binding = self._device, self._session.io_binding()
        for name in self.inputs:
            binding.bind_ortvalue_input(name, feeds[name])
        for name in self._outputs:
            binding.bind_output(name, *((device.kind, device.number) if name in keep else ("cpu", 0)))
        try:
            self._session.run_with_iobinding(binding)
        except Exception as error:
            raise RegimeError(device.failure("failed on the graph", error)) from None
        return dict(zip(self._outputs, binding.get_outputs(), strict=True))


def find_device(name: str) -> Device:
    """Return the device that the user requested.

    Parameters
    ----------
    name : str
        ``auto``, ``cpu``, ``cuda`` or, for one of several cards, ``cuda:N``, counted from 0.
        ``auto`` selects the first GPU if ONNX Runtime can use one.

    Raises
    ------
    RegimeError
        The device is unknown or not available.
    """
    require_device(name)
    cpu, cuda = Device("cpu", resident=False), Device("cuda", resident=True, number=card_of(name) or 0)
    if name == "cpu":
        return cpu
    if _CUDA not in onnxruntime.get_available_providers():
        if name == "auto":
            return cpu
        raise RegimeError(
            f"device {cuda}: this onnxruntime has no CUDA provider; run `pip uninstall "
            'onnxruntime`, then pip install "regime-proto[gpu]"'
        )
    # It prints what it does not find, but programs read the output of this process.
    with contextlib.redirect_stdout(io.StringIO()):
        onnxruntime.preload_dlls()
    try:
        cuda.session(_identity())
    except RegimeError as error:
        if name != "auto":
            raise
        warnings.warn(f"{error}; forward passes run on the CPU", RegimeWarning, stacklevel=2)
        return cpu
    return cuda


def _identity() -> ir.Model:
    """Return a minimal graph, to check whether a provider starts."""
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
    """Return the name and version of the runtime that runs programs."""
    return f"onnxruntime {onnxruntime.__version__}"
