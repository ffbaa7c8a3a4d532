"""Models for these tests: ONNX text with seeded weights, and what is done to them to make a right or a wrong result."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import onnx
from onnx import ModelProto, numpy_helper


def parse(text: str, weights: dict[str, np.ndarray] | None = None, *, opset: int = 17, ir: int = 8) -> ModelProto:
    """A model from ONNX text, without its header, and weights."""
    model = onnx.parser.parse_model(f'<ir_version: {ir}, opset_import: ["": {opset}]>\n{text}')
    for name, array in (weights or {}).items():
        model.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
    return model


def weights(seed: int = 0, dtype: type = np.float32, **shapes: tuple[int, ...]) -> dict[str, np.ndarray]:
    """He-normal weights, small normal vectors."""
    rng = np.random.default_rng(seed)
    scale = {name: np.sqrt(2 / np.prod(s[1:])) if len(s) > 1 else 0.1 for name, s in shapes.items()}
    return {name: (scale[name] * rng.standard_normal(s)).astype(dtype) for name, s in shapes.items()}


def changed(model: ModelProto, name: str, change: Callable[[np.ndarray], np.ndarray]) -> ModelProto:
    """A copy in which one initializer or constant is another."""
    copy = ModelProto()
    copy.CopyFrom(model)
    tensor = next(t for t in tensors(copy) if t[0] == name)[1]
    array = numpy_helper.to_array(tensor)
    tensor.CopyFrom(numpy_helper.from_array(change(array).astype(array.dtype), tensor.name))
    return copy


def tensors(model: ModelProto) -> list[tuple[str, onnx.TensorProto]]:
    """Initializers and values of Constant nodes, by the name under which they are read."""
    constants = [(n.output[0], a.t) for n in model.graph.node for a in n.attribute if a.name == "value"]
    return [(t.name, t) for t in model.graph.initializer] + constants


def permuted(model: ModelProto, first: Iterable[str], second: str, seed: int = 0) -> ModelProto:
    """The same function with hidden channels in another order: rows of `first`, input channels of `second`."""
    sizes = {name: numpy_helper.to_array(t).shape for name, t in tensors(model)}
    order = np.random.default_rng(seed).permutation(sizes[second][1])
    for name in first:
        model = changed(model, name, lambda a: a[order])
    return changed(model, second, lambda a: a[:, order])


def off_by(share: float, seed: int = 0) -> Callable[[np.ndarray], np.ndarray]:
    """Noise of this share of each element."""
    rng = np.random.default_rng(seed)
    return lambda a: a * (1 + share * rng.standard_normal(a.shape))
