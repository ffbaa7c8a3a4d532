"""No cut that brute force finds on small graphs is larger than the plan's."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from onnx import ModelProto, numpy_helper

import onnxshrink
from tests.fuzz import steps_dense, steps_elementwise, steps_images, steps_moves
from tests.fuzz.generate import random_model
from tests.fuzz.maker import Rejected
from tests.fuzz.shrinker import with_initializers
from tests.zoo.net import Net

from .brute_force import Search, weights

STEPS = {
    steps_dense.gemm,
    steps_dense.layer_normalization,
    steps_dense.linear,
    steps_dense.softmax,
    steps_elementwise.activation,
    steps_elementwise.by_constant,
    steps_elementwise.clip,
    steps_elementwise.gate,
    steps_elementwise.merge,
    steps_elementwise.where,
    steps_images.batch_normalization,
    steps_images.convolution,
    steps_images.global_pool,
    steps_images.pool,
    steps_images.squeeze_and_excite,
    steps_moves.concat,
    steps_moves.flatten,
    steps_moves.reduction,
    steps_moves.transpose,
}

EXPLAINED: dict[int, str] = {
    686: "places that a strided Conv never reads: its spatial axes are not cut",
    914: "every window of a padded AveragePool counts one padded place: a constant stays one at this size only",
}
"""Seeds of which brute force removes more, and why that is left."""


def small_models(seeds: range) -> Iterator[tuple[int, ModelProto]]:
    """Random float32 models of one static input, at most nine nodes, and at most five slices along each axis."""
    for seed in seeds:
        try:
            model = with_initializers(random_model(seed, 4, STEPS))
        except Rejected:
            continue
        arrays = [numpy_helper.to_array(t) for t in model.graph.initializer]
        if len(model.graph.node) > 9 or len(model.graph.input) > 1 or not any(a.ndim > 1 for a in arrays):
            continue
        if any(a.dtype.name in ("float16", "float64") or max(a.shape, default=1) > 5 for a in arrays):
            continue
        if all(d.HasField("dim_value") for d in model.graph.input[0].type.tensor_type.shape.dim):
            yield seed, model


def compare(seeds: range) -> tuple[int, int]:
    """How many models there were, and from how many brute force removed something."""
    models = removed = 0
    for seed, model in small_models(seeds):
        if seed in EXPLAINED:
            continue
        brute = weights(Search(model, limit=700).run())
        planned = weights(onnxshrink.optimize(model, align=1, negligible=0, verify=False).model)
        assert planned <= brute, f"seed {seed}: brute force leaves {brute} weights, the plan {planned}"
        models += 1
        removed += brute < weights(model)
    return models, removed


def test_small_graphs() -> None:
    models, removed = compare(range(130))
    assert models >= 12
    assert removed >= 2


@pytest.mark.slow
@pytest.mark.parametrize("block", range(8))
def test_more_small_graphs(block: int) -> None:
    compare(range(130 + 100 * block, 230 + 100 * block))


def test_brute_force_finds_what_is_planted() -> None:
    """A zero filter in both branches of a sum, behind a depthwise Conv, and a column that nobody reads."""
    net = Net()
    x = net.input("x", (1, 2, 4, 4))
    one = net.conv(x, 2, 3, 1, zero=[1], bias=False, name="one")
    depthwise = net.conv(one, 3, 3, 1, group=3, bias=False, name="depthwise")
    other = net.conv(x, 2, 3, 1, zero=[1], bias=False, name="other")
    total = net.op("Relu", net.op("Add", depthwise, other, name="sum"))
    model = net.output(net.conv(total, 3, 2, 1, unread=[2], name="y")).model()
    left = {"one": 1 * 2, "depthwise": 1, "other": 1 * 2, "y": 2 * 1}
    assert weights(Search(model).run()) == sum(left.values())
    assert weights(onnxshrink.optimize(model, align=1, negligible=0, verify=False).model) == sum(left.values())


def test_brute_force_moves_a_constant_into_a_bias() -> None:
    net = Net()
    x = net.input("x", (1, 2, 4, 4))
    t = net.conv(x, 2, 3, 1, constant={1: 0.7}, name="t")
    model = net.output(net.conv(net.op("Sigmoid", t), 3, 2, 1, name="y")).model()
    assert weights(Search(model).run()) == 2 * 2 + 2 * 2


def test_brute_force_leaves_what_is_needed() -> None:
    net = Net()
    x = net.input("x", (1, 2, 4, 4))
    model = net.output(net.conv(net.op("Relu", net.conv(x, 2, 3, 1)), 3, 2, 1, name="y")).model()
    assert weights(Search(model).run()) == weights(model) == np.prod((3, 2)) + np.prod((2, 3))
