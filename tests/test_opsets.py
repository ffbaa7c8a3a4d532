"""Opsets 7 to the newest that ONNX Runtime runs: the traps in each lose the same channels, and stay equal.

Upwards, onnx's version converter rewrites a trap; downwards, `lowered` does, where the older operators can say it.
What could not be said, or says something else, is found by running both and left out; how many remain is asserted.
"""

from __future__ import annotations

import contextlib
import functools

import numpy as np
import onnx
import pytest
from onnx import ModelProto, NodeProto, helper, numpy_helper, version_converter

import onnxshrink
from onnxshrink.errors import OnnxshrinkError
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
from tests.zoo.trap import Trap, chain

EXACT = {"align": 1, "negligible": 0, "verify": False}

OPSETS = range(7, 27)

FAMILIES = (
    *(trap_activations, trap_constants, trap_merges, trap_permutations, trap_convolutions),
    *(trap_shapes, trap_dense, trap_interfaces, trap_bodies),
)
TRAPS = [trap for family in FAMILIES for trap in family.TRAPS if not trap.negligible]

# Operators whose operands were attributes once: until which opset, and the names of the attributes by input.
OPERANDS: dict[str, tuple[int, tuple[str, ...]]] = {
    "Clip": (11, ("min", "max")),
    "Dropout": (12, ("ratio",)),
    "Pad": (11, ("pads", "value")),
    "ReduceSum": (13, ("axes",)),
    "Slice": (10, ("starts", "ends", "axes", "steps")),
    "Split": (13, ("split",)),
    "Squeeze": (13, ("axes",)),
    "Unsqueeze": (13, ("axes",)),
    **{f"Reduce{kind}": (18, ("axes",)) for kind in ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod")},
    "ReduceSumSquare": (18, ("axes",)),
}
SCALARS = {"min", "max", "ratio", "value"}


class Inexpressible(Exception):
    """The older operators cannot say it."""


def lowered(model: ModelProto, opset: int) -> ModelProto:
    """The model at an older opset.

    Raises:
        Inexpressible: an operand is no constant, or an operator did not exist.
    """
    result = ModelProto()
    result.CopyFrom(model)
    result.opset_import[0].version = opset
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for node in result.graph.node:
        until, names = OPERANDS.get(node.op_type, (0, ()))
        if opset < until:
            _operands_to_attributes(node, names, constants)
        if node.op_type == "Resize" and opset < 11:
            _resize_to_upsample(node, opset)
        for attribute in list(node.attribute):
            if attribute.name == "axis" and attribute.i < 0 and opset < 11:
                raise Inexpressible("axes count from the end since opset 11")
            if attribute.name == "allowzero" and not attribute.i:
                node.attribute.remove(attribute)
            if node.op_type == "Constant" and attribute.name != "value":
                array = np.asarray(helper.get_attribute_value(attribute))
                array = array.astype(np.float32 if array.dtype.kind == "f" else np.int64)
                attribute.CopyFrom(helper.make_attribute("value", numpy_helper.from_array(array)))
    read, was = ({n for node in m.graph.node for n in node.input} for m in (result, model))
    kept = [tensor for tensor in result.graph.initializer if tensor.name not in was - read]
    kept = [onnx.TensorProto.FromString(tensor.SerializeToString()) for tensor in kept]
    del result.graph.initializer[:]
    result.graph.initializer.extend(kept)
    return result


def _operands_to_attributes(node: NodeProto, names: tuple[str, ...], constants: dict[str, np.ndarray]) -> None:
    for place, name in enumerate(names, start=1):
        operand = node.input[place] if place < len(node.input) else ""
        if not operand:
            continue
        if operand not in constants:
            raise Inexpressible(operand)
        values = constants[operand].reshape(-1).tolist()
        if name == "steps":
            if values != [1] * len(values):
                raise Inexpressible(name)
        else:
            node.attribute.append(helper.make_attribute(name, values[0] if name in SCALARS else values))
    del node.input[1:]


def _resize_to_upsample(node: NodeProto, opset: int) -> None:
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    mode = attributes.get("coordinate_transformation_mode"), attributes.get("nearest_mode", b"floor")
    if mode != (b"asymmetric", b"floor") or len(node.input) != 3 or opset < 9:
        raise Inexpressible(node.op_type)
    del node.input[1], node.attribute[:]
    node.attribute.append(helper.make_attribute("mode", attributes.get("mode", b"nearest")))
    node.op_type = "Resize" if opset == 10 else "Upsample"


def at_opset(model: ModelProto, opset: int) -> ModelProto:
    """The model at another opset.

    Raises:
        Inexpressible: it cannot be said there, or onnx's converter cannot.
    """
    if model.opset_import[0].version > opset:
        return lowered(model, opset)
    try:
        return version_converter.convert_version(model, opset)
    except Exception as error:  # the converter raises RuntimeError, and ConvertError of its own
        raise Inexpressible(str(error)) from error


def says_the_same(trap: Trap, model: ModelProto) -> bool:
    arrays = oracle.feeds(trap.build(), 0, trap.sizes[0])
    try:
        onnx.checker.check_model(model)
        actual = oracle.run(model, arrays)
    except Exception:  # the checker and ONNX Runtime raise several types for what an opset lacks
        return False
    expected = oracle.run(trap.build(), arrays)
    return all(oracle.relative_error(expected[name], actual[name]) <= 1e-5 for name in expected)


@functools.cache
def removed(trap: Trap) -> int:
    return parameters(trap.build()) - parameters(onnxshrink.optimize(trap.build(), **EXACT).model)


def held(traps: list[Trap], opset: int) -> int:
    """Checks the traps at an opset; how many of them it can say."""
    count, wrong = 0, []
    for trap in traps:
        try:
            model = at_opset(trap.build(), opset)
        except Inexpressible:
            continue
        if not says_the_same(trap, model):
            continue
        count += 1
        result = onnxshrink.optimize(model, **EXACT).model
        onnx.checker.check_model(result)
        arrays = oracle.feeds(model, 1, trap.sizes[0])
        expected = oracle.run(model, arrays)
        for optimize in (False, True):
            oracle.assert_equal(expected, oracle.run(result, arrays, optimize=optimize), what=f"{trap.name}, {opset}")
        if parameters(model) - parameters(result) != removed(trap):
            wrong.append(f"{trap.name}: {parameters(model) - parameters(result)}, at its own opset {removed(trap)}")
        assert [o.version for o in result.opset_import] == [o.version for o in model.opset_import]
    assert not wrong, "\n".join(wrong)
    return count


def least(opset: int, traps: int) -> int:
    """How many of so many traps an opset can say at least: four of five below 11, nine of ten from there on."""
    return traps * (8 if opset < 11 else 9) // 10


@pytest.mark.parametrize("opset", OPSETS)
def test_some_traps_at_each_opset(opset: int) -> None:
    some = TRAPS[opset % 40 :: 40]
    assert held(some, opset) >= least(opset, len(some)) - 3


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.slow
def test_all_traps_at_each_opset(opset: int) -> None:
    assert held(TRAPS, opset) >= least(opset, len(TRAPS))


@pytest.mark.parametrize("opset", [7, 8, 9, 10, 11, 13, 18, 22, 26])
@pytest.mark.parametrize("architecture", ["unet", pytest.param("mobilenet_v2", marks=pytest.mark.slow)])
def test_networks_at_each_opset(architecture: str, opset: int) -> None:
    before = networks.planted(architecture, "const").model
    model = at_opset(before, opset)
    result = onnxshrink.optimize(model, **EXACT).model
    expected = parameters(before) - parameters(onnxshrink.optimize(before, **EXACT).model)
    assert parameters(model) - parameters(result) == expected
    arrays = oracle.feeds(model, 0)
    oracle.assert_equal(oracle.run(model, arrays), oracle.run(result, arrays, optimize=True))


def test_shape_of_a_cut_tensor_before_there_was_where() -> None:
    """Below opset 9 the old channel count is put back by Mul and Add."""
    trap = next(trap for trap in trap_shapes.TRAPS if trap.name == "shape_visible")
    model = lowered(trap.build(), 7)
    result = onnxshrink.optimize(model, **EXACT).model
    assert parameters(result) < parameters(model)
    assert {node.op_type for node in result.graph.node} >= {"Mul", "Add"}
    arrays = oracle.feeds(model, 0, trap.sizes[0])
    oracle.assert_equal(oracle.run(model, arrays), oracle.run(result, arrays))


def test_broadcasting_by_attributes_is_a_barrier() -> None:
    """Below opset 7, [8] may meet axis 1 of [2, 8, 8, 8]; by today's rules it would meet axis 3."""

    def middle(net: Net, t: str) -> str:
        return net.op("Relu", net.op("Add", t, net.const(np.zeros(8)), broadcast=1, axis=1))

    net = chain(middle, opset=6, ir_version=3)
    net.list_initializers_as_inputs = True
    result = onnxshrink.optimize(net.model(), **EXACT)
    assert not result.changed
    assert {stay.reason for stay in result.plan.stays} == {"axis 1 is pinned: it is meant as only old opsets know it"}


@pytest.mark.parametrize("opset", [1, 3, 5, 6])
def test_before_opset_7_nothing_crashes(opset: int) -> None:
    """Operators whose words did not change since: an answer, or a refusal in one line."""
    count = 0
    for trap in TRAPS[::3]:
        model = trap.build()
        model.opset_import[0].version = opset
        try:
            onnx.checker.check_model(model)
        except onnx.checker.ValidationError:
            continue
        count += 1
        with contextlib.suppress(OnnxshrinkError):
            onnxshrink.optimize(model, **EXACT)
    assert count >= 5
