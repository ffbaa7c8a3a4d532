"""Operators whose operands moved between opsets, and shapes that the graph computes itself."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .maker import Maker, Rejected, Shape, Tensor


def squeeze(m: Maker, x: Tensor, axes: list[int]) -> Tensor:
    return m.op("Squeeze", x, m.const(axes)) if m.opset >= 13 else m.op("Squeeze", x, axes=axes)


def unsqueeze(m: Maker, x: Tensor, axes: list[int]) -> Tensor:
    return m.op("Unsqueeze", x, m.const(axes)) if m.opset >= 13 else m.op("Unsqueeze", x, axes=axes)


def reduce(m: Maker, op: str, x: Tensor, axes: list[int], keepdims: int = 1) -> Tensor:
    if m.opset >= (13 if op == "ReduceSum" else 18):
        return m.op(op, x, m.const(axes), keepdims=keepdims)
    return m.op(op, x, axes=axes, keepdims=keepdims)


def split(m: Maker, x: Tensor, axis: int, sizes: list[int]) -> list[Tensor]:
    if m.opset >= 18 and len(set(sizes)) == 1 and m.chance(0.5):
        return m.ops("Split", x, count=len(sizes), axis=axis, num_outputs=len(sizes))
    if m.opset >= 13:
        return m.ops("Split", x, m.const(sizes), count=len(sizes), axis=axis)
    return m.ops("Split", x, count=len(sizes), axis=axis, split=sizes)


def clip(m: Maker, x: Tensor, low: float | None, high: float | None) -> Tensor:
    if m.opset < 12 and x.dtype == np.float64:
        raise Rejected("Clip has no kernel in double precision")
    ends = [None if v is None else m.const(float(v)) for v in (low, high)]
    return m.op("Clip", x, *ends)


def slice_(m: Maker, x: Tensor, starts: list[int], ends: list[int], axes: list[int], steps: list[int]) -> Tensor:
    operands = [m.const(v) for v in (starts, ends, axes, steps)]
    if all(s == 1 for s in steps) and m.chance(0.5):
        operands.pop()
    return m.op("Slice", x, *operands)


def pad(m: Maker, x: Tensor, pads: list[int], mode: str, value: float | None = None) -> Tensor:
    operands = [m.const(pads)]
    if value is not None:
        operands.append(m.const(float(value)))
    if m.opset >= 18 and m.chance(0.3):
        axes = [a for a in range(x.rank) if pads[a] or pads[a + x.rank]] or [0]
        operands[0] = m.const([pads[a] for a in axes] + [pads[a + x.rank] for a in axes])
        tail = operands[1:] or [None]
        return m.op("Pad", x, operands[0], *tail, m.const(axes), mode=mode)
    return m.op("Pad", x, *operands, mode=mode)


def transpose(m: Maker, x: Tensor, perm: Sequence[int]) -> Tensor:
    return m.op("Transpose", x, perm=[int(p) for p in perm])


def reshape(m: Maker, x: Tensor, targets: tuple[Shape, Shape]) -> Tensor:
    """A Reshape to a shape given in both worlds: as numbers, 0 and -1, or computed from the tensor's own shape."""
    if any(np.prod(t) != np.prod(s) for t, s in zip(targets, x.shapes, strict=True)):
        raise Rejected("another number of elements")
    moving = [a for a, (one, other) in enumerate(zip(*targets, strict=True)) if one != other]
    if len(moving) <= 1 and m.chance(0.75):
        return m.op("Reshape", x, m.const(literal(m, x, targets, moving)))
    return m.op("Reshape", x, computed(m, x, targets))


def literal(m: Maker, x: Tensor, targets: tuple[Shape, Shape], moving: list[int]) -> list[int]:
    """The shape operand as numbers: 0 copies a dimension, -1 stands for at most one."""
    numbers = list(targets[0])
    copied = [
        a for a in range(min(len(numbers), x.rank)) if all(t[a] == s[a] for t, s in zip(targets, x.shapes, strict=True))
    ]
    for axis in copied:
        if axis in moving or m.chance(0.3):
            numbers[axis] = 0
    rest = [a for a in moving if numbers[a] != 0]
    if rest:
        numbers[rest[0]] = -1
    elif m.chance(0.4):
        numbers[m.integer(0, len(numbers) - 1)] = -1
    return numbers


def computed(m: Maker, x: Tensor, targets: tuple[Shape, Shape], *, slices: bool = True) -> Tensor:
    """The shape operand as exporters compute it: Shape, Gather or Slice, Mul, Unsqueeze, Concat.

    ONNX Runtime refuses a Resize whose sizes come through a Slice or a scalar: that one takes none (`slices`).
    """
    shape = m.op("Shape", x, closed=True)
    parts = [_dimension(m, x, shape, goal, slices) for goal in zip(*targets, strict=True)]
    return m.op("Concat", *parts, axis=0, closed=True) if len(parts) > 1 else parts[0]


def _dimension(m: Maker, x: Tensor, shape: Tensor, goal: tuple[int, int], slices: bool) -> Tensor:
    """One dimension as a vector of one element, from the shape of `x` where that is possible."""
    own = [a for a in range(x.rank) if (x.shapes[0][a], x.shapes[1][a]) == goal]
    if own and (goal[0] != goal[1] or m.chance(0.5)):
        return _element(m, shape, own[0], slices)
    for a in range(x.rank):
        one, other = x.shapes[0][a], x.shapes[1][a]
        moving = goal[0] != goal[1]
        multiple = one > 0 and goal[0] % one == 0 and goal[0] // one * other == goal[1] and (moving or one > 1)
        if multiple and (moving or m.chance(0.3)):
            return m.op("Mul", _element(m, shape, a, slices), m.const([goal[0] // one]), closed=True)
        if goal[0] and one % goal[0] == 0 and goal[1] * (one // goal[0]) == other and m.chance(0.3):
            return m.op("Div", _element(m, shape, a, slices), m.const([one // goal[0]]), closed=True)
    for a in range(x.rank):
        for b in range(a + 1, x.rank):
            if (x.shapes[0][a] * x.shapes[0][b], x.shapes[1][a] * x.shapes[1][b]) == goal and goal[0] != goal[1]:
                return m.op("Mul", _element(m, shape, a, slices), _element(m, shape, b, slices), closed=True)
    if goal[0] != goal[1]:
        raise Rejected("a dynamic size that the shape does not give")
    return m.const([goal[0]])


def _element(m: Maker, shape: Tensor, axis: int, slices: bool) -> Tensor:
    """Element `axis` of a shape as a vector of one element."""
    way = m.integer(0, 2) if slices else 1
    if way == 0:
        return m.op("Slice", shape, m.const([axis]), m.const([axis + 1]), m.const([0]), closed=True)
    if way == 1:
        return m.op("Gather", shape, m.const([axis]), axis=0, closed=True)
    scalar = m.op("Gather", shape, m.const(axis), axis=0, closed=True)
    if m.opset >= 13:
        return m.op("Unsqueeze", scalar, m.const([0]), closed=True)
    return m.op("Unsqueeze", scalar, axes=[0], closed=True)
