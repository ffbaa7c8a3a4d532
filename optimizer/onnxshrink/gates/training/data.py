"""What a trainer asks of its data."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Protocol

import torch
from torch import Tensor

EXAMPLES, NUMBERS = 8, 64
"""How many examples tell data sets apart, and about how many numbers of each."""


class Data(Protocol):
    """Examples to train on, and some to follow the training by."""

    def __len__(self) -> int:
        """Examples in an epoch."""

    def training(self, size: int, seed: int, rank: int, world: int) -> Iterator[tuple[Tensor, Tensor]]:
        """This process's shares of batches of `size`, (inputs, targets): a pure function of its arguments.

        All processes together see what one alone would see; a last short batch is left out.
        """

    def checks(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches in order, without augmentation, to follow the training by. They decide nothing."""


def sample(data: Data) -> Tensor:
    """Some numbers of the first examples that one process sees, [n] float32: other data has others (`alike`)."""
    first = (tensor for pair in islice(data.training(1, 0, 0, 1), EXAMPLES) for tensor in pair)
    rows = [tensor.detach().float().cpu().flatten() for tensor in first]
    return torch.cat([row[:: max(1, len(row) // NUMBERS)] for row in rows])


def alike(one: Tensor, other: Tensor) -> bool:
    """Whether samples are of the same data, up to what devices and decoders of images do to it."""
    return one.shape == other.shape and torch.allclose(one, other, rtol=1e-2, atol=1e-2, equal_nan=True)
