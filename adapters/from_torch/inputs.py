"""Binds the arrays of a probe to the arguments of a module's forward, under names that an export keeps."""

import contextlib
import inspect
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from regime_proto.program.probe import Probe, renamed_input
from regime_proto.runtime.ir import ir
from regime_proto.schema.types import Array

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
# torch.export changes other names depending on the rest of the graph; the ONNX exporter uses val_0 itself.
_KEPT = re.compile(r"(?!val_\d+$)[a-z_][a-z0-9_]*")
# Depth of nested objects in the outputs of a model that is searched for tensors.
_DEEPEST = 4


@dataclass(frozen=True)
class Arguments:
    """The arguments of a module, taken from a probe.

    Parameters
    ----------
    arrays : mapping of str to array
        Arrays by argument; those of ``*args`` are named with its name and their number.
    parameters : mapping of str to inspect.Parameter
        Parameters of the module's forward.
    """

    arrays: Mapping[str, Array]
    parameters: Mapping[str, inspect.Parameter]

    @classmethod
    def of(cls, model: nn.Module, probe: Probe) -> "Arguments":
        """Bind a probe to the forward of a module.

        Raises
        ------
        ProbeError
            The probe does not fit the forward.
        """
        parameters = inspect.signature(model.forward).parameters
        named = (*_POSITIONAL, inspect.Parameter.KEYWORD_ONLY)
        names = [name for name, parameter in parameters.items() if parameter.kind in named]
        given = probe.inputs
        variable = {parameter.kind: name for name, parameter in parameters.items() if name not in names}
        if inspect.Parameter.VAR_POSITIONAL in variable:
            count = len(probe.arrays) if given is None else len(given)
            further = [f"{variable[inspect.Parameter.VAR_POSITIONAL]}_{index}" for index in range(count)]
            names += [name for name in further if name not in names]
        if inspect.Parameter.VAR_KEYWORD in variable and given is not None:
            names = [*names, *(name for name in given if name not in names)]
        return cls(probe.bind(names), parameters)

    def split(self, values: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        """Split values by argument into the positional and the keyword arguments of a call."""
        values = dict(values)
        variable = next((p.name for p in self.parameters.values() if p.kind == p.VAR_POSITIONAL), None)
        further = [] if variable is None else [name for name in values if self._is_further(name, variable)]
        positional = []
        for name, parameter in self.parameters.items():
            if parameter.kind == parameter.POSITIONAL_ONLY or (further and parameter.kind in _POSITIONAL):
                if name not in values and parameter.default is parameter.empty:
                    break
                positional.append(values.pop(name, parameter.default))
        return [*positional, *(values.pop(name) for name in further)], values

    def _is_further(self, name: str, variable: str) -> bool:
        return name not in self.parameters and re.fullmatch(rf"{re.escape(variable)}_\d+", name) is not None

    def aliases(self, taken: Collection[str]) -> dict[str, str]:
        """Return the name under which each argument is exported.

        Parameters
        ----------
        taken : collection of str
            Names of the model's tensors.
        """
        return {
            name: name if _KEPT.fullmatch(name) and name not in taken else f"regime_input_{index}"
            for index, name in enumerate(self.arrays)
        }

    @contextlib.contextmanager
    def exportable(self, model: nn.Module, aliases: Mapping[str, str], outputs: Any) -> Iterator[None]:
        """Temporarily let a module accept arguments under `aliases`, and return only tensors if the exporter needs it.

        Parameters
        ----------
        model : torch.nn.Module
        aliases : mapping of str to str
        outputs : object
            The outputs of the module.
        """
        plain = not self.split(self.arrays)[0] and all(alias == name for name, alias in aliases.items())
        if plain and _is_known(outputs):
            yield
            return
        forward, own = model.forward, "forward" in vars(model)
        names = {alias: name for name, alias in aliases.items()}

        def called(**values: Any) -> Any:
            positional, keywords = self.split({names[alias]: value for alias, value in values.items()})
            found = forward(*positional, **keywords)
            return found if _is_known(outputs) else tuple(_tensors_in(found))

        called.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [inspect.Parameter(alias, inspect.Parameter.POSITIONAL_OR_KEYWORD) for alias in names]
        )
        model.forward = called
        try:
            yield
        finally:
            if own:
                model.forward = forward
            else:
                del model.forward


def _is_known(outputs: Any) -> bool:
    """Whether the exporter supports the outputs of a model."""
    return all(leaf is None or isinstance(leaf, torch.Tensor | int | float | str) for leaf in tree_leaves(outputs))


def _tensors_in(outputs: Any, depth: int = 0) -> Iterator[torch.Tensor]:
    """Yield the tensors in the outputs of a model, also in attributes of objects such as distributions."""
    for leaf in tree_leaves(outputs):
        if isinstance(leaf, torch.Tensor):
            yield leaf
        elif depth < _DEEPEST and _may_hold_tensors(leaf):
            yield from _tensors_in(list(vars(leaf).values()), depth + 1)


def _may_hold_tensors(leaf: Any) -> bool:
    """Whether the attributes of an object count as outputs of a model; those of transformers' caches do not."""
    return (
        hasattr(leaf, "__dict__")
        and not isinstance(leaf, nn.Module | type)
        and not type(leaf).__module__.startswith("transformers.")
    )


def program_names(arguments: Iterable[str], taken: Collection[str]) -> dict[str, str]:
    """Return the names of the arguments in a program, where they must differ from the names of its tensors."""
    names = {}
    for name in arguments:
        names[name] = name
        while names[name] in taken:
            names[name] = renamed_input(names[name])
    return names


def rename_inputs(model: ir.Model, names: Mapping[str, str]) -> None:
    """Rename inputs of a graph; other values with these names get new names.

    Parameters
    ----------
    model : onnx_ir.Model
        Modified in place.
    names : mapping of str to str
        New names by present names.
    """
    for value in list(model.graph.inputs):
        value.name = names.get(str(value.name), value.name)
    taken = {str(value.name) for value in model.graph.inputs}
    for name in [name for name in model.graph.initializers if name in taken]:
        value = model.graph.initializers.pop(name)
        value.name = _free(name, {*taken, *model.graph.initializers})
        model.graph.register_initializer(value)
    taken |= set(model.graph.initializers)
    for value in (value for node in model.graph.all_nodes() for value in node.outputs):
        if value.name in taken:
            value.name = _free(str(value.name), taken)
        taken.add(str(value.name))


def _free(name: str, taken: Collection[str]) -> str:
    number = 1
    while f"{name}_{number}" in taken:
        number += 1
    return f"{name}_{number}"
