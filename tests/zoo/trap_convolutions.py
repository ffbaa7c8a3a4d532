"""Traps: kinds of convolution: depthwise, grouped, transposed, other ranks, other types, other sources of weights."""

from __future__ import annotations

import numpy as np
from onnx import helper, numpy_helper

from .net import Net
from .trap import DEAD, Family, chain, chain_cut, conv_size

TRAPS = Family()

BETA = {1: 0.5, 3: 0.7, 4: -0.3, 6: 0.9}
DEPTHWISE_CHANNEL = 28 + 10 + 36
"""Parameters of one channel of Conv(3, 8) -> depthwise(8) -> Conv(8, 4)."""


def depthwise(zero=(), constant=None, zero_dw=(), constant_dw=None, pads=(1, 1), known=(), unread=()) -> Net:
    """Conv(3, 8) -> depthwise(8), padded by pads[0] -> Conv(8, 4), padded by pads[1]."""

    def middle(net: Net, t: str) -> str:
        if unread:
            net.unread(t, unread)
        t = net.conv(t, 8, 8, group=8, pad=pads[0], zero=zero_dw, constant=constant_dw)
        return net.known(t, known) if known else t

    return chain(middle, zero=zero, constant=constant, pad=pads[1], still_known=False)


def zero_bias(net: Net, node: int, channels) -> Net:
    """Zeroes some biases of the Conv at position `node`."""
    name = net.nodes[node].input[2]
    tensor = next(tensor for tensor in net.initializers if tensor.name == name)
    array = numpy_helper.to_array(tensor).copy()
    array[list(channels)] = 0
    tensor.CopyFrom(numpy_helper.from_array(array, name))
    return net


@TRAPS.add(
    4 * DEPTHWISE_CHANNEL, "a zero channel stays zero through a depthwise Conv without bias there", name="depthwise"
)
def depthwise_zero() -> Net:
    return zero_bias(depthwise(DEAD, known=DEAD), 2, DEAD)


@TRAPS.add(3 * DEPTHWISE_CHANNEL, "a zero channel becomes the bias of the depthwise Conv: a carrier stays")
def depthwise_bias_live() -> Net:
    return depthwise(DEAD, known=DEAD)


@TRAPS.add(4 * DEPTHWISE_CHANNEL, "and it folds where the next Conv is unpadded")
def depthwise_bias_live_pad0() -> Net:
    return depthwise(DEAD, known=DEAD, pads=(1, 0))


@TRAPS.add(0, "a constant plane through a zero-padded depthwise Conv is not constant")
def depthwise_constant_in_pad1() -> Net:
    return depthwise(constant=BETA)


@TRAPS.add(3 * DEPTHWISE_CHANNEL, "a constant plane through an unpadded depthwise Conv is constant")
def depthwise_constant_in_pad0() -> Net:
    return depthwise(constant=BETA, pads=(0, 1), known=DEAD)


@TRAPS.add(4 * DEPTHWISE_CHANNEL, "a zero depthwise filter does not read its channel")
def depthwise_unread() -> Net:
    return depthwise(zero_dw=DEAD, known=DEAD, unread=DEAD)


@TRAPS.add(3 * DEPTHWISE_CHANNEL, "a zero depthwise filter with a bias: unread before, constant after")
def depthwise_constant() -> Net:
    return depthwise(constant_dw=BETA, known=DEAD, unread=DEAD)


MULTIPLIED = tuple(2 * channel + half for channel in DEAD for half in (0, 1))


@TRAPS.add(4 * (28 + 2 * (10 + 36)), "two outputs for each input; the bias there is zero")
def depthwise_mult2() -> Net:
    def middle(net: Net, t: str) -> str:
        return net.known(net.conv(t, 8, 16, group=8), MULTIPLIED)

    net = chain(lambda net, t: zero_bias_after(net, middle, t, MULTIPLIED), still_known=False, width=16)
    return net


def zero_bias_after(net: Net, middle, t: str, channels) -> str:
    out = middle(net, t)
    zero_bias(net, len(net.nodes) - 1, channels)
    return out


