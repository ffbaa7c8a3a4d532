"""Traps: where channels of several tensors meet, or part: Add, Concat, Split, Slice, Gather."""

from __future__ import annotations

import numpy as np

from .net import Net
from .trap import DEAD, Family, chain, chain_cut, conv_size

TRAPS = Family()

SHAPE = (2, 3, 8, 8)


def residual(stem_zero=(), branch_zero=(), branch_constant=None, op_type: str = "Add") -> Net:
    """stem = Conv(3, 8); stem + Conv(8, 8)(stem) -> Relu -> Conv(8, 4)."""
    net = Net()
    stem = net.conv(net.input("x", SHAPE), 3, 8, zero=stem_zero)
    branch = net.conv(stem, 8, 8, zero=branch_zero, constant=branch_constant)
    if stem_zero:
        net.known(stem, stem_zero)
    if branch_zero or branch_constant:
        net.known(branch, (*branch_zero, *(branch_constant or {})))
    return net.output(net.conv(net.op("Relu", net.op(op_type, stem, branch)), 8, 4, name="y"))


def residual_size(width: int) -> int:
    return conv_size(3, width) + conv_size(width, width) + conv_size(width, 4)


@TRAPS.add(residual_size(8) - residual_size(4), "both operands of the Add are zero in the same channels")
def residual_same() -> Net:
    return residual(DEAD, DEAD)


@TRAPS.add(residual_size(8) - residual_size(4), "Sum with two inputs is an Add")
def residual_sum() -> Net:
    return residual(DEAD, DEAD, op_type="Sum")


@TRAPS.add(residual_size(8) - residual_size(4), "Sub ties like Add")
def residual_sub() -> Net:
    return residual(DEAD, DEAD, op_type="Sub")


@TRAPS.add(0, "the operands are zero in different channels: the sum is zero nowhere")
def residual_disjoint() -> Net:
    return residual((0, 1, 2, 3), (4, 5, 6, 7))


@TRAPS.add(residual_size(8) - residual_size(6), "only what both operands leave empty can go")
def residual_partial_overlap() -> Net:
    return residual((0, 1, 2, 3), (2, 3, 4, 5))


@TRAPS.add(conv_size(8, 8), "a branch that is zero everywhere leaves its Add")
def residual_branch_all_zero() -> Net:
    return residual((), range(8))


@TRAPS.add(conv_size(8, 8) - 8, "a branch that is constant everywhere is a bias")
def residual_branch_constant() -> Net:
    return residual((), (), {channel: channel - 3.5 for channel in range(8)})


@TRAPS.add(residual_size(8) + conv_size(8, 8) - residual_size(4), "two blocks: one agrees with the stem, one is empty")
def residual_two_blocks() -> Net:
    net = Net()
    t = net.conv(net.input("x", SHAPE), 3, 8, zero=DEAD)
    for zero in (DEAD, range(8)):
        t = net.op("Relu", net.op("Add", t, net.known(net.conv(t, 8, 8, zero=zero), zero)))
    return net.output(net.conv(net.known(t, DEAD), 8, 4, name="y"))


@TRAPS.add(None, "the zero branch has the full shape and the other operand is [N, C, 1, 1]: the Add still broadcasts")
def residual_broadcast_branch() -> Net:
    net = Net()
    x = net.input("x", SHAPE)
    full = net.known(net.conv(x, 3, 8, zero=range(8)), range(8))
    pooled = net.op("GlobalAveragePool", net.conv(x, 3, 8))
    return net.output(net.conv(net.op("Add", full, pooled), 8, 4, name="y"))


def two_branches(op_type: str, zero_p, zero_q, known=(), between=None, **options) -> Net:
    """p = Conv(3, 8)(x), q = Conv(3, 8)(x); op(p, q) -> Conv(8, 4)."""
    net = Net()
    x = net.input("x", SHAPE)
    p, q = net.conv(x, 3, 8, zero=zero_p), net.conv(x, 3, 8, zero=zero_q)
    if between:
        p, q = between(net, p), between(net, q)
    t = net.op(op_type, p, q, **options)
    if known:
        net.known(t, known)
    return net.output(net.conv(t, 8, 4, name="y"))


