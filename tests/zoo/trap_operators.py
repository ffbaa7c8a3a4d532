"""Traps: operators that let channels pass and mix something else: extremes, Einsum, sampling, sorting, gathers.

Each has its opposite: the same operator where it holds the channels, or where a constant does not stay one.
"""

from __future__ import annotations

import numpy as np

from .net import Net
from .trap import DEAD, Family, chain, chain_cut

TRAPS = Family()

CONSTANT = {1: 0.5, 3: 0.7, 4: -0.3, 6: 0.9}
ZERO = chain_cut(4)
CARRIED = chain_cut(3)
"""What goes where one of four constant channels must stay."""

NEW = {"opset": 20, "ir_version": 9}


# --- extremes, which nothing completes below opset 8


@TRAPS.add(4 * 28 - 1, "a maximum over channels sees zeros where all others are negative")
def reducemax_channel() -> Net:
    return chain(lambda net, t: net.op("ReduceMax", t, axes=[1], keepdims=1), still_known=False, width=1)


@TRAPS.add(4 * 28 - 1, "a minimum over channels sees zeros where all others are positive")
def reducemin_channel() -> Net:
    return chain(lambda net, t: net.op("ReduceMin", t, axes=[1], keepdims=1), still_known=False, width=1)


@TRAPS.add(4 * 28, "no channel is smaller than the zeros: nothing has to stand in for them")
def reducemax_positive() -> Net:
    return chain(lambda net, t: net.op("ReduceMax", net.op("Abs", t), axes=[1], keepdims=1), still_known=False, width=1)


@TRAPS.add(4 * 28 - 1, "what is never below -1 may be below the zeros")
def reducemax_bounded() -> Net:
    middle = lambda net, t: net.op("ReduceMax", net.op("Tanh", t), axes=[1], keepdims=1)  # noqa: E731
    return chain(middle, still_known=False, width=1)


@TRAPS.add(4 * 28 - 1, "in one half of the columns no channel is smaller than the zeros, in the other all may be")
def reducemax_halves() -> Net:
    def middle(net: Net, t: str) -> str:
        return net.op("ReduceMax", net.op("Concat", net.op("Relu", t), t, axis=3), axes=[1], keepdims=1)

    return chain(middle, still_known=False, width=1)


@TRAPS.add(None, "before opset 8 no operator broadcasts a maximum: zeros stay below it")
def reducemax_opset7() -> Net:
    return chain(lambda net, t: net.op("ReduceMax", t, axes=[1], keepdims=1), still_known=False, width=1, opset=7)


# --- Einsum


def product(equation: str, shape: tuple[int, ...], unread=(), constant=None, order: int = 1, last: bool = True) -> Net:
    """x [2, 5, 6] -> MatMul(6, 8), Add -> Einsum with a weight -> MatMul to 3; four of eight features are planted."""
    net = Net()
    dead = () if unread else DEAD
    weight, bias = net.normal(6, 8, scale=0.4), net.normal(8)
    weight[:, dead], bias[list(dead)] = 0, 0
    for feature, value in (constant or {}).items():
        bias[feature] = value
    t = net.op("Add", net.op("MatMul", net.input("x", (2, 5, 6)), net.const(weight)), net.const(bias))
    t = net.known(t, dead, axis=2) if dead else t
    operands = [t, net.const(net.normal(*shape, scale=0.4))]
    y = net.op("Einsum", *operands[::order], equation=equation)
    if not last:
        return net.output(y)
    out = net.normal(shape[0] if shape[0] != 8 else shape[1], 3)
    out[list(unread)] = 0
    return net.output(net.op("MatMul", net.unread(y, unread, axis=2) if unread else y, net.const(out)))


FEATURE = 7 + 4  # of eight, read by four

