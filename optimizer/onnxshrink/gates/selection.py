"""Chains of views that amount to a selection: slices of one axis, in another order or only some of them.

A channel shuffle is a reshape, a transpose and a reshape back. Cut one by one, they would have to stay grids: every
group would keep the same channels, and behind some shuffles all channels of a stage would stand or fall together. As
one selection they tie nothing. Steps, rolls and picks by a constant index are selections of their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, Node, map_arg

aten = torch.ops.aten

MIXING = {
    *(aten.index_select.default, aten.index.Tensor),  # by a constant
    *(aten.view.default, aten.reshape.default, aten._unsafe_view.default, aten.flatten.using_ints),
    *(aten.unflatten.int, aten.slice.Tensor, aten.roll.default, aten.channel_shuffle.default),
}
"""At least one of these makes a selection; what others do to slices is the same before and after a cut."""

MOVES = {
    *MIXING,
    *(aten.transpose.int, aten.permute.default, aten.t.default, aten.unsqueeze.default, aten.squeeze.dim),
    *(aten.squeeze.dims, aten.squeeze.default, aten.select.int, aten.movedim.int, aten.movedim.intlist),
    *(aten.swapaxes.default, aten.flip.default, aten.narrow.default, aten.clone.default, aten.contiguous.default),
}
COPIES = {aten.lift_fresh_copy.default, aten.lift_fresh.default, aten.clone.default, aten.detach.default}
DEPTH = 8


@dataclass(frozen=True)
class Selection:
    """`source.index_select(axis, index)`, as a chain of views computes it.

    Attributes:
        index: [n] int64.
        inside: the nodes of the chain but for its last.
    """

    source: Node
    axis: int
    index: Tensor
    inside: tuple[Node, ...]


def find_selections(graph: Graph, live: set[Node], constants: Mapping[str, Tensor]) -> dict[Node, Selection]:
    """The chains of a graph that are selections, by their last node.

    Args:
        graph: as torch.export makes it.
        live: the nodes that an output depends on.
        constants: buffers and constants by the name of their placeholder.
    """
    found = {}
    for node in graph.nodes:
        if node in live and node.target in MOVES:
            selection = _longest(_behind(node, constants), constants)
            if selection is not None:
                found[node] = selection
    while (conflict := next(_read_elsewhere(found, live), None)) is not None:
        last, inner = conflict
        chain = [*found.pop(last).inside, last]
        shorter = _longest(chain[chain.index(inner) + 1 :], constants)
        if shorter is not None:
            found[last] = shorter
    return found


def _behind(node: Node, constants: Mapping[str, Tensor]) -> list[Node]:
    """The chain of moves that ends with a node, first to last."""
    chain: list[Node] = []
    place: object = node
    while isinstance(place, Node) and place.target in MOVES and len(chain) < DEPTH:
        tensors = [n for n in place.all_input_nodes[1:] if isinstance(n.meta.get("val"), Tensor)]
        if any(_constant(n, constants) is None for n in tensors):
            break
        chain.insert(0, place)
        place = place.args[0]
    return chain


def _longest(chain: list[Node], constants: Mapping[str, Tensor]) -> Selection | None:
    """The longest chain with the same end that is a selection."""
    for start in range(len(chain)):
        if any(_mixes(node) for node in chain[start:]):
            found = _selection(chain[start:], constants)
            if found is not None:
                return found
    return None


def _mixes(node: Node) -> bool:
    """Whether a node's slices, once some are cut, would be others if it did the same to what is left."""
    if node.target is aten.slice.Tensor:
        return bool(len(node.args) > 4 and node.args[4] != 1)
    return node.target in MIXING


def _selection(chain: list[Node], constants: Mapping[str, Tensor]) -> Selection | None:
    """The chain as a selection, if it is one: along any axis but the batch."""
    source = chain[0].args[0]
    assert isinstance(source, Node)
    sizes = [int(size) for size in source.meta["val"].shape]
    made = [int(size) for size in chain[-1].meta["val"].shape]
    if len(sizes) != len(made) or sum(a != b for a, b in zip(sizes, made, strict=True)) > 1 or not all(sizes + made):
        return None
    places = torch.arange(torch.Size(sizes).numel()).reshape(sizes)
    moved = places
    for node in chain:
        moved = _run(node, moved, constants)
    changed = [axis for axis in range(len(sizes)) if made[axis] != sizes[axis]]
    for axis in changed or range(1, len(sizes)):
        if axis == 0:
            continue
        lane = moved[tuple(slice(None) if a == axis else slice(1) for a in range(len(sizes)))].reshape(-1)
        index = lane.div(places.stride(axis), rounding_mode="floor") % sizes[axis]
        if torch.equal(places.index_select(axis, index), moved):
            return Selection(source, axis, index, tuple(chain[:-1]))
    return None


def _run(node: Node, x: Tensor, constants: Mapping[str, Tensor]) -> Tensor:
    """What a node does to other values."""

    def value(n: Node) -> Any:
        known = _constant(n, constants)
        return known if known is not None else int(n.meta["val"])

    arguments, keywords = map_arg((node.args[1:], dict(node.kwargs)), value)
    moved = node.target(x.contiguous(), *arguments, **keywords)  # type: ignore[operator]
    assert isinstance(moved, Tensor)
    return moved


def _constant(node: Node, constants: Mapping[str, Tensor]) -> Tensor | None:
    """The value of a buffer or of a constant, or of a copy of it."""
    while node.target in COPIES:
        source = node.args[0]
        assert isinstance(source, Node)
        node = source
    return constants.get(node.name) if node.op == "placeholder" else None


def _read_elsewhere(found: dict[Node, Selection], live: set[Node]) -> Iterator[tuple[Node, Node]]:
    """Chains, by their last node, and what is inside that something else needs."""
    reads: dict[Node, set[Node]] = {}
    for last, selection in found.items():
        for inner in selection.inside:
            reads.setdefault(inner, set()).update((*selection.inside, last))
    for last, selection in found.items():
        for inner in reversed(selection.inside):
            if any(user in live and user not in reads[inner] for user in inner.users):
                yield last, inner
