"""Traces JAX functions so that activation functions stay whole, however a model imports them."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.extend import core

# Each of these leaves its name in the trace of JAX.
_ACTIVATIONS = (
    "celu", "elu", "hard_sigmoid", "hard_silu", "hard_tanh", "leaky_relu", "log_sigmoid", "mish", "relu", "relu6",
    "selu", "silu", "soft_sign", "softplus",
)  # fmt: skip
# Parameters in which a primitive stores the operations of a function that it calls.
_BODIES = ("jaxpr", "call_jaxpr")
_CALLS = ("jit", "pjit", "custom_jvp_call", "custom_vjp_call", "closed_call", "core_call", "checkpoint", "remat2")


def with_whole_activations(
    function: Callable[..., Any], arguments: Sequence[jax.ShapeDtypeStruct]
) -> Callable[..., Any]:
    """Return a function of arrays equivalent to `function`, operation by operation, that calls `jax.nn` by name.

    A tool that replaces the functions in `jax.nn` then affects all calls, also if a model imported a function directly.
    """
    traced = jax.make_jaxpr(function)(*arguments)

    def run(*values: Any) -> list[Any]:
        return _run(traced.jaxpr, traced.consts, values)

    return run


def _run(operations: Any, constants: Sequence[Any], values: Sequence[Any]) -> list[Any]:
    held = dict(zip((*operations.constvars, *operations.invars), (*constants, *values), strict=True))

    def value_of(operand: Any) -> Any:
        return operand.val if isinstance(operand, core.Literal) else held[operand]

    for equation in operations.eqns:
        inputs = [value_of(operand) for operand in equation.invars]
        held.update(zip(equation.outvars, _applied(equation, inputs), strict=True))
    return [value_of(operand) for operand in operations.outvars]


def _applied(equation: Any, inputs: Sequence[Any]) -> Sequence[Any]:
    """Return the results of one operation."""
    primitive, parameters = equation.primitive, equation.params
    body = next((parameters[name] for name in _BODIES if name in parameters), None)
    if primitive.name in _CALLS and body is not None:
        if parameters.get("name") in _ACTIVATIONS:
            return [getattr(jax.nn, parameters["name"])(*inputs)]
        return _run(body.jaxpr, body.consts, inputs) if hasattr(body, "consts") else _run(body, (), inputs)
    results = primitive.bind(*inputs, **parameters)
    return results if primitive.multiple_results else [results]
