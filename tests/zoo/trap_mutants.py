"""Traps that other suites asked for: what planted node cases found, and what mutants of the rules survived."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from onnx import TensorProto

from .net import Net
from .trap import DEAD, Family, chain, chain_cut
from .trap_shapes import BETA

TRAPS = Family()


@TRAPS.add(chain_cut(4), "a gate of fewer axes, in the oldest opset that aligns shapes from the right")
def gate_of_opset_7() -> Net:
    gate = np.ones((8, 1, 1))
    gate[list(DEAD)] = 0
    return chain(lambda net, t: net.known(net.op("Mul", t, net.const(gate)), DEAD), zero=(), opset=7, ir_version=4)


@TRAPS.add(4 * 6 + 4 * 3, "a weight that is a product of two constants: nothing else holds the axis between these")
def weight_of_two_constants() -> Net:
    """x [2, 4] times (A [4, 5] times B [5, 6]), gated: of the 6 columns of B 4 go, and of the 6 rows behind."""
    net = Net()
    weight = net.op("MatMul", net.const(net.normal(4, 5)), net.const(net.normal(5, 6)))
    gate = np.ones(6)
    gate[[0, 1, 3, 5]] = 0
    t = net.op("Mul", net.op("MatMul", net.input("x", (2, 4)), weight), net.const(gate))
    net.known(t, (0, 1, 3, 5))
    return net.output(net.op("MatMul", t, net.const(net.normal(6, 3)), name="y"))


@TRAPS.add(None, "a product of two constants, and a bias that is computed")
def product_of_two_constants() -> Net:
    net = Net()
    bias = net.op("Relu", net.input("x", (3, 8)))
    return net.output(net.op("Gemm", net.const(net.normal(3, 5)), net.const(net.normal(5, 8)), bias, name="y"))


@TRAPS.add(chain_cut(4), "LeakyRelu as torch writes it out: constants take the type of the tensor, and nothing else")
def leaky_relu_decomposed() -> Net:
    def middle(net: Net, t: str) -> str:
        zero, slope = (net.op("CastLike", net.const(np.array(value)), t) for value in (0.0, 0.1))
        return net.op("Where", net.op("Less", t, zero), net.op("Mul", slope, t), t)

    return chain(middle)


@TRAPS.add(0, "what varies along a row is padded at its end: neither bounds nor values have the old length")
def padded_row() -> Net:
    def middle(net: Net, t: str) -> str:
        factor = np.linspace(0.5, 1.5, 8).reshape(1, 1, 1, 8)
        t = net.op("Mul", net.op("Sigmoid", t), net.const(factor))
        return net.op("Relu", net.op("Pad", t, net.const([0, 0, 0, 1, 0, 0, 0, 1])))

    return chain(middle, still_known=False)


@TRAPS.add(None, "Expand by fewer axes than the input has: the rule leaves these alone")
def expand_by_fewer_axes() -> Net:
    return chain(lambda net, t: net.op("Expand", t, net.const([1, 8])))


@TRAPS.add(None, "Resize of a part of the channels: the others move up")
def resize_part_of_the_channels() -> Net:
    def middle(net: Net, t: str) -> str:
        part = net.const(np.array([0, 0.4, 0, 0, 1, 1, 1, 1]))
        scales = net.const(np.array([1.0, 1.0, 1.0, 1.0]))
        return net.op("Resize", t, part, scales, coordinate_transformation_mode="tf_crop_and_resize", mode="nearest")

    return chain(middle, still_known=False)


@TRAPS.add(chain_cut(4), "Resize of the whole of the channels, of a part of the image")
def resize_part_of_the_image() -> Net:
    def middle(net: Net, t: str) -> str:
        part = net.const(np.array([0, 0, 0.2, 0.1, 1, 1, 0.9, 0.8]))
        scales = net.const(np.array([1.0, 1.0, 2.0, 2.0]))
        return net.op("Resize", t, part, scales, coordinate_transformation_mode="tf_crop_and_resize", mode="linear")

    return chain(middle)


def constant_features(net: Net) -> str:
    """[2, 8] of which DEAD hold a constant each, made by a Gemm(6, 8); one of them costs 6 + 1 parameters."""
    weight, bias = net.normal(6, 8), net.normal(8)
    weight[:, list(DEAD)] = 0
    return net.known(net.op("Gemm", net.input("x", (2, 6)), net.const(weight), net.const(bias)), DEAD)


@TRAPS.add(3 * (6 + 1 + 4), "a Gemm whose bias counts nothing cannot take constants into it: a carrier stays")
def gemm_beta_zero() -> Net:
    net = Net()
    t = constant_features(net)
    return net.output(net.op("Gemm", t, net.const(net.normal(8, 4)), net.const(net.normal(4)), beta=0.0, name="y"))


@TRAPS.add(
    3 * (6 + 1 + 4), "a product that two nodes read cannot leave constants to the Add behind it: a carrier stays"
)
def matmul_read_beside_its_bias() -> Net:
    net = Net()
    product = net.op("MatMul", constant_features(net), net.const(net.normal(8, 4)))
    net.output(net.op("Add", product, net.const(net.normal(4)), name="y"))
    return net.output(net.op("Tanh", product, name="z"))


@TRAPS.add(4 * (6 + 1 + 4), "a Gemm that doubles its bias takes half of the constants into it")
def gemm_beta_two() -> Net:
    net = Net()
    t = constant_features(net)
    factors = {"alpha": 0.5, "beta": 2.0}
    return net.output(net.op("Gemm", t, net.const(net.normal(8, 4)), net.const(net.normal(4)), name="y", **factors))


@TRAPS.add(0, "filters that read a channel with one tap read it")
def one_tap() -> Net:
    net = Net()
    t = net.op("Relu", net.conv(net.input("x", (2, 3, 8, 8)), 3, 8))
    weight = net.filters(8, 4, 3)
    weight[:, 2] *= np.eye(3)[1].reshape(3, 1) * np.eye(3)[0]
    return net.output(net.op("Conv", t, net.const(weight), pads=[1] * 4, name="y"))


def positive_with_another(net: Net, x: str) -> str:
    """A tensor whose DEAD channels are positive only as long as a channel that nobody else reads is there."""
    weight, bias = net.filters(3, 8, 1), net.normal(8)
    weight[5], bias[5] = weight[5] / 10, 4.0
    t = net.op("Sigmoid", net.op("Conv", x, net.const(weight), net.const(bias)))
    weight, bias = np.abs(net.filters(8, 8, 1)), np.full(8, 0.1)
    weight[:, 5] = 0
    weight[list(DEAD)] = 0
    weight[list(DEAD), 5], bias[list(DEAD)] = 5.0, -1.0
    return net.op("Conv", t, net.const(weight), net.const(bias))


def gated(net: Net, t: str) -> str:
    gate = np.ones((8, 1, 1))
    gate[list(DEAD)] = 0
    return net.op("Mul", t, net.const(gate))


@TRAPS.add(None, "channels that a gate closes are kept for a sum: what they hold may not become NaN on the way")
def square_root_before_a_gate() -> Net:
    """Without the channel that they alone read, the rows are negative, and 0 times their square root is no zero."""
    net = Net()
    x = net.input("x", (2, 3, 8, 8))
    total = net.op("Add", gated(net, net.op("Sqrt", positive_with_another(net, x))), net.conv(x, 3, 8, 1))
    return net.output(net.conv(total, 8, 4, 1, name="y"))


@TRAPS.add(None, "the logarithm of a sum that nobody needs is still one, and 0 times NaN is no zero")
def logarithm_of_a_sum_before_a_gate() -> Net:
    net = Net()
    x = net.input("x", (2, 3, 8, 8))
    t = gated(net, net.op("ReduceLogSum", positive_with_another(net, x), axes=[3], keepdims=1))
    whole = net.op("ReduceMean", net.conv(x, 3, 8, 1), axes=[3], keepdims=1)
    return net.output(net.conv(net.op("Add", t, whole), 8, 4, 1, name="y"))


@TRAPS.add(0, "a negative scale reads its channel as a positive one does")
def negative_scales() -> Net:
    def middle(net: Net, t: str) -> str:
        t = net.conv(net.conv(t, 8, 8), 8, 8)
        values = (-net.rng.uniform(0.5, 1.5, 8), net.normal(8), net.normal(8), net.rng.uniform(0.5, 1.5, 8))
        return net.op("BatchNormalization", t, *(net.const(v) for v in values))

    return chain(middle, zero=())


@TRAPS.add(0, "an average that counts padding is uneven, and nothing carries it into a bias")
def average_with_a_border() -> Net:
    def middle(net: Net, t: str) -> str:
        return net.op("AveragePool", t, kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1)

    return chain(middle, constant=BETA, still_known=False, pad=0)


@TRAPS.add(0, "a pool reads the row beside those that are wanted, which another Conv makes")
def pool_reads_the_next_row() -> Net:
    net = Net()
    x = net.input("x", (2, 3, 4, 8))
    rows = net.op("Concat", net.conv(x, 3, 8), net.conv(x, 3, 8), axis=2)
    pooled = net.op("MaxPool", rows, kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    top = net.op("Slice", pooled, net.const([0]), net.const([4]), net.const([2]))
    return net.output(net.conv(top, 8, 4, name="y"))


@TRAPS.add(4 * (5 + 1) + 4 * 3, "a mean over the steps takes their axis away: features are one axis further in front")
def mean_without_the_axis() -> Net:
    net = Net()
    weight, bias = net.normal(5, 8), net.normal(8)
    weight[:, list(DEAD)] = 0
    bias[list(DEAD)] = 0
    t = net.op("Add", net.op("MatMul", net.input("x", (2, 6, 5)), net.const(weight)), net.const(bias))
    mean = net.op("ReduceMean", net.known(net.op("Relu", t), DEAD, 2), axes=[1], keepdims=0)
    return net.output(net.op("MatMul", mean, net.const(net.normal(8, 3)), name="y"))


def known_by_bounds(net: Net, x: str, cout: int = 8) -> str:
    """A tensor [2, cout, ...] whose DEAD channels are known to be zero only as long as a channel that nobody else reads
    is there: at most -1/2 before the Relu with it, 1/2 without it.
    """
    first = net.op("Clip", net.conv(x, 3, 4, 1), net.const(np.array(1.0)), net.const(np.array(2.0)))
    weight, bias = net.filters(4, cout, 1), net.normal(cout)
    weight[:, 3] = 0
    weight[list(DEAD)] = 0
    weight[list(DEAD), 3], bias[list(DEAD)] = -1.0, 0.5
    return net.op("Relu", net.op("Conv", first, net.const(weight), net.const(bias)))


@TRAPS.add(None, "rows of zeros that an input multiplies must be right where a product keeps them")
def zeros_that_an_input_multiplies() -> Net:
    net = Net()
    rows = net.op("Reshape", known_by_bounds(net, net.input("x", (2, 3, 2, 3))), net.const([2, 8, 6]))
    return net.output(net.op("MatMul", net.input("a", (2, 5, 8)), net.known(rows, DEAD), name="y"))


@TRAPS.add(None, "two factors that are both known to be zero: one of them must stay right")
def product_of_two_zeros() -> Net:
    net = Net()
    x = net.input("x", (2, 3, 4, 4))
    one, other = (net.known(known_by_bounds(net, x), DEAD) for _ in range(2))
    return net.output(net.op("Mul", one, other, name="y"))


@TRAPS.add(None, "a border above the bounds of what it surrounds: zero behind a Relu inside, and not at the border")
def border_above_the_bounds() -> Net:
    net = Net()
    x = net.input("x", (2, 3, 6, 6))
    t = net.op("Clip", net.conv(x, 3, 8), net.const(np.array(-2.0)), net.const(np.array(-1.0)))
    t = net.op("Relu", net.op("Pad", t, net.const([0, 0, 1, 1, 0, 0, 1, 1]), net.const(np.array(3.0))))
    return net.output(net.op("Add", net.conv(t, 8, 4), net.conv(x, 3, 4, pad=2), name="y"))


@TRAPS.add(
    chain_cut(4),
    "a size computed from a tensor that is cut, for one that is not",
    sizes=({"N": 2, "H": 5, "W": 6}, {"N": 1, "H": 8, "W": 8}),
)
def size_computed_from_another() -> Net:
    net = Net()
    x = net.input("x", ("N", 3, "H", "W"))
    dead, whole = net.conv(x, 3, 8, zero=DEAD), net.conv(x, 3, 8)
    shape = net.op("Shape", net.known(dead, DEAD))
    batch = net.op("Slice", shape, net.const([0]), net.const([1]))
    rest = net.op("Slice", shape, net.const([1]), net.const([4]))
    size = net.op("ReduceProd", rest, axes=[0], keepdims=1)
    flat = net.op("Reshape", whole, net.op("Concat", batch, size, axis=0), name="flat")
    return net.output(net.conv(dead, 8, 4, name="y"), flat)


@TRAPS.add(chain_cut(4), "tensors named as the view names the constants of a node, or nearly so")
def names_like_those_of_edges() -> Net:
    net = Net()
    x = net.op("ConvTranspose", net.input("x", (2, 3, 8, 8)), net.const(net.normal(3, 3, 1, 1), "w"), name="w@1.1")
    t = net.conv(x, 3, 8, zero=DEAD, name="const_1@1.1")
    t = net.op("Relu", net.known(t, DEAD), name="const_1@@1.1")
    return net.output(net.conv(t, 8, 4, name="y"))


def _half_as_much_again(net: Net, numbers: str) -> str:
    """Integers times 1.5, as torch's interpolate exports them."""
    number = net.op("Mul", net.op("Cast", numbers, to=TensorProto.FLOAT), net.const(1.5))
    return net.op("Cast", net.op("Floor", number), to=TensorProto.INT64)


