"""ResNet-50, MobileNetV2 and U-Net, built with onnx.helper at any widths, and their zeroing schemes.

The architectures are those of torchvision (resnet50, mobilenet_v2) and a U-Net of four levels, 32 to 256 wide, with
ConvTranspose or with nearest upsampling and a 1x1 Conv on the way up. Weights are He-normal, gamma in [0.5, 1.5], beta
N(0, 0.2), running statistics measured on a random image. Schemes, with half of the channels each:

- inner: gamma = beta = 0 in every BatchNormalization that no residual sum sees;
- coupled: also one mask for each residual stage (but the last of ResNet-50), shared by all that add to it;
- indep: also a mask of its own for each BatchNormalization that adds to such a stage;
- const: like inner, but beta stays, so the channels are constant.

A *width key* names a set of tied channels: "layer1" is a residual stage, "layer1.0.conv1" an inner layer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache

import numpy as np
import onnx
from onnx import ModelProto, numpy_helper

from . import calibrate, oracle
from .net import Net

Widths = Mapping[str, int]

SCHEMES = ("inner", "coupled", "indep", "const")


@dataclass
class Builder:
    """A Net with Conv-BatchNormalization pairs whose widths have names.

    Attributes:
        norms: name of a BatchNormalization -> its width key.
    """

    widths: Widths
    seed: int = 0
    norms: dict[str, str] = field(default_factory=dict)
    used: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.net = Net(seed=self.seed, opset=17)

    def width(self, key: str, default: int) -> int:
        self.used[key] = self.widths.get(key, default)
        return self.used[key]

    def conv_norm(
        self, x: str, cin: int, cout: int, kernel: int, name: str, key: str, *, stride: int = 1, group: int = 1
    ) -> str:
        weight = self.net.const(
            self.net.normal(cout, cin // group, kernel, kernel, scale=(2 * group / cin) ** 0.5 / kernel),
            f"{name}.weight",
        )
        t = self.net.conv(
            x, cin, cout, kernel, stride=stride, group=group, weight=weight, bias=False, name=f"{name}.out"
        )
        self.norms[f"{name}.norm"] = key
        statistics = {
            "gamma": self.net.rng.uniform(0.5, 1.5, cout),
            "beta": self.net.normal(cout, scale=0.2),
            "mean": np.zeros(cout),
            "var": np.ones(cout),
        }
        operands = [self.net.const(array, f"{name}.norm.{part}") for part, array in statistics.items()]
        return self.net.op("BatchNormalization", t, *operands, name=f"{name}.norm", epsilon=1e-5)

    def relu(self, x: str) -> str:
        return self.net.op("Relu", x)

    def classifier(self, x: str, features: int, classes: int = 1000) -> Net:
        x = self.net.op("Flatten", self.net.op("GlobalAveragePool", x))
        weight, bias = self.net.normal(classes, features, scale=features**-0.5), self.net.normal(classes, scale=0.1)
        operands = self.net.const(weight, "fc.weight"), self.net.const(bias, "fc.bias")
        return self.net.output(self.net.op("Gemm", x, *operands, transB=1, name="logits"))


def resnet50(builder: Builder) -> Net:
    net, size = builder.net, 224
    stem = builder.width("stem", 64)
    t = builder.relu(builder.conv_norm(net.input("image", (1, 3, size, size)), 3, stem, 7, "stem", "stem", stride=2))
    t, cin = net.op("MaxPool", t, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]), stem
    for stage, (blocks, inner) in enumerate(((3, 64), (4, 128), (6, 256), (3, 512)), start=1):
        cout = builder.width(f"layer{stage}", 4 * inner)
        for block in range(blocks):
            name, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            keys = [f"{name}.conv1", f"{name}.conv2"]
            first, second = (builder.width(key, inner) for key in keys)
            branch = builder.relu(builder.conv_norm(t, cin, first, 1, keys[0], keys[0]))
            branch = builder.relu(builder.conv_norm(branch, first, second, 3, keys[1], keys[1], stride=stride))
            branch = builder.conv_norm(branch, second, cout, 1, f"{name}.conv3", f"layer{stage}")
            if block == 0:
                t = builder.conv_norm(t, cin, cout, 1, f"{name}.downsample", f"layer{stage}", stride=stride)
            t, cin = builder.relu(net.op("Add", branch, t)), cout
    return builder.classifier(t, cin)


def mobilenet_v2(builder: Builder) -> Net:
    net = builder.net

    def relu6(x: str) -> str:
        return net.op("Clip", x, "zero", "six")

    net.const(0.0, "zero")
    net.const(6.0, "six")
    stem = builder.width("stem", 32)
    t = relu6(builder.conv_norm(net.input("image", (1, 3, 224, 224)), 3, stem, 3, "stem", "stem", stride=2))
    cin, default_in, index = stem, 32, 0
    settings = (
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    )
    for stage, (expansion, channels, blocks, stride) in enumerate(settings, start=1):
        cout = builder.width(f"stage{stage}", channels)
        for block in range(blocks):
            key = f"block{index}" if expansion > 1 else "stem"
            hidden, x = builder.width(key, expansion * default_in), t
            if expansion > 1:
                x = relu6(builder.conv_norm(x, cin, hidden, 1, f"{key}.expand", key))
            step = stride if block == 0 else 1
            x = relu6(
                builder.conv_norm(x, hidden, hidden, 3, f"block{index}.depthwise", key, stride=step, group=hidden)
            )
            x = builder.conv_norm(x, hidden, cout, 1, f"block{index}.project", f"stage{stage}")
            t = x if block == 0 else net.op("Add", x, t)
            cin, default_in, index = cout, channels, index + 1
    last = builder.width("last", 1280)
    return builder.classifier(relu6(builder.conv_norm(t, cin, last, 1, "last", "last")), last)


def unet(builder: Builder, upsample: bool = False, size: int = 128) -> Net:
    net = builder.net

    def double(x: str, cin: int, default: int, name: str) -> tuple[str, int]:
        for part in ("0", "1"):
            key = f"{name}.{part}"
            cout = builder.width(key, default)
            x, cin = builder.relu(builder.conv_norm(x, cin, cout, 3, key, key)), cout
        return x, cin

    t, cin, skips = net.input("image", (1, 3, size, size)), 3, []
    for level, default in enumerate((32, 64, 128, 256), start=1):
        if skips:
            t = net.op("MaxPool", t, kernel_shape=[2, 2], strides=[2, 2])
        t, cin = double(t, cin, default, f"down{level}")
        skips.append((t, cin))
    for level, default in ((3, 128), (2, 64), (1, 32)):
        cout = builder.width(f"up{level}", default)
        if upsample:
            scales = net.const(np.array([1.0, 1.0, 2.0, 2.0]))
            options = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor", "mode": "nearest"}
            t = net.conv(net.op("Resize", t, "", scales, **options), cin, cout, 1)
        else:
            t = net.conv(t, cin, cout, 2, stride=2, pad=0, transposed=True)
        skip, width = skips[level - 1]
        t, cin = double(net.op("Concat", skip, t, axis=1), width + cout, default, f"merge{level}")
    return net.output(net.conv(t, cin, 1, 1, name="mask"))


def unet_upsample(builder: Builder) -> Net:
    return unet(builder, upsample=True)


ARCHITECTURES: dict[str, Callable[[Builder], Net]] = {
    "resnet50": resnet50,
    "mobilenet_v2": mobilenet_v2,
    "unet": unet,
    "unet_upsample": unet_upsample,
}


@dataclass(frozen=True)
class Network:
    """A model and the widths and BatchNormalizations that it was built with."""

    model: ModelProto
    widths: dict[str, int]
    norms: dict[str, str]


def dense_at(architecture: str, widths: Widths | None = None, *, folded: bool = True, seed: int = 0) -> Network:
    """The architecture with random weights at the given widths; what is not given has its published width.

    This is the ideal that a cut network is held against.
    """
    builder = Builder(widths or {}, seed)
    model = ARCHITECTURES[architecture](builder).model()
    calibrate.set_initializers(model, calibrate.batch_statistics(model, oracle.feeds(model, 99)))
    return Network(fold(model) if folded else model, builder.used, builder.norms)


@cache
def published(architecture: str) -> Network:
    return dense_at(architecture, folded=False)


@dataclass(frozen=True)
class Planted:
    """A zeroed network. `dead[norm]` are the channels of a BatchNormalization whose gamma is zero."""

    model: ModelProto
    dead: dict[str, np.ndarray]
    dense: Network


def planted(architecture: str, scheme: str, *, folded: bool = True, seed: int = 0) -> Planted:
    """The architecture at its published widths, zeroed by a scheme."""
    if scheme not in SCHEMES:
        raise ValueError(f"{scheme} is none of {SCHEMES}")
    network, rng = published(architecture), np.random.default_rng(seed)
    shared = {key: half(rng, width) for key, width in network.widths.items()}
    dead = {}
    for norm, key in network.norms.items():
        if is_inner(key) or (scheme == "coupled" and is_residual(key)):
            dead[norm] = shared[key]
        elif scheme == "indep" and is_residual(key):
            dead[norm] = half(rng, network.widths[key])
    model = ModelProto()
    model.CopyFrom(network.model)
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    changed = {}
    for norm, channels in dead.items():
        for part in ("gamma",) if scheme == "const" else ("gamma", "beta"):
            changed[f"{norm}.{part}"] = np.array(arrays[f"{norm}.{part}"])
            changed[f"{norm}.{part}"][channels] = 0
    calibrate.set_initializers(model, changed)
    return Planted(fold(model) if folded else model, dead, network)


def is_inner(key: str) -> bool:
    """Whether a width key is a layer that no residual sum sees, and neither the stem nor the last layer."""
    return key.startswith(("block", "down", "merge")) or ".conv" in key


def is_residual(key: str) -> bool:
    return key.startswith("stage") or key in ("layer1", "layer2", "layer3")


def half(rng: np.random.Generator, width: int) -> np.ndarray:
    return np.sort(rng.permutation(width)[: width // 2])


def fold(model: ModelProto) -> ModelProto:
    """A copy with each BatchNormalization in its Conv: W' = W g, b' = beta - mean g, where g = gamma / sigma."""
    copy = ModelProto()
    copy.CopyFrom(model)
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in copy.graph.initializer}
    makers = {output: node for node in copy.graph.node for output in node.output}
    nodes = []
    for node in copy.graph.node:
        if node.op_type != "BatchNormalization":
            nodes.append(node)
            continue
        conv = makers[node.input[0]]
        gamma, beta, mean, var = (arrays.pop(name).astype(np.float64) for name in node.input[1:])
        scale = gamma / np.sqrt(var + 1e-5)
        weight, bias = conv.input[1], conv.input[1].replace(".weight", ".bias")
        arrays[weight] = (arrays[weight] * scale[:, None, None, None]).astype(np.float32)
        arrays[bias] = (beta - mean * scale).astype(np.float32)
        conv.input.append(bias)
        conv.output[0] = node.output[0]
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del copy.graph.node[:], copy.graph.initializer[:]
    copy.graph.node.extend(kept)
    copy.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in arrays.items())
    onnx.checker.check_model(copy)
    return copy
