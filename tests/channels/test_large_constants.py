"""Constants that are larger than what a fact may grow to are looked at like all others."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

import onnxshrink
from onnxshrink.ops import fact
from tests.zoo.net import Net

WIDTH = 32


def held(net: Net, array: np.ndarray) -> str:
    """An initializer of the array's own type."""
    net.initializers.append(numpy_helper.from_array(np.ascontiguousarray(array), f"held_{len(net.initializers)}"))
    return net.initializers[-1].name


def dense(kind: str) -> onnx.ModelProto:
    """A weight that reaches its product as `kind` says, of which every second output is dead, and its reader."""
    net = Net()
    weight = net.normal(WIDTH, WIDTH).astype(np.float32)
    weight[:, ::2] = 0
    bits = np.clip(np.rint(weight * 40), -127, 127).astype(np.int8)
    scale = np.full(WIDTH, 1 / 40, np.float32)
    if kind == "embedding":
        hidden = net.op("Gather", held(net, weight), net.input("rows", ("batch",), np.int64))
    else:
        made = {
            "product": lambda: held(net, weight),
            "cast": lambda: net.op("Cast", held(net, weight.astype(np.float16)), to=TensorProto.FLOAT),
            "transposed": lambda: net.op("Transpose", held(net, weight.T), perm=[1, 0]),
            "scaled": lambda: net.op("Mul", held(net, weight), held(net, scale)),
            "quantized": lambda: net.op("DequantizeLinear", held(net, bits), held(net, scale), axis=1),
        }[kind]()
        hidden = net.op("MatMul", net.input("x", ("batch", WIDTH)), made)
    return net.output(net.op("MatMul", net.op("Tanh", hidden), net.const(net.normal(WIDTH, 4), "reader"))).model()


@pytest.mark.parametrize("kind", ["product", "cast", "transposed", "scaled", "quantized", "embedding"])
def test_the_limit_of_facts_is_not_one_of_constants(kind, monkeypatch):
    monkeypatch.setattr(fact, "CAP", WIDTH)
    result = onnxshrink.optimize(dense(kind), align=1)
    assert result.verification.passed
    assert {i.name: list(i.dims) for i in result.model.graph.initializer}["reader"] == [WIDTH // 2, 4]
