"""The forms that gates have in graphs: operators, and small patterns of operators (docs/protocol.md, section 7)."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from regime_proto.program.values import (
    DOMAINS,
    FLOATS,
    cast_from,
    operators_between,
    producer_of,
    scalar,
    scaled_from,
    sign_carrier,
)
from regime_proto.runtime.ir import ir

_SMOOTH = {
    "Elu": "Elu", "Selu": "Selu", "Celu": "Celu", "Softplus": "Softplus", "Gelu": "Gelu", "FastGelu": "Gelu",
    "Swish": "Silu", "QuickGelu": "QuickGelu", "Mish": "Mish", "BiasGelu": "Gelu",
}  # fmt: skip
# Gates composed of several operators end at one of these.
COMPOSED = ("Mul", "Where", "Log", "Clip", "Max", "Min", "Add", "Sub")
# Operators between the sum of a decomposed leaky ReLU and its negative part.
_IN_LEAKY_SUMS = ("Relu", "Max", "Neg", "Mul")
_COMPARISONS = ("Greater", "GreaterOrEqual", "Less", "LessOrEqual")
_GUARD = "one bound, {:g}: more often a guard than an activation"


@dataclass(frozen=True)
class Plane:
    """One threshold of a gate: a unit's bit is ``z > threshold``, or ``z >= threshold`` if `closed`."""

    threshold: float
    closed: bool = False


@dataclass(frozen=True)
class Spelling:
    """The gate that a node implements.

    Parameters
    ----------
    op : str
        Operator, or the name of the activation composed of several operators.
    kind : str
        ``relu``, ``piecewise`` or ``smooth``.
    value : onnx_ir.Value
        The value that the thresholds are compared with.
    planes : tuple of Plane
    doubt : str
        Why it is probably not an activation; empty if it is one.
    """

    op: str
    kind: str
    value: ir.Value
    planes: tuple[Plane, ...] = (Plane(0.0),)
    doubt: str = ""


def read_gate(node: ir.Node) -> Spelling | None:
    """Return the gate that ends at `node`, None if there is none."""
    if node.domain not in DOMAINS:
        return None
    if node.op_type in _SMOOTH:
        return _fused_smooth(node)
    reader = _READERS.get(node.op_type)
    spelling = reader(node) if reader else None
    return spelling if spelling is not None and spelling.value.dtype in (*FLOATS, None) else None


def inner_nodes(node: ir.Node) -> Iterator[ir.Node]:
    """Yield the nodes between the input of a decomposed gate and `node`, where it ends."""
    spelling = read_gate(node)
    if spelling is None:
        return
    pending = _producers(node, spelling.value)
    while pending:
        inner = pending.pop()
        yield inner
        pending += _producers(inner, spelling.value)


def _producers(node: ir.Node, root: ir.Value) -> list[ir.Node]:
    """Return the nodes that compute the inputs of `node`, except `root` and constants."""
    # A constant may be broadcast to the shape of any value, which is not part of the gate.
    inputs = [value for value in node.inputs if value is not None and value is not root and scalar(value) is None]
    return [producer for value in inputs if (producer := value.producer()) is not None]


def _relu(node: ir.Node) -> Spelling:
    # relu(z) > 0 if and only if z > 0; exposing z would prevent the runtime from fusing the ReLU.
    return Spelling("Relu", "relu", node.outputs[0])


def _on_input(node: ir.Node) -> Spelling | None:
    value = node.inputs[0]
    return None if value is None else Spelling(node.op_type, "piecewise", value)


def _thresholded(node: ir.Node) -> Spelling:
    return Spelling("ThresholdedRelu", "piecewise", _input(node), (Plane(_attribute(node, "alpha", 1.0)),))


def _hard_sigmoid(node: ir.Node) -> Spelling | None:
    alpha, beta = _attribute(node, "alpha", 0.2), _attribute(node, "beta", 0.5)
    if not alpha:
        return None
    # A negative slope only swaps the two ends.
    low, high = sorted((-beta / alpha, (1 - beta) / alpha))
    return Spelling("HardSigmoid", "piecewise", _input(node), (Plane(low), Plane(high, closed=True)))


