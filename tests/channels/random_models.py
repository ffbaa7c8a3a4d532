"""Random small models: every seed is one, of operators that have rules, with channels that carry nothing."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from onnx import ModelProto

from tests.zoo.net import Net

Step = Callable[["Maker"], str | None]


class Maker:
    """A Net that grows by random steps. All tensors in `open` are [n, channels, side, side] images."""

    def __init__(self, seed: int):
        self.rng = np.random.default_rng(seed)
        self.net = Net(seed=seed)
        self.shapes: dict[str, tuple[int, int]] = {}  # channels, side
        dynamic = self.rng.random() < 0.3
        image = self.net.input("x", ("batch" if dynamic else 2, 3, 8, 8))
        self.put(image, 3, 8)
        if self.rng.random() < 0.3:
            raw = self.net.input("u", ("batch" if dynamic else 2, 2, 8, 8), np.uint8)
            self.put(self.net.op("Cast", raw, to=1), 2, 8)
            self.last = self.net.op("Mul", self.last, self.net.const(1 / 255))
            self.put(self.last, 2, 8)

    def put(self, name: str, channels: int, side: int) -> str:
        self.shapes[name] = (channels, side)
        self.last = name
        return name

    def pick(self) -> str:
        """Mostly the last tensor, sometimes an earlier one."""
        return self.last if self.rng.random() < 0.7 else str(self.rng.choice(list(self.shapes)))

    def chosen(self, count: int, share: float = 0.35) -> list[int]:
        return [int(i) for i in np.flatnonzero(self.rng.random(count) < share)]

    def integer(self, low: int, high: int) -> int:
        return int(self.rng.integers(low, high + 1))

    def step(self) -> None:
        STEPS[int(self.rng.integers(len(STEPS)))](self)


def convolution(m: Maker) -> None:
    x = m.pick()
    cin, side = m.shapes[x]
    groups = [g for g in (1, 2, 4, cin) if cin % g == 0]
    group = int(m.rng.choice(groups)) if m.rng.random() < 0.3 else 1
    cout = group * m.integer(1, max(1, 8 // group))
    planted = m.chosen(cout)
    constant = {c: float(m.rng.uniform(-1, 1)) for c in planted if m.rng.random() < 0.5}
    transposed = m.rng.random() < 0.15
    kernel = 3 if side >= 3 and m.rng.random() < 0.6 else 1
    pad = m.integer(0, kernel // 2)
    stride = 2 if side >= 6 and not transposed and m.rng.random() < 0.2 else 1
    bias = m.rng.random() < 0.8
    after = side + kernel - 1 - 2 * pad if transposed else (side + 2 * pad - kernel) // stride + 1
    name = m.net.conv(
        x, cin, cout, kernel, pad=pad, stride=stride, group=group, bias=bias, transposed=transposed,
        zero=[c for c in planted if c not in constant], constant=constant if bias else {},
        unread=m.chosen(cin // group if not transposed else cin, 0.2),
    )  # fmt: skip
    m.put(name, cout, after)


def activation(m: Maker) -> None:
    x = m.pick()
    op = str(m.rng.choice(
        ["Relu", "Sigmoid", "Tanh", "HardSigmoid", "LeakyRelu", "Elu", "Softplus", "Abs", "Neg", "HardSwish", "Floor",
         "Ceil", "Round", "Sign", "Erf", "Softsign", "Selu", "Identity", "ThresholdedRelu", "Celu", "Atan", "Sin"]
    ))  # fmt: skip
    m.put(m.net.op(op, x), *m.shapes[x])


def clip(m: Maker) -> None:
    x = m.pick()
    low = float(m.rng.uniform(-2, 1))
    ends = [m.net.const(low), m.net.const(low + float(m.rng.uniform(0, 2)))]
    if m.rng.random() < 0.3:
        ends[0] = ""
    m.put(m.net.op("Clip", x, *ends), *m.shapes[x])


def by_constant(m: Maker) -> None:
    """Mul, Add, Sub, Max, Min, Div, Pow by [C, 1, 1], with zeros among the factors."""
    x = m.pick()
    channels, side = m.shapes[x]
    op = str(m.rng.choice(["Mul", "Add", "Sub", "Max", "Min", "Div"]))
    value = m.net.normal(channels, 1, 1)
    if op == "Div":
        value = np.sign(value) * (np.abs(value) + 0.3)
    elif m.rng.random() < 0.5:
        value[m.chosen(channels)] = 0
    operands = [x, m.net.const(value)]
    if op in ("Sub", "Max") and m.rng.random() < 0.4:
        operands.reverse()
    m.put(m.net.op(op, *operands), channels, side)


def batch_norm(m: Maker) -> None:
    x = m.pick()
    channels, side = m.shapes[x]
    planted = m.chosen(channels)
    constant = {c: 0.5 for c in planted if m.rng.random() < 0.5}
    m.put(m.net.batch_norm(x, channels, zero=[c for c in planted if c not in constant], constant=constant),
          channels, side)  # fmt: skip


def merge(m: Maker) -> None:
    """Two tensors of one shape; one of them is made if there is none."""
    x = m.pick()
    channels, side = m.shapes[x]
    others = [name for name, shape in m.shapes.items() if shape == (channels, side) and name != x]
    if not others or m.rng.random() < 0.3:
        planted = m.chosen(channels)
        y = m.net.conv(x, channels, channels, 1, zero=planted)
    else:
        y = str(m.rng.choice(others))
    op = str(m.rng.choice(["Add", "Mul", "Sub", "Max", "Min", "Sum", "Mean", "Where"]))
    if op == "Where":
        condition = m.net.op("Greater", x, m.net.const(float(m.rng.uniform(-0.5, 0.5))))
        m.put(m.net.op("Where", condition, x, y), channels, side)
    else:
        m.put(m.net.op(op, x, y), channels, side)


def concat(m: Maker) -> None:
    x = m.pick()
    channels, side = m.shapes[x]
    others = [name for name, shape in m.shapes.items() if shape[1] == side]
    y = str(m.rng.choice(others))
    if channels + m.shapes[y][0] <= 24:
        m.put(m.net.op("Concat", x, y, axis=1), channels + m.shapes[y][0], side)


def split(m: Maker) -> None:
    x = m.pick()
    channels, side = m.shapes[x]
    if channels < 2:
        return
    first = m.integer(1, channels - 1)
    one = m.net.op("Split", x, m.net.const([first, channels - first]), count=2, axis=1)
    m.put(one, first, side)
    m.put(f"{one}:1", channels - first, side)


def select(m: Maker) -> None:
    """Slice or Gather along channels."""
    x = m.pick()
    channels, side = m.shapes[x]
    if m.rng.random() < 0.5:
        index = m.rng.integers(0, channels, m.integer(1, channels))
        m.put(m.net.op("Gather", x, m.net.const(index), axis=1), len(index), side)
    elif channels >= 3:
        start, step = m.integer(0, 1), m.integer(1, 2)
        name = m.net.op("Slice", x, *(m.net.const([v]) for v in (start, channels, 1, step)))
        m.put(name, len(range(start, channels, step)), side)


def pool(m: Maker) -> None:
    x = m.pick()
    channels, side = m.shapes[x]
    if side < 4:
        return
    if m.rng.random() < 0.5:
        m.put(m.net.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2]), channels, side // 2)
    else:
        name = m.net.op("AveragePool", x, kernel_shape=[3, 3], pads=[1] * 4, count_include_pad=m.integer(0, 1))
        m.put(name, channels, side)


def squeeze_and_excite(m: Maker) -> None:
    x = m.pick()
    channels, side = m.shapes[x]
    gate = m.net.op("GlobalAveragePool", x)
    gate = m.net.conv(gate, channels, channels, 1, zero=m.chosen(channels))
    gate = m.net.op(str(m.rng.choice(["Sigmoid", "HardSigmoid", "Relu"])), gate)
    m.put(m.net.op("Mul", x, gate), channels, side)


def shuffle(m: Maker) -> None:
    x = m.pick()
    channels, side = m.shapes[x]
    group = next((g for g in (2, 3) if channels % g == 0 and channels > g), None)
    if group is None:
        return
    t = m.net.op("Reshape", x, m.net.const([0, group, channels // group, side, side]))
    t = m.net.op("Transpose", t, perm=[0, 2, 1, 3, 4])
    m.put(m.net.op("Reshape", t, m.net.const([0, channels, side, side])), channels, side)


def channels_last(m: Maker) -> None:
    """NHWC for a MatMul with a bias behind it, and back."""
    x = m.pick()
    channels, side = m.shapes[x]
    cout = m.integer(1, 8)
    weight, bias = m.net.normal(channels, cout), m.net.normal(cout)
    planted = m.chosen(cout)
    weight[:, planted] = 0
    bias[planted[::2]] = 0
    t = m.net.op("MatMul", m.net.op("Transpose", x, perm=[0, 2, 3, 1]), m.net.const(weight))
    t = m.net.op("Add", t, m.net.const(bias))
    m.put(m.net.op("Transpose", t, perm=[0, 3, 1, 2]), cout, side)


def pad(m: Maker) -> None:
    """A border of one on each side, eaten by a pool without padding."""
    x = m.pick()
    channels, side = m.shapes[x]
    if side < 3:
        return
    mode = str(m.rng.choice(["constant", "reflect", "edge"]))
    operands = [m.net.const([0, 0, 1, 1, 0, 0, 1, 1])]
    if mode == "constant":
        operands.append(m.net.const(float(m.rng.choice([0, 0.5]))))
    t = m.net.op("Pad", x, *operands, mode=mode)
    m.put(m.net.op(str(m.rng.choice(["MaxPool", "AveragePool"])), t, kernel_shape=[3, 3]), channels, side)


def resize(m: Maker) -> None:
    x = m.pick()
    channels, side = m.shapes[x]
    if side > 6:
        return
    mode = str(m.rng.choice(["nearest", "linear"]))
    m.put(m.net.op("Resize", x, "", m.net.const([1.0, 1.0, 2.0, 2.0]), mode=mode), channels, 2 * side)


def normalize(m: Maker) -> None:
    x = m.pick()
    channels, side = m.shapes[x]
    if side < 2:
        return
    scale, bias = m.rng.uniform(0.5, 1.5, channels), m.net.normal(channels)
    scale[m.chosen(channels, 0.2)] = 0
    m.put(m.net.op("InstanceNormalization", x, m.net.const(scale), m.net.const(bias)), channels, side)


def softmax(m: Maker) -> None:
    x = m.pick()
    m.put(m.net.op("Softmax", x, axis=int(m.rng.choice([1, -1]))), *m.shapes[x])


def prelu(m: Maker) -> None:
    x = m.pick()
    channels, side = m.shapes[x]
    m.put(m.net.op("PRelu", x, m.net.const(m.net.normal(channels, 1, 1))), channels, side)


def reduction(m: Maker) -> None:
    """A mean over space or channels, taken off again."""
    x = m.pick()
    axes = [[2, 3], [1], [1, 2, 3]][m.integer(0, 2)]
    op = str(m.rng.choice(["ReduceMean", "ReduceMax", "ReduceMin"]))
    m.put(m.net.op("Sub", x, m.net.op(op, x, axes=axes, keepdims=1)), *m.shapes[x])


STEPS: list[Callable[[Maker], None]] = [
    convolution, convolution, convolution, convolution, activation, activation, activation, clip, by_constant,
    by_constant, batch_norm, merge, merge, concat, split, select, pool, squeeze_and_excite, shuffle, channels_last,
    pad, resize, normalize, softmax, prelu, reduction,
]  # fmt: skip


def random_model(seed: int, steps: int = 10) -> ModelProto:
    """The model of a seed: `steps` random steps, then a Conv; one or two outputs."""
    m = Maker(seed)
    convolution(m)
    for _ in range(steps):
        m.step()
    channels, _ = m.shapes[m.last]
    m.net.output(m.net.conv(m.last, channels, 3, 1, name="y"))
    if m.rng.random() < 0.2:
        m.net.output(m.net.op("Identity", m.pick(), name="z"))
    return m.net.model()