@TRAPS.add(chain_cut(4), "known sizes that pass through floats: shape inference does not know what they make")
def sizes_computed_of_floats() -> Net:
    def middle(net: Net, t: str) -> str:
        shape = net.op("Shape", t)
        first, rest = (net.op("Slice", shape, net.const([i]), net.const([i + 2])) for i in (0, 2))
        sizes = net.op("Concat", first, _half_as_much_again(net, rest), axis=0)
        return net.op("Resize", t, "", "", sizes, mode="nearest")

    return chain(middle, still_known=False)


def _as_wide(whole: bool) -> Net:
    """An output whose length is 1.5 times the number of channels of a tensor, one that is cut or the input. This number
    is written down, as a float.
    """
    net = Net()
    x = net.input("x", ("N", 8, 6, 6))
    t = net.known(net.conv(x, 8, 8, zero=DEAD), DEAD)
    channels = net.op("Slice", net.op("Shape", x if whole else t), net.const([1]), net.const([2]))
    batch = net.op("Slice", net.op("Shape", x), net.const([0]), net.const([1]))
    sizes = net.op("Concat", batch, _half_as_much_again(net, channels), net.const([24]), axis=0)
    return net.output(net.conv(t, 8, 4, name="y"), net.op("Reshape", x, sizes, name="flat"))


