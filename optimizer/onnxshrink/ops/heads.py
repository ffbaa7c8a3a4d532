"""Heads: where they lie in what an attention reads and writes, and what goes with each of them.

Queries, keys, values and outputs have their heads in common: a head goes from all of them or from none. Within a head
a column of Q and the same column of K make one term of a score, and a column of V makes one column of the output; each
head that stays keeps equally many of them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..graph.view import Node
from .fact import Fact, collapse
from .rule import Context, Cut, Demand, Rewrite, Rule, State, everything, free_slices
from .tie import Blocks, Port, Same, Tie


@dataclass(frozen=True)
class Part:
    """Queries, keys or values: slices of an axis, [heads, ..., columns of a head]."""

    port: Port
    index: np.ndarray

    def of(self, mask: np.ndarray) -> np.ndarray:
        """A mask of the axis, laid out like the slices."""
        return np.asarray(mask[self.index])


@dataclass(frozen=True)
class Layout:
    """Where the heads of a node lie.

    Attributes:
        q: [key heads, query heads to a key head, columns]; k and v: [key heads, columns].
        y: the output, laid out like the queries: [key heads, query heads to a key head, columns of v].
        shared: other axes with one slice for each query head, [key heads, query heads to a key head].
        bias: a constant that is added to [Q, K, V] before anything else, or "".
        whole: columns of a head are mixed before the scores, so a head stays or goes as a whole.
        exact: the weights of a head sum to one, so a column of V that holds one value passes it on.
    """

    q: Part
    k: Part
    v: Part
    y: Part
    shared: tuple[Part, ...] = ()
    bias: str = ""
    whole: bool = False
    exact: bool = False

    @property
    def group(self) -> int:
        """Query heads that share a key head."""
        return self.q.index.shape[1]


def runs(heads: int, *sizes: int, start: int = 0) -> np.ndarray:
    """Consecutive slices as [heads, *sizes]."""
    return start + np.arange(heads * int(np.prod(sizes))).reshape(heads, *sizes)


def lay_out(ports: Sequence[Port], heads: int, group: int, width: int, depth: int) -> Layout:
    """The layout of separate axes of queries, keys, values and the output."""
    q, k, v, y = ports
    return Layout(
        Part(q, runs(heads, group, width)),
        Part(k, runs(heads, width)),
        Part(v, runs(heads, depth)),
        Part(y, runs(heads, group, depth)),
    )


class Headwise(Rule, ABC):
    """What the fused attentions have in common; a node without a layout is pinned."""

    family = "attention"

    @abstractmethod
    def layout(self, node: Node, context: Context) -> Layout | None:
        """Where the heads lie; None where the node is not understood."""

    def counts(self, heads: int, group: int) -> dict[str, int]:
        """The attributes that count heads, for so many key heads."""
        return {"num_heads": heads * group}

    def _layout(self, node: Node, context: Context) -> Layout | None:
        if len(context.read_outputs(node)) > 1:  # caches and scores keep every head
            return None
        return context.cached((node.index, "heads"), lambda: self.layout(node, context))

    def values(self, part: Part, layout: Layout, node: Node, context: Context) -> tuple[np.ndarray, np.ndarray]:
        """(known to hold one value, that value) of each column of Q, K or V, laid out like the part."""
        known, value = free_slices(*part.port, context)
        if not layout.bias:
            return part.of(known), part.of(value)
        start = 0 if part is layout.q else layout.q.index.size * (1 if part is layout.k else 2)
        bias = context.array(layout.bias)
        if bias is None:
            return np.zeros(part.index.shape, bool), np.zeros(part.index.shape)
        added = bias.astype(np.float64)[start : start + part.index.size].reshape(part.index.shape)
        return part.of(known), np.where(part.of(known), part.of(value) + added, 0.0)

    def _zeros(self, part: Part, layout: Layout, node: Node, context: Context) -> np.ndarray:
        """Columns of Q, K or V that are known to be zero in the scores and sums."""
        known, value = self.values(part, layout, node, context)
        zero = known & (value == 0)
        if layout.whole and part is not layout.v:
            zero = np.broadcast_to(zero.all(axis=-1, keepdims=True), zero.shape)
        return zero

    def facts(self, node: Node, context: Context) -> list[Fact | None]:
        none: list[Fact | None] = [None] * len(node.outputs)
        layout, dtype = self._layout(node, context), context.graph.dtypes.get(node.outputs[0])
        if layout is None or dtype is None:
            return none
        known, value = self.values(layout.v, layout, node, context)
        if not layout.exact:
            known = known & (value == 0)
        spread = [np.broadcast_to(a[:, None], layout.y.index.shape).reshape(1, 1, -1) for a in (known, value)]
        return [collapse(Fact(spread[1].astype(dtype), spread[0])), *none[1:]]

    def ties(self, node: Node, context: Context) -> list[Tie]:
        layout = self._layout(node, context)
        if layout is None:
            return []
        q, k, v, y = layout.q, layout.k, layout.v, layout.y
        shared = tuple((part.port, part.index, np.ones(part.index.shape, bool)) for part in layout.shared)
        ties: list[Tie] = []
        if layout.whole:
            blocks = [(p.port, p.index.reshape(p.index.shape[0], -1)) for p in (q, k, v, y)]
            axes = [(port, index, np.ones(index.shape, bool)) for port, index in blocks]
        else:
            zero_q, zero_k = (self._zeros(p, layout, node, context) for p in (q, k))
            # nobody demands columns of a constant, so those that make a score are held here
            axes = [
                (k.port, k.index, (~zero_q & ~zero_k[:, None]).any(axis=1)),
                (v.port, v.index, np.zeros(v.index.shape, bool)),
            ]
            keys = np.broadcast_to(k.index[:, None], q.index.shape)
            values = np.broadcast_to(v.index[:, None], y.index.shape)
            ties.append(Same(v.port, y.port, values.reshape(-1)))
            if q.port != k.port:
                ties.append(Same(k.port, q.port, keys.reshape(-1)))
            else:
                partner = np.arange(context.size(*q.port) or 0)
                partner[q.index], partner[k.index] = keys, q.index[:, 0]
                ties.append(Same(q.port, q.port, partner))
        if layout.bias:
            total = 0
            for part in (q, k, v):
                ties.append(Same((layout.bias, 0), part.port, total + np.arange(part.index.size)))
                total += part.index.size
        ports, index, always = zip(*axes, *shared, strict=True)
        return [*ties, Blocks(ports, index, always)]

    def needs(self, node: Node, layout: Layout, context: Context, state: State) -> tuple[np.ndarray, ...]:
        """Columns of (Q, K, V) whose right value is needed, laid out like the parts."""
        live = layout.y.of(state.live(node.outputs[0])[-1])
        zero_q, zero_k, zero_v = (self._zeros(p, layout, node, context) for p in (layout.q, layout.k, layout.v))
        kept_q, kept_k = (p.of(state.kept(p.port)) for p in (layout.q, layout.k))
        wanted = (live & ~zero_v[:, None]).any(axis=-1, keepdims=True)
        q = wanted & ~zero_k[:, None] & ~(zero_q & ~kept_q)
        k = np.where(zero_k, wanted.any(axis=1) & kept_k, (wanted & ~zero_q).any(axis=1))
        return q, k, np.asarray(live.any(axis=1))

    def reads(self, node: Node, context: Context, state: State) -> dict[int, Demand | None]:
        layout = self._layout(node, context)
        if layout is None:
            return super().reads(node, context, state)
        if not all(mask.any() for mask in state.live(node.outputs[0])):
            return self.steering(node, context)
        demands: dict[int, Demand | None] = {i: None for i, name in enumerate(node.inputs) if name}
        masks: dict[Port, np.ndarray] = {}
        for part, need in zip((layout.q, layout.k, layout.v), self.needs(node, layout, context, state), strict=True):
            mask = masks.setdefault(part.port, np.zeros(context.size(*part.port) or 0, bool))
            mask[part.index] |= need
        for (tensor, axis), mask in masks.items():
            demand = everything(tensor, context)
            demand[axis] = mask
            for index, name in enumerate(node.inputs):
                if name == tensor:
                    demands[index] = demand
        return demands

    def rewrite(self, node: Node, cut: Cut) -> Rewrite:
        layout = self._layout(node, cut.context)
        if layout is None:
            return Rewrite()
        result = Rewrite()
        (heads, width), (_, depth) = _remaining(layout.k, cut), _remaining(layout.v, cut)
        before = (*layout.k.index.shape, layout.v.index.shape[1])
        if (heads, width, depth) == before:
            return result
        if heads != before[0]:
            result.attributes.update(self.counts(heads, layout.group))
        said = node.attr("scale")
        if width != before[1] and (said is None or (node.domain and said == 0)):
            result.attributes["scale"] = before[1] ** -0.5
        self.resize(node, (heads * layout.group * width, heads * width, heads * depth), result)
        return result

    def resize(self, node: Node, sizes: tuple[int, int, int], result: Rewrite) -> None:
        """Write down the sizes of Q, K and V, for an operator that says them."""


def _remaining(part: Part, cut: Cut) -> tuple[int, int]:
    """(heads that stay, columns of each)."""
    where = cut.indices(*part.port)
    mask = np.ones(part.index.max() + 1, bool)
    if where is not None:
        mask[:] = False
        mask[where[where < mask.size]] = True
    counts = mask[part.index].sum(axis=1)
    return int((counts > 0).sum()), int(counts.max())


def shared_with(node: Node, index: int, axis: int, layout: Layout, context: Context) -> tuple[Part, ...]:
    """The axis of an operand that has one slice for each query head; nothing where it is broadcast."""
    name = node.input(index)
    rank = context.rank(name) if name else None
    heads = layout.q.index.shape[0] * layout.group
    if rank is None or rank < -axis or context.size(name, axis) != heads or heads == 1:
        return ()
    return (Part((name, axis % rank), runs(layout.q.index.shape[0], layout.group)),)
