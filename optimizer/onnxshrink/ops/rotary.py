"""Rotary embeddings of the default domain and of com.microsoft."""

from __future__ import annotations

import numpy as np
import onnx

from ..graph.view import Node
from .fact import Fact, collapse
from .fused import DOMAIN, alike
from .heads import runs
from .movement import parallel
from .rule import Context, Cut, Demand, Rewrite, Rule, State, everything, register
from .tie import Blocks, Tie


class Rotary(Rule):
    """RotaryEmbedding: pairs of columns of a head are rotated, so heads pass as a whole; zeros stay zeros.

    Where it is the operator of com.microsoft, the cache may be the only one to say how large a head is.
    """

    family = "attention"

    def _heads(self, node: Node, context: Context) -> int | None:
        """Heads on the last axis of [batch, sequence, hidden]; None for other shapes or where they are not known."""
        size = context.size(node.inputs[0], 2)
        if context.rank(node.inputs[0]) != 3 or size is None:
            return None
        heads = int(node.attr("num_heads", 0))
        if not heads and node.domain and not node.attr("rotary_embedding_dim", 0):
            half = context.size(node.input(2), -1)
            heads = size // (2 * half) if half else 0
        return heads if heads and size % heads == 0 else None

    def facts(self, node: Node, context: Context) -> list[Fact | None]:
        fact, heads = context.fact(node.inputs[0]), self._heads(node, context)
        rank = context.rank(node.inputs[0])
        if fact is None or rank not in (3, 4):
            return [None]
        zero = fact.zero()
        if rank == 4:
            zero = np.asarray(zero.all(axis=3, keepdims=True))
        elif zero.shape[2] > 1:
            if heads is None:
                return [None]
            split = zero.reshape(*zero.shape[:2], heads, -1)
            zero = np.broadcast_to(split.all(axis=-1, keepdims=True), split.shape).reshape(zero.shape)
        return [collapse(Fact(np.zeros((1,) * rank, fact.value.dtype), zero))]

    def ties(self, node: Node, context: Context) -> list[Tie]:
        x, y, heads = node.inputs[0], node.outputs[0], self._heads(node, context)
        if context.rank(x) == 4:
            return parallel(x, y, context, (0, 2, 3))
        if heads is None:
            return []
        blocks = runs(heads, (context.size(x, 2) or 0) // heads)
        whole = np.ones(blocks.shape, bool)
        return [Blocks(((x, 2), (y, 2)), (blocks, blocks), (whole, whole))]

    def reads(self, node: Node, context: Context, state: State) -> dict[int, Demand | None]:
        live, heads = state.live(node.outputs[0]), self._heads(node, context)
        if not all(mask.any() for mask in live):
            return self.steering(node, context)
        demands: dict[int, Demand | None] = {i: None for i, name in enumerate(node.inputs) if name}
        demand = everything(node.inputs[0], context)
        if len(live) == len(demand) == 4 and live[1].size == demand[1].size:
            demand[1] = live[1]
        elif heads is not None:
            demand[2] = np.repeat(live[2].reshape(heads, -1).any(axis=1), live[2].size // heads)
        return {**demands, 0: demand}

    def rewrite(self, node: Node, cut: Cut) -> Rewrite:
        heads, into = self._heads(node, cut.context), cut.indices(node.inputs[0], 2)
        if heads is None or into is None or not node.attr("num_heads", 0):
            return Rewrite()
        return Rewrite({"num_heads": into.size * heads // (cut.context.size(node.inputs[0], 2) or 1)})

    def stand_in(self, node: Node, context: Context) -> list[onnx.NodeProto] | None:
        return [alike(node, "Identity")] if node.domain else None


register(Rotary(), "RotaryEmbedding")
register(Rotary(), "RotaryEmbedding", domain=DOMAIN)