@TRAPS.add(
    4 * (8 * 9 + 1) + 4 * 4 * 9 - 1,
    "a length computed of floats from the channels of a tensor that is cut",
    sizes=({"N": 2}, {"N": 3}),
)
def length_of_floats_from_a_cut() -> Net:
    return _as_wide(False)


@TRAPS.add(
    4 * (8 * 9 + 1) + 4 * 4 * 9 - 1,
    "a length computed of floats, known and so not asked for, from an input",
    sizes=({"N": 2}, {"N": 3}),
)
def length_of_floats_from_an_input() -> Net:
    return _as_wide(True)


@TRAPS.add(chain_cut(4), "sizes of a Split are an operand from operator set 13 on", name="split_of_opset_13")
def split_of_opset_13() -> Net:
    def middle(net: Net, t: str) -> str:
        one = net.op("Split", t, net.const([3, 5]), count=2, axis=1)
        return net.op("Concat", one, f"{one}:1", axis=1)

    return chain(middle, opset=13, ir_version=7)


@TRAPS.add(None, "positions of a MaxPool count in the whole tensor")
def positions_of_a_pool() -> Net:
    net = Net()
    t = net.conv(net.conv(net.input("x", (2, 3, 8, 8)), 3, 4, 1), 4, 8, zero=DEAD)
    pooled = net.op("MaxPool", t, count=2, kernel_shape=[2, 2], strides=[2, 2])
    return net.output(net.conv(pooled, 8, 4, name="y"), f"{pooled}:1")


