"""Elementwise operators with broadcasting: the value at an index depends on the inputs' values at that index.

Facts: the operator itself, evaluated on the fact arrays. 0 times anything finite is 0, whatever the other factor.
Where the bounds of a saturating operator meet (interval.py), its value is known.
"""

from __future__ import annotations

import numpy as np

from ..graph.shapes import same
from ..graph.view import Node, Shape, is_float
from . import interval
from .evaluate import evaluate
from .fact import Fact, cancelled, collapse, denormal, fits, unknown
from .rule import Context, Cut, Demand, Rewrite, Rule, State, register
from .tie import Same, Tie


def lifted(fact: Fact | None, tensor: str, rank: int, context: Context) -> Fact | None:
    """The fact with leading axes of length one up to `rank`; a fact that says nothing where there is none."""
    if fact is None:
        own = context.rank(tensor)
        dtype = context.graph.dtypes.get(tensor)
        if own is None or dtype is None or own > rank:
            return None
        return unknown(rank, dtype)
    return fact.map(lambda a: a.reshape((1,) * (rank - a.ndim) + a.shape)) if fact.rank <= rank else None


def broadcast_dims(old: Shape, shapes: list[Shape | None]) -> Shape:
    """`old` with the names of dimensions that inference loses: what is n or 1 in every operand is n."""
    new = list(old)
    for axis, dim in enumerate(old):
        back = axis - len(old)
        if not isinstance(dim, int) and all(shape is not None for shape in shapes):
            given = {shape[back] for shape in shapes if shape is not None and len(shape) >= -back} - {1}
            if len(given) == 1 and isinstance(name := given.pop(), str):
                new[axis] = name
    return tuple(new)


def open_axes(out: str, inputs: list[str], context: Context) -> set[int]:
    """Axes of known length where an operand's is not known: it may be as long, and nothing would cut it along."""
    rank = context.rank(out) or 0
    return {
        axis + rank - own
        for name in inputs
        for own in [context.rank(name) or 0]
        for axis in range(own)
        if own <= rank and context.size(name, axis) is None and context.size(out, axis + rank - own) is not None
    }


def alike(one: Shape | None, other: Shape | None) -> bool:
    """Whether two shapes are provably equal."""
    return one is not None and other is not None and len(one) == len(other) and all(map(same, one, other))


