"""Elementwise operators of com.microsoft for onnx's reference implementation.

Facts evaluate operators instead of listing what they keep (evaluate.py); the reference knows the default domain only.
Formulas: ONNX Runtime, docs/ContribOperators.md. All of them compute in float64 and round once.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from onnx.reference.op_run import OpRun

DOMAIN = "com.microsoft"

_erf = np.vectorize(math.erf, otypes=[np.float64])


def _gelu(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1.0 + _erf(x / math.sqrt(2.0)))


def _fast_gelu(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1.0 + np.tanh(0.797885 * x + 0.035677 * x * x * x))


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-x))


def _sum(*terms: np.ndarray | None) -> np.ndarray:
    return np.asarray(sum(t.astype(np.float64) for t in terms if t is not None))


class Gelu(OpRun):
    """x Phi(x)."""

    op_domain = DOMAIN

    def _run(self, x: np.ndarray, **_: Any) -> tuple[np.ndarray]:
        return (_gelu(_sum(x)).astype(x.dtype),)


class BiasGelu(OpRun):
    """Gelu of x + bias."""

    op_domain = DOMAIN

    def _run(self, x: np.ndarray, bias: np.ndarray, **_: Any) -> tuple[np.ndarray]:
        return (_gelu(_sum(x, bias)).astype(x.dtype),)


class FastGelu(OpRun):
    """The approximation of Gelu by Tanh, of x + bias."""

    op_domain = DOMAIN

    def _run(self, x: np.ndarray, bias: np.ndarray | None = None, **_: Any) -> tuple[np.ndarray]:
        return (_fast_gelu(_sum(x, bias)).astype(x.dtype),)


class QuickGelu(OpRun):
    """x Sigmoid(alpha x)."""

    op_domain = DOMAIN

    def _run(self, x: np.ndarray, alpha: float = 1.702, **_: Any) -> tuple[np.ndarray]:
        wide = _sum(x)
        return ((wide * _sigmoid(alpha * wide)).astype(x.dtype),)


class BiasAdd(OpRun):
    """x + bias + skip."""

    op_domain = DOMAIN

    def _run(self, x: np.ndarray, bias: np.ndarray, skip: np.ndarray, **_: Any) -> tuple[np.ndarray]:
        return (_sum(x, bias, skip).astype(x.dtype),)


class GatedAdd(OpRun):
    """x + y gate."""

    op_domain = DOMAIN

    def _run(self, x: np.ndarray, y: np.ndarray, gate: np.ndarray, **_: Any) -> tuple[np.ndarray]:
        return ((_sum(x) + _sum(y) * _sum(gate)).astype(x.dtype),)


OPERATORS = (Gelu, BiasGelu, FastGelu, QuickGelu, BiasAdd, GatedAdd)
