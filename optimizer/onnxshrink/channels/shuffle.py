"""Chains of Reshape and Transpose that only pick slices along one axis, such as a channel shuffle, as one selection.

Cut one by one, the grids of such a chain cut nothing. The map from input to output is the chain itself, applied to an
arange; if it is `take(index, axis)`, the chain's last node is planned as that selection: it reads the chain's input
directly, and becomes a Gather if something of it goes. If nothing does, the file keeps the chain.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..graph.view import Node
from ..ops.rule import Context

MOVES = {"Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Gather", "Slice", "Identity"}
LAST = {"Reshape", "Gather", "Slice", "Squeeze", "Flatten", "Transpose"}
DEPTH = 8
MAX_ELEMENTS = 1 << 23


def find_selections(context: Context) -> int:
    """Plan chains as selections, in place in `context.graph`; returns how many were found."""
    graph = context.graph
    count = 0
    for node in list(graph.nodes):
        if node.op in LAST and not node.domain and node.outputs[0] not in graph.constant_only:
            found = _selection(node, context)
            if found is not None:
                start, axis, index = found
                graph.nodes[node.index] = replace(node, inputs=(start,), select=(axis, index))
                count += 1
    if count:
        graph.forget_wiring()
    return count


def _selection(last: Node, context: Context) -> tuple[str, int, np.ndarray] | None:
    """(input, axis, index) of the longest chain ending in `last` that holds a Transpose and is a selection."""
    graph = context.graph
    chain: list[Node] = [last]
    best = None
    while len(chain) < DEPTH:
        start = chain[0].inputs[0]
        if len(chain) > 1 and any(node.op == "Transpose" for node in chain):
            best = _as_selection(chain, start, context) or best
        producer = graph.producer.get(start)
        if producer is None or producer.op not in MOVES or producer.domain or producer.select is not None:
            break
        chain.insert(0, producer)
    return best


def _as_selection(chain: list[Node], start: str, context: Context) -> tuple[str, int, np.ndarray] | None:
    source, target = _sizes(start, context), _sizes(chain[-1].outputs[0], context)
    if source is None or target is None or len(source) != len(target) or np.prod(source, dtype=object) > MAX_ELEMENTS:
        return None
    axes = [a for a in range(len(source)) if source[a] != target[a]] or [a for a in range(len(source)) if source[a] > 1]
    if len(axes) > 1 and source != target:
        return None
    numbers = np.arange(int(np.prod(source))).reshape(source)
    moved = _applied(chain, numbers, context)
    if moved is None or list(moved.shape) != target:
        return None
    for axis in axes:
        line = moved[tuple(slice(None) if a == axis else 0 for a in range(moved.ndim))]
        index = np.unravel_index(line, source)[axis]
        if np.array_equal(numbers.take(index, axis), moved):
            identity = index.size == source[axis] and bool((np.diff(index) == 1).all())
            return None if identity else (start, axis, index)
    return None


def _sizes(tensor: str, context: Context) -> list[int] | None:
    """The tensor's sizes, with one element standing for a dynamic leading batch; None if others are not known."""
    shape = context.shape(tensor)
    if not shape or not all(isinstance(d, int) for d in shape[1:]):
        return None
    return [d if isinstance(d, int) else 1 for d in shape]


def _applied(chain: list[Node], array: np.ndarray, context: Context) -> np.ndarray | None:
    """The chain on an array; None where it does something that depends on the batch."""
    batch = context.shape(chain[0].inputs[0])
    for node in chain:
        target, shape = _sizes(node.outputs[0], context), context.shape(node.outputs[0])
        if target is None or shape is None or batch is None:
            return None
        if not isinstance(batch[0], int) and shape[0] != batch[0]:
            return None  # a dynamic batch must stay the leading axis
        if node.op == "Transpose":
            order = node.attr("perm", list(range(array.ndim))[::-1])
            if not isinstance(batch[0], int) and order[0] != 0:
                return None
            array = array.transpose(order)
        elif node.op == "Gather":
            indices, axis = context.array(node.inputs[1]), int(node.attr("axis", 0))
            if indices is None or indices.ndim > 1:
                return None
            array = array.take(indices, axis)
        elif node.op == "Slice":
            index = context.rule(node).index(node, context)  # type: ignore[attr-defined]
            if index is None or any(not isinstance(d, int) for d in shape[1:]):
                return None
            for axis, where in index.items():
                array = array.take(where, axis)
        elif array.size != np.prod(target):
            return None
        else:
            array = array.reshape(target)
        if list(array.shape) != target:
            return None
    return array
