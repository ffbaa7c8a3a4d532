"""Attention: Y = softmax(scale Q K' + mask) V, head by head.

Queries, keys, values and outputs have their heads in common: a head goes from all of them or from none. Within a head
a column of Q and the same column of K make one term of a score, and a column of V makes one column of the output; each
head that stays keeps equally many of them. The default scale depends on the size of a head, so it is written down
where that changes. A score whose column of Q or K is zero does not need the other one, and a head whose values are
zero answers with zeros.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ..graph.view import Node
from .fact import Fact, collapse
from .fused import DOMAIN, alike
from .rule import Context, Cut, Demand, Rewrite, Rule, State, everything, free_slices, register
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


def _known(sizes: list[int | None]) -> bool:
    return all(size is not None and size > 0 for size in sizes)


class MultiHead(Headwise):
    """MultiHeadAttention with separate [batch, sequence, hidden] operands and without a cache."""

    unread: tuple[int, ...] = (6, 7, 8, 9)
    """Inputs with which a node is left alone: caches and what belongs to them."""

    def heads(self, node: Node) -> tuple[int, int]:
        """(query heads, key heads), 0 where the node does not say."""
        return int(node.attr("num_heads", 0)), int(node.attr("num_heads", 0))

    def layout(self, node: Node, context: Context) -> Layout | None:
        y = node.outputs[0]
        ports = [(node.input(i), 2) for i in range(3)] + [(y, 2)]
        if any(node.input(i) for i in self.unread) or any(context.rank(name) != 3 for name, _ in ports):
            return None
        queries, keys = self.heads(node)
        sizes = [context.size(*port) for port in ports]
        if not keys or queries % keys or not _known(sizes):
            return None
        q, k, v, out = (int(size or 0) for size in sizes)
        if k % keys or v % keys or q * keys != k * queries or out * keys != v * queries:
            return None
        layout = lay_out(ports, keys, queries // keys, k // keys, v // keys)
        return self.details(node, context, layout)

    def details(self, node: Node, context: Context, layout: Layout) -> Layout | None:
        """The layout with masks, a bias, and what is special about the operator; None where it cannot be cut."""
        bias = node.input(3)
        if bias and context.rank(bias) != 1:
            return None
        exact = not node.input(4) and not node.input(5)
        return Layout(
            layout.q, layout.k, layout.v, layout.y, shared_with(node, 5, -3, layout, context), bias, False, exact
        )

    def stand_in(self, node: Node, context: Context) -> list[onnx.NodeProto] | None:
        if len(node.inputs) < 3 or not node.input(2) or (context.rank(node.input(2)) or 3) != 3:
            return None
        return [alike(node, "Einsum", [node.proto.input[0], node.proto.input[2]], equation="bsd,blh->bsh")]


def shared_with(node: Node, index: int, axis: int, layout: Layout, context: Context) -> tuple[Part, ...]:
    """The axis of an operand that has one slice for each query head; nothing where it is broadcast."""
    name = node.input(index)
    rank = context.rank(name) if name else None
    heads = layout.q.index.shape[0] * layout.group
    if rank is None or rank < -axis or context.size(name, axis) != heads or heads == 1:
        return ()
    return (Part((name, axis % rank), runs(layout.q.index.shape[0], layout.group)),)


class GroupQuery(MultiHead):
    """GroupQueryAttention without a cache. Rotary embeddings and norms mix the columns of a head."""

    unread = (3, 4, 12, 13)

    def heads(self, node: Node) -> tuple[int, int]:
        return int(node.attr("num_heads", 0)), int(node.attr("kv_num_heads", 0))

    def counts(self, heads: int, group: int) -> dict[str, int]:
        return {"num_heads": heads * group, "kv_num_heads": heads}

    def layout(self, node: Node, context: Context) -> Layout | None:
        if node.input(1):
            return super().layout(node, context)
        (x, y), (queries, keys) = (node.inputs[0], node.outputs[0]), self.heads(node)
        size, out = context.size(x, 2), context.size(y, 2)
        if context.rank(x) != 3 or size is None or not keys or queries % keys or any(map(node.input, self.unread)):
            return None
        width = size // (queries + 2 * keys)
        if width * (queries + 2 * keys) != size or out != queries * width:
            return None
        layout = Layout(
            Part((x, 2), runs(keys, queries // keys, width)),
            Part((x, 2), runs(keys, width, start=queries * width)),
            Part((x, 2), runs(keys, width, start=(queries + keys) * width)),
            Part((y, 2), runs(keys, queries // keys, width)),
        )
        return self.details(node, context, layout)

    def details(self, node: Node, context: Context, layout: Layout) -> Layout | None:
        shared = shared_with(node, 10, -3, layout, context) + shared_with(node, 11, -1, layout, context)
        return Layout(layout.q, layout.k, layout.v, layout.y, shared, whole=True)

    def stand_in(self, node: Node, context: Context) -> list[onnx.NodeProto] | None:
        if node.input(1):
            return [alike(node, "Identity")]
        size, (queries, keys) = context.size(node.inputs[0], 2), self.heads(node)
        if size is None or not keys:
            return None
        return sliced(node, node.proto.input[0], size // (queries + 2 * keys) * queries)


def sliced(node: Node, tensor: str, size: int) -> list[onnx.NodeProto]:
    """A stand-in: the first `size` slices along the third axis of a tensor."""
    out = node.proto.output[0]
    names = [f"{out}@{what}" for what in ("start", "end", "axis")]
    constants = [
        helper.make_node("Constant", [], [name], value=numpy_helper.from_array(np.array([value], np.int64)))
        for name, value in zip(names, (0, size, 2), strict=True)
    ]
    return [*constants, helper.make_node("Slice", [tensor, *names], [out])]


class Attention(MultiHead):
    """Attention of the default domain: operands of three axes, or of four with the heads on the second."""

    unread = (4, 5)

    def heads(self, node: Node) -> tuple[int, int]:
        return int(node.attr("q_num_heads", 0)), int(node.attr("kv_num_heads", 0))

    def counts(self, heads: int, group: int) -> dict[str, int]:
        return {"q_num_heads": heads * group, "kv_num_heads": heads}

    def details(self, node: Node, context: Context, layout: Layout) -> Layout | None:
        shared = shared_with(node, 3, -3, layout, context)
        return Layout(layout.q, layout.k, layout.v, layout.y, shared, exact=not node.input(3) and not node.input(6))

    def stand_in(self, node: Node, context: Context) -> list[onnx.NodeProto] | None:
        return None

    def _four(self, node: Node, context: Context) -> tuple[int, int] | None:
        """(query heads, key heads) of operands with four axes."""
        names = (*node.inputs[:3], node.outputs[0])
        if any(context.rank(name) != 4 for name in names) or len(context.read_outputs(node)) > 1:
            return None
        if any(node.input(i) for i in self.unread):
            return None
        sizes = [context.size(name, axis) for name in names for axis in (1, 3)]
        queries, keys = sizes[0], sizes[2]
        if not _known(sizes) or queries is None or keys is None or queries % keys:
            return None
        return queries, keys

    def facts(self, node: Node, context: Context) -> list[Fact | None]:
        heads = self._four(node, context)
        if heads is None:
            return super().facts(node, context)
        none: list[Fact | None] = [None] * len(node.outputs)
        fact, dtype = context.fact(node.inputs[2]), context.graph.dtypes.get(node.outputs[0])
        if fact is None or dtype is None:
            return none
        # one value along the batch and the sequence, for each head and column
        first = fact.value[:1, :, :1]
        known = fact.known.all(axis=(0, 2), keepdims=True) & (fact.value == first).all(axis=(0, 2), keepdims=True)
        if node.input(3) or node.input(6):
            known = known & (first == 0)
        if known.shape[1] > 1 or first.shape[1] > 1:
            known, first = (np.repeat(np.broadcast_to(a, (1, heads[1], 1, a.shape[3])), heads[0] // heads[1], axis=1)
                            for a in (known, first))  # fmt: skip
        return [collapse(Fact(first.astype(dtype), known)), *none[1:]]

    def ties(self, node: Node, context: Context) -> list[Tie]:
        heads = self._four(node, context)
        if heads is None:
            return super().ties(node, context)
        (q, k, v), y = node.inputs[:3], node.outputs[0]
        key = np.arange(heads[0]) // (heads[0] // heads[1])
        ties: list[Tie] = [
            Same((k, 1), (v, 1)),
            Same((k, 1), (q, 1), key),
            Same((q, 1), (y, 1)),
            Same((q, 3), (k, 3)),
            Same((v, 3), (y, 3)),
        ]
        mask, rank = node.input(3), context.rank(node.input(3)) if node.input(3) else None
        if rank is not None and rank >= 3 and context.size(mask, rank - 3) == heads[0] > 1:
            ties.append(Same((mask, rank - 3), (q, 1)))
        return ties

    def reads(self, node: Node, context: Context, state: State) -> dict[int, Demand | None]:
        heads = self._four(node, context)
        if heads is None:
            return super().reads(node, context, state)
        live = state.live(node.outputs[0])
        if not all(mask.any() for mask in live):
            return self.steering(node, context)
        q, k, v = node.inputs[:3]
        group = heads[0] // heads[1]
        silent = _silent(v, 1, context)
        wanted = live[1] & ~np.repeat(silent, group)
        of_v = everything(v, context)
        of_v[1], of_v[3] = np.asarray(live[1].reshape(-1, group).any(axis=1)), live[3]
        demands: dict[int, Demand | None] = {i: None for i, name in enumerate(node.inputs) if name and i > 2}
        demands[2] = of_v
        if not wanted.any():
            return demands
        zero_q, zero_k = _silent(q, 3, context), _silent(k, 3, context)
        kept = state.kept((q, 3))
        of_q, of_k = everything(q, context), everything(k, context)
        of_q[1], of_k[1] = wanted, wanted.reshape(-1, group).any(axis=1)
        of_q[3] = ~zero_k & ~(zero_q & ~kept)
        of_k[3] = np.where(zero_k, kept, ~zero_q)
        return {**demands, 0: of_q, 1: of_k}

    def rewrite(self, node: Node, cut: Cut) -> Rewrite:
        if self._four(node, cut.context) is None:
            return super().rewrite(node, cut)
        width = cut.context.size(node.inputs[0], 3)
        if width is None or cut.indices(node.inputs[0], 3) is None or node.attr("scale") is not None:
            return Rewrite()
        return Rewrite({"scale": width**-0.5})


def _silent(tensor: str, axis: int, context: Context) -> np.ndarray:
    """Slices that are known to be zero."""
    uniform, value = free_slices(tensor, axis, context)
    return np.asarray(uniform & (value == 0))


register(Attention(), "Attention")
register(MultiHead(), "MultiHeadAttention", domain=DOMAIN)
register(GroupQuery(), "GroupQueryAttention", domain=DOMAIN)
