"""Traps: operators that hard-code or compute shapes, resize, pad and pool; dynamic dimensions."""

from __future__ import annotations

import numpy as np
from onnx import numpy_helper

from .net import Net
from .trap import DEAD, Family, chain, chain_cut

TRAPS = Family()

BETA = {1: 0.5, 3: 0.7, 4: 0.3, 6: 0.9}
SHAPE = (2, 3, 8, 8)
TWO_SIZES = ({"H": 8, "W": 8}, {"H": 11, "W": 6})
BATCHES = ({"N": 1}, {"N": 3})


# --- Resize


def resize(net: Net, t: str, scales=None, sizes=None, **attributes) -> str:
    operands = [net.const(np.array(scales))] if scales is not None else ["", net.const(sizes)]
    attributes.setdefault("mode", "nearest")
    if attributes["mode"] == "nearest" and "nearest_mode" not in attributes:
        attributes.update(nearest_mode="floor", coordinate_transformation_mode="asymmetric")
    return net.op("Resize", t, "", *operands, **attributes)


@TRAPS.add(chain_cut(4), "scales of 1 on batch and channels", name="resize")
def resize_scales() -> Net:
    return chain(lambda net, t: resize(net, t, scales=[1.0, 1.0, 2.0, 2.0]))


@TRAPS.add(chain_cut(4), "sizes name the channel count: [2, 8, 16, 16]")
def resize_sizes() -> Net:
    return chain(lambda net, t: resize(net, t, sizes=[2, 8, 16, 16]))


@TRAPS.add(chain_cut(4), "bilinear, with sizes")
def resize_linear() -> Net:
    return chain(lambda net, t: resize(net, t, sizes=[2, 8, 13, 5], mode="linear"))


@TRAPS.add(chain_cut(3), "a constant plane stays constant; a carrier for the padded Conv")
def resize_constant() -> Net:
    return chain(lambda net, t: resize(net, t, scales=[1.0, 1.0, 2.0, 2.0]), constant=BETA)


@TRAPS.add(None, "bicubic weights add up to 1 only up to rounding")
def resize_cubic_constant() -> Net:
    return chain(
        lambda net, t: resize(net, t, scales=[1.0, 1.0, 2.0, 2.0], mode="cubic"), constant=BETA, still_known=False
    )


@TRAPS.add(chain_cut(4), "with axes = [2, 3] no channel count is named")
def resize_axes() -> Net:
    return chain(lambda net, t: resize(net, t, sizes=[16, 16], axes=[2, 3]), opset=18)


@TRAPS.add(None, "cropping and resizing with an extrapolation value: zero channels are not zero outside")
def resize_extrapolation() -> Net:
    def middle(net: Net, t: str) -> str:
        roi = net.const(np.array([0, 0, -0.5, -0.5, 1, 1, 1.5, 1.5]))
        options = {"mode": "linear", "coordinate_transformation_mode": "tf_crop_and_resize", "extrapolation_value": 3.0}
        return net.op("Resize", t, roi, "", net.const([2, 8, 12, 12]), **options)

    return chain(middle, still_known=False)


@TRAPS.add(chain_cut(4), "Upsample of opset 9")
def upsample() -> Net:
    return chain(lambda net, t: net.op("Upsample", t, net.const([1.0, 1.0, 2.0, 2.0]), mode="nearest"), opset=9)


@TRAPS.add(chain_cut(4), "sizes computed from shapes: N and C of this tensor, H and W of x times 2", sizes=TWO_SIZES)
def resize_dynamic_sizes() -> Net:
    def middle(net: Net, t: str) -> str:
        head = net.op("Slice", net.op("Shape", t), net.const([0]), net.const([2]))
        tail = net.op("Slice", net.op("Shape", "x"), net.const([2]), net.const([4]))
        sizes = net.op("Concat", head, net.op("Mul", tail, net.const([2, 2])), axis=0)
        return net.op("Resize", t, "", "", sizes, mode="nearest")

    return chain(middle, shape=(2, 3, "H", "W"))


# --- Pad


def pad(net: Net, t: str, pads, value: float | None = None, mode: str = "constant") -> str:
    extra = [] if value is None else [net.const(value)]
    return net.op("Pad", t, net.const(pads), *extra, mode=mode)


SPATIAL = [0, 0, 1, 1, 0, 0, 1, 1]


