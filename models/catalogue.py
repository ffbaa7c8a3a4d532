"""Networks and data sets by name, and the recipes of `recipes.toml`."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import camvid
import cifar10
import files
import torch
from data import Augmentation, Examples, InMemory, batches
from mobilenet import MobileNetV2
from resnet import cifar_resnet, resnet18, resnet50
from torch import Tensor, nn
from unet import UNet
from vgg import VGG

from onnxshrink.errors import InputError
from onnxshrink.gates.training import Classification, Data, Recipe, Segmentation, Task

RECIPES = Path(__file__).with_name("recipes.toml")

Make = Callable[[Sequence[float], Sequence[float], int], nn.Module]

NETWORKS: dict[str, Make] = {
    "resnet20": lambda mean, std, classes: cifar_resnet(20, mean, std, classes),
    "resnet56": lambda mean, std, classes: cifar_resnet(56, mean, std, classes),
    "resnet110": lambda mean, std, classes: cifar_resnet(110, mean, std, classes),
    "resnet18": lambda mean, std, classes: resnet18(mean, std, classes, small=True),
    "resnet50": lambda mean, std, classes: resnet50(mean, std, classes, small=True),
    "vgg16": VGG,
    "mobilenetv2": lambda mean, std, classes: MobileNetV2(mean, std, classes, small=True),
    "unet": UNet,
    "unet-small": lambda mean, std, classes: UNet(mean, std, classes, width=8, levels=4),
    "resnet18-imagenet": lambda mean, std, classes: resnet18(mean, std, classes, small=False),
    "resnet50-imagenet": lambda mean, std, classes: resnet50(mean, std, classes, small=False),
    "mobilenetv2-imagenet": lambda mean, std, classes: MobileNetV2(mean, std, classes, small=False),
    "unet-cityscapes": lambda mean, std, classes: UNet(mean, std, classes, width=32, levels=5),
}


@dataclass(frozen=True)
class DataSet:
    """What a data set asks of a network: input size (height, width), normalisation, classes, task."""

    size: tuple[int, int]
    mean: Sequence[float]
    std: Sequence[float]
    classes: int
    task: Task

    def example(self) -> Tensor:
        """A batch of two to trace and export with."""
        return torch.zeros(2, 3, *self.size)


DATA_SETS = {
    "cifar10": DataSet((32, 32), cifar10.MEAN, cifar10.STD, cifar10.CLASSES, Classification()),
    "camvid": DataSet(
        (180, 240), camvid.MEAN, camvid.STD, camvid.CLASSES, Segmentation(camvid.CLASSES, camvid.WEIGHTS)
    ),
    "imagenet": DataSet((224, 224), files.IMAGENET_MEAN, files.IMAGENET_STD, 1000, Classification()),
    "cityscapes": DataSet((512, 1024), files.CITYSCAPES_MEAN, files.CITYSCAPES_STD, 19, Segmentation(19)),
}


@dataclass(frozen=True)
class Entry:
    """A recipe of the file: the name of its data set, and the recipe."""

    data: str
    recipe: Recipe

    @property
    def data_set(self) -> DataSet:
        return DATA_SETS[self.data]

    def network(self) -> nn.Module:
        """The network with its first weights, which the recipe's seed decides."""
        torch.manual_seed(self.recipe.seed)
        own = self.data_set
        return NETWORKS[self.recipe.network](own.mean, own.std, own.classes)


def names() -> list[str]:
    """The names of all recipes."""
    return list(tomllib.loads(RECIPES.read_text(encoding="utf-8")))


def entry(name: str, **changes: Any) -> Entry:
    """A recipe by name, with changes.

    Raises:
        InputError: there is no such recipe, no such field, or no such network.
    """
    tables = tomllib.loads(RECIPES.read_text(encoding="utf-8"))
    if name not in tables:
        raise InputError(f"there is no recipe {name!r}", cure=f"take one of {', '.join(tables)}")
    table = dict(tables[name])
    found = Entry(table.pop("data"), Recipe.of(table, **changes))
    if found.recipe.network not in NETWORKS:
        raise InputError(f"there is no network {found.recipe.network!r}", cure=f"take one of {', '.join(NETWORKS)}")
    return found


FILES: dict[str, tuple[Callable[[Path, str], list[files.Pair]], files.Reader]] = {
    "imagenet": (files.imagenet, files.ReadClass()),
    "cityscapes": (files.cityscapes, files.ReadScene()),
}
"""Data sets that are read as they are needed: what lists a split, and what reads an example."""

CAMVID = Augmentation(shift=16, zoom=1.4, light=0.25)


def read_data(name: str, folder: Path, *, epoch: int | None, limit: int | None, workers: int, device: str) -> Data:
    """A data set to train on.

    Args:
        name: of the data set.
        folder: where it is, in its usual layout.
        epoch: examples in an epoch; None: all.
        limit: use only so many, to try something.
        workers: processes that read files (data sets that do not fit into memory).
        device: where examples in memory lie.

    Raises:
        InputError: the folder does not hold it.
    """
    if name in FILES:
        listed, reader = FILES[name]
        return files.FromFiles(listed(folder, "train")[:limit], listed(folder, "val")[:limit], reader, workers, epoch)
    if name == "camvid":
        return _in_memory(
            camvid.read(folder, "train"), camvid.read(folder, "val"), CAMVID, epoch, limit, device, check_batch=16
        )
    return _in_memory(
        cifar10.read(folder, "train"), cifar10.read(folder, "test").first(2000), Augmentation(), epoch, limit, device
    )


def _in_memory(
    train: Examples,
    check: Examples,
    augmentation: Augmentation,
    epoch: int | None,
    limit: int | None,
    device: str,
    check_batch: int = 250,
) -> InMemory:
    """The whole set, or the first `limit`. CIFAR-10 has no split of its own to follow a training by."""
    train, check = (part.first(limit or len(part)).to(device) for part in (train, check))
    return InMemory(train, check, augmentation, epoch, check_batch)


@dataclass(frozen=True)
class Final:
    """What figures of record come from: so many images of a split, and their batches: inputs in [0, 1], and targets."""

    split: str
    count: int
    batches: Callable[[], Iterator[tuple[Tensor, Tensor]]]


def read_final(name: str, folder: Path, batch: int = 16) -> Final:
    """The test split; of ImageNet and Cityscapes, whose test labels are not public, the validation split.

    Raises:
        InputError: the folder does not hold it.
    """
    if name in FILES:
        listed, reader = FILES[name]
        found = files.FromFiles([], listed(folder, "val"), reader, check_batch=batch)
        return Final("validation", len(found.check), found.checks)
    examples = {"cifar10": cifar10.read, "camvid": camvid.read}[name](folder, "test")
    return Final("test", len(examples), lambda: batches(examples, batch))
