"""Small networks for pruning: each couples channels in another way. All have one input `x`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from onnx import ModelProto, helper, shape_inference
from onnx.numpy_helper import from_array


class Maker:
    """Nodes with seeded weights; every method returns the name of its output."""

    def __init__(self, shape: list[int | str], seed: int = 0):
        self.rng = np.random.default_rng(seed)
        self.nodes, self.weights = [], []
        self.inputs = [helper.make_tensor_value_info("x", 1, shape)]

    def op(self, kind: str, *inputs: str, **attributes: object) -> str:
        out = f"{kind.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [out], name=f"n_{out}", **attributes))
        return out

    def const(self, value: np.ndarray) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(from_array(value, name))
        return name

    def normal(self, *shape: int, scale: float | None = None) -> str:
        scale = scale or float(np.sqrt(2 / max(1, np.prod(shape[1:]))))
        return self.const((self.rng.standard_normal(shape) * scale).astype(np.float32))

    def conv(self, x: str, cin: int, cout: int, k: int = 3, group: int = 1, bias: bool = True, **kw: object) -> str:
        inputs = [x, self.normal(cout, cin // group, k, k)] + ([self.normal(cout, scale=0.3)] if bias else [])
        return self.op("Conv", *inputs, kernel_shape=[k, k], group=group, pads=[k // 2] * 4, **kw)

    def norm(self, x: str, c: int) -> str:
        one = self.rng.uniform(0.5, 1.5, c).astype(np.float32)
        return self.op(
            "BatchNormalization",
            x,
            self.const(one),
            self.normal(c, scale=0.3),
            self.normal(c, scale=0.3),
            self.const(one),
        )

    def model(self, *outputs: str, opset: int = 17) -> ModelProto:
        made = [helper.make_tensor_value_info(name, 1, None) for name in outputs]
        graph = helper.make_graph(self.nodes, "net", self.inputs, made, self.weights)
        made_model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
        inferred = shape_inference.infer_shapes(made_model)
        del inferred.graph.value_info[:]
        return inferred


def gelu() -> ModelProto:
    """Token layers with GELU as exporters write it: by Div and Erf, and by Pow and Tanh."""
    m = Maker(["n", 5, 6])

    def number(value: float) -> str:
        return m.const(np.float32(value))

    def halved(x: str, squashed: str) -> str:
        return m.op("Mul", m.op("Mul", x, m.op("Add", squashed, number(1))), number(0.5))

    first = m.op("Add", m.op("MatMul", "x", m.normal(6, 10)), m.normal(10))
    first = halved(first, m.op("Erf", m.op("Div", first, number(np.sqrt(2)))))
    second = m.op("MatMul", first, m.normal(10, 8))
    cubed = m.op("Mul", m.op("Pow", second, number(3)), number(0.044715))
    second = halved(second, m.op("Tanh", m.op("Mul", m.op("Add", second, cubed), number(np.sqrt(2 / np.pi)))))
    return m.model(m.op("MatMul", second, m.normal(8, 4)))


def residual() -> ModelProto:
    m = Maker(["n", 3, 8, 8])
    stem = m.op("Relu", m.norm(m.conv("x", 3, 8), 8))
    inner = m.op("Relu", m.conv(stem, 8, 12))
    stream = m.op("Relu", m.op("Add", stem, m.norm(m.conv(inner, 12, 8, bias=False), 8)))
    again = m.op("Add", stream, m.conv(m.op("Relu", m.conv(stream, 8, 6)), 6, 8))
    pooled = m.op("Flatten", m.op("GlobalAveragePool", again))
    return m.model(m.op("Gemm", pooled, m.normal(5, 8), m.normal(5), transB=1))


def depthwise() -> ModelProto:
    m = Maker(["n", 3, 8, 8])
    wide = m.op("Sigmoid", m.conv("x", 3, 10, 1))
    deep = m.op("HardSwish", m.conv(wide, 10, 10, 3, group=10))
    return m.model(m.conv(deep, 10, 4, 1))


def concat() -> ModelProto:
    m = Maker(["n", 3, 8, 8])
    a, b = m.op("Relu", m.conv("x", 3, 6)), m.op("Relu", m.conv("x", 3, 7, 1))
    both = m.op("Concat", a, b, axis=1)
    return m.model(m.conv(m.op("Relu", m.conv(both, 13, 9)), 9, 2))


def grouped() -> ModelProto:
    m = Maker(["n", 3, 8, 8])
    wide = m.op("Relu", m.conv("x", 3, 12, 1))
    return m.model(m.conv(m.op("Relu", m.conv(wide, 12, 12, 3, group=3)), 12, 4, 1))


def flatten() -> ModelProto:
    m = Maker(["n", 3, 4, 4])
    flat = m.op("Reshape", m.op("Relu", m.conv("x", 3, 6)), m.const(np.array([-1, 96], np.int64)))
    hidden = m.op("Relu", m.op("Gemm", flat, m.normal(96, 10, scale=0.1), m.normal(10)))
    return m.model(m.op("Add", m.op("MatMul", hidden, m.normal(10, 4)), m.normal(4)))


def upsampling() -> ModelProto:
    m = Maker(["n", 3, 4, 4])
    deep = m.op("Relu", m.conv("x", 3, 8))
    up = m.op("ConvTranspose", deep, m.normal(8, 6, 2, 2), m.normal(6), kernel_shape=[2, 2], strides=[2, 2])
    return m.model(m.conv(m.op("Relu", up), 6, 3))


def excited() -> ModelProto:
    m = Maker(["n", 3, 8, 8])
    wide = m.op("Relu", m.conv("x", 3, 12))
    gate = m.op("Relu", m.conv(m.op("GlobalAveragePool", wide), 12, 5, 1))
    gate = m.op("Sigmoid", m.conv(gate, 5, 12, 1))
    return m.model(m.conv(m.op("Mul", wide, gate), 12, 4))


def attention() -> ModelProto:
    m = Maker(["n", 6, 16])

    def heads(x: str) -> str:
        y = m.op("Add", m.op("MatMul", x, m.normal(16, 12)), m.normal(12))
        y = m.op("Reshape", y, m.const(np.array([0, 6, 4, 3], np.int64)))
        return m.op("Transpose", y, perm=[0, 2, 1, 3])

    q, k, v = heads("x"), heads("x"), heads("x")
    scores = m.op("Softmax", m.op("MatMul", q, m.op("Transpose", k, perm=[0, 1, 3, 2])), axis=-1)
    mixed = m.op("Transpose", m.op("MatMul", scores, v), perm=[0, 2, 1, 3])
    flat = m.op("Reshape", mixed, m.const(np.array([0, 6, 12], np.int64)))
    added = m.op("Add", "x", m.op("MatMul", flat, m.normal(12, 16)))
    hidden = m.op("Relu", m.op("MatMul", added, m.normal(16, 20)))
    return m.model(m.op("MatMul", hidden, m.normal(20, 16)))


NETS: dict[str, Callable[[], ModelProto]] = {
    made.__name__: made
    for made in (residual, depthwise, concat, grouped, flatten, upsampling, excited, attention, gelu)
}


def inputs(model: ModelProto, count: int, seed: int = 0) -> np.ndarray:
    """Samples of the input `x`, smooth enough that neighbours are alike."""
    shape = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim][1:]
    return np.random.default_rng(seed).standard_normal([count, *shape]).astype(np.float32)