@TRAPS.add(chain_cut(4), "padding with zeros keeps a zero channel zero")
def pad_zero() -> Net:
    return chain(lambda net, t: pad(net, t, SPATIAL), pad=0)


@TRAPS.add(0, "padding with 1 puts a frame into a zero channel")
def pad_value1() -> Net:
    return chain(lambda net, t: pad(net, t, SPATIAL, 1.0), pad=0, still_known=False)


@TRAPS.add(0, "padding with 0 puts a frame around a constant channel")
def pad_zero_constant() -> Net:
    return chain(lambda net, t: pad(net, t, SPATIAL), constant=BETA, pad=0, still_known=False)


@TRAPS.add(chain_cut(4), "padding with the edge keeps a constant channel constant")
def pad_edge_constant() -> Net:
    return chain(lambda net, t: pad(net, t, SPATIAL, mode="edge"), constant=BETA, pad=0)


@TRAPS.add(chain_cut(4), "so does reflection")
def pad_reflect_constant() -> Net:
    return chain(lambda net, t: pad(net, t, SPATIAL, mode="reflect"), constant=BETA, pad=0)


@TRAPS.add(chain_cut(4), "negative pads crop")
def pad_crop_constant() -> Net:
    return chain(lambda net, t: pad(net, t, [0, 0, -1, -1, 0, 0, -1, 0]), constant=BETA, pad=0)


@TRAPS.add(chain_cut(4), "zero channels added on the channel axis (the short-cut of a CIFAR ResNet)")
def pad_channel() -> Net:
    def middle(net: Net, t: str) -> str:
        return net.known(pad(net, t, [0, 1, 0, 0, 0, 2, 0, 0]), (0, *(c + 1 for c in DEAD), 9, 10))

    return chain(middle, still_known=False, width=11)


@TRAPS.add(chain_cut(4), "channels of ones added on the channel axis")
def pad_channel_value1() -> Net:
    def middle(net: Net, t: str) -> str:
        return net.known(pad(net, t, [0, 1, 0, 0, 0, 2, 0, 0], 1.0), (0, *(c + 1 for c in DEAD), 9, 10))

    return chain(middle, still_known=False, width=11)


@TRAPS.add(chain_cut(4), "zero channels added behind the others only")
def pad_channel_behind() -> Net:
    return chain(
        lambda net, t: net.known(pad(net, t, [0, 0, 0, 0, 0, 2, 0, 0]), (*DEAD, 8, 9)), still_known=False, width=10
    )


def to_a_multiple(net: Net, t: str, channels: int) -> str:
    """Space grows to a multiple of eight, and so many channels of zeros come in front."""
    shape, eight = net.op("Shape", t), net.const([8])
    sizes = net.op("Slice", shape, net.const([2]), net.const([4]))
    more = net.op("Mod", net.op("Sub", eight, net.op("Mod", sizes, eight)), eight)
    pads = net.op("Concat", net.const([0, channels, 0, 0, 0, 0]), more, axis=0)
    return net.op("Pad", t, pads)


@TRAPS.add(chain_cut(4), "places are added, as many as are computed; no channels", sizes=TWO_SIZES)
def pad_to_a_multiple() -> Net:
    return chain(lambda net, t: to_a_multiple(net, t, 0), shape=(2, 3, "H", "W"))


@TRAPS.add(chain_cut(4) + 3 * 9 * 4, "and channels of zeros, beside the others", sizes=TWO_SIZES)
def pad_channels_and_places() -> Net:
    return chain(lambda net, t: to_a_multiple(net, t, 3), width=11, still_known=False, shape=(2, 3, "H", "W"))


@TRAPS.add(None, "channels dropped in front and others added behind")
def pad_channel_shift() -> Net:
    def middle(net: Net, t: str) -> str:
        shifted = pad(net, t, [0, -2, 0, 0, 0, 3, 0, 0], 1.0)
        return net.known(shifted, (*(c - 2 for c in DEAD if c > 1), 6, 7, 8))

    return chain(middle, still_known=False, width=9)


@TRAPS.add(4 * 28 + 2 * 36, "negative pads on the channel axis drop channels")
def pad_channel_crop() -> Net:
    def middle(net: Net, t: str) -> str:
        return net.known(pad(net, net.unread(t, (0, 7)), [0, -1, 0, 0, 0, -1, 0, 0]), (1, 4))

    return chain(middle, zero=(2, 5), still_known=False, width=6)


