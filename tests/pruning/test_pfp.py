"""Provable Filter Pruning against loops, closed forms and simulation."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from onnxshrink.pruning import pfp
from onnxshrink.pruning.allocation import Order, for_size, ordered, uniform
from onnxshrink.pruning.pfp import Importance
from onnxshrink.pruning.size import SizeFunction


def layer(seed: int, signed: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Weights [outputs, units, taps] and patches [places, units, taps]."""
    rng = np.random.default_rng(seed)
    patches = rng.standard_normal((7, 6, 4)).astype(np.float32)
    return rng.standard_normal((5, 6, 4)).astype(np.float32), patches if signed else np.maximum(patches, 0)


def by_loops(weights: np.ndarray, patches: np.ndarray) -> np.ndarray:
    """Shares [signs, outputs, units, places], straight from the definition."""
    signs = [(w, a) for a in ((1, -1) if (patches < 0).any() else (1,)) for w in (1, -1)]
    found = np.zeros((len(signs), len(weights), weights.shape[1], len(patches)))
    for number, (sign_w, sign_a) in enumerate(signs):
        for i, row in enumerate(weights):
            for p, patch in enumerate(patches):
                terms = np.array(
                    [sum(max(sign_w * w, 0.0) * max(sign_a * a, 0.0) for w, a in zip(*pair, strict=True))
                     for pair in zip(row, patch, strict=True)]
                )  # fmt: skip
                if terms.sum() > pfp.TINY:
                    found[number, i, :, p] = terms / terms.sum()
    return found


@pytest.mark.parametrize("signed", [False, True])
def test_shares_are_the_definition(signed: bool) -> None:
    weights, patches = layer(0, signed)
    totals = pfp.totals_of(weights.reshape(5, -1), patches.reshape(7, -1))
    expected = by_loops(weights, patches)
    sums = expected.sum(axis=2)
    assert np.allclose(sums[sums > 0], 1)
    assert np.allclose(pfp.shares(weights, patches, totals), expected.max(axis=(0, 1, 3)), atol=1e-5)


def test_the_authors_reduction_is_smaller() -> None:
    weights, patches = layer(1)
    totals = pfp.totals_of(weights.reshape(5, -1), patches.reshape(7, -1))
    theory, code = (pfp.shares(weights, patches, totals, which) for which in ("sum", "max"))
    assert (code <= theory + 1e-6).all()
    terms = np.maximum(weights[:, None], 0) * patches[None]  # [outputs, places, units, taps]
    ratio = (terms / terms.sum(axis=(2, 3), keepdims=True)).max(axis=(0, 1, 3))
    negative = np.maximum(-weights[:, None], 0) * patches[None]
    ratio = np.maximum(ratio, (negative / negative.sum(axis=(2, 3), keepdims=True)).max(axis=(0, 1, 3)))
    assert np.allclose(code, ratio, atol=1e-5)


def test_sum_of_sensitivities_is_between_one_and_the_units() -> None:
    for seed in range(20):
        weights, patches = layer(seed, signed=bool(seed % 2))
        totals = pfp.totals_of(weights.reshape(5, -1), patches.reshape(7, -1))
        assert 1 - 1e-5 <= pfp.shares(weights, patches, totals).sum() <= 6 + 1e-5


def test_sample_size_and_its_inverse() -> None:
    for epsilon in (0.01, 0.3, 1.0, 7.0, 300.0):
        m = pfp.sample_size(epsilon, 40.0)
        assert m == math.ceil((6 + 2 * epsilon) * 40 / (3 * epsilon**2))
        assert pfp.error_at(m, 40.0) <= epsilon * (1 + 1e-9)
        assert m == 1 or pfp.error_at(m - 1, 40.0) > epsilon


def test_expected_distinct_is_what_drawing_gives() -> None:
    p = np.array([0.5, 0.3, 0.15, 0.05])
    rng = np.random.default_rng(0)
    found = [np.unique(rng.choice(4, 7, p=p)).size for _ in range(20000)]
    assert abs(np.mean(found) - pfp.expected_distinct(p, 7)) < 4 * np.std(found) / math.sqrt(20000)


def importance(seed: int = 0, units: int = 12) -> Importance:
    return Importance(np.random.default_rng(seed).random(units) ** 2, outcomes=1000)


def test_thresholds_of_the_top_variant() -> None:
    """At any error as many units have a larger threshold as different ones are expected, the most sensitive first."""
    known = importance()
    thresholds = pfp.top_thresholds(known)
    assert (np.diff(thresholds[np.argsort(-known.sensitivity)]) <= 0).all()
    for epsilon in np.geomspace(0.5, 500, 40):
        draws = pfp.error_at  # the real-valued m of this error
        m = (6 + 2 * epsilon) * known.difficulty / (3 * epsilon**2)
        assert math.isclose(draws(m, known.difficulty), epsilon, rel_tol=1e-9)
        expected = math.ceil(pfp.expected_distinct(known.probabilities, m) - 1e-6)
        assert (thresholds > epsilon).sum() == expected