for _name, _equation, _shape, _order in (
    ("einsum_linear", "bld,df->blf", (8, 4), 1),
    ("einsum_linear_transposed", "bld,fd->blf", (4, 8), 1),
    ("einsum_ellipsis", "...d,df->...f", (8, 4), 1),
    ("einsum_implicit", "abi,ij", (8, 4), 1),
    ("einsum_weight_first", "df,bld->blf", (8, 4), -1),
    ("einsum_spaces", " b l d , d f -> b l f ", (8, 4), 1),
):

    def _linear(equation: str = _equation, shape: tuple[int, ...] = _shape, order: int = _order, constant=None) -> Net:
        return product(equation, shape, order=order, constant=constant)

    TRAPS.add(4 * FEATURE, "zero features of an Einsum", name=_name)(_linear)
    TRAPS.add(3 * FEATURE, "constant features of an Einsum: a carrier", name=f"{_name}_constant")(
        lambda linear=_linear: linear(constant=CONSTANT)
    )


@TRAPS.add(2 * (8 + 3), "two results of an Einsum that nobody reads")
def einsum_unread() -> Net:
    return product("bld,df->blf", (8, 4), unread=(0, 3))


@TRAPS.add(4 * (7 + 5 * 4), "two letters are summed: a carrier for all positions")
def einsum_two_sums() -> Net:
    return product("bld,dlf->bf", (8, 5, 4), last=False)


@TRAPS.add(4 * (7 + 1), "one factor for each feature")
def einsum_scale() -> Net:
    return product("bld,d->bl", (8,), last=False)


@TRAPS.add(2 * FEATURE, "columns of next to nothing", negligible=True)
def einsum_negligible() -> Net:
    net = Net()
    weight = net.normal(8, 4, scale=0.4)
    weight[[2, 5]] *= 1e-14
    t = net.op("MatMul", net.input("x", (2, 5, 6)), net.const(net.normal(6, 8, scale=0.4)))
    t = net.op("Add", t, net.const(net.normal(8)))
    return net.output(net.op("Einsum", t, net.const(weight), equation="bld,df->blf"))


def two(equation: str, zeros=((0, 1), (6, 7)), shape=(2, 3, 5), **options) -> Net:
    """Two MatMul(5, 8) of one input, with zero features, in an Einsum."""
    net = Net()
    x = net.input("x", shape)
    sides = []
    for dead in zeros:
        weight, bias = net.normal(5, 8, scale=0.4), net.normal(8)
        weight[:, dead], bias[list(dead)] = 0, 0
        t = net.op("Add", net.op("MatMul", x, net.const(weight)), net.const(bias))
        sides.append(net.known(t, dead, axis=2))
    return net.output(net.op("Einsum", *sides, equation=equation))


@TRAPS.add(4 * 2 * 6, "a letter that is summed is gone where either side is zero")
def einsum_two_variables() -> Net:
    return two("bqd,bkd->bqk")


@TRAPS.add(2 * 2 * 6, "both are zero at the same places: both go")
def einsum_both_zero() -> Net:
    return two("bqd,bkd->bqk", zeros=((2, 3), (2, 3)))


@TRAPS.add(0, "the letters of the output stay")
def einsum_outer() -> Net:
    return two("bqd,bke->bqkde")


@TRAPS.add(0, "a diagonal: both axes are one letter")
def einsum_diagonal() -> Net:
    net = Net()
    weight, bias = net.normal(5, 5, scale=0.4), net.normal(5)
    weight[:, [1, 3]], bias[[1, 3]] = 0, 0
    t = net.op("Add", net.op("MatMul", net.input("x", (2, 5, 5)), net.const(weight)), net.const(bias))
    return net.output(net.op("Einsum", t, equation="bii->bi"))


@TRAPS.add(4 * 7, "a sum over zero features")
def einsum_sum() -> Net:
    net = Net()
    weight, bias = net.normal(6, 8, scale=0.4), net.normal(8)
    weight[:, DEAD], bias[list(DEAD)] = 0, 0
    t = net.op("Add", net.op("MatMul", net.input("x", (2, 5, 6)), net.const(weight)), net.const(bias))
    return net.output(net.op("Einsum", t, equation="bld->bl"))


