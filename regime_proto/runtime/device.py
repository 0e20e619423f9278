"""Where the work is done: execution providers, sessions, and arrays placed on a device."""

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
    # TF32 would let two equal states differ from what float32 arithmetic gives.
    _CUDA: {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC", "arena_extend_strategy": "kSameAsRequested"},
}
# Passes on one card follow one another, and each state in flight lies in its memory.
_ON_CARD = 4
# Keep, in a session, which node runs where.
_RECORDS = "session.record_ep_graph_assignment_info"
# ONNX Runtime's levels for what it writes to stderr by itself.
_LOG_FATAL, _LOG_WARNING = 4, 2
_NO_MEMORY = re.compile("out of memory|bad.alloc|fail(ed|ure) to allocate|available memory", re.IGNORECASE)


class _Arena:
    """Where the sessions of this process have their activations."""

    is_shared = False


_arena = _Arena()


def share_arena() -> None:
    """Let all sessions to come on the CPU have their activations in one arena, which grows by what is asked for.

    Arenas of their own grow by powers of two: a fifth more memory in all. The shared one is kept until the process
    ends, so this is for processes that end with their conversion.
    """
    if _arena.is_shared:
        return
    place = onnxruntime.OrtMemoryInfo(
        "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
    )
    as_requested = {"max_mem": 0, "arena_extend_strategy": 1, "initial_chunk_size_bytes": -1}
    config = onnxruntime.OrtArenaCfg({**as_requested, "max_dead_bytes_per_chunk": -1})
    # Another part of the program may have registered one.
    with contextlib.suppress(RuntimeError):
        onnxruntime.create_and_register_allocator(place, config)
        _arena.is_shared = True


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
    number : int
        Of the card, where there are several.
    """

    kind: str
    resident: bool
    number: int = 0

    def __str__(self) -> str:
        """Return the name that a user gives it."""
        return f"{self.kind}:{self.number}" if self.number else self.kind

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
            try:
                return onnxruntime.OrtValue.ortvalue_from_numpy(array, self.kind, self.number)
            except RuntimeError as error:
                raise RegimeError(self.failure("cannot take a tensor", error)) from None
        # Types that NumPy does not know by itself, bfloat16 above all.
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
            Give memory back after every run, rather than keep it for the next.
        as_is : bool
            The graph is (a part of) one that is `optimized` already.
        constants : mapping of str to array
            The data of initializers that have none in the graph; not to be written to any more.

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
        # Planned in one block, the activations of a pass take a third more memory, and no less time.
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
        """Return the graph that a session makes of `model`: operators fused, what is constant computed.

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
        """Return how many checkpoints to have in flight, where this process has cores and memory for `most`."""
        return min(most, _ON_CARD) if self.kind == "cuda" else most

    def _started(self, content: bytes, options: Any) -> Any:
        """Return a session of ONNX Runtime; it prints nothing, and falls back to no other device."""
        providers = [(name, _OPTIONS[name]) for name in dict.fromkeys((self.provider, _CPU))]
        if self.kind == "cpu":
            return onnxruntime.InferenceSession(content, options, providers=providers)
        options.add_session_config_entry(_RECORDS, "1")
        if self.number:
            providers[0] = (self.provider, {**_OPTIONS[self.provider], "device_id": str(self.number)})
        with _quiet():
            return onnxruntime.InferenceSession(content, options, providers=providers, enable_fallback=0)

    def failure(self, what: str, error: Exception) -> str:
        """Return in one line what ONNX Runtime could not do here."""
        reason = " ".join(str(error).split())
        if self.kind == "cpu":
            return f"ONNX Runtime {what} on {self}: {reason[:300]}"
        cards = re.search(r"Invalid device ID: .*\(inclusive\) and (\d+) \(exclusive\)", reason)
        if cards:
            names = "cuda:0" if cards[1] == "1" else f"cuda:0 to cuda:{int(cards[1]) - 1}"
            return f"device {self}: there is no such card; this machine has {names}"
        if _NO_MEMORY.search(reason):
            advice = "keep fewer checkpoints in flight (--workers 1), take fewer probe samples, or use --device cpu"
            return f"device {self}: ONNX Runtime {what}, the card is out of memory; {advice} ({reason[-100:]})"
        if "cuDNN is unavailable" in reason:
            return f"device {self}: cuDNN 9 is not found; install it (regime-proto[gpu] does), or use --device cpu"
        # The provider names its own source code before and behind.
        said = re.search(r"CUDA failure [^;]*[^;\s]", reason)
        if said:
            return f"device {self}: ONNX Runtime {what}: {said[0]}; check nvidia-smi, or use --device cpu"
        return f"device {self}: ONNX Runtime {what}: {reason[-300:]}"


def _options(threads: int = 1) -> Any:
    options = onnxruntime.SessionOptions()
    # Several checkpoints are in flight, each on one thread; a thread pool per run would only contend, and
    # the result would depend on the number of threads.
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.use_deterministic_compute = True
    options.log_severity_level = 4
    return options


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep ONNX Runtime from writing to stderr what becomes an error here, or is none.

    With the number of a card it warns of a kind of plugin that is not installed, for every session. Its level of
    logging cannot be read; afterwards it is that of its default.
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
        What it has beside its graph, and does not keep in memory by itself.
    """

    def __init__(self, session: Any, device: Device, constants: Mapping[str, Placed]) -> None:
        self._session = session
        self._device = device
        self._constants = constants
        self._outputs = [output.name for output in session.get_outputs()]
        self.inputs = frozenset(value.name for value in session.get_inputs())

    @property
    def on_host(self) -> list[tuple[str, str]]:
        """Operator and name of the nodes that run on the CPU although the session is on a card.

        Some of them may compute shapes. Earlier versions of ONNX Runtime do not say, which is an empty list.
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
            More than the inputs of the graph may be given.
        keep : set of str
            Outputs that stay on the device; the others come to the host.
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
    """Return the device that the user asked for.

    Parameters
    ----------
    name : str
        ``auto``, ``cpu``, ``cuda`` or, for one of several cards, ``cuda:N``, counted from 0. ``auto`` takes a GPU,
        the first, where ONNX Runtime can use one.

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
            f"device {cuda}: this onnxruntime has no CUDA provider; "
            'pip uninstall onnxruntime, then pip install "regime-proto[gpu]"'
        )
    # It prints what it does not find; what this process prints is read by programs.
    with contextlib.redirect_stdout(io.StringIO()):
        onnxruntime.preload_dlls()
    try:
        cuda.session(_identity())
    except RegimeError as error:
        if name != "auto":
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