@TRAPS.add(8 * (10 + 36), "one of the two outputs of each input is dead: the multiplier becomes 1")
def depthwise_mult2_half() -> Net:
    dead = tuple(2 * channel + channel % 2 for channel in range(8))
    return chain(lambda net, t: net.known(net.conv(t, 8, 16, group=8, zero=dead), dead), zero=(), width=16)


# --- grouped


def grouped(zero=(), constant=None, zero_group=(), unread=()) -> Net:
    """Conv(3, 8) -> Conv(8, 8, group 2) -> Conv(8, 4); `zero_group` are dead outputs of the grouped Conv."""

    def middle(net: Net, t: str) -> str:
        if unread:
            net.unread(t, unread)
        t = net.conv(t, 8, 8, group=2, zero=zero_group)
        return net.known(t, zero_group) if zero_group else t

    return chain(middle, zero=zero, constant=constant, still_known=False)


def grouped_size(width: int, out: int, group: int = 2) -> int:
    return conv_size(3, width) + conv_size(width, out, group=group) + conv_size(out, 4)


@TRAPS.add(grouped_size(8, 8) - grouped_size(4, 8), "two dead inputs in each of two groups")
def grouped2_even() -> Net:
    return grouped((1, 2, 4, 7))


@TRAPS.add(grouped_size(8, 8) - grouped_size(4, 4), "two dead inputs and two dead outputs in each group")
def grouped2_both_sides() -> Net:
    return grouped((1, 2, 4, 7), zero_group=(0, 3, 5, 6))


@TRAPS.add(
    grouped_size(8, 8) - grouped_size(6, 8), "three dead inputs in one group and one in the other: one of each goes"
)
def grouped2_uneven() -> Net:
    return grouped((0, 1, 2, 5))


@TRAPS.add(grouped_size(8, 8) - grouped_size(4, 4, 1), "all outputs of one group are dead: the group goes")
def grouped2_dead_group() -> Net:
    return grouped(zero_group=(0, 1, 2, 3), unread=(0, 1, 2, 3))


def grouped4(dead: tuple[int, ...], dead_outputs: tuple[int, ...], transposed: bool = False) -> Net:
    """Conv(3, 16) -> Conv(16, 16, group 4) -> Conv(16, 4)."""
    net = Net()
    first = net.known(net.conv(net.input("x", (2, 3, 8, 8)), 3, 16, zero=dead), dead)
    second = net.conv(first, 16, 16, group=4, zero=dead_outputs, transposed=transposed)
    if dead_outputs:
        net.known(second, dead_outputs)
    return net.output(net.conv(second, 16, 4))


UNEVEN = (1, 2, 3, 7, 8, 9, 10, 12)
"""One, three, one and three channels are left in four groups of four."""


@TRAPS.add(
    grouped_size(16, 16, 4) - grouped_size(8, 8, 2),
    "groups keep 1, 3, 1, 3 on both sides: two groups of 4 are fewer channels and multiply-adds than four of 3",
)
def grouped4_merges() -> Net:
    return grouped4(UNEVEN, UNEVEN)


@TRAPS.add(grouped_size(16, 16, 4) - grouped_size(8, 8, 2), "the same in a ConvTranspose")
def grouped4_transposed_merges() -> Net:
    return grouped4(UNEVEN, UNEVEN, transposed=True)


@TRAPS.add(
    grouped_size(16, 16, 4) - grouped_size(12, 16, 4),
    "groups keep 1, 3, 1, 3 inputs and all outputs: merging would multiply more, so four groups of 3 stay",
)
def grouped4_merging_costs_more() -> Net:
    return grouped4(UNEVEN, ())


@TRAPS.add(grouped_size(8, 8) - grouped_size(6, 8), "two constants in each group: each group needs its own carrier")
def grouped2_constant() -> Net:
    return grouped(constant={0: 0.5, 1: 0.7, 4: -0.3, 5: 0.9})


@TRAPS.add(grouped_size(8, 8) - grouped_size(6, 8), "constants in one group, zeros in the other: one of each goes")
def grouped2_constant_and_zero() -> Net:
    return grouped(zero=(4, 5), constant={0: 0.5, 1: 0.7})


