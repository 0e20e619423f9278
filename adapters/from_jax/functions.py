"""Exports JAX functions as programs, and checks that a program computes the same as its function."""

import contextlib
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from typing import Any

import jax
import numpy as np
from jax2onnx import to_onnx

from regime_proto.adapters.from_jax.tracing import with_whole_activations
from regime_proto.adapters.from_onnx.file import silent
from regime_proto.program.exported import Origin, exported_program, outputs_of, paths_by_weights
from regime_proto.program.probe import Probe, ProbeError
from regime_proto.program.probe_advice import all_described, tried
from regime_proto.program.program import Program, Tensor
from regime_proto.program.rewrite import NameNodes
from regime_proto.runtime.ir import ir
from regime_proto.schema.errors import RegimeError
from regime_proto.schema.types import Array

Function = Callable[[Mapping[str, Any], Mapping[str, Any]], Any]

# All providers of ONNX Runtime support its operators.
_OPSET = 21
_TOLERANCE = 1e-3
_LONGEST_REASON = 300


def program_of_function(
    function: Function,
    *,
    tensors: Sequence[Tensor],
    weights: Mapping[str, Array],
    probe: Mapping[str, Array],
    modules: Mapping[str, str],
    framework: Mapping[str, str],
    where: str,
) -> Program:
    """Return the program of a function of weights and inputs.

    The program is run with two sets of weights, and its outputs are compared with those of the function. A program
    that contains constant-folded weights is refused.

    Parameters
    ----------
    function : callable
        Function of the weights and the probe, both by name, which returns arrays in any structure.
    tensors : sequence of Tensor
        All tensors of a checkpoint.
    weights : mapping of str to array
        The weights that the function uses, under the names of `tensors`.
    probe : mapping of str to array
        The probe by input.
    modules : mapping of str to str
        Path of the module of each of `weights`.
    framework : mapping of str to str
        Names and versions of the model's libraries other than JAX.
    where : str
        Name of the model in errors.

    Raises
    ------
    RegimeError
        The function fails on the probe, or cannot be exported.
    """
    sets = [weights, {name: _moved(array, index) for index, (name, array) in enumerate(weights.items())}]
    expected = [evaluated(partial(function, one), probe, where) for one in sets]
    versions = {"jax": jax.__version__, "jax2onnx": version("jax2onnx"), **framework}
    reasons: list[str] = []
    arrays = {**probe, **weights}
    for route in _routes(function, arrays, weights):
        try:
            with _quiet():
                model = _graph(route, arrays)
                program = exported_program(
                    model,
                    tensors=tensors,
                    weights=weights,
                    probe=probe,
                    origin=Origin(where, versions, paths_by_weights(model, modules)),
                )
            _require_same(program, sets, probe, expected)
        except Exception as error:
            reasons.append(" ".join(str(error).split())[:_LONGEST_REASON] or type(error).__name__)
            continue
        return program
    raise RegimeError(f"{where}: jax2onnx cannot export this model: {reasons[0]}")


def require_taken(inputs: Mapping[str, Array], probe: Probe) -> None:
    """Raise a `ProbeError` unless JAX can compute in the dtypes of the probe."""
    for name, array in inputs.items():
        taken = jax.dtypes.canonicalize_dtype(array.dtype)
        if taken != array.dtype:
            whole = ", or array.astype('int32') if the model expects integers" if array.dtype.kind in "iu" else ""
            raise ProbeError(
                f"{probe.where}: {name} is {array.dtype.name}, in which JAX does not compute; save the probe with "
                f"array.astype('float32'){whole}"
            )


def evaluated(call: Callable[[Mapping[str, Array]], Any], probe: Mapping[str, Array], where: str) -> list[Array]:
    """Return the outputs of a call on the probe, with the highest precision of the device.

    Raises
    ------
    RegimeError
        The call fails.
    """
    try:
        with _quiet(), jax.default_matmul_precision("highest"):
            return [np.asarray(leaf) for leaf in jax.tree.leaves(call(probe))]
    except Exception as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        with _quiet():
            advice = tried(probe, call, whole="int32")
        found = all_described(probe)
        raise RegimeError(f"{where}: the model fails on the probe ({found}): {reason}{advice}") from None


def _routes(function: Function, arrays: Mapping[str, Array], weights: Collection[str]) -> Iterator[Callable[..., Any]]:
    """Yield equivalent functions of one list of arrays, in the order in which their export is tried.

    The first consists only of activation functions and single operations. In the second, jax2onnx replaces known
    functions of JAX and Flax with whole operators. It can export more of these, but they have quirks.
    """

    def flat(*values: Any) -> list[Any]:
        found = dict(zip(arrays, values, strict=True))
        held = {name: found.pop(name) for name in weights}
        leaves: list[Any] = jax.tree.leaves(function(held, found))
        return leaves

    yield with_whole_activations(flat, _described(arrays))
    yield flat


def _graph(function: Callable[..., Any], arrays: Mapping[str, Array]) -> ir.Model:
    """Return a function as a graph, whose inputs are named like `arrays`."""
    model: ir.Model = to_onnx(
        function, inputs=_described(arrays), input_names=list(arrays), opset=_OPSET, return_mode="ir"
    )
    # Through the file format, so that the checked graph is the stored one.
    model = ir.from_proto(ir.to_proto(model))
    for value in (value for node in model.graph.all_nodes() for value in node.outputs):
        # The shapes that jax2onnx stores are wrong where it has moved transpositions.
        value.shape = value.type = None
    NameNodes()(model)
    return model


def _described(arrays: Mapping[str, Array]) -> list[jax.ShapeDtypeStruct]:
    return [jax.ShapeDtypeStruct(array.shape, array.dtype) for array in arrays.values()]


def _moved(array: Array, seed: int) -> Array:
    """Return different valid weights: a variance stays positive."""
    if array.dtype.kind not in "fV":
        return array
    wide = array.astype(np.float64)
    scale = np.abs(wide).mean() or 1.0
    moved: Array = wide + 0.1 * np.random.default_rng(seed).random(wide.shape) * (np.abs(wide) + scale)
    return moved.astype(array.dtype)


def _require_same(
    program: Program,
    sets: Sequence[Mapping[str, Array]],
    probe: Mapping[str, Array],
    expected: Sequence[Sequence[Array]],
) -> None:
    for weights, outputs in zip(sets, expected, strict=True):
        for found, output in zip(outputs_of(program, {**probe, **weights}), outputs, strict=True):
            if output.dtype.kind != "f" or not output.size:
                continue
            scale = np.abs(output[np.isfinite(output)]).max(initial=0)
            if not np.allclose(found, output, rtol=0, atol=_TOLERANCE * scale + 1e-6, equal_nan=True):
                raise RegimeError("its export computes different outputs")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress messages of the libraries on dtypes and layouts, about which the user can do nothing."""
    with warnings.catch_warnings(), silent("jax2onnx"), silent("absl"), silent("onnx_ir"):
        warnings.simplefilter("ignore")
        yield
