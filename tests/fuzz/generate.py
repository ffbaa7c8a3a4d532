"""seed -> a random valid model with planted channels."""

from __future__ import annotations

from collections.abc import Callable, Container

import numpy as np
from onnx import ModelProto

from . import spelling, steps_dense, steps_elementwise, steps_images, steps_moves
from .maker import Maker, Rejected, Tensor

Step = Callable[[Maker], None]

STEPS: dict[Step, float] = {**steps_images.STEPS, **steps_dense.STEPS, **steps_elementwise.STEPS, **steps_moves.STEPS}


CLOSED = {
    "instance_normalization", "group_normalization", "local_response", "layer_normalization",
    "softmax", "fused_attention", "recurrent", "einsum", "quantize_and_back", "best", "cumulative",
    "triangle", "gather_elements", "gather_nd", "scatter", "grid_sample", "branch", "through_sequence",
    "normalize", "regroup", "batched_product",
}  # fmt: skip
"""Steps behind which next to nothing can go."""


def _flavour(m: Maker) -> np.ndarray:
    """How likely each step is in this model: some steps are its favourites, most models do without the closed ones."""
    share = np.array(list(STEPS.values()), float) * np.exp(m.rng.normal(0, 1, len(STEPS)))
    if m.chance(0.6):
        share[[f.__name__ in CLOSED for f in STEPS]] = 0
    return share / share.sum()


def make(seed: int, steps: int | None = None, only: Container[Step] | None = None) -> Maker:
    """The maker of a seed, with its outputs chosen.

    Args:
        seed: any number.
        steps: how many random steps are tried; by default the seed says (most often about ten).
        only: the steps that may be taken; by default all.
    """
    m = Maker(seed)
    _inputs(m)
    for layer in (steps_images.convolution, steps_dense.linear):
        if m.chance(0.7):
            m.attempt(layer)
    functions, shares = list(STEPS), _flavour(m)
    for _ in range(m.integer(3, 16) if steps is None else steps):
        step = functions[int(m.rng.choice(len(functions), p=shares))]
        if only is None or step in only:
            m.attempt(step)
    _outputs(m)
    return m


def random_model(seed: int, steps: int | None = None, only: Container[Step] | None = None) -> ModelProto:
    """The model of a seed (see `make`)."""
    return make(seed, steps, only).model()


def _inputs(m: Maker) -> None:
    batch: int | str = "batch" if m.chance(0.35) else 2
    side: int | str = "side" if m.chance(0.12) else m.choice([4, 6, 8])
    time: int | str = "time" if m.chance(0.25) else 5
    channels = m.integer(1, 6)
    kinds = {
        "image": [batch, channels, side, side],
        "signal": [batch, channels, 8],
        "volume": [batch, channels, 4, 3, 4],
        "sequence": [batch, time, m.integer(2, 8)],
        "rows": [batch, m.integer(2, 10)],
    }
    shares = [0.45, 0.08, 0.07, 0.25, 0.15]
    for _ in range(1 + m.chance(0.2)):
        m.input(kinds[str(m.rng.choice(list(kinds), p=shares))])
    if m.chance(0.12):
        m.input([batch, time], np.int64)
    if m.chance(0.1):
        m.input(kinds["image"], m.choice([np.uint8, np.bool_]))


def _outputs(m: Maker) -> None:
    """One to three outputs: what nobody reads, mostly behind a layer that reads its channels."""
    read = {name for node in m.nodes for name in node.input}
    floats = [t for t in m.open if t.is_float]
    loose = [t for t in floats if t.name not in read and any(t.name in n.output for n in m.nodes)]
    for tensor in (loose or floats)[::-1][: m.choice([1, 1, 2, 3])]:
        m.outputs.append(_headed(m, tensor))
    if m.chance(0.1):
        m.outputs.append(m.choice(floats))
    whole = [t for t in m.open if t.dtype == np.int64 and t.name not in {i.name for i, _ in m.inputs}]
    if whole and m.chance(0.1):
        m.outputs.append(m.choice(whole))
    m.outputs = list({t.name: t for t in m.outputs}.values())
    inputs = {t.name for t, _ in m.inputs}
    m.outputs = [m.op("Identity", t) if t.name in inputs else t for t in m.outputs]


def _headed(m: Maker, x: Tensor) -> Tensor:
    """A layer that mixes the channels of `x`, so that these need not stay for the output's sake."""
    try:
        if x.dtype == m.dtype and m.chance(0.92):
            if 3 <= x.rank <= 5 and x.fixed(1) and m.chance(0.6):
                return m.op("Conv", x, m.weight(2, x.shape[1], *[1] * (x.rank - 2), fan_in=x.shape[1], zeros=False))
            if x.rank >= 1 and x.fixed(x.rank - 1):
                return m.op("MatMul", x, m.weight(x.shape[-1], 2, fan_in=x.shape[-1], zeros=False))
            if x.rank >= 1:
                return spelling.reduce(m, "ReduceMean", x, [0])
    except Rejected:
        pass
    return x
