"""The order of nodes, and what bodies read of what is around them."""

from __future__ import annotations

import heapq

import onnx
from onnx import AttributeProto


def captured(node: onnx.NodeProto) -> set[str]:
    """Names of outer tensors that the bodies of a node read."""
    return {name for body in bodies(node) for name in read_outside(body)}


def bodies(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """The graphs that a node holds."""
    return [
        body
        for attribute in node.attribute
        for body in ([attribute.g] if attribute.type == AttributeProto.GRAPH else attribute.graphs)
    ]


def read_outside(body: onnx.GraphProto) -> set[str]:
    """Names of outer tensors that a body reads."""
    inner = {i.name for i in body.input} | {t.name for t in body.initializer}
    inner |= {t.values.name for t in body.sparse_initializer}
    read = {o.name for o in body.output}
    for node in body.node:
        read |= {n for n in node.input if n} | captured(node)
        inner |= set(node.output)
    return read - inner


def in_order(graph: onnx.GraphProto) -> bool:
    """Sort the nodes of a graph, in place, so that each comes behind those that it reads; whether it had to be done.

    ONNX asks for this order, and ONNX Runtime loads files without it, such as those of its own float16 converter.
    Where two nodes write one tensor nothing is done; nodes in a circle, and those behind it, come last as they were.
    """
    maker = {name: place for place, node in enumerate(graph.node) for name in node.output if name}
    if len(maker) < sum(bool(name) for node in graph.node for name in node.output):
        return False
    waits = [{maker[name] for name in (*node.input, *captured(node)) if name in maker} for node in graph.node]
    if all(place > max(others, default=-1) for place, others in enumerate(waits)):
        return False
    readers: list[list[int]] = [[] for _ in waits]
    for place, others in enumerate(waits):
        for other in others:
            readers[other].append(place)
    left = [len(others) for others in waits]
    ready = [place for place, count in enumerate(left) if not count]
    order: list[int] = []
    while ready:
        place = heapq.heappop(ready)
        order.append(place)
        for reader in readers[place]:
            left[reader] -= 1
            if not left[reader]:
                heapq.heappush(ready, reader)
    order += [place for place, count in enumerate(left) if count]
    nodes = [onnx.NodeProto.FromString(graph.node[place].SerializeToString()) for place in order]
    del graph.node[:]
    graph.node.extend(nodes)
    return True
