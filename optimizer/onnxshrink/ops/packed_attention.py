"""Attention of com.microsoft, whose projections to queries, keys and values are inside the node."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper

from ..graph.view import Node
from .attention import sliced
from .contraction import Contraction
from .fused import DOMAIN
from .heads import Headwise, Layout, Part, runs, shared_with
from .rule import Channels, Context, Cut, Demand, Rewrite, Rule, State, everything, free_slices, register
from .tie import Port, Same, Tie


class PackedAttention(Headwise, Contraction):
    """Attention of com.microsoft: [Q, K, V] = X W + b inside the node, W [input, q + k + v]."""

    family = "attention"

    def channels(self, node: Node, context: Context) -> Channels | None:
        return Channels(2, (1, 2)) if context.rank(node.outputs[0]) == 3 else None

    def layout(self, node: Node, context: Context) -> Layout | None:
        x, w, y = node.inputs[0], node.inputs[1], node.outputs[0]
        heads = int(node.attr("num_heads", 0))
        columns, out = context.size(w, 1), context.size(y, 2)
        bias = node.input(2)
        if w not in context.graph.constants or columns is None or not heads or node.input(4) or node.input(6):
            return None
        if context.rank(x) != 3 or context.size(x, 2) != context.size(w, 0) or not context.graph.is_float(w):
            return None
        if bias and bias not in context.graph.constants:
            return None
        q, k, v = node.attr("qkv_hidden_sizes") or (columns // 3,) * 3
        if q != k or q % heads or v % heads or q + k + v != columns or out != v:
            return None
        port = (w, 1)
        layout = Layout(
            Part(port, runs(heads, 1, q // heads)),
            Part(port, runs(heads, k // heads, start=q)),
            Part(port, runs(heads, v // heads, start=q + k)),
            Part((y, 2), runs(heads, 1, v // heads)),
        )
        shared = shared_with(node, 5, -3, layout, context)
        exact = not node.input(3) and not node.input(5)
        whole = bool(node.attr("do_rotary", 0))
        return Layout(layout.q, layout.k, layout.v, layout.y, shared, "", whole, exact)

    def _nonzero(self, node: Node, context: Context) -> np.ndarray:
        weight = context.graph.constants[node.inputs[1]]
        return np.asarray(context.derived(node.inputs[1], "nonzero", lambda: weight != 0))

    def _added(self, node: Node, context: Context, values: np.ndarray) -> np.ndarray:
        """What input features of these values [input] add to the projections, in float64."""
        where = np.flatnonzero(values)
        return np.asarray(values[where] @ context.graph.constants[node.inputs[1]][where].astype(np.float64))

    def _projected(self, node: Node, context: Context) -> tuple[np.ndarray, np.ndarray]:
        """(known to hold one value, that value) of each column of [Q, K, V]."""

        def compute() -> tuple[np.ndarray, np.ndarray]:
            uniform, value = free_slices(node.inputs[0], 2, context)
            known = ~self._nonzero(node, context)[~uniform].any(axis=0)
            total = self._added(node, context, value)
            if node.input(2):
                total = total + context.graph.constants[node.inputs[2]].astype(np.float64)
            return known, total

        found: tuple[np.ndarray, np.ndarray] = context.cached((node.index, "projected"), compute)
        return found

    def values(self, part: Part, layout: Layout, node: Node, context: Context) -> tuple[np.ndarray, np.ndarray]:
        known, value = self._projected(node, context)
        return part.of(known), part.of(value)

    def ties(self, node: Node, context: Context) -> list[Tie]:
        ties = super().ties(node, context)
        if ties:
            x, w = node.inputs[0], node.inputs[1]
            ties.append(Same((x, 2), (w, 0)))
            if node.input(2):
                ties.append(Same((w, 1), (node.input(2), 0)))
        return ties

    def reads(self, node: Node, context: Context, state: State) -> dict[int, Demand | None]:
        layout = self._layout(node, context)
        if layout is None:
            return Rule.reads(self, node, context, state)
        if not all(mask.any() for mask in state.live(node.outputs[0])):
            return self.steering(node, context)
        columns = np.zeros(context.size(node.inputs[1], 1) or 0, bool)
        for part, need in zip((layout.q, layout.k, layout.v), self.needs(node, layout, context, state), strict=True):
            columns[part.index] |= need
        wanted = self._nonzero(node, context)[:, columns].any(axis=1)
        free, _ = self.absorbs(node, context)
        demand = everything(node.inputs[0], context)
        demand[2] = wanted & ~(free & ~state.kept((node.inputs[0], 2)))
        return {**{i: None for i, name in enumerate(node.inputs) if name}, 0: demand}

    def absorbing_port(self, node: Node, context: Context) -> Port | None:
        return None if self._layout(node, context) is None else (node.inputs[0], 2)

    def read(self, node: Node, context: Context) -> np.ndarray:
        return np.asarray(self._nonzero(node, context).any(axis=1))

    def absorbs(self, node: Node, context: Context) -> tuple[np.ndarray, np.ndarray]:
        uniform, _ = free_slices(node.inputs[0], 2, context)
        return uniform, np.zeros_like(uniform)

    def carriers(self, node: Node, context: Context, kept: np.ndarray) -> np.ndarray:
        return np.array([-1])

    def rewrite(self, node: Node, cut: Cut) -> Rewrite:
        result = super().rewrite(node, cut)
        context = cut.context
        into, columns = cut.indices(node.inputs[0], 2), cut.indices(node.inputs[1], 1)
        if self._layout(node, context) is None or into is None:
            return result
        uniform, value = free_slices(node.inputs[0], 2, context)
        gone = uniform & (value != 0) & self.read(node, context)
        gone[into] = False
        if gone.any():
            weight = context.graph.constants[node.inputs[1]]
            total = self._added(node, context, np.where(gone, value, 0.0))
            if node.input(2):
                total = total + context.graph.constants[node.inputs[2]].astype(np.float64)
            result.inputs[2] = (total if columns is None else total[columns]).astype(weight.dtype)
        return result

    def resize(self, node: Node, sizes: tuple[int, int, int], result: Rewrite) -> None:
        if node.attr("qkv_hidden_sizes") is not None or sizes[0] != sizes[2]:
            result.attributes["qkv_hidden_sizes"] = list(sizes)

    def stand_in(self, node: Node, context: Context) -> list[onnx.NodeProto] | None:
        columns = context.size(node.inputs[1], 1)
        sizes = node.attr("qkv_hidden_sizes")
        if columns is None:
            return None
        product = f"{node.proto.output[0]}@product"
        multiplied = helper.make_node("MatMul", list(node.proto.input[:2]), [product])
        return [multiplied, *sliced(node, product, sizes[2] if sizes else columns // 3)]


register(PackedAttention(), "Attention", domain=DOMAIN)
