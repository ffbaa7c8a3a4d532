"""Facts are sound: every known value is what ONNX Runtime computes, and every bound holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import ModelProto

from onnxshrink.channels.facts import understand
from onnxshrink.graph.model import read
from onnxshrink.graph.view import build
from tests.zoo import oracle

from .equality import feeds, grain, worlds

SLACK = {2: 1e-2, 4: 5e-4, 8: 5e-4}
"""By the width of the float; a normalization behind a constant channel divides its rounding by sqrt(epsilon). Halves
anywhere in a model cost every tensor as much: the reference implementation rounds in them otherwise."""

SCALES = (1.0, 0.0, 30.0, -5.0)


@dataclass
class Look:
    """What looking at the facts of a model showed: what is wrong, or "", how many elements were known, and how many
    tensors bounded."""

    wrong: str = ""
    known: int = 0
    bounded: int = 0


def look(model: ModelProto) -> Look:
    """Hold what is known of every tensor against what ONNX Runtime computes, on inputs of several scales."""
    context, result = understand(build(read(model))), Look()
    inner = {o for n in model.graph.node for o in n.output if o}
    tensors = [t for t in context.facts if t in inner]
    if not tensors:
        return result
    exposed = oracle.session(oracle.expose(model, tensors), optimize=False, threads=1)
    least = SLACK[2] if grain(model) else 0.0
    for world in worlds(model):
        for seed, scale in enumerate(SCALES):
            answers = dict(zip(tensors, exposed.run(tensors, feeds(model, seed, world, scale)), strict=True))
            for tensor in tensors:
                if wrong := _wrong(context.facts[tensor], answers[tensor], least, result):
                    result.wrong = f"`{tensor}` {wrong}, world {world}, scale {scale}"
                    return result
    return result


def _wrong(fact: Any, array: np.ndarray, least: float, result: Look) -> str:
    """What is wrong with a fact; `least` is the slack that it has at any width."""
    if not isinstance(array, np.ndarray) or not array.size or array.dtype.kind not in "fiub":
        return ""
    wide = array.astype(np.float64)
    if not np.isfinite(wide).all():
        return ""
    own = SLACK.get(array.dtype.itemsize if array.dtype.kind == "f" else 4, 0.0)
    slack = max(own, least) * np.maximum(1, np.abs(wide))
    known = np.broadcast_to(fact.known, array.shape)
    off = np.abs(wide - np.broadcast_to(fact.value, array.shape).astype(np.float64))
    if (known & (off > slack)).any():
        return f"is not what is known of it, off by {off[known].max():.1e}"
    if fact.low is not None and (wide < fact.low - slack).any():
        return "falls below its bound"
    if fact.high is not None and (wide > fact.high + slack).any():
        return "exceeds its bound"
    result.known += int(known.sum())
    result.bounded += fact.low is not None or fact.high is not None
    return ""
