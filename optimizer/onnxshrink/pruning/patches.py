"""A layer as a matrix: rows of input patches times weights, whatever the operator.

Y[p, o] = sum over input channels c and taps k of A[p, c, k] * W[o, c, k]. Patches are drawn at random places of each
sample: a few per sample say as much as all of them.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np

from ..graph.view import Node
from ..ops.conv import Convolution
from ..ops.matmul import Multiplication
from ..ops.rule import Context
from .coupling import layer


@dataclass(frozen=True)
class Reader:
    """One layer that sums over the channels of its input.

    A ConvTranspose is taken as a product whose outputs are (output channel, tap): what it sums of these into a pixel
    is bounded by the largest of them, so ratios of contributions stay bounds.
    """

    node: Node
    context: Context

    @property
    def rule(self) -> Convolution | Multiplication:
        found = layer(self.node, self.context)
        assert found is not None
        return found

    def matrix(self, weight: np.ndarray) -> np.ndarray:
        """The weight as [outputs, input channels, taps], float32."""
        rule, weight = self.rule, weight.astype(np.float32)
        if isinstance(rule, Multiplication):
            rows = weight if self.node.attr("transB", 0) else weight.T
            return rows[:, :, None] * np.float32(self.node.attr("alpha", 1.0))
        split = rule.grouped(weight, rule.groups(self.node))  # [group, out, in, *kernel]
        groups, outputs, width = split.shape[:3]
        split = split.reshape(groups, outputs, width, -1)
        full = np.zeros((groups, outputs, groups * width, split.shape[3]), np.float32)
        for group in range(groups):
            full[group, :, group * width : (group + 1) * width] = split[group]
        full = full.reshape(groups * outputs, groups * width, -1)
        return full.transpose(0, 2, 1).reshape(-1, groups * width, 1) if rule.transposed else full

    def store(self, matrix: np.ndarray, like: np.ndarray) -> np.ndarray:
        """The inverse of `matrix`, for a layer with one group that is no ConvTranspose."""
        if isinstance(self.rule, Multiplication):
            rows = matrix[:, :, 0] / (self.node.attr("alpha", 1.0) or 1.0)
            return (rows if self.node.attr("transB", 0) else rows.T).astype(like.dtype)
        return matrix.reshape(like.shape).astype(like.dtype)

    @property
    def dense(self) -> bool:
        """Whether `store` can give the layer another weight."""
        rule = self.rule
        return isinstance(rule, Multiplication) or (not rule.transposed and rule.groups(self.node) == 1)

    def rows(self, x: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
        """At most about `count` patches of an input, [patches, input channels, taps], float32."""
        rule = self.rule
        if isinstance(rule, Multiplication):
            axes = rule.axes(self.node, self.context)
            assert axes is not None
            flat = np.moveaxis(x, axes[1], -1).reshape(-1, x.shape[axes[1]])
            return _some(flat, count, rng).astype(np.float32)[:, :, None]
        if rule.transposed:
            flat = np.moveaxis(x, 1, -1).reshape(-1, x.shape[1])
            return _some(flat, count, rng).astype(np.float32)[:, :, None]
        return self._windows(x, count, rng)

    def _windows(self, x: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
        weight = self.context.graph.constants[self.node.inputs[1]]
        kernel = weight.shape[2:]
        spatial = len(kernel)
        strides = self.node.attr("strides") or [1] * spatial
        dilations = self.node.attr("dilations") or [1] * spatial
        pads = self._pads(x.shape[2:], kernel, strides, dilations)
        x = np.pad(x.astype(np.float32, copy=False), [(0, 0), (0, 0), *pads])
        reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
        counts = [(n - r) // s + 1 for n, r, s in zip(x.shape[2:], reach, strides, strict=True)]
        total = x.shape[0] * math.prod(counts)
        chosen = np.sort(rng.choice(total, min(count, total), replace=False))
        sample, *places = np.unravel_index(chosen, (x.shape[0], *counts))
        patches = np.empty((chosen.size, x.shape[1], math.prod(kernel)), np.float32)
        for tap, offset in enumerate(itertools.product(*(range(k) for k in kernel))):
            where = [p * s + o * d for p, s, o, d in zip(places, strides, offset, dilations, strict=True)]
            patches[:, :, tap] = x[(sample, slice(None), *where)]
        return patches

    def _pads(
        self, sizes: tuple[int, ...], kernel: tuple[int, ...], strides: list[int], dilations: list[int]
    ) -> list[tuple[int, int]]:
        mode = self.node.attr("auto_pad", "NOTSET")
        if mode in ("SAME_UPPER", "SAME_LOWER"):
            found = []
            for n, k, s, d in zip(sizes, kernel, strides, dilations, strict=True):
                total = max(0, (-(-n // s) - 1) * s + (k - 1) * d + 1 - n)
                less, more = total // 2, total - total // 2
                found.append((less, more) if mode == "SAME_UPPER" else (more, less))
            return found
        pads = self.node.attr("pads") or [0] * (2 * len(kernel))
        return list(zip(pads[: len(kernel)], pads[len(kernel) :], strict=True))


def _some(rows: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    if len(rows) <= count:
        return rows
    return rows[np.sort(rng.choice(len(rows), count, replace=False))]
