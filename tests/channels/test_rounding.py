"""What rounding decides is not known: beside a jump, and where known terms cancel."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from onnxshrink.channels.facts import understand
from onnxshrink.graph.model import read
from onnxshrink.graph.view import build
from onnxshrink.ops.fact import Fact


def fact_of(nodes: str, values: list[float], result: str, constant: str) -> Fact | None:
    """What is known of `y` behind nodes that read `t`, whose channels have these values, and perhaps a constant `c`.

    The channels are made by a convolution with zero weights; the values are its bias.
    """
    model = onnx.parser.parse_model(
        f"""<ir_version: 10, opset_import: ["" : 18]>
        jump (float[1,2,3,3] x) => ({result} y) <{constant}>
        {{ t = Conv (x, weight, bias) {nodes} }}"""
    )
    for name, array in (("weight", np.zeros((len(values), 2, 1, 1))), ("bias", np.array(values))):
        model.graph.initializer.append(onnx.numpy_helper.from_array(array.astype(np.float32), name))
    return understand(build(read(model))).fact("y")


def known_of(operator: str, values: list[float], dtype: str = "float", other: float | None = None) -> list[bool]:
    """Which channels are known behind an elementwise operator, whose second operand is a constant."""
    operands = "t" if other is None else "t, c"
    fact = fact_of(
        f"y = {operator} ({operands})", values, f"{dtype}[1,{len(values)},3,3]", f"float c = {{{other or 0}}}"
    )
    if fact is None:
        return [False] * len(values)
    return [bool(k) for k in np.broadcast_to(fact.known, (1, len(values), 1, 1)).reshape(-1)]


@pytest.mark.parametrize("operator", ["Floor", "Ceil"])
def test_roundings_to_a_whole_number(operator: str) -> None:
    assert known_of(operator, [0.3, 2.0, 1.9999999, 2.000001, -1e-7]) == [True, True, False, False, False]


def test_halves() -> None:
    assert known_of("Round", [0.3, 2.5, 2.4999998, 1.9999999]) == [True, True, False, True]


def test_the_sign_of_almost_nothing() -> None:
    assert known_of("Sign", [0.0, 1.0, -1e-7, 1e-3]) == [True, True, False, True]


@pytest.mark.parametrize("operator", ["Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"])
def test_comparisons(operator: str) -> None:
    assert known_of(operator, [0.7, 0.70000005, 0.71, 0.0], "bool", 0.7) == [True, False, True, True]


def test_casts() -> None:
    assert known_of("Cast <to = 7>", [2.0, 2.3, 1.9999999], "int64") == [True, True, False]
    assert known_of("Cast <to = 9>", [0.0, 2.3, 1e-7], "bool") == [True, True, False]
    assert known_of("Cast <to = 11>", [0.0, 2.3, 1e-7], "double") == [True, True, True]


def test_terms_that_cancel() -> None:
    assert known_of("Add", [-0.7, -0.70000005, 0.7], other=0.7) == [False, False, True]
    assert known_of("Sub", [0.7, 0.70000005, 0.8], other=0.7) == [False, False, True]
    assert known_of("Sub", [1.0, 2.0, 3.0], other=1.0) == [True, True, True], "whole numbers are exact"


@pytest.mark.parametrize(("row", "known"), [([0.7, -0.7], False), ([0.7, -0.6], True), ([0.0, 0.0], True)])
def test_sums_that_cancel(row: list[float], known: bool) -> None:
    fact = fact_of("y = ReduceSum (t, c)", row, "float[1,1,3,3]", "int64[1] c = {1}")
    assert (fact is not None and fact.all_known) == known


def test_sixteen_bits() -> None:
    fact = fact_of("h = Cast <to = 10> (t) y = Floor (h)", [1.99, 1.9], "float16[1,2,3,3]", "float c = {0}")
    assert fact is not None
    assert fact.known.reshape(-1).tolist() == [False, True]
