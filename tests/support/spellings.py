"""Every spelling of a gate, as the text of a graph from z to y, with its thresholds."""

import numpy as np

ZERO = [(0, False)]
NO_BOUND = float(np.finfo(np.float32).max)

PIECEWISE = {
    "Relu": ("y = Relu(z)", ZERO),
    "LeakyRelu": ("y = LeakyRelu<alpha = 0.1>(z)", ZERO),
    "Abs": ("y = Abs(z)", ZERO),
    "Max of x and 0": ("y = Max(z, k(0))", ZERO),
    "Max of 0 and x": ("y = Max(k(0), z)", ZERO),
    "Max of -0": ("y = Max(k(-0.0), z)", ZERO),
    "Max of zeros in the shape of x": ("s = Shape(z)\nn = Expand(k(0), s)\ny = Max(z, n)", ZERO),
    "Max of ConstantOfShape": ("s = Shape(z)\nn = ConstantOfShape(s)\ny = Max(n, z)", ZERO),
    "Max of a cast zero": ("n = Constant<value_int = 0>()\nm = CastLike(n, z)\ny = Max(z, m)", ZERO),
    "Clip from 0": ("y = Clip(z, k(0))", ZERO),
    "Clip from 0 to infinity": ("y = Clip(z, k(0), k(inf))", ZERO),
    "Clip from 0 to the largest float": (f"y = Clip(z, k(0), k({NO_BOUND}))", ZERO),
    "Clip to 0": ("y = Clip(z, , k(0))", [(0, True)]),
    "Clip to 0 from minus infinity": ("y = Clip(z, k(-inf), k(0))", [(0, True)]),
    "Clip": ("y = Clip(z, k(-0.5), k(1.25))", [(-0.5, False), (1.25, True)]),
    "Relu6": ("y = Clip(z, k(0), k(6))", [(0, False), (6, True)]),
    "Min of Max": ("m = Max(z, k(-1))\ny = Min(k(1), m)", [(-1, False), (1, True)]),
    "Max of Min": ("m = Min(z, k(6))\ny = Max(m, k(0))", [(0, False), (6, True)]),
    "Min of Relu": ("m = Relu(z)\ny = Min(m, k(6))", [(0, False), (6, True)]),
    "Clip of Relu": ("m = Relu(z)\ny = Clip(m, , k(6))", [(0, False), (6, True)]),
    "Min of Clip": ("m = Clip(z, k(-1))\ny = Min(m, k(1))", [(-1, False), (1, True)]),
    "Clip of Clip": ("m = Clip(z, , k(1))\ny = Clip(m, k(0))", [(0, False), (1, True)]),
    "Clip with both bounds of Relu": ("m = Relu(z)\ny = Clip(m, k(0), k(1.25))", [(0, False), (1.25, True)]),
    "Clip of Where > c": (
        "c = Greater(z, k(0.5))\nm = Where(c, z, k(0))\ny = Clip(m, k(0), k(1.25))",
        [(0.5, False), (1.25, True)],
    ),
    "leaky sum": ("p = Relu(z)\nm = Neg(z)\nn = Relu(m)\ns = Mul(n, k(0.1))\ny = Sub(p, s)", ZERO),
    "leaky sum with Add": ("p = Relu(z)\nm = Neg(z)\nn = Relu(m)\ns = Mul(k(-0.1), n)\ny = Add(s, p)", ZERO),
    "leaky sum of Max": ("p = Max(z, k(0))\nm = Neg(z)\nn = Max(k(0), m)\ns = Neg(n)\ny = Add(p, s)", ZERO),
    "leaky sum from a threshold": (
        "c = Greater(z, k(0.5))\np = Where(c, z, k(0))\nm = Sub(k(0.5), z)\ns = Relu(m)\ny = Sub(p, s)",
        [(0.5, False)],
    ),
    "leaky Clip": (
        "p = Relu(z)\nq = Clip(p, k(0), k(1.25))\nm = Neg(z)\nn = Relu(m)\ns = Mul(n, k(0.1))\ny = Sub(q, s)",
        [(0, False), (1.25, True)],
    ),
    "leaky Max": ("s = Mul(z, k(0.1))\ny = Max(s, z)", ZERO),
    "Where >": ("c = Greater(z, k(0))\ny = Where(c, z, k(0))", ZERO),
    "Where >=": ("c = GreaterOrEqual(z, k(0))\ny = Where(c, z, k(0))", ZERO),
    "Where <": ("c = Less(z, k(0))\ny = Where(c, k(0), z)", ZERO),
    "Where <=": ("c = LessOrEqual(z, k(0))\ny = Where(c, k(0), z)", ZERO),
    "Where 0 <": ("c = Less(k(0), z)\ny = Where(c, z, k(0))", ZERO),
    "Where 0 >=": ("c = GreaterOrEqual(k(0), z)\ny = Where(c, k(0), z)", ZERO),
    "Where not": ("c = Greater(z, k(0))\nn = Not(c)\ny = Where(n, k(0), z)", ZERO),
    "Where keeps what is negative": ("c = Less(z, k(0))\ny = Where(c, z, k(0))", ZERO),
    "Where > c": ("c = Greater(z, k(0.5))\ny = Where(c, z, k(0))", [(0.5, False)]),
    "Where <= c": ("c = LessOrEqual(z, k(0.5))\ny = Where(c, k(20), z)", [(0.5, False)]),
    "Where >= c": ("c = GreaterOrEqual(z, k(0.5))\ny = Where(c, z, k(0))", [(0.5, True)]),
    "Where < c": ("c = Less(z, k(0.5))\ny = Where(c, k(0), z)", [(0.5, True)]),
    "Where c >": ("c = Greater(k(0.5), z)\ny = Where(c, k(0), z)", [(0.5, True)]),
    "Where c <=": ("c = LessOrEqual(k(0.5), z)\ny = Where(c, z, k(0))", [(0.5, True)]),
    "leaky Where": ("c = Greater(z, k(0))\ns = Mul(z, k(0.1))\ny = Where(c, z, s)", ZERO),
    "leaky Where, divided": ("c = Less(z, k(0))\ns = Div(z, k(8))\ny = Where(c, s, z)", ZERO),
    "product with the mask": ("c = Greater(z, k(0))\nf = CastLike(c, z)\ny = Mul(z, f)", ZERO),
    "product of the mask": ("c = Less(k(0), z)\nf = CastLike(c, z)\ny = Mul(f, z)", ZERO),
    "ThresholdedRelu": ("y = ThresholdedRelu<alpha = 0.5>(z)", [(0.5, False)]),
    "ThresholdedRelu by default": ("y = ThresholdedRelu(z)", [(1, False)]),
    "HardSigmoid": ("y = HardSigmoid(z)", [(-2.5, False), (2.5, True)]),
    "HardSigmoid of torch": ("y = HardSigmoid<alpha = 0.16666667, beta = 0.5>(z)", [(-3, False), (3, True)]),
    "HardSigmoid off centre": ("y = HardSigmoid<alpha = 0.5, beta = 0.25>(z)", [(-0.5, False), (1.5, True)]),
    "HardSigmoid falling": ("y = HardSigmoid<alpha = -0.5, beta = 0.25>(z)", [(-1.5, False), (0.5, True)]),
    "hard shrink": ("a = Abs(z)\nc = LessOrEqual(a, k(0.5))\ny = Where(c, k(0), z)", [(-0.5, True), (0.5, False)]),
    "soft shrink": (
        "a = Abs(z)\nc = Greater(a, k(0.5))\ng = Sign(z)\nd = Sub(z, g)\no = Mul(z, k(0))\ny = Where(c, d, o)",
        [(-0.5, True), (0.5, False)],
    ),
}  # fmt: skip

