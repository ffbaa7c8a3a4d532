"""Attention: Y = softmax(scale Q K' + mask) V, head by head.

What goes with a head is in heads.py. The default scale depends on the size of a head, so it is written down where that
changes. A score whose column of Q or K is zero does not need the other one, and a head whose values are zero answers
with zeros.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ..graph.view import Node
from .fact import Fact, collapse
from .fused import DOMAIN, alike
from .heads import Headwise, Layout, Part, lay_out, runs, shared_with
from .rule import Context, Cut, Demand, Rewrite, State, everything, free_slices, register
from .tie import Same, Tie


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
