"""Traps: what operators said otherwise in older opsets: attributes that became operands, and other meanings."""

from __future__ import annotations

import numpy as np

from .net import Net
from .trap import DEAD, Family, chain, chain_cut

TRAPS = Family()


def old(opset: int) -> dict[str, int]:
    return {"opset": opset, "ir_version": 8}


@TRAPS.add(chain_cut(4), "Upsample has its scales in an attribute")
def upsample_opset7() -> Net:
    return chain(lambda net, t: net.op("Upsample", t, scales=[1.0, 1.0, 2.0, 2.0], mode="nearest"), **old(7))


@TRAPS.add(chain_cut(3), "Pad has pads and value in attributes; the padded channels are not constant")
def pad_opset7() -> Net:
    def middle(net: Net, t: str) -> str:
        return net.op("Relu", net.op("Pad", t, pads=[0, 0, 1, 1, 0, 0, 1, 1], value=0.0, mode="constant"))

    return chain(middle, zero=(1, 3, 4), **old(7))


@TRAPS.add(0, "Pad with a value that the channels do not have: constant inside, something else at the border")
def pad_value_opset7() -> Net:
    def middle(net: Net, t: str) -> str:
        return net.op("Pad", t, pads=[0, 0, 1, 1, 0, 0, 1, 1], value=0.5, mode="constant")

    return chain(middle, zero=(), constant={1: 1.0, 4: -2.0}, still_known=False, **old(7))


@TRAPS.add(None, "Slice and Split along channels, with attributes")
def split_slice_opset7() -> Net:
    def middle(net: Net, t: str) -> str:
        first = net.op("Split", t, count=2, axis=1, split=[4, 4])
        half = net.op("Slice", t, axes=[1], starts=[2], ends=[6])
        return net.op("Concat", net.op("Add", first, f"{first}:1"), half, axis=1)

    return chain(middle, zero=(1, 3, 5, 7), still_known=False, **old(7))


@TRAPS.add(chain_cut(4), "Squeeze, Unsqueeze and ReduceMean with attributes")
def axes_opset7() -> Net:
    def middle(net: Net, t: str) -> str:
        gate = net.op("ReduceMean", t, axes=[2, 3], keepdims=0)
        gate = net.op("Unsqueeze", net.op("Squeeze", net.op("Unsqueeze", gate, axes=[2]), axes=[2]), axes=[2, 3])
        return net.op("Mul", t, net.op("Sigmoid", gate))

    return chain(middle, **old(7))


@TRAPS.add(chain_cut(4), "Dropout with an attribute, BatchNormalization that says that it is spatial")
def dropout_batch_norm_opset7() -> Net:
    def middle(net: Net, t: str) -> str:
        normed = net.batch_norm(t, 8, zero=DEAD)
        return net.op("Dropout", normed, ratio=0.3)

    return chain(middle, **old(7))


@TRAPS.add(None, "a BatchNormalization with one scale for each pixel")
def batch_norm_for_each_pixel() -> Net:
    def middle(net: Net, t: str) -> str:
        shape = (8, 8, 8)
        scale, bias, mean = net.normal(*shape), net.normal(*shape), net.normal(*shape)
        scale[list(DEAD)], bias[list(DEAD)] = 0, 0
        values = [net.const(array) for array in (scale, bias, mean, net.rng.uniform(0.5, 1.5, shape))]
        return net.op("BatchNormalization", t, *values, spatial=0)

    return chain(middle, **old(7))


@TRAPS.add(chain_cut(3), "Clip with bounds in attributes, above zero")
def clip_opset7() -> Net:
    return chain(lambda net, t: net.op("Clip", t, min=0.5, max=6.0), **old(7))


@TRAPS.add(chain_cut(4), "nearest Resize at opset 10, without a way to say how coordinates map")
def resize_opset10() -> Net:
    scales = np.array([1.0, 1.0, 2.0, 2.0])
    return chain(lambda net, t: net.op("Resize", t, net.const(scales), mode="nearest"), **old(10))


@TRAPS.add(chain_cut(4), "Resize at opset 11 must name a region of interest, even an empty one")
def resize_opset11() -> Net:
    def middle(net: Net, t: str) -> str:
        scales = net.const(np.array([1.0, 1.0, 2.0, 2.0]))
        return net.op("Resize", t, net.const(np.zeros(0)), scales, mode="linear")

    return chain(middle, **old(11))


@TRAPS.add(chain_cut(4), "Resize at opset 19 with axes and another mode for its sizes")
def resize_opset19() -> Net:
    def middle(net: Net, t: str) -> str:
        sizes = net.const(np.array([12, 12]))
        options = {"axes": [2, 3], "keep_aspect_ratio_policy": "not_larger", "mode": "nearest"}
        return net.op("Resize", t, "", "", sizes, **options)

    return chain(middle, opset=19, ir_version=9)


@TRAPS.add(0, "Softmax over all but the first axes: a zero channel is part of every sum")
def softmax_opset12() -> Net:
    return chain(lambda net, t: net.op("Softmax", t, axis=1), still_known=False, **old(12))


@TRAPS.add(chain_cut(4), "Pad at opset 18 with axes")
def pad_opset18() -> Net:
    def middle(net: Net, t: str) -> str:
        return net.op("Pad", t, net.const(np.array([1, 1, 1, 1])), "", net.const(np.array([2, 3])))

    return chain(middle, opset=18)


@TRAPS.add(None, "Split at opset 18 into a number of outputs")
def split_opset18() -> Net:
    def middle(net: Net, t: str) -> str:
        first = net.op("Split", t, count=2, axis=1, num_outputs=2)
        return net.op("Concat", f"{first}:1", first, axis=1)

    return chain(middle, still_known=False, opset=18)
