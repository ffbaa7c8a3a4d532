"""VGG-16 with BatchNorm for images of 32 x 32: thirteen convolutions and one linear layer.

Simonyan and Zisserman, "Very Deep Convolutional Networks" (arXiv 1409.1556), configuration D; for CIFAR-10 with one
linear layer behind 512 channels at one position, as the pruning literature has it (15 M parameters, 313 M MACs).
"""

from collections.abc import Sequence

import torch
from layers import Normalize, convolution, start_weights
from torch import Tensor, nn

WIDTHS = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0)
"""Output channels of each convolution; 0 is a pooling by 2."""


class VGG(nn.Module):
    """Input [N, 3, 32, 32] float in [0, 1], output [N, classes] logits."""

    def __init__(
        self, mean: Sequence[float], std: Sequence[float], classes: int = 10, widths: Sequence[int] = WIDTHS
    ) -> None:
        super().__init__()
        self.normalize = Normalize(mean, std)
        layers: list[nn.Module] = []
        into = len(mean)
        for width in widths:
            layers += [*convolution(into, width, 3), nn.ReLU()] if width else [nn.MaxPool2d(2)]
            into = width or into
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(into, classes)
        start_weights(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.flatten(self.features(self.normalize(x)).mean(dim=(2, 3)), 1))
