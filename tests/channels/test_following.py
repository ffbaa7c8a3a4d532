"""Passes: another look at a result finds what nobody could know before, and all of it is said of the original."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxshrink.channels.analysis import Options
from onnxshrink.draft import Draft, draft
from onnxshrink.graph.model import read
from onnxshrink.graph.view import build
from tests.zoo import oracle
from tests.zoo.oracle import Arrays

GOLDEN = sorted((Path(__file__).parents[1] / "golden").glob("*.txt"))
TWICE = ("attention_heads_left", "sum_of_what_is_left")
"""Models of which a second look cuts more."""


def drafted(name: str) -> tuple[onnx.ModelProto, Draft]:
    path = next(path for path in GOLDEN if path.stem == name)
    model = onnx.parser.parse_model(path.read_text())
    return model, draft(build(read(model)), Options(0.0, 1))


def computed(model: onnx.ModelProto, feed: Arrays) -> Arrays:
    """Every computed tensor."""
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    names = [name for node in model.graph.node for name in node.output if name]
    del shown.graph.output[:]
    shown.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    return dict(zip(names, oracle.session(shown, optimize=False, threads=1).run(names, feed), strict=True))


@pytest.mark.parametrize("name", TWICE)
def test_what_is_kept_is_said_of_the_original(name: str) -> None:
    model, made = drafted(name)
    assert len(made.passes) > 1
    feed = oracle.feeds(model, 0)
    before, after = computed(model, feed), computed(made.model, feed)
    compared = 0
    for tensor in after.keys() & before.keys() - made.apart():
        expected = before[tensor]
        for axis, kept in made.plan.kept.get(tensor, {}).items():
            expected = expected.take(kept, axis)
        np.testing.assert_allclose(after[tensor], expected, rtol=1e-5, atol=1e-6, err_msg=tensor)
        compared += tensor in made.plan.kept
    assert compared


@pytest.mark.parametrize("name", TWICE)
def test_layers_count_from_the_original_to_the_end(name: str) -> None:
    _, made = drafted(name)
    widths = {node.output[0]: node for node in made.model.graph.node}
    shapes = {v.name: v for v in onnx.shape_inference.infer_shapes(made.model).graph.value_info}
    layers = made.passes[0].plan.layers
    assert [(layer.node, layer.before) for layer in made.plan.layers] == [(la.node, la.before) for la in layers]
    for layer in made.plan.layers:
        assert layer.before - layer.after == sum(layer.removed.values())
        if layer.tensor in widths and layer.tensor in shapes:
            assert shapes[layer.tensor].type.tensor_type.shape.dim[layer.axis].dim_value == layer.after
    assert made.plan.channels[1] < made.passes[0].plan.channels[1]


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_what_stays_is_kept_in_the_original(path: Path) -> None:
    made = draft(build(read(onnx.parser.parse_model(path.read_text()))), Options(0.0, 1))
    tensors = {node.label: node.outputs[0] for node in made.passes[0].graph.nodes}
    layers = {layer.tensor: layer for layer in made.plan.layers}
    for stay in made.plan.stays:
        layer = layers.get(tensors.get(stay.layer, ""))
        if layer is not None:
            kept = made.plan.kept.get(layer.tensor, {}).get(layer.axis, range(layer.before))
            assert set(stay.slices) <= set(kept), stay
