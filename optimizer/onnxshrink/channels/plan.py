"""The plan: what goes, what stays and why, as plain data that `inspect` prints and tests check."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from ..graph.view import Node, Shape, count
from ..ops.contraction import Contraction
from ..ops.rule import Channels, Context, Rewrite, free_slices
from ..ops.tie import Port, Same
from .agreement import Disagreement, find_disagreements
from .analysis import Analysis
from .negligible import proven
from .reasons import Stay, find_stays

Macs = Mapping[str, int | None]
KINDS = ("zero", "known", "unread", "range", "negligible")


@dataclass(frozen=True)
class Layer:
    """One contraction: its output channels before and after.

    `removed` counts what went, by kind: zero and known by value, unread because nobody needs them, range because
    bounds prove their value, negligible because their weights are. `aligned` channels stay for alignment only.
    """

    node: str
    op: str
    tensor: str
    axis: int
    before: int
    after: int
    removed: dict[str, int]
    aligned: int
    parameters: tuple[int, int]
    macs: tuple[int | None, int | None]


@dataclass(frozen=True)
class Absorbed:
    """Known channels that a consumer does without: their contribution moved into its bias or into a carrier
    channel, or there was none to move (`into` is "bias", "carrier" or "nothing").
    """

    node: str
    tensor: str
    axis: int
    slices: tuple[int, ...]
    values: tuple[float, ...]
    into: str
    carrier: int | None = None
    carried_value: float | None = None


@dataclass(frozen=True)
class Unread:
    """Channels that nobody reads."""

    tensor: str
    axis: int
    slices: tuple[int, ...]


@dataclass
class Plan:
    """Everything that a cut does, as data.

    Attributes:
        kept: for each tensor that is cut, for each axis that is, the indices that stay, in their new order.
        layers: every contraction with a constant weight, in graph order.
        stays: candidates that stayed, grouped by what holds them.
        absorbed: where known values went.
        negligible: weights that count as zero: node, constant, axis, slices, the largest entry, and the evidence:
            "proven" for any input, or "tested" by verification.
        unread: channels that went because nobody reads them: whatever they held, the outputs are the same.
        removed_nodes: labels of nodes that disappear.
        notes: anything else a reader should know.
        changes: whether anything of the file changes.
    """

    kept: dict[str, dict[int, list[int]]] = field(default_factory=dict)
    layers: list[Layer] = field(default_factory=list)
    stays: list[Stay] = field(default_factory=list)
    disagreements: list[Disagreement] = field(default_factory=list)
    absorbed: list[Absorbed] = field(default_factory=list)
    negligible: list[dict[str, Any]] = field(default_factory=list)
    unread: list[Unread] = field(default_factory=list)
    removed_nodes: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    changes: bool = False

    @property
    def channels(self) -> tuple[int, int]:
        """Output channels of all layers, before and after."""
        return sum(layer.before for layer in self.layers), sum(layer.after for layer in self.layers)

    @property
    def removed(self) -> dict[str, int]:
        """Channels that go, by kind."""
        return {kind: sum(layer.removed.get(kind, 0) for layer in self.layers) for kind in KINDS}

    def include(self, label: str, body: Plan) -> None:
        """Add what becomes of a body: layers, what stays and for whom, nodes that go; each with the body's label."""
        self.layers += [replace(layer, node=f"{label}/{layer.node}") for layer in body.layers]
        self.stays += [
            replace(stay, layer=f"{label}/{stay.layer}", holder=f"{label}/{stay.holder}") for stay in body.stays
        ]
        self.disagreements += [replace(item, where=f"{label}/{item.where}") for item in body.disagreements]
        self.removed_nodes += [f"{label}/{node}" for node in body.removed_nodes]

    def to_json(self) -> dict[str, Any]:
        """The plan for machines."""
        return {
            "channels": {"before": self.channels[0], "after": self.channels[1], "removed": self.removed},
            "layers": [asdict(layer) for layer in self.layers],
            "stays": [asdict(stay) for stay in self.stays],
            "disagreements": [asdict(item) for item in self.disagreements],
            "absorbed": [asdict(item) for item in self.absorbed],
            "negligible": self.negligible,
            "removed_nodes": self.removed_nodes,
            "notes": self.notes,
        }


