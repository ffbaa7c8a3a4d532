"""float16, bfloat16 and double: the traps in another type lose the same channels, and nothing overflows on the way."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

import onnxshrink
from tests.zoo import (
    networks,
    oracle,
    trap_activations,
    trap_bodies,
    trap_constants,
    trap_convolutions,
    trap_dense,
    trap_interfaces,
    trap_merges,
    trap_permutations,
    trap_shapes,
)
from tests.zoo.net import Net, parameters
from tests.zoo.trap import Trap

EXACT = {"align": 1, "negligible": 0, "verify": False}

# Inputs that stay float32 whatever the type of the network.
FLOAT_OPERANDS = {"Resize": (1, 2), "Upsample": (1,), "Dropout": (1,), "QuantizeLinear": (1,), "DequantizeLinear": (1,)}

# Traps whose operators are those of the standard, in every float type.
FAMILIES = (
    *(trap_activations, trap_constants, trap_merges, trap_permutations, trap_convolutions),
    *(trap_shapes, trap_dense, trap_interfaces, trap_bodies),
)
# Traps that say something else in another type, or cannot be said in it.
OTHER = {
    "contrib_operator": "ONNX Runtime has the operator in float32 only, and the reference not at all",
    "contrib_operator_elsewhere": "ONNX Runtime has the operator in float32 only, and the reference not at all",
    "conv_dequantized_weight": "a scale that stays float32 gives a float32 weight",
    "qdq_tensor": "a scale that stays float32 gives a float32 tensor",
    "qdq_channel": "a scale that stays float32 gives a float32 tensor",
    "conv_float16_constant": "is in float16 already",
    "zeros_like": "the default of ConstantOfShape is float32",
    "gate_sigmoid_closed": "in double the gate is not closed, but open by 1e-44",
}
# Traps that onnx's reference answers otherwise than ONNX Runtime, in float32 too, or not at all.
NO_REFERENCE = {
    *("grouped4_transposed_merges", "convtranspose_group2", "convtranspose_depthwise", "conv_sparse_weight"),
    *("pad_crop_constant", "pad_channel_crop", "pad_channel_shift"),
}
# TensorProto types, and how much a right result may differ: four roundings of the type, times max |y|.
TYPES = {TensorProto.FLOAT16: 4e-3, TensorProto.BFLOAT16: 3.2e-2, TensorProto.DOUBLE: 1e-12}


def converted(model: ModelProto, kind: int) -> ModelProto:
    """The model with every float32 tensor in another type."""
    result = ModelProto()
    result.CopyFrom(model)
    dtype = helper.tensor_dtype_to_np_dtype(kind)

    def tensor(item: TensorProto) -> None:
        if item.data_type == TensorProto.FLOAT:
            item.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(item).astype(dtype), item.name))

    def visit(graph: onnx.GraphProto) -> None:
        stay = {n.input[i] for n in graph.node for i in FLOAT_OPERANDS.get(n.op_type, ()) if i < len(n.input)}
        for item in [*graph.initializer, *(s.values for s in graph.sparse_initializer)]:
            if item.name not in stay:
                tensor(item)
        for value in [*graph.input, *graph.output, *graph.value_info]:
            if value.type.tensor_type.elem_type == TensorProto.FLOAT:
                value.type.tensor_type.elem_type = kind
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.type == onnx.AttributeProto.GRAPH:
                    visit(attribute.g)
                elif attribute.type == onnx.AttributeProto.TENSOR and node.output[0] not in stay:
                    tensor(attribute.t)
                elif attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                    attribute.i = kind
                elif node.op_type == "Constant" and attribute.name in ("value_float", "value_floats"):
                    array = np.array(helper.get_attribute_value(attribute), dtype)
                    attribute.CopyFrom(helper.make_attribute("value", numpy_helper.from_array(array)))

    visit(result.graph)
    return result


def answered_by(model: ModelProto, arrays: oracle.Arrays) -> Callable[..., oracle.Arrays | None]:
    """ONNX Runtime where it has kernels of the type, else onnx's reference."""
    try:
        oracle.run(model, arrays)
    except Exception:  # it raises several types for a kernel that it lacks
        return oracle.run_reference
    return oracle.run


def difference(expected: np.ndarray, actual: np.ndarray) -> float:
    wide = expected.astype(np.float64)
    return float(np.abs(wide - actual.astype(np.float64)).max(initial=0) / max(np.abs(wide).max(initial=0), 1e-30))


def cases() -> list[object]:
    found = []
    for number, trap in enumerate(trap for family in FAMILIES for trap in family.TRAPS):
        marks = [] if number % 8 == 0 else [pytest.mark.slow]
        if not trap.negligible and "function" not in trap.name and trap.name not in OTHER:
            found.append(pytest.param(trap, id=trap.name, marks=marks))
    return found