TWO = 28 + 28 + 36
"""Parameters of one channel of `two_branches`."""


@TRAPS.add(4 * TWO, "a product is zero where either factor is: the other factor is unread there")
def product_disjoint() -> Net:
    return two_branches("Mul", (0, 1), (4, 5), (0, 1, 4, 5))


@TRAPS.add(4 * TWO, "Max of two zeros is zero")
def max_same() -> Net:
    return two_branches("Max", DEAD, DEAD, DEAD)


@TRAPS.add(0, "Max with a zero is a ReLU: nothing goes")
def max_one_side() -> Net:
    return two_branches("Max", DEAD, ())


@TRAPS.add(4 * TWO, "Min of a zero and a zero; Min has any number of inputs")
def min_same() -> Net:
    return two_branches("Min", DEAD, DEAD, DEAD)


@TRAPS.add(None, "zero divided by something that is at least 1")
def div_zero_numerator() -> Net:
    net = Net()
    x = net.input("x", SHAPE)
    p, q = net.known(net.conv(x, 3, 8, zero=DEAD), DEAD), net.conv(x, 3, 8)
    divisor = net.unread(net.op("Add", net.op("Abs", q), net.const(1.0)), DEAD)
    return net.output(net.conv(net.op("Div", p, divisor), 8, 4, name="y"))


@TRAPS.add(None, "x ** 0 is 1 also for x = 0, so the zero exponents are what is known")
def pow_zero_exponent() -> Net:
    net = Net()
    x = net.input("x", SHAPE)
    p = net.op("Add", net.op("Abs", net.conv(x, 3, 8)), net.const(0.5))
    t = net.op("Pow", net.unread(p, DEAD), net.known(net.conv(x, 3, 8, zero=DEAD), DEAD))
    return net.output(net.conv(net.known(t, DEAD), 8, 4, name="y"))


@TRAPS.add(chain_cut(4), "a square keeps zeros")
def pow_square() -> Net:
    return chain(lambda net, t: net.op("Pow", t, net.const(2.0)))


@TRAPS.add(4 * TWO, "Where over a computed condition: both sides are zero")
def where_same() -> Net:
    net = Net()
    x = net.input("x", SHAPE)
    p, q = net.conv(x, 3, 8, zero=DEAD), net.conv(x, 3, 8, zero=DEAD)
    condition = net.op("Greater", net.op("ReduceSum", x, net.const([1]), keepdims=1), net.const(0.0))
    t = net.known(net.op("Where", condition, p, q), DEAD)
    return net.output(net.conv(t, 8, 4, name="y"))


# --- Concat


def concat(zero_p, zero_q, constant_p=None, constant_q=None, **options) -> tuple[Net, str]:
    net = Net()
    x = net.input("x", SHAPE)
    p = net.conv(x, 3, 8, zero=zero_p, constant=constant_p, name="p")
    q = net.conv(x, 3, 8, zero=zero_q, constant=constant_q, name="q")
    t = net.op("Concat", p, q, axis=options.get("axis", 1))
    return net, t


@TRAPS.add(6 * 64, "a piece of a Concat has its own offset in the consumer", name="concat")
def concat_two() -> Net:
    net, t = concat(DEAD, (0, 7))
    return net.output(net.conv(net.known(t, (*DEAD, 8, 15)), 16, 4, name="y"))


@TRAPS.add(6 * 64, "axis -3 is the channel axis")
def concat_negative_axis() -> Net:
    net, t = concat(DEAD, (0, 7), axis=-3)
    return net.output(net.conv(net.known(t, (*DEAD, 8, 15)), 16, 4, name="y"))


@TRAPS.add(6 * (28 + 36 + 4 + 36), "a piece that also goes elsewhere, and a Concat with two readers")
def concat_fan_out() -> Net:
    net, t = concat(DEAD, (0, 7))
    net.output(net.conv(t, 16, 4, name="y"), net.conv(t, 16, 4, 1, name="z"))
    return net.output(net.conv("p", 8, 4, name="w"), net.conv("q", 8, 4, name="v"))