def make_plan(
    analysis: Analysis,
    rewrites: dict[int, Rewrite],
    cut_shape: Callable[[str], Shape | None],
    macs: tuple[Macs, Macs],
) -> Plan:
    """The plan of an analysis.

    Args:
        rewrites: the rewrites of all nodes that stay (they know the sizes of repacked weights).
        cut_shape: a tensor's shape after the cut.
        macs: multiply-adds by a node's first output, before and after.
    """
    solution, context = analysis.solution, analysis.context
    graph = context.graph
    plan = Plan()
    passed_over = {n.outputs[0] for node in graph.nodes if solution.active(node) for n in node.chain[:-1]}
    for tensor in graph.tensors():
        axes = {}
        if tensor in passed_over:  # what a chain moves is read where the chain begins
            continue
        for axis in range(context.rank(tensor) or 0):
            mask = solution.kept((tensor, axis))
            producer = graph.producer.get(tensor)
            there = tensor in graph.constants or producer is None or solution.needed(tensor)
            if not mask.all() and there and (tensor not in graph.constants or _used(tensor, analysis)):
                axes[axis] = [int(i) for i in np.flatnonzero(mask)]
        if axes:
            plan.kept[tensor] = axes
    kinds = _kinds(analysis)
    for node in graph.nodes:
        channels = context.channels(node)
        if channels is not None:
            plan.layers.append(_layer(node, channels, analysis, kinds, rewrites, cut_shape, macs))
        if solution.active(node):
            plan.absorbed += _absorbed(node, analysis)
            if channels is not None:
                port = (node.outputs[0], channels.axis)
                gone = ~solution.kept(port) & (kinds[port] == KINDS.index("unread"))
                where = np.flatnonzero(gone & ~_partly_known(port, analysis.context))
                if where.size:
                    plan.unread.append(Unread(*port, tuple(int(i) for i in where)))
    plan.stays = find_stays(analysis)
    plan.disagreements = find_disagreements(analysis)
    for item in analysis.negligible:
        plan.negligible.append(
            {
                "node": graph.nodes[item.node].label,
                "constant": graph.source[item.tensor],
                "axis": item.axis,
                "slices": list(item.slices),
                "largest": item.size,
                "evidence": "proven" if proven(analysis.before, item) else "tested",
            }
        )
    return plan


def _used(tensor: str, analysis: Analysis) -> bool:
    return any(analysis.solution.active(node) for node, _ in analysis.context.graph.consumers.get(tensor, ()))


def _layer(
    node: Node,
    channels: Channels,
    analysis: Analysis,
    kinds: dict[Port, np.ndarray],
    rewrites: dict[int, Rewrite],
    cut_shape: Callable[[str], Shape | None],
    macs: tuple[Macs, Macs],
) -> Layer:
    solution, context = analysis.solution, analysis.context
    port = (node.outputs[0], channels.axis)
    active = solution.active(node)
    kept = solution.kept(port) if active else np.zeros_like(solution.kept(port))
    gone = ~kept
    removed: dict[str, int] = {}
    kind = kinds[port]
    for code, name in enumerate(KINDS):
        number = int((gone & (kind == code)).sum())
        if number:
            removed[name] = number
    aligned = analysis.aligned.get(port)
    rewrite = rewrites.get(node.index, Rewrite())

    sizes, new = [0], [0]
    for index in channels.parameters:
        name, given = node.input(index), rewrite.inputs.get(index)
        if name in context.graph.constant_only:
            sizes.append(count(context.shape(name) or ()) or 0)
        if active and isinstance(given, np.ndarray):
            new.append(int(given.size))
        elif active and name in context.graph.constant_only:
            new.append(count(cut_shape(name) or ()) or 0)
    return Layer(
        node.label,
        node.op,
        *port,
        int(kept.size),
        int(kept.sum()),
        removed,
        int((aligned & kept).sum()) if aligned is not None else 0,
        (sum(sizes), sum(new)),
        (macs[0].get(port[0]), macs[1].get(port[0]) if active else 0),
    )


