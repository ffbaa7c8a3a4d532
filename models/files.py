"""Data sets that do not fit into memory: ImageNet and Cityscapes from their usual folders, read by worker processes.

| data set | folders |
|---|---|
| ImageNet | train/<class>/*.JPEG, val/<class>/*.JPEG; classes are numbered in the order of their names in train |
| Cityscapes | leftImg8bit/<split>/<city>/*_leftImg8bit.png, gtFine/<split>/<city>/*_gtFine_labelIds.png |
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from data import NO_LABEL, reading
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from onnxshrink.errors import InputError

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
IMAGENET_CLASSES = 1000
CITYSCAPES_MEAN, CITYSCAPES_STD = (0.287, 0.325, 0.284), (0.187, 0.190, 0.187)

# the label numbers of Cityscapes that are evaluated, in the order of their classes 0..18
CITYSCAPES_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)

Pair = tuple[Path, "Path | int"]
Reader = Callable[[Pair, random.Random | None], tuple[Tensor, Tensor]]


def imagenet(folder: Path, split: str) -> list[Pair]:
    """(image, class number) of every file of "train" or "val".

    Raises:
        InputError: there are none, or "val" has a class that "train" lacks.
    """
    classes, own = (sorted(path.name for path in (folder / s).glob("*") if path.is_dir()) for s in ("train", split))
    numbers = {name: number for number, name in enumerate(classes or own)}
    if others := [name for name in own if name not in numbers]:
        raise InputError(
            f"train has no class {others[0]}, so its images have no number",
            file=str(folder / split),
            cure="give both the same folders",
        )
    found: list[Pair] = [(path, numbers[name]) for name in own for path in sorted((folder / split / name).iterdir())]
    if not found:
        raise InputError(f"no ImageNet {split} images here", file=str(folder), cure=f"one folder per class in {split}")
    if len(numbers) > IMAGENET_CLASSES:
        raise InputError(f"there are {len(numbers)} classes here, ImageNet has {IMAGENET_CLASSES}", file=str(folder))
    return found


def cityscapes(folder: Path, split: str) -> list[Pair]:
    """(image, labels) of every file of "train" or "val".

    Raises:
        InputError: there are none, or an image has no labels.
    """
    found: list[Pair] = []
    for path in sorted((folder / "leftImg8bit" / split).glob("*/*_leftImg8bit.png")):
        name = path.name.replace("_leftImg8bit.png", "_gtFine_labelIds.png")
        label = folder / "gtFine" / split / path.parent.name / name
        if not label.exists():
            raise InputError("this image has no labels", file=str(path), cure=f"expected {label}")
        found.append((path, label))
    if not found:
        raise InputError(f"no Cityscapes {split} images here", file=str(folder), cure="see models/files.py")
    return found


@dataclass(frozen=True)
class ReadClass:
    """An image and its class: a random part of 8 to 100 % of the area, or the middle after a resize to 8/7 `side`."""

    side: int = 224

    def __call__(self, pair: Pair, draw: random.Random | None) -> tuple[Tensor, Tensor]:
        with reading(pair[0], "image"), Image.open(pair[0]) as file:
            image = file.convert("RGB")
        width, height = image.size
        if draw is None:
            part = min(width, height) * 7 / 8
            box = _box(width, height, part, part, 0.5, 0.5)
        else:
            area, ratio = draw.uniform(0.08, 1) * width * height, draw.uniform(3 / 4, 4 / 3)
            wide, high = min((area * ratio) ** 0.5, width), min((area / ratio) ** 0.5, height)
            box = _box(width, height, wide, high, draw.random(), draw.random())
        image = image.resize((self.side, self.side), Image.Resampling.BILINEAR, box=box)
        if draw is not None and draw.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return _pixels(image), torch.tensor(pair[1])


@dataclass(frozen=True)
class ReadScene:
    """An image and a class for each of its pixels: a random part of 50 to 100 % of each side, or all of it.

    Attributes:
        width, height: that both are resized to.
    """

    width: int = 1024
    height: int = 512

    def __call__(self, pair: Pair, draw: random.Random | None) -> tuple[Tensor, Tensor]:
        with reading(pair[0], "image"), Image.open(pair[0]) as file:
            image = file.convert("RGB")
        with reading(Path(str(pair[1])), "image of labels"), Image.open(str(pair[1])) as file:
            label = file.copy()
        size, box = (self.width, self.height), (0.0, 0.0, *image.size)
        if draw is not None:
            part = draw.uniform(0.5, 1)
            box = _box(*image.size, part * image.size[0], part * image.size[1], draw.random(), draw.random())
        image = image.resize(size, Image.Resampling.BILINEAR, box=box)
        label = label.resize(size, Image.Resampling.NEAREST, box=box)
        if draw is not None and draw.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            label = label.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        numbers = np.full(256, NO_LABEL, np.int64)
        numbers[list(CITYSCAPES_IDS)] = range(len(CITYSCAPES_IDS))
        return _pixels(image), torch.from_numpy(numbers[np.asarray(label)])


def _box(
    width: float, height: float, wide: float, high: float, across: float, down: float
) -> tuple[float, float, float, float]:
    left, top = (width - wide) * across, (height - high) * down
    return left, top, left + wide, top + high


def _pixels(image: Image.Image) -> Tensor:
    """[3, H, W] float32 in [0, 1]."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float().div_(255)