# --- pools


@TRAPS.add(chain_cut(4), "three pools in a row")
def pools() -> Net:
    def middle(net: Net, t: str) -> str:
        t = net.op("MaxPool", t, kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[1, 1])
        t = net.op("AveragePool", t, kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[1, 1])
        return net.op("LpPool", t, kernel_shape=[2, 2], p=2)

    return chain(middle)


@TRAPS.add(chain_cut(3), "MaxPool pads with minus infinity: a constant stays constant")
def maxpool_constant() -> Net:
    negative = {channel: -value for channel, value in BETA.items()}
    middle = lambda net, t: net.op("MaxPool", t, kernel_shape=[3, 3], pads=[1, 1, 1, 1], ceil_mode=1, strides=[2, 2])  # noqa: E731
    return chain(middle, constant=negative)


@TRAPS.add(chain_cut(3), "an average that leaves padding out keeps a constant")
def averagepool_constant() -> Net:
    return chain(lambda net, t: net.op("AveragePool", t, kernel_shape=[3, 3], pads=[1, 1, 1, 1]), constant=BETA)


@TRAPS.add(0, "an average that counts padding does not")
def averagepool_include_pad_constant() -> Net:
    def middle(net: Net, t: str) -> str:
        return net.op("AveragePool", t, kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1)

    return chain(middle, constant=BETA, still_known=False)


@TRAPS.add(chain_cut(4), "but zero stays zero")
def averagepool_include_pad_zero() -> Net:
    def middle(net: Net, t: str) -> str:
        return net.op("AveragePool", t, kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1)

    return chain(middle)


@TRAPS.add(4 * (28 + 4), "a global pool: [N, C, 1, 1]")
def globalmaxpool() -> Net:
    return chain(lambda net, t: net.op("GlobalMaxPool", t), kernel=1)


@TRAPS.add(4 * (28 + 4), "constants through a global pool fold into a 1x1 Conv")
def globalaveragepool_constant() -> Net:
    return chain(lambda net, t: net.op("GlobalAveragePool", t), kernel=1, constant=BETA)


@TRAPS.add(None, "the indices of MaxPool count through all channels")
def maxpool_indices() -> Net:
    net = chain(lambda net, t: net.op("MaxPool", t, count=2, kernel_shape=[2, 2], strides=[2, 2], name="pool"))
    return net.output("pool:1")


# --- Expand, Tile, ConstantOfShape, Reshape


@TRAPS.add(4 * (27 + 1 + 1 + 36), "a parameter expanded to a hard-coded [2, 8, 8, 8]")
def expand_hard_coded() -> Net:
    def middle(net: Net, t: str) -> str:
        shift = net.normal(1, 8, 1, 1)
        shift[:, list(DEAD)] = 0
        return net.op("Add", t, net.op("Expand", net.const(shift), net.const([2, 8, 8, 8])))

    return chain(middle)


@TRAPS.add(4 * 28 + 4 * 36, "Expand of the tensor itself, along H and W")
def expand_tensor() -> Net:
    def middle(net: Net, t: str) -> str:
        return net.op("Expand", net.op("GlobalAveragePool", t), net.const([2, 8, 5, 5]))

    return chain(middle)


@TRAPS.add(4 * 28 + 4 * 36, "Tile along H and W")
def tile_spatial() -> Net:
    return chain(lambda net, t: net.op("Tile", t, net.const([1, 1, 2, 2])))


@TRAPS.add(4 * 28 + 8 * 36, "Tile along the channels: each appears twice")
def tile_channels() -> Net:
    def middle(net: Net, t: str) -> str:
        return net.known(net.op("Tile", t, net.const([1, 2, 1, 1])), (*DEAD, *(channel + 8 for channel in DEAD)))

    return chain(middle, still_known=False, width=16)


@TRAPS.add(None, "ConstantOfShape with a hard-coded channel count is added: zeros become ones")
def constant_of_shape() -> Net:
    def middle(net: Net, t: str) -> str:
        one = numpy_helper.from_array(np.ones(1, np.float32))
        return net.op("Add", t, net.op("ConstantOfShape", net.const([2, 8, 8, 8]), value=one))

    return chain(middle)


@TRAPS.add(chain_cut(4), "ConstantOfShape(Shape(x)): zeros like x")
def zeros_like() -> Net:
    return chain(lambda net, t: net.op("Add", t, net.op("ConstantOfShape", net.op("Shape", t))))