def _dilated(op: str, opset: int, size: object, pad: int = 1) -> Net:
    """Windows of elements four apart, which a smaller input has in its padding only."""
    net = Net(opset=opset)
    x = net.input("x", (2, 3, size, size))
    t = net.conv(x, 3, 8, zero=DEAD[:2], constant=dict.fromkeys(DEAD[2:], 2.0))
    t = net.op("Relu", net.op(op, t, kernel_shape=[2, 2], dilations=[4, 4], pads=[pad] * 4))
    return net.output(net.op("Add", net.conv(t, 8, 4, 1), net.op("GlobalAveragePool", net.conv(x, 3, 4)), name="y"))


@TRAPS.add(4 * 28 + 4 * 4, "a dilated MaxPool without padding", sizes=({"S": 5}, {"S": 9}))
def windows_of_an_input_without_padding() -> Net:
    return _dilated("MaxPool", 17, "S", pad=0)


def _numbers(make: Callable[[Net, str, str], str]) -> Net:
    """Rows of zeros behind `make`, which reads a table [4, 6] and 1 or 2: of its answer, nothing but how
    many rows it has counts.
    """
    net = Net()
    number = net.op("Floor", net.op("Add", net.op("Sigmoid", net.input("x", (1,))), net.const(1.5)))
    found = make(net, net.const(net.normal(4, 6)), number)
    t = net.op("Add", net.op("MatMul", found, net.const(np.zeros((6, 5)))), net.const(net.normal(5)))
    last = net.op("MatMul", net.op("Relu", t), net.const(net.normal(5, 3)))
    return net.output(
        net.op("Add", last, net.op("Mul", net.op("ReduceMean", "x", axes=[0]), net.const(net.normal(3))), name="y")
    )


