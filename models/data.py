"""CIFAR-10 as uint8 arrays in memory, read from npz packs of lossless WebP strips, and its training batches."""

import io
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

CIFAR10_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR10_STD = (0.2470, 0.2435, 0.2616)

TRAIN_PACKS = ("cifar10_train_a.npz", "cifar10_train_b.npz")
TEST_PACKS = ("cifar10_test.npz",)


@dataclass(frozen=True)
class Images:
    """pixels: [n, 32, 32, 3] uint8 RGB; labels: [n] int64, 0..9."""

    pixels: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def first(self, n: int) -> "Images":
        return Images(self.pixels[:n], self.labels[:n])


def read_packs(folder: Path, names: tuple[str, ...]) -> Images:
    """Read and join packs, each with `webp` (joined strips of stacked images), `offsets` and `labels`.

    Raises:
        FileNotFoundError: a pack is missing.
    """
    pixels, labels = [], []
    for name in names:
        with np.load(Path(folder) / name) as pack:
            data, offsets = pack["webp"], pack["offsets"]
            labels.append(pack["labels"])
        for start, end in itertools.pairwise(offsets):
            strip = Image.open(io.BytesIO(data[start:end].tobytes())).convert("RGB")
            pixels.append(np.asarray(strip).reshape(-1, 32, 32, 3))
    return Images(torch.from_numpy(np.concatenate(pixels)), torch.from_numpy(np.concatenate(labels)).long())


def read_train(folder: Path) -> Images:
    """The 50,000 training images."""
    return read_packs(folder, TRAIN_PACKS)


def read_test(folder: Path) -> Images:
    """The 10,000 test images."""
    return read_packs(folder, TEST_PACKS)


def as_input(pixels: Tensor) -> Tensor:
    """[n, 32, 32, 3] uint8 -> [n, 3, 32, 32] float32 in [0, 1], channels last in memory."""
    return pixels.permute(0, 3, 1, 2).float().div_(255)


def batches(images: Images, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """All images in order, without augmentation: (input [n, 3, 32, 32], labels [n])."""
    for start in range(0, len(images), size):
        yield as_input(images.pixels[start : start + size]), images.labels[start : start + size]


def training_batches(
    images: Images, size: int, seed: int, count: int | None = None, padding: int = 4
) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch in random order, each image randomly cropped after zero padding and flipped; the last short batch goes.

    A pure function of the seed: an epoch that is run again sees the same batches.

    Args:
        count: draw only this many of the images.
    """
    random = torch.Generator().manual_seed(seed)
    padded = torch.nn.functional.pad(images.pixels, (0, 0, padding, padding, padding, padding))
    order = torch.randperm(len(images), generator=random)[:count]
    side = torch.arange(images.pixels.shape[1])
    for start in range(0, len(order) - size + 1, size):
        chosen = order[start : start + size]
        top, left = torch.randint(0, 2 * padding + 1, (2, size, 1), generator=random)
        flip = torch.rand(size, 1, generator=random) < 0.5
        rows = top + side
        columns = left + torch.where(flip, side.flip(0), side)
        yield as_input(padded[chosen[:, None, None], rows[:, :, None], columns[:, None, :]]), images.labels[chosen]
