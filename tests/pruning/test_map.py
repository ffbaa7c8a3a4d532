"""The map of `prune`: the result's weights from the original's and the map alone."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import onnxshrink
from onnxshrink.graph.inline import inlined
from onnxshrink.graph.model import read
from onnxshrink.graph.view import build
from onnxshrink.rewrite.map import rebuild
from tests.pruning.nets import NETS, Maker
from tests.pruning.test_prune import data


def constants(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}


@pytest.mark.parametrize("repair", [True, False], ids=["repaired", "unrepaired"])
@pytest.mark.parametrize("name", NETS)
def test_the_map_and_the_original_make_the_result(name: str, repair: bool) -> None:
    model = NETS[name]()
    options = {"keep_parameters": 0.7, "allocation": "uniform", "align": 1, "repair_weights": repair}
    result = onnxshrink.prune(model, data=data(model), **options)
    assert result.shrunk is not None
    mapping = json.loads(json.dumps(result.shrunk.map))
    before, after = constants(model), constants(result.model)
    assert {entry["source"] for entry in mapping["weights"]} <= {None, *before}
    made = rebuild(mapping, before)
    for key, value in after.items():
        same = made.get(key, before.get(key))
        assert same is not None, key
        assert np.array_equal(same, value), key
    graph = build(inlined(read(model)))
    labels = {node.label for node in graph.nodes}
    assert {entry["node"] for entry in mapping["weights"]} <= labels
    changed = [entry for entry in mapping["weights"] if "value" in entry and entry["op"] in ("Conv", "Gemm", "MatMul")]
    if repair:
        assert changed
    else:
        assert not [entry for entry in changed if entry["input"] == 1], "slices of the original's"


def test_what_changed_without_being_cut_is_in_it() -> None:
    """The bias of the last layer takes means over, though no output goes; a layer without a bias gets one."""
    m = Maker(["n", 3, 8, 8])
    x = m.op("Relu", m.conv("x", 3, 12))
    x = m.op("Relu", m.conv(x, 12, 12, bias=False))
    model = m.model(m.conv(x, 12, 4))
    result = onnxshrink.prune(model, data=data(model), keep_macs=0.5, allocation="uniform", align=1)
    assert result.shrunk is not None
    entries = {(entry["node"], entry["input"]): entry for entry in result.shrunk.map["weights"]}
    last, middle = (f"Conv `{node.name}`" for node in (model.graph.node[4], model.graph.node[2]))
    assert entries[last, 2]["axes"] == {}
    assert entries[last, 2]["source"] == model.graph.node[4].input[2]
    assert entries[last, 2]["value"]["shape"] == [4]
    assert entries[middle, 2]["source"] is None
    assert result.shrunk.map["normalizations"] == []