def _integer(net: Net, number: str) -> str:
    return net.op("Cast", number, to=TensorProto.INT64)


@TRAPS.add(0, "indices computed of floats, of whose rows only the number counts", sizes=({"N": 2}, {"N": 5}))
def indices_of_rows_that_nobody_reads() -> Net:
    net = Net()
    x = net.input("x", ("N", 4))
    where = _integer(net, net.op("Floor", net.op("Sigmoid", x)))
    rows = net.op("Gather", net.const(net.normal(1, 6)), where, axis=0)
    t = net.op("Add", net.op("MatMul", rows, net.const(np.zeros((6, 5)))), net.const(net.normal(5)))
    return net.output(net.op("MatMul", net.op("Relu", t), net.const(net.normal(5, 3)), name="y"), net.op("Sigmoid", x))


@TRAPS.add(0, "how often rows are repeated, computed of floats, where only the number of rows counts")
def repeats_of_rows_that_nobody_reads() -> Net:
    def make(net: Net, table: str, number: str) -> str:
        return net.op("Tile", table, net.op("Concat", _integer(net, number), net.const([1]), axis=0))

    return _numbers(make)


@TRAPS.add(0, "what a tensor is spread to, computed of floats, where only the number of rows counts")
def expansion_that_nobody_reads() -> Net:
    def make(net: Net, table: str, number: str) -> str:
        return net.op("Expand", table, net.op("Concat", _integer(net, number), net.const([4, 6]), axis=0))

    return _numbers(make)


@TRAPS.add(0, "how many of the largest, computed of floats, where only their number counts")
def number_of_largest_that_nobody_reads() -> Net:
    return _numbers(lambda net, table, number: net.op("TopK", table, _integer(net, number), count=2, axis=0))


@TRAPS.add(0, "scales computed of floats, where only the number of rows counts")
def scales_of_rows_that_nobody_reads() -> Net:
    def make(net: Net, table: str, number: str) -> str:
        return net.op("Resize", table, "", net.op("Concat", number, net.const([1.0]), axis=0), mode="nearest")

    return _numbers(make)


@TRAPS.add(0, "a shape computed of floats, where only the number of rows counts")
def reshape_that_nobody_reads() -> Net:
    def make(net: Net, table: str, number: str) -> str:
        return net.op(
            "Reshape", table, net.op("Concat", net.const([-1]), _integer(net, number), net.const([6]), axis=0)
        )

    return _numbers(make)


@TRAPS.add(0, "a dilated MaxPool on a small input: some windows lie on both sides of it, in the padding alone")
def windows_around_the_input() -> Net:
    return _dilated("MaxPool", 17, 3)


@TRAPS.add(0, "a dilated AveragePool whose input may be small", sizes=({"S": 3}, {"S": 8}))
def windows_around_an_input_of_any_size() -> Net:
    return _dilated("AveragePool", 19, "S")


