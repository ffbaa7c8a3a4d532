"""Provable Filter Pruning: sensitivities, sample sizes, and one error for the whole network.

Liebenwein, Baykal, Lang, Feldman, Rus: "Provable Filter Pruning for Efficient Neural Networks", ICLR 2020. With a_j the
input channels of a layer, W+ and W- the positive and the negative weights, and z the layer's output without bias,
channel j has at output i and place p of a sample x the share

    g_ij(x, p) = (W_ij * a_j)(x, p) / sum over k of (W_ik * a_k)(x, p),

for each sign of weights and inputs apart, so that shares are in [0, 1] and sum to one. The sensitivity s_j is the
largest of them. m channels drawn with replacement, channel j with probability p_j = s_j / S where S = sum of s, and
weighted n_j / (m p_j), leave every z unbiased and, with

    m >= (6 + 2 eps) K S log(4 F P / delta) / (3 eps^2),

within (1 +- eps) z at all F outputs and P places at once with probability 1 - delta, where shares are at most K s_j
(Bernstein's inequality: a draw is within [0, K S z], its variance at most K S z^2).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ..choices import Reduction

DELTA = 1e-16
"""Failure probability of a layer, as in the authors' code."""

TINY = float(np.finfo(np.float32).eps)
"""Outputs below this have no shares, as in the authors' code."""

CHUNK = 1 << 18
"""Contributions of a unit that are held at once: as many as stay in a core's cache."""

MAX_DRAWS = 1 << 20