def test_thresholds_of_the_sampled_variant() -> None:
    known = importance(1)
    drawn = pfp.draws(known, np.random.default_rng(0))
    thresholds = pfp.sampled_thresholds(known, drawn)
    for epsilon in np.geomspace(0.5, 500, 40):
        m = pfp.sample_size(float(epsilon), known.difficulty)
        assert set(np.flatnonzero(thresholds > epsilon)) == set(drawn[:m].tolist())


def test_the_sample_is_unbiased() -> None:
    """The mean of reweighed outputs over many samples is the output, within 4 standard errors."""
    rng = np.random.default_rng(3)
    terms = rng.random((20, 12))  # what each unit adds to 20 outputs
    known = Importance((terms / terms.sum(axis=1, keepdims=True)).max(axis=0), 20)
    results = []
    for seed in range(4000):
        drawn = np.random.default_rng(seed).choice(12, 15, p=known.probabilities)
        results.append(terms @ pfp.reweighing(known, drawn, 15))
    error = np.abs(np.mean(results, axis=0) - terms.sum(axis=1))
    assert (error < 4 * np.std(results, axis=0) / math.sqrt(4000)).all()


def test_the_mixed_variant_is_unbiased_enough_and_keeps_its_number() -> None:
    known = importance(4)
    for keep in (1, 3, 8, 12):
        factors = pfp.mixed(known, keep, np.random.default_rng(0))
        assert (factors > 0).sum() == keep
    sure = pfp.mixed(known, 8, np.random.default_rng(0)) == 1
    assert known.sensitivity[sure].min() >= np.sort(known.sensitivity)[-int(sure.sum())]


@pytest.mark.parametrize("epsilon", [0.5, 1.0, 2.0])
def test_failure_rate(epsilon: float) -> None:
    """With m from the theorem, samples whose error exceeds epsilon anywhere are no more frequent than delta."""
    rng = np.random.default_rng(5)
    terms = rng.random((30, 16)) ** 3
    delta, trials = 0.05, 600
    known = Importance((terms / terms.sum(axis=1, keepdims=True)).max(axis=0), 30, delta=delta)
    m = pfp.sample_size(epsilon, known.difficulty)
    failures = 0
    for seed in range(trials):
        drawn = np.random.default_rng(seed).choice(16, m, p=known.probabilities)
        sampled = terms @ pfp.reweighing(known, drawn, m)
        failures += bool((np.abs(sampled / terms.sum(axis=1) - 1) > epsilon).any())
    assert failures / trials <= delta
    few = max(1, m // 400)  # the test can fail: with far fewer draws the error is exceeded
    drawn = np.random.default_rng(0).choice(16, few, p=known.probabilities)
    assert (np.abs(terms @ pfp.reweighing(known, drawn, few) / terms.sum(axis=1) - 1) > 0.1).any()


def two_classes() -> tuple[Order, SizeFunction, list[Importance]]:
    known = [importance(7, 12), importance(8, 20)]
    order = ordered([pfp.top_thresholds(one) for one in known], [one.sensitivity for one in known], [1, 1])
    size = SizeFunction(
        scale=np.array([9.0, 1.0]),
        fixed=np.array([[0.0, 2.0], [1.0, 0.0]]),
        slices=np.array([[[1.0, 0], [0, 1]], [[0, 0], [0, 1]]]),
        constant=5.0,
    )
    return order, size, known


def test_the_root_is_the_one_error_of_the_network() -> None:
    """A bisection on epsilon, with n from the formula and the true size, finds what the order finds."""
    order, size, known = two_classes()
    assert size([3, 4]) == 5 + 9 * 3 * (2 + 4) + 1 * 4

    def at(epsilon: float) -> list[int]:
        counts = []
        for one in known:
            m = (6 + 2 * epsilon) * one.difficulty / (3 * epsilon**2)
            counts.append(max(1, math.ceil(pfp.expected_distinct(one.probabilities, m) - 1e-9)))
        return counts

    for target in (300.0, 700.0, 1500.0):
        low, high = 1e-3, 1e6
        for _ in range(200):
            middle = math.sqrt(low * high)
            low, high = (low, middle) if size(at(middle)) <= target else (middle, high)
        gone = for_size(order, size, target)
        assert gone is not None
        assert order.counts(order.masks(gone)) == at(high)
        assert math.isclose(order.thresholds[gone - 1], high, rel_tol=1e-6)


def test_an_order_keeps_one_unit_and_whole_steps() -> None:
    scores = [np.arange(10.0), np.arange(7.0)]
    order = ordered(uniform(scores), scores, [4, 1])
    assert order.counts(order.masks(len(order))) == [4, 1]
    sizes = [order.counts(order.masks(gone)) for gone in range(len(order) + 1)]
    assert all(first in (10, 8, 4) for first, _ in sizes)
    assert all(b <= a for one, other in itertools.pairwise(sizes) for a, b in zip(one, other, strict=True))
    assert order.masks(3)[1].tolist() == [False, *[True] * 6]
