"""Images as inputs of published models, and how far a pruned model's answers are from the original's."""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "models"))

from onnxshrink.pruning.images import parse_pixels
from onnxshrink.runtime import session

Feeds = dict[str, np.ndarray]


@functools.cache
def pixels(folder: Path, data_set: str, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images [n, height, width, 3] uint8 and targets of "cifar10" or "camvid"."""
    import camvid
    import cifar10

    examples = {"cifar10": cifar10, "camvid": camvid}[data_set].read(folder, split)
    return examples.pixels.numpy(), examples.targets.numpy()


def feeds(model: onnx.ModelProto, images: np.ndarray, scaling: str) -> list[Feeds]:
    """One sample for each image, resized, laid out and scaled for a model with one input."""
    weights = {t.name for t in model.graph.initializer}
    (value,) = (value for value in model.graph.input if value.name not in weights)
    dims = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
    axis = 1 if dims[1] == 3 else 3
    height, width = dims[2:] if axis == 1 else dims[1:3]
    made = []
    for image in images:
        resized = image
        if image.shape[:2] != (height, width):
            resized = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
        made.append({value.name: np.moveaxis(parse_pixels(scaling)(resized), -1, axis - 1)[None].astype(np.float32)})
    return made


def answers(model: onnx.ModelProto | Path, samples: Sequence[Feeds]) -> list[np.ndarray]:
    """All outputs, samples along the first axis."""
    opened = session(model if isinstance(model, Path) else model.SerializeToString(), threads=1)
    found = [opened.run(None, sample) for sample in samples]
    return [np.concatenate([one[k] for one in found]) for k in range(len(found[0]))]


def difference(right: Sequence[np.ndarray], now: Sequence[np.ndarray]) -> tuple[float, float | None]:
    """The largest over outputs of |y' - y| / |y|, and the share of samples with the same largest output where the
    first output is a vector.
    """
    errors = [float(np.linalg.norm(b - a) / np.linalg.norm(a)) for a, b in zip(right, now, strict=True)]
    if right[0].ndim != 2 or right[0].shape[1] < 2:
        return max(errors), None
    return max(errors), float((right[0].argmax(1) == now[0].argmax(1)).mean())