class Broadcast(Rule):
    """Numpy-style broadcasting; with one input this is a plain activation.

    `partial` operators (Div, Log, ...) may turn garbage into NaN or infinity, which no later zero weight removes:
    for these whatever is kept is live. A division by constants, and whole powers, are as harmless as a product.
    """

    family = "elementwise"

    def __init__(
        self,
        *,
        partial: bool = False,
        limits: interval.Limits | None = None,
        saturates: bool = False,
        operands: int | None = None,
    ):
        self.partial, self.limits, self.saturates, self.count = partial, limits, saturates, operands

    def _data(self, node: Node) -> list[int]:
        """Indices of inputs that broadcast to the output."""
        return [i for i, name in enumerate(node.inputs) if name and (self.count is None or i < self.count)]

    def _from_the_right(self, node: Node, context: Context) -> bool:
        """Whether shapes are aligned as in NumPy; before opset 7 attributes say where a smaller one begins."""
        return context.opset >= 7 or len({context.rank(node.inputs[i]) for i in self._data(node)}) == 1

    def refine(self, node: Node, context: Context) -> dict[str, Shape]:
        out = context.shape(node.outputs[0])
        if out is None:
            return {}
        new = broadcast_dims(out, [context.shape(node.inputs[i]) for i in self._data(node)])
        return {node.outputs[0]: new} if new != out else {}

    def facts(self, node: Node, context: Context) -> list[Fact | None]:
        rank = context.rank(node.outputs[0])
        if rank is None or not self._from_the_right(node, context):
            return [None] * len(node.outputs)
        inputs = [self.operand(node, i, rank, context) if n else None for i, n in enumerate(node.inputs)]
        if any(f is None for f, n in zip(inputs, node.inputs, strict=True) if n):
            return [None] * len(node.outputs)
        dtype = context.graph.dtypes.get(node.outputs[0])
        return [self.combined(node, inputs, dtype, context.opset)] + [None] * (len(node.outputs) - 1)

    def combined(self, node: Node, inputs: list[Fact | None], dtype: np.dtype | None, opset: int) -> Fact | None:
        """The fact of the first output, of type `dtype`, from those of the inputs, all of its rank."""
        facts = [f for f in inputs if f is not None]
        rank = facts[0].rank
        size = np.prod(np.broadcast_shapes(*[f.value.shape for f in facts]), dtype=np.int64)
        if not fits(size, *facts):
            return None
        known = facts[0].known
        for fact in facts[1:]:
            known = known & fact.known
        value = None
        if known.any():
            values = [None if f is None else np.where(f.known, f.value, np.ones((), f.value.dtype)) for f in inputs]
            results = evaluate(node.proto, values, opset)
            value = None if results is None else results[0]
        if value is None or value.ndim != rank:
            known, value = np.zeros((1,) * rank, bool), np.zeros((1,) * rank, dtype or facts[0].value.dtype)
        known, value = self.annihilate(node, facts, known, value)
        low = high = None
        if self.limits is not None and dtype is not None and is_float(dtype) and not known.all():
            with np.errstate(all="ignore"):
                low, high = self.limits(node, [f.bounds() for f in facts])
            low, high = np.where(np.isnan(low), -np.inf, low), np.where(np.isnan(high), np.inf, high)
            if self.saturates:
                met = (low == high) & np.isfinite(low)
                if (met & ~known).any():
                    value = np.where(known, value, low).astype(value.dtype)
                    known = known | met
        if known.any() and is_float(value.dtype):
            known = known & np.isfinite(value) & ~denormal(value)
        return collapse(Fact(value, known, low, high))

    def operand(self, node: Node, index: int, rank: int, context: Context) -> Fact | None:
        """The fact of one input, with `rank` axes; None where it cannot have so many."""
        return lifted(context.fact(node.inputs[index]), node.inputs[index], rank, context)

    def annihilate(self, node: Node, facts: list[Fact], known: np.ndarray, value: np.ndarray) -> interval.Bounds:
        """Outputs that are known although not every input is; nothing for most operators."""
        return known, value

    def ties(self, node: Node, context: Context) -> list[Tie]:
        out = node.outputs[0]
        rank = context.rank(out)
        ties: list[Tie] = []
        for index in self._data(node) if rank is not None and self._from_the_right(node, context) else []:
            name = node.inputs[index]
            own = context.rank(name)
            if own is None or rank is None or own > rank:
                continue
            for axis in range(own):
                size, whole = context.size(name, axis), context.size(out, axis + rank - own)
                if size is not None and size == whole:
                    ties.append(Same((name, axis), (out, axis + rank - own)))
        pinned = open_axes(out, [node.inputs[i] for i in self._data(node)], context)
        return [t for t in ties if isinstance(t, Same) and t.b[1] not in pinned]

    def stand_by(self, node: Node, context: Context, live: Demand) -> int | None:
        """The operand that can stand for the node where nothing but the shape of its output is needed.

        Readers of shapes do not ask for numbers that they know; so integers, and known floats that integers may be
        computed of, never count as not needed.
        """
        out = node.outputs[0]
        fact = context.fact(out)
        if not context.graph.is_float(out) or (fact is not None and fact.rank <= 1 and fact.known.any()):
            return None
        if all(mask.any() for mask in live) or context.read_outputs(node)[1:] or out in context.graph.constant_only:
            return None
        types, shape = context.graph.dtypes, context.shape(out)
        for index in self._data(node):
            name = node.inputs[index]
            if types.get(name) == types.get(out) and alike(context.shape(name), shape):
                return index
        return None

    def operands(self, node: Node, context: Context, state: State) -> list[int]:
        index = self.stand_by(node, context, state.live(node.outputs[0]))
        return super().operands(node, context, state) if index is None else [index]

    def rewrite(self, node: Node, cut: Cut) -> Rewrite:
        return Rewrite(bypass=self.stand_by(node, cut.context, cut.live(node.outputs[0])))

    def reads(self, node: Node, context: Context, state: State) -> dict[int, Demand | None]:
        out = node.outputs[0]
        rank, data = context.rank(out), self._data(node)
        if rank is None or any(context.rank(node.inputs[i]) is None for i in data):
            return super().reads(node, context, state)
        if not self._from_the_right(node, context):
            return super().reads(node, context, state)
        live = state.live(out)
        if self.stand_by(node, context, live) is not None:
            return {}
        if self.partial and not _harmless(node, context):
            live = [a | state.kept((out, axis)) for axis, a in enumerate(live)]
        demands: dict[int, Demand | None] = {}
        if not all(mask.any() for mask in live):
            return demands
        for index, name in enumerate(node.inputs):
            if name and index not in data:
                demands[index] = None
            elif name:
                own = context.rank(name) or 0
                demand = []
                for axis in range(own):
                    mask = live[axis + rank - own]
                    size = context.size(name, axis)
                    demand.append(mask if size == mask.size else np.ones(size or 1, bool))
                demands[index] = self.needs(node, index, demand, context)
        return demands

    def needs(self, node: Node, index: int, demand: Demand, context: Context) -> Demand:
        """`demand` without the slices whose value cannot matter; all of it for most operators."""
        return demand


