"""Comparing and judging single arrays, against values worked out by hand."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import pytest

from onnxshrink.verification.compare import difference, flatten, spread
from onnxshrink.verification.judge import judge, limit, telling
from onnxshrink.verification.result import round_up


def test_difference_is_relative_to_the_largest_value_of_the_first() -> None:
    a = np.array([[1, -4], [2, 0]], np.float32)
    b = np.array([[1, -4], [2.5, 0]], np.float32)
    found = difference(a, b)
    assert (found.absolute, found.scale, found.relative, found.index) == (0.5, 4, 0.125, (1, 0))


@pytest.mark.parametrize("dtype", [np.float16, np.float64, ml_dtypes.bfloat16, ml_dtypes.float8_e5m2])
def test_other_floats(dtype: type) -> None:
    found = difference(np.array([2, 1]).astype(dtype), np.array([2, 1.5]).astype(dtype))
    assert (found.absolute, found.relative) == (0.5, 0.25)


def test_zeros() -> None:
    zero, tiny, denormal = np.zeros(3, np.float32), np.full(3, 1e-30, np.float32), np.full(3, 1e-43, np.float32)
    assert difference(zero, zero).relative == 0
    assert difference(zero, tiny).relative > 1e6
    assert difference(zero, denormal).relative < 1e-5, "a runtime may flush it to zero"


def test_places_of_nan_and_infinity() -> None:
    a = np.array([np.nan, np.inf, -np.inf, 2], np.float32)
    assert difference(a, a.copy()).relative == 0
    assert difference(a, np.array([np.nan, np.inf, -np.inf, 1], np.float32)).relative == 0.5
    for other in ([0, np.inf, -np.inf, 2], [np.nan, -np.inf, -np.inf, 2], [np.nan, np.inf, -np.inf, np.nan]):
        assert difference(a, np.array(other, np.float32)).mismatch


def test_integers_booleans_strings_shapes_and_types() -> None:
    found = difference(np.array([3, 9]), np.array([3, 7]))
    assert (found.absolute, found.index) == (2, (1,))
    assert difference(np.array([True, False]), np.array([True, True])).mismatch == "True instead of False"
    assert difference(np.array(["a"], object), np.array(["b"], object)).mismatch == "b instead of a"
    assert difference(np.zeros(2), np.zeros(3)).mismatch == "shape [3] instead of [2]"
    assert difference(np.zeros(2, np.float32), np.zeros(2)).mismatch == "dtype float64 instead of float32"
    assert difference(np.zeros((0, 3)), np.zeros((0, 3))).relative == 0
    assert difference(np.array(200, np.uint8), np.array(100, np.uint8)).absolute == 100


def test_sequences_and_maps_have_parts() -> None:
    parts = flatten(["s"], [[np.zeros(2), {"a": np.ones(1)}]])
    assert list(parts) == ["s.length", "s[0]", "s[1][a]"]


def test_spread() -> None:
    assert spread(np.full((3, 3), 7.0)) == 0
    assert spread(np.array([1.0, -1.0])) == 2


def test_bound_is_the_base_or_three_floors_and_a_high_floor_is_no_evidence() -> None:
    y = np.linspace(1, 100, 100)
    shift = np.eye(100)[50]

    def judged(floor: float, error: float):
        return judge("y", 1e-5, {"off": y, "on": y + 100 * floor * shift}, {"off": y + 100 * error * shift})

    assert judged(0, 0.9e-5).passed
    assert judged(0, 1.1e-5).failed
    assert judged(9e-5, 2.6e-4).passed
    assert judged(9e-5, 2.8e-4).failed
    noisy = judged(1.1e-4, 1)
    assert not noisy.passed
    assert not noisy.failed
    assert (limit(1e-5), limit(1e-12)) == (1e-4, 1e-11)
    assert limit(2e-3) == 4e-3


def test_levels_are_compared_with_their_own() -> None:
    y = np.linspace(1, 100, 100)
    both = judge("y", 1e-5, {"off": y, "on": y * 1.00005}, {"off": y, "on": y * 1.00005})
    assert both.error == 0
    assert both.floor == pytest.approx(5e-5)


def test_noise_with_optimizations_excuses_only_what_differs_with_them() -> None:
    y = np.linspace(1, 100, 100)
    shift = 100 * np.eye(100)[50]

    def judged(off: float, on: float):
        return judge("y", 1e-5, {"off": y, "on": y}, {"off": y + off * shift, "on": y + on * shift})

    noise = {"off": 1e-6, "on": 1e-5}
    assert judged(0, 2.9e-5).failed
    assert judged(0, 2.9e-5).with_noise(noise).passed
    assert judged(0, 3.1e-5).with_noise(noise).failed
    assert judged(2.9e-5, 0).with_noise(noise).failed
    assert judged(2.9e-5, 2.9e-5).with_noise({"off": 1e-5}).passed


def test_a_few_steps_of_one_size_tell_nothing() -> None:
    step = np.float32(2.98e-8)
    assert not telling(np.where(np.arange(1000) < 5, 3 * step, 0).astype(np.float32))
    assert not telling(np.zeros(1000, np.float32))
    assert telling(np.random.default_rng(0).standard_normal(1000).astype(np.float32))
    assert telling(np.resize(np.array([0, 0.31, 0.77, 0.123], np.float32), 1000))
    assert telling(np.zeros(4, np.float32))
    assert not telling(np.full(1000, np.nan, np.float32))


def test_tolerances_are_rounded_up() -> None:
    assert round_up(1.234e-7) == 1.3e-7
    assert round_up(2e-3) == 2e-3
    assert round_up(9.99) == 10
    assert round_up(0) == 0
    assert round_up(math.inf) == math.inf
