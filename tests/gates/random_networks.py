"""Random networks over images: layers, and everything that moves, joins or reduces channels, in any order.

A network is a list of steps; each reads one or two of the images that the steps before it made.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SIZE = 8
WIDEST = 40

UNARY: list[Callable[[Tensor], Tensor]] = [
    *(torch.relu, torch.sigmoid, torch.tanh, torch.abs, torch.neg, torch.square, torch.cos, torch.floor, torch.erf),
    *(F.silu, F.gelu, F.hardswish, F.softplus, F.relu6, F.elu, F.leaky_relu, F.hardsigmoid, F.logsigmoid),
    *(partial(F.max_pool2d, kernel_size=3, stride=1, padding=1), partial(F.avg_pool2d, kernel_size=2)),
    *(partial(F.interpolate, scale_factor=2), partial(F.softmax, dim=1), partial(F.normalize, dim=1)),
    *(partial(torch.clamp, min=0.2, max=3), partial(torch.pow, exponent=3), partial(torch.cumsum, dim=1)),
    *(lambda x: 1 / (x.abs() + 1), lambda x: x * torch.rsqrt(x * x + 0.1), lambda x: 1 - x, lambda x: 1.7 * x + 0.3),
    *(lambda x: F.layer_norm(x, x.shape[1:]), lambda x: x / (x.std((2, 3), keepdim=True) + 1e-3)),
    *(lambda x: x / (x.mean((2, 3), keepdim=True).abs() + 1), lambda x: x.flip(1), lambda x: x.flip(3)),
    *(
        torch.sin,
        partial(F.glu, dim=1),
        partial(F.threshold, threshold=0.1, value=0.4),
        partial(torch.clamp_min, min=0.3),
    ),
    *(partial(torch.cumsum, dim=2), lambda x: x.masked_fill(x[:, :1] > 0, 0.5), lambda x: x.repeat_interleave(2, 1)),
]
BINARY: list[Callable[[Tensor, Tensor], Tensor]] = [
    *(torch.add, torch.add, torch.sub, torch.mul, torch.maximum, torch.minimum),
    *(lambda a, b: torch.stack([a, b], 1).amax(1), lambda a, b: torch.stack([a, b], 2).flatten(1, 2)),
    *(lambda a, b: a / (b.abs() + 1), lambda a, b: torch.where(a > 0, a, b), lambda a, b: a * (b > 0)),
    *(lambda a, b: (a.flatten(2) @ b.flatten(2).transpose(1, 2) @ b.flatten(2) / 64).unflatten(2, a.shape[2:]),),
]


class RandomNetwork(nn.Module):
    """A network that its seed decides."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.random = random.Random(seed)
        torch.manual_seed(seed)
        self.layers = nn.ModuleList()
        self.steps: list[tuple[Callable[..., Tensor], int | None, tuple[int, ...]]] = []
        self.shapes: list[torch.Size] = [torch.Size((2, 3, SIZE, SIZE))]
        self._convolve(0)
        for _ in range(self.random.randint(3, 9)):
            source = max(1, len(self.shapes) - self.random.choice([1, 1, 1, 2, 3]))
            self.random.choice(STEPS)(self, source)
        shape = self.shapes[-1]
        self.pool = self.random.choice([lambda x: x.mean((2, 3)), lambda x: x.amax((2, 3)), lambda x: x.flatten(1)])
        self.head = nn.Linear(self.pool(torch.zeros(shape)).shape[1], 5)
        for layer in self.modules():
            if isinstance(layer, nn.BatchNorm2d):
                nn.init.uniform_(layer.running_mean, -1, 1)
                nn.init.uniform_(layer.running_var, 0.5, 2)
            if isinstance(layer, nn.BatchNorm2d | nn.GroupNorm | nn.LayerNorm):
                nn.init.uniform_(layer.weight, 0.5, 2)
                nn.init.uniform_(layer.bias, -1, 1)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        made = [x]
        for function, layer, sources in self.steps:
            inputs = [made[source] for source in sources]
            made.append(function(*inputs) if layer is None else function(self.layers[layer], *inputs))
        return self.head(self.pool(made[-1]))

    # what steps are made of

    def step(self, function: Callable[..., Tensor], *sources: int, layer: nn.Module | None = None) -> int:
        """Add a step, unless the sizes do not suit it; the number of what it makes.

        A function reads its layer, if it has one, and images: it holds no layer itself, so that networks can be copied.
        """
        inputs: list[Any] = [torch.rand(self.shapes[source]) for source in sources]
        try:
            shape = function(*([] if layer is None else [layer]), *inputs).shape
        except (RuntimeError, ValueError, IndexError):
            return sources[0]
        if len(shape) != 4 or shape[1] > WIDEST or not 2 <= shape[2] <= 2 * SIZE:
            return sources[0]
        if layer is not None:
            self.layers.append(layer)
        self.steps.append((function, None if layer is None else len(self.layers) - 1, sources))
        self.shapes.append(shape)
        return len(self.shapes) - 1

    def layer(self, module: nn.Module, source: int) -> int:
        return self.step(lambda layer, x: layer(x), source, layer=module)

    def width(self, source: int) -> int:
        return self.shapes[source][1]

    def _convolve(self, source: int, out: int = 0, groups: int = 1) -> int:
        out, kernel = out or self.random.choice([4, 6, 8, 12]), self.random.choice([1, 3])
        options: dict[str, Any] = {"padding": kernel // 2, "groups": groups, "bias": self.random.random() < 0.5}
        found = self.layer(nn.Conv2d(self.width(source), out, kernel, **options), source)
        return self.layer(nn.BatchNorm2d(out), found) if self.random.random() < 0.6 else found

    def other(self, source: int) -> int:
        """Something else of the same size in space, or the same."""
        size = self.shapes[source][2:]
        return self.random.choice([k for k, shape in enumerate(self.shapes) if k and shape[2:] == size])


Step = Callable[[RandomNetwork, int], Any]
STEPS: list[Step] = []


def often(times: int) -> Callable[[Step], Step]:
    def register(step: Step) -> Step:
        STEPS.extend([step] * times)
        return step

    return register


@often(6)
def convolution(net: RandomNetwork, source: int) -> None:
    net._convolve(source)


@often(2)
def grouped(net: RandomNetwork, source: int) -> None:
    width, groups = net.width(source), net.random.choice([2, 4, net.width(source)])
    if width % groups == 0:
        net._convolve(source, groups * net.random.choice([1, 2]), groups)


@often(2)
def transposed(net: RandomNetwork, source: int) -> None:
    width, groups = net.width(source), net.random.choice([1, 1, 2, net.width(source)])
    if width % groups == 0:
        out = groups * net.random.choice([1, 2])
        net.layer(nn.ConvTranspose2d(width, out, 3, padding=1, groups=groups), source)


@often(1)
def normalization(net: RandomNetwork, source: int) -> None:
    width = net.width(source)
    kinds = [nn.BatchNorm2d(width), nn.PReLU(width), nn.InstanceNorm2d(width, affine=True)]
    kinds += [nn.GroupNorm(groups, width) for groups in (1, width // 2 or 1) if width % groups == 0]
    net.layer(net.random.choice(kinds), source)


@often(4)
def unary(net: RandomNetwork, source: int) -> None:
    net.step(net.random.choice(UNARY), source)


@often(3)
def residual(net: RandomNetwork, source: int) -> None:
    branch = net._convolve(net._convolve(source), net.width(source))
    net.step(net.random.choice(BINARY), source, branch)


@often(3)
def binary(net: RandomNetwork, source: int) -> None:
    net.step(net.random.choice(BINARY), source, net.other(source))


@often(2)
def with_a_parameter(net: RandomNetwork, source: int) -> None:
    """A parameter, or a constant that the forward pass makes."""
    width, side = net.width(source), net.shapes[source][3]
    shape = net.random.choice([(width, 1, 1), (1, width, 1, 1), (), (1,), (1, 1, 1, side), (width, side, 1)])
    values, join = torch.randn(shape), net.random.choice(BINARY[:6])
    if net.random.random() < 0.3:
        constant = values.tolist()
        net.step(lambda x: join(x, torch.tensor(constant, dtype=x.dtype)), source)
    else:
        net.step(lambda held, x: join(x, held[0]), source, layer=nn.ParameterList([values]))


@often(2)
def concat(net: RandomNetwork, source: int) -> None:
    net.step(lambda *parts: torch.cat(parts, 1), source, net.other(source))


@often(4)
def parts(net: RandomNetwork, source: int) -> None:
    width, k = net.width(source), net.random.randrange(3)
    start = net.random.randrange(width)
    order = net.random.sample(range(width), max(1, width // 2))
    choices: list[Callable[[Tensor], Tensor]] = [
        lambda x: x.chunk(3, 1)[min(k, 1)],
        lambda x: x.split([1 + start, x.shape[1] - 1 - start], 1)[0],
        lambda x: x[:, start:],
        lambda x: x[:, start:-1],
        lambda x: x[:, k::2],
        lambda x: torch.cat([x, x[:, start : start + 1]], 1),
        lambda x: torch.stack([x.unbind(1)[n] for n in order], 1),
        lambda x: x[:, start].unsqueeze(1) * x,
        lambda x: x[:, order],
        lambda x: F.glu(x, 1),
    ]
    net.step(net.random.choice(choices), source)


@often(4)
def movement(net: RandomNetwork, source: int) -> None:
    k, groups = net.random.choice([1, 2, 3]), net.random.choice([2, 3, 4])
    choices: list[Callable[[Tensor], Tensor]] = [
        lambda x: x.roll(k, 1),
        lambda x: x.roll(k, 3),
        lambda x: x.repeat(1, 2, 1, 1),
        lambda x: x.repeat_interleave(2, 1),
        lambda x: F.channel_shuffle(x, groups),
        lambda x: x.unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2),
        lambda x: F.pixel_shuffle(x, 2),
        lambda x: F.pixel_unshuffle(x, 2),
        lambda x: F.pad(x, (0, 0, 0, 0, k - 1, 1), value=0.5 * (k > 2)),
        lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect")[:, :, 1:, 1:],
    ]
    net.step(net.random.choice(choices), source)


@often(3)
def reduction(net: RandomNetwork, source: int) -> None:
    groups, name = net.random.choice([2, 3, 4]), net.random.choice(["sum", "mean", "amax", "amin"])
    choices: list[Callable[[Tensor], Tensor]] = [
        lambda x: getattr(x.unflatten(1, (groups, -1)), name)(2),
        lambda x: getattr(x.unflatten(1, (groups, -1)), name)(1),
        lambda x: x + getattr(x, name)(1, keepdim=True),
        lambda x: x * getattr(x, name)((2, 3), keepdim=True),
    ]
    net.step(net.random.choice(choices), source)


@often(2)
def map_over_channels(net: RandomNetwork, source: int) -> None:
    """One channel, from a reduction or a layer, beside all of another image."""
    other, name, join = net.other(source), net.random.choice(["sum", "mean", "amax", "amin"]), net.random.choice(BINARY)
    if net.random.random() < 0.5:
        net.step(lambda x, y: join(x, getattr(y, name)(1, keepdim=True)), source, other)
    else:
        one = nn.Conv2d(net.width(other), 1, 3, padding=1)
        net.step(lambda layer, x, y: join(x, layer(y)), source, other, layer=one)


@often(2)
def squeeze_and_excite(net: RandomNetwork, source: int) -> None:
    width = net.width(source)
    small = nn.Sequential(nn.Conv2d(width, 4, 1), nn.ReLU(), nn.Conv2d(4, width, 1), nn.Sigmoid())
    net.step(lambda layer, x: x * layer(x.mean((2, 3), keepdim=True)), source, layer=small)


@often(2)
def tokens(net: RandomNetwork, source: int) -> None:
    width, out = net.width(source), net.random.choice([4, 8])
    mixed = net.random.choice(
        [
            nn.Linear(width, out),
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, out)),
            nn.Sequential(nn.Linear(width, 12), nn.GELU(), nn.Linear(12, out)),
        ]
    )
    net.step(lambda layer, x: layer(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), source, layer=mixed)


@often(2)
def attention(net: RandomNetwork, source: int) -> None:
    heads, depth, fused = net.random.choice([1, 2, 4]), net.random.choice([2, 4]), net.random.random() < 0.5
    qkv = nn.Conv2d(net.width(source), 3 * heads * depth, 1)

    def attend(layer: nn.Module, x: Tensor) -> Tensor:
        split = layer(x).reshape(x.shape[0], 3, heads, depth, -1).transpose(-1, -2)
        q, k, v = split.unbind(1)
        if fused:
            y = F.scaled_dot_product_attention(q, k, v)
        else:
            y = (q @ k.transpose(-1, -2) * depth**-0.5).softmax(-1) @ v
        return y.transpose(-1, -2).reshape(x.shape[0], -1, *x.shape[2:])

    net.step(attend, source, layer=qkv)