CUBE = {
    "power": "c = Pow(z, k(3))",
    "product": "q = Mul(z, z)\nc = Mul(q, z)",
    "product first": "q = Mul(z, z)\nc = Mul(z, q)",
}
TANH = "\nd = Mul(c, k(0.044715))\ne = Add(z, d)\nf = Mul(e, k(0.7978846))\nt = Tanh(f)\nu = Add(t, k(1))\n"
ERF = "d = Div(z, k(1.4142135))\ne = Erf(d)\nu = Add(e, k(1))\n"
ORDERS = {
    "half x first": "h = Mul(z, k(0.5))\ny = Mul(h, u)",
    "half last": "h = Mul(z, u)\ny = Mul(h, k(0.5))",
    "half of the factor": "h = Mul(k(0.5), u)\ny = Mul(z, h)",
    "factor first": "h = Mul(u, k(0.5))\ny = Mul(h, z)",
    "half by division": "h = Div(z, k(2))\ny = Mul(u, h)",
}
SMOOTH = {
    "HardSwish": ("y = HardSwish(z)", [(-3, False), (3, True)], "HardSwish"),
    "Elu": ("y = Elu(z)", ZERO, "Elu"),
    "Elu of a scaled x": ("s = Mul(z, k(1))\ny = Elu(s)", ZERO, "Elu"),
    "Selu": ("y = Selu(z)", ZERO, "Selu"),
    "Celu": ("y = Celu<alpha = 2.0>(z)", ZERO, "Celu"),
    "Softplus": ("y = Softplus(z)", ZERO, "Softplus"),
    "Softplus with a slope": ("s = Mul(z, k(2))\np = Softplus(s)\ny = Div(p, k(2))", ZERO, "Softplus"),
    "Gelu": ("y = Gelu(z)", ZERO, "Gelu"),
    "Gelu by tanh": ('y = Gelu<approximate = "tanh">(z)', ZERO, "Gelu"),
    "Mish": ("y = Mish(z)", ZERO, "Mish"),
    "Microsoft's FastGelu": ("y = com.microsoft.FastGelu(z)", ZERO, "Gelu"),
    "Microsoft's QuickGelu": ("y = com.microsoft.QuickGelu(z)", ZERO, "QuickGelu"),
    "Microsoft's Gelu": ("y = com.microsoft.Gelu(z)", ZERO, "Gelu"),
    "x sigmoid(x)": ("s = Sigmoid(z)\ny = Mul(z, s)", ZERO, "Silu"),
    "sigmoid(x) x": ("s = Sigmoid(z)\ny = Mul(s, z)", ZERO, "Silu"),
    "x sigmoid(1.702 x)": ("a = Mul(k(1.702), z)\ns = Sigmoid(a)\ny = Mul(z, s)", ZERO, "QuickGelu"),
    "Mish of Softplus": ("p = Softplus(z)\nt = Tanh(p)\ny = Mul(z, t)", ZERO, "Mish"),
    "Mish of Log and Exp": ("e = Exp(z)\na = Add(k(1), e)\np = Log(a)\nt = Tanh(p)\ny = Mul(t, z)", ZERO, "Mish"),
    "log(1 + exp(x))": ("e = Exp(z)\na = Add(k(1), e)\ny = Log(a)", ZERO, "Softplus"),
    "log(exp(x) + 1)": ("e = Exp(z)\na = Add(e, k(1))\ny = Log(a)", ZERO, "Softplus"),
    "Softplus with a straight end": (
        "c = Greater(z, k(20))\np = Softplus(z)\ny = Where(c, z, p)", ZERO, "Softplus",
    ),
    "decomposed Softplus with a straight end": (
        "c = Greater(z, k(20))\ne = Exp(z)\na = Add(e, k(1))\np = Log(a)\ny = Where(c, z, p)", ZERO, "Softplus",
    ),
    "Where of exp(x) - 1": (
        "c = Greater(z, k(0))\ne = Exp(z)\nm = Sub(e, k(1))\ny = Where(c, z, m)", ZERO, "Elu",
    ),
    **{f"erf, {name}": (ERF + order, ZERO, "Gelu") for name, order in ORDERS.items()},
    **{f"tanh, {name}": (CUBE["power"] + TANH + order, ZERO, "Gelu") for name, order in ORDERS.items()},
    **{f"tanh, {name}": (cube + TANH + ORDERS["half x first"], ZERO, "Gelu") for name, cube in CUBE.items()},
}  # fmt: skip
EVERY = {**{name: (body, thresholds) for name, (body, thresholds, _) in SMOOTH.items()}, **PIECEWISE}
