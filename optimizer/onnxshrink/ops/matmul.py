"""Gemm and MatMul: Y[m,n] = sum_k A[m,k] B[k,n]; either side may be a weight, both may be computed.

A term k is zero where A[:,k] or B[k,:] is known to be zero, so neither side needs it. A known non-zero feature
A[:,k] = v goes into the bias of a Gemm, or into a carrier feature where there is no bias to take it.
"""

from __future__ import annotations

import numpy as np

from ..graph.view import Node
from .contraction import Contraction
from .fact import CAP, Fact, collapse
from .rule import Carrying, Channels, Context, Cut, Demand, Rewrite, State, free_slices, register
from .tie import Port, Same, Tie


class Multiplication(Contraction):
    """Both products, seen as operands A [..., m, k] and B [..., k, n] with the axes that transposition gives."""

    def channels(self, node: Node, context: Context) -> Channels | None:
        rank = context.rank(node.outputs[0])
        return Channels(rank - 1, (1, 2)) if rank else None

    def axes(self, node: Node, context: Context) -> tuple[int, int, int, int] | None:
        """Axes (m of A, k of A, k of B, n of B); None where an operand has fewer than two axes."""
        a, b = context.rank(node.inputs[0]), context.rank(node.inputs[1])
        if a is None or b is None or a < 2 or b < 2 or context.rank(node.outputs[0]) is None:
            return None
        m, k, k2, n = a - 2, a - 1, b - 2, b - 1
        if node.attr("transA", 0):
            m, k = k, m
        if node.attr("transB", 0):
            k2, n = n, k2
        sizes = context.size(node.inputs[0], k), context.size(node.inputs[1], k2)
        return (m, k, k2, n) if sizes[0] is not None and sizes[0] == sizes[1] else None

    def operand(self, node: Node, context: Context, index: int) -> tuple[np.ndarray, np.ndarray] | None:
        """(non-zero or unknown, known) of an operand as [rows, columns] after transposition, if it has two axes."""

        def compute() -> tuple[np.ndarray, np.ndarray] | None:
            fact = context.fact(node.inputs[index])
            shape = context.shape(node.inputs[index])
            if fact is None or shape is None or fact.rank != 2:
                return None
            sizes = [d if isinstance(d, int) else 1 for d in shape]
            if np.prod(sizes) > CAP * 8:
                return None
            nonzero = np.broadcast_to(~fact.zero(), sizes)
            known = np.broadcast_to(fact.known, sizes)
            if node.attr("transB" if index else "transA", 0):
                nonzero, known = nonzero.T, known.T
            return nonzero, known

        return context.cached((node.index, "operand", index), compute)

    def facts(self, node: Node, context: Context) -> list[Fact | None]:
        axes = self.axes(node, context)
        rank = context.rank(node.outputs[0]) or 0
        a, b = context.fact(node.inputs[0]), context.fact(node.inputs[1])
        if axes is None or (a is None and b is None) or (node.input(2) and context.fact(node.input(2)) is None):
            return [None]
        _, k, k2, _ = axes
        right = context.array(node.inputs[1])
        if right is None or right.ndim != 2:
            return [self._of_two(node, context, axes, rank)]
        right = right.T if k2 == 1 else right
        size = right.shape[0]
        uniform, value = free_slices(node.inputs[0], k, context) if a is not None else (np.zeros(size, bool),) * 2
        nonzero = context.derived(node.inputs[1], "nonzero", lambda: right != 0)
        known = ~nonzero[~uniform].any(axis=0)
        if not known.any():
            return [None]
        alpha, beta = float(node.attr("alpha", 1.0)), float(node.attr("beta", 1.0))
        result = np.zeros(right.shape[1])
        if uniform.any():
            result = alpha * (value[uniform] @ right[uniform].astype(np.float64))
        mask = known.reshape((1,) * (rank - 1) + (-1,))
        result = result.reshape(mask.shape)
        if node.input(2):
            bias = context.fact(node.input(2))
            assert bias is not None
            lead = (1,) * (rank - bias.rank)
            result = result + beta * bias.value.reshape(lead + bias.value.shape)
            mask = mask & bias.known.reshape(lead + bias.known.shape)
        dtype = context.graph.dtypes.get(node.outputs[0], right.dtype)
        with np.errstate(all="ignore"):
            values = result.astype(dtype)
        mask = mask & np.isfinite(values.astype(np.float64))
        return [collapse(Fact(values, mask))]

    def _of_two(self, node: Node, context: Context, axes: tuple[int, int, int, int], rank: int) -> Fact | None:
        """Rows of A and columns of B that are zero throughout make zeros, whatever the other operand."""
        dtype = context.graph.dtypes.get(node.outputs[0])
        if node.input(2) or dtype is None:
            return None
        zero = np.zeros((1,) * rank, bool)
        for name, inner, swap in (
            (node.inputs[0], axes[1], axes[1] < axes[0]),
            (node.inputs[1], axes[2], axes[2] > axes[3]),
        ):
            fact = context.fact(name)
            if fact is not None:
                rows = fact.zero().all(axis=inner, keepdims=True)
                rows = np.swapaxes(rows, -1, -2) if swap else rows
                zero = zero | rows.reshape((1,) * (rank - rows.ndim) + rows.shape)
        return collapse(Fact(np.zeros((1,) * rank, dtype), zero))

    def ties(self, node: Node, context: Context) -> list[Tie]:
        axes = self.axes(node, context)
        if axes is None:
            return []
        m, k, k2, n = axes
        a, b, y = node.inputs[0], node.inputs[1], node.outputs[0]
        rank = context.rank(y) or 0
        ties: list[Tie] = [Same((a, k), (b, k2))]
        pairs = [((a, m), rank - 2), ((b, n), rank - 1)]
        for name in (a, b):
            own = context.rank(name) or 0
            pairs += [((name, axis), axis + rank - own) for axis in range(own - 2)]
        if node.input(2):
            own = context.rank(node.input(2)) or 0
            pairs += [((node.input(2), axis), axis + rank - own) for axis in range(own)]
        for port, axis in pairs:
            size = context.size(*port)
            if size is not None and size == context.size(y, axis):
                ties.append(Same(port, (y, axis)))
        return ties

    def _wanted(self, node: Node, context: Context, state: State, live: Demand, size: int) -> np.ndarray:
        """Features k for which a live output has a non-zero weight."""
        right = self.operand(node, context, 1)
        if right is None:
            axes = self.axes(node, context)
            assert axes is not None
            uniform, value = free_slices(node.inputs[1], axes[2], context)
            return ~(uniform & (value == 0)) if uniform.size == size else np.ones(size, bool)
        return np.asarray((right[0] & live[-1]).any(axis=1))

    def absorbing_port(self, node: Node, context: Context) -> Port | None:
        axes = self.axes(node, context)
        return None if axes is None else (node.inputs[0], axes[1])

    def read(self, node: Node, context: Context) -> np.ndarray:
        right = self.operand(node, context, 1)
        axes = self.axes(node, context)
        assert axes is not None
        size = context.size(node.inputs[0], axes[1]) or 0
        return np.ones(size, bool) if right is None else np.asarray(right[0].any(axis=1))

    def absorbs(self, node: Node, context: Context) -> tuple[np.ndarray, np.ndarray]:
        axes = self.axes(node, context)
        assert axes is not None
        uniform, value = free_slices(node.inputs[0], axes[1], context)
        zero, rest = uniform & (value == 0), uniform & (value != 0)
        weight = context.array(node.inputs[1])
        if weight is None or weight.ndim != 2 or not context.graph.is_float(node.inputs[1]):
            return zero, np.zeros_like(zero)
        if self._bias(node, context) is not None:
            return zero | rest, np.zeros_like(zero)
        return zero, rest & (node.inputs[1] in context.graph.constants)

    def _bias(self, node: Node, context: Context) -> str | None:
        """The constant that takes what known features contribute: the bias of a Gemm ("" where it has none yet), or
        of the Add that alone reads a MatMul; None if there is none.
        """
        constants, size = context.graph.constants, context.size(node.outputs[0], -1)
        if node.op == "Gemm":
            bias = node.input(2)
            if not bias:
                return ""
            fits = bias in constants and constants[bias].ndim and constants[bias].size in (1, size)
            return bias if fits and node.attr("beta", 1.0) != 0 else None
        readers = context.graph.consumers.get(node.outputs[0], [])
        if len(readers) != 1 or readers[0][0].op != "Add" or node.outputs[0] in context.graph.outputs:
            return None
        other = readers[0][0].inputs[1 - readers[0][1]] if readers[0][1] >= 0 else ""
        array = constants.get(other)
        fits = array is not None and array.ndim and array.size == array.shape[-1] == size
        return other if fits and array is not None and array.dtype.kind == "f" else None

    def reads(self, node: Node, context: Context, state: State) -> dict[int, Demand | None]:
        axes = self.axes(node, context)
        if axes is None:
            return super().reads(node, context, state)
        m, k, k2, n = axes
        a, b = node.inputs[0], node.inputs[1]
        live = state.live(node.outputs[0])
        if not all(mask.any() for mask in live):
            return {}
        rank = len(live)
        size = context.size(a, k) or 0
        wanted = self._wanted(node, context, state, live, size)
        kept = state.kept((a, k))
        free, carried = self.absorbs(node, context)
        of_a = wanted & ~((free | carried) & ~kept)
        if (wanted & carried & ~kept).any():
            carrier = self.carriers(node, context, kept)[0]
            if carrier >= 0:
                of_a[carrier] = True
        zero_a = free_slices(a, k, context)
        # where B's row is zero A is not read, so B must really be zero; elsewhere a right zero of A excuses B
        excused = (zero_a[0] & (zero_a[1] == 0)) | ((free | carried) & ~kept)
        of_b = np.where(wanted, ~excused, kept)
        left = self.operand(node, context, 0)
        if left is not None and a in context.graph.constants:
            of_b &= (left[0] & live[-2][:, None]).any(axis=0)
        demands: dict[int, Demand | None] = {}
        for index, name, inner, mine, outer, where in ((0, a, k, of_a, m, -2), (1, b, k2, of_b, n, -1)):
            own = context.rank(name) or 0
            demand = []
            for axis in range(own):
                length = context.size(name, axis) or 1
                target = live[where] if axis == outer else live[axis + rank - own]
                if axis == inner:
                    demand.append(mine)
                else:
                    demand.append(target if target.size == length else np.ones(length, bool))
            demands[index] = demand
        if node.input(2):
            demands[2] = None
        return demands

    def carriers(self, node: Node, context: Context, kept: np.ndarray) -> np.ndarray:
        """The kept feature of largest known value as [1], -1 if there is none."""
        axes = self.axes(node, context)
        assert axes is not None
        uniform, value = free_slices(node.inputs[0], axes[1], context)
        size = np.where(uniform & kept, np.abs(value), 0.0)
        return np.array([size.argmax() if size.any() else -1])

    def carrying(self, node: Node, context: Context, state: State) -> Carrying | None:
        axes = self.axes(node, context)
        if axes is None:
            return None
        port = (node.inputs[0], axes[1])
        _, carried = self.absorbs(node, context)
        if not carried.any():
            return None
        live = state.live(node.outputs[0])
        missing = self._wanted(node, context, state, live, carried.size) & carried & ~state.kept(port)
        if not missing.any() or self.carriers(node, context, state.kept(port))[0] >= 0:
            return None
        return Carrying(port, missing, np.abs(free_slices(*port, context)[1]))

    def rewrite(self, node: Node, cut: Cut) -> Rewrite:
        axes = self.axes(node, cut.context)
        if axes is None:
            return Rewrite()
        _, k, k2, _ = axes
        into, out = (
            cut.indices(node.inputs[0], k),
            cut.indices(node.outputs[0], len(cut.shape(node.outputs[0]) or ()) - 1),
        )
        context = cut.context
        stored = context.array(node.inputs[1])
        if into is None or stored is None or stored.ndim != 2:
            return Rewrite()
        kept = np.zeros(context.size(node.inputs[0], k) or 0, bool)
        kept[into] = True
        uniform, value = free_slices(node.inputs[0], k, context)
        right = (stored.T if k2 == 1 else stored).astype(np.float64)
        gone = uniform & (value != 0) & ~kept & (right != 0).any(axis=1)
        if not gone.any():
            return Rewrite()
        columns = np.arange(right.shape[1]) if out is None else out
        bias = self._bias(node, context)
        if bias is not None:
            added = float(node.attr("alpha", 1.0)) * (value[gone] @ right[gone])
            if node.op == "MatMul":
                return Rewrite(addends={bias: added[columns]})
            if not bias:
                return Rewrite({"beta": 1.0}, {2: added[columns].astype(stored.dtype)})
            before = np.broadcast_to(context.graph.constants[bias].reshape(-1), added.shape)
            merged = before + added / float(node.attr("beta", 1.0))
            return Rewrite(inputs={2: merged[columns].astype(stored.dtype)})
        carrier = self.carriers(node, context, kept)[0]
        if carrier < 0 or node.inputs[1] not in context.graph.constants:
            return Rewrite()
        right[carrier] += (value[gone] / value[carrier]) @ right[gone]
        packed = right[np.ix_(into, columns)].astype(stored.dtype)
        return Rewrite(inputs={1: np.ascontiguousarray(packed.T if k2 == 1 else packed)})


register(Multiplication(), "Gemm", "MatMul")