@TRAPS.add(3 * (7 + 7 + 1), "three operands, one of them a vector of which an entry is zero")
def einsum_three() -> Net:
    net = Net()
    x = net.input("x", (2, 5, 6))
    sides = []
    for dead in ((0,), (1,)):
        weight, bias = net.normal(6, 8, scale=0.4), net.normal(8)
        weight[:, dead], bias[list(dead)] = 0, 0
        sides.append(net.op("Add", net.op("MatMul", x, net.const(weight)), net.const(bias)))
    vector = net.normal(8)
    vector[5] = 0
    return net.output(net.op("Einsum", *sides, net.const(vector), equation="bid,bjd,d->bij"))


# --- places in a channel


def grid(net: Net) -> str:
    return net.const(net.rng.uniform(-1.3, 1.3, (2, 6, 6, 2)))


for _mode in ("zeros", "border", "reflection"):

    def _sampled(mode: str = _mode, constant=None) -> Net:
        return chain(
            lambda net, t: net.op("GridSample", t, grid(net), padding_mode=mode),
            constant=constant,
            still_known=constant is None or mode != "zeros",
        )

    TRAPS.add(ZERO, "one grid for all channels", name=f"gridsample_{_mode}")(_sampled)
    TRAPS.add(
        0 if _mode == "zeros" else CARRIED,
        "outside places are zero" if _mode == "zeros" else "a constant stays one at the border",
        name=f"gridsample_{_mode}_constant",
    )(lambda sampled=_sampled: sampled(constant=CONSTANT))


@TRAPS.add(ZERO, "the grid is computed from the same input")
def gridsample_computed_grid() -> Net:
    def middle(net: Net, t: str) -> str:
        flow = net.op("Tanh", net.conv("x", 3, 2))
        return net.op("GridSample", t, net.op("Transpose", flow, perm=[0, 2, 3, 1]))

    return chain(middle)


def rois(net: Net) -> tuple[str, str]:
    corners = net.rng.uniform(0, 3, (4, 2))
    boxes = np.concatenate([corners, corners + net.rng.uniform(2, 4, (4, 2))], 1)
    return net.const(boxes), net.const(np.array([0, 1, 1, 0]))


@TRAPS.add(ZERO, "regions of all channels")
def roialign() -> Net:
    return chain(lambda net, t: net.op("RoiAlign", t, *rois(net), output_height=4, output_width=4, sampling_ratio=2))


@TRAPS.add(0, "a region that reaches outside averages zeros")
def roialign_constant() -> Net:
    def middle(net: Net, t: str) -> str:
        boxes = net.const(np.array([[-6.0, -6, 3, 3], [2, 2, 6, 6]]))
        return net.op("RoiAlign", t, boxes, net.const(np.array([0, 1])), output_height=4, output_width=4)

    return chain(middle, constant=CONSTANT, still_known=False)


@TRAPS.add(ZERO, "the old kind of region")
def maxroipool() -> Net:
    def middle(net: Net, t: str) -> str:
        boxes = net.const(np.array([[0.0, 0, 0, 5, 5], [1, 2, 2, 7, 7], [1, 0, 3, 6, 7]]))
        return net.op("MaxRoiPool", t, boxes, pooled_shape=[4, 4])

    return chain(middle)


@TRAPS.add(ZERO, "height and width are cropped and padded")
def centercroppad() -> Net:
    return chain(lambda net, t: net.op("CenterCropPad", t, net.const([6, 10]), axes=[2, 3]), **NEW)


@TRAPS.add(ZERO, "all four axes are named, two keep their size: the operand follows")
def centercroppad_all_axes() -> Net:
    return chain(lambda net, t: net.op("CenterCropPad", t, net.const([2, 8, 6, 10])), **NEW)


@TRAPS.add(0, "padded with zeros, a constant is none at the border")
def centercroppad_constant() -> Net:
    return chain(
        lambda net, t: net.op("CenterCropPad", t, net.const([10, 10]), axes=[2, 3]),
        constant=CONSTANT,
        still_known=False,
        **NEW,
    )


