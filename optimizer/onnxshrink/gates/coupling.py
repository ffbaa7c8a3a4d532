"""Coupling: which channels of a network stand or fall together, from its exported graph.

Every activation carries labels: an array of unit numbers that broadcasts to it, 0 where nothing could go. An operator
that moves elements moves labels, by being run on them; one that joins tensors joins their units; a layer with weights
makes new ones. What comes out is, for each axis of each parameter, the unit of each slice: what a gate multiplies,
what a cost counts, what a removal cuts.

An operator that is not known keeps all units of what it reads, so that no network is pruned wrongly.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, Node

from .labels import Labels, along, compress, nothing
from .selection import Selection, find_selections
from .trace import trace
from .units import Units

aten = torch.ops.aten


@dataclass(frozen=True)
class Cost:
    """A number that grows with channels: `each` times the product over `terms` of the units that are open.

    Attributes:
        name: of the layer's weight, or of the operator.
        terms: units along each axis that counts, [n] int64 each; 0 is always open.
    """

    name: str
    each: float
    terms: tuple[Tensor, ...]


@dataclass
class Coupling:
    """What couples the channels of a network.

    Attributes:
        axes: for each parameter, buffer (by its name in the module) and constant of the forward pass: axis -> units of
            its slices, [n] int64.
        gated: for each parameter that gates multiply: axis -> units of its slices, [n] int64, 0 where there is no gate.
            A gate multiplies all that would make its unit non-zero; where an activation makes something else of zero,
            all the weights that read it.
        layers: weights whose outputs are the units, with the axis: (name, axis), in the order of the graph.
        macs: multiply-adds of one run on the example.
        shapes: of every parameter, buffer and constant.
        normalized: weights of layers that only a normalization reads, with the name of its running mean.
        uses: for each parameter, how many operators read it.
        unknown: operators that keep all the units that they read, because nothing is known of them, and how many.
    """

    axes: dict[str, dict[int, Tensor]]
    gated: dict[str, dict[int, Tensor]]
    layers: list[tuple[str, int]]
    macs: list[Cost]
    shapes: dict[str, tuple[int, ...]]
    normalized: dict[str, str]
    uses: dict[str, int]
    unknown: dict[str, int]

    def told_unknown(self) -> str:
        """`unknown` as text."""
        return ", ".join(f"{name} ({n} times)" if n > 1 else name for name, n in sorted(self.unknown.items()))


def couple(network: nn.Module, example: tuple[Tensor, ...]) -> Coupling:
    """Trace a network and find what couples its channels.

    Args:
        network: any module that torch.export can trace.
        example: inputs to trace with; sizes other than channels only scale the costs.

    Raises:
        InputError: torch.export cannot trace the network.
    """
    return Trace(trace(network, example)).coupling


class Trace:
    """One walk over an exported graph.

    Attributes:
        coupling: what it found.
        roots: for each unit the smallest of its set, int64.
    """

    def __init__(self, program: torch.export.ExportedProgram):
        self.program, self.graph = program, program.graph
        self.live = _live(self.graph)
        signature = program.graph_signature
        first: dict[int, str] = {}
        shared = {name: first.setdefault(id(tensor), name) for name, tensor in program.state_dict.items()}
        found = {
            **signature.inputs_to_parameters,
            **signature.inputs_to_buffers,
            **signature.inputs_to_lifted_tensor_constants,
        }
        # a parameter that modules share has one name, the first, as `named_parameters` gives it
        self.names = {placeholder: shared.get(name, name) for placeholder, name in found.items()}
        self.trainable = {shared.get(name, name) for name in signature.inputs_to_parameters.values()}
        self.constants = set(signature.inputs_to_lifted_tensor_constants.values())
        values = {**program.state_dict, **program.constants}
        fixed = {place: values[name] for place, name in found.items() if name not in self.trainable and name in values}
        self._chains = find_selections(self.graph, self.live, fixed)
        self._through: dict[Node, list[Selection]] = {}
        for selection in self._chains.values():
            for inner in selection.inside:
                self._through.setdefault(inner, []).append(selection)
        self.selections: dict[Node, Selection] = {}
        self.passed: set[Node] = set()
        self.units = Units()
        self.labels: dict[Node, Any] = {}
        self.axes: dict[str, dict[int, Tensor]] = {}
        self.gated: dict[str, int] = {}
        self.reads: list[tuple[str, int, bool]] = []
        self.sums: list[Tensor] = []
        self.layers: list[tuple[str, int]] = []
        self.macs: list[Cost] = []
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.producers: dict[Node, list[str]] = {}
        self.covered: set[Node] = set()
        self.normalized: dict[str, str] = {}
        self.loose: dict[str, tuple[int, Tensor]] = {}
        self.bare: set[str] = set()  # parameters that something else than a layer reads, too
        self.uses: Counter[str] = Counter()
        self.unknown: Counter[str] = Counter()
        self.coupling = self._coupled()
        self.roots = self.units.roots()

    def _coupled(self) -> Coupling:
        """Walk the graph."""
        for node in self.graph.nodes:
            if node.op == "placeholder":
                self.labels[node] = self._placeholder(node)
            elif node.op == "call_function" and node in self.live:
                self._walk(node)
            elif node.op == "output":
                for source in node.all_input_nodes:
                    if source in self.labels and isinstance(self.labels[source], Labels):
                        self.units.keep(self.labels[source].units)
        for name in self.bare & self.axes.keys():
            for axis in self.axes[name].keys() - {self.loose[name][0]}:
                self.units.keep(self.axes[name][axis])
        for name, (axis, units) in self.loose.items():
            joined = self.units.joined(units)
            if joined.any():
                self.parameter(name, axis, units)
                self.units.keep(units[~joined])  # no layer makes what is added to none
        self._make_grids()
        gated = self._find_gated()
        resolve = self.units.resolve
        return Coupling(
            {
                name: kept
                for name, axes in self.axes.items()
                if (kept := {a: u for a, u in ((a, resolve(u)) for a, u in sorted(axes.items())) if u.any()})
            },
            gated,
            self.layers,
            [replace(cost, terms=tuple(resolve(term) for term in cost.terms)) for cost in self.macs],
            self.shapes,
            self.normalized,
            dict(self.uses),
            dict(self.unknown),
        )

    def _find_gated(self) -> dict[str, dict[int, Tensor]]:
        """What gates multiply: what makes a unit or, where somebody would not find zero, all weights that read it.

        Both, where units are summed up without a weight too, or by one that is no parameter and takes no gate. Units
        stay that such a weight would not find zero, or that no layer makes.
        """
        reads = [(self.axes[name][axis], name in self.trainable, zero) for name, axis, zero in self.reads]
        awake = self._sets(units for units, _, zero in reads if not zero)
        held = torch.isin(awake, self._sets(units for units, own, zero in reads if not own and not zero))
        held |= ~torch.isin(awake, self._sets(self.axes[name][axis] for name, axis in self.layers))
        self.units.keep(awake[held])
        awake = awake[~held]
        both = self._sets([*self.sums, *(units for units, own, _ in reads if not own)])
        made = {name for names in self.producers.values() for name in names}
        bare = {name for node, names in self.producers.items() if node not in self.covered for name in names}
        found: dict[str, dict[int, Tensor]] = {}

        def add(name: str, axis: int, chosen: Callable[[Tensor], Tensor]) -> None:
            units = self.units.resolve(self.axes[name][axis])
            units = torch.where(chosen(units), units, 0)
            if units.any():
                before = found.setdefault(name, {}).get(axis, units)
                found[name][axis] = torch.maximum(before, units)

        for name, axis in self.gated.items():
            if name in bare or name not in made:
                add(name, axis, lambda units: ~torch.isin(units, awake) | torch.isin(units, both))
        for name, axis, _ in self.reads:
            if name in self.trainable:
                add(name, axis, lambda units: torch.isin(units, awake))
        return found

    def _sets(self, arrays: Iterable[Tensor]) -> Tensor:
        """The smallest unit of each set that is in one of the arrays, and 0."""
        units = [torch.zeros(1, dtype=torch.long), *(array.reshape(-1) for array in arrays)]
        return self.units.resolve(torch.cat(units)).unique()

    def _walk(self, node: Any) -> None:
        """A chain that selects among units is one movement, at its last node; others go node by node."""
        through = self._through.get(node, [])
        if through and all(self._selects(selection) for selection in through):
            self.passed.add(node)
            return
        selection = self._chains.get(node)
        if selection is not None and self._selects(selection):
            self.selections[node] = selection
            labels = self.of(selection.source)
            units = labels.units.index_select(selection.axis, selection.index)
            self.labels[node] = replace(labels, units=compress(units))
            return
        self.labels[node] = (handler_of(node) or unknown)(self, node)

    def _selects(self, selection: Selection) -> bool:
        """Whether a selection picks among different units."""
        labels = self.labels.get(selection.source)
        return isinstance(labels, Labels) and labels.units.shape[selection.axis] > 1

    def _make_grids(self) -> None:
        """A tensor is a grid: where units vary along two axes, they are joined along the shorter of them.

        Whole heads (units that vary along one axis only, once query and key are joined) are grids already.
        """
        arrays = [found.units for found in self.labels.values() if isinstance(found, Labels)]
        several = [units for units in arrays if sum(size > 1 for size in units.shape) > 1]
        changed = True
        while changed:
            changed = False
            for units in several:
                found = compress(self.units.resolve(units))
                varying = [axis for axis in range(found.dim()) if found.shape[axis] > 1]
                if len(varying) > 1:
                    self.units.join(found, found.narrow(min(varying, key=lambda axis: found.shape[axis]), 0, 1))
                    changed = True

    def _placeholder(self, node: Any) -> Labels:
        name, value = self.names.get(node.name), node.meta.get("val")
        if not isinstance(value, Tensor):
            return Labels(torch.zeros((), dtype=torch.long))
        if name is None:
            return Labels(torch.zeros((1,) * value.dim(), dtype=torch.long))
        self.shapes[name] = tuple(value.shape)
        self.uses[name] += sum(user in self.live for user in node.users)
        picked = {axis for user in node.users for axis in picked_axes(user)}
        wide = [axis for axis, size in enumerate(value.shape) if size > 1 and axis not in picked]
        if not wide:
            return Labels(torch.zeros((1,) * value.dim(), dtype=torch.long))
        axis = wide[-1]
        if name not in self.loose:
            self.loose[name] = axis, self.units.new(value.shape[axis])
        _, units = self.loose[name]
        return replace(along(units, axis, value.dim(), zero=False), parameter=name)

    # what handlers use

    def of(self, node: Any) -> Labels:
        """The labels of an argument."""
        found = self.labels[node]
        assert isinstance(found, Labels)
        if node.op == "placeholder" and found.parameter is not None:
            self.bare.add(found.parameter)
        return found

    def parameter(self, name: str, axis: int, units: Tensor) -> None:
        """A parameter's slices along an axis belong to these units (too)."""
        axes = self.axes.setdefault(name, {})
        self.units.join(axes.setdefault(axis, units), units)

    def named(self, node: Any) -> str | None:
        """The name of the parameter or buffer that an argument is."""
        return self.names.get(node.name) if isinstance(node, Node) else None

    def channel(self, node: Node, axis: int) -> Tensor:
        """The units along one axis of an activation, [n]; those that share a slice are joined."""
        labels, value = self.of(node), node.meta["val"]
        axis %= value.dim()
        others = [other for other in range(labels.units.dim()) if other != axis]
        return self.drop(labels, others, keep=False).units.reshape(-1).expand(value.shape[axis])

    def read(self, name: str, axis: int, units: Tensor, zero: bool) -> None:
        """A weight sums up these units along one of its axes; `zero`: those that are closed would be zero."""
        self.parameter(name, axis, units)
        self.reads.append((name, axis, zero))

    def drop(self, labels: Labels, axes: Iterable[int], *, keep: bool) -> Labels:
        """Labels after reducing axes to length one: units there are joined, or must stay if `keep`."""
        units = labels.units
        for axis in axes:
            if units.shape[axis] > 1:
                if keep:
                    self.units.keep(units)
                first = units.narrow(axis, 0, 1)
                self.units.join(units, first)
                units = first
        return replace(labels, units=units, parameter=None)


