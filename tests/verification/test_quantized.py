"""Quantized models: what structure demands of integers, and that a right cut of one verifies while a wrong one fails."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import ModelProto, numpy_helper

import onnxshrink
from onnxshrink.verification import Verification, check
from onnxshrink.verification.shapes import model_facts
from tests.zoo.trap_quantized import TRAPS

from .models import changed

HEADER = '<ir_version: 10, opset_import: ["": 21, "com.microsoft": 1]>\n'
QX = "uint8[1,16,8,8] x, float s, uint8 z"
A = "uint8[5,16] a, float s, uint8 z"

# name: (text with {v}, right value, wrong value, what the finding says)
CASES = {
    "steps_of_an_axis": (
        "g (uint8[1,16,4] x, float[{v}] s) => (float[1,16,4] y) {{ y = DequantizeLinear<axis=1>(x, s) }}",
        *("16", "12", "scale has 12 elements"),
    ),
    "steps_of_blocks": (
        "g (int8[16,64] x, float[16,{v}] s) => (float[16,64] y)"
        " {{ y = DequantizeLinear<axis=1, block_size=16>(x, s) }}",
        *("4", "3", "should have 4 on axis 1"),
    ),
    "steps_beside_blocks": (
        "g (int8[16,64] x, float[{v},4] s) => (float[16,64] y) {{ y = DequantizeLinear<axis=1, block_size=16>(x, s) }}",
        *("16", "12", "should have 16 on axis 0"),
    ),
    "zero_point": (
        "g (uint8[1,16,4] x, float[16] s, uint8[{v}] z) => (float[1,16,4] y)"
        " {{ y = DequantizeLinear<axis=1>(x, s, z) }}",
        *("16", "12", "zero point [12]"),
    ),
    "steps_of_contrib": (
        "g (uint8[1,16,4] x, float[{v}] s, uint8[{v}] z) => (float[1,16,4] y)"
        " {{ y = com.microsoft.DequantizeLinear<axis=1>(x, s, z) }}",
        *("16", "12", "scale has 12 elements"),
    ),
    "qlinear_conv": (
        f"g ({QX}, int8[8,{{v}},3,3] w, int8 o) => (uint8[1,8,6,6] y) {{{{ y = QLinearConv(x, s, z, w, s, o, s, z) }}}}",
        *("16", "12", "expects 12"),
    ),
    "qlinear_conv_scale": (
        f"g ({QX}, int8[8,16,3,3] w, float[{{v}}] t, int8 o) => (uint8[1,8,6,6] y)"
        " {{ y = QLinearConv(x, s, z, w, t, o, s, z) }}",
        *("8", "6", "operand 4 has 6 elements"),
    ),
    "qlinear_conv_contrib": (
        f"g ({QX}, int8[8,{{v}},3,3] w, int8 o) => (uint8[1,8,6,6] y)"
        " {{ y = com.microsoft.QLinearConv(x, s, z, w, s, o, s, z) }}",
        *("16", "12", "expects 12"),
    ),
    "conv_integer_zero_point": (
        f"g ({QX}, int8[8,16,3,3] w, int8[{{v}}] o) => (int32[1,8,6,6] y) {{{{ y = ConvInteger(x, w, z, o) }}}}",
        *("8", "6", "operand 3 has 6 elements"),
    ),
    "matmul_integer": (
        f"g ({A}, int8[{{v}},8] b) => (int32[5,8] y) {{{{ y = MatMulInteger(a, b, z) }}}}",
        *("16", "12", "inner sizes differ"),
    ),
    "matmul_integer_zero_point": (
        f"g ({A}, int8[16,8] b, int8[{{v}}] o) => (int32[5,8] y) {{{{ y = MatMulInteger(a, b, z, o) }}}}",
        *("8", "6", "operand 3 has 6 elements"),
    ),
    "qlinear_matmul_scale": (
        f"g ({A}, int8[16,8] b, float[{{v}}] t, int8[{{v}}] o) => (uint8[5,8] y)"
        " {{ y = QLinearMatMul(a, s, z, b, t, o, s, z) }}",
        *("8", "6", "operand 4 has 6 elements"),
    ),
    "qgemm": (
        f"g ({A}, int8[8,{{v}}] b, int8 o) => (uint8[5,8] y)"
        " {{ y = com.microsoft.QGemm<transB=1>(a, s, z, b, s, o, , s, z) }}",
        *("16", "12", "inner sizes differ: 16 in the input, 12"),
    ),
    "qgemm_bias": (
        f"g ({A}, int8[8,16] b, int8 o, int32[{{v}}] c) => (uint8[5,8] y)"
        " {{ y = com.microsoft.QGemm<transB=1>(a, s, z, b, s, o, c, s, z) }}",
        *("8", "6", "does not broadcast to the result"),
    ),
    "matmul_integer_to_float": (
        f"g ({A}, int8[16,8] b, float[{{v}}] t) => (float[5,8] y)"
        " {{ y = com.microsoft.MatMulIntegerToFloat(a, b, s, t, z) }}",
        *("8", "6", "operand 3 has 6 elements"),
    ),
    "dynamic_quantize_matmul": (
        "g (float[5,{v}] a, int8[16,8] b, float s) => (float[5,8] y)"
        " {{ y = com.microsoft.DynamicQuantizeMatMul(a, b, s) }}",
        *("16", "12", "inner sizes differ"),
    ),
    "matmul_n_bits": (
        "g (float[5,64] a, uint8[{v},2,16] b, float[16] s) => (float[5,8] y)"
        " {{ y = com.microsoft.MatMulNBits<K=64, N=8, bits=4, block_size=32>(a, b, s) }}",
        *("8", "6", "for N = 8"),
    ),
    "matmul_n_bits_scales": (
        "g (float[5,64] a, uint8[8,2,16] b, float[{v}] s) => (float[5,8] y)"
        " {{ y = com.microsoft.MatMulNBits<K=64, N=8, bits=4, block_size=32>(a, b, s) }}",
        *("16", "12", "for 8 columns of 2 blocks"),
    ),
    "qlinear_add": (
        f"g ({QX}, uint8[1,{{v}},8,8] b) => (uint8[1,16,8,8] y)"
        " {{ y = com.microsoft.QLinearAdd(x, s, z, b, s, z, s, z) }}",
        *("16", "12", "do not broadcast"),
    ),
    "qlinear_where": (
        f"g ({QX}, bool[1,{{v}},8,8] c) => (uint8[1,16,8,8] y)"
        " {{ y = com.microsoft.QLinearWhere(c, x, s, z, x, s, z, s, z) }}",
        *("16", "12", "do not broadcast"),
    ),
    "qlinear_concat": (
        f"g ({QX}, uint8[1,4,{{v}},8] b) => (uint8[1,20,8,8] y)"
        " {{ y = com.microsoft.QLinearConcat<axis=1>(s, z, x, s, z, b, s, z) }}",
        *("8", "6", "operands differ on axis 2"),
    ),
    "behind_contrib": (
        f"g ({QX}, uint8[1,4,8,8] b, int8[8,{{v}},1,1] w, int8 o) => (uint8[1,8,M,N] y) {{{{"
        " c = com.microsoft.QLinearConcat<axis=1>(s, z, x, s, z, b, s, z)"
        " l = com.microsoft.QLinearLeakyRelu(c, s, z, s, z)"
        " p = com.microsoft.QLinearAveragePool<kernel_shape=[2,2]>(l, s, z, s, z)"
        " m = com.microsoft.QLinearMul(p, s, z, p, s, z, s, z) y = QLinearConv(m, s, z, w, s, o, s, z) }}",
        *("20", "16", "input has 20 channels"),
    ),
}


def of(name: str, value: str) -> ModelProto:
    return onnx.parser.parse_model(HEADER + CASES[name][0].format(v=value))


@pytest.mark.parametrize("name", CASES)
def test_each_defect_is_found_and_its_sound_twin_is_not(name: str) -> None:
    _, right, wrong, says = CASES[name]
    assert not check(of(name, right))
    assert any(says in str(finding) for finding in check(of(name, wrong)))


@pytest.mark.parametrize("name", CASES)
def test_the_sound_twin_is_sound(name: str) -> None:
    """ONNX Runtime opens it: the right value really is one."""
    model = of(name, CASES[name][1])
    onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("trap", [t for t in TRAPS if t.name != "matmul_bnb4"], ids=lambda trap: trap.name)
def test_shapes_are_those_of_onnx_runtime(trap: object) -> None:
    """What is inferred for every quantized operator, against what ONNX Runtime makes."""
    model = trap.build()  # type: ignore[attr-defined]
    facts = model_facts(model)
    exposed = ModelProto()
    exposed.CopyFrom(model)
    made = [name for node in model.graph.node for name in node.output if name not in ("y", "dead")]
    exposed.graph.output.extend(onnx.ValueInfoProto(name=name) for name in made)
    session = onnxruntime.InferenceSession(exposed.SerializeToString(), providers=["CPUExecutionProvider"])
    feed = {
        i.name: np.ones([d if isinstance(d, int) else 1 for d in i.shape], np.float32) for i in session.get_inputs()
    }
    for output, array in zip(session.get_outputs(), session.run(None, feed), strict=True):
        assert facts.shape(output.name) == array.shape, output.name


# --- numbers

CUT = ["qdq_per_channel", "qdq_depthwise", "qdq_asymmetric", "qlinear_conv", "qlinear_add", "qlinear_concat"]
CUT += ["qlinear_global_pool_gemm", "dynamic_quantizer"]


def cut(name: str) -> tuple[ModelProto, ModelProto, dict[str, dict[int, list[int]]]]:
    original = next(trap for trap in TRAPS if trap.name == name).build()
    result = onnxshrink.optimize(original, align=1, negligible=0, verify=False)
    return original, result.model, result.plan.kept


def largest_weight(model: ModelProto) -> str:
    """The last integer weight of the model: that of the layer before the output."""
    weights = [t for t in model.graph.initializer if len(t.dims) > 1 and numpy_helper.to_array(t).dtype.itemsize == 1]
    return weights[-1].name


@pytest.mark.parametrize("name", CUT)
def test_a_right_cut_verifies(held_against: Callable[..., Verification], name: str) -> None:
    original, result, kept = cut(name)
    verdict = held_against(original, result, kept=kept)
    assert verdict.state == "passed", verdict.notes
    assert not any("did not run" in note for note in verdict.notes), verdict.notes


@pytest.mark.parametrize("name", CUT)
def test_a_wrong_weight_fails(held_against: Callable[..., Verification], name: str) -> None:
    original, result, kept = cut(name)
    wrong = changed(
        result, largest_weight(result), lambda a: a.astype(int) + (np.arange(a.size).reshape(a.shape) == 3) * 9
    )
    assert held_against(original, wrong, kept=kept).state == "failed"


@pytest.mark.parametrize("name", CUT)
def test_channels_in_another_order_fail(held_against: Callable[..., Verification], name: str) -> None:
    original, result, kept = cut(name)
    wrong = changed(result, largest_weight(result), lambda a: np.roll(a, 1, a.ndim - 3 if a.ndim == 4 else a.ndim - 1))
    assert held_against(original, wrong, kept=kept).state == "failed"
