"""Plans of several passes as one: what a pass says of the result before it is said of the original.

A pass looks at what the one before it left as at any model, so nothing has to be foreseen: what the rest knows once
something is gone is found by looking again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..graph.view import Graph
from .plan import KINDS, Layer, Plan

Kept = Mapping[str, Mapping[int, Sequence[int]]]


def joined(first: Plan, second: Plan, graphs: tuple[Graph, Graph]) -> Plan:
    """One plan for two passes.

    Args:
        first, second: the plans; indices of the second count what the first one left.
        graphs: what each of them is about.
    """
    edges = _edges(*graphs)
    plan = Plan()
    plan.kept = _joined_kept(first.kept, second.kept, edges)
    before = {layer.tensor: layer for layer in first.layers}
    after = {layer.tensor: layer for layer in second.layers}
    plan.layers = [_joined_layer(layer, after[name]) if name in after else layer for name, layer in before.items()]
    labels = {node.label: node.outputs[0] for node in graphs[0].nodes}
    for stay in second.stays:
        tensor = labels.get(stay.layer, "")
        slices = _lifted(first.kept, tensor, before[tensor].axis, stay.slices) if tensor in before else stay.slices
        plan.stays.append(replace(stay, slices=slices))
    plan.disagreements = list(second.disagreements)
    plan.absorbed = list(first.absorbed)
    for item in second.absorbed:
        carrier = item.carrier
        if carrier is not None:
            (carrier,) = _lifted(first.kept, item.tensor, item.axis, [carrier])
        slices = _lifted(first.kept, item.tensor, item.axis, item.slices)
        plan.absorbed.append(replace(item, slices=slices, carrier=carrier))
    plan.negligible = [*first.negligible, *(_lifted_negligible(item, first.kept, graphs) for item in second.negligible)]
    for unread in second.unread:
        plan.unread.append(replace(unread, slices=_lifted(first.kept, unread.tensor, unread.axis, unread.slices)))
    plan.unread = [*first.unread, *plan.unread]
    plan.removed_nodes = [*first.removed_nodes, *second.removed_nodes]
    plan.notes = [*first.notes, *second.notes]
    plan.changes = first.changes or second.changes
    return plan


def _edges(first: Graph, second: Graph) -> dict[str, str]:
    """For each constant operand of the second graph the same operand of the first one."""
    nodes = {node.outputs[0]: node for node in first.nodes}
    return {
        name: nodes[node.outputs[0]].input(index)
        for node in second.nodes
        if node.outputs[0] in nodes
        for index, name in enumerate(node.inputs)
        if name in second.constants and nodes[node.outputs[0]].input(index) in first.constants
    }


def _lifted(kept: Kept, tensor: str, axis: int, slices: Sequence[int]) -> tuple[int, ...]:
    """Slices of what is left of a tensor as slices of the whole."""
    own = kept.get(tensor, {}).get(axis)
    return tuple(slices) if own is None else tuple(own[s] for s in slices)


def _joined_kept(first: Kept, second: Kept, edges: Mapping[str, str]) -> dict[str, dict[int, list[int]]]:
    result = {tensor: {axis: list(kept) for axis, kept in axes.items()} for tensor, axes in first.items()}
    for tensor, axes in second.items():
        name = edges.get(tensor, tensor)
        for axis, kept in axes.items():
            result.setdefault(name, {})[axis] = list(_lifted(first, name, axis, kept))
    return result


def _joined_layer(one: Layer, two: Layer) -> Layer:
    removed = {kind: one.removed.get(kind, 0) + two.removed.get(kind, 0) for kind in KINDS}
    return replace(
        one,
        after=two.after,
        removed={kind: number for kind, number in removed.items() if number},
        aligned=two.aligned,
        parameters=(one.parameters[0], two.parameters[1]),
        macs=(one.macs[0], two.macs[1]),
    )


def _lifted_negligible(item: Mapping[str, Any], kept: Kept, graphs: tuple[Graph, Graph]) -> dict[str, Any]:
    """What was negligible in the second pass, with the name and the indices that it has in the original."""
    first, second = graphs
    node = next(node for node in second.nodes if node.label == item["node"])
    edge = next(name for name in node.inputs if second.source.get(name) == item["constant"])
    before = _edges(first, second).get(edge, edge)
    slices = _lifted(kept, before, item["axis"], item["slices"])
    return {**item, "constant": first.source.get(before, item["constant"]), "slices": list(slices)}
