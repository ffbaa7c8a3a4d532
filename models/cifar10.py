"""CIFAR-10 from a folder: `cifar-10-batches-py` as its author publishes it, or npz packs of lossless WebP strips.

A pack holds `webp` (joined strips of stacked images), `offsets` and `labels`.
"""

import io
import itertools
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from data import Examples, reading
from PIL import Image

from onnxshrink.errors import InputError

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
CLASSES = 10

PACKS = {"train": ("cifar10_train_a.npz", "cifar10_train_b.npz"), "test": ("cifar10_test.npz",)}
BATCHES = {"train": tuple(f"data_batch_{n}" for n in range(1, 6)), "test": ("test_batch",)}


def read(folder: Path, split: str) -> Examples:
    """The 50,000 images of "train" or the 10,000 of "test".

    Raises:
        InputError: the folder holds neither layout, or a file of it cannot be read.
    """
    if all((folder / name).exists() for name in PACKS[split]):
        parts = [_pack(folder / name) for name in PACKS[split]]
    else:
        inside = folder / "cifar-10-batches-py"
        inside = inside if inside.is_dir() else folder
        if not all((inside / name).exists() for name in BATCHES[split]):
            raise InputError(
                f"no CIFAR-10 {split} images here", file=str(folder), cure="unpack cifar-10-python.tar.gz into it"
            )
        parts = [_batch(inside / name) for name in BATCHES[split]]
    pixels, labels = zip(*parts, strict=True)
    return Examples(torch.from_numpy(np.concatenate(pixels)), torch.from_numpy(np.concatenate(labels)).long())


def _pack(path: Path) -> tuple[np.ndarray, np.ndarray]:
    with reading(path, "pack of CIFAR-10"):
        with np.load(path) as pack:
            data, offsets, labels = pack["webp"], pack["offsets"], pack["labels"]
        strips = [
            np.asarray(Image.open(io.BytesIO(data[start:end].tobytes())).convert("RGB")).reshape(-1, 32, 32, 3)
            for start, end in itertools.pairwise(offsets)
        ]
        return _checked(np.concatenate(strips), labels)


def _checked(pixels: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Images [n, 32, 32, 3] and their labels, [n].

    Raises:
        ValueError: they are not as many, or of other values.
    """
    if pixels.dtype != np.uint8:
        raise ValueError(f"its pixels are {pixels.dtype}, not bytes")
    if labels.shape != (len(pixels),):
        raise ValueError(f"it has {len(pixels)} images and {labels.size} labels")
    if labels.dtype.kind not in "iu" or not all(0 <= label < CLASSES for label in np.unique(labels)):
        raise ValueError(f"its labels are not all 0 to {CLASSES - 1}")
    return pixels, labels


class _ArraysOnly(pickle.Unpickler):
    """Reads arrays and nothing that runs code: a pickle may come from anywhere."""

    def find_class(self, module: str, name: str) -> Any:
        if module.startswith(("numpy", "_codecs")) and name in ("_reconstruct", "ndarray", "dtype", "encode"):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name} is no array")


def _batch(path: Path) -> tuple[np.ndarray, np.ndarray]:
    with reading(path, "batch of CIFAR-10"):
        with path.open("rb") as file:
            found = _ArraysOnly(file, encoding="bytes").load()
        lacking = [key for key in (b"data", b"labels") if key not in found]
        if lacking:
            raise ValueError(f"it has no {lacking[0].decode()}")
        pixels = found[b"data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1).copy()
        return _checked(pixels, np.asarray(found[b"labels"]))