def flattened(make_shape, shape=SHAPE, outputs: int = 10, **net_options) -> Net:
    """Conv(3, 8) -> Reshape to [N, 8 * H * W] -> Gemm."""
    net = Net(**net_options)
    t = net.known(net.conv(net.input("x", shape), 3, 8, zero=DEAD), DEAD)
    t = make_shape(net, net.op("Relu", t))
    return net.output(
        net.op("Gemm", t, net.const(net.normal(512, outputs) / 16), net.const(net.normal(outputs)), name="y")
    )


FLAT = 4 * 28 + 4 * 64 * 10


@TRAPS.add(FLAT, "Flatten: each channel becomes 64 features")
def flatten_gemm() -> Net:
    return flattened(lambda net, t: net.op("Flatten", t))


@TRAPS.add(FLAT, "Reshape to a hard-coded [2, 512]")
def reshape_gemm() -> Net:
    return flattened(lambda net, t: net.op("Reshape", t, net.const([2, 512])))


@TRAPS.add(FLAT, "Reshape to [0, -1]")
def reshape_zero_minus_one() -> Net:
    return flattened(lambda net, t: net.op("Reshape", t, net.const([0, -1])))


@TRAPS.add(FLAT, "Reshape to [-1, 512] with a dynamic batch", sizes=BATCHES)
def reshape_dynamic_batch() -> Net:
    return flattened(lambda net, t: net.op("Reshape", t, net.const([-1, 512])), ("N", 3, 8, 8))


@TRAPS.add(FLAT, "N and C * H * W computed from Shape, as PyTorch exports x.view(x.size(0), -1)", sizes=BATCHES)
def reshape_shape_arithmetic() -> Net:
    def make_shape(net: Net, t: str) -> str:
        shape = net.op("Shape", t)
        sizes = [net.op("Gather", shape, net.const(axis), axis=0) for axis in range(4)]
        features = net.op("Mul", net.op("Mul", sizes[1], sizes[2]), sizes[3])
        parts = [net.op("Unsqueeze", size, net.const([0])) for size in (sizes[0], features)]
        return net.op("Reshape", t, net.op("Concat", *parts, axis=0))

    return flattened(make_shape, ("N", 3, 8, 8))


@TRAPS.add(chain_cut(4), "places as one axis of H * W, computed: a number that may be 0, but is no -1", sizes=TWO_SIZES)
def reshape_places() -> Net:
    def middle(net: Net, t: str) -> str:
        shape = net.op("Shape", t)
        n, c, h, w = (net.op("Gather", shape, net.const([axis]), axis=0) for axis in range(4))
        places = net.op("Concat", n, c, net.op("Mul", h, w), axis=0)
        return net.op("Reshape", net.op("Relu", net.op("Reshape", t, places)), shape)

    net = chain(middle, shape=(2, 3, "H", "W"), opset=13)
    net.declared["y"] = (2, 4, "H", "W")
    return net


@TRAPS.add(
    chain_cut(4),
    "frames are counted as examples again, and all of them have the dead channels",
    sizes=({"N": 2}, {"N": 6}),
)
def reshape_frames() -> Net:
    def middle(net: Net, t: str) -> str:
        frames = net.op("Reshape", t, net.const([-1, 2, 8, 8, 8]))
        mask = np.array([1.0, 0.0]).reshape(1, 2, 1, 1, 1)
        return net.op("Reshape", net.op("Mul", frames, net.const(mask)), net.const([-1, 8, 8, 8]))

    return chain(middle, shape=("N", 3, 8, 8))


@TRAPS.add(None, "Reshape that mixes channels with the batch")
def reshape_batch_channels() -> Net:
    def middle(net: Net, t: str) -> str:
        t = net.op("Reshape", t, net.const([-1, 1, 8, 8]))
        t = net.conv(t, 1, 1)
        return net.op("Reshape", t, net.const([-1, 8, 8, 8]))

    return chain(middle, still_known=False)


@TRAPS.add(None, "Reshape whose borders cut through the channels: [8, 64] -> [64, 8]")
def reshape_across() -> Net:
    return chain(lambda net, t: net.op("Reshape", t, net.const([2, 64, 2, 4])), still_known=False, width=64)