@TRAPS.add(grouped_size(8, 8) - grouped_size(6, 8), "a constant and a zero in each group: the constant is what stays")
def grouped2_carrier_fills_group() -> Net:
    return grouped(zero=(1, 4), constant={0: 0.5, 5: 0.7})


@TRAPS.add(
    4 * (4 * 9 + 1 + 4 * 9), "the same between two grouped Convs, where a negative constant is zero after the ReLU"
)
def grouped2_twice_constant() -> Net:
    def middle(net: Net, t: str) -> str:
        t = net.conv(t, 8, 8, group=2, constant={0: -0.4, 1: 0.5, 2: -0.6, 4: -0.3, 6: -0.2, 7: 0.7})
        t = net.known(net.op("Relu", t), (0, 1, 2, 4, 6, 7))
        return net.conv(t, 8, 8, group=2)

    return chain(middle, zero=())


# --- transposed


def transposed(
    kernel=2, stride=2, pad=0, group=1, zero=(), constant=None, zero_t=(), constant_t=None, **options
) -> Net:
    """Conv(3, 8) -> ConvTranspose(8, 8) -> Conv(8, 4)."""

    def middle(net: Net, t: str) -> str:
        planted = {"zero": zero_t, "constant": constant_t}
        t = net.conv(t, 8, 8, kernel, stride=stride, pad=pad, group=group, transposed=True, **planted, **options)
        known = (*zero_t, *(constant_t or {}))
        return net.known(t, known) if known else t

    return chain(middle, zero=zero, constant=constant, still_known=False)


def transposed_size(width: int, out: int, kernel: int = 2, group: int = 1) -> int:
    return conv_size(3, width) + conv_size(width, out, kernel, group=group) + conv_size(out, 4)


@TRAPS.add(transposed_size(8, 8) - transposed_size(4, 4), "weights are [in, out / group, kh, kw]")
def convtranspose() -> Net:
    return transposed(zero=DEAD, zero_t=(0, 2, 3, 5))


@TRAPS.add(
    transposed_size(8, 8) - transposed_size(5, 8), "a constant input of kernel = stride: a carrier, never a bias"
)
def convtranspose_constant_in() -> Net:
    return transposed(constant=BETA)


@TRAPS.add(transposed_size(8, 8, 4) - transposed_size(5, 8, 4), "overlapping kernels, cropped borders")
def convtranspose_constant_in_k4s2p1() -> Net:
    return transposed(4, 2, 1, constant=BETA)


@TRAPS.add(transposed_size(8, 8) - transposed_size(8, 5), "zero filters with a bias: a carrier for the next Conv")
def convtranspose_constant_out() -> Net:
    return transposed(constant_t=BETA)


@TRAPS.add(transposed_size(8, 8, 3) - transposed_size(4, 4, 3), "output_padding adds rows that only the bias reaches")
def convtranspose_output_padding() -> Net:
    return transposed(3, 2, 1, zero=DEAD, zero_t=(0, 2, 3, 5), output_padding=[1, 1])


@TRAPS.add(transposed_size(8, 8, 3) - transposed_size(5, 4, 3), "a carrier with output_padding")
def convtranspose_output_padding_constant() -> Net:
    return transposed(3, 2, 1, constant=BETA, zero_t=(0, 2, 3, 5), output_padding=[1, 1])


@TRAPS.add(transposed_size(8, 8, 3) - transposed_size(4, 4, 3), "the size is given by output_shape")
def convtranspose_output_shape() -> Net:
    shape = {"output_shape": [16, 16], "auto_pad": "SAME_UPPER"}
    return transposed(3, 2, 1, zero=DEAD, zero_t=(0, 2, 3, 5), **shape)


@TRAPS.add(transposed_size(8, 8, group=2) - transposed_size(4, 4, group=2), "groups of a ConvTranspose")
def convtranspose_group2() -> Net:
    return transposed(group=2, zero=(0, 1, 4, 5), zero_t=(2, 3, 6, 7))


