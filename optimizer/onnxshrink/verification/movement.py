"""What operators that move, cut or lay out values demand of their operands: axes, counts, sizes, index ranges."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from .operand import Findings, Op, clash, differ, outside, text
from .shapes import Dim


def _concat(op: Op) -> Findings:
    shapes = [s for i in range(len(op.node.input)) if (s := op.shape(i)) is not None]
    ranks = {len(s) for s in shapes}
    if len(ranks) > 1:
        yield f"operands have different ranks: {', '.join(text(s) for s in shapes)}"
        return
    axis = op.attr("axis", 1)
    if shapes and (wrong := outside(axis, shapes[0])):
        yield wrong
        return
    for i in range(ranks.pop() if ranks else 0):
        if i != axis % len(shapes[0]) and len({s[i] for s in shapes if isinstance(s[i], int)}) > 1:
            yield f"operands differ on axis {i}: {', '.join(text(s) for s in shapes)}"


def _split(op: Op) -> Findings:
    axis, pieces = op.attr("axis", 0), len(op.node.output)
    if wrong := outside(axis, op.shape(0)):
        yield wrong
        return
    size = op.dim(0, axis)
    sizes = op.integers(1) if op.version >= 13 else op.attr("split")
    if sizes is not None and all(isinstance(s, int) for s in sizes):
        if len(sizes) != pieces:
            yield f"{len(sizes)} split sizes for {pieces} outputs"
        if differ(sum(sizes), size):
            yield f"split sizes {list(sizes)} sum to {sum(sizes)}, axis {axis} has {size}"
    elif sizes is None and not op.has(1) and op.version < 18 and isinstance(size, int) and size % pieces:
        yield f"axis {axis} of {size} does not split into {pieces} equal pieces"


def _reshape(op: Op) -> Findings:
    given = op.shape(0)
    target = op.integers(1) if op.version >= 5 else op.attr("shape")
    if given is None or target is None:
        return
    out: list[Dim] = list(target)
    rest = list(given)
    if not op.attr("allowzero", 0):
        for i in [i for i, d in enumerate(out) if d == 0]:
            if i >= len(given):
                yield f"target {list(target)} copies axis {i} of input {text(given)}"
                return
            out[i] = given[i]
    for symbol in [d for d in out if isinstance(d, str) or d is None]:
        if symbol is None or symbol not in rest:
            return
        rest.remove(symbol)
        out.remove(symbol)
    numbers = [d for d in out if isinstance(d, int)]
    if out.count(-1) > 1:
        yield f"target {list(target)} has more than one -1"
        return
    if not all(isinstance(d, int) for d in rest):
        return
    have, want = math.prod(d for d in rest if isinstance(d, int)), math.prod(d for d in numbers if d != -1)
    if have != want if -1 not in out else (have % want != 0 if want else have != 0):
        yield f"input {text(given)} does not fit the target {list(target)}"


def _expand(op: Op) -> Findings:
    given, target = op.shape(0), op.integers(1)
    if target is not None and clash([given, tuple(target)]):
        yield f"input {text(given)} does not expand to {list(target)}"


def _nonnegative(op: Op) -> Findings:
    target = op.integers(0)
    if target is not None and any(isinstance(d, int) and d < 0 for d in target):
        yield f"shape {list(target)} has a negative size"


def _resize(op: Op) -> Findings:
    data = op.shape(0)
    scales = op.shape(2) if op.version >= 11 else op.shape(1)
    sizes = op.shape(3) if op.version >= 11 else None
    axes = op.attr("axes")
    rank = len(axes) if axes else len(data) if data is not None else None
    for what, shape in (("scales", scales), ("sizes", sizes)):
        if shape is not None and len(shape) == 1 and shape[0] not in (0, None) and differ(shape[0], rank):
            yield f"{what} has {shape[0]} elements for rank {rank}"
    moved = sorted(resized_axes(op)[0])
    if data is not None and len(data) >= 4 and len(moved) > len(data) - 2:
        yield f"resizes axes {moved} of {text(data)}, the channel or batch axis among them"


def resized_axes(op: Op) -> tuple[set[int], set[int]]:
    """The axes that a Resize to fixed sizes certainly changes, and those that it certainly keeps."""
    data, sizes = op.shape(0), op.integers(3) if op.version >= 11 else None
    if data is None or not sizes or op.attr("keep_aspect_ratio_policy", b"stretch") != b"stretch":
        return set(), set()
    pairs = [(a, data[a], s) for a, s in zip(op.attr("axes") or range(len(data)), sizes, strict=False) if a < len(data)]
    changed = {axis for axis, size, new in pairs if differ(size, new)}
    return changed, {axis for axis, size, new in pairs if size is not None and size == new}


def _tile(op: Op) -> Findings:
    data, repeats = op.shape(0), op.shape(1)
    if op.version >= 6 and data is not None and repeats is not None and repeats and differ(repeats[0], len(data)):
        yield f"{repeats[0]} repeats for rank {len(data)}"


def _pad(op: Op) -> Findings:
    data = op.shape(0)
    pads = op.integers(1) if op.version >= 11 else op.attr("pads")
    if data is None or pads is None:
        return
    axes = op.integers(3) if op.version >= 18 and op.has(3) else list(range(len(data)))
    if axes is None or not all(isinstance(a, int) for a in axes):
        return
    if len(pads) != 2 * len(axes):
        yield f"{len(pads)} pads for {len(axes)} axes"
        return
    for k, axis in enumerate(axes):
        size, before, after = op.dim(0, axis), pads[k], pads[k + len(axes)]
        if isinstance(size, int) and isinstance(before, int) and isinstance(after, int) and size + before + after < 0:
            yield f"pads {before} and {after} take more than the {size} of axis {axis}"


def _slice(op: Op) -> Findings:
    data = op.shape(0)
    if op.version >= 10:
        rows = [op.shape(i) for i in range(1, len(op.node.input))]
        sizes = {s[0] for s in rows if s is not None and len(s) == 1 and isinstance(s[0], int)}
        axes, steps = op.integers(3), op.integers(4)
    else:
        axes, steps = op.attr("axes"), None
        sizes = {len(v) for v in (op.attr("starts"), op.attr("ends"), axes) if v is not None}
    if len(sizes) > 1:
        yield f"starts, ends, axes and steps have different lengths: {sorted(sizes)}"
    if steps is not None and 0 in steps:
        yield "a step is 0"
    for axis in axes or ():
        if isinstance(axis, int) and (wrong := outside(axis, data)):
            yield wrong


def _gather(op: Op) -> Findings:
    axis, indices = op.attr("axis", 0), op.integers(1)
    if wrong := outside(axis, op.shape(0)):
        yield wrong
        return
    size = op.dim(0, axis)
    numbers = [i for i in indices or () if isinstance(i, int)]
    if isinstance(size, int) and numbers and not (-size <= min(numbers) and max(numbers) < size):
        yield f"indices from {min(numbers)} to {max(numbers)} on axis {axis} of {size}"


def _scatter_nd(op: Op) -> Findings:
    data, indices, updates = op.shape(0), op.shape(1), op.shape(2)
    if data is None or not indices or updates is None or not isinstance(depth := indices[-1], int):
        return
    if depth > len(data):
        yield f"indices {text(indices)} go deeper than the data {text(data)}"
        return
    want = (*indices[:-1], *data[depth:])
    if len(want) != len(updates) or any(differ(a, b) for a, b in zip(want, updates, strict=True)):
        yield f"updates {text(updates)} instead of {text(want)}"


def _blocks(op: Op) -> Findings:
    size, deep = op.attr("blocksize", 1), op.node.op_type == "DepthToSpace"
    for axis, step in ((1, size * size),) if deep else ((2, size), (3, size)):
        have = op.dim(0, axis)
        if isinstance(have, int) and have % step:
            yield f"blocksize {size} does not divide axis {axis} of {have}"


def _transpose(op: Op) -> Findings:
    data, order = op.shape(0), op.attr("perm")
    if data is not None and order is not None and sorted(order) != list(range(len(data))):
        yield f"perm {list(order)} is no permutation of rank {len(data)}"


def _axes_of(op: Op) -> list[Any] | None:
    return op.attr("axes") if op.attr("axes") is not None else op.integers(1)


def _squeeze(op: Op) -> Findings:
    data, axes = op.shape(0), _axes_of(op)
    for axis in axes or ():
        if isinstance(axis, int) and (wrong := outside(axis, data)):
            yield wrong
        elif isinstance(axis, int) and differ(op.dim(0, axis), 1):
            yield f"axis {axis} of {text(data)} is not 1"


def _unsqueeze(op: Op) -> Findings:
    axes = _axes_of(op)
    for axis in axes or ():
        if isinstance(axis, int) and (wrong := outside(axis, op.shape(0), len(axes or ()))):
            yield wrong


def _one_axis(op: Op) -> Findings:
    if wrong := outside(op.attr("axis", 0), op.shape(0)):
        yield wrong


def _topk(op: Op) -> Findings:
    yield from (_one_axis(op) if op.attr("axis", -1) != -1 else ())
    k, size = (op.integers(1) or [None])[0] if op.version >= 10 else op.attr("k"), op.dim(0, op.attr("axis", -1))
    if isinstance(k, int) and isinstance(size, int) and k > size:
        yield f"k {k} of axis {op.attr('axis', -1)} with {size}"


TABLE: dict[str, Callable[[Op], Findings]] = {
    "Concat": _concat,
    "Split": _split,
    "Reshape": _reshape,
    "Expand": _expand,
    "ConstantOfShape": _nonnegative,
    "Resize": _resize,
    "Upsample": _resize,
    "Tile": _tile,
    "Pad": _pad,
    "Slice": _slice,
    "Gather": _gather,
    "ScatterND": _scatter_nd,
    "DepthToSpace": _blocks,
    "SpaceToDepth": _blocks,
    "Transpose": _transpose,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "TopK": _topk,
    **dict.fromkeys(("GatherElements", "Softmax", "LogSoftmax", "Hardmax", "ArgMax", "ArgMin"), _one_axis),
}