def shares(
    weights: np.ndarray, patches: np.ndarray, totals: dict[tuple[int, int], np.ndarray], reduction: Reduction = "sum"
) -> np.ndarray:
    """The largest share of each unit in any output at any place, for each sign apart, [units].

    Args:
        weights: [outputs, units, taps].
        patches: inputs, [places, units, taps].
        totals: by sign of weights and of inputs, outputs of all channels, [places, outputs] (see `totals_of`).
        reduction: "sum" over taps as the theorem needs it, or "max" over taps as in the authors' code.
    """
    largest = np.zeros(weights.shape[1])
    step = max(1, CHUNK // len(weights))
    for (sign_w, sign_a), total in totals.items():
        w = np.maximum(sign_w * weights, 0).transpose(1, 0, 2).copy()  # [units, outputs, taps]
        for start in range(0, len(patches), step):
            a = np.maximum(sign_a * patches[start : start + step], 0).transpose(1, 2, 0).copy()  # [units, taps, places]
            z = total[start : start + step].T
            inverse = np.where(z > TINY, 1 / np.maximum(z, TINY), 0).copy("C")
            terms = np.empty(inverse.shape, np.result_type(w, a))
            best = [_largest_term(w[unit], a[unit], inverse, reduction, terms) for unit in range(len(w))]
            largest = np.maximum(largest, best)
    return largest


def _largest_term(w: np.ndarray, a: np.ndarray, inverse: np.ndarray, reduction: Reduction, terms: np.ndarray) -> float:
    """The largest share of one unit: w is [outputs, taps], a [taps, places], `terms` room for [outputs, places]."""
    if reduction == "sum" and w.shape[1] > 1:
        np.matmul(w, a, out=terms)
        terms *= inverse
        return float(terms.max(initial=0))
    best = 0.0
    for weight, values in zip(w.T, a, strict=True):
        np.multiply(inverse, values, out=terms)
        best = max(best, float((weight * terms.max(axis=1, initial=0)).max(initial=0)))
    return best


def totals_of(weights: np.ndarray, patches: np.ndarray) -> dict[tuple[int, int], np.ndarray]:
    """Outputs of a layer for each sign of weights and of inputs apart, without bias, [places, outputs].

    Args:
        weights: [outputs, features].
        patches: [places, features].
    """
    signs = [1, -1] if (patches < 0).any() else [1]
    return {
        (sign_w, sign_a): np.maximum(sign_a * patches, 0) @ np.maximum(sign_w * weights, 0).T
        for sign_a in signs
        for sign_w in (1, -1)
    }


def sample_size(epsilon: float, difficulty: float) -> int:
    """Draws m for an error epsilon; `difficulty` is K S log(4 F P / delta)."""
    return math.ceil((6 + 2 * epsilon) * difficulty / (3 * epsilon**2))


def error_at(draws: float, difficulty: float) -> float:
    """The smallest error that `draws` draws are enough for: the inverse of `sample_size`."""
    if draws <= 0:
        return math.inf
    return (2 * difficulty + math.sqrt(4 * difficulty**2 + 72 * difficulty * draws)) / (6 * draws)


def expected_distinct(probabilities: np.ndarray, draws: float) -> float:
    """Expected number of different units among `draws` draws."""
    with np.errstate(divide="ignore"):
        return float(-np.expm1(draws * np.log1p(-probabilities)).sum())


@dataclass(frozen=True)
class Importance:
    """What PFP knows of one class.

    Attributes:
        sensitivity: s, [units].
        outcomes: F P, the number of (output, place) pairs that the failure probability is shared among.
        k: the constant K.
        delta: failure probability of the class.
    """

    sensitivity: np.ndarray
    outcomes: int
    k: float = 1.0
    delta: float = DELTA

    @property
    def total(self) -> float:
        """S, the sum of sensitivities."""
        return float(self.sensitivity.sum())

    @property
    def difficulty(self) -> float:
        """K S log(4 F P / delta)."""
        return self.k * self.total * math.log(4 * max(1, self.outcomes) / self.delta)

    @property
    def probabilities(self) -> np.ndarray:
        """p, uniform where nothing is sensitive."""
        if not self.total:
            return np.full(self.sensitivity.size, 1 / self.sensitivity.size)
        return self.sensitivity / self.total


def top_thresholds(importance: Importance) -> np.ndarray:
    """For each unit the error from which on the n most sensitive ones do without it, [units].

    n is the expected number of different units among the draws that the error asks for.
    """
    p = importance.probabilities
    thresholds = np.zeros(p.size)
    for rank, unit in enumerate(np.argsort(-p, kind="stable")):
        low, high = 0.0, 1.0
        while expected_distinct(p, high) <= rank and high < 1e15:
            low, high = high, high * 2
        if high >= 1e15:  # never expected: it goes first
            continue
        for _ in range(60):
            middle = (low + high) / 2
            if expected_distinct(p, middle) <= rank:
                low = middle
            else:
                high = middle
        thresholds[unit] = error_at(high, importance.difficulty)
    return thresholds


def draws(importance: Importance, rng: np.random.Generator) -> np.ndarray:
    """Units drawn with replacement in order, until all have come or for MAX_DRAWS draws."""
    p = importance.probabilities
    drawn: list[np.ndarray] = []
    missing = set(np.flatnonzero(p).tolist())
    total = 0
    while missing and total < MAX_DRAWS:
        some = rng.choice(p.size, size=max(256, total), p=p)
        drawn.append(some)
        total += some.size
        missing -= set(some.tolist())
    return np.concatenate(drawn)


def sampled_thresholds(importance: Importance, drawn: np.ndarray) -> np.ndarray:
    """For each unit the error from which on the sample does without it, [units]: the sample of a larger error is a
    beginning of that of a smaller one.
    """
    thresholds = np.zeros(importance.sensitivity.size)
    units, first = np.unique(drawn, return_index=True)
    thresholds[units] = [error_at(float(place), importance.difficulty) for place in first]
    return thresholds


def reweighing(importance: Importance, drawn: np.ndarray, count: int) -> np.ndarray:
    """n_j / (m p_j) for the first `count` draws, [units]; 0 for units that were not drawn."""
    p = importance.probabilities
    counts = np.bincount(drawn[:count], minlength=p.size)
    return np.where(counts > 0, counts / (count * np.where(p > 0, p, 1)), 0.0)


def mixed(importance: Importance, keep: int, rng: np.random.Generator) -> np.ndarray:
    """Factors of the mixed variant, [units]: units with p >= 1/m stay as they are, of the others enough are drawn and
    reweighed that `keep` stay.

    m is the number of draws from which `keep` different units are expected.
    """
    p = importance.probabilities
    order = np.argsort(-p, kind="stable")
    low, high = 0.0, 1.0
    while expected_distinct(p, high) < keep and high < 1e15:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if expected_distinct(p, middle) < keep else (low, middle)
    certain = order[: min(keep, int((p >= 1 / max(high, 1)).sum()))]
    factors = np.zeros(p.size)
    factors[certain] = 1.0
    rest = np.setdiff1d(np.flatnonzero(p), certain)
    wanted = min(keep - certain.size, rest.size)
    if wanted > 0:
        share = p[rest] / p[rest].sum()
        drawn: list[int] = []
        while len(set(drawn)) < wanted:
            drawn.append(int(rng.choice(rest.size, p=share)))
        counts = np.bincount(drawn, minlength=rest.size)
        factors[rest] = counts / (len(drawn) * share)
    return factors


def calibration_size(activations: int, largest_layer: int) -> int:
    """Samples that the authors' code asks for: 3 log(8 eta eta* / 1e-16), eta all activations, eta* those of the
    largest layer.
    """
    return math.ceil(3 * math.log(8 * activations * largest_layer / DELTA))
