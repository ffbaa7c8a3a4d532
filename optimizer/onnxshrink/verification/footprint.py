"""How much memory a run at certain sizes asks for: attention over an image grows with the fourth power of its side."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import onnx

from .inputs import Shapes
from .shapes import model_facts

LARGEST = 1 << 25
"""Elements that the largest tensor of a drawn run may have, 128 MiB of float32: several of that size live at once."""


def largest(model: onnx.ModelProto, folder: Path, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Elements of the largest tensor of a run at these input shapes, as far as shapes are known."""
    known = model_facts(model, folder, shapes).shapes.values()
    return max((math.prod(s) for s in known if all(isinstance(d, int) for d in s)), default=0)  # type: ignore[arg-type]


def fitting(model: onnx.ModelProto, folder: Path, candidates: Iterable[Shapes]) -> Iterator[Shapes]:
    """Those of the candidates whose largest tensor is no larger than LARGEST, one at a time."""
    return (shapes for shapes in candidates if largest(model, folder, shapes) <= LARGEST)


def fitting_first(model: onnx.ModelProto, folder: Path, candidates: Iterable[Shapes]) -> Iterator[Shapes]:
    """All candidates in their order, but those first whose largest tensor is no larger than LARGEST."""
    listed = list(candidates)
    late = []
    for shapes in listed:
        if len(listed) == 1 or largest(model, folder, shapes) <= LARGEST:  # where nothing is free there is no choice
            yield shapes
        else:
            late.append(shapes)
    yield from late
