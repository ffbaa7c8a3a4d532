"""U-Net with BatchNorm for images of any size.

Ronneberger et al. (arXiv 1505.04597), with padded convolutions; the way up is a nearest-neighbour resize to the size of
the level above, which need not be twice this one, and a convolution.
"""

from collections.abc import Sequence

import torch
from layers import Normalize, convolution, start_weights
from torch import Tensor, nn
from torch.nn import functional


def double(into: int, out: int) -> nn.Sequential:
    """Two 3x3 convolutions, each with BatchNorm and ReLU."""
    return nn.Sequential(*convolution(into, out, 3), nn.ReLU(), *convolution(out, out, 3), nn.ReLU())


class UNet(nn.Module):
    """Levels of `width`, 2 width, 4 width ... channels, the last of which is the bottom.

    Input [N, 3, H, W] float in [0, 1], output [N, classes, H, W] logits. H and W of at least 2^(levels - 1).
    """

    def __init__(
        self, mean: Sequence[float], std: Sequence[float], classes: int, width: int = 16, levels: int = 5
    ) -> None:
        super().__init__()
        self.normalize = Normalize(mean, std)
        widths = [width * 2**level for level in range(levels)]
        into = [len(mean), *widths]
        self.down = nn.ModuleList(double(i, o) for i, o in zip(into, widths, strict=False))
        above = widths[-2::-1]
        self.up = nn.ModuleList(nn.Sequential(*convolution(2 * w, w, 3), nn.ReLU()) for w in above)
        self.join = nn.ModuleList(double(2 * w, w) for w in above)
        self.head = nn.Conv2d(width, classes, 1)
        start_weights(self)

    def forward(self, x: Tensor) -> Tensor:
        x, skips = self.normalize(x), []
        for number, level in enumerate(self.down):
            x = level(functional.max_pool2d(x, 2) if number else x)
            skips.append(x)
        skips.pop()
        for up, join in zip(self.up, self.join, strict=True):
            skip = skips.pop()
            x = up(functional.interpolate(x, size=skip.shape[2:], mode="nearest"))
            x = join(torch.cat([skip, x], 1))
        return self.head(x)
