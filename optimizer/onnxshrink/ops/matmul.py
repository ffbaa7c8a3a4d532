"""Gemm and MatMul: Y[m,n] = sum_k A[m,k] B[k,n]; either side may be a weight, both may be computed.

A term k is zero where A[:,k] or B[k,:] is known to be zero, so neither side needs it. A known non-zero feature
A[:,k] = v goes into the bias of a Gemm, or into a carrier feature where there is no bias to take it. Attention weights
sum to one along k, so a column of B that holds one value passes it on.
"""

from __future__ import annotations

import numpy as np

from ..graph.view import Node, Shape, is_float
from .broadcast import broadcast_dims, open_axes
from .contraction import Contraction, bearers, candidates, largest
from .fact import CAP, Fact, collapse
from .finite import sums_to_one
from .product import any_term, of_operand, terms
from .rule import Carrying, Channels, Context, Cut, Demand, Rewrite, State, free_slices, register
from .tie import Port, Same, Tie


class Multiplication(Contraction):
    """Both products, seen as operands A [..., m, k] and B [..., k, n] with the axes that transposition gives."""

    def channels(self, node: Node, context: Context) -> Channels | None:
        rank = context.rank(node.outputs[0])
        return Channels(rank - 1, (1, 2)) if rank else None

    def axes(self, node: Node, context: Context) -> tuple[int, int, int, int] | None:
        """Axes (m of A, k of A, k of B, n of B); None where an operand has fewer than two axes.

        An inner axis of unknown length is one slice that always stays, like any axis of unknown length.
        """
        a, b = context.rank(node.inputs[0]), context.rank(node.inputs[1])
        if a is None or b is None or a < 2 or b < 2 or context.rank(node.outputs[0]) is None:
            return None
        m, k, k2, n = a - 2, a - 1, b - 2, b - 1
        if node.attr("transA", 0):
            m, k = k, m
        if node.attr("transB", 0):
            k2, n = n, k2
        sizes = context.size(node.inputs[0], k), context.size(node.inputs[1], k2)
        return (m, k, k2, n) if sizes[0] == sizes[1] else None

    def operand(self, node: Node, context: Context, index: int) -> tuple[np.ndarray, np.ndarray] | None:
        """(non-zero or unknown, known) of an operand as [rows, columns] after transposition, if it has two axes."""

        def compute() -> tuple[np.ndarray, np.ndarray] | None:
            fact = context.fact(node.inputs[index])
            shape = context.shape(node.inputs[index])
            if fact is None or shape is None or fact.rank != 2:
                return None
            sizes = [d if isinstance(d, int) else 1 for d in shape]
            if np.prod(sizes) > max(8 * CAP, fact.value.size):
                return None
            nonzero = np.broadcast_to(~fact.zero(), sizes)
            known = np.broadcast_to(fact.known, sizes)
            if node.attr("transB" if index else "transA", 0):
                nonzero, known = nonzero.T, known.T
            return nonzero, known

        return context.cached((node.index, "operand", index), compute)

    def facts(self, node: Node, context: Context) -> list[Fact | None]:
        """An output is known where each of its terms is: one factor is zero, or both are known."""
        axes, rank = self.axes(node, context), context.rank(node.outputs[0]) or 0
        dtype = context.graph.dtypes.get(node.outputs[0])
        bias = context.fact(node.input(2))
        if axes is None or dtype is None or (node.input(2) and bias is None):
            return [None]
        if all(context.fact(name) is None for name in node.inputs[:2]):
            return [None]
        left, right = terms(node.inputs[0], axes[1], False, context), terms(node.inputs[1], axes[2], True, context)
        size = np.prod(np.broadcast_shapes(left.nonzero.shape[:-2], right.nonzero.shape[:-2]), dtype=object)
        if size * left.nonzero.shape[-2] * right.nonzero.shape[-1] > CAP:
            return [None]
        known = ~(any_term(left.unknown, right.nonzero) | any_term(left.nonzero, right.unknown))
        result = np.zeros(known.shape)
        if known.any() and left.value.any() and right.value.any():
            result = float(node.attr("alpha", 1.0)) * (left.value.astype(np.float64) @ right.value.astype(np.float64))
        if bias is not None:
            lead = (1,) * (rank - bias.rank)
            result = result + float(node.attr("beta", 1.0)) * bias.value.reshape(lead + bias.value.shape)
            known = known & bias.known.reshape(lead + bias.known.shape)
        elif node.op == "MatMul" and (attended := self._attended(node, context, rank)) is not None:
            result = np.where(attended[0] & ~known, attended[1], result)
            known = known | attended[0]
        of_unknown_length = any(n > 1 and context.size(node.outputs[0], a) is None for a, n in enumerate(result.shape))
        if not known.any() or of_unknown_length:
            return [None]
        with np.errstate(all="ignore"):
            values = result.astype(dtype)
        return [collapse(Fact(values, known & np.isfinite(values.astype(np.float64))))]

    @staticmethod
    def _attended(node: Node, context: Context, rank: int) -> tuple[np.ndarray, np.ndarray] | None:
        """Where rows of A sum to one (an attention's weights), columns of B that hold one value: where, and which."""
        values = context.fact(node.inputs[1])
        if values is None or not sums_to_one(node.inputs[0], context):
            return None
        first = values.value.take([0], -2)
        one = values.known.all(axis=-2, keepdims=True) & (values.value == first).all(axis=-2, keepdims=True)
        lead = (1,) * (rank - values.rank)
        return one.reshape(lead + one.shape), first.reshape(lead + first.shape)

    def refine(self, node: Node, context: Context) -> dict[str, Shape]:
        """The inner axes are equally long, so one that is known says the other; batches broadcast."""
        a, b = (context.shape(name) for name in node.inputs[:2])
        if node.domain or a is None or b is None or len(a) < 2 or len(b) < 2:
            return {}
        k = len(a) - (2 if node.attr("transA", 0) else 1)
        k2 = len(b) - (1 if node.attr("transB", 0) else 2)
        for name, shape, axis, other in ((node.inputs[0], a, k, b[k2]), (node.inputs[1], b, k2, a[k])):
            if name in context.graph.producer and isinstance(other, int) and not isinstance(shape[axis], int):
                return {name: (*shape[:axis], other, *shape[axis + 1 :])}
        out = context.shape(node.outputs[0])
        if node.op != "MatMul" or out is None or len(out) < 2:
            return {}
        sides = [
            mine if mine is not None and not isinstance(old, int) else old
            for mine, old in ((a[-2], out[-2]), (b[-1], out[-1]))
        ]
        new = (*broadcast_dims(out[:-2], [a[:-2], b[:-2]]), *sides)
        return {node.outputs[0]: new} if new != out else {}

    def ties(self, node: Node, context: Context) -> list[Tie]:
        axes = self.axes(node, context)
        if axes is None:
            return []
        m, k, k2, n = axes
        a, b, y = node.inputs[0], node.inputs[1], node.outputs[0]
        rank = context.rank(y) or 0
        ties: list[Tie] = [Same((a, k), (b, k2))]
        bias = [node.input(2)] if node.input(2) else []
        pinned = {axis for axis in open_axes(y, [a, b], context) if axis < rank - 2} | open_axes(y, bias, context)
        pairs = [((a, m), rank - 2), ((b, n), rank - 1)]
        for name in (a, b):
            own = context.rank(name) or 0
            pairs += [((name, axis), axis + rank - own) for axis in range(own - 2)]
        if node.input(2):
            own = context.rank(node.input(2)) or 0
            pairs += [((node.input(2), axis), axis + rank - own) for axis in range(own)]
        for port, axis in pairs:
            size = context.size(*port)
            if size is not None and size == context.size(y, axis) and axis not in pinned:
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
        size = context.size(node.inputs[0], axes[1]) or 1
        return np.ones(size, bool) if right is None else np.asarray(right[0].any(axis=1))

    def absorbs(self, node: Node, context: Context) -> tuple[np.ndarray, np.ndarray]:
        axes = self.axes(node, context)
        assert axes is not None
        uniform, value = free_slices(node.inputs[0], axes[1], context)
        zero, rest = uniform & (value == 0), uniform & (value != 0)
        weight = context.array(node.inputs[1])
        if weight is None or weight.ndim != 2 or not context.graph.is_float(node.inputs[1]):
            return zero, np.zeros_like(zero)
        if not rest.any():
            return zero, rest
        bias = self.bias(node, context)
        if bias is not None:
            strength = self._strength(node, context, weight, axes[2])
            moved = abs(float(node.attr("alpha", 1.0))) * float((np.abs(value) * strength)[rest].sum())
            moved /= abs(float(node.attr("beta", 1.0))) or 1.0
            held = float(np.abs(context.graph.constants[bias]).max(initial=0)) if bias else 0.0
            return (zero | rest if moved + held <= largest(weight.dtype) else zero), np.zeros_like(zero)
        return zero, rest if self._bearers(node, context).any() else np.zeros_like(zero)

    def _bearers(self, node: Node, context: Context) -> np.ndarray:
        """Features that can carry what the others contribute, [K], cached."""
        axes, weight = self.axes(node, context), context.graph.constants.get(node.inputs[1])
        assert axes is not None
        uniform, value = free_slices(node.inputs[0], axes[1], context)
        if weight is None or weight.ndim != 2 or not is_float(weight.dtype):
            return np.zeros_like(uniform)
        stored, axis = weight, axes[2]

        def compute() -> np.ndarray:
            strength = self._strength(node, context, stored, axis)
            return bearers(uniform & (value != 0), value, strength, stored.dtype)

        found: np.ndarray = context.cached((node.index, "bearers"), compute)
        return found

    def _strength(self, node: Node, context: Context, weight: np.ndarray, axis: int) -> np.ndarray:
        """Largest absolute weight that reads each feature, [K], cached; features are along `axis` of the weight."""

        def compute() -> np.ndarray:
            return np.asarray(np.abs(weight.astype(np.float64)).max(axis=1 - axis, initial=0))

        found: np.ndarray = context.derived(node.inputs[1], f"strength {axis}", compute)
        return found

    def takes_bias(self, node: Node) -> bool:
        """Whether the node adds a bias of its own, its third input."""
        return node.op == "Gemm"

    def bias(self, node: Node, context: Context) -> str | None:
        """The constant that takes what known features contribute: the bias of a Gemm ("" where it has none yet), or
        of the Add that alone reads a MatMul; None if there is none.
        """
        constants, size = context.graph.constants, context.size(node.outputs[0], -1)
        if self.takes_bias(node):
            bias = node.input(2)
            if not bias:
                return ""
            array = constants.get(bias)  # a bias for each row cannot take what each column gets
            fits = array is not None and array.ndim and array.size == array.shape[-1] and array.size in (1, size)
            return bias if fits and node.attr("beta", 1.0) != 0 else None
        readers = context.graph.consumers.get(node.outputs[0], [])
        if len(readers) != 1 or node.outputs[0] in context.graph.outputs:
            return None
        other = _added_behind(*readers[0])
        array = constants.get(other)
        fits = array is not None and array.ndim and array.size == array.shape[-1] == size
        return other if fits and array is not None and is_float(array.dtype) else None

    def reads(self, node: Node, context: Context, state: State) -> dict[int, Demand | None]:
        axes = self.axes(node, context)
        if axes is None:
            return super().reads(node, context, state)
        m, k, k2, n = axes
        a, b = node.inputs[0], node.inputs[1]
        live = state.live(node.outputs[0])
        if not all(mask.any() for mask in live):
            return {}
        size = context.size(a, k) or 1
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
        demands: dict[int, Demand | None] = {
            0: of_operand(a, k, of_a, m, -2, live, context),
            1: of_operand(b, k2, of_b, n, -1, live, context),
        }
        if node.input(2):
            demands[2] = None
        return demands

    def carriers(self, node: Node, context: Context, kept: np.ndarray) -> np.ndarray:
        """The kept feature of largest known value as [1], -1 if there is none."""
        axes = self.axes(node, context)
        assert axes is not None
        _, value = free_slices(node.inputs[0], axes[1], context)
        size = np.where(self._bearers(node, context) & kept, np.abs(value), 0.0)
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
        which = candidates(missing, self._bearers(node, context))
        return Carrying(port, which, np.abs(free_slices(*port, context)[1]))

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
        bias = self.bias(node, context)
        if bias is not None:
            added = float(node.attr("alpha", 1.0)) * (value[gone] @ right[gone])
            if not self.takes_bias(node):
                return Rewrite(addends={bias: added[columns]})
            if not bias:
                attributes = {"beta": 1.0} if node.attr("beta", 1.0) != 1.0 else {}
                return Rewrite(attributes, {2: added[columns].astype(stored.dtype)})
            before = np.broadcast_to(context.graph.constants[bias].reshape(-1), added.shape)
            merged = before + added / float(node.attr("beta", 1.0))
            return Rewrite(inputs={2: merged[columns].astype(stored.dtype)})
        carrier = self.carriers(node, context, kept)[0]
        if carrier < 0 or node.inputs[1] not in context.graph.constants:
            return Rewrite()
        right[carrier] += (value[gone] / value[carrier]) @ right[gone]
        packed = right[np.ix_(into, columns)].astype(stored.dtype)
        return Rewrite(inputs={1: np.ascontiguousarray(packed.T if k2 == 1 else packed)})


def _added_behind(reader: Node, index: int) -> str:
    """What a reader adds to its input number `index` before anything else, "" where it adds nothing."""
    if reader.op == "Add" and not reader.domain:
        return reader.inputs[1 - index] if index >= 0 else ""
    summands, bias = _BIASES.get((reader.domain, reader.op), ((), 0))
    return reader.input(bias) if index in summands else ""


_BIASES: dict[tuple[str, str], tuple[tuple[int, ...], int]] = {
    ("com.microsoft", "SkipLayerNormalization"): ((0, 1), 4),
    ("com.microsoft", "SkipSimplifiedLayerNormalization"): ((0, 1), 3),
    ("com.microsoft", "BiasGelu"): ((0,), 1),
    ("com.microsoft", "FastGelu"): ((0,), 1),
    ("com.microsoft", "BiasAdd"): ((0,), 1),
}
"""Fused operators that add a bias: the inputs that it is added to, and its own."""


register(Multiplication(), "Gemm", "MatMul")
