"""Facts are sound: on random models every known value is what ONNX Runtime computes, and every bound holds."""

from __future__ import annotations

import numpy as np
import pytest

from onnxshrink.channels.facts import understand
from onnxshrink.graph.model import read
from onnxshrink.graph.view import build
from onnxshrink.ops.fact import CANCELLED, cancelled
from tests.fuzz.facts import look
from tests.fuzz.generate import random_model
from tests.zoo.net import Net
from tests.zoo.trap import DEAD, Trap
from tests.zoo.traps import TRAPS


def test_random_models() -> None:
    looks = [look(random_model(seed)) for seed in range(60)]
    wrong = [f"seed {seed}: {one.wrong}" for seed, one in enumerate(looks) if one.wrong]
    assert not wrong, wrong
    counts = np.array([(one.known, one.bounded) for one in looks])
    assert (counts > 0).mean(axis=0).min() > 0.5, "the models have little to know"


@pytest.mark.fuzz
@pytest.mark.parametrize("block", range(20))
def test_many_random_models(block: int) -> None:
    for seed in range(1000 + 100 * block, 1100 + 100 * block):
        assert not look(random_model(seed)).wrong, f"seed {seed}"


@pytest.mark.parametrize("trap", [t for t in TRAPS if t.sizes == ({},)][::3], ids=lambda trap: trap.name)
def test_traps(trap: Trap) -> None:
    assert not look(trap.build()).wrong


def test_what_is_left_of_terms_that_cancel_is_rounding() -> None:
    """Up to the limit and at it; what is made of exact terms never is."""
    sums = np.array([0, CANCELLED, -CANCELLED, 2 * CANCELLED, 0, 1])
    assert cancelled(sums, np.array([1.0, 1, 1, 1, 0, 0])).tolist() == [True, True, True, False, False, False]


def test_a_guard_against_nan_behind_a_long_chain() -> None:
    """Whether its operand is finite is a question to everything before it; Python's stack is shorter than the chain."""
    net = Net()
    t = net.conv(net.input("x", (2, 3, 4, 4)), 3, 8, zero=DEAD)
    one = net.const(np.array(0.1))
    for _ in range(400):
        t = net.op("Add", net.op("Relu", t), one)
    guarded = net.op("Where", net.op("IsNaN", t), net.const(np.array(0.0)), t)
    context = understand(build(read(net.output(net.conv(guarded, 8, 4, name="y")).model())))
    fact = context.fact(guarded)
    assert fact is not None
    assert np.flatnonzero(np.broadcast_to(fact.known, (1, 8, 1, 1))).tolist() == list(DEAD)