def _partly_known(port: Port, context: Context) -> np.ndarray:
    """Slices of which something is known, though not one value: their readers may go by that instead of reading."""
    fact, size = context.fact(port[0]), context.size(*port) or 1
    if fact is None:
        return np.zeros(size, bool)
    others = tuple(axis for axis in range(fact.rank) if axis != port[1])
    return np.asarray(np.broadcast_to(fact.known.any(axis=others), (size,)))


def _kinds(analysis: Analysis) -> dict[Port, np.ndarray]:
    """For each port the kind of each slice, as an index into KINDS, if it goes."""
    context, graph = analysis.context, analysis.context.graph
    kinds: dict[Port, np.ndarray] = {}

    def of(port: Port) -> np.ndarray:
        if port not in kinds:
            uniform, value = free_slices(*port, context)
            kinds[port] = np.where(uniform & (value == 0), 0, np.where(uniform, 1, 2))
        return kinds[port]

    for node in reversed(graph.nodes):
        for tie in analysis.solution.ties[node.index]:
            if isinstance(tie, Same) and tie.a[0] in node.inputs and tie.b[0] in node.outputs:
                into, out = of(tie.a), of(tie.b)
                if tie.index is None:
                    np.minimum(into, out, out=into)
                else:
                    np.minimum.at(into, tie.index, out)
            elif (
                isinstance(tie, Same) and tie.b[0] in node.inputs and tie.a[0] in node.outputs and tie.index is not None
            ):
                np.minimum(of(tie.b), of(tie.a)[tie.index], out=of(tie.b))
    result = {}
    for node in graph.nodes:
        channels = context.channels(node)
        if channels is None:
            continue
        port = (node.outputs[0], channels.axis)
        kind = of(port).copy()
        for code, other in ((3, analysis.unbounded), (4, analysis.exact)):
            if other is not analysis.solution:
                there = other.kept(port) if other.active(node) else np.zeros_like(kind, bool)
                kind[there] = code
        result[port] = kind
    return result


def _absorbed(node: Node, analysis: Analysis) -> list[Absorbed]:
    context = analysis.context
    rule = context.rule(node)
    port = rule.absorbing_port(node, context) if isinstance(rule, Contraction) else None
    if port is None or not isinstance(rule, Contraction):
        return []
    kept = analysis.solution.kept(port)
    uniform, value = free_slices(*port, context)
    free, carried = rule.absorbs(node, context)
    read = rule.read(node, context)
    moved = free & read & (rule.contributions(node, context) != 0)
    gone = (free | carried) & ~kept & uniform
    items = []

    def note(mask: np.ndarray, into: str, carrier: int | None = None) -> None:
        where = np.flatnonzero(mask)
        if where.size:
            values = tuple(float(v) for v in value[where])
            held = None if carrier is None else float(value[carrier])
            items.append(Absorbed(node.label, *port, tuple(int(i) for i in where), values, into, carrier, held))

    note(gone & moved, "bias")
    carriers = rule.carriers(node, context, kept)
    width = kept.size // carriers.size
    for group, carrier in enumerate(carriers):
        mask = np.zeros_like(gone)
        mask[group * width : (group + 1) * width] = carrier >= 0
        note(mask & gone & carried & read, "carrier", int(carrier))
        gone &= ~(mask & carried & read)
    note(gone & ~moved, "nothing")
    return items
