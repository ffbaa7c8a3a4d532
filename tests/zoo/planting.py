"""Plants zero, constant and unread channels in a network, whole classes of tied channels at a time.

- zero: the filters of all producers are zero, or their scale and shift after them are;
- constant: scale 0 and a shift after each producer, or a zero filter with a bias;
- unread: no reader has a weight for the channel.

Grouped Convs are planted in *orbits*, sets of channels that take as many from each group, so that there is one right
answer. Besides, in layers that a Sum ties together a few channels of single producers are zeroed: these cannot go.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
from onnx import NodeProto

from .channels import ChannelGraph, Producer, Reader, Weights

KINDS = ("zero", "constant", "unread")


@dataclass
class Affine:
    """What follows a Conv before anything else reads it: initializers that scale and shift its channels."""

    scales: list[str]
    shifts: list[str]


class Planter:
    """Changes `weights` in place; `graph` is only asked about structure."""

    def __init__(self, graph: ChannelGraph, weights: Weights, rng: np.random.Generator):
        self.graph, self.weights, self.rng = graph, weights, rng
        self.counts: Counter[str] = Counter()
        self.makers: dict[int, list[tuple[Producer, int]]] = {}
        self.lookers: dict[int, list[tuple[Reader, int]]] = {}
        for producer in graph.producers:
            for index, root in enumerate(graph.roots(producer.elements)):
                self.makers.setdefault(int(root), []).append((producer, index))
        for reader in graph.readers:
            for index, root in enumerate(graph.roots(reader.elements)):
                self.lookers.setdefault(int(root), []).append((reader, index))
        self.affines = {id(producer): self._affine(producer) for producer in graph.producers}

    def _affine(self, producer: Producer) -> Affine:
        """The chain BatchNormalization, Mul, Add by constants after a Conv, as long as nobody else reads it."""
        affine, tensor = Affine([], []), producer.node.output[0]
        while True:
            readers = [node for node in self.graph.model.graph.node if tensor in node.input]
            if len(readers) != 1 or readers[0].op_type not in ("BatchNormalization", "Mul", "Add"):
                return affine
            node = readers[0]
            if node.op_type == "BatchNormalization":
                affine.scales.append(node.input[1])
                affine.shifts.append(node.input[2])
            else:
                constant = self._initializer(node, tensor)
                if constant is None:
                    return affine
                (affine.scales if node.op_type == "Mul" else affine.shifts).append(constant)
            tensor = node.output[0]

    def _initializer(self, node: NodeProto, tensor: str) -> str | None:
        """The initializer behind the other operand of a Mul or Add, through Unsqueeze."""
        other = node.input[1] if node.input[0] == tensor else node.input[0]
        for unsqueeze in self.graph.model.graph.node:
            if unsqueeze.op_type == "Unsqueeze" and unsqueeze.output[0] == other:
                return unsqueeze.input[0]
        return other if other in self.weights else None

    def prunable(self, root: int) -> bool:
        """Made by Convs only, and not seen by a barrier or an output."""
        made, seen = self.makers.get(root, []), self.lookers.get(root, [])
        return bool(made and seen) and all(reader.node.name != "pin" for reader, _ in seen)

    def zero(self, root: int) -> None:
        for producer, index in self.makers[root]:
            self._close(producer, index, 0.0)

    def constant(self, root: int) -> bool:
        """False, and nothing planted, where a producer has neither a bias nor a shift, or a depthwise Conv follows."""
        makers = self.makers[root]
        depthwise = [producer for producer, _ in makers if producer.depthwise]
        if depthwise and len(makers) == 2:  # a constant after the depthwise Conv; before it the channel stays live
            makers = [(producer, index) for producer, index in makers if producer.depthwise]
        elif depthwise:
            return False
        if any(len(p.node.input) < 3 and not self.affines[id(p)].shifts for p, _ in makers):
            return False
        for producer, index in makers:
            self._close(producer, index, float(self.rng.choice([-1, 1, 1]) * self.rng.uniform(0.1, 0.6)))
        return True

    def _close(self, producer: Producer, index: int, value: float) -> None:
        """Makes one output of a Conv, after what scales and shifts it, equal to `value` everywhere."""
        affine = self.affines[id(producer)]
        shifts = affine.shifts or list(producer.node.input[2:3])
        for name in shifts:
            self.weights[name][index] = 0
        if shifts and value:
            self.weights[shifts[-1]][index] = value
        if affine.scales:
            self.weights[affine.scales[-1]][index] = 0
        if not affine.scales or (value == 0 and self.rng.random() < 0.5):
            self.weights[producer.node.input[1]][index] = 0

    def unread(self, root: int) -> None:
        for reader, index in self.lookers[root]:
            shape = self.graph.weights[reader.node.input[1]].shape
            weight = self.weights[reader.weight].reshape(shape)  # a view
            if reader.node.op_type == "Gemm":
                block = weight.shape[1] // len(reader.elements)
                weight[:, index * block : (index + 1) * block] = 0
            else:
                columns, rows = weight.shape[1], len(weight) // reader.group
                group = index // columns
                weight[group * rows : (group + 1) * rows, index % columns] = 0

    def plant(self, orbit: list[int], kind: str) -> None:
        """Gives all classes of an orbit the same kind; constant falls back to zero where it cannot be."""
        orbit = list(dict.fromkeys(orbit))
        for root in orbit:
            if kind == "constant" and not self.constant(root):
                kind = "zero"
        for root in orbit:
            if kind != "constant":
                getattr(self, kind)(root)
        self.counts[kind] += len(orbit)


def plant(graph: ChannelGraph, weights: Weights, rng: np.random.Generator, fraction: float) -> dict[str, int]:
    """Plants `fraction` of the orbits of each Conv, in equal parts of the three kinds; returns classes by kind."""
    for name in {name for node in graph.model.graph.node for name in node.input} & set(weights):
        weights[name] = np.array(weights[name])  # writable
    planter = Planter(graph, weights, rng)
    decided: set[int] = set()
    cache: dict[frozenset, list[list[int]]] = {}
    for producer in graph.producers:
        orbits = orbits_of(graph, producer, cache)
        free = [o for o in orbits if not decided & set(o) and all(planter.prunable(root) for root in o)]
        decided.update(root for orbit in orbits for root in orbit)
        chosen = rng.permutation(len(free))[: round(fraction * len(free))]
        for turn, index in enumerate(chosen):
            planter.plant(free[index], KINDS[turn % 3])
    disagree(graph, planter)
    return dict(planter.counts)


def disagree(graph: ChannelGraph, planter: Planter) -> None:
    """Zeroes one live channel of each producer whose channels a Sum ties to those of another."""
    for producer in graph.producers:
        roots = graph.roots(producer.elements)
        tied = [
            i for i, root in enumerate(roots) if len([p for p, _ in planter.makers[int(root)] if not p.depthwise]) > 1
        ]
        if tied and producer.group == 1:
            planter._close(producer, int(planter.rng.choice(tied)), 0.0)
            planter.counts["disagreeing"] += 1


def orbits_of(graph: ChannelGraph, producer: Producer, cache: dict) -> list[list[int]]:
    """The classes that are planted together: single ones, or where grouped Convs are concerned balanced sets.

    A *side* is the input or output of a grouped Conv: it sorts classes into groups. All sides that share classes with
    the producer, directly or through other sides, are balanced at once. The channels of a shuffle are taken as whole
    columns of its grid, so that it can be cut as a grid as well as in the form of a permutation.
    """
    mine = graph.roots(producer.elements).tolist()
    sides = {
        tuple(graph.roots(p.elements).tolist()): p.group for p in graph.producers if not p.depthwise and p.group > 1
    }
    sides |= {tuple(graph.roots(r.elements).tolist()): r.group for r in graph.readers if r.group > 1}
    reached, near = set(mine), []
    while grown := [side for side in sides if side not in near and reached & set(side)]:
        near += grown
        reached.update(root for side in grown for root in side)
    if not near:
        return [[root] for root in mine]
    key = frozenset(reached)
    if key in cache:
        return cache[key]
    atoms = [[root] for root in sorted(reached)]
    for grid in graph.elements.values():
        if grid.ndim == 2 and set(mine) == set(graph.roots(grid).ravel().tolist()):
            columns = grid if len(grid) < grid.shape[1] else grid.T
            atoms = [column.tolist() for column in graph.roots(columns).T]
    cache[key] = balanced_orbits(atoms, [(side, sides[side]) for side in near])
    return cache[key]


def balanced_orbits(atoms: list[list[int]], sides: list[tuple[tuple[int, ...], int]]) -> list[list[int]]:
    """Greedy: atoms are added to an orbit until it takes as many classes from each group, on every side.

    Gives up after a few atoms in a row around which no orbit closes; what is left over is not planted.
    """
    position = {root: index for index, atom in enumerate(atoms) for root in atom}
    most = max(group for _, group in sides)
    counts, groups = np.zeros((len(atoms), len(sides), most), int), np.array([group for _, group in sides])
    for number, (side, group) in enumerate(sides):
        for place, root in enumerate(side):
            if root in position:
                counts[position[root], number, place * group // len(side)] += 1

    def imbalance(total: np.ndarray) -> np.ndarray:
        return (total.max(axis=-1) * groups - total.sum(axis=-1)).sum(axis=-1)

    free, orbits, failures = list(range(len(atoms))), [], 0
    while free and failures < 4:
        orbit, rest = [free[0]], free[1:]
        total = counts[orbit[0]]
        while rest and imbalance(total) > 0 and len(orbit) < 32:
            best = rest[int(np.argmin(imbalance(total + counts[rest])))]
            orbit.append(best)
            rest.remove(best)
            total = total + counts[best]
        if imbalance(total) > 0:
            free, failures = free[1:], failures + 1
        else:
            orbits.append([root for index in orbit for root in atoms[index]])
            free, failures = rest, 0
    return orbits
