"""Quantized models: what ONNX Runtime's quantizer makes of a planted network loses the channels that the network loses,
and what rules say of integers is what ONNX Runtime computes.
"""

from __future__ import annotations

import functools
import itertools
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

import onnxshrink
from onnxshrink.channels.facts import understand
from onnxshrink.graph.model import Model
from onnxshrink.graph.view import build
from onnxshrink.ops.rule import Context
from tests.zoo import networks, oracle
from tests.zoo.trap import Trap
from tests.zoo.trap_quantized import TRAPS

quantization = pytest.importorskip("onnxruntime.quantization")

FORMS = {
    "QDQ per tensor": {"per_channel": False},
    "QDQ per channel": {"per_channel": True},
    "QDQ int8": {"per_channel": True, "activation_type": "QInt8"},
    "QDQ asymmetric": {"weight_type": "QUInt8"},
    "QOperator": {"quant_format": "QOperator", "per_channel": True},
    "QOperator asymmetric": {"quant_format": "QOperator", "weight_type": "QUInt8"},
}


PLANTED = [("unet", "inner"), ("mobilenet_v2", "inner"), ("resnet50", "coupled")]


class Calibration(quantization.CalibrationDataReader):
    """Two random images."""

    def __init__(self, model: ModelProto):
        self.feeds = iter([oracle.feeds(model, seed) for seed in range(2)])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.feeds, None)


def quantize(model: ModelProto, form: str, folder: Path) -> ModelProto:
    """The model as ONNX Runtime's own quantizers write it."""
    source, target = folder / "float.onnx", folder / "int8.onnx"
    onnx.save(model, str(source))
    if form == "dynamic":
        quantization.quantize_dynamic(str(source), str(target), weight_type=quantization.QuantType.QUInt8)
        return onnx.load(str(target))
    chosen = {"activation_type": "QUInt8", "weight_type": "QInt8", "quant_format": "QDQ", **FORMS[form]}
    types = {k: getattr(quantization.QuantType, chosen.pop(k)) for k in ("activation_type", "weight_type")}
    chosen["quant_format"] = getattr(quantization.QuantFormat, chosen["quant_format"])
    quantization.quantize_static(str(source), str(target), Calibration(model), **types, **chosen)
    return onnx.load(str(target))


@functools.cache
def of_floats(architecture: str, scheme: str) -> dict[str, int]:
    """Channels that stay in each layer of the planted network itself, by the layer's output."""
    result = onnxshrink.optimize(networks.planted(architecture, scheme).model, align=1, negligible=0, verify=False)
    return {layer.tensor: layer.after for layer in result.plan.layers}


@pytest.mark.slow
@pytest.mark.parametrize("form", [*FORMS, "dynamic"])
@pytest.mark.parametrize(
    ("architecture", "scheme"), [("unet", "inner"), ("mobilenet_v2", "inner"), ("resnet50", "coupled")]
)
def test_a_quantized_network_loses_what_its_floats_lose(
    architecture: str, scheme: str, form: str, tmp_path: Path
) -> None:
    model = quantize(networks.planted(architecture, scheme).model, form, tmp_path)
    result = onnxshrink.optimize(model, align=1, negligible=0)
    expected = of_floats(architecture, scheme)
    found = sorted(layer.after for layer in result.plan.layers)
    assert found == sorted(expected.values())
    assert result.verification is not None
    assert result.verification.state in ("passed", "unverified"), result.verification.notes
    if (form.startswith("QOperator") and architecture != "unet") or form == "dynamic":  # integers from end to end
        arrays = oracle.feeds(model, 0)
        for optimize in (False, True):
            before, after = (oracle.run(m, arrays, optimize=optimize) for m in (model, result.model))
            assert all(np.array_equal(before[name], after[name]) for name in before)


def facts_of(model: ModelProto) -> Context:
    return understand(build(Model(model)))


@pytest.mark.parametrize("trap", TRAPS, ids=lambda trap: trap.name)
def test_what_is_known_of_integers_is_what_onnx_runtime_computes(trap: Trap) -> None:
    model = trap.build()
    context = facts_of(model)
    made = [name for node in model.graph.node for name in node.output if context.fact(name) is not None]
    exposed = oracle.expose(model, made)
    for seed in range(2):
        for name, array in oracle.run(exposed, oracle.feeds(model, seed)).items():
            fact = context.fact(name)
            if fact is None:
                continue
            known = np.broadcast_to(fact.known, array.shape)
            value = np.broadcast_to(fact.value, array.shape)
            if array.dtype.kind == "f":
                np.testing.assert_allclose(array[known], value[known], rtol=1e-6, err_msg=name)
            else:
                np.testing.assert_array_equal(array[known], value[known], err_msg=name)
            low, high = fact.bounds()
            assert (low <= array).all(), name
            assert (array <= high).all(), name


KINDS = [np.uint8, np.int8, np.uint16, np.int16]


FORMATS = [
    *itertools.product(KINDS, (None, 0, 1, -1), (np.float32,)),
    (np.uint8, None, np.float16),
    (np.int8, 0, np.float16),
]


@pytest.mark.parametrize(("kind", "axis", "real"), FORMATS, ids=str)
def test_constants_are_quantized_as_onnx_runtime_does_it(kind: type, axis: int | None, real: type) -> None:
    """Ties, what saturates, per tensor and along an axis; and back."""
    rng = np.random.default_rng(0)
    size = 6
    count = () if axis is None else (size,)
    scale = rng.uniform(1e-3, 1e-1, count).astype(real)
    limits = np.iinfo(kind)
    zero = rng.integers(limits.min, limits.max, count, endpoint=True).astype(kind)
    along = scale.reshape([size if axis is not None and a == axis % 3 else 1 for a in range(3)])
    steps = rng.integers(2 * limits.min - limits.max, 2 * limits.max - limits.min, (size,) * 3)
    x = ((steps + rng.choice([0, 0.5, 0.25], steps.shape)) * along).astype(real)
    attributes = {} if axis is None else {"axis": axis}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"], **attributes),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"], **attributes),
    ]
    arrays = {"x": x, "scale": scale, "zero": zero}
    outputs = [onnx.ValueInfoProto(name=name) for name in ("q", "y")]
    constants = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    graph = helper.make_graph(nodes, "g", [], outputs, constants)
    model = onnx.shape_inference.infer_shapes(
        helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 21)])
    )
    context = facts_of(model)
    for name, array in oracle.run(model, {}).items():
        np.testing.assert_array_equal(context.array(name), array, err_msg=name)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_value_beside_a_tie_is_not_known_behind_a_quantizer(kind: type) -> None:
    """A computed value that rounding may move across the middle between two steps; zero, and others, are known."""
    scale, size = np.float32(0.1), 4
    bias = np.array([0, 0.05, 0.25, 0.3], np.float32)  # 0, 0.5, 2.5 and 3 steps
    constants = {
        "w": np.zeros((size, 3, 1, 1), np.float32),
        "b": bias,
        "scale": scale,
        "zero": np.array(3, kind),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["t"]),
        helper.make_node("QuantizeLinear", ["t", "scale", "zero"], ["q"]),
    ]
    shape = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 2, 2])
    outputs = [onnx.ValueInfoProto(name="q")]
    tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "g", [shape], outputs, tensors)
    model = onnx.shape_inference.infer_shapes(
        helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 21)])
    )
    fact = facts_of(model).fact("q")
    assert fact is not None
    assert np.broadcast_to(fact.known, (1, size, 1, 1)).reshape(-1).tolist() == [True, False, False, True]
    assert fact.value.reshape(-1)[[0, 3]].tolist() == [3, 6]
