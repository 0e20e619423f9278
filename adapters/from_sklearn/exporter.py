"""Exports scikit-learn's neural networks as programs, through skl2onnx."""

import copy
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import skl2onnx
import sklearn

from regime_proto.adapters.from_onnx.file import silent
from regime_proto.adapters.from_sklearn.reading import WEIGHTS
from regime_proto.program.exported import Origin, exported_program, outputs_of, paths_by_weights
from regime_proto.program.fingerprints import fingerprints, found_in
from regime_proto.program.initializers import GatherInitializers
from regime_proto.program.probe import Probe, ProbeError
from regime_proto.program.probe_advice import declared
from regime_proto.program.program import Program, Tensor
from regime_proto.program.rewrite import LiftWeights, NameNodes
from regime_proto.runtime.ir import RemoveUnusedNodesPass, ir
from regime_proto.schema.errors import RegimeError
from regime_proto.schema.types import Array

_INPUT = "X"
# Tolerance: errors of a wrong graph are far larger than rounding errors.
_TOLERANCE = 1e-4


def export(model: Any, probe: Probe) -> Program:
    """Export a fitted estimator up to the scores of its last layer; the estimator stays unchanged.

    Parameters
    ----------
    model : sklearn.neural_network.MLPClassifier or MLPRegressor
        The estimator, with any weights: these become inputs of the program, named as by `from_sklearn.read`.
    probe : Probe
        One array, (sample, feature) float32 or float64; the program computes in its dtype.

    Raises
    ------
    RegimeError
        The probe does not match, skl2onnx cannot export the model, or the graph computes different scores.
    """
    where = f"model of type {type(model).__name__}"
    array = _input(model, probe)
    named = {f"{name}.{layer}": weight for layer in range(len(model.coefs_)) for name, weight in _layer(model, layer)}
    weights = fingerprints({name: (weight.shape, array.dtype) for name, weight in named.items()})
    marked = _with_weights(model, weights)
    graph = _to_onnx(marked, array, where)
    GatherInitializers()(graph)
    LiftWeights(found_in(graph, weights, where))(graph)
    for value in graph.graph.inputs:
        if value.name in weights:
            # skl2onnx stores an intercept as one row.
            value.shape = ir.Shape(weights[value.name].shape)
    _end_at_scores(graph, list(weights)[-1])
    NameNodes()(graph)
    program = exported_program(
        graph,
        tensors=[
            Tensor(name, weight.shape, trainable=True, aliases=_aliases(name)) for name, weight in weights.items()
        ],
        weights=weights,
        probe={_INPUT: array},
        origin=Origin(
            where,
            {"sklearn": sklearn.__version__, "skl2onnx": skl2onnx.__version__},
            paths_by_weights(graph, {name: f"{WEIGHTS[0]}.{name.rpartition('.')[2]}" for name in weights}),
        ),
    )
    _verify(program, marked, array, where)
    return program


def _input(model: Any, probe: Probe) -> Array:
    array: Array = probe.bind([_INPUT])[_INPUT]
    expected = f"expected float32 or float64[samples, {model.n_features_in_}]"
    found = f"{probe.where}: {array.dtype.name}{list(array.shape)}, {expected}"
    if array.shape[1:] != (model.n_features_in_,):
        flat = array.ndim > 2 and array[0].size == model.n_features_in_
        hint = declared(_INPUT, array, "float32", (-1, model.n_features_in_)) or "pass the inputs of the model itself"
        hint = "save the probe with array.reshape(len(array), -1)" if flat else hint
        raise ProbeError(f"{found}; {hint}")
    if array.dtype not in (np.float32, np.float64):
        raise ProbeError(f"{found}; save the probe with array.astype('float32')")
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _layer(model: Any, layer: int) -> list[tuple[str, Array]]:
    return [(name, getattr(model, name)[layer]) for name in WEIGHTS]


def _aliases(name: str) -> tuple[str, ...]:
    """Return the other spellings of a name such as ``coefs_.0``."""
    attribute, _, layer = name.rpartition(".")
    return (f"{attribute}{layer}", f"{attribute}[{layer}]")


def _with_weights(model: Any, weights: Mapping[str, Array]) -> Any:
    """Return a copy of the model with different weights, which ends with the scores of its last layer."""
    changed = copy.deepcopy(model)
    for attribute in WEIGHTS:
        setattr(changed, attribute, [weights[f"{attribute}.{layer}"] for layer in range(len(model.coefs_))])
    # Not every function after the scores can be exported, and none of them is a gate.
    changed.out_activation_ = "identity"
    return changed


def _to_onnx(model: Any, array: Array, where: str) -> ir.Model:
    options = {"zipmap": False} if hasattr(model, "predict_proba") else None
    with warnings.catch_warnings(), silent("skl2onnx"):
        warnings.simplefilter("ignore")
        try:
            proto = skl2onnx.to_onnx(model, array[:1], options=options)
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            raise RegimeError(
                f"{where}: skl2onnx cannot export it ({type(error).__name__}: {reason}); check its activation"
            ) from None
    exported: ir.Model = ir.from_proto(proto)
    return exported


def _end_at_scores(graph: ir.Model, last: str) -> None:
    """Make the sum with the last intercept the only output; the rest turns scores into labels."""
    value = next(value for value in graph.graph.inputs if value.name == last)
    node = next(node for node, _ in value.uses())
    graph.graph.outputs.clear()
    graph.graph.outputs.append(node.outputs[0])
    RemoveUnusedNodesPass()(graph)


def _verify(program: Program, model: Any, array: Array, where: str) -> None:
    """Refuse a program whose scores differ from the model's, both with weights that were not exported.

    These weights are scaled so that values stay near 1 from layer to layer.
    """
    inputs = np.abs(array).max() or 1
    weights = {name: fed.astype(array.dtype) for name, fed in _scaled(model, float(inputs)).items()}
    expected = _scores(_with_weights(model, weights), array)
    (found,) = outputs_of(program, {_INPUT: array, **weights})
    if not np.abs(found - expected).max() <= _TOLERANCE * np.abs(expected).max():
        raise RegimeError(
            f"{where}: the exported graph computes different scores from the model (by "
            f"{np.abs(found - expected).max():.2g}); scikit-learn {sklearn.__version__} and skl2onnx "
            f"{skl2onnx.__version__} are incompatible; upgrade both"
        )


def _scaled(model: Any, inputs: float) -> dict[str, Array]:
    scaled: dict[str, Array] = {}
    for layer in range(len(model.coefs_)):
        coefficients, intercepts = (weight for _, weight in _layer(model, layer))
        wide = np.sqrt(len(coefficients)) * (1 if layer else inputs)
        scaled |= {f"{WEIGHTS[0]}.{layer}": coefficients / wide, f"{WEIGHTS[1]}.{layer}": intercepts / 2}
    return scaled


def _scores(model: Any, array: Array) -> Array:
    """Return the scores that the estimator itself computes, (sample, output)."""
    with warnings.catch_warnings():
        # It may store feature names, which an array does not have.
        warnings.simplefilter("ignore")
        if not hasattr(model, "predict_proba"):
            return np.reshape(model.predict(array), (len(array), -1))
        scores: Array = model.predict_proba(array)
    # For two classes it adds the probability of the other class.
    return scores[:, 1:] if model.n_outputs_ == 1 else scores
