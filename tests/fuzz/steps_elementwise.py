"""Steps element by element: activations, sums, products, comparisons, choices, casts."""

from __future__ import annotations

import numpy as np

from . import spelling
from .maker import Maker, Rejected, Tensor
from .steps_dense import gelu

UNARY = {
    "Relu": 6, "Sigmoid": 6, "Tanh": 3, "HardSigmoid": 6, "LeakyRelu": 6, "Elu": 6, "Softplus": 1, "Abs": 6, "Neg": 6,
    "HardSwish": 14, "Floor": 6, "Ceil": 6, "Round": 11, "Sign": 9, "Erf": 9, "Softsign": 1, "Selu": 6, "Identity": 1,
    "ThresholdedRelu": 10, "Celu": 12, "Atan": 7, "Sin": 7, "Cos": 7, "Asinh": 9, "Mish": 18, "Shrink": 9, "Gelu": 20,
    "Dropout": 7, "Swish": 24,
}  # fmt: skip

GUARDED = {"Exp": 6, "Log": 6, "Sqrt": 6, "Reciprocal": 6, "Tan": 7, "Asin": 7, "Atanh": 9, "Cosh": 9, "Acosh": 9}
"""Operators that give infinity or NaN on some inputs, so behind something bounded."""


def activation(m: Maker) -> None:
    m.op(m.choice([op for op, since in UNARY.items() if since <= m.opset]), m.pick())


def guarded(m: Maker) -> None:
    """Exp, Log, Sqrt and their like on what they can take."""
    t = m.op(m.choice(["Sigmoid", "Tanh"]), m.pick())
    op = m.choice(GUARDED)
    if op in ("Log", "Sqrt", "Reciprocal", "Acosh"):
        t = m.op("Add", m.op("Abs", t), m.const(1.1 if op == "Acosh" else 0.3))
    elif op in ("Asin", "Atanh"):
        t = m.op("Mul", t, m.const(0.9))
    m.op(op, t)


def clip(m: Maker) -> None:
    x = m.pick()
    low = float(m.rng.uniform(-2, 1))
    high = low + float(m.rng.uniform(0, 2))
    spelling.clip(m, x, low if m.chance(0.8) else None, high if m.chance(0.8) else None)


def by_constant(m: Maker) -> None:
    """A binary operator by a constant of any broadcastable shape, with zeros among factors."""
    x = m.pick()
    op = m.choice(["Mul", "Mul", "Add", "Sub", "Max", "Min", "Div", "PRelu"])
    rank = m.integer(0, x.rank)
    shape = [x.shape[a] if x.fixed(a) and m.chance(0.6) else 1 for a in range(x.rank - rank, x.rank)]
    if m.chance(0.5) and x.rank > 1 and x.fixed(1):  # a value for each channel
        shape = [x.shape[1]] + [1] * (x.rank - 2)
    value = m.rng.standard_normal(shape)
    if op == "Div":
        value = np.sign(value) * (np.abs(value) + 0.3)
    else:
        for axis, size in enumerate(shape):
            if size > 1 and m.chance(0.7):
                value[(slice(None),) * axis + (m.chosen(size),)] = m.choice([0.0, 0.0, 1.0])
    operands = [x, m.const(value)]
    if op in ("Sub", "Max", "Mul", "Add") and m.chance(0.3):
        operands.reverse()
    m.op(op, *operands)


def gate(m: Maker) -> None:
    """A gate from a parameter: Mul by the Sigmoid, HardSigmoid or Clip of a constant."""
    x = m.pick(lambda t: t.rank >= 2 and t.fixed(1))
    logits = m.rng.standard_normal([x.shape[1]] + [1] * (x.rank - 2)) * 3
    logits[m.chosen(x.shape[1])] = -100
    op = m.choice(["HardSigmoid", "Relu", "Sigmoid"])
    m.op("Mul", x, m.op(op, m.const(logits), closed=True))


def alike(m: Maker, x: Tensor) -> Tensor:
    """Another tensor of the same shape, or one that broadcasts with it; made by a pointwise weight if there is none."""

    def broadcasts(t: Tensor) -> bool:
        return (
            t is not x
            and t.rank == x.rank
            and all(
                a == b or (b == 1 and m.opset >= 7)
                for s, o in zip(x.shapes, t.shapes, strict=True)
                for a, b in zip(s, o, strict=True)
            )
        )

    if m.chance(0.75):
        try:
            return m.pick(broadcasts)
        except Rejected:
            pass
    if not x.rank:
        raise Rejected("a scalar")
    if x.rank == 4 and x.fixed(1):
        c = x.shape[1]
        return m.op("Conv", x, m.weight(c, c, 1, 1, fan_in=c, planted=(0,)), m.bias(c, range(c)))
    if not x.fixed(x.rank - 1):
        raise Rejected("dynamic")
    c = x.shape[-1]
    return m.op("MatMul", x, m.weight(c, c, fan_in=c, planted=(0, 1)))