@TRAPS.add(0, "the channels themselves are cropped, and which ones follows from their number")
def centercroppad_channels() -> Net:
    return chain(lambda net, t: net.op("CenterCropPad", t, net.const([5]), axes=[1]), still_known=False, width=5, **NEW)


@TRAPS.add(4 * (4 * 28 + 36), "four rows of columns make one image channel")
def col2im() -> Net:
    net = Net(**NEW)
    dead = [4 * channel + place for channel in DEAD for place in range(4)]
    t = net.known(net.conv(net.input("x", (2, 3, 4, 4)), 3, 32, zero=dead), dead)
    t = net.op(
        "Col2Im", net.op("Reshape", t, net.const([0, 0, 16])), net.const([8, 8]), net.const([2, 2]), strides=[2, 2]
    )
    return net.output(net.conv(net.known(t, DEAD), 8, 4))


@TRAPS.add(0, "one row of each image channel is zero, the others are not")
def col2im_partial() -> Net:
    net = Net(**NEW)
    t = net.conv(net.input("x", (2, 3, 4, 4)), 3, 32, zero=range(0, 32, 4))
    t = net.op(
        "Col2Im", net.op("Reshape", t, net.const([0, 0, 16])), net.const([8, 8]), net.const([2, 2]), strides=[2, 2]
    )
    return net.output(net.conv(t, 8, 4))


# --- along one axis


def along(op: str, *operands, still_known: bool = True, constant=None, opset: int = 17, **attributes) -> Net:
    return chain(
        lambda net, t: net.op(op, t, *(net.const(o) for o in operands), **attributes),
        still_known=still_known,
        constant=constant,
        opset=opset,
        ir_version=10 if opset > 17 else 8,
    )


@TRAPS.add(ZERO, "a sum along the height")
def cumsum() -> Net:
    return along("CumSum", np.array(2), reverse=1)


@TRAPS.add(0, "a sum of constants is a ramp")
def cumsum_constant() -> Net:
    return along("CumSum", np.array(2), constant=CONSTANT, still_known=False)


@TRAPS.add(0, "a sum along the channels: later ones hold what earlier ones left")
def cumsum_channels() -> Net:
    return along("CumSum", np.array(1), still_known=False)


@TRAPS.add(0, "the upper triangle of height and width")
def trilu_constant() -> Net:
    return along("Trilu", constant=CONSTANT, still_known=False)


@TRAPS.add(ZERO, "the upper triangle of height and width")
def trilu() -> Net:
    return along("Trilu")


@TRAPS.add(ZERO, "the six largest of each row")
def topk() -> Net:
    return chain(lambda net, t: net.op("TopK", t, net.const([6]), count=2, axis=-1))


@TRAPS.add(CARRIED, "the largest of a constant row are that constant")
def topk_constant() -> Net:
    return chain(lambda net, t: net.op("TopK", t, net.const([6]), count=2, axis=-1), constant=CONSTANT)


@TRAPS.add(0, "the largest channels")
def topk_channels() -> Net:
    return chain(
        lambda net, t: net.op("TopK", t, net.const([5]), count=2, axis=1), zero=DEAD, still_known=False, width=5
    )


@TRAPS.add(0, "where the largest are: of equal ones any order is right, so nobody knows which it says")
def topk_places() -> Net:
    def middle(net: Net, t: str) -> str:
        values = net.op("TopK", t, net.const([6]), count=2, axis=3)
        return net.op("Cast", f"{values}:1", to=1)

    return chain(middle, still_known=False)


def reversed_rows(constant=None, channels: bool = False) -> Net:
    """Height (or channels), batch and the rest in that order: the time axis may only be the first two."""

    def middle(net: Net, t: str) -> str:
        perm = [1, 0, 2, 3] if channels else [2, 0, 1, 3]
        t = net.op("ReverseSequence", net.op("Transpose", t, perm=perm), net.const([5, 8]), time_axis=0, batch_axis=1)
        return net.op("Transpose", t, perm=[1, 0, 2, 3] if channels else [1, 2, 0, 3])

    return chain(middle, constant=constant, still_known=not channels)