def _hard_swish(node: ir.Node) -> Spelling:
    return Spelling("HardSwish", "smooth", _input(node), (Plane(-3.0), Plane(3.0, closed=True)))


def _clip(node: ir.Node) -> Spelling | None:
    bounds = _clip_bounds(node)
    if bounds is None:
        return Spelling("Clip", "piecewise", _input(node), (), "its bounds are not constant")
    return _clamped("Clip", _input(node), *bounds)


def _clip_bounds(node: ir.Node) -> tuple[float, float] | None:
    """Return the bounds of a Clip, infinite if absent; None if they are not constant."""
    bounds = [_attribute(node, "min", -math.inf), _attribute(node, "max", math.inf)]
    for position, value in enumerate(node.inputs[1:3]):
        if value is not None:
            bound = scalar(value)
            if bound is None:
                return None
            bounds[position] = bound
    # Exporters write "no bound" as the largest float of the type.
    largest = 65504 if _input(node).dtype == ir.DataType.FLOAT16 else 3e38
    low, high = bounds
    return (low if low > -largest else -math.inf), (high if high < largest else math.inf)


def _clamped(op: str, value: ir.Value, low: float, high: float) -> Spelling | None:
    """Return the gate that keeps `value` between two bounds, either of which may be infinite."""
    while (inner := _one_sided(value)) is not None:
        both = max(low, inner[1]), min(high, inner[2])
        # A bound inside another one: together they form a Clip. Repeating the same bound has no effect.
        other_side = math.isinf(low) != math.isinf(high) and math.isinf(inner[1]) == math.isfinite(low)
        tighter = math.isfinite(low) and math.isfinite(high) and (inner[1] >= low or inner[2] <= high)
        if not (other_side or tighter) or both[0] >= both[1]:
            break
        op, value, (low, high) = "Clip", inner[0], both
    planes = [Plane(low)] if math.isfinite(low) else []
    planes += [Plane(high, closed=True)] if math.isfinite(high) else []
    doubt = _GUARD.format(planes[0].threshold) if len(planes) == 1 and planes[0].threshold else ""
    return Spelling(op, "piecewise", value, tuple(planes), doubt) if planes else None


def _one_sided(value: ir.Value) -> tuple[ir.Value, float, float] | None:
    """Return x and the bounds of ``relu(x)``, ``max(x, lo)``, ``min(x, hi)``, a Clip with one bound, or x above lo."""
    node = value.producer()
    if node is None:
        return None
    if node.op_type == "Where":
        comparison = _comparison(node.inputs[0])
        if comparison is None or node.inputs[1] is not comparison[0] or scalar(node.inputs[2]) != 0:
            return None
        value, plane = comparison
        return (value, plane.threshold, math.inf) if plane.threshold >= 0 and not plane.closed else None
    if node.op_type == "Relu":
        return _input(node), 0.0, math.inf
    if node.op_type == "Clip":
        bounds = _clip_bounds(node)
        return None if bounds is None or math.isinf(bounds[0]) == math.isinf(bounds[1]) else (_input(node), *bounds)
    bounded = _bounded(node) if node.op_type in ("Max", "Min") else None
    if bounded is None:
        return None
    return (*bounded, math.inf) if node.op_type == "Max" else (bounded[0], -math.inf, bounded[1])


def _max_or_min(node: ir.Node) -> Spelling | None:
    """Recognise ``max(x, lo)`` and ``min(x, hi)``, and ``max(x, x · c)``, a leaky ReLU."""
    bounded = _bounded(node)
    if bounded is not None:
        value, bound = bounded
        low, high = (bound, math.inf) if node.op_type == "Max" else (-math.inf, bound)
        return _clamped(node.op_type, value, low, high)
    if len(node.inputs) != 2:
        return None
    for one, other in (node.inputs, tuple(reversed(node.inputs))):
        if one is not None and other is not None and scaled_from(other) is one:
            return Spelling(node.op_type, "piecewise", one)
    return None


