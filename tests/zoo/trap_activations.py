"""Traps: what an activation makes of a channel that is zero."""

from __future__ import annotations

import numpy as np

from .net import Net
from .trap import Family, chain, chain_cut

TRAPS = Family()

# operator -> (attributes, first opset); each maps 0 to 0, so the channel goes and nothing stays
KEEP_ZERO = {
    "Relu": ({}, 17),
    "LeakyRelu": ({"alpha": 0.1}, 17),
    "Elu": ({"alpha": 1.5}, 17),
    "Selu": ({}, 17),
    "Celu": ({"alpha": 1.5}, 17),
    "ThresholdedRelu": ({"alpha": 0.3}, 17),
    "Tanh": ({}, 17),
    "Abs": ({}, 17),
    "Neg": ({}, 17),
    "Erf": ({}, 17),
    "Sin": ({}, 17),
    "Atan": ({}, 17),
    "Softsign": ({}, 17),
    "HardSwish": ({}, 17),
    "Mish": ({}, 18),
    "Gelu": ({}, 20),
    "Sign": ({}, 17),
    "Round": ({}, 17),
    "Identity": ({}, 17),
    "Dropout": ({}, 17),
}

# operator -> attributes; each maps 0 to something else, so a zero-padded consumer needs one carrier channel
MOVE_ZERO = {
    "Sigmoid": {},
    "HardSigmoid": {"alpha": 0.2, "beta": 0.5},
    "Softplus": {},
    "Exp": {},
    "Cos": {},
}


def unary(op_type: str, attributes: dict) -> object:
    return lambda net, t: net.op(op_type, t, **attributes)


def clip(low: float | None, high: float | None) -> object:
    def middle(net: Net, t: str) -> str:
        bounds = ["" if bound is None else net.const(bound) for bound in (low, high)]
        return net.op("Clip", t, *bounds)

    return middle


for op_type, (attributes, opset) in KEEP_ZERO.items():
    TRAPS.add(chain_cut(4), f"{op_type}(0) = 0", name=f"act_{op_type}")(
        lambda op_type=op_type, attributes=attributes, opset=opset: chain(unary(op_type, attributes), opset=opset)
    )

for op_type, attributes in MOVE_ZERO.items():
    TRAPS.add(chain_cut(3), f"{op_type}(0) is not 0: a carrier for the zero-padded Conv", name=f"act_{op_type}")(
        lambda op_type=op_type, attributes=attributes: chain(unary(op_type, attributes))
    )
    TRAPS.add(chain_cut(4), f"{op_type}(0) folds into the bias of an unpadded Conv", name=f"act_{op_type}_pad0")(
        lambda op_type=op_type, attributes=attributes: chain(unary(op_type, attributes), pad=0)
    )


@TRAPS.add(chain_cut(4), "Clip(0, 0, 6) = 0")
def act_Clip_0_6() -> Net:
    return chain(clip(0.0, 6.0))


@TRAPS.add(chain_cut(4), "an absent minimum is no minimum")
def act_Clip_max_only() -> Net:
    return chain(clip(None, 6.0))


@TRAPS.add(chain_cut(4), "before opset 11 the bounds are attributes")
def act_Clip_opset6() -> Net:
    return chain(lambda net, t: net.op("Clip", t, min=0.0, max=6.0), opset=9)


@TRAPS.add(chain_cut(3), "Clip(0, 1, 6) = 1")
def act_Clip_1_6() -> Net:
    return chain(clip(1.0, 6.0))


@TRAPS.add(chain_cut(4), "Clip(0, 1, 6) = 1 folds into the bias of an unpadded Conv")
def act_Clip_1_6_pad0() -> Net:
    return chain(clip(1.0, 6.0), pad=0)


@TRAPS.add(chain_cut(3), "Clip(0, max = -0.5) = -0.5")
def act_Clip_negative_max() -> Net:
    return chain(clip(None, -0.5))


@TRAPS.add(chain_cut(4), "Dropout with a second output, the mask, that nobody reads")
def dropout_unused_mask() -> Net:
    return chain(lambda net, t: net.op("Dropout", t, count=2))


@TRAPS.add(chain_cut(4), "Dropout of opset 9 with its mask and a ratio")
def dropout_opset9() -> Net:
    return chain(lambda net, t: net.op("Dropout", t, count=2, ratio=0.5), opset=9)


@TRAPS.add(None, "the mask of Dropout is an output: all ones, as wide as before")
def dropout_visible_mask() -> Net:
    net = chain(lambda net, t: net.op("Dropout", t, count=2, name="drop"))
    return net.output("drop:1")


@TRAPS.add(chain_cut(4), "0 * Sigmoid(0) = 0: the product of a known zero and a known half")
def silu_sigmoid_mul() -> Net:
    return chain(lambda net, t: net.op("Mul", t, net.op("Sigmoid", t)))


@TRAPS.add(chain_cut(4), "0 * HardSigmoid(0) = 0")
def hardswish_decomposed() -> Net:
    return chain(lambda net, t: net.op("Mul", t, net.op("HardSigmoid", t, alpha=1 / 6, beta=0.5)))


@TRAPS.add(chain_cut(4), "0 * tanh(softplus(0)) = 0")
def mish_decomposed() -> Net:
    return chain(lambda net, t: net.op("Mul", t, net.op("Tanh", net.op("Softplus", t))))