@TRAPS.add(3 * 64, "four constant channels in two pieces share one carrier")
def concat_constant() -> Net:
    net, t = concat((), (), {1: 0.5, 3: -0.7}, {0: 0.2, 7: 0.9})
    return net.output(net.conv(net.known(t, (1, 3, 8, 15)), 16, 4, name="y"))


@TRAPS.add(8 * 64, "a piece that is zero everywhere goes with its layer")
def concat_all_zero_piece() -> Net:
    net, t = concat((), range(8))
    return net.output(net.conv(t, 16, 4, name="y"))


@TRAPS.add(2 * 64 + 2 * (2 * 64 + 36), "a piece that is an initializer, with zero channels of its own")
def concat_initializer() -> Net:
    net = Net()
    values = net.normal(2, 4, 8, 8)
    values[:, [1, 2]] = 0
    p = net.conv(net.input("x", SHAPE), 3, 8, zero=(2, 5))
    t = net.known(net.op("Concat", p, net.const(values), axis=1), (2, 5, 9, 10))
    return net.output(net.conv(t, 12, 4, name="y"))


@TRAPS.add(4 * TWO, "a Concat along the height ties the channels of its pieces")
def concat_height() -> Net:
    net, t = concat(DEAD, DEAD, axis=2)
    return net.output(net.conv(net.known(t, DEAD), 8, 4, name="y"))


@TRAPS.add(2 * TWO, "a Concat along the batch ties them, too")
def concat_batch() -> Net:
    net, t = concat((0, 1, 2), (1, 2, 3), axis=0)
    return net.output(net.conv(net.known(t, (1, 2)), 8, 4, name="y"))


# --- Split, Slice, Gather


def split(sizes, zero, widths=None, opset: int = 17, **options) -> Net:
    """Conv(3, 8) -> Split -> one Conv each -> Add."""
    net = Net(opset=opset)
    t = net.known(net.conv(net.input("x", SHAPE), 3, 8, zero=zero), zero)
    if opset >= 13 and "num_outputs" not in options:
        net.op("Split", t, net.const(sizes), count=len(sizes), axis=1, name="piece")
    else:
        net.op("Split", t, count=len(sizes), axis=1, name="piece", **options)
    names = ["piece", *(f"piece:{i}" for i in range(1, len(sizes)))]
    sums = [net.conv(name, size, 4) for name, size in zip(names, sizes, strict=True)]
    total = sums[0]
    for term in sums[1:]:
        total = net.op("Add", total, term)
    return net.output(net.op("Identity", total, name="y"))


@TRAPS.add(3 * 64, "one dead channel in the first piece, two in the second: the sizes change differently")
def split_even() -> Net:
    return split([4, 4], (1, 6, 7))


@TRAPS.add(4 * 64, "pieces of 3 and 5")
def split_uneven() -> Net:
    return split([3, 5], DEAD)


@TRAPS.add(3 * 64, "opset 11 keeps the sizes in an attribute")
def split_attribute() -> Net:
    return split([4, 4], (1, 6, 7), opset=11, split=[4, 4])


@TRAPS.add(3 * 64, "num_outputs cannot say 3 and 2: sizes are needed after the cut")
def split_num_outputs() -> Net:
    return split([4, 4], (1, 6, 7), opset=18, num_outputs=2)


@TRAPS.add(4 * 64, "all of a piece is zero")
def split_all_zero_piece() -> Net:
    return split([4, 4], (0, 1, 2, 3))


@TRAPS.add(4 * 28, "a piece that nobody uses is unread")
def split_unused_piece() -> Net:
    def middle(net: Net, t: str) -> str:
        net.unread(t, (4, 5, 6, 7))
        return net.op("Split", t, net.const([4, 4]), count=2, axis=1)

    return chain(middle, zero=(), width=4)


