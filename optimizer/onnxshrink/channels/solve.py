"""Live and kept, backward: two sets of slices that only grow, one worklist, choices last.

Live: the right value of this slice is required. Kept: the slice stays in the tensor. Live is within kept; what is
kept but not live may hold garbage. A node is active when one of its outputs is needed; only then do its ties, its
reads and its pins (axes that none of its ties mentions) count.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np

from ..graph.view import Node
from ..ops.rule import Context, Demand, everything
from ..ops.tie import Blocks, EqualPerGroup, Port, Tie, linked

PIN, TIE, READ, CHOICE, OUTPUT = range(5)


@dataclass
class _Growth:
    """What the sets gained since a choice that may be taken back: by port, by mask of what is live, and as tensors."""

    kept: list[tuple[Port, np.ndarray]] = field(default_factory=list)
    live: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    needed: list[str] = field(default_factory=list)


class Solution:
    """The two sets for a graph, with the cause of each kept slice.

    `cause[port]` [n, 2] says why each slice is kept: what happened (PIN, TIE, READ, CHOICE, OUTPUT), and who reads it.
    """

    def __init__(self, context: Context):
        self.context = context
        graph = context.graph
        self._live: dict[str, Demand] = {}
        self._kept: dict[str, Demand] = {}
        self._needed: set[str] = set()
        self.cause: dict[Port, np.ndarray] = {}
        self.ties: list[list[Tie]] = [context.rule(n).ties(n, context) for n in graph.nodes]
        self._mentioned = [
            _mentioned(n, ties, graph.constant_only) for n, ties in zip(graph.nodes, self.ties, strict=True)
        ]
        self._queue: deque[Node] = deque()
        self._queued: set[int] = set()
        self._growth: _Growth | None = None
        for tensor in graph.tensors():
            sizes = [d if isinstance(d, int) else 1 for d in context.shape(tensor) or ()]
            pinned = [not isinstance(d, int) or d == 0 for d in context.shape(tensor) or ()]
            self._kept[tensor] = [np.full(s, p) for s, p in zip(sizes, pinned, strict=True)]
            self._live[tensor] = [np.full(s, p) for s, p in zip(sizes, pinned, strict=True)]
        for tensor in graph.outputs:
            self._require(tensor)
            for axis, mask in enumerate(self._live[tensor]):
                mask[:] = True
                self._keep((tensor, axis), mask.copy(), OUTPUT)
        for tensor in graph.inputs:
            for axis in range(context.rank(tensor) or 0):
                self._keep((tensor, axis), np.ones_like(self._kept[tensor][axis]), PIN)
        self._run()

    # what rules see

    def kept(self, port: Port) -> np.ndarray:
        return self._kept[port[0]][port[1]]

    def live(self, tensor: str) -> Demand:
        return self._live[tensor] if self.needed(tensor) else [np.zeros_like(m) for m in self._kept[tensor]]

    def needed(self, tensor: str) -> bool:
        return tensor in self._needed

    def garbage(self, tensor: str) -> bool:
        """Whether a tensor keeps slices whose value is not required."""
        return any((kept & ~live).any() for kept, live in zip(self._kept[tensor], self.live(tensor), strict=True))

    # growth

    def active(self, node: Node) -> bool:
        return any(o in self._needed for o in node.outputs if o)

    def mentioned(self, node: Node) -> set[Port]:
        """Ports that a node's ties connect to an output or to a computed input; it pins all its others."""
        return self._mentioned[node.index]

    def keep(self, port: Port, mask: np.ndarray) -> None:
        """Add slices by choice and converge again."""
        self._keep(port, mask, CHOICE)
        self._run()

    def _keep(self, port: Port, mask: np.ndarray, why: int, reader: int = -1) -> None:
        current = self._kept[port[0]][port[1]]
        new = mask & ~current
        if not new.any():
            return
        cause = self.cause.setdefault(port, np.full((current.size, 2), -1, np.int32))
        cause[new] = why, reader
        current |= new
        if self._growth is not None:
            self._growth.kept.append((port, new))
        self._touch(port[0])

    def _demand(self, tensor: str, demand: Demand | None, reader: int) -> None:
        """A reader needs the right values of `demand` (None: of everything)."""
        if tensor in self.context.graph.constant_only:  # always right; what stays of it is for ties and pins to say
            self._require(tensor)
            return
        whole = demand if demand is not None else everything(tensor, self.context)
        if not all(mask.any() for mask in whole):
            return
        self._require(tensor)
        for axis, mask in enumerate(whole):
            live = self._live[tensor][axis]
            new = mask & ~live
            if new.any():
                live |= new
                if self._growth is not None:
                    self._growth.live.append((live, new))
                self._keep((tensor, axis), mask, READ, reader)
                self._touch(tensor)

    def _require(self, tensor: str) -> None:
        if tensor not in self._needed:
            self._needed.add(tensor)
            if self._growth is not None:
                self._growth.needed.append(tensor)
            self._touch(tensor)

    def _touch(self, tensor: str) -> None:
        graph = self.context.graph
        producer = graph.producer.get(tensor)
        if producer is not None:
            self._push(producer)
        for node, _ in graph.consumers.get(tensor, ()):
            self._push(node)

    def _push(self, node: Node) -> None:
        if node.index not in self._queued:
            self._queued.add(node.index)
            self._queue.append(node)

    def _run(self) -> None:
        while self._queue:
            node = self._queue.popleft()
            self._queued.discard(node.index)
            if self.active(node):
                self._visit(node)

    def _visit(self, node: Node) -> None:
        rule = self.context.rule(node)
        operands = rule.operands(node, self.context, self)
        for index in operands:
            self._require(node.inputs[index])
        for tensor in node.captured:
            self._demand(tensor, None, node.index)
            for axis, mask in enumerate(self._kept[tensor]):
                self._keep((tensor, axis), np.ones_like(mask), PIN)  # constants too
        left_out = set(node.inputs) - {node.inputs[i] for i in operands}
        for tie in self.ties[node.index]:
            if left_out and not left_out.isdisjoint(p[0] for p in tie.ports):
                continue
            for port, mask in tie.close(self.kept):
                self._keep(port, mask, TIE)
        present = [node.inputs[i] for i in operands] + [o for o in node.outputs if o in self._needed]
        for tensor in present:
            for axis, mask in enumerate(self._kept[tensor]):
                if (tensor, axis) not in self._mentioned[node.index]:
                    self._keep((tensor, axis), np.ones_like(mask), PIN)
        for index, demand in rule.reads(node, self.context, self).items():
            self._demand(node.inputs[index], demand, node.index)

    # choices

    def empty(self) -> list[Port]:
        """Axes of needed tensors that nothing keeps: an operator cannot run on nothing."""
        return [
            (tensor, axis)
            for tensor in self._kept
            if tensor in self._needed
            for axis, mask in enumerate(self._kept[tensor])
            if mask.size and not mask.any()
        ]

    def settle(self) -> None:
        """Make the choices that correctness asks for, one at a time, in a fixed order, until none is left."""
        while self._choose_carrier() or self._choose_group() or self._choose_slice():
            pass

    def _choose_group(self) -> bool:
        for node in self.context.graph.nodes:
            for tie in self.ties[node.index] if self.active(node) else ():
                if isinstance(tie, (EqualPerGroup, Blocks)):
                    growth = tie.fill(self.kept)
                    if growth:
                        for port, mask in growth:
                            self._keep(port, mask, CHOICE)
                        self._run()
                        return True
        return False

    def _choose_slice(self) -> bool:
        empty = self.empty()
        if not empty:
            return False
        tensor, axis = empty[-1]  # furthest from the inputs: what is read keeps what it is made of
        mask = np.zeros_like(self.kept((tensor, axis)))
        mask[0] = True
        self.keep((tensor, axis), mask)
        return True

    def _choose_carrier(self) -> bool:
        """Keep the slice that serves most consumers; of these the one of largest value."""
        lacking: dict[Port, tuple[np.ndarray, np.ndarray]] = {}
        for node in self.context.graph.nodes:
            if not self.active(node):
                continue
            carrying = self.context.rule(node).carrying(node, self.context, self)
            if carrying is not None:
                votes, values = lacking.setdefault(
                    carrying.port, (np.zeros(carrying.candidates.size, np.int64), carrying.values)
                )
                votes += carrying.candidates
        if not lacking:
            return False
        port, (votes, values) = next(iter(lacking.items()))
        best = np.lexsort((np.arange(votes.size), -values, -votes))[0]
        mask = np.zeros(votes.size, bool)
        mask[best] = True
        self.keep(port, mask)
        return True

    # alignment

    def align(self, multiple: int) -> dict[Port, np.ndarray]:
        """Round the channel counts of contractions up to a multiple by keeping slices that could go.

        A count stays ragged where rounding it up makes others ragged: sums and concatenations couple counts that no
        number of slices may round all at once, and on the way there everything would stay.

        Returns:
            For each port, the slices that are kept for alignment only.
        """
        before = {t: [m.copy() for m in masks] for t, masks in self._kept.items()}
        left: set[Port] = set()
        while port := next((port for port in self._ragged(multiple) if port not in left), None):
            if not self._rounded(port, multiple, from_end=False) and not self._rounded(port, multiple, from_end=True):
                left.add(port)
        return {
            (tensor, axis): mask & ~old
            for tensor, masks in self._kept.items()
            for axis, (mask, old) in enumerate(zip(masks, before[tensor], strict=True))
            if (mask & ~old).any()
        }

    def _ragged(self, multiple: int) -> list[Port]:
        """Contractions' channels whose count is no multiple, and could be more."""
        found = []
        for node in self.context.graph.nodes:
            channels = self.context.channels(node)
            if channels is not None and self.active(node):
                mask = self.kept((node.outputs[0], channels.axis))
                if int(mask.sum()) % multiple and not mask.all():
                    found.append((node.outputs[0], channels.axis))
        return found

    def _rounded(self, port: Port, multiple: int, *, from_end: bool) -> bool:
        """Whether fewer counts are ragged when the first, or last, slices that could go stay; otherwise they may go."""
        ragged = len(self._ragged(multiple))
        mask = self.kept(port)
        free = np.flatnonzero(~mask)
        short = min(-int(mask.sum()) % multiple, free.size)
        more = np.zeros_like(mask)
        more[free[-short:] if from_end else free[:short]] = True
        growth = self._growth = _Growth()
        self.keep(port, more)
        self.settle()
        self._growth = None
        if len(self._ragged(multiple)) < ragged:
            return True
        self._take_back(growth)
        return False

    def _take_back(self, growth: _Growth) -> None:
        for mask, new in growth.live:
            mask[new] = False
        for port, new in growth.kept:
            self.kept(port)[new] = False
            self.cause[port][new] = -1
        for port in {port for port, _ in growth.kept}:
            if (self.cause[port] < 0).all():
                del self.cause[port]
        self._needed.difference_update(growth.needed)


def _mentioned(node: Node, ties: list[Tie], constant: set[str]) -> set[Port]:
    """Ports that ties connect to an output or to a computed input.

    Nobody demands slices of constants, so an axis that constants share only with each other would be held by nothing.
    """
    found: set[Port] = set()
    while True:
        before = len(found)
        for tie in ties:
            found.update(p for p in tie.ports if p[0] not in constant or p[0] in node.outputs)
            if not found.isdisjoint(linked(tie)):
                found.update(linked(tie))
        if len(found) == before:
            return found


def solve(context: Context, *, align: int = 1) -> tuple[Solution, dict[Port, np.ndarray]]:
    """The smallest consistent live and kept sets, and the slices kept for alignment only."""
    solution = Solution(context)
    solution.settle()
    return solution, solution.align(align)
