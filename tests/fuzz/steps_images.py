"""Steps on images, signals and volumes: [n, channels, size...]."""

from __future__ import annotations

import numpy as np

from . import spelling
from .maker import Maker, Rejected, Tensor


def image(m: Maker, low: int = 3, high: int = 5) -> Tensor:
    """A tensor of 1 to 3 spatial dimensions, whose channels are static."""
    return m.pick(lambda t: low <= t.rank <= high and t.fixed(1) and t.shape[1] <= 32)


def _even(count: int, low: int, high: int, m: Maker) -> list[int]:
    return [m.integer(low, high) for _ in range(count)]


def convolution(m: Maker) -> None:
    x = image(m)
    channels, dims = x.shape[1], x.rank - 2
    group = m.choice([g for g in (1, 2, 3, 4, channels) if channels % g == 0]) if m.chance(0.35) else 1
    outputs = group * m.integer(1, max(1, 10 // group))
    sizes = [min(shape[2 + a] for shape in x.shapes) for a in range(dims)]
    kernel = [m.choice([k for k in (1, 1, 2, 3) if k <= size]) for size in sizes] if m.chance(0.7) else [1] * dims
    weight = m.weight(
        outputs, channels // group, *kernel, fan_in=channels // group * int(np.prod(kernel)), planted=(0, 1)
    )
    operands = [x, weight]
    values = m.initializers.get(weight.name)
    if m.chance(0.8):
        dead = [] if values is None else np.flatnonzero(~values.reshape(outputs, -1).any(axis=1)).tolist()
        operands.append(m.bias(outputs, dead))
    attributes: dict[str, object] = {"group": group}
    if m.chance(0.6):
        attributes["kernel_shape"] = kernel
    if m.chance(0.1):
        attributes["auto_pad"] = m.choice(["SAME_UPPER", "SAME_LOWER", "VALID"])
    elif m.chance(0.6):
        attributes["pads"] = [k // 2 for k in kernel] * 2 if m.chance(0.7) else _even(2 * dims, 0, 1, m)
    if m.chance(0.25):
        attributes["strides"] = _even(dims, 1, 2, m)
    room = all(2 * k - 1 <= size for k, size in zip(kernel, sizes, strict=True))
    if m.chance(0.15) and attributes.get("auto_pad") is None and room:
        attributes["dilations"] = _even(dims, 1, 2, m)
    m.op("Conv", *operands, **attributes)


def transposed_convolution(m: Maker) -> None:
    x = image(m, 3, 5)
    channels, dims = x.shape[1], x.rank - 2
    group = m.choice([g for g in (2, 3, channels) if channels % g == 0]) if m.chance(0.3) else 1
    per_group = m.integer(1, max(1, 8 // group))
    kernel = [m.integer(1, 3) for _ in range(dims)]
    fan_in = channels // group * int(np.prod(kernel))
    weight = m.weight(channels, per_group, *kernel, fan_in=fan_in, planted=(0, 1))
    operands = [x, weight, *([m.bias(per_group * group, m.chosen(per_group * group))] if m.chance(0.7) else [])]
    strides = _even(dims, 1, 2, m)
    attributes: dict[str, object] = {"group": group, "strides": strides}
    if m.chance(0.3):
        attributes["pads"] = [min(1, k - 1) for k in kernel] * 2
    if m.chance(0.2):
        attributes["output_padding"] = [s - 1 for s in strides]
    m.op("ConvTranspose", *operands, **attributes)


def depthwise_block(m: Maker) -> None:
    """An inverted residual: pointwise, depthwise (with a multiplier now and then), pointwise, and the sum."""
    x = image(m, 4, 4)
    channels = x.shape[1]
    hidden = m.integer(2, 8)
    t = m.op("Conv", x, m.weight(hidden, channels, 1, 1, fan_in=channels, planted=(0,)), m.bias(hidden))
    t = m.op(m.choice(["Relu", "HardSigmoid", "Sigmoid"]), t)
    times = m.choice([1, 1, 2, 3])
    weight = m.weight(hidden * times, 1, 3, 3, fan_in=9, planted=(0,))
    t = m.op("Conv", t, weight, m.bias(hidden * times, range(hidden * times)), group=hidden, pads=[1] * 4)
    t = spelling.clip(m, t, 0.0, 6.0)
    weight = m.weight(channels, hidden * times, 1, 1, fan_in=hidden * times, planted=(0,))
    t = m.op("Conv", t, weight, m.bias(channels, range(channels)))
    if m.chance(0.7):
        m.op("Add", x, t)


def batch_normalization(m: Maker) -> None:
    x = m.pick(lambda t: t.rank >= 2 and t.fixed(1))
    channels = x.shape[1]
    scale, bias = m.rng.uniform(0.5, 1.5, channels), m.rng.standard_normal(channels) * 0.3
    dead = m.chosen(channels)
    scale[dead] = 0
    bias[[d for d in dead if m.chance(0.5)]] = 0
    values = (scale, bias, m.rng.standard_normal(channels) * 0.2, m.rng.uniform(0.5, 1.5, channels))
    m.op("BatchNormalization", x, *(m.const(v) for v in values))


def instance_normalization(m: Maker) -> None:
    x = image(m)
    if min(s[-1] for s in x.shapes) < 2:
        raise Rejected("nothing to normalize over")
    scale = m.rng.uniform(0.5, 1.5, x.shape[1])
    scale[m.chosen(x.shape[1], 0.2)] = 0
    m.op("InstanceNormalization", x, m.const(scale), m.bias(x.shape[1]), epsilon=1e-2)


def group_normalization(m: Maker) -> None:
    x = image(m)
    channels = x.shape[1]
    if m.opset < 21 or min(s[-1] for s in x.shapes) < 2:
        raise Rejected("needs opset 21")
    groups = m.choice([g for g in (1, 2, 3, channels) if channels % g == 0])
    m.op(
        "GroupNormalization",
        x,
        m.weight(channels, planted=(0,)),
        m.bias(channels),
        num_groups=groups,
        epsilon=1e-2,
        like=x,
    )


def local_response(m: Maker) -> None:
    m.op("LRN", image(m, 4, 4), size=m.choice([1, 3]), alpha=0.1)


def pool(m: Maker) -> None:
    x = image(m)
    dims = x.rank - 2
    op = m.choice(["MaxPool", "AveragePool", "AveragePool", "LpPool"])
    # ONNX Runtime moves a Pad into the pool behind it, and refuses the result unless the kernel is longer than both
    padded = any(node.op_type == "Pad" and x.name in node.output for node in m.nodes)
    sizes = (1, 2, 3) if op == "LpPool" else (2, 3)
    kernel = [m.choice([k for k in sizes if k <= min(s[2 + a] for s in x.shapes)] or [1]) for a in range(dims)]
    attributes: dict[str, object] = {"kernel_shape": kernel}
    strides = _even(dims, 1, 2, m) if m.chance(0.5) else [1] * dims
    attributes["strides"] = strides
    if m.chance(0.4) and not padded:
        attributes["pads"] = [k // 2 for k in kernel] * 2
    elif (
        m.chance(0.2)
        and (op != "LpPool" or m.opset >= 18)
        and all(k >= s for k, s in zip(kernel, strides, strict=True))
    ):
        attributes["ceil_mode"] = 1  # a last window that begins in the padding is counted by some, dropped by others
    if op == "AveragePool" and m.chance(0.5):
        attributes["count_include_pad"] = 1
    if op == "MaxPool" and m.chance(0.1):
        m.ops("MaxPool", x, count=2, **attributes)
    else:
        m.op(op, x, **attributes)


def global_pool(m: Maker) -> None:
    m.op(m.choice(["GlobalAveragePool", "GlobalMaxPool"] + (["GlobalLpPool"] if m.opset < 22 else [])), image(m))


def resize(m: Maker) -> None:
    x = image(m, 3, 5)
    dims = x.rank - 2
    mode = m.choice(["nearest", "nearest", "linear"] + (["cubic"] if dims == 2 else []))
    attributes: dict[str, object] = {"mode": mode}
    ways = ["half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"]
    attributes["coordinate_transformation_mode"] = m.choice(ways)
    if mode == "nearest":
        attributes["nearest_mode"] = m.choice(["round_prefer_floor", "floor", "ceil"])
    scales = [1.0, 1.0, *(m.choice([1.0, 2.0, 1.5, 0.5]) for _ in range(dims))]
    roi = m.const(np.zeros(0)) if m.opset < 13 else None
    if m.chance(0.3):
        sizes = [[s[0], s[1], *(max(1, int(d * f)) for d, f in zip(s[2:], scales[2:], strict=True))] for s in x.shapes]
        if sizes[0] == sizes[1]:
            operand = m.const(sizes[0])
        else:
            operand = spelling.computed(m, x, (tuple(sizes[0]), tuple(sizes[1])), slices=False)
        if m.opset < 13:
            m.op("Resize", x, roi, m.const(np.zeros(0), np.float32), operand, **attributes)
        else:
            m.op("Resize", x, None, None, operand, **attributes)
    else:
        m.op("Resize", x, roi, m.const(np.array(scales), np.float32), **attributes)


def depth_to_space(m: Maker) -> None:
    x = m.pick(lambda t: t.rank == 4 and t.fixed(1) and t.shape[1] % 4 == 0)
    m.op("DepthToSpace", x, blocksize=2, mode=m.choice(["DCR", "CRD"]))


def space_to_depth(m: Maker) -> None:
    x = m.pick(lambda t: t.rank == 4 and t.shape[1] <= 8 and all(s[a] % 2 == 0 for s in t.shapes for a in (2, 3)))
    m.op("SpaceToDepth", x, blocksize=2)


def shuffle(m: Maker) -> None:
    """A channel shuffle: Reshape, Transpose, Reshape."""
    x = m.pick(lambda t: 3 <= t.rank <= 4 and t.fixed(1) and t.shape[1] % 2 == 0)
    group = m.choice([g for g in (2, 3, 4) if x.shape[1] % g == 0])
    inner = tuple((s[0], group, s[1] // group, *s[2:]) for s in x.shapes)
    t = spelling.reshape(m, x, (inner[0], inner[1]))
    t = spelling.transpose(m, t, [0, 2, 1, *range(3, t.rank)])
    spelling.reshape(m, t, x.shapes)


def squeeze_and_excite(m: Maker) -> None:
    x = image(m, 4, 4)
    channels, hidden = x.shape[1], m.integer(1, 4)
    gate = m.op("GlobalAveragePool", x)
    if m.chance(0.5):
        gate = spelling.reduce(m, "ReduceMean", x, [2, 3], 1)
    gate = m.op("Conv", gate, m.weight(hidden, channels, 1, 1, fan_in=channels, planted=(0,)), m.bias(hidden))
    gate = m.op("Relu", gate)
    gate = m.op("Conv", gate, m.weight(channels, hidden, 1, 1, fan_in=hidden, planted=(0,)), m.bias(channels))
    m.op("Mul", x, m.op(m.choice(["Sigmoid", "HardSigmoid"]), gate))


def pixel_shuffle_spelled_out(m: Maker) -> None:
    x = m.pick(lambda t: t.rank == 4 and t.fixed(1) and t.shape[1] % 4 == 0)
    n, c, h, w = (tuple(s[a] for s in x.shapes) for a in range(4))
    first = tuple((n[k], c[k] // 4, 2, 2, h[k], w[k]) for k in (0, 1))
    t = spelling.transpose(m, spelling.reshape(m, x, (first[0], first[1])), [0, 1, 4, 2, 5, 3])
    last = tuple((n[k], c[k] // 4, h[k] * 2, w[k] * 2) for k in (0, 1))
    spelling.reshape(m, t, (last[0], last[1]))


def channels_last(m: Maker) -> None:
    """As TensorFlow exporters write it: NHWC, a MatMul or BatchNormalization by hand, and back."""
    x = image(m, 4, 4)
    t = spelling.transpose(m, x, [0, 2, 3, 1])
    if m.chance(0.5):
        t = m.op("Mul", t, m.weight(t.shape[-1], planted=(0,)))
        t = m.op("Add", t, m.bias(t.shape[-1], range(t.shape[-1])))
    else:
        t = m.op("MatMul", t, m.weight(t.shape[-1], m.integer(1, 8), fan_in=t.shape[-1], planted=(0, 1)))
        t = m.op("Add", t, m.bias(t.shape[-1], range(t.shape[-1])))
    if m.chance(0.4):
        t = m.op(m.choice(["Relu", "Sigmoid", "Tanh"]), t)
    if m.chance(0.8):
        spelling.transpose(m, t, [0, 3, 1, 2])


def grid_sample(m: Maker) -> None:
    x = m.pick(lambda t: t.rank == 4 and t.static and t.shape[0] <= 3)
    if m.opset < 16:
        raise Rejected("needs opset 16")
    grid = m.const(m.rng.uniform(-1.1, 1.1, (x.shape[0], 3, 3, 2)))
    mode = "bilinear" if m.opset < 20 else "linear"
    m.op(
        "GridSample",
        x,
        grid,
        mode=m.choice([mode, "nearest"]),
        padding_mode=m.choice(["zeros", "border", "reflection"]),
    )


STEPS = {
    convolution: 14,
    transposed_convolution: 2,
    depthwise_block: 2,
    batch_normalization: 4,
    instance_normalization: 1,
    group_normalization: 1,
    local_response: 0.5,
    pool: 4,
    global_pool: 1,
    resize: 2,
    depth_to_space: 1,
    space_to_depth: 1,
    shuffle: 1.5,
    squeeze_and_excite: 1.5,
    pixel_shuffle_spelled_out: 0.7,
    channels_last: 1.5,
    grid_sample: 0.4,
}
