"""He's CIFAR ResNet (20, 56, 110 layers; arXiv 1512.03385, section 4.2), and its input normalisation.

Shortcuts that change shape are 1x1 projections with BatchNorm (He's option B). Option A pads channels with zeros and
strides by slicing, which couples channel c of one stream to channel c + C/4 of the next; a projection lets each stream
keep its own channels.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

WIDTHS = (16, 32, 64)


class Normalize(nn.Module):
    """(x - mean) / std per channel, inside the network: the exported file takes plain RGB in [0, 1]."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


def convolution(into: int, out: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """Conv without bias, then BatchNorm."""
    return nn.Sequential(nn.Conv2d(into, out, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(out))


class Block(nn.Module):
    """relu(BN(conv(relu(BN(conv(x))))) + shortcut(x))."""

    def __init__(self, into: int, out: int, stride: int) -> None:
        super().__init__()
        self.first = convolution(into, out, 3, stride)
        self.second = convolution(out, out, 3)
        self.shortcut = nn.Identity() if into == out else convolution(into, out, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.second(torch.relu(self.first(x))) + self.shortcut(x))


class ResNet(nn.Module):
    """Three stages of n blocks at `widths` channels; depth = 6n + 2.

    Input [N, 3, H, W] float in [0, 1], output [N, classes] logits.

    Raises:
        ValueError: depth is not 6n + 2.
    """

    def __init__(
        self,
        depth: int,
        mean: Sequence[float],
        std: Sequence[float],
        classes: int = 10,
        widths: Sequence[int] = WIDTHS,
    ) -> None:
        super().__init__()
        blocks, rest = divmod(depth - 2, 6)
        if rest or blocks < 1:
            raise ValueError(f"ResNet: depth must be 6n + 2 (20, 56, 110), not {depth}")
        self.normalize = Normalize(mean, std)
        self.stem = convolution(len(mean), widths[0], 3)
        stages, into = [], widths[0]
        for number, width in enumerate(widths):
            for index in range(blocks):
                stages.append(Block(into, width, stride=2 if number and not index else 1))
                into = width
        self.blocks = nn.Sequential(*stages)
        self.head = nn.Linear(into, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(self.normalize(x)))
        return self.head(self.blocks(x).mean(dim=(2, 3)))
