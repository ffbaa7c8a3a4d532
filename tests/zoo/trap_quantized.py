"""Traps: integers that stand for numbers: quantizers before and behind operators, operators on integers.

All steps are powers of two and all sums are small, so float arithmetic on dequantized numbers is exact in any order and
no result depends on it: original and result are equal to the bit. Counts include integers (`integers=True`): weights,
biases, and scales and zero points that go along an axis.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from onnx import numpy_helper

from .net import Net
from .trap import DEAD, Family

TRAPS = Family()

MICROSOFT = "com.microsoft"
STEP, WEIGHT = 2.0**-4, 2.0**-6
"""What one step of an activation and of a weight is worth."""

SHAPE = (2, 3, 8, 8)
CHANNEL = 27 + 1 + 36
"""Integers of one channel between Conv(3, 8) and Conv(8, 4), 3x3 both: filter, bias, column."""

KNOWN = {1: 100, 3: 40, 4: 260, 6: 150}
"""Biases in units of STEP * WEIGHT that make known channels: 64 of them are one step of the activation."""


class Quantized:
    """Builds quantized layers into a Net.

    Attributes:
        kind: type of activations; their zero point is `zero`.
        per_channel: weights have a scale and zero point for each filter.
        offset: zero point of the weights, which are uint8 if it is not zero.
    """

    def __init__(self, *, kind: type = np.uint8, zero: int = 128, per_channel: bool = False, offset: int = 0, **net):
        self.net = Net(**net)
        self.kind, self.zero, self.per_channel, self.offset = kind, zero, per_channel, offset
        self.weight_kind = np.uint8 if offset else np.int8

    def raw(self, array: np.ndarray) -> str:
        """An initializer of exactly this type."""
        name = f"const_{len(self.net.initializers)}"
        self.net.initializers.append(numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name))
        return name

    def steps(self, scale: float = STEP, zero: int | None = None) -> tuple[str, str]:
        """Scale and zero point of an activation."""
        zero = self.zero if zero is None else zero
        return self.raw(np.array(scale, np.float32)), self.raw(np.array(zero, self.kind))

    def quantize(self, x: str, scale: float = STEP, zero: int | None = None) -> str:
        return self.net.op("QuantizeLinear", x, *self.steps(scale, zero))

    def dequantize(self, q: str, scale: float = STEP, zero: int | None = None, name: str | None = None) -> str:
        return self.net.op("DequantizeLinear", q, *self.steps(scale, zero), name=name)

    def both(self, x: str, scale: float = STEP, zero: int | None = None) -> str:
        return self.dequantize(self.quantize(x, scale, zero), scale, zero)

    def filters(self, cin: int, cout: int, kernel: int, group: int, dead: Iterable[int], unread: Iterable[int]):
        """Integer weights; dead filters and unread columns equal the zero point."""
        array = self.net.rng.integers(-7, 8, (cout, cin // group, kernel, kernel))
        array[array == 0] = 1
        array[list(dead)] = 0
        array[:, list(unread)] = 0
        return (array + self.offset).astype(self.weight_kind)

    def biases(self, cout: int, dead: Iterable[int], constant: Mapping[int, int]) -> np.ndarray:
        array = self.net.rng.integers(-400, 400, cout) * 2 + 1
        array[list(dead)] = 0
        for channel, value in constant.items():
            array[channel] = value
        return array.astype(np.int32)

    def weight_steps(self, cout: int) -> tuple[str, str]:
        count = (cout,) if self.per_channel else ()
        scale, zero = np.full(count, WEIGHT, np.float32), np.full(count, self.offset, self.weight_kind)
        return self.raw(scale), self.raw(zero)

    def conv(
        self,
        x: str,
        cin: int,
        cout: int,
        kernel: int = 3,
        *,
        group: int = 1,
        pad: int | None = None,
        dead: Iterable[int] = (),
        constant: Mapping[int, int] | None = None,
        unread: Iterable[int] = (),
        bias: np.ndarray | None = None,
        scale: float = STEP,
    ) -> str:
        """A Conv of dequantized integers; `scale` is the input's."""
        constant = constant or {}
        array = self.filters(cin, cout, kernel, group, [*dead, *constant], unread)
        axis = {"axis": 0} if self.per_channel else {}
        weight = self.net.op("DequantizeLinear", self.raw(array), *self.weight_steps(cout), **axis)
        values = self.biases(cout, dead, constant) if bias is None else bias.astype(np.int32)
        count = (cout,) if self.per_channel else ()
        operands = self.raw(np.full(count, scale * WEIGHT, np.float32)), self.raw(np.zeros(count, np.int32))
        added = self.net.op("DequantizeLinear", self.raw(values), *operands, **axis)
        pads = [kernel // 2 if pad is None else pad] * 4
        return self.net.op("Conv", x, weight, added, pads=pads, kernel_shape=[kernel] * 2, group=group)

    def qconv(
        self,
        q: str,
        cin: int,
        cout: int,
        kernel: int = 3,
        *,
        group: int = 1,
        pad: int | None = None,
        dead: Iterable[int] = (),
        constant: Mapping[int, int] | None = None,
        unread: Iterable[int] = (),
        bias: np.ndarray | None = None,
        scale: float = STEP,
        domain: str = "",
    ) -> str:
        """A QLinearConv; `scale` is the output's."""
        constant = constant or {}
        array = self.filters(cin, cout, kernel, group, [*dead, *constant], unread)
        values = self.biases(cout, dead, constant) if bias is None else bias.astype(np.int32)
        pads = [kernel // 2 if pad is None else pad] * 4
        operands = [q, *self.steps(), self.raw(array), *self.weight_steps(cout), *self.steps(scale), self.raw(values)]
        return self.net.op("QLinearConv", *operands, pads=pads, kernel_shape=[kernel] * 2, group=group, domain=domain)

    def input(self, shape: tuple = SHAPE) -> str:
        return self.net.input("x", shape)

    def known(self, tensor: str, channels: Iterable[int] = DEAD, axis: int = 1) -> str:
        return self.net.known(tensor, channels, axis)

    def end(self, q: str, scale: float = STEP, shape: tuple = (2, 4, 8, 8)) -> Net:
        """The net whose output is this quantized tensor's numbers."""
        self.net.declared["y"] = shape
        return self.net.output(self.dequantize(q, scale, name="y"))


def qdq_chain(middle=None, *, out: tuple = (2, 4, 8, 8), conv1=None, conv2=None, **options) -> Net:
    """x -> Q DQ -> Conv(3, 8) -> Q DQ -> middle -> Conv(8, 4) -> Q DQ."""
    b = Quantized(**options)
    t = b.both(b.conv(b.both(b.input()), 3, 8, **{"dead": DEAD, **(conv1 or {})}))
    t = middle(b, t) if middle else b.known(t)
    return b.end(b.quantize(b.conv(t, 8, 4, **(conv2 or {}))), shape=out)


def add(removable: int | None, why: str, **options):
    return TRAPS.add(removable, why, integers=True, **options)


# --- quantizers around operators of floats


@add(4 * CHANNEL, "zero filters quantize to the zero point and come back as zeros")
def qdq_per_tensor() -> Net:
    return qdq_chain()


@add(4 * (CHANNEL + 4), "scales and zero points of weight and bias go with their filter")
def qdq_per_channel() -> Net:
    return qdq_chain(per_channel=True)


@add(4 * CHANNEL, "weights of type uint8: a dead filter is full of the zero point, not of zeros")
def qdq_asymmetric() -> Net:
    return qdq_chain(offset=119)


@add(4 * CHANNEL, "int8 activations")
def qdq_int8() -> Net:
    return qdq_chain(kind=np.int8, zero=-5)


@add(4 * CHANNEL, "Q and DQ on both sides of a Relu; int8 passes MaxPool and Transpose as it is")
def qdq_movements() -> Net:
    def middle(b: Quantized, t: str) -> str:
        t = b.quantize(b.net.op("Relu", t))
        t = b.net.op("MaxPool", t, kernel_shape=[2, 2], strides=[2, 2])
        t = b.net.op("Transpose", b.net.op("Transpose", t, perm=[0, 2, 3, 1]), perm=[0, 3, 1, 2])
        return b.dequantize(b.known(t))

    return qdq_chain(middle, out=(2, 4, 4, 4))


@add(4 * CHANNEL, "a Concat of integers, of which a part is dead")
def qdq_concat_integers() -> Net:
    b = Quantized()
    q = b.quantize(b.conv(b.both(b.input()), 3, 8, dead=DEAD))
    other = b.quantize(b.conv(b.both("x"), 3, 8))
    return b.end(b.quantize(b.conv(b.dequantize(b.net.op("Concat", b.known(q), other, axis=1)), 16, 4)))


@add(4 * (28 + CHANNEL), "both branches of a sum are dead there, whatever their steps")
def qdq_add() -> Net:
    b = Quantized()
    t = b.both(b.input())
    one, two = b.both(b.conv(t, 3, 8, dead=DEAD)), b.both(b.conv(t, 3, 8, dead=DEAD), STEP * 2)
    return b.end(b.quantize(b.conv(b.known(b.both(b.net.op("Add", one, two), STEP * 4)), 8, 4, scale=STEP * 4)))


@add(0, "one branch of the sum is live: the union stays")
def qdq_add_live() -> Net:
    b = Quantized()
    t = b.both(b.input())
    one, two = b.known(b.both(b.conv(t, 3, 8, dead=DEAD))), b.both(b.conv(t, 3, 8))
    return b.end(b.quantize(b.conv(b.both(b.net.op("Add", one, two)), 8, 4)))


@add(4 * (CHANNEL + 10), "a depthwise Conv whose weight is computed by DequantizeLinear")
def qdq_depthwise() -> Net:
    def middle(b: Quantized, t: str) -> str:
        bias = b.biases(8, DEAD, {})
        return b.known(b.both(b.conv(t, 8, 8, group=8, bias=bias)))

    return qdq_chain(middle)


@add(4 * (CHANNEL + 10 + 8), "the same with a scale for each filter")
def qdq_depthwise_per_channel() -> Net:
    def middle(b: Quantized, t: str) -> str:
        bias = b.biases(8, DEAD, {})
        return b.known(b.both(b.conv(t, 8, 8, group=8, bias=bias)))

    return qdq_chain(middle, per_channel=True)


def qdq_grouped(dead: tuple[int, ...], out: tuple[int, ...]) -> Net:
    """Conv(3, 8) -> Conv(8, 8, group 2) -> Conv(8, 4), all of dequantized integers."""

    def middle(b: Quantized, t: str) -> str:
        return b.known(b.both(b.conv(t, 8, 8, group=2, dead=out)), out) if out else b.both(b.conv(t, 8, 8, group=2))

    return qdq_chain(middle, conv1={"dead": dead})


@add(4 * 28 + 2 * 8 * 9 + 4 * (2 * 9 + 1 + 36), "a column of the weight serves all groups: the same inputs of each go")
def qdq_grouped_even() -> Net:
    return qdq_grouped((1, 2, 5, 6), (0, 3, 4, 7))


@add(4 * (28 + 36 + 1 + 36), "a whole group goes")
def qdq_grouped_one_dead() -> Net:
    return qdq_grouped((0, 1, 2, 3), (0, 1, 2, 3))


@add(0, "dead inputs at different places of the groups: the column that both lack is none")
def qdq_grouped_uneven() -> Net:
    return qdq_grouped((0, 1, 6, 7), ())


@add(0, "one computed weight in a plain and in a grouped Conv, whose groups would lose unequally")
def qdq_shared_weight() -> Net:
    b = Quantized()
    net = b.net
    weight = net.op("DequantizeLinear", b.raw(b.filters(2, 4, 3, 1, (1,), ())), *b.weight_steps(4))
    x = b.both(b.input((2, 2, 8, 8)))
    plain = b.known(net.op("Conv", x, weight, pads=[1] * 4), (1,))
    grouped = b.known(net.op("Conv", net.op("Concat", x, x, axis=1), weight, pads=[1] * 4, group=2), (1,))
    return b.end(b.quantize(b.conv(b.both(net.op("Add", plain, grouped)), 4, 4)))


@add(0, "a known non-zero channel stays: weights of integers take up no factor of another channel")
def qdq_constant() -> Net:
    return qdq_chain(conv1={"constant": KNOWN, "dead": ()}, middle=lambda b, t: b.known(t))


@add(4 * (CHANNEL + 1), "live filters whose largest value stays below half a step: the quantizer rounds them to zero")
def qdq_rounds_to_zero() -> Net:
    b = Quantized()
    t = b.both(b.input(), 2.0**-12)
    gain = np.where(np.isin(np.arange(8), DEAD), 0.0, 2.0**8).reshape(8, 1, 1) + 2.0**-12
    t = b.net.op("Mul", b.conv(t, 3, 8, bias=np.zeros(8), scale=2.0**-12), b.net.const(gain))
    return b.end(b.quantize(b.conv(b.known(b.both(t)), 8, 4)))


def low_bias() -> np.ndarray:
    """In units of STEP * WEIGHT: so low at DEAD that nothing lifts the sum above zero."""
    return np.where(np.isin(np.arange(8), DEAD), -(2**22), 77)


@add(4 * CHANNEL, "no input lifts the sum above the least integer, which stands for zero")
def qdq_saturates() -> Net:
    b = Quantized(zero=0)
    t = b.conv(b.both(b.input()), 3, 8, bias=low_bias())
    return b.end(b.quantize(b.conv(b.known(b.both(t)), 8, 4)))


def heads(integers: bool, bias: int) -> Net:
    """A backbone with two heads, of which one is too low or too high for its quantizer whatever the input."""
    b = Quantized(zero=0)
    low = np.full(4, bias)
    if integers:
        t = b.qconv(b.quantize(b.input()), 3, 8)
        ends = [b.qconv(t, 8, 4), b.known(b.qconv(t, 8, 4, bias=low), range(4))]
    else:
        t = b.both(b.conv(b.both(b.input()), 3, 8))
        ends = [b.quantize(b.conv(t, 8, 4)), b.known(b.quantize(b.conv(t, 8, 4, bias=low)), range(4))]
    for name, q in zip(("y", "dead"), ends, strict=True):
        b.net.output(b.dequantize(q, name=name))
        b.net.declared[name] = (2, 4, 8, 8)
    return b.net


@add(4 * 73 + 8 - 512, "a dead head: nothing reaches the least integer; its 512 numbers are written out")
def qdq_dead_head() -> Net:
    return heads(False, -(2**22))


@add(4 * 73 + 8 - 512, "a dead head of integers: everything is above the largest")
def qlinear_dead_head() -> Net:
    return heads(True, 2**22)


@add(4 * CHANNEL, "a quantizer of com.microsoft, as TensorFlow graphs with int16 have them")
def qdq_microsoft() -> Net:
    b = Quantized()
    t = b.conv(b.both(b.input()), 3, 8, dead=DEAD)
    q = b.net.op("QuantizeLinear", t, *b.steps(), domain=MICROSOFT)
    t = b.net.op("DequantizeLinear", q, *b.steps(), domain=MICROSOFT)
    return b.end(b.quantize(b.conv(b.known(t), 8, 4)))


def fake_quantized(masked: bool) -> Net:
    """Float weights through Q and DQ; `masked`: behind a product with a mask, which has the zeros."""
    b = Quantized()

    def fake(array: np.ndarray, dead: Iterable[int] = ()) -> str:
        zero = b.raw(np.zeros(array.shape[0], np.int8))
        scale = b.raw(np.full(array.shape[0], WEIGHT, np.float32))
        mask = np.ones((array.shape[0], 1, 1, 1))
        mask[list(dead)] = 0
        weight = b.net.const(array * WEIGHT * (1 if masked else mask))
        weight = b.net.op("Mul", weight, b.net.const(mask)) if masked else weight
        q = b.net.op("QuantizeLinear", weight, scale, zero, axis=0)
        return b.net.op("DequantizeLinear", q, scale, zero, axis=0)

    first, second = (b.filters(*widths, 3, 1, (), ()).astype(float) for widths in ((3, 8), (8, 4)))
    bias = np.where(np.isin(np.arange(8), DEAD), 0.0, 0.5)
    t = b.net.op("Conv", b.both(b.input()), fake(first, DEAD), b.net.const(bias), pads=[1] * 4)
    t = b.known(b.both(t))
    return b.end(b.quantize(b.net.op("Conv", t, fake(second), b.net.const(np.zeros(4)), pads=[1] * 4)))


@add(4 * (CHANNEL + 2), "fake quantization: float weights through Q and DQ, as training with quantizers exports them")
def qdq_fake() -> Net:
    return fake_quantized(masked=False)


@add(4 * (CHANNEL + 3), "the same with a mask of pruning")
def qdq_fake_masked() -> Net:
    return fake_quantized(masked=True)


@add(4 * (16 + 4 + 4 + 5), "weights in blocks: rows go, the axis of the blocks stays whole")
def qdq_blocks() -> Net:
    b = Quantized(opset=21, ir_version=10)
    net = b.net
    weight = net.rng.integers(-7, 8, (16, 16)).astype(np.int8)
    weight[weight == 0] = 1
    weight[list(DEAD)] = 0
    scale, zero = np.full((16, 4), WEIGHT, np.float32), np.zeros((16, 4), np.int8)
    operands = [b.raw(weight), b.raw(scale), b.raw(zero)]
    first = net.op("DequantizeLinear", *operands, axis=1, block_size=4)
    t = net.op("Gemm", net.input("x", (5, 16)), first, transB=1)
    t = net.known(net.op("Relu", t), DEAD)
    second = net.rng.integers(-7, 8, (16, 5)).astype(np.float32)
    return net.output(net.op("MatMul", t, net.const(second), name="y"))


# --- operators of integers


def q_chain(middle=None, *, width: int = 8, out: tuple = (2, 4, 8, 8), conv1=None, conv2=None, **options) -> Net:
    """x -> Q -> QLinearConv(3, 8) -> middle -> QLinearConv(width, 4) -> DQ."""
    b = Quantized(**options)
    q = b.qconv(b.quantize(b.input()), 3, 8, **{"dead": DEAD, **(conv1 or {})})
    q = middle(b, q) if middle else b.known(q)
    return b.end(b.qconv(q, width, 4, **(conv2 or {})), shape=out)


@add(4 * CHANNEL, "QLinearConv: zero filters, channels that equal the zero point, which is also what borders hold")
def qlinear_conv() -> Net:
    return q_chain()


@add(4 * (CHANNEL + 2), "the same with a scale and zero point for each filter")
def qlinear_conv_per_channel() -> Net:
    return q_chain(per_channel=True)


@add(4 * CHANNEL, "weights of type uint8 with a zero point")
def qlinear_conv_asymmetric() -> Net:
    return q_chain(offset=119)


@add(4 * CHANNEL, "columns that no filter reads")
def qlinear_conv_unread() -> Net:
    return q_chain(lambda b, q: b.net.unread(q, DEAD), conv1={"dead": ()}, conv2={"unread": DEAD})


@add(0, "known non-zero channels stay")
def qlinear_conv_constant() -> Net:
    return q_chain(conv1={"dead": (), "constant": KNOWN})


@add(4 * CHANNEL, "no input lifts the sum above the least integer")
def qlinear_conv_saturates() -> Net:
    return q_chain(conv1={"bias": low_bias(), "dead": ()}, zero=0)


@add(4 * (CHANNEL + 10), "a depthwise QLinearConv")
def qlinear_conv_depthwise() -> Net:
    return q_chain(lambda b, q: b.known(b.qconv(q, 8, 8, group=8, bias=b.biases(8, DEAD, {}))))


@add(4 * (28 + 36 + 1 + 36), "a whole group of a QLinearConv goes")
def qlinear_conv_group() -> Net:
    dead = (4, 5, 6, 7)
    return q_chain(lambda b, q: b.known(b.qconv(q, 8, 8, group=2, dead=dead), dead), conv1={"dead": dead})


@add(4 * CHANNEL + 8 * 37 - 4 * 19, "uint8 weights in groups: two inputs and two outputs of each go, at other places")
def qlinear_conv_group_even() -> Net:
    dead = (0, 3, 5, 6)
    return q_chain(lambda b, q: b.known(b.qconv(q, 8, 8, group=2, dead=dead), dead), conv1={"dead": dead}, offset=119)


def microsoft(b: Quantized, op: str, *inputs: str, scale: float = STEP, **attributes: object) -> str:
    """An operator of com.microsoft between quantized tensors: each input with its steps, then those of the output."""
    operands = [name for q in inputs for name in (q, *b.steps())]
    return b.net.op(op, *operands, *b.steps(scale), domain=MICROSOFT, **attributes)


@add(4 * (28 + CHANNEL), "a sum of integers, dead in both")
def qlinear_add() -> Net:
    def middle(b: Quantized, q: str) -> str:
        other = b.qconv(b.net.nodes[0].output[0], 3, 8, dead=DEAD)
        return b.known(microsoft(b, "QLinearAdd", q, other, scale=STEP))

    return q_chain(middle)


@add(0, "a sum of integers, live in one")
def qlinear_add_live() -> Net:
    return q_chain(lambda b, q: microsoft(b, "QLinearAdd", q, b.qconv(b.net.nodes[0].output[0], 3, 8)))


@add(4 * (28 + CHANNEL), "a product of integers, dead in one: the other is not read there")
def qlinear_mul() -> Net:
    def middle(b: Quantized, q: str) -> str:
        other = b.net.unread(b.qconv(b.net.nodes[0].output[0], 3, 8), DEAD)
        return b.known(microsoft(b, "QLinearMul", q, other))

    return q_chain(middle)


@add(4 * CHANNEL, "zero stays zero through LeakyRelu")
def qlinear_leaky_relu() -> Net:
    return q_chain(lambda b, q: b.known(microsoft(b, "QLinearLeakyRelu", q, alpha=0.125)))


@add(0, "Sigmoid of zero is a half: a known channel that is not zero stays")
def qlinear_sigmoid() -> Net:
    return q_chain(lambda b, q: b.known(microsoft(b, "QLinearSigmoid", q)))


@add(4 * CHANNEL, "Sigmoid of what is low enough rounds to zero")
def qlinear_sigmoid_zero() -> Net:
    dead = np.isin(np.arange(8), DEAD)
    return q_chain(
        lambda b, q: b.known(microsoft(b, "QLinearSigmoid", q, scale=2.0**-4)),
        conv1={"dead": DEAD, "bias": np.where(dead, -(2**12), 77)},
    )


@add(4 * (28 + CHANNEL), "both sides of Where are dead")
def qlinear_where() -> Net:
    def middle(b: Quantized, q: str) -> str:
        x = b.net.nodes[0].output[0]
        condition = b.net.op("Greater", b.net.op("DequantizeLinear", x, *b.steps()), b.net.const(0.0))
        condition = b.net.op("Slice", condition, *(b.net.const(np.array([n])) for n in (0, 1, 1)))
        other = b.qconv(x, 3, 8, dead=DEAD)
        operands = [condition, q, *b.steps(), other, *b.steps(), *b.steps()]
        return b.known(b.net.op("QLinearWhere", *operands, domain=MICROSOFT))

    return q_chain(middle)


@add(4 * CHANNEL + 8 * CHANNEL, "of three inputs one is dead in part and one throughout: that leaves with its steps")
def qlinear_concat() -> Net:
    def middle(b: Quantized, q: str) -> str:
        x = b.net.nodes[0].output[0]
        none, live = b.qconv(x, 3, 8, dead=range(8)), b.qconv(x, 3, 8)
        inputs = [name for part in (q, none, live) for name in (part, *b.steps())]
        joined = b.net.op("QLinearConcat", *b.steps(STEP * 2), *inputs, axis=1, domain=MICROSOFT)
        return b.net.op("QuantizeLinear", b.dequantize(b.known(joined, (*DEAD, *range(8, 16))), STEP * 2), *b.steps())

    return q_chain(middle, width=24)


@add(4 * CHANNEL, "a padded average that counts the border, which holds zeros")
def qlinear_average_pool() -> Net:
    window = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1}
    return q_chain(lambda b, q: b.known(microsoft(b, "QLinearAveragePool", q, **window)))


@add(4 * (28 + 5), "channels pooled and flattened into the features of a QGemm")
def qlinear_global_pool_gemm() -> Net:
    b = Quantized()
    q = b.qconv(b.quantize(b.input()), 3, 8, dead=DEAD)
    q = b.known(b.net.op("Flatten", b.known(microsoft(b, "QLinearGlobalAveragePool", q))))
    weight = b.raw(b.net.rng.integers(-7, 8, (5, 8)).astype(np.int8))
    operands = [q, *b.steps(), weight, *b.weight_steps(5), b.raw(b.biases(5, (), {})), *b.steps()]
    return b.end(b.net.op("QGemm", *operands, transB=1, domain=MICROSOFT), shape=(2, 5))


@add(4 * (28 + 36), "Softmax over space leaves channels alone, but zeros come out as a known value that stays unread")
def qlinear_softmax() -> Net:
    return q_chain(
        lambda b, q: b.net.unread(microsoft(b, "QLinearSoftmax", q, scale=2.0**-8, axis=3, opset=13), DEAD),
        conv1={"dead": ()},
        conv2={"unread": DEAD, "bias": np.zeros(4)},
    )


def product(op: str, **options: object) -> Net:
    """x -> Q -> QLinearMatMul(6, 8) -> `op`(8, 5) -> y: dead columns, and the rows that read them."""
    b = Quantized(**options)
    net = b.net
    left = net.rng.integers(-7, 8, (6, 8)).astype(np.int8)
    left[left == 0] = 1
    left[:, list(DEAD)] = 0
    operands = [b.quantize(b.input((2, 3, 6))), *b.steps(), b.raw(left), *b.weight_steps(8), *b.steps()]
    q = b.known(net.op("QLinearMatMul", *operands), axis=2)
    right = b.raw(net.rng.integers(-7, 8, (8, 5)).astype(np.int8))
    zero = b.steps()[1]
    scale, offset = b.weight_steps(5)
    if op == "QLinearMatMul":
        return b.end(net.op(op, q, *b.steps(), right, scale, offset, *b.steps()), shape=(2, 3, 5))
    if op == "MatMulInteger":
        return net.output(net.op("Cast", net.op(op, q, right, zero, offset), to=1, name="y"))
    bias = net.const(net.normal(5))
    net.declared["y"] = (2, 3, 5)
    return net.output(
        net.op(op, q, right, b.raw(np.array(STEP, np.float32)), scale, zero, offset, bias, domain=MICROSOFT, name="y")
    )


@add(4 * (6 + 5), "QLinearMatMul")
def qlinear_matmul() -> Net:
    return product("QLinearMatMul")


@add(4 * (6 + 5 + 2), "QLinearMatMul with a scale for each column")
def qlinear_matmul_per_column() -> Net:
    return product("QLinearMatMul", per_channel=True)


@add(4 * CHANNEL, "channels are rows of a QLinearMatMul along the last axis: what is known of one stays known")
def qlinear_matmul_rows() -> Net:
    def middle(b: Quantized, q: str) -> str:
        weight = b.raw(b.net.rng.integers(-7, 8, (8, 8)).astype(np.int8))
        return b.known(b.net.op("QLinearMatMul", q, *b.steps(), weight, *b.weight_steps(8), *b.steps()))

    return q_chain(middle)


@add(4 * (6 + 4 + 5), "a QGemm whose bias has a row for each row of the result")
def qgemm_bias_of_rows() -> Net:
    b = Quantized()
    net = b.net
    left, bias = net.rng.integers(1, 8, (6, 8)).astype(np.int8), net.rng.integers(-90, 90, (4, 8)).astype(np.int32)
    left[:, list(DEAD)], bias[:, list(DEAD)] = 0, 0
    x = b.quantize(b.input((4, 6)))
    q = net.op("QGemm", x, *b.steps(), b.raw(left), *b.weight_steps(8), b.raw(bias), *b.steps(), domain=MICROSOFT)
    right = b.raw(net.rng.integers(1, 8, (8, 5)).astype(np.int8))
    return b.end(net.op("QLinearMatMul", b.known(q), *b.steps(), right, *b.weight_steps(5), *b.steps()), shape=(4, 5))


@add(4 * (6 + 5), "MatMulInteger")
def matmul_integer() -> Net:
    return product("MatMulInteger")


@add(4 * (6 + 5), "MatMulIntegerToFloat")
def matmul_integer_to_float() -> Net:
    return product("MatMulIntegerToFloat")


def dynamic(relu: bool, live: bool = False) -> Net:
    """x -> Conv(3, 8) -> DynamicQuantizeLinear -> ConvInteger(8, 4) -> y, as dynamic quantizers write it."""
    b = Quantized()
    net = b.net
    weight = b.filters(3, 8, 3, 1, DEAD, ()).astype(np.float32) * WEIGHT
    bias = np.where(np.isin(np.arange(8), DEAD), 5.0 if live else 0.0, net.normal(8))
    x = b.both(b.input())
    t = b.known(net.op("Conv", x, net.const(weight), net.const(bias), pads=[1] * 4))
    q = net.op("DynamicQuantizeLinear", net.op("Relu", t) if relu else t, count=3)
    taps = b.raw(b.filters(8, 4, 3, 1, (), ()))
    y = net.op("ConvInteger", q, taps, f"{q}:2", b.raw(np.zeros((), np.int8)), pads=[1] * 4)
    return net.output(net.op("Mul", net.op("Cast", y, to=1), f"{q}:1", name="y"))


@add(4 * CHANNEL, "quantized by the range of what is there, which always includes zero")
def dynamic_quantizer() -> Net:
    return dynamic(relu=False)


@add(4 * CHANNEL, "the same behind a Relu, where the zero point itself is known")
def dynamic_quantizer_relu() -> Net:
    return dynamic(relu=True)


@add(0, "a constant that is not zero may be what the range ends at")
def dynamic_quantizer_constant() -> Net:
    return dynamic(relu=False, live=True)


@add(0, "a weight that is quantized by its range at run time: what it loses may be what the range ends at")
def dynamic_quantizer_weight() -> Net:
    b = Quantized()
    net = b.net
    q = b.known(b.qconv(b.quantize(b.input()), 3, 8, dead=DEAD))
    weight = net.normal(4, 8, 3, 3)
    weight[:, DEAD[1]] *= 3
    w = net.op("DynamicQuantizeLinear", net.const(weight), count=3)
    y = net.op("ConvInteger", q, w, b.steps()[1], f"{w}:2", pads=[1] * 4)
    return net.output(net.op("Mul", net.op("Cast", y, to=1), f"{w}:1", name="y"))


@add(4 * (6 + 1 + 5), "a product that quantizes its input itself")
def dynamic_quantize_matmul() -> Net:
    b = Quantized()
    net = b.net
    left = net.normal(6, 8)
    left[:, list(DEAD)] = 0
    bias = np.where(np.isin(np.arange(8), DEAD), 0.0, net.normal(8))
    t = net.op("Gemm", net.input("x", (5, 6)), net.const(left), net.const(bias))
    right = b.raw(net.rng.integers(-7, 8, (8, 5)).astype(np.int8))
    scale, offset = b.weight_steps(5)
    net.declared["y"] = (5, 5)
    return net.output(net.op("DynamicQuantizeMatMul", b.known(t), right, scale, offset, domain=MICROSOFT, name="y"))


@add(4 * (32 + 2 + 4), "columns of a packed weight of four bits that nobody reads: bytes, scales, and rows behind them")
def matmul_n_bits() -> Net:
    b = Quantized()
    net = b.net
    packed = b.raw(net.rng.integers(0, 256, (8, 2, 16)).astype(np.uint8))
    scales = net.const(net.rng.uniform(0.5, 1.5, (8, 2)) * 2.0**-4)
    sizes = {"K": 64, "N": 8, "bits": 4, "block_size": 32}
    t = net.op("MatMulNBits", net.input("x", (5, 64)), packed, scales, domain=MICROSOFT, **sizes)
    right = net.normal(8, 4)
    right[list(DEAD)] = 0
    net.declared["y"] = (5, 4)
    return net.output(net.op("MatMul", net.unread(t, DEAD), net.const(right), name="y"))


@add(0, "weights of two bits and less have rules of their own in each runtime: these stay")
def matmul_bnb4() -> Net:
    b = Quantized()
    net = b.net
    packed, largest = (
        b.raw(net.rng.integers(0, 256, 8 * 64 // 2).astype(np.uint8)),
        net.const(net.rng.uniform(0.5, 1, 16)),
    )
    sizes = {"K": 64, "N": 8, "block_size": 32, "quant_type": 1}
    t = net.op("MatMulBnb4", net.input("x", (5, 64)), packed, largest, domain=MICROSOFT, **sizes)
    right = net.normal(8, 4)
    right[list(DEAD)] = 0
    net.declared["y"] = (5, 4)
    return net.output(net.op("MatMul", net.unread(t, DEAD), net.const(right), name="y"))
