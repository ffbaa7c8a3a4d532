"""Traps: channels with a known value other than zero, from biases, BatchNormalization, gates, padding and rounding."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, numpy_helper

from .net import Net
from .trap import DEAD, Family, chain, chain_cut, conv_size

TRAPS = Family()

BETA = {1: 0.5, 3: 0.7, 4: -0.3, 6: 0.9}
POSITIVE = {1: 0.5, 3: 0.7, 4: 0.3, 6: 0.9}
NEGATIVE = {1: -0.5, 3: -0.7, 4: -0.3, 6: -0.9}
BN_CHANNEL = 27 + 4 + 36
"""Parameters of one middle channel: bias-free Conv(3, 8), BatchNormalization, a column of Conv(8, 4)."""


def bn_chain(
    constant: dict[int, float] | None = None, relu: bool = False, pad: int = 1, dead_filters: bool = False
) -> Net:
    """Conv without bias -> BatchNormalization [-> Relu] -> Conv."""

    def middle(net: Net, t: str) -> str:
        planted = {} if dead_filters else {"constant": constant} if constant else {"zero": DEAD}
        t = net.known(net.batch_norm(t, 8, **planted), DEAD)
        return net.op("Relu", t) if relu else t

    zero = DEAD if dead_filters else ()
    net = chain(middle, zero=zero, conv1={"bias": False}, pad=pad)
    if not dead_filters:
        net.unread(net.nodes[1].output[0], DEAD)
    return net


@TRAPS.add(4 * BN_CHANNEL, "gamma = beta = 0 closes a channel")
def bn_gamma_beta_zero() -> Net:
    return bn_chain(relu=True)


@TRAPS.add(3 * BN_CHANNEL, "gamma = 0 leaves beta: one carrier stays for the zero-padded Conv")
def bn_gamma_zero_beta_const_pad1() -> Net:
    return bn_chain(BETA)


@TRAPS.add(4 * BN_CHANNEL, "gamma = 0 leaves beta, which folds into the bias of an unpadded Conv")
def bn_gamma_zero_beta_const_pad0() -> Net:
    return bn_chain(BETA, pad=0)


@TRAPS.add(4 * BN_CHANNEL, "a negative beta is zero after the ReLU")
def bn_gamma_zero_beta_negative_relu() -> Net:
    return bn_chain(NEGATIVE, relu=True)


@TRAPS.add(3 * BN_CHANNEL, "two of the betas are zero after the ReLU, two become one carrier")
def bn_gamma_zero_beta_mixed_relu() -> Net:
    return bn_chain({1: 0.5, 3: -0.7, 4: -0.3, 6: 0.9}, relu=True)


@TRAPS.add(3 * BN_CHANNEL, "zero filters through a live BatchNormalization: beta - mean * gamma / sigma")
def conv_zero_then_bn_beta_const() -> Net:
    return bn_chain(dead_filters=True)


@TRAPS.add(chain_cut(4), "a constant input of an unpadded Conv folds into its bias")
def conv_bias_nonzero_pad0() -> Net:
    return chain(constant=BETA, pad=0)


@TRAPS.add(chain_cut(4) - 4, "the unpadded Conv has no bias to fold into: it gets one")
def conv_bias_nonzero_pad0_no_bias() -> Net:
    return chain(constant=BETA, pad=0, conv2={"bias": False})


@TRAPS.add(chain_cut(3), "a constant input of a zero-padded Conv is not constant at the border: a carrier stays")
def conv_bias_nonzero_pad1() -> Net:
    return chain(constant=BETA)


@TRAPS.add(chain_cut(3), "constants of both signs and very different size share one carrier")
def conv_bias_sizes_pad1() -> Net:
    return chain(constant={1: -100.0, 3: 1e-3, 4: 1.0, 6: 7.0})


@TRAPS.add(chain_cut(4), "negative biases are zero after the ReLU")
def conv_bias_negative_relu() -> Net:
    return chain(lambda net, t: net.op("Relu", t), constant=NEGATIVE)


@TRAPS.add(chain_cut(3), "a carrier for a strided, zero-padded Conv")
def conv_bias_stride2() -> Net:
    return chain(constant=BETA, conv2={"stride": 2}, shape=(2, 3, 9, 9))


@TRAPS.add(chain_cut(3), "a carrier for a dilated Conv")
def conv_bias_dilated() -> Net:
    return chain(constant=BETA, pad=2, conv2={"dilations": [2, 2]})


@TRAPS.add(chain_cut(3), "padding on two sides only is padding")
def conv_bias_asymmetric_pads() -> Net:
    return chain(constant=BETA, conv2={"pads": [0, 0, 1, 1]})


@TRAPS.add(chain_cut(3), "auto_pad pads as well")
def conv_bias_auto_pad() -> Net:
    return chain(constant=BETA, conv2={"auto_pad": "SAME_UPPER"})


@TRAPS.add(4 * (28 + 4), "auto_pad of a 1x1 Conv pads nothing: the constants fold")
def conv_bias_auto_pad_1x1() -> Net:
    return chain(constant=BETA, kernel=1, conv2={"auto_pad": "SAME_LOWER"})


@TRAPS.add(3 * (28 + 36 + 4), "one carrier serves the padded consumer, the bias the other")
def conv_bias_padded_and_unpadded_consumers() -> Net:
    net = chain(lambda net, t: net.op("Relu", t, name="mid"), constant=POSITIVE)
    return net.output(net.conv("mid", 8, 4, 1))


@TRAPS.add(3 * (27 + 1 + 36), "zero filters, then an Add of [1, C, 1, 1]")
def add_const_bias_after() -> Net:
    return chain(lambda net, t: net.op("Add", t, net.const(net.normal(1, 8, 1, 1))))


@TRAPS.add(3 * (27 + 1 + 36), "a constant minus a zero channel")
def rsub_const() -> Net:
    return chain(lambda net, t: net.op("Sub", net.const(net.normal(8, 1, 1)), t))


@TRAPS.add(4 * (27 + 1 + 2 + 36), "an affine Mul and Add instead of BatchNormalization, both zero on the dead channels")
def scale_shift_zero() -> Net:
    def middle(net: Net, t: str) -> str:
        scale, shift = net.normal(8, 1, 1), net.normal(1, 8, 1, 1)
        scale[list(DEAD)], shift[:, list(DEAD)] = 0, 0
        scaled = net.op("Mul", net.unread(t, DEAD), net.const(scale))
        return net.known(net.op("Add", scaled, net.const(shift)), DEAD)

    return chain(middle, zero=())


def caffe_scale(closed: float) -> Net:
    """Conv -> BatchNormalization -> Mul and Add by unsqueezed [C] parameters -> Relu -> Conv, as Caffe2 exports it.

    Two of the dead channels have zero filters besides.
    """

    def middle(net: Net, t: str) -> str:
        t = net.unread(net.batch_norm(t, 8), DEAD)
        scale, shift = net.normal(8) + 2, net.normal(8)
        scale[list(DEAD)], shift[list(DEAD)] = 0, closed
        for op_type, values in (("Mul", scale), ("Add", shift)):
            t = net.op(op_type, t, net.op("Unsqueeze", net.const(values), axes=[1, 2]))
        return net.known(net.op("Relu", t), DEAD)

    return chain(middle, zero=(1, 3), still_known=False, conv1={"bias": False}, opset=9)


@TRAPS.add(4 * (BN_CHANNEL + 2), "a Caffe scale layer, zero on the dead channels")
def caffe_scale_zero() -> Net:
    return caffe_scale(0.0)


@TRAPS.add(3 * (BN_CHANNEL + 2), "a Caffe scale layer, constant on the dead channels")
def caffe_scale_constant() -> Net:
    return caffe_scale(0.4)


# --- gates: a multiplication by a closed gate

GATE = np.array([0.0 if channel in DEAD else 0.4 + 0.1 * channel for channel in range(8)])


def gate_chain(gate) -> Net:
    """Conv -> BatchNormalization -> Mul by what `gate(net)` returns -> Conv; the gate is zero on DEAD."""

    def middle(net: Net, t: str) -> str:
        t = net.unread(net.batch_norm(t, 8), DEAD)
        return net.known(net.op("Mul", t, gate(net)), DEAD)

    return chain(middle, zero=(), conv1={"bias": False})


GATES = {
    "1c11": ("a constant [1, C, 1, 1]", lambda net: net.const(GATE.reshape(1, 8, 1, 1))),
    "c11": ("a constant [C, 1, 1], aligned from the right", lambda net: net.const(GATE.reshape(8, 1, 1))),
    "reshape": (
        "a [C] parameter reshaped in the graph",
        lambda net: net.op("Reshape", net.const(GATE), net.const([1, -1, 1, 1])),
    ),
    "unsqueeze": ("a [C] parameter unsqueezed", lambda net: net.op("Unsqueeze", net.const(GATE), net.const([1, 2]))),
    "threshold": (
        "Cast(Greater(parameter, 0))",
        lambda net: net.op(
            "Cast", net.op("Greater", net.const(GATE.reshape(1, 8, 1, 1)), net.const(0.0)), to=TensorProto.FLOAT
        ),
    ),
    "hard_concrete": (
        "Clip(1.2 * Sigmoid(parameter) - 0.1, 0, 1), the gate of L0 training",
        lambda net: hard_concrete(net),
    ),
    "full_map": (
        "a constant [1, C, H, W], all zero on the dead channels",
        lambda net: net.const(GATE.reshape(1, 8, 1, 1) * np.ones((1, 8, 8, 8))),
    ),
}


def hard_concrete(net: Net) -> str:
    parameter = np.where(GATE == 0, -8.0, 2.0).reshape(1, 8, 1, 1)
    stretched = net.op("Mul", net.op("Sigmoid", net.const(parameter)), net.const(1.2))
    shifted = net.op("Sub", stretched, net.const(0.1))
    return net.op("Clip", shifted, net.const(0.0), net.const(1.0))


for kind, (why, gate) in GATES.items():
    name = "gate_mul_const" if kind == "1c11" else f"gate_{kind}"
    TRAPS.add(4 * BN_CHANNEL, f"gate: {why}", name=name)(lambda gate=gate: gate_chain(gate))


@TRAPS.add(None, "Sigmoid(-200) is 0 in NumPy and 1.5e-8 in ONNX Runtime: equality is all that is asked")
def gate_sigmoid_closed() -> Net:
    def middle(net: Net, t: str) -> str:
        parameter = np.where(GATE == 0, -200.0, 1.0).reshape(1, 8, 1, 1)
        return net.op("Mul", t, net.op("Sigmoid", net.const(parameter)))

    return chain(middle, zero=())


@TRAPS.add(chain_cut(4), "Where(mask, x, 0) with a constant mask over channels")
def gate_where() -> Net:
    def middle(net: Net, t: str) -> str:
        mask = net.const((GATE != 0).reshape(1, 8, 1, 1))
        t = net.unread(net.op("Relu", t), DEAD)
        return net.known(net.op("Where", mask, t, net.const(0.0)), DEAD)

    return chain(middle, zero=())


@TRAPS.add(0, "a mask over pixels closes pixels, not channels")
def gate_pixels() -> Net:
    def middle(net: Net, t: str) -> str:
        return net.op("Mul", t, net.const((net.rng.random((1, 1, 8, 8)) > 0.5) * 1.0))

    return chain(middle, zero=())


@TRAPS.add(None, "a gate over the batch axis, the same length as the channel axis")
def gate_batch_axis() -> Net:
    return chain(lambda net, t: net.op("Mul", t, net.const(GATE.reshape(8, 1, 1, 1))), zero=(), shape=(8, 3, 8, 8))


@TRAPS.add(808 - 80, "a gate of scalar 0: the second layer sees only zeros")
def gate_scalar_zero() -> Net:
    def middle(net: Net, t: str) -> str:
        t = net.op("Mul", t, net.const(0.0))
        return net.conv(net.known(t, range(8)), 8, 8)

    return chain(middle, zero=(), kernel=1)


# --- small, but is it nothing?


@TRAPS.add(chain_cut(2), "filters underflowed to 1e-30 by weight decay", negligible=True)
def negligible_filters() -> Net:
    net = chain(zero=())
    return shrink_filters(net, (2, 5), 1e-30)


@TRAPS.add(0, "1e-12 times 1e12 is 1: what looks negligible is amplified later", negligible=True)
def negligible_amplified() -> Net:
    def middle(net: Net, t: str) -> str:
        gain = np.ones((1, 8, 1, 1))
        gain[:, [2, 5]] = 1e12
        return net.op("Mul", t, net.const(gain))

    return shrink_filters(chain(middle, zero=()), (2, 5), 1e-12)


@TRAPS.add(0, "InstanceNormalization brings a channel of size 1e-9 back to 1 where epsilon is smaller", negligible=True)
def negligible_instancenorm() -> Net:
    def middle(net: Net, t: str) -> str:
        return net.op("InstanceNormalization", t, net.const(np.ones(8)), net.const(np.zeros(8)), epsilon=1e-20)

    return shrink_filters(chain(middle, zero=()), (2, 5), 1e-9)


def shrink_filters(net: Net, channels: tuple[int, ...], scale: float) -> Net:
    """Scales filters and biases of the first Conv of `net`; the live ones are O(1)."""
    for tensor in net.initializers[:2]:
        array = numpy_helper.to_array(tensor).copy()
        array[list(channels)] *= np.float32(scale)
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    return net


@TRAPS.add(0, "filters whose weights sum to zero are not zero")
def cancelling_filters() -> Net:
    net = Net()
    x = net.input("x", (2, 3, 8, 8))
    weight = net.filters(3, 8, 3)
    weight[[1, 3]] -= weight[[1, 3]].mean(axis=(1, 2, 3), keepdims=True)
    t = net.op("Conv", x, net.const(weight), net.const(np.zeros(8)), pads=[1, 1, 1, 1])
    return net.output(net.conv(net.op("Relu", t), 8, 4, name="y"))


# --- whole layers


@TRAPS.add(conv_size(3, 8) + conv_size(8, 8), "a whole middle layer is zero: the output is the last bias")
def conv_channels_all_zero_mid() -> Net:
    return dead_layer({})


@TRAPS.add(
    conv_size(3, 8) + conv_size(8, 8) - conv_size(1, 1) - 28, "a whole middle layer is constant, padding follows"
)
def conv_channels_all_constant_mid() -> Net:
    return dead_layer({channel: 0.3 * channel - 1 for channel in range(8)})


def dead_layer(constant: dict[int, float]) -> Net:
    net = Net()
    t = net.unread(net.op("Relu", net.conv(net.input("x", (2, 3, 8, 8)), 3, 8)), range(8))
    t = net.known(net.conv(t, 8, 8, zero=() if constant else range(8), constant=constant), range(8))
    return net.output(net.conv(t, 8, 4, name="y"))


@TRAPS.add(chain_cut(4), "zero filters of the last Conv stay: the output has its shape")
def output_conv_zero() -> Net:
    return chain(conv2={"zero": (0, 2)})


@TRAPS.add(7 * 64, "all filters of the last Conv are zero: nothing before it is read")
def output_conv_all_zero() -> Net:
    return chain(zero=(), conv2={"constant": {0: 1.0, 1: -2.0, 2: 0.5, 3: 3.0}})


@TRAPS.add(0, "nothing is dead")
def all_live() -> Net:
    return chain(lambda net, t: net.op("Relu", t), zero=())
