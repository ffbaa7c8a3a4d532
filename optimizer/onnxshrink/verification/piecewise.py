"""Comparing piece by piece: inner tensors are given the original's values, so that nothing flips or builds up.

Both models get extra inputs for tensors that they have in common, filled with what the original computed. Behind a
discontinuous operator (TopK, NonMaxSuppression, a quantizer) both then go on from the same indices or steps; between
given tensors rounding has no way to grow. Every given tensor is still computed and compared, so the pieces cover the
whole graph. The discontinuous node itself must be the same in both models and read equal values.

Of a tensor of which the result holds a part, the result is given that part, and that part is compared. A tensor may
hold garbage where nothing reads it, or be permuted, and the result be right: a tensor that differs is taken out and
its pieces are joined. Only outputs, and tensors that an index or selection operator reads, can fail.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx

from .compare import is_float, permuted
from .judge import Judgement, judge
from .numbers import LEVELS, Comparison, Trial
from .pool import Arrays, Side
from .shapes import domain_of, model_facts
from .stability import BASES, Level, captured, inner_graphs, needed_nodes, requantizes, stability
from .structure import label
from .variants import GIVEN, with_given, with_outputs

SIDES: tuple[Side, Side] = ("original", "result")
SEEN, PIECES = "seen", "pieces"
#: Operators that read every element of what they order or select from: there garbage is no excuse.
_WHOLE = {"TopK", "ArgMax", "ArgMin", "NonMaxSuppression", "NonZero", "Unique", "Hardmax"}
_ROUNDS = 4
_VALUE_BYTES = 256 << 20


@dataclass
class Pieces:
    """What the comparison piece by piece showed.

    Attributes:
        trials: the draws that were used.
        judged: for each of them the last judgement of each output and inner tensor.
        verified: outputs whose every piece was compared on draws that are evidence.
        broken: node label and judgement of a tensor that an index or selection operator reads and that differs.
        differing: inner tensors that differ, for whatever reason.
        joined: discontinuous nodes that the two models do not have in common.
        compared: how many inner tensors were compared in the end.
        settled: all tensors that were given in the end agree, so that what differs behind them is wrong.
    """

    trials: Sequence[Trial] = ()
    judged: list[list[Judgement]] = field(default_factory=list)
    verified: set[str] = field(default_factory=set)
    broken: list[tuple[str, Judgement]] = field(default_factory=list)
    differing: dict[str, float] = field(default_factory=dict)
    joined: list[str] = field(default_factory=list)
    compared: int = 0
    settled: bool = False


def compare_pieces(comparison: Comparison, trials: Sequence[Trial], dense: bool) -> Pieces:
    """Compares both models with the values of shared tensors given.

    Args:
        comparison: the plain comparison, already run.
        trials: draws to use.
        dense: give as many inner float tensors as possible, not only what discontinuous operators make.

    Raises:
        BrokenError: a variant does not open or run.
    """
    return _Piecewise(comparison, trials, dense).run()


class _Piecewise:
    def __init__(self, comparison: Comparison, trials: Sequence[Trial], dense: bool):
        self.c, self.trials, self.pool = comparison, trials, comparison.pool
        self.a, self.b = comparison.original, comparison.result
        self.found = Pieces(trials)
        self.jumps: dict[str, onnx.NodeProto] = {}  # by tensor that such a node makes
        self.fronts: dict[str, list[onnx.NodeProto]] = {}  # by tensor that such a node reads
        for node in self.a.marks.jumps:
            self._add_jump(node)
        self.inner = self._dense() if dense else []

    def _add_jump(self, node: onnx.NodeProto) -> None:
        twin = self.b.producers.get(node.output[0])
        if twin is None or not (self.same(node, twin) or (_in_steps(node) and _alike(node, twin))):
            self.found.joined.append(label(node))
            return
        for name in node.output:
            if name:
                self.jumps[name] = node
        for name in _reads(node):
            if self.a.marks.level(name) >= Level.EXACT and name in self.a.producers:
                self.fronts.setdefault(name, []).append(node)

    def same(self, node: onnx.NodeProto, twin: onnx.NodeProto) -> bool:
        """Whether two nodes are one operator with the same operands: variables by name, constants by value."""
        if not _alike(node, twin):
            return False
        if sorted(a.SerializeToString() for a in node.attribute) != sorted(
            a.SerializeToString() for a in twin.attribute
        ):
            return False
        if len(node.input) != len(twin.input):
            return False
        for x, y in zip(node.input, twin.input, strict=True):
            before, after = self.a.constants.get(x), self.b.constants.get(y)
            if (before is None) != (after is None):
                return False
            if before is None or after is None:
                if x != y:
                    return False
            elif not self._equal(before, after):
                return False
        inner = {n for g in inner_graphs(node) for n in captured(g) if n in self.a.constants}
        return all(n in self.b.constants and self._equal(self.a.constants[n], self.b.constants[n]) for n in inner)

    def _equal(self, before: onnx.TensorProto, after: onnx.TensorProto) -> bool:
        return np.array_equal(self.a.file.array(before), self.b.file.array(after))

    def _dense(self) -> list[str]:
        """Float tensors that both models compute from their inputs, in graph order, as many as memory allows."""
        facts = model_facts(self.a.model, self.a.folder, self.trials[0].case.shapes)
        names = [
            n
            for n in self.a.producers
            if n in self.b.producers
            and n not in self.jumps
            and self.a.marks.level(n) >= Level.ROUNDED
            and facts.types.get(n, 0) in BASES
        ]
        size = sum(4 * math.prod(d if isinstance(d, int) else 1 for d in facts.shape(n) or ()) for n in names)
        return names[:: max(1, math.ceil(size / _VALUE_BYTES))]

    def run(self) -> Pieces:
        names = dict.fromkeys([*self.jumps, *self.fronts, *self.inner])
        shared = [n for n in names if n in self.b.producers and n not in self.c.options.apart]
        for side in SIDES:
            source = self.pool.sources[side]
            self.pool.define(side, SEEN, functools.partial(with_outputs, source, shared))
        values = [self.pool.run("original", SEEN, False, t.case.feeds) for t in self.trials]
        feeds = self.trials[0].case.feeds
        mine = {"off": values[0], "on": self.pool.run("original", SEEN, True, feeds)}
        other = self.pool.run("result", SEEN, False, feeds)
        parts = {level: self._parts(arrays) for level, arrays in mine.items()}
        given = self._trusted(self._agreeing(shared, parts, other), parts["off"], other)
        for last in range(_ROUNDS):
            wrong = self._round(given, values)
            self.found.settled = not wrong
            if not wrong or last == _ROUNDS - 1 or time.monotonic() > self.c.deadline:
                break
            given = [n for n in given if n not in wrong]
        self._conclude(given)
        return self.found

    def _parts(self, arrays: Arrays) -> Arrays:
        """What the result holds of each of the original's tensors."""
        found = dict(arrays)
        for name in arrays.keys() & self.c.options.kept.keys():
            for axis, indices in self.c.options.kept[name].items():
                found[name] = found[name].take(indices, axis)
        return found

    def _agreeing(self, shared: list[str], mine: dict[str, Arrays], other: Arrays) -> list[str]:
        """Tensors that can be given: of one dtype and shape in both models, or of a size that may flip; and equal
        already when nothing is given, unless noise or flips before them leave that open.
        """
        given, moved = [], set()
        for name in shared:
            x, y = mine["off"].get(name), other.get(name)
            if x is None or y is None or x.dtype != y.dtype or x.ndim != y.ndim:
                continue
            if x.shape != y.shape:
                if (
                    name in self.jumps
                    and not requantizes(self.jumps[name])
                    and self._same_reads(self.jumps[name], mine["off"], other)
                ):
                    given.append(name)
                continue
            if self.a.marks.level(name) == Level.ROUNDED:
                before = {level: arrays[name] for level, arrays in mine.items()}
                judgement = judge(name, self.c.base(name, x), before, {"off": y})
                if judgement.failed:
                    moved.add(name)
                    if not permuted(x, y, judgement.bound):
                        self._differs(judgement)
                    continue
            if name in self.jumps or name in self.inner:
                given.append(name)
        self.found.joined += sorted({label(node) for n, node in self.jumps.items() if n not in given})
        return [n for n in given if n not in self.jumps or not moved.intersection(_reads(self.jumps[n]))]

    def _trusted(self, given: list[str], mine: Arrays, other: Arrays) -> list[str]:
        """Without discontinuous nodes that lie behind one that is not given, and read what is not even similar.

        Behind flips no bound holds; but a permuted tensor is far from the original's, and giving it would be wrong.
        """
        while True:
            marks = stability(self.a.model.graph, self.a.facts, given)
            behind = [n for n in given if n in self.jumps]
            doubtful = {
                n
                for n in behind
                if not all(marks.level(r) != Level.FLIPPING or similar(mine, other, r) for r in _reads(self.jumps[n]))
            }
            if not doubtful:
                return given
            given = [n for n in given if n not in doubtful]

    def _differs(self, judgement: Judgement) -> None:
        self.found.differing.setdefault(judgement.name, judgement.error)
        for node in self.fronts.get(judgement.name, ()):
            if node.op_type in _WHOLE:
                self.found.broken.append((label(node), judgement))

    def _same_reads(self, node: onnx.NodeProto, mine: Arrays, other: Arrays) -> bool:
        reads = [n for n in _reads(node) if n in mine and n in other]
        return all(mine[n].shape == other[n].shape or self.a.marks.level(n) == Level.FLIPPING for n in reads)

    def _round(self, given: list[str], values: list[Arrays]) -> set[str]:
        """Compares all pieces with these tensors given; returns those to take out again."""
        read = {n for n, nodes in self.fronts.items() if any(o in given for node in nodes for o in node.output)}
        fronts = [n for n in self.fronts if n in read and n in self.b.producers]
        shown = list(dict.fromkeys([*given, *fronts]))
        for side in SIDES:
            sample = {n: values[0][n] for n in given}  # the dtypes and ranks are those of a part, too
            self.pool.define(side, PIECES, functools.partial(with_given, self.pool.sources[side], sample, shown))
        marks = stability(self.a.model.graph, self.a.facts, given)
        self.found.judged, self.found.compared = [], len(shown)
        wrong: set[str] = set()
        for trial, value in zip(self.trials, values, strict=True):
            names, parts = [*self.a.outputs, *shown], self._parts(value)
            expected = {"off": parts, "on": self._parts(self._run("original", "on", self._feeds(trial, value, given)))}
            got = {level: self._run("result", level, self._feeds(trial, parts, given)) for level in LEVELS}
            judged = []
            for name in dict.fromkeys(names):
                flips = name in self.jumps or marks.level(name) == Level.FLIPPING
                if name not in value or (flips and not self._steps(name)):
                    continue
                before = {k: v[name] for k, v in expected.items() if name in v}
                judged.append(self._judge(name, before, {k: v[name] for k, v in got.items() if name in v}))
            if any(j.failed and j.base for j in judged):
                judged = self.c.with_noise(judged, self._feeds(trial, value, given), PIECES)
            self.found.judged.append(judged)
            for judgement in judged:
                if judgement.failed and judgement.name not in self.a.outputs:
                    self.found.differing.setdefault(judgement.name, judgement.error)
                    wrong.add(judgement.name)
                    wrong.update(o for node in self.fronts.get(judgement.name, ()) for o in node.output)
        return wrong & set(given)

    @staticmethod
    def _feeds(trial: Trial, values: Arrays, given: list[str]) -> Arrays:
        return {**trial.case.feeds, **{n + GIVEN: values[n] for n in given}}

    def _run(self, side: Side, level: str, feeds: Arrays) -> Arrays:
        return self.pool.run(side, PIECES, LEVELS[level], feeds)

    def _steps(self, name: str) -> bool:
        """Made by an operator that computes on integers and rounds to steps: its values, not only its inputs, count."""
        return name in self.jumps and _in_steps(self.jumps[name])

    def _judge(self, name: str, expected: Arrays, got: Arrays) -> Judgement:
        if self._steps(name):
            # A tie between two steps may go either way: one step is allowed.
            one = {k: np.abs(v.astype(np.int32) - expected["off"].astype(np.int32)) // 2 for k, v in got.items()}
            return judge(name, 0.0, {"off": np.zeros_like(one["off"])}, one)
        return judge(name, self.c.base(name, expected["off"]), expected, got)

    def _conclude(self, given: list[str]) -> None:
        judged: dict[str, list[Judgement]] = {}
        for row in self.found.judged:
            for judgement in row:
                judged.setdefault(judgement.name, []).append(judgement)
        sure = set()
        for name, rows in judged.items():
            evident = any(j.evidence for j in rows) or self._identical_piece(name, set(given), rows)
            if evident and not any(j.failed for j in rows):
                sure.add(name)
        for name, node in self.jumps.items():  # in graph order, so what one reads of another is decided already
            if name in given and not self._steps(name):
                reads = [n for n in _reads(node) if n in self.fronts]
                (sure.add if all(n in sure for n in reads) else sure.discard)(name)
        watched = set(judged) | set(given)
        for output in self.a.outputs:
            graph = self.b.model.graph
            behind = {o for i in needed_nodes(graph, {output}) for o in graph.node[i].output} & watched
            if behind | {output} <= sure:
                self.found.verified.add(output)

    def _identical_piece(self, name: str, given: set[str], rows: list[Judgement]) -> bool:
        """One operator, the same in both models, on given values: noise of its own does not matter."""
        node, twin = self.a.producers.get(name), self.b.producers.get(name)
        if node is None or twin is None or not self.same(node, twin) or any(j.exceeds for j in rows):
            return False
        fed = {s.name for s in self.c.specs}
        return all(n in given or n in fed or self.a.marks.level(n) == Level.CONSTANT for n in node.input if n)


def similar(mine: Arrays, other: Arrays, name: str) -> bool:
    """Whether a tensor is there in both and, taken as a whole, off by less than a tenth."""
    if name not in mine or name not in other:
        return True
    x, y = mine[name], other[name]
    if x.shape != y.shape or x.dtype != y.dtype:
        return False
    if not is_float(x):
        return bool((x != y).mean() < 0.1) if x.size else True
    x, y = x.astype(np.float64), y.astype(np.float64)
    return bool(np.linalg.norm(x - y) <= 0.1 * np.linalg.norm(x))


def _alike(node: onnx.NodeProto, twin: onnx.NodeProto) -> bool:
    """Whether two nodes are one operator with the same outputs."""
    return (node.op_type, domain_of(node), list(node.output)) == (twin.op_type, domain_of(twin), list(twin.output))


def _in_steps(node: onnx.NodeProto) -> bool:
    """Whether a node computes on integers and rounds to steps: then its values are compared, whatever its weights."""
    return node.op_type.startswith("QLinear") or node.op_type == "QGemm"


def _reads(node: onnx.NodeProto) -> set[str]:
    """Everything a node depends on, what its inner graphs take from outside included."""
    return {n for n in node.input if n}.union(*(captured(g) for g in inner_graphs(node)))