@TRAPS.add(chain_cut(4), "Squeeze and Unsqueeze around a global pool")
def squeeze_unsqueeze() -> Net:
    def middle(net: Net, t: str) -> str:
        squeezed = net.op("Squeeze", net.op("GlobalAveragePool", t), net.const([2, 3]))
        return net.op("Add", t, net.op("Unsqueeze", net.op("Relu", squeezed), net.const([2, 3])))

    return chain(middle)


# --- Shape and Size of what is cut


@TRAPS.add(chain_cut(4), "the shape of the cut tensor is an output: it still has 8 channels", sizes=TWO_SIZES)
def shape_visible() -> Net:
    net = chain(lambda net, t: net.op("Relu", t, name="mid"), shape=(2, 3, "H", "W"))
    net.op("Shape", "mid", name="shape")
    return net.output("shape")


@TRAPS.add(chain_cut(4), "a Shape with start and end", sizes=TWO_SIZES)
def shape_slice_visible() -> Net:
    net = chain(lambda net, t: net.op("Relu", t, name="mid"), shape=(2, 3, "H", "W"))
    net.op("Shape", "mid", name="shape", start=1, end=3)
    return net.output("shape")


@TRAPS.add(chain_cut(4) - 1, "the output is divided by the channel count of a cut tensor")
def channel_count_divides() -> Net:
    net = chain(lambda net, t: net.op("Relu", t, name="mid"))
    count = net.op("Cast", net.op("Gather", net.op("Shape", "mid"), net.const(1), axis=0), to=1)
    net.outputs = [net.op("Div", "y", count, name="z")]
    return net


@TRAPS.add(None, "the output is divided by the Size of a cut tensor", sizes=TWO_SIZES)
def size_divides() -> Net:
    net = chain(lambda net, t: net.op("Relu", t, name="mid"), shape=(2, 3, "H", "W"))
    net.outputs = [net.op("Div", "y", net.op("Cast", net.op("Size", "mid"), to=1), name="z")]
    return net


# --- dynamic dimensions


@TRAPS.add(692, "dynamic H and W through a residual sum", sizes=TWO_SIZES)
def dynamic_hw() -> Net:
    net = Net()
    stem = net.known(net.conv(net.input("x", (1, 3, "H", "W")), 3, 8, zero=DEAD), DEAD)
    branch = net.known(net.conv(stem, 8, 8, zero=DEAD), DEAD)
    return net.output(net.conv(net.op("Relu", net.op("Add", stem, branch)), 8, 4, name="y"))


@TRAPS.add(chain_cut(4), "dynamic batch", sizes=BATCHES)
def dynamic_batch() -> Net:
    return chain(lambda net, t: net.op("Relu", t), shape=("N", 3, 8, 8))


@TRAPS.add(
    chain_cut(3), "everything dynamic, with a carrier", sizes=({"N": 1, "H": 8, "W": 9}, {"N": 2, "H": 5, "W": 16})
)
def dynamic_all_constant() -> Net:
    return chain(lambda net, t: net.op("Sigmoid", t), shape=("N", 3, "H", "W"))


@TRAPS.add(chain_cut(4), "nameless dynamic dimensions", sizes=({"": 8}, {"": 9}))
def dynamic_nameless() -> Net:
    return chain(lambda net, t: net.op("Relu", t), shape=(2, 3, None, None))


@TRAPS.add(4 * 64, "a channel shuffle whose batch comes from Shape", sizes=BATCHES)
def dynamic_shuffle() -> Net:
    def middle(net: Net, t: str) -> str:
        batch = net.op("Slice", net.op("Shape", t), net.const([0]), net.const([1]))
        grid = net.op("Concat", batch, net.const([2, 4, 8, 8]), axis=0)
        t = net.op("Transpose", net.op("Reshape", t, grid), perm=[0, 2, 1, 3, 4])
        return net.op("Reshape", t, net.op("Concat", batch, net.const([8, 8, 8]), axis=0))

    return chain(middle, zero=(1, 2, 5, 6), shape=("N", 3, 8, 8), still_known=False)


@TRAPS.add(4 * (27 + 1) + 4 * 8, "movements that nothing is cut from take their shape from a tensor that is cut")
def movements_shaped_by_another() -> Net:
    def middle(net: Net, t: str) -> str:
        whole = net.conv(t, 8, 8, kernel=1)
        return net.op("Reshape", net.op("Flatten", whole), net.op("Shape", t))

    return chain(middle, still_known=False)