@TRAPS.add(4 * (28 + 5 + 36), "a depthwise ConvTranspose")
def convtranspose_depthwise() -> Net:
    return transposed(group=8, zero=DEAD, zero_t=DEAD)


# --- ranks, types, sources of weights


def ranked(dims: int) -> Net:
    net = Net()
    t = net.conv(net.input("x", (2, 3, *[7] * dims)), 3, 8, dims=dims, zero=DEAD)
    return net.output(net.conv(net.op("Relu", net.known(t, DEAD)), 8, 4, dims=dims, name="y"))


@TRAPS.add(4 * (3 * 3 + 1 + 4 * 3), "one spatial axis")
def conv1d() -> Net:
    return ranked(1)


@TRAPS.add(4 * (3 * 27 + 1 + 4 * 27), "three spatial axes")
def conv3d() -> Net:
    return ranked(3)


@TRAPS.add(chain_cut(4), "float16")
def conv_float16() -> Net:
    return chain(lambda net, t: net.op("Relu", t), dtype=np.float16)


@TRAPS.add(chain_cut(3), "float16 with a carrier: the merged weights must not overflow")
def conv_float16_constant() -> Net:
    return chain(constant={1: 1e-4, 3: 3.0, 4: 30.0, 6: 0.5}, dtype=np.float16)


@TRAPS.add(chain_cut(4), "the weights are Constant nodes")
def conv_constant_nodes() -> Net:
    net = chain(lambda net, t: net.op("Relu", t))
    constants = [
        helper.make_node("Constant", [], [tensor.name], name=f"node_{tensor.name}", value=tensor)
        for tensor in net.initializers
    ]
    net.nodes, net.initializers = constants + net.nodes, []
    return net


@TRAPS.add(chain_cut(4), "the weight is computed in the graph: Mul(weight, mask), as mask-based pruning exports it")
def conv_masked_weight() -> Net:
    net = Net()
    mask = np.ones((8, 1, 1, 1))
    mask[list(DEAD)] = 0
    weight = net.op("Mul", net.const(net.filters(3, 8, 3)), net.const(mask))
    bias = net.normal(8)
    bias[list(DEAD)] = 0
    t = net.op("Conv", net.input("x", (2, 3, 8, 8)), weight, net.const(bias), pads=[1, 1, 1, 1])
    return net.output(net.conv(net.known(net.op("Relu", t), DEAD), 8, 4, name="y"))


@TRAPS.add(None, "the weight is dequantized from int8 in the graph")
def conv_dequantized_weight() -> Net:
    net = Net()
    weight = net.rng.integers(-127, 128, (8, 3, 3, 3)).astype(np.int8)
    weight[list(DEAD)] = 0
    scale, zero_point = net.const(net.rng.uniform(1e-3, 2e-3, 8)), net.const(np.zeros(8, np.int8))
    dequantized = net.op("DequantizeLinear", net.const(weight), scale, zero_point, axis=0)
    t = net.op("Conv", net.input("x", (2, 3, 8, 8)), dequantized, pads=[1, 1, 1, 1])
    return net.output(net.conv(net.op("Relu", net.known(t, DEAD)), 8, 4, name="y"))


@TRAPS.add(None, "the weight is a graph input: it can be anything")
def conv_weight_input() -> Net:
    net = Net()
    t = net.known(net.conv(net.input("x", (2, 3, 8, 8)), 3, 8, zero=DEAD), DEAD)
    return net.output(net.op("Conv", t, net.input("w", (4, 8, 3, 3)), pads=[1, 1, 1, 1], name="y"))


@TRAPS.add(None, "a weight in sparse storage")
def conv_sparse_weight() -> Net:
    net = Net()
    x = net.input("x", (2, 3, 8, 8))
    weight = net.filters(3, 8, 3)
    weight[list(DEAD)] = 0
    t = net.op("Conv", x, net.const(weight, "sparse_weight"), pads=[1, 1, 1, 1])
    net.sparse = ("sparse_weight",)
    return net.output(net.conv(net.op("Relu", net.known(t, DEAD)), 8, 4, name="y"))
