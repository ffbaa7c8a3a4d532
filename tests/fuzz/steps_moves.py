"""Steps that move elements, or gather them up: reshapes, slices, joins, reductions, selections, bodies."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper

from . import spelling
from .maker import Maker, Rejected, Shape, Tensor


def transpose(m: Maker) -> None:
    x = m.pick(lambda t: t.rank >= 2)
    if m.chance(0.15):
        m.op("Transpose", x)
    else:
        spelling.transpose(m, x, m.rng.permutation(x.rank))


def fold(m: Maker) -> None:
    """A Reshape that merges neighbouring axes."""
    x = m.pick(lambda t: t.rank >= 2)
    first = m.integer(0, x.rank - 2)
    last = m.integer(first + 1, x.rank - 1)
    one, other = ((*s[:first], int(np.prod(s[first : last + 1])), *s[last + 1 :]) for s in x.shapes)
    spelling.reshape(m, x, (one, other))


def unfold(m: Maker) -> None:
    """A Reshape that splits an axis."""
    x = m.pick(lambda t: 1 <= t.rank <= 4)
    axis = m.choice([a for a in range(x.rank) if x.fixed(a) and x.shape[a] > 1])
    size = x.shape[axis]
    part = m.choice([p for p in range(1, size + 1) if size % p == 0])
    one, other = ((*s[:axis], part, size // part, *s[axis + 1 :]) for s in x.shapes)
    spelling.reshape(m, x, (one, other))


def regroup(m: Maker) -> None:
    """A Reshape whose axes do not line up: [a, b] to [b, a] without moving anything."""
    x = m.pick(lambda t: t.rank >= 2 and t.fixed(t.rank - 1) and t.fixed(t.rank - 2))
    one, other = ((*s[:-2], s[-1], s[-2]) for s in x.shapes)
    spelling.reshape(m, x, (one, other))


def flatten(m: Maker) -> None:
    x = m.pick(lambda t: t.rank >= 2)
    m.op("Flatten", x, axis=m.integer(0, x.rank) if m.chance(0.4) else 1)


def squeeze(m: Maker) -> None:
    x = m.pick(lambda t: t.rank >= 2 and any(t.shape[a] == 1 and t.fixed(a) for a in range(t.rank)))
    axes = [a for a in range(x.rank) if x.shape[a] == 1 and x.fixed(a)]
    if m.chance(0.2) and all(s.count(1) == len(axes) for s in x.shapes):
        m.op("Squeeze", x)
    else:
        spelling.squeeze(m, x, axes if m.chance(0.5) else [m.choice(axes)])


def unsqueeze(m: Maker) -> None:
    x = m.pick(lambda t: t.rank <= 4)
    spelling.unsqueeze(m, x, [m.integer(-x.rank - 1, x.rank)])


def slice_(m: Maker) -> None:
    x = m.pick(lambda t: t.rank >= 1)
    axis = m.choice([a for a in range(x.rank) if x.fixed(a) and x.shape[a] >= 2])
    size = x.shape[axis]
    if m.chance(0.2):
        spelling.slice_(m, x, [size], [-size - 1], [axis], [-1])
        return
    start, step = m.integer(0, size - 1), m.integer(1, 2)
    end = m.choice([size, 2**31, m.integer(start + 1, size)])
    spelling.slice_(
        m, x, [start - size if m.chance(0.3) else start], [end], [axis - x.rank if m.chance(0.3) else axis], [step]
    )


def gather(m: Maker) -> None:
    x = m.pick(lambda t: t.rank >= 1)
    axis = m.choice([a for a in range(x.rank) if x.fixed(a)])
    shape: Shape = m.choice([(), (m.integer(1, x.shape[axis]),), (m.integer(1, x.shape[axis]),), (2, 2)])
    index = m.rng.integers(-x.shape[axis] if m.chance(0.3) else 0, x.shape[axis], shape)
    m.op("Gather", x, m.const(index), axis=axis)


def gather_elements(m: Maker) -> None:
    x = m.pick(lambda t: t.rank >= 1 and t.static)
    axis = m.integer(0, x.rank - 1)
    m.op("GatherElements", x, m.const(m.rng.integers(0, x.shape[axis], x.shape)), axis=axis)


def gather_nd(m: Maker) -> None:
    x = m.pick(lambda t: t.rank >= 2 and t.static)
    depth = m.integer(1, 2)
    index = np.stack([m.rng.integers(0, x.shape[a], 3) for a in range(depth)], axis=-1)
    m.op("GatherND", x, m.const(index))


def scatter(m: Maker) -> None:
    x = m.pick(lambda t: t.rank >= 2 and t.static)
    if m.chance(0.5):
        rows = m.rng.permutation(x.shape[0])[: m.integer(1, x.shape[0])]
        updates = m.const(m.rng.standard_normal((len(rows), *x.shape[1:])))
        m.op("ScatterND", x, m.const(rows[:, None]), updates)
    else:
        axis = m.integer(0, x.rank - 1)
        index = np.broadcast_to(
            np.zeros(1, np.int64) + m.integer(0, x.shape[axis] - 1),
            [1 if a == axis else s for a, s in enumerate(x.shape)],
        )
        m.op("ScatterElements", x, m.const(index), m.const(m.rng.standard_normal(index.shape)), axis=axis)


def split(m: Maker) -> None:
    x = m.pick(lambda t: t.rank >= 1)
    axis = m.choice([a for a in range(x.rank) if x.fixed(a) and x.shape[a] >= 2])
    size = x.shape[axis]
    if m.chance(0.4):
        parts = m.choice([p for p in range(2, size + 1) if size % p == 0])
        sizes = [size // parts] * parts
    else:
        first = m.integer(1, size - 1)
        sizes = [first, size - first]
    spelling.split(m, x, axis, sizes)


def concat(m: Maker) -> None:
    x = m.pick(lambda t: t.rank >= 1)
    axis = m.integer(0, x.rank - 1)

    def fits(t: Tensor) -> bool:
        return t.rank == x.rank and all(
            a == axis or s[a] == o[a] for s, o in zip(x.shapes, t.shapes, strict=True) for a in range(x.rank)
        )

    operands = [x, *(m.pick(fits) for _ in range(m.integer(1, 2)))]
    if m.chance(0.15) and x.static:
        operands.append(m.const(np.zeros(x.shape) if m.chance(0.5) else m.rng.standard_normal(x.shape)))
    if sum(t.shape[axis] for t in operands) > 32:
        raise Rejected("too long")
    m.op("Concat", *(operands[i] for i in m.rng.permutation(len(operands))), axis=axis)


def expand(m: Maker) -> None:
    x = m.pick(lambda t: t.rank >= 1 and any(t.shape[a] == 1 for a in range(t.rank)))
    target = [
        m.integer(2, 4) if s == 1 and m.chance(0.7) else 1 if not x.fixed(a) else s for a, s in enumerate(x.shape)
    ]
    if m.chance(0.3):
        target = [2, *target]
    m.op("Expand", x, m.const(target))


def tile(m: Maker) -> None:
    x = m.pick(lambda t: 1 <= t.rank <= 4 and max(t.shape) <= 12)
    m.op("Tile", x, m.const([m.choice([1, 1, 2]) for _ in range(x.rank)]))


def pad(m: Maker) -> None:
    x = m.pick(lambda t: t.rank >= 1)
    mode = m.choice(["constant", "constant", "reflect", "edge"])
    amounts = [m.choice([0, 0, 0, 1, 2]) if min(s[a] for s in x.shapes) >= 3 else 0 for a in range(x.rank)] * 2
    if mode == "constant":
        amounts = [m.choice([0, 0, 1, -1 if x.shape[a % x.rank] >= 4 else 0]) for a in range(2 * x.rank)]
    spelling.pad(m, x, amounts, mode, m.choice([0.0, 0.5, None]) if mode == "constant" else None)


def shift(m: Maker) -> None:
    """A roll along an axis: two slices, joined the other way round."""
    x = m.pick(lambda t: t.rank >= 2)
    axis = m.choice([a for a in range(x.rank) if x.fixed(a) and x.shape[a] >= 2])
    cut = m.integer(1, x.shape[axis] - 1)
    first = spelling.slice_(m, x, [0], [cut], [axis], [1])
    second = spelling.slice_(m, x, [cut], [x.shape[axis]], [axis], [1])
    m.op("Concat", second, first, axis=axis)


def cumulative(m: Maker) -> None:
    x = m.pick(lambda t: t.rank >= 1 and t.dtype.itemsize >= 4)
    m.op("CumSum", x, m.const(m.integer(0, x.rank - 1)), reverse=m.integer(0, 1), exclusive=m.integer(0, 1))


def triangle(m: Maker) -> None:
    x = m.pick(lambda t: t.rank >= 2)
    if m.opset < 14:
        raise Rejected("needs opset 14")
    m.op("Trilu", x, upper=m.integer(0, 1))


def reduction(m: Maker) -> None:
    """A reduction over some axes, sometimes taken off again."""
    x = m.pick(lambda t: t.rank >= 1)
    ops = [
        "ReduceMean",
        "ReduceSum",
        "ReduceMax",
        "ReduceMin",
        "ReduceL1",
        "ReduceL2",
        "ReduceSumSquare",
        "ReduceLogSumExp",
    ]
    axes = sorted({m.integer(0, x.rank - 1) for _ in range(m.integer(1, 2))})
    keep = int(m.chance(0.7))
    t = spelling.reduce(m, m.choice(ops), x, [a - x.rank for a in axes] if m.chance(0.3) else axes, keep)
    if keep and m.chance(0.4):
        m.op(m.choice(["Sub", "Add", "Mul"]), x, t)


def product(m: Maker) -> None:
    x = m.pick(lambda t: t.rank >= 2)
    spelling.reduce(
        m, m.choice(["ReduceProd", "ReduceLogSum"]), m.op("Add", m.op("Sigmoid", x), m.const(0.5)), [x.rank - 1]
    )


def normalize(m: Maker) -> None:
    x = m.pick(lambda t: t.rank >= 2)
    t = m.op("Add", m.op("Abs", x), m.const(0.1))
    if m.chance(0.5):
        m.op("LpNormalization", t, axis=m.integer(0, x.rank - 1), p=m.integer(1, 2))
    else:
        m.op("Div", t, spelling.reduce(m, "ReduceSum", t, [m.integer(0, x.rank - 1)]))


def best(m: Maker) -> None:
    """TopK, ArgMax or ArgMin; indices become numbers or select."""
    x = m.pick(lambda t: t.rank >= 1 and t.dtype.itemsize >= 4)
    axis = m.integer(0, x.rank - 1)
    if m.chance(0.5):
        count = m.integer(1, min(s[axis] for s in x.shapes))
        values, index = m.ops("TopK", x, m.const([count]), count=2, axis=axis)
        if m.chance(0.3) and x.rank >= 1:
            m.op("GatherElements", x, index, axis=axis)
        elif m.chance(0.5):
            m.op("Mul", values, m.const(0.5))
    else:
        index = m.op(m.choice(["ArgMax", "ArgMin"]), x, axis=axis, keepdims=m.integer(0, 1))
        m.op("Cast", index, to={"float32": TensorProto.FLOAT, "float64": TensorProto.DOUBLE}[m.dtype.name])


def shape_value(m: Maker) -> None:
    """A number that the graph computes from a shape, so that a cut must not show in it."""
    x = m.pick(lambda t: t.rank >= 1)
    if m.chance(0.3):
        t = m.op("Size", x)
    else:
        t = m.op("Gather", m.op("Shape", x), m.const(m.integer(0, x.rank - 1)), axis=0)
    code = {"float16": TensorProto.FLOAT16, "float32": TensorProto.FLOAT, "float64": TensorProto.DOUBLE}[m.dtype.name]
    t = m.op("Cast", t, to=code)
    m.op("Mul", x, m.op("Mul", t, m.const(0.01)))


def filled(m: Maker) -> None:
    """ConstantOfShape of a tensor's shape, added to it."""
    x = m.pick(lambda t: t.rank >= 1)
    value = helper.make_tensor("value", helper.np_dtype_to_tensor_dtype(x.dtype), [1], [m.choice([0.0, 1.0, -0.5])])
    shape = m.op("Shape", x, closed=True)
    m.op(m.choice(["Add", "Mul"]), x, m.op("ConstantOfShape", shape, value=value))


