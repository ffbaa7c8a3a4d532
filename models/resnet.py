"""ResNets: He's CIFAR networks (20, 56, 110 layers), and the ImageNet networks (18, 50) with either stem.

He et al., "Deep Residual Learning for Image Recognition" (arXiv 1512.03385), sections 4.1 and 4.2. Shortcuts that
change shape are 1x1 projections with BatchNorm (He's option B). Option A pads channels with zeros and strides by
slicing, which couples channel c of one stream to channel c + C/4 of the next; a projection lets each stream keep its
own channels.
"""

from collections.abc import Sequence

import torch
from layers import Normalize, convolution, start_weights
from torch import Tensor, nn

WIDTHS = (16, 32, 64)


class Block(nn.Module):
    """relu(BN(conv(relu(BN(conv(x))))) + shortcut(x))."""

    def __init__(self, into: int, out: int, stride: int) -> None:
        super().__init__()
        self.first = convolution(into, out, 3, stride)
        self.second = convolution(out, out, 3)
        self.shortcut = nn.Identity() if into == out and stride == 1 else convolution(into, out, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.second(torch.relu(self.first(x))) + self.shortcut(x))


class Bottleneck(nn.Module):
    """A 1x1, a 3x3 (which strides) and a 1x1 convolution that widens by four, around a shortcut."""

    def __init__(self, into: int, out: int, stride: int) -> None:
        super().__init__()
        middle = out // 4
        self.first, self.second = convolution(into, middle, 1), convolution(middle, middle, 3, stride)
        self.third = convolution(middle, out, 1)
        self.shortcut = nn.Identity() if into == out and stride == 1 else convolution(into, out, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.third(torch.relu(self.second(torch.relu(self.first(x)))))
        return torch.relu(y + self.shortcut(x))


class ResNet(nn.Module):
    """A stem, stages of residual blocks at `widths`, a mean over positions and a linear layer.

    Input [N, 3, H, W] float in [0, 1], output [N, classes] logits.
    """

    def __init__(
        self,
        stem: nn.Module,
        block: type[Block] | type[Bottleneck],
        counts: Sequence[int],
        widths: Sequence[int],
        mean: Sequence[float],
        std: Sequence[float],
        classes: int,
        into: int,
    ) -> None:
        super().__init__()
        self.normalize, self.stem = Normalize(mean, std), stem
        stages = []
        for number, (count, width) in enumerate(zip(counts, widths, strict=True)):
            for index in range(count):
                stages.append(block(into, width, stride=2 if number and not index else 1))
                into = width
        self.blocks = nn.Sequential(*stages)
        self.head = nn.Linear(into, classes)
        start_weights(self)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(self.normalize(x)))
        return self.head(self.blocks(x).mean(dim=(2, 3)))


def cifar_resnet(
    depth: int, mean: Sequence[float], std: Sequence[float], classes: int = 10, widths: Sequence[int] = WIDTHS
) -> ResNet:
    """Three stages of n blocks at 32 x 32, 16 x 16 and 8 x 8 positions; depth = 6n + 2.

    Raises:
        ValueError: depth is not 6n + 2.
    """
    blocks, rest = divmod(depth - 2, 6)
    if rest or blocks < 1:
        raise ValueError(f"a CIFAR ResNet has 6n + 2 layers (20, 56, 110), not {depth}")
    stem = convolution(len(mean), widths[0], 3)
    return ResNet(stem, Block, [blocks] * 3, widths, mean, std, classes, widths[0])


def resnet18(mean: Sequence[float], std: Sequence[float], classes: int, *, small: bool) -> ResNet:
    """ResNet-18. `small`: a 3x3 stem without pooling, for images of 32 x 32."""
    return ResNet(_stem(len(mean), small), Block, (2, 2, 2, 2), (64, 128, 256, 512), mean, std, classes, 64)


def resnet50(mean: Sequence[float], std: Sequence[float], classes: int, *, small: bool) -> ResNet:
    """ResNet-50. `small`: a 3x3 stem without pooling, for images of 32 x 32."""
    return ResNet(_stem(len(mean), small), Bottleneck, (3, 4, 6, 3), (256, 512, 1024, 2048), mean, std, classes, 64)


def _stem(channels: int, small: bool) -> nn.Module:
    if small:
        return convolution(channels, 64, 3)
    return nn.Sequential(*convolution(channels, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