def _bounded(node: ir.Node) -> tuple[ir.Value, float] | None:
    """Return x and c of a node that compares x with a constant c."""
    if len(node.inputs) != 2:
        return None
    for value, other in (node.inputs, tuple(reversed(node.inputs))):
        bound = scalar(other)
        if value is not None and bound is not None and scalar(value) is None:
            return value, bound
    return None


def _where(node: ir.Node) -> Spelling | None:
    """Recognise ``Where(x > c, x, d)`` and its mirror images, and the leaky forms with a scaled x instead of d."""
    condition, chosen, other = node.inputs
    comparison = _comparison(condition)
    if comparison is None or chosen is None or other is None:
        return None
    value, plane = comparison
    shrunk = producer_of(value, "Abs")
    if shrunk is not None and plane.threshold > 0:
        return _shrink(_input(shrunk), plane, (chosen, other))
    for branch, rest in ((chosen, other), (other, chosen)):
        if branch is not value:
            continue
        fill = scalar(rest)
        if fill is not None and math.isfinite(fill):
            guards = fill == plane.threshold != 0
            doubt = _GUARD.format(fill) if guards else ""
            return Spelling("Where", "piecewise", value, (plane,), doubt)
        if plane.threshold == 0 and scaled_from(rest) is value:
            return Spelling("Where", "piecewise", value)
        if plane.threshold == 0 and "Exp" in (operators_between(rest, value) or ()):
            return Spelling("Elu", "smooth", value)
    return None


def _shrink(value: ir.Value, plane: Plane, branches: Sequence[ir.Value]) -> Spelling | None:
    """Recognise ``Where(|x| > c, f(x), g(x))``, a shrinkage of x with threshold c."""
    if any(operators_between(branch, value) is None for branch in branches):
        return None
    return Spelling("Shrink", "piecewise", value, (Plane(-plane.threshold, closed=not plane.closed), plane))


def _mul(node: ir.Node) -> Spelling | None:
    """Recognise ``x · (x > 0)``, and ``x · f(x)`` where f saturates: the decomposed smooth activations."""
    first, second = node.inputs
    if first is None or second is None:
        return None
    for scaled, factor in ((first, second), (second, first)):
        comparison = _comparison(cast_from(factor))
        if comparison is not None and comparison[0] is scaled:
            return Spelling("Mul", "piecewise", scaled, (comparison[1],))
        for value in dict.fromkeys((scaled, scaled_from(scaled))):
            operators = None if value is None else operators_between(factor, value)
            op = _smooth_name(operators or [])
            if value is not None and op:
                return Spelling(op, "smooth", value)
    return None


def _smooth_name(operators: list[str]) -> str:
    """Return the activation x · f(x), identified by the operators of f."""
    if "Tanh" in operators and ("Softplus" in operators or "Exp" in operators):
        return "Mish"
    # Tanh and Erf saturate at -1: unless 1 is added, they do not form a gate.
    if ("Erf" in operators or "Tanh" in operators) and ("Add" in operators or "Sub" in operators):
        return "Gelu"
    if "Sigmoid" in operators:
        return "QuickGelu" if "Mul" in operators or "Div" in operators else "Silu"
    return ""


def _leaky(node: ir.Node) -> Spelling | None:
    """Recognise ``relu(x) + a · relu(−x)``, where a is a weight or a number, and similar forms with other bounds."""
    first, second = node.inputs
    for main, other in ((first, second), (second, first))[: 1 if node.op_type == "Sub" else 2]:
        negative, producer = _rectified_negative(other), None if main is None else main.producer()
        # Most sums are not of this form: search up the graph only if the other operand matches.
        positive = None if negative is None or producer is None else read_gate(producer)
        if negative is None or producer is None or positive is None or not positive.planes:
            continue
        value = _input(producer) if positive.op == "Relu" else positive.value
        threshold = positive.planes[0].threshold
        if value is negative[0] and math.isclose(threshold, negative[1], rel_tol=1e-6, abs_tol=1e-12):
            op = "PRelu" if len(positive.planes) == 1 else positive.op
            return Spelling(op, "piecewise", value, positive.planes)
    return None


