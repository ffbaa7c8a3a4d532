"""How the original itself answers to small changes: the last bit of weights and inputs, and one per cent of the inputs.

The first says how far rounding alone can move an output, which optimizations on against off show only where there is
something to fuse. The second says whether an output answers at all: a saturated one hides any defect.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import numpy_helper

from ..graph.model import tensors
from ..graph.view import is_plain_float
from .compare import difference, is_float
from .pool import BIG, PLAIN, Arrays, Pool
from .variants import Source

_JITTERED = "jittered"
OFF = {"off": False}


def jitter(
    pool: Pool,
    feeds: Mapping[str, np.ndarray],
    samples: int = 2,
    levels: Mapping[str, bool] = OFF,
    variant: str = PLAIN,
) -> dict[str, dict[str, float]]:
    """Largest change of each output, relative to max|y|, when the last bit of weights and inputs moves at random.

    Weights that are too large to be held once more stay as they are, and so do those of any variant but the plain one.

    Args:
        pool: sessions.
        feeds: inputs.
        samples: how often.
        levels: names of optimization levels, and whether optimizations are on there: other kernels round elsewhere.
        variant: of the original; what is given to it are inputs like any other.

    Returns:
        By output, the change at each level.
    """
    source = pool.sources["original"]
    shaking = variant
    if variant == PLAIN and source.bytes_of_weights() <= BIG:
        pool.define("original", _JITTERED, lambda: _jittered(source))
        shaking = _JITTERED
    worst: dict[str, dict[str, float]] = {}
    for level, optimize in levels.items():
        still = pool.run("original", variant, optimize, feeds)
        for seed in range(samples):
            rng = np.random.default_rng(seed)
            shaken = {name: _shaken(value, rng) for name, value in feeds.items()}
            for name, change in _changes(still, pool.run("original", shaking, optimize, shaken)).items():
                own = worst.setdefault(name, {})
                own[level] = max(own.get(level, 0.0), change)
    return worst


def response(pool: Pool, feeds: Mapping[str, np.ndarray], still: Arrays) -> dict[str, float]:
    """Change of each output, relative to max|y|, when every float input moves by about 1 % at random.

    Integer and boolean inputs, where there are no floats, change in one of ten places to another value that is there.

    Args:
        pool: sessions.
        feeds: inputs.
        still: the outputs for them, optimizations off.
    """
    rng = np.random.default_rng(1)
    floats = any(is_float(v) for v in feeds.values())
    moved = {}
    for name, value in feeds.items():
        if is_float(value):
            # Scaled and shaken: a normalization undoes the one, a mean the other.
            value = (value.astype(np.float64) * (1.01 + 0.01 * rng.standard_normal(value.shape))).astype(value.dtype)
        elif not floats and value.size:
            value = np.where(
                rng.random(value.shape) < 0.1, rng.permutation(value.reshape(-1)).reshape(value.shape), value
            )
        moved[name] = value
    return _changes(still, pool.run("original", PLAIN, False, moved))


def _changes(still: Arrays, moved: Arrays) -> dict[str, float]:
    missing = np.empty(0, dtype=object)
    return {name: difference(value, moved.get(name, missing)).relative for name, value in still.items()}


def _shaken(value: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    if not is_float(value) or value.size == 0:
        return value
    last_bit = float(np.finfo(value.dtype).eps) if is_plain_float(value.dtype) else 2.0**-7
    noise = 1 + last_bit * rng.uniform(-1, 1, value.shape).astype(np.float64)
    return (value.astype(np.float64) * noise).astype(value.dtype)


def _jittered(source: Source) -> bytes:
    """The original with noise in the last bit of its weights, those in bodies too; tensors of rank below 2 may be sizes
    or thresholds.
    """
    rng = np.random.default_rng(0)
    model = onnx.ModelProto()
    model.CopyFrom(source.model)
    for tensor in tensors(model.graph):
        if len(tensor.dims) < 2:
            continue
        array = source.file.array(tensor)
        if is_float(array):
            tensor.CopyFrom(numpy_helper.from_array(_shaken(array, rng), tensor.name))
    return model.SerializeToString()
