"""Facts are sound: on random models every known value is what ONNX Runtime computes, and every bound holds."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto

import onnxshrink
from onnxshrink.channels.facts import understand
from onnxshrink.graph.model import read
from onnxshrink.graph.view import build
from tests.channels.random_models import random_model
from tests.zoo import oracle
from tests.zoo.traps import TRAPS

TOLERANCE = 5e-4  # a normalization behind a constant channel divides its rounding by sqrt(epsilon)
SCALES = (1.0, 0.0, 30.0, -5.0)


def feeds(model: ModelProto, seed: int, scale: float) -> oracle.Arrays:
    """Inputs of one scale, integers from their whole range."""
    rng = np.random.default_rng(seed)
    arrays = oracle.feeds(model, seed, {"batch": 2})
    for name, array in arrays.items():
        if array.dtype == np.uint8:
            arrays[name] = rng.integers(0, 256, array.shape).astype(np.uint8)
        elif array.dtype.kind == "f":
            arrays[name] = (scale * array).astype(array.dtype)
    return arrays


def assert_sound(model: ModelProto, what: str) -> tuple[int, int]:
    """How many elements were known, and how many bounded."""
    context = understand(build(read(model)))
    tensors = [t for t in context.facts if t not in context.graph.constants and t not in context.graph.inputs]
    exposed = oracle.expose(model, tensors)
    known = bounded = 0
    for seed, scale in enumerate(SCALES):
        answers = oracle.run(exposed, feeds(model, seed, scale))
        for tensor in tensors:
            fact, array = context.facts[tensor], answers[tensor]
            if not array.size or not np.isfinite(array.astype(np.float64)).all():
                continue
            where = np.broadcast_to(fact.known, array.shape)
            value = np.broadcast_to(fact.value, array.shape)
            wide = array.astype(np.float64)
            if where.any():
                off = np.abs(wide[where] - value[where].astype(np.float64))
                limit = TOLERANCE * np.maximum(1, np.abs(value[where].astype(np.float64)))
                assert (off <= limit).all(), f"{what}: `{tensor}` is not what is known of it, off by {off.max()}"
                known += int(where.sum())
            if fact.low is not None and fact.high is not None:
                slack = TOLERANCE * np.maximum(1, np.abs(wide))
                assert (wide >= fact.low - slack).all(), f"{what}: `{tensor}` falls below its bound, scale {scale}"
                assert (wide <= fact.high + slack).all(), f"{what}: `{tensor}` exceeds its bound, scale {scale}"
                bounded += 1
    return known, bounded


def test_random_models() -> None:
    counts = np.array([assert_sound(random_model(seed), f"seed {seed}") for seed in range(60)])
    assert (counts > 0).mean(axis=0).min() > 0.5, "the models have little to know"


@pytest.mark.fuzz
@pytest.mark.parametrize("block", range(20))
def test_many_random_models(block: int) -> None:
    for seed in range(1000 + 100 * block, 1100 + 100 * block):
        assert_sound(random_model(seed, steps=4 + seed % 12), f"seed {seed}")


@pytest.mark.parametrize("trap", [t for t in TRAPS if t.sizes == ({},)][::3], ids=lambda trap: trap.name)
def test_traps(trap: object) -> None:
    assert_sound(trap.build(), trap.name)  # type: ignore[attr-defined]


def assert_cut_is_equal(seed: int, steps: int) -> None:
    model = random_model(seed, steps)
    result = onnxshrink.optimize(model, align=1, negligible=0, verify=False)
    for number, scale in enumerate((1.0, 4.0)):
        arrays = feeds(model, number, scale)
        expected = oracle.run(model, arrays)
        if all(np.isfinite(array).all() for array in expected.values()):
            oracle.assert_equal(expected, oracle.run(result.model, arrays), 1e-4, f"seed {seed}, scale {scale}")


def test_cuts_of_random_models_are_equal() -> None:
    for seed in range(200, 230):
        assert_cut_is_equal(seed, 10)


@pytest.mark.fuzz
@pytest.mark.parametrize("block", range(20))
def test_cuts_of_many_random_models_are_equal(block: int) -> None:
    for seed in range(5000 + 50 * block, 5050 + 50 * block):
        assert_cut_is_equal(seed, 4 + seed % 12)


@pytest.mark.parametrize(
    ("seed", "steps"),
    [
        pytest.param(9234, 8, id="normalized_claim"),
        pytest.param(20510, 3, id="normalized_output"),
        pytest.param(20415, 6, id="moved_behind_matmul"),
    ],
)
def test_a_right_cut_is_not_refused(seed: int, steps: int) -> None:
    """Cuts that are equal to rounding, but which the verification says are not."""
    assert_cut_is_equal(seed, steps)
    result = onnxshrink.optimize(random_model(seed, steps), align=1, negligible=0)
    assert result.verification is not None
    assert result.verification.state in ("passed", "unverified")
