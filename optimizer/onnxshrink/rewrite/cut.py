"""The cut as rules see it: which slices of each tensor stay, and what that makes of shapes and constants."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from ..channels.solve import Solution
from ..channels.symbols import elements
from ..graph.view import Dim, Node, Shape
from ..ops.rule import Context, Demand


class PlannedCut:
    """A read-only view of a solution, in terms of indices instead of masks."""

    def __init__(self, solution: Solution):
        self.context: Context = solution.context
        self._solution = solution
        self._stale = self._find_stale()

    def indices(self, tensor: str, axis: int) -> np.ndarray | None:
        """Indices that stay along an axis, ascending; None when all of them do."""
        mask = self._solution.kept((tensor, axis))
        return None if mask.all() else np.flatnonzero(mask)

    def shape(self, tensor: str) -> Shape | None:
        """The tensor's shape after the cut."""
        shape = self.context.shape(tensor)
        if shape is None:
            return None
        return tuple(
            dim if not isinstance(dim, int) else int(self._solution.kept((tensor, axis)).sum())
            for axis, dim in enumerate(shape)
        )

    def touched(self, tensor: str) -> bool:
        """Whether anything of the tensor is cut."""
        return any(self.indices(tensor, a) is not None for a in range(self.context.rank(tensor) or 0))

    def needed(self, tensor: str) -> bool:
        return self._solution.needed(tensor)

    def live(self, tensor: str) -> Demand:
        return self._solution.live(tensor)

    def active(self, node: Node) -> bool:
        return self._solution.active(node)

    def stale(self, tensor: str) -> bool:
        """Whether integers or a vector are computed from the shape of a cut tensor and say other numbers now."""
        return tensor in self._stale

    def said(self, tensor: str) -> list[Dim] | None:
        """Elements of a computed integer vector after the cut: an int, a dimension's name, or None.

        Of vectors that are moved, node by node, from constants and from shapes; None for any other.
        """
        return self._said.get(tensor)

    @cached_property
    def _said(self) -> dict[str, list[Dim]]:
        context = self.context
        graph = context.graph

        def stays(node: Node) -> bool:
            """Whether a node moves integers just as before."""
            tensors = (*node.inputs, *node.outputs) if node.op != "Shape" else node.outputs
            return self.active(node) and not node.chain and not any(map(self.touched, filter(None, tensors)))

        def shape_of(node: Node) -> Shape | None:
            if not self.needed(node.inputs[0]):
                return None
            same = context.rule(node).rewrite(node, self).answer is not None
            return context.shape(node.inputs[0]) if same else self.shape(node.inputs[0])

        integers = {n: a for n, a in graph.constants.items() if a.dtype.kind in "iu" and not self.touched(n)}
        return elements(filter(stays, graph.nodes), integers, shape_of, context.opset)

    def weight(self, tensor: str) -> np.ndarray:
        """A constant's values after the cut."""
        array = self.context.graph.constants[tensor]
        for axis in range(array.ndim):
            where = self.indices(tensor, axis)
            if where is not None:
                array = array.take(where, axis)
        return array

    def _find_stale(self) -> set[str]:
        graph = self.context.graph
        stale: set[str] = set()
        changed: set[str] = set()
        for node in graph.nodes:
            # a tensor that the plan does without follows what it is made of, if something of the file still reads it
            made_of = any(name in changed for name in node.inputs)
            changed |= {o for o in node.outputs if (self.touched(o) if self.needed(o) else made_of)}
            if node.op in ("Shape", "Size") and node.inputs[0] in changed:
                stale.add(node.outputs[0])
            elif any(name in stale for name in node.inputs):
                for out in node.outputs:
                    dtype = graph.dtypes.get(out)
                    if (dtype is not None and dtype.kind in "iub") or graph.rank(out) in (0, 1):
                        stale.add(out)
        return stale