def _rectified_negative(value: ir.Value | None) -> tuple[ir.Value, float] | None:
    """Return x and c of ``relu(c − x)``, perhaps times something."""
    node = None if value is None else value.producer()
    while node is not None and node.op_type in ("Mul", "Neg"):
        factors = [part.producer() for part in node.inputs if part is not None]
        node = next((part for part in factors if part is not None and part.op_type in _IN_LEAKY_SUMS), None)
    if node is None:
        return None
    bounded = (_input(node), 0.0) if node.op_type == "Relu" else _bounded(node) if node.op_type == "Max" else None
    return _negated(bounded[0]) if bounded is not None and bounded[1] == 0 else None


def _negated(value: ir.Value) -> tuple[ir.Value, float] | None:
    """Return x and c of ``c − x`` or ``−x + c``."""
    node = value.producer()
    if node is None:
        return None
    if node.op_type == "Neg":
        return _input(node), 0.0
    if node.op_type == "Sub":
        constant, taken = scalar(node.inputs[0]), node.inputs[1]
        return None if constant is None or taken is None else (taken, constant)
    if node.op_type == "Add":
        for one, other in (node.inputs, tuple(reversed(node.inputs))):
            opposite, constant = producer_of(one, "Neg"), scalar(other)
            if opposite is not None and constant is not None:
                return _input(opposite), constant
    return None


def _log(node: ir.Node) -> Spelling | None:
    """Recognise ``log(1 + exp(x))``."""
    total = producer_of(node.inputs[0], "Add")
    if total is None:
        return None
    for one, power in (total.inputs, tuple(reversed(total.inputs))):
        exponential = producer_of(power, "Exp")
        if scalar(one) == 1 and exponential is not None and exponential.inputs[0] is not None:
            return Spelling("Softplus", "smooth", sign_carrier(exponential.inputs[0]))
    return None


def _fused_smooth(node: ir.Node) -> Spelling:
    biased = node.domain == "com.microsoft" and len([value for value in node.inputs if value is not None]) > 1
    planes = () if biased else (Plane(0.0),)
    doubt = "its bias is fused into it: use the model before optimization" if biased else ""
    return Spelling(_SMOOTH[node.op_type], "smooth", sign_carrier(_input(node)), planes, doubt)


def _comparison(value: ir.Value | None) -> tuple[ir.Value, Plane] | None:
    """Return x of a comparison between x and a constant, in either order, and the plane that divides x."""
    negated = producer_of(value, "Not")
    value = value if negated is None else negated.inputs[0]
    node = None if value is None else value.producer()
    if node is None or node.op_type not in _COMPARISONS:
        return None
    for mirrored, (compared, bound) in ((False, node.inputs), (True, tuple(reversed(node.inputs)))):
        threshold = scalar(bound)
        if compared is not None and threshold is not None and scalar(compared) is None:
            # x >= c and x < c count c itself as above; at 0 the rule is strict.
            above = (node.op_type in ("GreaterOrEqual", "Less")) != mirrored
            return compared, Plane(threshold, closed=above and threshold != 0)
    return None


def _input(node: ir.Node) -> ir.Value:
    value = node.inputs[0]
    assert value is not None  # noqa: S101
    return value


def _attribute(node: ir.Node, name: str, default: float) -> float:
    attribute = node.attributes.get(name)
    return default if attribute is None else float(attribute.value)


_READERS: dict[str, Callable[[ir.Node], Spelling | None]] = {
    "Relu": _relu,
    "LeakyRelu": _on_input,
    "PRelu": _on_input,
    "Abs": _on_input,
    "ThresholdedRelu": _thresholded,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _hard_swish,
    "Clip": _clip,
    "Max": _max_or_min,
    "Min": _max_or_min,
    "Where": _where,
    "Mul": _mul,
    "Log": _log,
    "Add": _leaky,
    "Sub": _leaky,
}