def slicing(start: int, end: int, step: int, unread, zero, width: int, after) -> Net:
    """Conv(3, 8) -> Slice of the channels -> Conv; `after` are the zero channels of the slice."""

    def middle(net: Net, t: str) -> str:
        net.unread(t, unread)
        t = net.op("Slice", t, net.const([start]), net.const([end]), net.const([1]), net.const([step]))
        return net.known(t, after)

    return chain(middle, zero=zero, still_known=False, width=width)


@TRAPS.add(4 * 28 + 2 * 36, "channels that a Slice drops are unread")
def slice_channels() -> Net:
    return slicing(2, 8, 1, (0, 1), (3, 5), 6, (1, 3))


@TRAPS.add(5 * 28 + 36, "every second channel")
def slice_strided() -> Net:
    return slicing(0, 8, 2, (1, 3, 5, 7), (2,), 4, (1,))


@TRAPS.add(6 * 28 + 2 * 36, "from -4 to the end")
def slice_negative() -> Net:
    return slicing(-4, 2**31 - 1, 1, (0, 1, 2, 3), (4, 6), 4, (0, 2))


@TRAPS.add(4 * 64, "a step of -1 reverses the channels")
def slice_reverse() -> Net:
    return slicing(-1, -(2**31), -1, (), DEAD, 8, [7 - channel for channel in DEAD])


@TRAPS.add(5 * 28 + 2 * 36, "constant indices: unread, doubled and zero channels")
def gather_channels() -> Net:
    def middle(net: Net, t: str) -> str:
        net.unread(t, (1, 3, 4, 6))
        return net.known(net.op("Gather", t, net.const([5, 0, 2, 2, -1]), axis=1), (2, 3))

    return chain(middle, zero=(2,), still_known=False, width=5)


@TRAPS.add(4 * 64, "a permutation of the channels")
def gather_permutation() -> Net:
    order = [3, 7, 0, 4, 1, 6, 5, 2]

    def middle(net: Net, t: str) -> str:
        return net.known(net.op("Gather", t, net.const(order), axis=1), [order.index(channel) for channel in DEAD])

    return chain(middle, still_known=False)


@TRAPS.add(7 * 28, "a scalar index takes one channel and its axis")
def gather_scalar() -> Net:
    def middle(net: Net, t: str) -> str:
        one = net.op("Gather", net.unread(t, (0, 1, 2, 4, 5, 6, 7)), net.const(3), axis=1)
        return net.op("Unsqueeze", one, net.const([1]))

    return chain(middle, zero=(), width=1)


@TRAPS.add(None, "Gather with computed indices may read any channel")
def gather_dynamic() -> Net:
    def middle(net: Net, t: str) -> str:
        best = net.op("ArgMax", net.op("GlobalAveragePool", "x"), axis=1, keepdims=0)
        index = net.op("Gather", net.op("Reshape", best, net.const([-1])), net.const([0]), axis=0)
        return net.op("Gather", t, index, axis=1)

    return chain(middle, zero=(1, 3), still_known=False, width=1)


@TRAPS.add(3 * (3 + 4), "columns that are alike in all rows of an embedding, zero or not, are known whatever it picks")
def gather_embedding() -> Net:
    net = Net()
    tokens = net.op("ArgMax", net.input("x", SHAPE), axis=1, keepdims=0)
    table = net.normal(3, 8)
    table[:, (1, 3)], table[:, 4], table[:2, 6] = 0, 0.5, 0
    t = net.known(net.op("Gather", net.const(table), tokens), (1, 3, 4), axis=3)
    return net.output(net.conv(net.op("Transpose", t, perm=[0, 3, 1, 2]), 8, 4, 1, name="y"))


@TRAPS.add(None, "ScatterND writes into channels that were zero")
def scatter_nd() -> Net:
    def middle(net: Net, t: str) -> str:
        return net.op("ScatterND", t, net.const([[0, 1], [1, 4]]), net.const(np.ones((2, 8, 8))))

    return chain(middle, still_known=False)