def _harmless(node: Node, context: Context) -> bool:
    """Whether an operator with poles has none for its constant second operand: GELU is made of such ones."""
    second = context.array(node.inputs[1]) if node.op in ("Div", "Pow") else None
    if second is None or not context.graph.is_float(node.outputs[0]):
        return False
    if not np.isfinite(second.astype(np.float64)).all():
        return False
    return bool((second != 0).all() if node.op == "Div" else ((second > 0) & (second == np.floor(second))).all())


class Product(Broadcast):
    """Mul, And: a known zero on one side decides the result, and the other side is not read there."""

    def annihilate(self, node: Node, facts: list[Fact], known: np.ndarray, value: np.ndarray) -> interval.Bounds:
        zero = facts[0].zero()
        for fact in facts[1:]:
            zero = zero | fact.zero()
        return known | zero, np.where(zero, np.zeros((), value.dtype), value)

    def zero(self, node: Node, index: int, rank: int, context: Context) -> np.ndarray | None:
        """Elements of a factor that are known to be zero, lifted to `rank`; None where nothing is known."""
        name = node.inputs[index]
        fact = lifted(context.fact(name), name, rank, context)
        return None if fact is None else fact.zero()

    def needs(self, node: Node, index: int, demand: Demand, context: Context) -> Demand:
        name, rank = node.inputs[index], context.rank(node.outputs[0]) or 0
        lead = rank - (context.rank(name) or 0)
        own = self.zero(node, index, rank, context)
        for other_index in self._data(node):
            other = node.inputs[other_index]
            zero = self.zero(node, other_index, rank, context)
            if other_index == index or zero is None or other == name:
                continue
            if other_index > index and own is not None and other not in context.graph.constant_only:
                zero = zero & ~own  # of two computed zeros one must stay right: the first
            if not zero.any():
                continue
            demand = list(demand)
            for axis in range(rank - lead):
                dead = zero.all(axis=tuple(a for a in range(rank) if a != axis + lead))
                if dead.size in (1, demand[axis].size):
                    demand[axis] = demand[axis] & ~dead
        return demand


class Where(Broadcast):
    """Where: a known condition decides which side is read."""

    def annihilate(self, node: Node, facts: list[Fact], known: np.ndarray, value: np.ndarray) -> interval.Bounds:
        condition, yes, no = facts
        for side, chosen in ((yes, condition.value.astype(bool)), (no, ~condition.value.astype(bool))):
            decided = condition.known & chosen & side.known
            value = np.where(decided & ~known, side.value, value)
            known = known | decided
        equal = yes.known & no.known & (yes.value == no.value)
        return known | equal, np.where(equal & ~known, yes.value, value)