def merge(m: Maker) -> None:
    x = m.pick()
    y = alike(m, x)
    op = m.choice(["Add", "Add", "Add", "Mul", "Sub", "Max", "Min", "Sum", "Mean"])
    operands = [x, y] if m.chance(0.6) else [y, x]
    if op in ("Sum", "Mean", "Max", "Min") and m.chance(0.3):
        operands.append(alike(m, x))
    m.op(op, *operands)


def divide(m: Maker) -> None:
    """A quotient by something that is never near zero, or a power of it."""
    x = m.pick()
    below = m.op("Add", m.op("Sigmoid", alike(m, x)), m.const(0.5))
    if m.chance(0.6):
        m.op("Div", x, below)
    else:
        m.op("Pow", below, m.const(m.choice([2.0, 0.5, 3.0])))


def where(m: Maker) -> None:
    x = m.pick()
    y = alike(m, x)
    if m.chance(0.3):
        condition = m.const(m.rng.random(x.shape[-1:] if x.rank and x.fixed(x.rank - 1) else ()) < 0.5)
    else:
        op = m.choice(["Greater", "Less"] + (["GreaterOrEqual", "LessOrEqual"] if m.opset >= 12 else []))
        condition = m.op(op, x, m.const(float(m.rng.uniform(-0.5, 0.5))))
        if m.chance(0.2):
            condition = m.op("Not", condition)
    m.op("Where", condition, x, y if m.chance(0.7) else m.const(m.choice([0.0, 0.5, -1.0])))


def mask(m: Maker) -> None:
    """A comparison as a number: Cast of Greater, And, Or, IsNaN, times the tensor."""
    x = m.pick()
    t = m.op(m.choice(["Greater", "Less", "Equal"]), x, m.const(m.choice([0.0, 0.3, -0.2])))
    if m.chance(0.3):
        other = m.op("Less", x, m.const(0.8))
        t = m.op(m.choice(["And", "Or", "Xor"]), t, other)
    if m.chance(0.2):
        t = m.op("Not", t)
    number = m.op("Cast", t, to=_code(m.dtype))
    if m.chance(0.7):
        m.op("Mul", x, number)


def _code(dtype: np.dtype) -> int:
    return {"float32": 1, "float16": 10, "float64": 11, "int32": 6, "int64": 7, "uint8": 2, "bool": 9}[dtype.name]


def there_and_back(m: Maker) -> None:
    """Cast to another type and back: half precision, double, integers."""
    x = m.pick()
    kind = np.dtype(m.choice(["float16", "float64", "int32", "int64"]))
    t = m.op("Cast", x if kind.kind == "f" else spelling.clip(m, x, -50.0, 50.0), to=_code(kind))
    if kind.kind == "f" and m.chance(0.3):
        t = m.op(m.choice(["Relu", "Sigmoid"]), t)
    elif kind.name == "int64" and m.chance(0.5):
        t = m.op(m.choice(["Add", "Mul", "Mod"] if m.opset >= 13 else ["Add", "Mul"]), t, m.const(m.integer(2, 4)))
    m.op("Cast", t, to=_code(x.dtype))


def pixels(m: Maker) -> None:
    """A number in the model's type from an input of bytes or truth values."""
    x = m.pick(kind="ub")
    t = m.op("Cast", x, to=_code(m.dtype))
    if x.dtype.kind == "u":
        t = m.op("Mul", t, m.const(1 / 255))
    if m.chance(0.3):
        m.op("Sub", t, m.const(0.5))


def any_gelu(m: Maker) -> None:
    gelu(m, m.pick())


def integers(m: Maker) -> None:
    """Integer arithmetic on tokens, and back to a number."""
    x = m.pick(lambda t: t.values is None and t.rank >= 1, kind="i")
    t = m.op(m.choice(["Add", "Mul", "Sub", "Max", "Min"]), x, m.const(m.integer(1, 3), x.dtype))
    m.op("Mul", m.op("Cast", t, to=_code(m.dtype)), m.const(0.1))


STEPS = {
    activation: 9,
    guarded: 1,
    clip: 2,
    by_constant: 6,
    gate: 2,
    merge: 6,
    divide: 1,
    where: 1.5,
    mask: 1,
    there_and_back: 1,
    pixels: 1.5,
    any_gelu: 1,
    integers: 0.7,
}
