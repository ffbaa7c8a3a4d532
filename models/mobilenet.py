"""MobileNetV2 for images of 32 x 32 or of 224 x 224.

Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks" (arXiv 1801.04381), table 2. For small images
the stem and the first strided stage do not stride.
"""

from collections.abc import Sequence

from layers import Normalize, convolution, start_weights
from torch import Tensor, nn

STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
"""Expansion, output channels, blocks, stride of the first block."""


class Inverted(nn.Module):
    """A 1x1 convolution that widens, a depthwise 3x3, a 1x1 without activation; added to its input where they match."""

    def __init__(self, into: int, out: int, expansion: int, stride: int) -> None:
        super().__init__()
        hidden = into * expansion
        widen = [*convolution(into, hidden, 1), nn.ReLU6()] if expansion > 1 else []
        depthwise = [*convolution(hidden, hidden, 3, stride, hidden), nn.ReLU6()]
        self.branch = nn.Sequential(*widen, *depthwise, *convolution(hidden, out, 1))
        self.residual = into == out and stride == 1

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x) if self.residual else self.branch(x)


class MobileNetV2(nn.Module):
    """Input [N, 3, H, W] float in [0, 1], output [N, classes] logits."""

    def __init__(self, mean: Sequence[float], std: Sequence[float], classes: int, *, small: bool) -> None:
        super().__init__()
        self.normalize = Normalize(mean, std)
        layers: list[nn.Module] = [*convolution(len(mean), 32, 3, 1 if small else 2), nn.ReLU6()]
        into = 32
        for expansion, width, count, stride in STAGES:
            for index in range(count):
                step = stride if not index and not (small and width == 24) else 1
                layers.append(Inverted(into, width, expansion, step))
                into = width
        self.features = nn.Sequential(*layers, *convolution(into, 1280, 1), nn.ReLU6())
        self.head = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, classes))
        start_weights(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(self.normalize(x)).mean(dim=(2, 3)))