@TRAPS.add(ZERO, "rows in reverse, each image up to its own height")
def reversesequence() -> Net:
    return reversed_rows()


@TRAPS.add(CARRIED, "a constant reversed")
def reversesequence_constant() -> Net:
    return reversed_rows(CONSTANT)


@TRAPS.add(0, "channels in reverse, another number of them for each image")
def reversesequence_channels() -> Net:
    return reversed_rows(channels=True)


@TRAPS.add(chain_cut(2), "statistics of each channel, and nobody reads two of them")
def meanvariancenormalization() -> Net:
    return chain(lambda net, t: net.op("MeanVarianceNormalization", t, axes=[0, 2, 3]), zero=(), unread=(1, 6))


@TRAPS.add(0, "statistics over channels")
def meanvariancenormalization_channels() -> Net:
    return along("MeanVarianceNormalization", axes=[1, 2, 3], still_known=False)


@TRAPS.add(2 * 64 + 2 * 28, "the condition is constant: zero channels that it takes, and what it leaves out")
def compress() -> Net:
    net = Net()
    t = net.known(net.conv(net.input("x", (2, 3, 8, 8)), 3, 8, zero=(1, 3)), (1, 3))
    t = net.op("Compress", t, net.const(np.array([1, 1, 0, 1, 0, 1, 1, 1], bool)), axis=1)
    return net.output(net.conv(net.known(t, (1, 2)), 6, 4))


@TRAPS.add(0, "the condition is computed")
def compress_computed() -> Net:
    net = Net()
    x = net.input("x", (2, 3, 8, 8))
    t = net.conv(x, 3, 8, zero=DEAD)
    condition = net.op("Greater", net.op("ReduceMean", t, axes=[0, 2, 3], keepdims=0), net.const(-9.0))
    return net.output(net.conv(net.op("Compress", t, condition, axis=1), 8, 4, name="y"))


@TRAPS.add(ZERO, "the determinant of each channel's plane")
def det() -> Net:
    def middle(net: Net, t: str) -> str:
        t = net.op("Slice", t, net.const([0, 0]), net.const([2, 2]), net.const([2, 3]))
        return net.op("Reshape", net.op("Det", t), net.const([2, 8, 1, 1]))

    return chain(middle)


@TRAPS.add(ZERO, "the spectrum of each channel's rows")
def dft() -> Net:
    def middle(net: Net, t: str) -> str:
        spectrum = net.op("DFT", net.op("Unsqueeze", t, net.const([4])), axis=3)
        return net.op("ReduceL2", spectrum, axes=[4], keepdims=0)

    return chain(middle)


@TRAPS.add(4 * (3 * 3 + 1 + 4 * 9), "the spectra of windows of a signal; the channels are its batch")
def stft() -> Net:
    net = Net()
    t = net.conv(net.input("x", (1, 3, 64)), 3, 8, dims=1, zero=DEAD)
    t = net.op("Transpose", net.known(t, DEAD), perm=[1, 2, 0])
    t = net.op("STFT", t, net.const(8), net.const(np.hanning(16)), onesided=1)  # onnx infers another default
    t = net.op("Transpose", net.op("ReduceL2", t, axes=[3], keepdims=0), perm=[1, 0, 2])
    weight, bias = net.filters(8, 4, 9, dims=1), net.normal(4)
    return net.output(net.op("Conv", t, net.const(weight), net.const(bias), name="y"))


@TRAPS.add(ZERO, "a product along the height starts at zero")
def cumprod() -> Net:
    return along("CumProd", np.array(2), opset=26)


@TRAPS.add(0, "and at one, where it leaves its own element out")
def cumprod_exclusive() -> Net:
    return along("CumProd", np.array(2), opset=26, exclusive=1, still_known=False)


@TRAPS.add(ZERO, "the bits of zero are zero")
def bitcast() -> Net:
    return chain(lambda net, t: net.op("BitCast", net.op("BitCast", t, to=6), to=1), opset=26, ir_version=13)