class Alias(Broadcast):
    """Identity, Dropout at inference: the first output is the first input; other outputs are masks."""

    def facts(self, node: Node, context: Context) -> list[Fact | None]:
        if node.op == "Dropout" and self._training(node, context):
            return [None] * len(node.outputs)
        return [context.fact(node.inputs[0])] + [None] * (len(node.outputs) - 1)

    def ties(self, node: Node, context: Context) -> list[Tie]:
        if node.op == "Dropout" and self._training(node, context):  # another shape draws other random numbers
            return []
        return super().ties(node, context) if len(context.read_outputs(node)) == 1 else []

    @staticmethod
    def _training(node: Node, context: Context) -> bool:
        mode = context.array(node.input(2)) if node.input(2) else None
        return bool(node.input(2)) and (mode is None or bool(mode))


class Sum(Broadcast):
    """Sums and differences, with broadcasting: known unless known terms cancel; whole numbers are exact."""

    def evaluable(self, node: Node, context: Context) -> bool:
        return not context.graph.is_float(node.outputs[0])

    def combined(self, node: Node, inputs: list[Fact | None], dtype: np.dtype | None, opset: int) -> Fact | None:
        fact = super().combined(node, inputs, dtype, opset)
        if fact is None or not is_float(fact.value.dtype):
            return fact
        with np.errstate(all="ignore"):
            terms = [f.value.astype(np.float64) for f in inputs if f is not None]
            size = sum((np.where(t == np.rint(t), 0.0, np.abs(t)) for t in terms), start=np.zeros((1,) * fact.rank))
            return collapse(fact.but(cancelled(fact.value, size)))


class PRelu(Broadcast):
    """PRelu: the slope broadcasts to the input, never the other way round."""


class Bits(Broadcast):
    """BitCast: the same bits, read as another type; known where the reference says so."""

    def facts(self, node: Node, context: Context) -> list[Fact | None]:
        fact = context.fact(node.inputs[0])
        result = None if fact is None else evaluate(node.proto, [fact.value], context.opset)
        if fact is None or result is None or result[0].shape != fact.value.shape:
            return [None]
        return [collapse(Fact(result[0], np.array(fact.known)))]


register(Sum(limits=interval.add), "Add", "Sum")
register(Sum(limits=interval.sub), "Sub")
register(Product(limits=interval.mul), "Mul")
register(Product(), "And", "SwiGLU")
register(Broadcast(limits=interval.maximum, saturates=True), "Max")
register(Broadcast(limits=interval.minimum, saturates=True), "Min")
register(
    Broadcast(partial=True),
    "Div",
    "Pow",
    "Mod",
    "Log",
    "Sqrt",
    "Reciprocal",
    "Exp",
    "Tan",
    "Acos",
    "Asin",
    "Atanh",
    "Acosh",
    "Cosh",
    "Sinh",
    "BitShift",
)
register(
    Broadcast(),
    "Mean",
    "Or",
    "Xor",
    "Not",
    "BitwiseAnd",
    "BitwiseOr",
    "BitwiseXor",
    "BitwiseNot",
    "Neg",
    "Atan",
    "Asinh",
    "Shrink",
    "Elu",
    "Selu",
    "Celu",
    "ThresholdedRelu",
)
register(Where(), "Where")
register(Broadcast(limits=interval.monotone(lambda x, n: np.maximum(x, 0.0)), saturates=True), "Relu")
register(Broadcast(limits=interval.clip, saturates=True, operands=1), "Clip")
register(Broadcast(limits=interval.leaky), "LeakyRelu")
register(Broadcast(limits=interval.monotone(interval.hard_sigmoid), saturates=True), "HardSigmoid")
register(Broadcast(limits=interval.fixed(0.0, 1.0)), "Sigmoid")
register(Broadcast(limits=interval.fixed(-1.0, 1.0)), "Tanh", "Erf", "Softsign", "Sin", "Cos")
register(Broadcast(limits=interval.fixed(0.0, np.inf)), "Softplus", "Abs")
register(Broadcast(limits=interval.fixed(-0.4, np.inf)), "HardSwish", "Gelu", "Mish")
register(Broadcast(), "Swish")
register(PRelu(), "PRelu")
register(Bits(partial=True), "BitCast")
register(Alias(operands=1), "Identity", "Dropout")
