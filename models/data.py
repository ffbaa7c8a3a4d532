"""Examples in memory as bytes, and batches of them with augmentation on tensors."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from onnxshrink.errors import InputError, short

NO_LABEL = 255


@contextmanager
def reading(path: Path, what: str) -> Iterator[None]:
    """Name the file that cannot be read as what it should be.

    Raises:
        InputError: in place of any error, as pickle, zip and PIL raise many types.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        cause = short(error, 120) or type(error).__name__
        raise InputError(f"this is no {what}: {cause}", file=str(path), cure="get it again") from error


@dataclass(frozen=True)
class Examples:
    """pixels: [n, H, W, 3] uint8 RGB; targets: [n] int64, or [n, H, W] uint8 with a class for each pixel."""

    pixels: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.targets)

    def first(self, n: int) -> "Examples":
        return Examples(self.pixels[:n], self.targets[:n])

    def to(self, device: str) -> "Examples":
        return Examples(self.pixels.to(device), self.targets.to(device))


@dataclass(frozen=True)
class Augmentation:
    """What each training example goes through, at random.

    Attributes:
        shift: in pixels, up and down and sideways, at most; zeros come in, and pixels without a label.
        zoom: factor of size, between 1 / zoom and zoom, by the nearest pixel.
        flip: left and right changed, half of the time.
        light: factor of brightness and of contrast, between 1 - light and 1 + light.
    """

    shift: int = 4
    zoom: float = 1.0
    flip: bool = True
    light: float = 0.0


def as_input(pixels: Tensor) -> Tensor:
    """[n, H, W, 3] uint8 -> [n, 3, H, W] float32 in [0, 1], channels last in memory."""
    return pixels.permute(0, 3, 1, 2).float().div_(255)


def batches(examples: Examples, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """All examples in order, without augmentation: (inputs [n, 3, H, W], targets int64)."""
    for start in range(0, len(examples), size):
        part = slice(start, start + size)
        yield as_input(examples.pixels[part]), examples.targets[part].long()


@dataclass
class InMemory:
    """Training examples, and some to follow the training by: a `Data` of the trainer.

    Attributes:
        train: to train on.
        check: to follow the training by.
        augmentation: of the training examples.
        epoch_examples: draw so many in each epoch, for shorter epochs; None: all.
        check_batch: size of the batches to check with.
    """

    train: Examples
    check: Examples
    augmentation: Augmentation
    epoch_examples: int | None = None
    check_batch: int = 250

    def __post_init__(self) -> None:
        shift = self.augmentation.shift
        frame = (shift, shift, shift, shift)
        self.pixels = functional.pad(self.train.pixels, (0, 0, *frame))
        dense = self.train.targets.dim() > 1
        self.targets = functional.pad(self.train.targets, frame, value=NO_LABEL) if dense else self.train.targets

    def __len__(self) -> int:
        return min(self.epoch_examples or len(self.train), len(self.train))

    def checks(self) -> Iterator[tuple[Tensor, Tensor]]:
        return batches(self.check, self.check_batch)

    def training(self, size: int, seed: int, rank: int = 0, world: int = 1) -> Iterator[tuple[Tensor, Tensor]]:
        """One epoch in random order, in batches of `size`, of which this is the share of one process.

        A pure function of the arguments. All that is random is drawn for the whole batch, so that the shares of all
        processes are the batches of one.
        """
        random = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(self.train), generator=random)[: len(self)]
        device, share = self.pixels.device, slice(rank * (size // world), (rank + 1) * (size // world))
        for start in range(0, len(order) - size + 1, size):
            chosen = order[start : start + size][share].to(device)
            rows, columns, light = (part[share].to(device) for part in self._draw(size, random))
            place = chosen[:, None, None], rows[:, :, None], columns[:, None, :]
            x = as_input(self.pixels[place])
            if self.augmentation.light:
                contrast, brightness = light[:, 0].view(-1, 1, 1, 1), light[:, 1].view(-1, 1, 1, 1)
                x = ((x - 0.5) * contrast + 0.5).mul_(brightness).clamp_(0, 1)
            targets = self.targets[place] if self.targets.dim() > 1 else self.targets[chosen]
            yield x, targets.long()

    def _draw(self, size: int, random: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Rows [size, H] and columns [size, W] to take from the framed images, and factors of light [size, 2]."""
        own, (height, width) = self.augmentation, self.train.pixels.shape[1:3]
        top, left = torch.randint(0, 2 * own.shift + 1, (2, size, 1), generator=random)
        zoom = torch.exp((2 * torch.rand(size, 1, generator=random) - 1) * math.log(own.zoom))
        places = []
        for offset, side in ((top, height), (left, width)):
            centre = (side - 1) / 2
            at = ((torch.arange(side) - centre) / zoom + centre).round().long() + offset
            places.append(at.clamp(0, side + 2 * own.shift - 1))
        rows, columns = places
        if own.flip:
            flip = torch.rand(size, 1, generator=random) < 0.5
            columns = torch.where(flip, columns.flip(1), columns)
        light = 1 + (2 * torch.rand(size, 2, generator=random) - 1) * own.light
        return rows, columns, light
