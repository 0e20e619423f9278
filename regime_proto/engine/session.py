"""Runs the pruned graph of a program in ONNX Runtime, one session for the whole sequence of states."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime

from regime_proto.engine.gates import Gate
from regime_proto.engine.program import Program, widened
from regime_proto.engine.rewrite import ExposeMasks
from regime_proto.schema.errors import RegimeError, RegimeWarning
from regime_proto.source import Array

DEVICES = ("auto", "cpu", "cuda")

# TF32 would let two equal states differ from what float32 arithmetic gives.
_CUDA = ("CUDAExecutionProvider", {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"})
_CPU: tuple[str, dict[str, str]] = ("CPUExecutionProvider", {})


class MaskSession:
    """The forward pass from weights to masks.

    Parameters
    ----------
    program : Program
    gates : sequence of Gate
    probe : mapping of str to array
        One array per probe input; the first axis is the sample.
    device : str
        ``"auto"``, ``"cpu"`` or ``"cuda"``.
    """

    def __init__(
        self,
        program: Program,
        gates: Sequence[Gate],
        probe: Mapping[str, Array],
        *,
        device: str = "auto",
    ) -> None:
        model = program.parse_model()
        ExposeMasks([gate.node for gate in gates])(model)
        used = {value.name for value in model.graph.inputs if value.uses()}
        for value in list(model.graph.inputs):
            if value.name not in used:
                model.graph.inputs.remove(value)
        self.gates = tuple(gates)
        self.weights = {name: spec for name, spec in program.weight_inputs.items() if name in used}
        self._probe = {name: array for name, array in probe.items() if name in used}
        self._session = _session(ir.to_proto(model).SerializeToString(), device)

    @property
    def provider(self) -> str:
        """The execution provider that does the work."""
        return str(self._session.get_providers()[0])

    def run(self, weights: Mapping[str, Array], probe: Mapping[str, Array] | None = None) -> tuple[list[Array], bool]:
        """Return the masks of one parameter state.

        Parameters
        ----------
        weights : mapping of str to array
            Under the program's names.
        probe : mapping of str to array, optional
            In place of the session's own.

        Returns
        -------
        masks : list of bool arrays, one per gate, in the gate's shape
        finite : bool
            Whether no activation was NaN or Inf.
        """
        feeds = dict(self._probe) if probe is None else {name: probe[name] for name in self._probe}
        for name, spec in self.weights.items():
            feeds[name] = widened(weights[name], spec.dtype)
        *masks, total = self._session.run(None, feeds)
        return masks, bool(np.isfinite(total))


def _session(content: bytes, device: str) -> Any:
    if device not in DEVICES:
        raise RegimeError(f"device {device!r}: expected one of {', '.join(DEVICES)}")
    available = onnxruntime.get_available_providers()
    wanted = device == "cuda" or (device == "auto" and _CUDA[0] in available)
    if device == "cuda" and _CUDA[0] not in available:
        raise RegimeError(
            "device cuda: this onnxruntime has no CUDA provider; "
            'pip uninstall onnxruntime, then pip install "regime-proto[gpu]"'
        )
    options = onnxruntime.SessionOptions()
    # Several checkpoints are in flight, each on one thread; a thread pool per run would only contend, and
    # the result would depend on the number of threads.
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.use_deterministic_compute = True
    options.log_severity_level = 3
    if wanted:
        onnxruntime.preload_dlls()
    session = onnxruntime.InferenceSession(content, options, providers=[_CUDA, _CPU] if wanted else [_CPU])
    if wanted and session.get_providers()[0] != _CUDA[0]:
        # ONNX Runtime falls back to the CPU without an exception.
        problem = "ONNX Runtime could not start its CUDA provider (driver or CUDA libraries missing)"
        if device == "cuda":
            raise RegimeError(f"device cuda: {problem}; check nvidia-smi, or use --device cpu")
        warnings.warn(f"{problem}; the forward passes run on the CPU", RegimeWarning, stacklevel=2)
    return session
