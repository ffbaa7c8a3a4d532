"""What each operator demands of its operands' shapes: a table of (operator, predicate).

A predicate yields one sentence for each demand that is certainly broken; whatever is not known is not judged, so a
valid model never raises a finding. Sources: the ONNX operator specifications (Operators.md, onnx 1.23).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import onnx

from .shapes import Dim, Facts, Shape, attribute


@dataclass(frozen=True)
class Op:
    """One node with what is known of its operands."""

    node: onnx.NodeProto
    facts: Facts
    version: int

    def has(self, i: int) -> bool:
        return i < len(self.node.input) and bool(self.node.input[i])

    def shape(self, i: int) -> Shape:
        return self.facts.shape(self.node.input[i]) if self.has(i) else None

    def dim(self, i: int, axis: int) -> Dim:
        shape = self.shape(i)
        return shape[axis] if shape is not None and -len(shape) <= axis < len(shape) else None

    def integers(self, i: int) -> list[Any] | None:
        return self.facts.integers(self.node.input[i]) if self.has(i) else None

    def attr(self, name: str, default: Any = None) -> Any:
        return attribute(self.node, name, default)


Findings = Iterator[str]


def differ(a: Dim, b: Dim) -> bool:
    """Both are numbers, and not the same."""
    return isinstance(a, int) and isinstance(b, int) and a != b


def text(shape: Shape) -> str:
    """A shape as people write it; `?` for what is not known."""
    return "[" + ", ".join("?" if d is None else str(d) for d in shape) + "]" if shape is not None else "[unknown]"


def _axis(axis: int, shape: Shape, extra: int = 0) -> str | None:
    size = len(shape) + extra if shape is not None else None
    return f"axis {axis} is outside of rank {size}" if size is not None and not -size <= axis < size else None


def _vector(op: Op, i: int, what: str, size: Dim, source: str) -> Findings:
    """Operand i, where it is a vector, must have `size` elements."""
    shape = op.shape(i)
    if shape is not None and len(shape) == 1 and differ(shape[0], size):
        yield f"{what} has {shape[0]} elements, {source} {size}"


def _convolution(x: int, w: int, bias: int, per_filter: Sequence[int] = ()) -> Callable[[Op], Findings]:
    def check(op: Op) -> Findings:
        data, weight, group = op.shape(x), op.shape(w), op.attr("group", 1)
        if weight is None:
            return
        channels = op.dim(x, 1)
        if data is not None and len(data) != len(weight):
            yield f"input {text(data)} and weight {text(weight)} have different ranks"
            return
        if isinstance(weight[1], int) and differ(channels, weight[1] * group):
            yield f"input has {channels} channels, weight {text(weight)} with group {group} expects {weight[1] * group}"
        if group < 1 or (isinstance(weight[0], int) and weight[0] % group):
            yield f"group {group} does not divide the {weight[0]} filters"
        if isinstance(weight[0], int) and 0 in weight[:2]:
            yield f"weight {text(weight)} has no channel left"
        yield from _vector(op, bias, "bias", weight[0], "the weight has filters:")
        for i in per_filter:
            if op.dim(i, 0) != 1:
                yield from _vector(op, i, f"operand {i}", weight[0], "the weight has filters:")
        kernel = op.attr("kernel_shape")
        if kernel is not None and any(differ(a, b) for a, b in zip(kernel, weight[2:], strict=False)):
            yield f"kernel_shape {list(kernel)} is not that of the weight {text(weight)}"

    return check


def _transposed(op: Op) -> Findings:
    weight, group, channels = op.shape(1), op.attr("group", 1), op.dim(0, 1)
    if weight is None:
        return
    if differ(channels, weight[0]):
        yield f"input has {channels} channels, weight {text(weight)} expects {weight[0]}"
    if group < 1 or (isinstance(weight[0], int) and weight[0] % group):
        yield f"group {group} does not divide the {weight[0]} input channels"
    if isinstance(weight[1], int):
        yield from _vector(op, 2, "bias", weight[1] * group, "the weight makes channels:")


def _per_channel(*operands: int) -> Callable[[Op], Findings]:
    def check(op: Op) -> Findings:
        if op.attr("spatial", 1) == 0 or (op.shape(0) is not None and len(op.shape(0) or ()) < 2):
            return
        for i in operands:
            yield from _vector(
                op, i, f"operand {i} ({op.node.input[i] if op.has(i) else ''})", op.dim(0, 1), "channels:"
            )
        sizes = {d for i in operands if isinstance(d := op.dim(i, 0), int)}
        if len(sizes) > 1:
            yield f"its parameters have different sizes: {sorted(sizes)}"

    return check


def _group_norm(op: Op) -> Findings:
    groups, channels = op.attr("num_groups", 1), op.dim(0, 1)
    if isinstance(channels, int) and (groups < 1 or channels % groups):
        yield f"num_groups {groups} does not divide the {channels} channels"
    size = channels if op.version >= 21 else groups
    for i in (1, 2):
        yield from _vector(op, i, f"operand {i}", size, "channels or groups:")


def _layer_norm(op: Op) -> Findings:
    data, axis = op.shape(0), op.attr("axis", -1)
    if data is None:
        return
    for i in (1, 2):
        yield from _broadcast_to(
            op.shape(i), data[axis:] if axis < 0 else data[axis:], f"operand {i}", "normalized shape"
        )


def _broadcast_to(small: Shape, large: Shape, what: str, target: str) -> Findings:
    """`small` must be broadcastable to `large` without growing it."""
    if small is None or large is None:
        return
    short = len(small) - len(large)
    if any(isinstance(d, int) and d != 1 for d in small[: max(short, 0)]):
        yield f"{what} {text(small)} has more axes than the {target} {text(large)}"
        return
    for a, b in zip(reversed(small), reversed(large), strict=False):
        if a != 1 and differ(a, b):
            yield f"{what} {text(small)} does not broadcast to the {target} {text(large)}"
            return


def clash(shapes: Sequence[Shape]) -> bool:
    """Whether shapes certainly do not broadcast against each other (multidirectional, NumPy's rule)."""
    known = [s for s in shapes if s is not None]
    for back in range(1, max((len(s) for s in known), default=0) + 1):
        sizes = {s[-back] for s in known if len(s) >= back}
        if len({d for d in sizes if isinstance(d, int) and d != 1}) > 1:
            return True
    return False


def _elementwise(op: Op) -> Findings:
    if op.version < 7 and op.node.op_type not in ("Max", "Min", "Sum", "Mean"):
        return  # axis and broadcast attributes of the first opsets
    shapes = [op.shape(i) for i in range(len(op.node.input))]
    if clash(shapes):
        yield f"operands {' and '.join(text(s) for s in shapes)} do not broadcast"


def _prelu(op: Op) -> Findings:
    if op.version >= 7:
        yield from _broadcast_to(op.shape(1), op.shape(0), "slope", "input")


def _gemm(op: Op) -> Findings:
    a, b = op.shape(0), op.shape(1)
    if a is None or b is None or len(a) != 2 or len(b) != 2:
        return
    a, b = a[::-1] if op.attr("transA", 0) else a, b[::-1] if op.attr("transB", 0) else b
    if differ(a[1], b[0]):
        yield f"inner sizes differ: {a[1]} in the input, {b[0]} in the weight"
    if op.version >= 7:
        yield from _broadcast_to(op.shape(2), (a[0], b[1]), "bias", "result")


def _matmul(first: int, second: int) -> Callable[[Op], Findings]:
    def check(op: Op) -> Findings:
        a, b = op.shape(first), op.shape(second)
        if not a or not b:
            return
        if differ(a[-1], b[-2] if len(b) > 1 else b[0]):
            yield f"inner sizes differ: {text(a)} times {text(b)}"
        if clash([a[:-2], b[:-2]]):
            yield f"batch axes do not broadcast: {text(a)} times {text(b)}"

    return check


def _concat(op: Op) -> Findings:
    shapes = [s for i in range(len(op.node.input)) if (s := op.shape(i)) is not None]
    ranks = {len(s) for s in shapes}
    if len(ranks) > 1:
        yield f"operands have different ranks: {', '.join(text(s) for s in shapes)}"
        return
    axis = op.attr("axis", 1)
    if shapes and (wrong := _axis(axis, shapes[0])):
        yield wrong
        return
    for i in range(ranks.pop() if ranks else 0):
        if i != axis % len(shapes[0]) and len({s[i] for s in shapes if isinstance(s[i], int)}) > 1:
            yield f"operands differ on axis {i}: {', '.join(text(s) for s in shapes)}"


def _split(op: Op) -> Findings:
    axis, pieces = op.attr("axis", 0), len(op.node.output)
    if wrong := _axis(axis, op.shape(0)):
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
    moved = resized_axes(op)
    if data is not None and len(data) >= 4 and len(moved) > len(data) - 2:
        yield f"resizes axes {moved} of {text(data)}, the channel or batch axis among them"


def resized_axes(op: Op) -> list[int]:
    """The axes that a Resize to fixed sizes certainly changes."""
    data, sizes = op.shape(0), op.integers(3) if op.version >= 11 else None
    if data is None or not sizes or op.attr("keep_aspect_ratio_policy", b"stretch") != b"stretch":
        return []
    axes = op.attr("axes") or range(len(data))
    return [a for a, s in zip(axes, sizes, strict=False) if a < len(data) and differ(data[a], s)]


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
        if isinstance(axis, int) and (wrong := _axis(axis, data)):
            yield wrong


def _gather(op: Op) -> Findings:
    axis, indices = op.attr("axis", 0), op.integers(1)
    if wrong := _axis(axis, op.shape(0)):
        yield wrong
        return
    size = op.dim(0, axis)
    numbers = [i for i in indices or () if isinstance(i, int)]
    if isinstance(size, int) and numbers and not (-size <= min(numbers) and max(numbers) < size):
        yield f"indices from {min(numbers)} to {max(numbers)} on axis {axis} of {size}"


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
        if isinstance(axis, int) and (wrong := _axis(axis, data)):
            yield wrong
        elif isinstance(axis, int) and differ(op.dim(0, axis), 1):
            yield f"axis {axis} of {text(data)} is not 1"


def _unsqueeze(op: Op) -> Findings:
    axes = _axes_of(op)
    for axis in axes or ():
        if isinstance(axis, int) and (wrong := _axis(axis, op.shape(0), len(axes or ()))):
            yield wrong


def _one_axis(op: Op) -> Findings:
    if wrong := _axis(op.attr("axis", 0), op.shape(0)):
        yield wrong


def _topk(op: Op) -> Findings:
    yield from (_one_axis(op) if op.attr("axis", -1) != -1 else ())
    k, size = (op.integers(1) or [None])[0] if op.version >= 10 else op.attr("k"), op.dim(0, op.attr("axis", -1))
    if isinstance(k, int) and isinstance(size, int) and k > size:
        yield f"k {k} of axis {op.attr('axis', -1)} with {size}"


def _quantize(op: Op) -> Findings:
    if op.attr("block_size", 0):
        return
    scale = op.shape(1)
    if scale is not None and len(scale) == 1 and scale[0] != 1 and op.shape(0) is not None:
        yield from _vector(op, 1, "scale", op.dim(0, op.attr("axis", 1)), "its axis has")
    if op.has(2) and scale is not None and op.shape(2) is not None and differ(_count(scale), _count(op.shape(2))):
        yield f"zero point {text(op.shape(2))} for scale {text(scale)}"


def _count(shape: Shape) -> int | None:
    numbers = [d for d in shape or () if isinstance(d, int)]
    return math.prod(numbers) if shape is not None and len(numbers) == len(shape) else None


def _recurrent(gates: int) -> Callable[[Op], Findings]:
    def check(op: Op) -> Findings:
        if op.attr("layout", 0):
            return
        hidden = op.attr("hidden_size") or op.dim(2, 2)
        if not isinstance(hidden, int):
            return
        for i, axis, want in (
            (1, 1, gates * hidden),
            (2, 1, gates * hidden),
            (2, 2, hidden),
            (3, 1, 2 * gates * hidden),
        ):
            if differ(op.dim(i, axis), want):
                yield f"operand {i} {text(op.shape(i))} should have {want} on axis {axis}"
        if differ(op.dim(0, 2), op.dim(1, 2)):
            yield f"input {text(op.shape(0))} has {op.dim(0, 2)} features, W {text(op.shape(1))} expects {op.dim(1, 2)}"
        for i in (5, 6):
            if op.has(i) and differ(op.dim(i, 2), hidden):
                yield f"initial state {text(op.shape(i))} for hidden size {hidden}"

    return check


def _einsum(op: Op) -> Findings:
    equation = op.attr("equation", b"").decode().replace(" ", "")
    terms = equation.split("->")[0].split(",")
    sizes: dict[str, set[int]] = {}
    for i, term in enumerate(terms):
        shape = op.shape(i)
        if "." in term or shape is None:
            continue
        if len(shape) != len(term):
            yield f"operand {i} {text(shape)} for `{term}`"
            continue
        for letter, d in zip(term, shape, strict=True):
            if isinstance(d, int) and d != 1:
                sizes.setdefault(letter, set()).add(d)
    for letter, found in sizes.items():
        if len(found) > 1:
            yield f"`{letter}` of `{equation}` is {' and '.join(map(str, sorted(found)))}"


def _boxes(op: Op) -> Findings:
    if differ(op.dim(0, 1), op.dim(1, 2)):
        yield f"{op.dim(0, 1)} boxes for {op.dim(1, 2)} scores"


BINARY = ["Add", "Sub", "Mul", "Div", "Pow", "Mod", "And", "Or", "Xor", "Equal", "Less", "Greater", "LessOrEqual", "GreaterOrEqual", "BitShift", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "Max", "Min", "Sum", "Mean", "Where"]

#: (operator of ONNX's own domain, predicate). An operator that is not here is not judged.
TABLE: dict[str, Callable[[Op], Findings]] = {
    "Conv": _convolution(0, 1, 2),
    "ConvInteger": _convolution(0, 1, 99),
    "QLinearConv": _convolution(0, 3, 8, (4, 5)),
    "DeformConv": _convolution(0, 1, 3),
    "ConvTranspose": _transposed,
    "BatchNormalization": _per_channel(1, 2, 3, 4),
    "InstanceNormalization": _per_channel(1, 2),
    "GroupNormalization": _group_norm,
    "LayerNormalization": _layer_norm,
    "PRelu": _prelu,
    "Gemm": _gemm,
    "MatMul": _matmul(0, 1),
    "MatMulInteger": _matmul(0, 1),
    "QLinearMatMul": _matmul(0, 3),
    "Einsum": _einsum,
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
    "GatherElements": _one_axis,
    "DepthToSpace": _blocks,
    "SpaceToDepth": _blocks,
    "Transpose": _transpose,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "TopK": _topk,
    "NonMaxSuppression": _boxes,
    "QuantizeLinear": _quantize,
    "DequantizeLinear": _quantize,
    "LSTM": _recurrent(4),
    "GRU": _recurrent(3),
    "RNN": _recurrent(1),
    **dict.fromkeys(("Softmax", "LogSoftmax", "Hardmax", "ArgMax", "ArgMin"), _one_axis),
    **dict.fromkeys(BINARY, _elementwise),
}