class _Files(Dataset):
    """Examples by (number, seed); seed -1: without augmentation."""

    def __init__(self, pairs: list[Pair], read: Reader) -> None:
        self.pairs, self.read = pairs, read

    def __getitem__(self, item: tuple[int, int]) -> tuple[Tensor, Tensor] | InputError:
        """An example, or what is wrong with its file: an error of a worker process would come as its traceback."""
        number, seed = item
        try:
            return self.read(self.pairs[number], None if seed < 0 else random.Random(seed * 1_000_003 + number))
        except InputError as error:
            return InputError(error.what, file=error.file, cure=error.cure)


def _batch(examples: list[tuple[Tensor, Tensor] | InputError]) -> Any:
    """The examples as one batch, or what is wrong with the first that is none."""
    return next((one for one in examples if isinstance(one, InputError)), None) or default_collate(examples)


@dataclass
class FromFiles:
    """Training examples, and some to follow the training by, from files: a `Data` of the trainer.

    Attributes:
        train, check: files and their targets.
        read: how one is read.
        workers: processes that read.
        epoch_examples: draw so many in each epoch; None: all.
        check_batch: size of the batches to check with.
    """

    train: list[Pair]
    check: list[Pair]
    read: Reader
    workers: int = 2
    epoch_examples: int | None = None
    check_batch: int = 16

    def __len__(self) -> int:
        return min(self.epoch_examples or len(self.train), len(self.train))

    def training(self, size: int, seed: int, rank: int = 0, world: int = 1) -> Iterator[tuple[Tensor, Tensor]]:
        """One epoch in random order, in batches of `size`, of which this is the share of one process."""
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(self.train), generator=generator)[: len(self)].tolist()
        share = slice(rank * (size // world), (rank + 1) * (size // world))
        starts = range(0, len(order) - size + 1, size)
        return self._load(self.train, [[(n, seed) for n in order[at : at + size][share]] for at in starts])

    def checks(self) -> Iterator[tuple[Tensor, Tensor]]:
        starts = range(0, len(self.check), self.check_batch)
        last = len(self.check)
        return self._load(self.check, [[(n, -1) for n in range(at, min(at + self.check_batch, last))] for at in starts])

    def _load(self, pairs: list[Pair], numbers: list[list[tuple[int, int]]]) -> Iterator[tuple[Tensor, Tensor]]:
        files = _Files(pairs, self.read)
        for batch in DataLoader(files, batch_sampler=numbers, num_workers=self.workers, collate_fn=_batch):
            if isinstance(batch, InputError):
                raise batch
            yield batch[0], batch[1]
