"""Records Keras models during training."""

from collections.abc import Mapping
from typing import Any

import keras

from regime_proto.adapters.from_jax import live_arrays
from regime_proto.adapters.from_keras.exporter import export_named, input_names
from regime_proto.adapters.live import draw_probe
from regime_proto.adapters.live.idle import Idle
from regime_proto.engine.live_model import Engine, LiveModel
from regime_proto.program.probe import Probe
from regime_proto.schema.errors import RegimeError
from regime_proto.schema.types import Array


def leads(model: keras.Model) -> bool:
    """Whether this is the recording process."""
    return live_arrays.leads()


def follow(model: keras.Model, probe: Probe | None) -> LiveModel | Engine:
    """Return the live model or engine of a model for a recorder; see `protocols.Following`."""
    if probe is None:
        return Idle()
    _synchronise(model)
    # In a resumed training, the model was loaded or built again.
    with draw_probe.undisturbed():
        program, variables = export_named(model, probe, paths=False)
    needed = {tensor.name for tensor in program.trainable} | set(program.weight_inputs)
    followed = {name: variable for name, variable in variables.items() if name in needed}

    def tensors(_: object) -> Mapping[str, Array]:
        _synchronise(model)
        return live_arrays.on_host({name: _value(variable) for name, variable in followed.items()}, model.name)

    def wait(_: object) -> None:
        _synchronise(model)
        live_arrays.wait_for(variable._value for variable in followed.values())

    return LiveModel("keras, live", program, probe.complete(program.probe_inputs), tensors, wait=wait)


def draw(model: keras.Model, loader: object, samples: int, seed: int) -> Probe:
    """Draw a probe from a data loader or `PyDataset` without changing random states; see `live.draw_probe`."""
    names = input_names(model)
    with draw_probe.undisturbed():
        drawn = live_arrays.as_taken(draw_probe.draw(names, loader, samples, seed))
    # Names that Keras generates for inputs change when the model is built again.
    return Probe(drawn.arrays, None, drawn.where) if drawn.names == tuple(names) else drawn


def _synchronise(model: keras.Model) -> None:
    """Update the variables with the current weights, which `fit` on JAX keeps internally until requested."""
    model.jax_state_sync()


def _value(variable: keras.Variable) -> Any:
    """Return the array of a variable.

    Raises
    ------
    RegimeError
        The trainer of a different model, of which this one is a part, holds it.
    """
    # Reading a variable without a value would create a new random value.
    if variable._value is None:
        raise RegimeError(
            f"{variable.path}: its value is held by the trainer of a different model during fit; record that model "
            "instead"
        )
    return variable.value
