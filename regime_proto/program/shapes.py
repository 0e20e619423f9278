"""Fixes the shapes in a graph for a given probe."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime

from regime_proto.program.probe_advice import all_described, declared, described
from regime_proto.program.program import ProgramError
from regime_proto.runtime.ir import InPlacePass, PassResult, ShapeInferencePass, ir
from regime_proto.schema.types import Array
from regime_proto.schema.words import counted

_LONGEST_REASON = 300


class FixInputShapes(InPlacePass):
    """Give the inputs the shapes of the probe, and infer all other shapes again.

    Parameters
    ----------
    probe : mapping of str to array
        By input name.
    where : str
        Named in errors, for example the model's path.
    """

    def __init__(self, probe: Mapping[str, Array], where: str) -> None:
        self.probe = probe
        self.where = where

    def call(self, model: ir.Model) -> PassResult:
        """Set the inputs' shapes, clear the stale ones, infer.

        Raises
        ------
        ProgramError
            An array does not fit its input; the message gives the expected shape.
        """
        before = _shapes(model)
        for value in model.graph.inputs:
            array = self.probe.get(str(value.name))
            if array is not None:
                self._check(value, array, model.graph.inputs)
                value.shape = ir.Shape(array.shape)
            elif value.uses() and not _is_known(value):
                raise ProgramError(f"{self.where}: no array in the probe for input {value.name!r}, {_declared(value)}")
        for node in model.graph.all_nodes():
            # Inference supports only standard operators.
            if node.domain == "" or not all(map(_is_known, node.outputs)):
                for output in node.outputs:
                    output.shape = None
        ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)(model)
        return PassResult(model, modified=_shapes(model) != before)

    def _check(self, value: ir.Value, array: Array, inputs: Sequence[ir.Value]) -> None:
        lengths = None if value.shape is None else tuple(value.shape)
        fits = lengths is None or _has_lengths(array, lengths)
        if fits and (value.dtype is None or value.dtype.numpy() == array.dtype):
            return
        dtype, shape = array.dtype if value.dtype is None else value.dtype.numpy(), lengths or array.shape
        hint = declared(str(value.name), array, dtype.name, shape) or "give a probe of that shape and type"
        if not fits and lengths and len(lengths) == array.ndim and _is_fixed(lengths[0]) and len(array) != lengths[0]:
            samples = int(lengths[0])  # type: ignore[arg-type]
            hint = f"give a probe of {counted(samples, 'sample')}, or {self._dynamic(inputs, samples)}"
        expected = f"input {value.name!r} expects {_declared(value)}, but the probe is {described(array)}"
        raise ProgramError(f"{self.where}: {expected}; {hint}")

    def _dynamic(self, inputs: Sequence[ir.Value], samples: int) -> str:
        """Return advice on exporting a model from torch for any number of samples."""
        given = [value for value in inputs if value.name in self.probe]
        names = [str(value.name) for value in given]
        batched = [str(value.name) for value in given if value.shape and value.shape[0] == samples]
        axes = {name: {0: "batch"} for name in batched}
        return (
            "export the model with a dynamic batch axis; in torch: torch.onnx.export(model, "
            f"args, path, input_names={names}, dynamic_axes={axes})"
        )


class FixInputValues(InPlacePass):
    """Replace all uses of some inputs with constants; the inputs stay.

    Parameters
    ----------
    values : mapping of str to array
        By input.
    """

    def __init__(self, values: Mapping[str, Array]) -> None:
        self.values = values

    def call(self, model: ir.Model) -> PassResult:
        """Add the constants."""
        found = [value for value in model.graph.inputs if value.name in self.values]
        for value in found:
            tensor = ir.tensor(self.values[str(value.name)], name=f"regime_fixed_{value.name}")
            constant = ir.Value(
                name=tensor.name,
                type=ir.TensorType(tensor.dtype),
                shape=ir.Shape(tensor.shape.numpy()),
                const_value=tensor,
            )
            model.graph.register_initializer(constant)
            ir.convenience.replace_all_uses_with(value, constant)
        return PassResult(model, modified=bool(found))


class RunOnce(InPlacePass):
    """Run the graph on the probe to obtain the shapes that inference could not determine.

    Parameters
    ----------
    probe, weights : mapping of str to array
        Together one array for every graph input.
    where : str
        Named in errors.
    trial : bool
        Run it even if all shapes are known.
    """

    def __init__(
        self, probe: Mapping[str, Array], weights: Mapping[str, Array], where: str, *, trial: bool = True
    ) -> None:
        self.probe = probe
        self.weights = weights
        self.where = where
        self.trial = trial

    def call(self, model: ir.Model) -> PassResult:
        """Run it; the graph's own outputs stay unchanged.

        Raises
        ------
        ProgramError
            The model fails on the probe.
        """
        unknown = [value for node in model.graph for value in node.outputs if value.name and not _is_known(value)]
        if not (unknown or self.trial):
            return PassResult(model, modified=False)
        outputs = list(model.graph.outputs)
        model.graph.outputs.clear()
        model.graph.outputs.extend(dict.fromkeys([*outputs, *unknown]))
        names = [str(value.name) for value in unknown]
        try:
            results = self._run(ir.to_proto(model).SerializeToString(), names)
        finally:
            model.graph.outputs.clear()
            model.graph.outputs.extend(outputs)
        for value, result in zip(unknown, results, strict=True):
            if isinstance(result, np.ndarray):
                value.shape = ir.Shape(result.shape)
                value.dtype = ir.DataType.from_numpy(result.dtype)
        return PassResult(model, modified=bool(unknown))

    def _run(self, content: bytes, names: Sequence[str]) -> list[Any]:
        """Return the values of `names`; without names, this is only a trial."""
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        feeds = {**self.probe, **self.weights}
        if any(array.dtype.kind == "V" for array in feeds.values()):
            return [None] * len(names)  # bfloat16, which only a device runs
        try:
            session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
            known = {value.name for value in session.get_inputs()}
            used = {name: array for name, array in feeds.items() if name in known}
            results: list[Any] = session.run(list(names) or None, used)
        except Exception as error:
            reason = " ".join(str(error).split())[:_LONGEST_REASON]
            found = all_described(self.probe)
            raise ProgramError(f"{self.where}: the model fails on the probe ({found}): {reason}") from None
        return results if names else []


def _shapes(model: ir.Model) -> list[object]:
    """Return the shapes of all values, to detect changes."""
    values = [*model.graph.inputs, *(value for node in model.graph.all_nodes() for value in node.outputs)]
    return [None if value.shape is None else tuple(value.shape) for value in values]


def _is_fixed(length: object) -> bool:
    # Some exporters write -1 where the format requires a symbol.
    return isinstance(length, int) and length >= 0


def _has_lengths(array: Array, lengths: Sequence[object]) -> bool:
    """Whether an array has the fixed lengths that an input declares."""
    return len(lengths) == array.ndim and all(
        found == length for found, length in zip(array.shape, lengths, strict=True) if _is_fixed(length)
    )


def _is_known(value: ir.Value) -> bool:
    return value.shape is not None and all(map(_is_fixed, value.shape)) and value.dtype is not None


def _declared(value: ir.Value) -> str:
    dtype = "an array" if value.dtype is None else value.dtype.numpy().name
    if value.shape is None:
        return f"{dtype} of any shape"
    return f"{dtype}[{', '.join(str(length) for length in value.shape)}]"
