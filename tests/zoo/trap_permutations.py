"""Traps: channels that change places: shuffles, depth and space, channels last."""

from __future__ import annotations

from .net import Net
from .trap import DEAD, Family, chain, chain_cut

TRAPS = Family()

SHAPE = (2, 3, 8, 8)
OPEN = ({"N": 1, "H": 8, "W": 6}, {"N": 3, "H": 5, "W": 7})


def reshape_transpose(net: Net, t: str, shape, order, back) -> str:
    t = net.op("Transpose", net.op("Reshape", t, net.const(shape)), perm=order)
    return net.op("Reshape", t, net.const(back))


def shuffle(zero) -> Net:
    """Conv(3, 8) -> channel shuffle with 2 groups -> Conv."""
    order = [channel % 2 * 4 + channel // 2 for channel in range(8)]

    def middle(net: Net, t: str) -> str:
        t = reshape_transpose(net, t, [2, 2, 4, 8, 8], [0, 2, 1, 3, 4], [2, 8, 8, 8])
        return net.known(t, [order.index(channel) for channel in zero])

    return chain(middle, zero=zero, still_known=False)


@TRAPS.add(4 * 64, "a channel shuffle whose dead channels fill columns of the grid")
def channel_shuffle() -> Net:
    return shuffle((1, 2, 5, 6))


@TRAPS.add(4 * 64, "dead channels off the grid: the shuffle is one permutation")
def channel_shuffle_uneven() -> Net:
    return shuffle((0, 1, 2, 5))


@TRAPS.add(4 * 64, "a channel shuffle over open space, by sizes read off its input", sizes=OPEN)
def channel_shuffle_open() -> Net:
    order = [channel % 2 * 4 + channel // 2 for channel in range(8)]

    def middle(net: Net, t: str) -> str:
        shape = net.op("Shape", t)
        n, c, h, w = (net.op("Gather", shape, net.const([axis]), axis=0) for axis in range(4))
        half = net.op("Div", c, net.const([2]))
        grouped = net.op("Reshape", t, net.op("Concat", n, net.const([2]), half, h, w, axis=0))
        swapped = net.op("Transpose", grouped, perm=[0, 2, 1, 3, 4])
        t = net.op("Reshape", swapped, net.op("Concat", n, c, h, w, axis=0))
        return net.known(t, [order.index(channel) for channel in (0, 1, 2, 5)])

    return chain(middle, zero=(0, 1, 2, 5), still_known=False, shape=("N", 3, "H", "W"))


@TRAPS.add(None, "a shuffle of channels and places together is no permutation of channels", sizes=OPEN)
def shuffle_into_space() -> Net:
    def middle(net: Net, t: str) -> str:
        shape = net.op("Shape", t)
        n, h, w = (net.op("Gather", shape, net.const([axis]), axis=0) for axis in (0, 2, 3))
        grouped = net.op("Reshape", t, net.op("Concat", n, net.const([2, 4]), h, w, axis=0))
        swapped = net.op("Transpose", grouped, perm=[0, 3, 2, 1, 4])
        return net.op("Reshape", swapped, net.op("Concat", n, net.const([8]), h, w, axis=0))

    return chain(middle, zero=(0, 1, 2, 5), still_known=False, shape=("N", 3, "H", "W"))


def shuffle_v2(zero, dead_even, dead_odd) -> Net:
    """The variant of ShuffleNetV2 detectors: even and odd channels as two tensors, through the batch axis."""
    net = Net()
    t = net.known(net.conv(net.input("x", (1, 3, 8, 8)), 3, 8, zero=zero), zero)
    t = reshape_transpose(net, t, [4, 2, 64], [1, 0, 2], [2, -1, 4, 8, 8])
    even, odd = net.op("Gather", t, net.const(0), axis=0), net.op("Gather", t, net.const(1), axis=0)
    net.known(even, dead_even)
    net.known(odd, dead_odd)
    return net.output(net.op("Add", net.conv(even, 4, 4), net.conv(odd, 4, 4), name="y"))


@TRAPS.add(4 * 64, "Reshape-Transpose-Reshape-Gather with dead pairs of channels")
def channel_shuffle_gather() -> Net:
    return shuffle_v2((2, 3, 6, 7), (1, 3), (1, 3))


@TRAPS.add(64 * 2, "two dead even channels, one dead odd one: at least the pair goes")
def channel_shuffle_gather_uneven() -> Net:
    return shuffle_v2((2, 3, 6), (1, 3), (1,))


def to_space(mode: str, zero, after) -> Net:
    """Conv(3, 16) -> DepthToSpace(2) -> Conv(4, 4)."""
    net = Net()
    t = net.known(net.conv(net.input("x", SHAPE), 3, 16, zero=zero), zero)
    if mode == "reshape":
        t = reshape_transpose(net, t, [2, 4, 2, 2, 8, 8], [0, 1, 4, 2, 5, 3], [2, 4, 16, 16])
    else:
        t = net.op("DepthToSpace", t, blocksize=2, mode=mode)
    if after:
        net.known(t, after)
    return net.output(net.conv(t, 4, 4, name="y"))


CRD = (4, 5, 6, 7, 8, 9, 10, 11)


@TRAPS.add(8 * 28 + 2 * 36, "DCR: channels 1 and 2 of the image come from every fourth depth channel")
def depth_to_space() -> Net:
    return to_space("DCR", (1, 2, 5, 6, 9, 10, 13, 14), (1, 2))


@TRAPS.add(8 * 28 + 2 * 36, "CRD: from four neighbours")
def depth_to_space_crd() -> Net:
    return to_space("CRD", CRD, (1, 2))


@TRAPS.add(8 * 28 + 2 * 36, "pixel shuffle written with a Reshape to six axes")
def pixel_shuffle_reshape() -> Net:
    return to_space("reshape", CRD, (1, 2))


@TRAPS.add(0, "three of the four depth channels of a pixel block are zero: the channel is not")
def depth_to_space_partial() -> Net:
    return to_space("CRD", (4, 5, 6), ())


@TRAPS.add(4 * 28 + 16 * 36, "each channel becomes four")
def space_to_depth() -> Net:
    def middle(net: Net, t: str) -> str:
        t = net.op("SpaceToDepth", t, blocksize=2)
        return net.known(t, [8 * block + channel for block in range(4) for channel in DEAD])

    return chain(middle, still_known=False, width=32)


@TRAPS.add(4 * 28 + 16 * 36, "the Focus layer of YOLO: four strided slices, concatenated")
def focus_slices() -> Net:
    def middle(net: Net, t: str) -> str:
        pieces = []
        for row, column in ((0, 0), (1, 0), (0, 1), (1, 1)):
            starts, ends = net.const([row, column]), net.const([2**31 - 1, 2**31 - 1])
            pieces.append(net.op("Slice", t, starts, ends, net.const([2, 3]), net.const([2, 2])))
        return net.op("Concat", *pieces, axis=1)

    return chain(middle, still_known=False, width=32)


@TRAPS.add(chain_cut(4), "channels last and back")
def transpose_nhwc() -> Net:
    def middle(net: Net, t: str) -> str:
        t = net.op("Relu", net.op("Transpose", t, perm=[0, 2, 3, 1]))
        return net.op("Transpose", net.op("Mul", t, net.const(net.normal(8) + 2)), perm=[0, 3, 1, 2])

    return chain(middle)