def branch(m: Maker) -> None:
    """An If by a known or computed condition, whose branches read outer tensors."""
    x = m.pick()
    kind = helper.np_dtype_to_tensor_dtype(x.dtype)
    name = m.fresh("branch")

    def body(op: str, suffix: str):  # type: ignore[no-untyped-def]
        out = f"{name}_{suffix}"
        return helper.make_graph(
            [helper.make_node(op, [x.name], [out])], out, [], [helper.make_tensor_value_info(out, kind, None)]
        )

    if m.chance(0.5):
        condition = m.const(np.array(m.chance(0.5)))
    else:
        condition = (
            m.op("Greater", spelling.reduce(m, "ReduceSum", x, list(range(x.rank)), 0), m.const(0.0))
            if x.rank
            else None
        )
    if condition is None:
        raise Rejected("a scalar")
    m.op(
        "If",
        condition,
        then_branch=body("Relu", "then"),
        else_branch=body(m.choice(["Neg", "Sigmoid"]), "else"),
        like=x,
    )


def through_sequence(m: Maker) -> None:
    x = m.pick(lambda t: t.rank >= 1 and t.static)
    axis = m.integer(0, x.rank - 1)
    name = m.fresh("sequence")
    node = helper.make_node("SplitToSequence", [x.name, m.const(1).name], [name], name=f"node_{name}", axis=axis)
    m.nodes.append(node)
    handle = Tensor(name, x.dtype, x.shapes)
    m.op("ConcatFromSequence", handle, like=x, axis=axis)


STEPS = {
    transpose: 3,
    fold: 2.5,
    unfold: 2,
    regroup: 0.7,
    flatten: 1.5,
    squeeze: 2,
    unsqueeze: 1,
    slice_: 2.5,
    gather: 2,
    gather_elements: 0.4,
    gather_nd: 0.4,
    scatter: 0.5,
    split: 2,
    concat: 3,
    expand: 1,
    tile: 0.7,
    pad: 1.5,
    shift: 0.5,
    cumulative: 0.4,
    triangle: 0.4,
    reduction: 2.5,
    product: 0.4,
    normalize: 0.5,
    best: 0.7,
    shape_value: 0.5,
    filled: 0.5,
    branch: 0.4,
    through_sequence: 0.2,
}
