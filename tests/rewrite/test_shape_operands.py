"""Operands that say a shape follow the cut by themselves where they come from shapes that do, or are overwritten."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import ModelProto, helper, numpy_helper, parser

import onnxshrink
from tests.zoo import oracle
from tests.zoo.net import Net, parameters

DEAD = [1, 2, 5, 7]
CONSTANTS = {
    "size": [12, 10],
    "zero": [0],
    "one": [1],
    "eight": [8],
    "axis": [0],
    "end": [2],
}


def network(body: str, output: str = 'float["N",2,"A","B"] y') -> ModelProto:
    """c has eight channels, of which four are zero; v reads r, which `body` makes of it."""
    used = [name for name in CONSTANTS if f" {name}" in body or f"({name}" in body]
    declared = ", ".join(f"int64[{len(CONSTANTS[name])}] {name}" for name in used)
    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 18]>'
        f'm (float["N",3,6,5] x) => ({output}) <float[8,3,1,1] w, float[2,8,1,1] v{", " * bool(used)}{declared}>'
        f"{{ c = Conv (x, w) {body} y = Conv (r, v) }}"
    )
    random = np.random.default_rng(0)
    w, v = random.normal(size=(8, 3, 1, 1)).astype(np.float32), random.normal(size=(2, 8, 1, 1)).astype(np.float32)
    w[DEAD] = 0
    arrays = {"w": w, "v": v} | {name: np.array(CONSTANTS[name]) for name in used}
    model.graph.initializer.extend(numpy_helper.from_array(a, name) for name, a in arrays.items())
    del model.graph.value_info[:]
    return model


def run(model: ModelProto, n: int) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    x = np.random.default_rng(n).normal(size=(n, 3, 6, 5)).astype(np.float32)
    return list(session.run(None, {"x": x}))


def shrunk(model: ModelProto) -> ModelProto:
    """The optimized model; four channels went, and it answers the same for several batches."""
    small = onnxshrink.optimize(model, align=1).model
    (weight,) = (t for t in small.graph.initializer if t.dims[1:] == [3, 1, 1])
    assert weight.dims[0] == 8 - len(DEAD)
    for n in (1, 3):
        for one, other in zip(run(model, n), run(small, n), strict=True):
            np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)
    return small


RESIZE = 'to = Concat <axis = 0> ({}) r = Resize <mode = "nearest"> (c, , , to)'
FOLLOWING = {
    "a part of a shape": "s = Shape <end = 2> (c) " + RESIZE.format("s, size"),
    "element by element": "s = Shape (c) n = Gather (s, zero) k = Gather (s, one) " + RESIZE.format("n, k, size"),
    "a slice": "s = Shape (c) p = Slice (s, axis, end) " + RESIZE.format("p, size"),
    "reshaped back": "s = Shape (c) f = Flatten (c) r = Reshape (f, s)",
    "expanded": "s = Shape (c) e = Relu (c) r = Expand (e, s)",
}


@pytest.mark.parametrize("body", FOLLOWING.values(), ids=FOLLOWING)
def test_what_comes_from_a_cut_shape_follows_by_itself(body: str) -> None:
    model = network(body)
    small = shrunk(model)
    assert not {"Where", "Mul"} & {node.op_type for node in small.graph.node}
    assert len(small.graph.node) <= len(model.graph.node)


def test_what_is_written_down_is_overwritten() -> None:
    body = "s = Shape <end = 1> (c) " + RESIZE.format("s, eight, size")
    assert [node.op_type for node in shrunk(network(body)).graph.node].count("Where") == 1


def test_a_shape_that_somebody_reads_says_the_old_number_and_the_operand_the_new_one() -> None:
    model = network(FOLLOWING["a part of a shape"])
    model.graph.output.append(helper.make_tensor_value_info("s", onnx.TensorProto.INT64, [2]))
    small = shrunk(model)
    assert [node.op_type for node in small.graph.node].count("Where") == 2
    assert run(small, 3)[1].tolist() == [3, 8]


def test_arithmetic_on_a_cut_shape_goes_on_with_the_old_number() -> None:
    """Nothing follows what is computed: twice the channels of c are sixteen, also when c has four."""
    body = "s = Shape (c) k = Gather (s, one) d = Add (k, k) f = Cast <to = 1> (d) e = Mul (c, f) r = Relu (e)"
    shrunk(network(body))


def test_numbers_of_one_example_in_a_file_made_dynamic_later() -> None:
    """Its inner tensors are still declared with the batch of the export; a Reshape reads the batch at run time."""
    net = Net()
    t = net.conv(net.input("x", ("N", 3, 4, 4)), 3, 8, zero=DEAD, name="t")
    batch = net.op("Slice", net.op("Shape", t), net.const([0]), net.const([1]))
    flat = net.op("Reshape", t, net.op("Concat", batch, net.const([-1]), axis=0))
    model = net.output(net.op("MatMul", flat, net.const(net.normal(128, 5)), name="y")).model()
    model.graph.value_info.append(helper.make_tensor_value_info("t", onnx.TensorProto.FLOAT, (1, 8, 4, 4)))
    result = onnxshrink.optimize(model, align=1, negligible=0, verify=False).model
    assert parameters(model) - parameters(result) == 4 * 28 + 4 * 16 * 5
    for count in (1, 3):
        arrays = oracle.feeds(model, 0, {"N": count})
        oracle.assert_equal(oracle.run(model, arrays), oracle.run(result, arrays), what=f"batch {count}")
