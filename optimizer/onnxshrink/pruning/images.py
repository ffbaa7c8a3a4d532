"""Calibration from a folder of images: resized to the input's size, in its layout, with the caller's scaling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..errors import InputError
from ..verification import data as files
from ..verification.inputs import Feeds, InputSpec, describe, sizes

SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})

MODES = {1: "L", 3: "RGB", 4: "RGBA"}
"""Pillow's modes by number of channels."""

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Mean and standard deviation of ImageNet's pixels as torchvision's models expect them, of values from 0 to 1."""


@dataclass(frozen=True)
class Pixels:
    """What bytes 0 to 255 become: `low` to `high`, then less `mean` and divided by `std` for each channel."""

    low: float
    high: float
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Scaled values of an image, [height, width, channels]."""
        scaled = self.low + image.astype(np.float32) * np.float32((self.high - self.low) / 255)
        return (scaled - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)


def parse_pixels(text: str) -> Pixels:
    """A scaling from "0,1", "0,255", "-1,1", any other range, or "imagenet".

    Raises:
        InputError: it is neither.
    """
    if text == "imagenet":
        return Pixels(0.0, 1.0, *IMAGENET)
    try:
        low, high = (float(end) for end in text.split(","))
    except ValueError:
        low = high = 0.0
    if not -np.inf < low < high < np.inf:
        raise InputError(f"--pixels {text} is no range", cure="0,1 or 0,255 or -1,1 or imagenet")
    return Pixels(low, high)


def find(folder: Path) -> list[Path]:
    """Images in a folder and in the folders in it, by name."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())


def load(
    paths: Sequence[Path],
    specs: Sequence[InputSpec],
    limit: int,
    pixels: Pixels | None,
    shapes: Mapping[str, Sequence[int]],
) -> list[Feeds]:
    """Samples of images, for a model with one image as its input.

    The whole image is resized with bilinear interpolation, not cropped. Channels lie where the input's shape has 1, 3
    or 4 of them: behind the batch, else at the end.

    Args:
        paths: of images; where there are more than needed, evenly spread over all of them.
        specs: the inputs.
        limit: at most this many samples.
        pixels: the scaling; bytes stay as they are where the input is an integer.
        shapes: of inputs with a dynamic height or width.

    Raises:
        InputError: the input is no image, its scaling or size is not known, a file is no image, or Pillow is missing.
    """
    try:
        from PIL import Image, ImageOps
    except ModuleNotFoundError as missing:
        raise InputError("images need Pillow", cure="pip install 'onnxshrink[images]', or save arrays") from missing
    spec, axis = _image_input(specs, shapes)
    whole = spec.dtype.kind in "ui"
    if whole == (pixels is not None):
        said = "takes bytes as they are" if whole else "takes floats, and nothing says what bytes become"
        cure = "leave --pixels out" if whole else "--pixels 0,1 or 0,255 or -1,1 or imagenet, as in training"
        raise InputError(f"input `{spec.name}` {said}", file=str(paths[0].parent), cure=cure)
    size = [int(dim) for place, dim in enumerate(spec.dims) if place not in (0, axis)]
    channels = int(spec.dims[axis])
    rows = spec.dims[0] if isinstance(spec.dims[0], int) else 1
    wanted = min(len(paths), limit * rows) // rows * rows
    if not wanted:
        raise InputError(f"{len(paths)} images are no batch of {rows}", file=str(paths[0].parent))
    arrays = []
    for place in np.linspace(0, len(paths) - 1, wanted).round().astype(int):
        try:
            with Image.open(paths[place]) as opened:
                image = ImageOps.exif_transpose(opened).convert(MODES[channels])
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            raise InputError(f"is no image that can be read: {error}", file=str(paths[place])) from error
        array = np.asarray(image.resize((size[1], size[0]), Image.Resampling.BILINEAR)).reshape(*size, channels)
        scaled = array if pixels is None else pixels(array)
        arrays.append(np.moveaxis(scaled, -1, axis - 1).astype(spec.dtype))
    return [*files.take({spec.name: np.stack(arrays)}, [spec], str(paths[0].parent))]


def _image_input(specs: Sequence[InputSpec], shapes: Mapping[str, Sequence[int]]) -> tuple[InputSpec, int]:
    """The only input with the sizes that are given, and the axis of its channels."""
    if len(specs) != 1 or len(specs[0].dims) != 4:
        told = ", ".join(f"`{spec.name}` {describe(spec)}" for spec in specs)
        raise InputError(
            f"images are for a model with one input of rank 4, not {told}", cure="save arrays by input in .npz files"
        )
    spec = specs[0]
    next(sizes(specs, shapes))  # raises
    given = shapes.get(spec.name, spec.dims)
    dims = tuple(dim if isinstance(dim, int) else own for dim, own in zip(spec.dims, given, strict=True))
    dims = (spec.dims[0], *dims[1:])
    axis = next((axis for axis in (1, 3) if dims[axis] in MODES), None)
    if axis is None:
        raise InputError(
            f"input `{spec.name}` {describe(spec)} has 1, 3 or 4 channels neither behind the batch nor at the end",
            cure=f"--input-shape {spec.name}:1,3,224,224 if they are dynamic",
        )
    if any(isinstance(dim, str) for dim in dims[1:]):
        raise InputError(
            f"the size of input `{spec.name}` {describe(spec)} is dynamic",
            cure=f"--input-shape {spec.name}:1,3,224,224 says to what images are resized",
        )
    return replace(spec, dims=dims), axis
