"""What operators that compute demand of their operands: channels, groups, parameter sizes, inner sizes, broadcasts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .facts import Dim
from .operand import Findings, Op, broadcast_to, clash, differ, text, vector


def convolution(x: int, w: int, bias: int | None, per_filter: Sequence[int] = ()) -> Callable[[Op], Findings]:
    """The predicate of a convolution, by input indices; `per_filter` are vectors of one entry or one a filter."""

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
        if bias is not None:
            yield from vector(op, bias, "bias", weight[0], "the weight has filters:")
        for i in per_filter:
            if op.dim(i, 0) != 1:
                yield from vector(op, i, f"operand {i}", weight[0], "the weight has filters:")
        yield from _kernel(op, weight)

    return check


def _kernel(op: Op, weight: tuple[Dim, ...]) -> Findings:
    kernel = op.attr("kernel_shape")
    if kernel is not None and any(differ(a, b) for a, b in zip(kernel, weight[2:], strict=False)):
        yield f"kernel_shape {list(kernel)} is not that of the weight {text(weight)}"


def _transposed(op: Op) -> Findings:
    weight, group, channels = op.shape(1), op.attr("group", 1), op.dim(0, 1)
    if weight is None:
        return
    if differ(channels, weight[0]):
        yield f"input has {channels} channels, weight {text(weight)} expects {weight[0]}"
    if group < 1 or (isinstance(weight[0], int) and weight[0] % group):
        yield f"group {group} does not divide the {weight[0]} input channels"
    yield from _kernel(op, weight)
    if isinstance(weight[1], int):
        yield from vector(op, 2, "bias", weight[1] * group, "the weight makes channels:")


def _per_channel(*operands: int) -> Callable[[Op], Findings]:
    def check(op: Op) -> Findings:
        if op.attr("spatial", 1) == 0 or (op.shape(0) is not None and len(op.shape(0) or ()) < 2):
            return
        for i in operands:
            yield from vector(
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
        yield from vector(op, i, f"operand {i}", size, "channels or groups:")


def _layer_norm(op: Op) -> Findings:
    data, axis = op.shape(0), op.attr("axis", -1)
    if data is None:
        return
    for i in (1, 2):
        yield from broadcast_to(op.shape(i), data[axis:], f"operand {i}", "normalized shape")


def _elementwise(op: Op) -> Findings:
    if op.version < 7 and op.node.op_type not in ("Max", "Min", "Sum", "Mean"):
        return  # axis and broadcast attributes of the first opsets
    shapes = [op.shape(i) for i in range(len(op.node.input))]
    if clash(shapes):
        yield f"operands {' and '.join(text(s) for s in shapes)} do not broadcast"


def _prelu(op: Op) -> Findings:
    if op.version >= 7:
        yield from broadcast_to(op.shape(1), op.shape(0), "slope", "input")


def _gemm(op: Op) -> Findings:
    a, b = op.shape(0), op.shape(1)
    if a is None or b is None:
        return
    if len(a) != 2 or len(b) != 2:
        yield f"operands {text(a)} and {text(b)} are not matrices"
        return
    a, b = a[::-1] if op.attr("transA", 0) else a, b[::-1] if op.attr("transB", 0) else b
    if differ(a[1], b[0]):
        yield f"inner sizes differ: {a[1]} in the input, {b[0]} in the weight"
    if op.version >= 7:
        yield from broadcast_to(op.shape(2), (a[0], b[1]), "bias", "result")


def matmul(first: int, second: int) -> Callable[[Op], Findings]:
    """The predicate of a matrix product, by the input indices of its operands."""

    def check(op: Op) -> Findings:
        a, b = op.shape(first), op.shape(second)
        if not a or not b:
            return
        if differ(a[-1], b[-2] if len(b) > 1 else b[0]):
            yield f"inner sizes differ: {text(a)} times {text(b)}"
        if clash([a[:-2], b[:-2]]):
            yield f"batch axes do not broadcast: {text(a)} times {text(b)}"

    return check


def _recurrent(gates: int) -> Callable[[Op], Findings]:
    def check(op: Op) -> Findings:
        hidden = op.attr("hidden_size") or op.dim(2, 2)
        if isinstance(hidden, int):
            sizes = [(1, 1, gates), (2, 1, gates), (2, 2, 1), (3, 1, 2 * gates), (7, 1, 3), (5, 2, 1), (6, 2, 1)]
            for i, axis, times in sizes:
                if differ(op.dim(i, axis), times * hidden):
                    yield f"operand {i} {text(op.shape(i))} should have {times * hidden} on axis {axis}"
        if differ(op.dim(0, 2), op.dim(1, 2)):
            yield f"input {text(op.shape(0))} has {op.dim(0, 2)} features, W {text(op.shape(1))} expects {op.dim(1, 2)}"
        both = op.attr("direction", b"forward") == b"bidirectional"
        batchwise = 1 if op.attr("layout", 0) else 0
        for i, axis in ((1, 0), (2, 0), (3, 0), (7, 0), (5, batchwise), (6, batchwise)):
            if differ(op.dim(i, axis), 2 if both else 1):
                yield f"operand {i} {text(op.shape(i))} is not for {2 if both else 1} direction(s)"
        names, each = op.attr("activations"), {4: 3, 3: 2, 1: 1}[gates]
        if names and len(names) not in (each * (2 if both else 1), 2 * each):  # the default names those of both
            yield f"{len(names)} activations, {each} for each of {2 if both else 1} direction(s) are wanted"

    return check


def _deformable(op: Op) -> Findings:
    yield from convolution(0, 1, 3)(op)
    weight, groups, data = op.shape(1), op.attr("offset_group", 1), op.dim(0, 1)
    if weight is None or len(weight) != 4 or not isinstance(weight[2], int) or not isinstance(weight[3], int):
        return
    if isinstance(data, int) and (groups < 1 or data % groups):
        yield f"offset_group {groups} does not divide the {data} channels"
    for i, times in ((2, 2), (4, 1)):
        if differ(op.dim(i, 1), times * groups * weight[2] * weight[3]):
            yield f"operand {i} {text(op.shape(i))} should have {times * groups * weight[2] * weight[3]} on axis 1"


def _einsum(op: Op) -> Findings:
    equation = op.attr("equation", b"").decode().replace(" ", "")
    terms = equation.split("->")[0].split(",")
    sizes: dict[str, set[int]] = {}
    for i, term in enumerate(terms):
        shape = op.shape(i)
        if shape is None:
            continue
        if "..." in term:  # any number of axes in its place
            front, _, back = term.partition("...")
            shape = (*shape[: len(front)], *shape[len(shape) - len(back) :])
            term = front + back
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


TABLE: dict[str, Callable[[Op], Findings]] = {
    "Conv": convolution(0, 1, 2),
    "DeformConv": _deformable,
    "ConvTranspose": _transposed,
    "BatchNormalization": _per_channel(1, 2, 3, 4),
    "InstanceNormalization": _per_channel(1, 2),
    "GroupNormalization": _group_norm,
    "LayerNormalization": _layer_norm,
    "PRelu": _prelu,
    "Gemm": _gemm,
    "MatMul": matmul(0, 1),
    "Einsum": _einsum,
    "NonMaxSuppression": _boxes,
    "LSTM": _recurrent(4),
    "GRU": _recurrent(3),
    "RNN": _recurrent(1),
    **dict.fromkeys(("Add", "Sub", "Mul", "Div", "Pow", "Mod", "Max", "Min", "Sum", "Mean", "Where"), _elementwise),
    **dict.fromkeys(("And", "Or", "Xor", "BitShift", "BitwiseAnd", "BitwiseOr", "BitwiseXor"), _elementwise),
    **dict.fromkeys(("Equal", "Less", "Greater", "LessOrEqual", "GreaterOrEqual"), _elementwise),
}