@TRAPS.add(chain_cut(4), "x * 0.5 * (1 + erf(x / sqrt 2)), with scalar operands")
def gelu_decomposed() -> Net:
    def middle(net: Net, t: str) -> str:
        inner = net.op("Erf", net.op("Div", t, net.const(2**0.5)))
        return net.op("Mul", net.op("Mul", t, net.op("Add", inner, net.const(1.0))), net.const(0.5))

    return chain(middle)


@TRAPS.add(chain_cut(3), "relu6(x + 3) / 6 on a zero channel is 0.5")
def hardsigmoid_decomposed() -> Net:
    def middle(net: Net, t: str) -> str:
        return net.op("Div", clip(0.0, 6.0)(net, net.op("Add", t, net.const(3.0))), net.const(6.0))

    return chain(middle)


@TRAPS.add(chain_cut(4), "Sqrt(Abs(0)) = 0")
def act_sqrt_abs() -> Net:
    return chain(lambda net, t: net.op("Sqrt", net.op("Abs", t)))


@TRAPS.add(chain_cut(3), "1 / (1 + |0|) = 1")
def act_reciprocal() -> Net:
    return chain(lambda net, t: net.op("Reciprocal", net.op("Add", net.op("Abs", t), net.const(1.0))))


@TRAPS.add(None, "a zero logit still takes its share of the sum: no channel may go before a Softmax over channels")
def softmax_channel() -> Net:
    return chain(lambda net, t: net.op("Softmax", t, axis=1), still_known=False)


@TRAPS.add(None, "LogSoftmax over channels, likewise")
def logsoftmax_channel() -> Net:
    return chain(lambda net, t: net.op("LogSoftmax", t, axis=1), still_known=False)


@TRAPS.add(None, "before opset 13 Softmax flattens everything from its axis on: axis 1 is channels and pixels")
def softmax_opset11_flattens() -> Net:
    return chain(lambda net, t: net.op("Softmax", t, axis=1), still_known=False, opset=11)


@TRAPS.add(None, "Softmax over W makes 1/W of a zero channel, not 1: a collapsed fact must not be evaluated as it is")
def softmax_spatial() -> Net:
    return chain(lambda net, t: net.op("Softmax", t, axis=3))


@TRAPS.add(None, "a running sum over channels shows every later channel the earlier ones")
def cumsum_channel() -> Net:
    return chain(lambda net, t: net.op("CumSum", t, net.const(1)), still_known=False)


@TRAPS.add(None, "a norm over channels: zeros may go, but the rest must not change")
def lp_normalization_channel() -> Net:
    return chain(lambda net, t: net.op("LpNormalization", t, axis=1, p=2))


@TRAPS.add(None, "ArgMax over channels answers with an index, and a zero channel can win")
def argmax_channel() -> Net:
    def middle(net: Net, t: str) -> str:
        return net.op("Cast", net.op("ArgMax", t, axis=1, keepdims=1), to=1)

    return chain(middle, still_known=False, width=1)


@TRAPS.add(None, "TopK over channels: a zero channel can be among the largest")
def topk_channel() -> Net:
    return chain(lambda net, t: net.op("TopK", t, net.const([5]), count=2, axis=1), still_known=False, width=5)


@TRAPS.add(
    4 * 28 - 1, "a mean over channels divides by their number, of which those are a part that are not there any more"
)
def reducemean_channel() -> Net:
    return chain(lambda net, t: net.op("ReduceMean", t, axes=[1], keepdims=1), still_known=False, width=1)


@TRAPS.add(4 * 28 - 1, "a mean over channels and pixels counts both")
def reducemean_all() -> Net:
    def middle(net: Net, t: str) -> str:
        return net.op("Mul", net.op("ReduceMean", t, axes=[1, 2, 3], keepdims=1), net.const(np.ones((1, 1, 6, 6))))

    return chain(middle, still_known=False, width=1)


@TRAPS.add(4 * 28, "a sum over channels does not miss zeros")
def reducesum_channel() -> Net:
    middle = lambda net, t: net.op("ReduceSum", t, net.const([1]), keepdims=1)  # noqa: E731
    return chain(middle, still_known=False, width=1)


@TRAPS.add(2 * (8 + 1 + 36), "negative weights on inputs in [0, 1] and a negative bias: this ReLU never fires")
def relu_never_fires() -> Net:
    return bounded_then("Relu", -0.1, -1, pad=1)


@TRAPS.add(2 * (8 + 1 + 36), "small weights on inputs in [0, 1] and a bias of 20: this Clip is always at 6")
def clip_saturated() -> Net:
    return bounded_then("Clip", 20.0, 1, pad=0)


def bounded_then(op_type: str, bias: float, sign: int, pad: int) -> Net:
    """Sigmoid -> 1x1 Conv whose channels 2 and 5 leave the useful range of `op_type` -> Conv."""
    net = Net()
    t = net.op("Sigmoid", net.conv(net.input("x", (2, 3, 8, 8)), 3, 8))
    weight, values = net.filters(8, 8, 1), net.normal(8, scale=0.5)
    weight[[2, 5]], values[[2, 5]] = sign * np.abs(weight[[2, 5]]) * 0.5, bias
    t = net.op("Conv", t, net.const(weight), net.const(values))
    t = net.op("Relu", t) if op_type == "Relu" else clip(0.0, 6.0)(net, t)
    return net.output(net.conv(net.known(t, (2, 5)), 8, 4, pad=pad, name="y"))