@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: TensorProto.DataType.Name(kind).lower())
@pytest.mark.parametrize("trap", cases())
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_traps_in_another_type(trap: Trap, kind: int) -> None:
    model = converted(trap.build(), kind)
    result = onnxshrink.optimize(model, **EXACT).model
    alone = onnxshrink.optimize(trap.build(), **EXACT).model
    assert parameters(result) == parameters(alone)
    arrays = oracle.feeds(model, 0, trap.sizes[0])
    answer = answered_by(model, arrays)
    if answer is oracle.run_reference and trap.name in NO_REFERENCE:
        return
    expected, actual = answer(model, arrays), answer(result, arrays)
    assert expected is not None
    assert actual is not None
    for name, array in expected.items():
        assert difference(array, actual[name]) <= TYPES[kind], f"{name}, by {answer.__name__}"


@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: TensorProto.DataType.Name(kind).lower())
@pytest.mark.parametrize("scheme", ["inner", "const"])
@pytest.mark.parametrize("architecture", ["unet", pytest.param("mobilenet_v2", marks=pytest.mark.slow)])
def test_networks_in_another_type(architecture: str, scheme: str, kind: int) -> None:
    """As many parameters as in float32; verified by default where ONNX Runtime can run the type."""
    before = networks.planted(architecture, scheme).model
    expected = parameters(onnxshrink.optimize(before, **EXACT).model)
    result = onnxshrink.optimize(converted(before, kind), align=1, negligible=0)
    assert parameters(result.model) == expected
    assert result.verification is not None
    if kind == TensorProto.FLOAT16:
        assert result.verification.state == "passed"
    else:
        assert result.verification.state == "unverified"
        assert result.verification.notes


# --- what does not fit into the type


def tiny_carrier(value: float, layer: str) -> ModelProto:
    """Two known channels. The one of a given tiny value is an output, so it stays; the other one is 25,000 times as
    large or more, and could go if W' = W + (v / value) W fitted into float16.
    """
    net = Net(dtype=np.float16)
    x = net.input("x", (2, 3, 8, 8))
    first = net.conv(x, 3, 8, constant={1: value, 3: 5.0})
    net.output(net.op("Slice", first, net.const([0]), net.const([2]), net.const([1]), name="shown"))
    if layer == "Conv":
        return net.output(net.conv(first, 8, 4, name="y")).model()
    rows = net.op("Transpose", first, perm=[0, 2, 3, 1])
    return net.output(net.op("MatMul", rows, net.const(net.normal(8, 4)), name="y")).model()


def wide_sum() -> ModelProto:
    """Forty known channels of one value, whose weights together are too large for float16."""
    net = Net(dtype=np.float16)
    first = net.conv(net.input("x", (2, 3, 8, 8)), 3, 42, 1, constant=dict.fromkeys(range(2, 42), 1e-3))
    weight = net.filters(42, 4, 3)
    weight[:, 2:] = 2000
    return net.output(net.conv(first, 42, 4, weight=net.const(weight), name="y")).model()


@pytest.mark.parametrize(
    ("build", "moves"),
    [
        (lambda: tiny_carrier(1.0, "Conv"), True),
        (lambda: tiny_carrier(6e-8, "Conv"), False),
        (lambda: tiny_carrier(1.0, "MatMul"), True),
        (lambda: tiny_carrier(6e-8, "MatMul"), False),
        (wide_sum, False),
    ],
    ids=["Conv", "Conv, tiny carrier", "MatMul", "MatMul, tiny carrier", "Conv, wide sum"],
)
def test_nothing_overflows(build: Callable[[], ModelProto], moves: bool) -> None:
    """Known channels that could move only as an infinity stay, or find another carrier."""
    model = build()
    result = onnxshrink.optimize(model, align=1, negligible=0)
    assert any(item.into == "carrier" and item.carrier == 1 for item in result.plan.absorbed) == moves
    for tensor in result.model.graph.initializer:
        assert np.isfinite(numpy_helper.to_array(tensor)).all()
    arrays = oracle.feeds(model, 0)
    oracle.assert_equal(oracle.run(model, arrays), oracle.run(result.model, arrays))


def test_the_same_in_float32_moves() -> None:
    model = wide_sum()
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT16:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
    for value in [*model.graph.input, *model.graph.output]:
        value.type.tensor_type.elem_type = TensorProto.FLOAT
    result = onnxshrink.optimize(model, **EXACT).model
    assert parameters(model) - parameters(result) == 39 * (3 + 1 + 4 * 9)
