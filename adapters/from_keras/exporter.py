"""Exports Keras models as programs, through JAX."""

import inspect
import tempfile
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from regime_proto.adapters.from_jax.functions import evaluated, program_of_function, require_taken
from regime_proto.adapters.from_keras import reading
from regime_proto.checkpoints.payload import TOP
from regime_proto.program.fingerprints import fingerprints
from regime_proto.program.probe import Probe
from regime_proto.program.program import Program, Tensor
from regime_proto.schema.errors import RegimeError
from regime_proto.schema.types import Array


def export(model: keras.Model, probe: Probe) -> Program:
    """Export a model in inference mode; see `export_named`."""
    return export_named(model, probe)[0]


def export_named(model: keras.Model, probe: Probe, *, paths: bool = True) -> tuple[Program, dict[str, keras.Variable]]:
    """Export a model in inference mode; return the program, and the variable of each of its weights.

    The weights stay unchanged.

    A tensor is known by its name in the files of `save_weights` (``layers.dense.vars.0``), which is determined by
    saving distinct weights, and by the path of its variable (``dense.kernel``). Without `paths` the program contains
    neither these paths nor the names of inputs to which the probe is bound in order. It is then the same for all models
    of one architecture, whether loaded from a file or built again.

    Raises
    ------
    RegimeError
        Keras does not run on JAX, or the model fails on the probe, has no trainable variable or cannot be exported.
    """
    where = model.name
    if keras.config.backend() != "jax":
        raise RegimeError(
            f"{where}: Keras runs on {keras.config.backend()} here, but models can only be exported on JAX; set "
            "KERAS_BACKEND=jax for this command (checkpoints of any backend can be read)"
        )
    names_of_inputs = input_names(model)
    if not paths and probe.names is None:
        names_of_inputs = [f"input_{index}" for index in range(len(names_of_inputs))]
    inputs = probe.bind(names_of_inputs)
    require_taken(inputs, probe)
    if not model.built:
        evaluated(lambda arrays: model(*_arguments(model, arrays), training=False), inputs, where)
    variables = {id(variable): variable for variable in model.variables if _is_weight(variable)}
    if not model.trainable_variables:
        raise RegimeError(f"{where}: no variable is trainable, so there is nothing to measure")
    names, tensors = _tensors(model, variables, paths=paths)

    def function(weights: Mapping[str, Any], arrays: Mapping[str, Any]) -> Any:
        values = [
            [weights[names[id(variable)]] if id(variable) in names else variable.value for variable in group]
            for group in (model.trainable_variables, model.non_trainable_variables)
        ]
        return model.stateless_call(*values, *_arguments(model, arrays), training=False)[0]

    program = program_of_function(
        function,
        tensors=tensors,
        weights={names[key]: np.array(variable.value) for key, variable in variables.items()},
        probe=inputs,
        modules={name: name.removeprefix("layers.").rpartition(".vars.")[0] for name in names.values()},
        framework={"keras": keras.__version__},
        where=where,
    )
    return program, {names[key]: variable for key, variable in variables.items()}


def _tensors(
    model: keras.Model, variables: Mapping[int, keras.Variable], *, paths: bool
) -> tuple[dict[int, str], list[Tensor]]:
    """Return the name of each variable by its id, and all tensors in checkpoints of a model."""
    stored, others = _stored(list(variables.values()), model)
    alike = Counter(variable.path for variable in variables.values())
    trained = {id(variable) for variable in model.trainable_variables}
    names: dict[int, str] = {}
    tensors = []
    for key, variable in variables.items():
        # Numbers in these names depend on the models built before.
        spelled = [variable.path.replace("/", ".")] if paths and alike[variable.path] == 1 else []
        names[key], *aliases = dict.fromkeys([*stored[key], *spelled])
        tensors.append(Tensor(names[key], tuple(variable.shape), key in trained, tuple(aliases)))
    # Counters and similar variables, which checkpoints hold too.
    return names, tensors + [Tensor(name, array.shape, trainable=False) for name, array in others.items()]


def input_names(model: keras.Model) -> list[str]:
    """Return the names of the inputs of a functional model, or of the arguments of `call`."""
    inputs = _declared_inputs(model)
    if inputs is not None:
        return list(inputs) if isinstance(inputs, dict) else [tensor.name for tensor in keras.tree.flatten(inputs)]
    arguments = inspect.signature(model.call).parameters.values()
    return [argument.name for argument in arguments if argument.name not in ("training", "mask")]


def _arguments(model: keras.Model, arrays: Mapping[str, Any]) -> list[Any]:
    """Return the arguments of a call: the inputs in their declared structure, or one argument for each."""
    inputs = _declared_inputs(model)
    if inputs is None:
        return list(arrays.values())
    if isinstance(inputs, dict):
        return [dict(arrays)]
    return [keras.tree.pack_sequence_as(inputs, list(arrays.values()))]


def _declared_inputs(model: keras.Model) -> Any:
    """Return the inputs of a functional or sequential model; None for any other."""
    try:
        return model.input
    except (AttributeError, ValueError):
        return None


def _is_weight(variable: keras.Variable) -> bool:
    """Whether a variable has a floating-point type; the states of random number generators do not."""
    return bool(keras.backend.is_float_dtype(variable.dtype))


def _stored(variables: Sequence[keras.Variable], model: keras.Model) -> tuple[dict[int, list[str]], dict[str, Array]]:
    """Return the names under which `save_weights` stores each variable, by id, and the other arrays that it stores."""
    before = [np.array(variable.value) for variable in variables]
    shapes = {str(id(variable)): (value.shape, value.dtype) for variable, value in zip(variables, before, strict=True)}
    marks = fingerprints(shapes)
    try:
        for variable in variables:
            variable.assign(marks[str(id(variable))])
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            path = Path(folder) / "model.weights.h5"
            model.save_weights(path)
            held = reading.read(path).groups[TOP]
    finally:
        for variable, value in zip(variables, before, strict=True):
            variable.assign(value)
    by_content: dict[bytes, list[str]] = {}
    for name, array in held.items():
        by_content.setdefault(np.asarray(array).tobytes(), []).append(name)
    found = {id(variable): by_content.get(marks[str(id(variable))].tobytes(), []) for variable in variables}
    missing = [variable.path for variable in variables if not found[id(variable)]]
    if missing:
        raise RegimeError(f"{model.name}: save_weights does not store {', '.join(missing[:3])}, so checkpoints lack it")
    known = {name for names in found.values() for name in names}
    return found, {name: np.asarray(array) for name, array in held.items() if name not in known}