def picked_axes(node: Node) -> list[int]:
    """The axes of its first argument that an index picks from."""
    picks: Any = node.args[1] if node.target is aten.index.Tensor else ()
    return [axis for axis, pick in enumerate(picks) if pick is not None]


def _live(graph: Graph) -> set[Node]:
    """The nodes that an output depends on: what others do has no effect, and no exporter writes them."""
    found: set[Node] = set()
    left = [node for node in graph.nodes if node.op == "output"]
    while left:
        node = left.pop()
        if node not in found:
            found.add(node)
            left.extend(node.all_input_nodes)
    return found


Handler = Callable[[Trace, Node], Any]
HANDLERS: dict[Any, Handler] = {}
POINTWISE = torch.Tag.pointwise
"""What a handler registers for to have all elementwise operators that have none of their own."""


def handles(*targets: Any) -> Callable[[Handler], Handler]:
    """Register a handler for operators."""

    def register(handler: Handler) -> Handler:
        for target in targets:
            HANDLERS[target] = handler
        return handler

    return register


def handler_of(node: Node) -> Handler | None:
    """The handler of a node's operator; None for one that is not known."""
    tags = getattr(node.target, "tags", ())
    return HANDLERS.get(node.target, HANDLERS[POINTWISE] if POINTWISE in tags else None)


def unknown(trace: Trace, node: Any, how: str = "") -> Any:
    """An operator that is not known, or not in the way that `how` says, keeps all that it reads."""
    read = [found for source in node.all_input_nodes if isinstance(found := trace.labels.get(source), Labels)]
    for labels in read:
        trace.units.keep(labels.units)
    if how or any(labels.units.any() and labels.parameter is None for labels in read):
        trace.unknown[f"{node.target}{how}"] += 1
    return nothing(node.meta.get("val"))
