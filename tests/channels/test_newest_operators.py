"""Operators of opsets that ONNX Runtime does not run yet, held against onnx's reference implementation."""

from __future__ import annotations

import numpy as np

import onnxshrink
from tests.zoo import oracle
from tests.zoo.net import Net, parameters

DEAD = (1, 4)


def compared(net: Net) -> int:
    """Parameters that go; the result computes the same according to the reference."""
    model = net.model()
    result = onnxshrink.optimize(model, align=1, verify=False).model
    for seed in range(2):
        arrays = oracle.feeds(model, seed)
        expected, actual = oracle.run_reference(model, arrays), oracle.run_reference(result, arrays)
        assert expected is not None
        assert actual is not None
        oracle.assert_equal(expected, actual)
    return parameters(model) - parameters(result)


def projected(net: Net, x: str, *, zero: tuple[int, ...] = ()) -> str:
    weight, bias = net.normal(5, 6), net.normal(6)
    weight[:, zero], bias[list(zero)] = 0, 0
    return net.op("Add", net.op("MatMul", x, net.const(weight)), net.const(bias))


def gated(gate: tuple[int, ...], value: tuple[int, ...]) -> Net:
    """SwiGLU of two projections, and a MatMul that reads it."""
    net = Net(opset=28, ir_version=13)
    x = net.input("x", (2, 4, 5))
    t = net.op("SwiGLU", projected(net, x, zero=gate), projected(net, x, zero=value))
    return net.output(net.op("MatMul", t, net.const(net.normal(6, 3))))


def test_swiglu_is_zero_where_either_side_is() -> None:
    for gate, value in ((DEAD, ()), ((), DEAD), ((1,), (4,))):
        assert compared(gated(gate, value)) == len(DEAD) * (6 + 6 + 3)


def causal(zero: tuple[int, ...], *, state: float, bias: float) -> Net:
    """A causal convolution of projected channels that remembers two steps; `state` and `bias` of the dead channels."""
    net = Net(opset=27, ir_version=13)
    t = net.op("Transpose", projected(net, net.input("x", (2, 4, 5)), zero=zero), perm=[0, 2, 1])
    past, shift = net.normal(2, 6, 2), net.normal(6)
    past[:, DEAD], shift[list(DEAD)] = state, bias
    operands = [net.const(net.normal(6, 1, 3)), net.const(shift), net.const(past)]
    y = net.op("CausalConvWithState", t, *operands, count=2, activation="silu")
    y = net.op("MatMul", net.op("Transpose", y, perm=[0, 2, 1]), net.const(net.normal(6, 3)))
    return net.output(y)


def test_causal_convolution() -> None:
    each = 6 + 3 + 1 + 2 * 2 + 3
    assert compared(causal(DEAD, state=0.0, bias=0.0)) == len(DEAD) * each
    assert compared(causal(DEAD, state=0.5, bias=0.0)) == 0
    assert compared(causal(DEAD, state=0.0, bias=0.5)) == 0
    assert compared(causal((), state=0.0, bias=0.0)) == 0


def test_onehot_of_dead_rows_keeps_its_classes() -> None:
    net = Net(opset=28, ir_version=13)
    t = projected(net, net.input("x", (4, 5)), zero=DEAD)
    best = net.op("ArgMax", t, axis=0, keepdims=0)
    y = net.op("OneHot", best, net.const(4), net.const(np.array([0.0, 1.0])), axis=-1)
    assert compared(net.output(net.op("MatMul", net.op("Transpose", y), net.const(net.normal(6, 3))))) == 0
