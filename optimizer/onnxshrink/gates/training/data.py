"""What a trainer asks of its data."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from torch import Tensor


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