def cached(live: bool) -> Net:
    """A cache [2, 8, 12, 8] that a sequence of 8 rows is written into."""

    def middle(net: Net, t: str) -> str:
        past = net.normal(2, 8, 12, 8)
        if not live:
            past[:, DEAD] = 0
        return net.op("TensorScatter", net.const(past), t, net.const(np.array([3, 1])), axis=2)

    return chain(middle, opset=24, ir_version=10, still_known=not live)


@TRAPS.add(ZERO + 4 * 2 * 12 * 8, "zeros are written into zeros")
def tensorscatter() -> Net:
    return cached(False)


@TRAPS.add(0, "zeros are written into something")
def tensorscatter_live() -> Net:
    return cached(True)


@TRAPS.add(0, "numbers of classes become channels of their own")
def onehot() -> Net:
    def middle(net: Net, t: str) -> str:
        best = net.op("ArgMax", t, axis=1, keepdims=0)
        return net.op("OneHot", best, net.const(8), net.const(np.array([0.0, 1.0])), axis=1)

    return chain(middle, still_known=False)


@TRAPS.add(0, "a diagonal of ones has the shape of a matrix whose columns are dead")
def eyelike() -> Net:
    net = Net()
    weight, bias = net.normal(6, 6), net.normal(6)
    weight[:, (1, 4)], bias[[1, 4]] = 0, 0
    t = net.op("Gemm", net.input("x", (6, 6)), net.const(weight), net.const(bias))
    return net.output(net.op("MatMul", net.op("Add", t, net.op("EyeLike", t)), net.const(net.normal(6, 3))))


# --- gathers and scatters


def places(net: Net, *shape: int) -> str:
    return net.const(net.rng.integers(0, 8, shape))


@TRAPS.add(ZERO, "each element says where in its row")
def gatherelements() -> Net:
    return chain(lambda net, t: net.op("GatherElements", t, places(net, 2, 8, 8, 6), axis=3))


@TRAPS.add(CARRIED, "any element of a constant")
def gatherelements_constant() -> Net:
    return chain(lambda net, t: net.op("GatherElements", t, places(net, 2, 8, 8, 6), axis=3), constant=CONSTANT)


@TRAPS.add(0, "each element says which channel")
def gatherelements_channels() -> Net:
    return chain(lambda net, t: net.op("GatherElements", t, places(net, 2, 8, 8, 8), axis=1), still_known=False)


@TRAPS.add(0, "indices for the first five channels only")
def gatherelements_fewer_channels() -> Net:
    return chain(
        lambda net, t: net.op("GatherElements", t, places(net, 2, 5, 8, 8), axis=3), still_known=False, width=5
    )


def scattered(updates_zero: bool, axis: int = 3, reduction: str = "none") -> Net:
    def middle(net: Net, t: str) -> str:
        updates = net.normal(2, 8, 8, 1)
        if updates_zero:
            updates[:, DEAD] = 0
        where = net.const(net.rng.integers(0, 8, (2, 8, 8, 1)))
        return net.op("ScatterElements", t, where, net.const(updates), axis=axis, reduction=reduction)

    return chain(middle, still_known=updates_zero and axis != 1, opset=18)


for _reduction in ("none", "add", "mul", "max"):
    TRAPS.add(ZERO + 4 * 16, "zeros are put into zero channels", name=f"scatterelements_{_reduction}")(
        lambda reduction=_reduction: scattered(True, reduction=reduction)
    )


@TRAPS.add(0, "something is put into zero channels")
def scatterelements_live_updates() -> Net:
    return scattered(False)


@TRAPS.add(0, "into other channels")
def scatterelements_channels() -> Net:
    return scattered(True, axis=1)


@TRAPS.add(ZERO, "rows by number; the channels come last")
def gathernd() -> Net:
    def middle(net: Net, t: str) -> str:
        rows = np.stack([net.rng.integers(0, 2, (2, 6)), net.rng.integers(0, 8, (2, 6))], -1)
        t = net.op("GatherND", net.op("Transpose", t, perm=[0, 2, 3, 1]), net.const(rows))
        return net.op("Transpose", t, perm=[0, 3, 1, 2])

    return chain(middle)