@TRAPS.add(4 * 28 + 4 * 4, "a dilated MaxPool whose windows all reach into the input")
def windows_that_reach_into_the_input() -> Net:
    return _dilated("MaxPool", 17, 4)


@TRAPS.add(4 * 28 + 4 * 4, "a mean lies between the bounds of what it is taken of")
def mean_within_bounds() -> Net:
    net = Net()
    t = net.op("Sigmoid", net.conv(net.input("x", (2, 3, 6, 6)), 3, 8))
    shift = np.zeros((8, 1, 1))
    shift[list(DEAD)] = -2.0
    mean = net.op("ReduceMean", t, axes=[2, 3], keepdims=1)
    relu = net.known(net.op("Relu", net.op("Add", mean, net.const(shift))), DEAD)
    return net.output(net.conv(relu, 8, 4, 1, name="y"))


@TRAPS.add(chain_cut(4), "a Slice backwards to the very first slice")
def slice_backwards() -> Net:
    def middle(net: Net, t: str) -> str:
        for _ in range(2):
            operands = [net.const([v]) for v in (-1, -(2**31), 1, -1)]
            t = net.op("Slice", t, *operands)
        return t

    return chain(middle)


@TRAPS.add(None, "a length that is computed from data: whoever reads a shape needs its right value")
def length_from_data() -> Net:
    net = Net()
    t = net.conv(net.conv(net.input("x", (2, 3, 8, 8)), 3, 8), 8, 1)
    largest = net.op("ReduceMax", net.op("Abs", t), keepdims=1)
    length = net.op("Cast", net.op("Mul", largest, net.const([[[[100.0]]]])), to=TensorProto.INT64)
    shape = net.op("Concat", net.op("Reshape", length, net.const([1])), net.const([3]), axis=0)
    return net.output(net.op("ConstantOfShape", shape, name="y"))


@TRAPS.add(chain_cut(4), "what is known is a bound on one side: a minimum below zero, and a Relu behind it")
def minimum_below_zero() -> Net:
    least = np.full((8, 1, 1), 1.0)
    least[list(DEAD)] = -1.0

    def middle(net: Net, t: str) -> str:
        return net.known(net.op("Relu", net.op("Min", t, net.const(least))), DEAD)

    return chain(middle, zero=(), still_known=False)


@TRAPS.add(chain_cut(4), "a border as wide as the number of channels says: that number is cut, the border stays")
def border_from_a_shape() -> Net:
    def middle(net: Net, t: str) -> str:
        channels = net.op("Slice", net.op("Shape", t), net.const([1]), net.const([2]))
        width = net.op("Sub", channels, net.const([7]))
        zero = net.const([0])
        return net.op("Pad", t, net.op("Concat", zero, zero, width, zero, zero, zero, width, zero, axis=0))

    return chain(middle)


@TRAPS.add(None, "positions of channels that nobody else reads: what these are made of stays right")
def positions_of_unread_channels() -> Net:
    net = Net()
    weight = net.normal(8, 4, 1, 1)
    weight[[c for c in range(8) if c not in DEAD], 0] = 0
    t = net.op("Conv", net.conv(net.input("x", (2, 3, 8, 8)), 3, 4, 1), net.const(weight))
    pooled = net.op("MaxPool", t, count=2, kernel_shape=[2, 2], strides=[2, 2])
    return net.output(net.conv(pooled, 8, 4, unread=DEAD, name="y"), f"{pooled}:1")


@TRAPS.add(5 * 28 + 3 * 36, "a Slice backwards that ends in front of the first two slices")
def slice_backwards_to_the_third() -> Net:
    def middle(net: Net, t: str) -> str:
        return net.op("Slice", t, *(net.const([v]) for v in (7, 1, 1, -1)))

    return chain(middle, width=6, still_known=False)


@TRAPS.add(0, "steps along one of two sliced axes: what is left of them need not be steps")
def steps_along_one_of_two_axes() -> Net:
    net = Net()
    t = net.conv(net.input("x", (2, 3, 6, 6)), 3, 8, zero=(2,))
    some = net.op("Slice", t, net.const([0, 1]), net.const([8, 5]), net.const([1, 2]), net.const([2, 1]))
    return net.output(net.conv(t, 8, 4, name="y"), net.conv(some, 4, 4, name="z"))