@TRAPS.add(CARRIED, "constants, behind two axes of batch")
def gathernd_batch() -> Net:
    return chain(lambda net, t: net.op("GatherND", t, places(net, 2, 8, 6, 1), batch_dims=2), constant=CONSTANT)


@TRAPS.add(0, "the channel is part of the index")
def gathernd_channels() -> Net:
    def middle(net: Net, t: str) -> str:
        index = np.stack([np.repeat([[0], [1]], 8, 1), net.rng.integers(0, 8, (2, 8))], -1)
        return net.op("GatherND", t, net.const(index))

    return chain(middle, still_known=False)


def scatter_rows(updates_zero: bool) -> Net:
    def middle(net: Net, t: str) -> str:
        index = np.array([[0, 1], [0, 6], [1, 3]])
        updates = net.normal(3, 8, 8)
        if updates_zero:
            updates[..., DEAD] = 0
        t = net.op("Transpose", t, perm=[0, 2, 3, 1])
        t = net.op("ScatterND", t, net.const(index), net.const(updates))
        return net.op("Transpose", t, perm=[0, 3, 1, 2])

    return chain(middle, still_known=updates_zero)


@TRAPS.add(ZERO + 4 * 24, "zeros into zero channels, row by row")
def scatternd() -> Net:
    return scatter_rows(True)


@TRAPS.add(0, "something else into zero channels")
def scatternd_live_updates() -> Net:
    return scatter_rows(False)


@TRAPS.add(0, "channels by number: those that come from the updates are not read before, but count")
def scatternd_channel() -> Net:
    def middle(net: Net, t: str) -> str:
        t = net.op("Transpose", t, perm=[1, 0, 2, 3])
        t = net.op("ScatterND", t, net.const(np.array([[1], [3]])), net.const(net.normal(2, 2, 8, 8)))
        return net.op("Transpose", t, perm=[1, 0, 2, 3])

    return chain(middle, zero=(), still_known=False)


# --- sampled convolutions


def deformed(*, constant=None, offset_group: int = 1, mask: bool = True) -> Net:
    net = Net(opset=19, ir_version=9)
    x = net.input("x", (2, 3, 8, 8))
    t = net.conv(x, 3, 8, zero=() if constant else DEAD, constant=constant)
    t = net.known(t, constant or DEAD)
    offset = net.conv(x, 3, 18 * offset_group)
    operands = [net.const(net.filters(8, 4, 3)), offset, net.const(net.normal(4))]
    if mask:
        operands.append(net.op("Sigmoid", net.conv(x, 3, 9 * offset_group)))
    return net.output(net.op("DeformConv", t, *operands, pads=[1] * 4, kernel_shape=[3, 3], offset_group=offset_group))


@TRAPS.add(4 * 64, "taps are sampled, one offset for all channels")
def deformconv() -> Net:
    return deformed()


@TRAPS.add(3 * 64, "a constant is uneven at the border: a carrier")
def deformconv_constant() -> Net:
    return deformed(constant=CONSTANT)


@TRAPS.add(0, "two groups of offsets: channels count")
def deformconv_offset_groups() -> Net:
    return deformed(offset_group=2, mask=False)


@TRAPS.add(2 * (8 * 9 + 1 + 4), "zero filters behind sampled taps")
def deformconv_filters() -> Net:
    net = Net(opset=19, ir_version=9)
    x = net.input("x", (2, 8, 8, 8))
    weight, bias = net.filters(8, 6, 3), net.normal(6)
    weight[[0, 4]], bias[[0, 4]] = 0, 0
    offset = net.conv(x, 8, 18)
    t = net.op("DeformConv", x, net.const(weight), offset, net.const(bias), pads=[1] * 4, kernel_shape=[3, 3])
    return net.output(net.conv(net.known(t, (0, 4)), 6, 4, 1))
