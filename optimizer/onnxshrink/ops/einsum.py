"""Einsum: Y[output letters] = sum over the other letters of the product of all operands.

A letter is one axis of every operand that has it, so all its slices go together. A slice of a letter that is summed
goes where any operand is known to be zero in it; a known non-zero feature of the only computed operand goes into a
carrier feature of the weight. The equation names no sizes and stays as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from string import ascii_letters

import numpy as np

from ..graph.view import Node
from .carried import Carried
from .fact import CAP, Fact, collapse, unknown
from .rule import Channels, Context, Demand, State, everything, register
from .tie import Picks, Port, Same, Tie


@dataclass(frozen=True)
class Equation:
    """Letters of each axis; axes of an ellipsis have letters of their own, counted from the right.

    Attributes:
        operands, output: letters, axis by axis.
        sizes: letters that may be cut, with their size: known, and not twice in one operand.
    """

    operands: tuple[tuple[str, ...], ...]
    output: tuple[str, ...]
    sizes: dict[str, int]

    def summed(self, letter: str) -> bool:
        return letter not in self.output


def parse(text: str, ranks: list[int]) -> tuple[tuple[tuple[str, ...], ...], tuple[str, ...]] | None:
    """Letters of each operand and of the output; None where the text does not fit the ranks."""
    inputs, arrow, right = text.replace(" ", "").partition("->")
    terms = inputs.split(",")
    if len(terms) != len(ranks):
        return None
    operands = []
    for term, rank in zip(terms, ranks, strict=True):
        before, dots, after = term.partition("...")
        extra = rank - len(before) - len(after)
        if extra < 0 or (extra and not dots):
            return None
        operands.append((*before, *(f"...{k}" for k in reversed(range(extra))), *after))
    all_letters = [letter for operand in operands for letter in operand]
    dotted = sorted({x for x in all_letters if len(x) > 1}, key=lambda x: -int(x[3:]))
    if not arrow:
        once = sorted({x for x in all_letters if len(x) == 1 and all_letters.count(x) == 1})
        return tuple(operands), (*dotted, *once)
    before, dots, after = right.partition("...")
    if dotted and not dots:
        return None
    return tuple(operands), (*before, *dotted, *after)


class Einsum(Carried):
    """One rule for any equation; letters that stand twice in one operand (diagonals) are pinned."""

    def equation(self, node: Node, context: Context) -> Equation | None:
        return context.cached((node.index, "equation"), lambda: self._equation(node, context))

    def _equation(self, node: Node, context: Context) -> Equation | None:
        ranks = [context.rank(name) for name in node.inputs]
        if any(rank is None for rank in ranks):
            return None
        parsed = parse(str(node.attr("equation", "")), [rank or 0 for rank in ranks])
        if parsed is None or len(parsed[1]) != context.rank(node.outputs[0]):
            return None
        operands, output = parsed
        found: dict[str, set[int | None]] = {}
        for name, letters in zip((*node.inputs, node.outputs[0]), (*operands, output), strict=True):
            for axis, letter in enumerate(letters):
                found.setdefault(letter, set()).add(context.size(name, axis))
        twice = {x for letters in (*operands, output) for x in letters if letters.count(x) > 1}
        sizes = {}
        for letter, known in found.items():
            numbers = {size for size in known if size is not None and size != 1} or {1}
            if None not in known and len(numbers) == 1 and letter not in twice:
                sizes[letter] = numbers.pop()
        return Equation(operands, output, sizes)

    def _ports(self, node: Node, equation: Equation, letter: str, context: Context) -> list[tuple[int, Port]]:
        """(operand, port) of the axes that have a letter at its full size; the output comes last, as operand -1."""
        names = [*enumerate(node.inputs), (-1, node.outputs[0])]
        letters = (*equation.operands, equation.output)
        return [
            (index, (name, own.index(letter)))
            for (index, name), own in zip(names, letters, strict=True)
            if letter in own and context.size(name, own.index(letter)) == equation.sizes[letter]
        ]

    # --- facts

    def facts(self, node: Node, context: Context) -> list[Fact | None]:
        equation, dtype = self.equation(node, context), context.graph.dtypes.get(node.outputs[0])
        if equation is None or dtype is None or not any(context.fact(name) for name in node.inputs):
            return [None]
        facts = [context.fact(n) or unknown(context.rank(n) or 0, np.dtype(np.float32)) for n in node.inputs]
        lengths: dict[str, int] = {}
        for fact, letters in zip(facts, equation.operands, strict=True):
            if fact.value.dtype.kind not in "fiu" or len(set(letters)) < len(letters):
                return [None]
            shape = np.broadcast_shapes(fact.value.shape, fact.known.shape)
            for letter, length in zip(letters, shape, strict=True):
                lengths[letter] = max(length, lengths.get(letter, 1))
        if len(lengths) > len(ascii_letters) or np.prod([*lengths.values()], dtype=np.float64) > 4 * CAP:
            return [self._zeros(facts, equation, dtype)]

        def contracted(arrays: list[np.ndarray]) -> np.ndarray:
            """The equation on arrays whose axes have their full length or one."""
            place = dict(zip(lengths, ascii_letters, strict=False))
            terms = ["".join(place[x] for x in letters) for letters in (*equation.operands, equation.output)]
            text = ",".join(terms[:-1]) + "->" + terms[-1]
            return np.asarray(np.einsum(text, *(array.astype(np.float64) for array in arrays)))

        shapes = [np.broadcast_shapes(f.value.shape, f.known.shape) for f in facts]
        some = contracted([np.broadcast_to(~f.zero(), s) for f, s in zip(facts, shapes, strict=True)])
        sure = contracted([np.broadcast_to(f.known & ~f.zero(), s) for f, s in zip(facts, shapes, strict=True)])
        hidden = [x for x in lengths if equation.summed(x) and lengths[x] == 1 and equation.sizes.get(x) != 1]
        if all(x in equation.sizes for x in hidden):
            with np.errstate(all="ignore"):
                value = contracted([np.where(f.known, f.value, 0) for f in facts])
                value = value * np.prod([equation.sizes[x] for x in hidden], dtype=np.float64)
            known = some == sure
        else:
            value, known = np.zeros(some.shape), some == 0
        if dtype.kind in "iu":
            known = some == 0
        with np.errstate(all="ignore"):
            values = np.where(known, value, 0).astype(dtype)
        return [collapse(Fact(values, known & np.isfinite(values.astype(np.float64))))]

    @staticmethod
    def _zeros(facts: list[Fact], equation: Equation, dtype: np.dtype) -> Fact | None:
        """What one operand alone makes zero, whatever the others are."""
        rank = len(equation.output)
        zero = np.zeros((1,) * rank, bool)
        for fact, letters in zip(facts, equation.operands, strict=True):
            own = np.asarray(fact.zero().all(axis=tuple(a for a, x in enumerate(letters) if equation.summed(x))))
            left = [x for x in letters if not equation.summed(x)]
            own = own.transpose([left.index(x) for x in equation.output if x in left])
            shape = iter(own.shape)
            zero = zero | own.reshape([next(shape) if x in left else 1 for x in equation.output])
        return collapse(Fact(np.zeros((1,) * rank, dtype), zero))

    # --- ties and reads

    def ties(self, node: Node, context: Context) -> list[Tie]:
        equation = self.equation(node, context)
        ties: list[Tie] = []
        for letter in equation.sizes if equation is not None else ():
            assert equation is not None
            ports = [port for _, port in self._ports(node, equation, letter, context)]
            ties += [Same(ports[0], port) for port in ports[1:]]
            if len(ports) == 1 and equation.summed(letter):  # free: mentioned, tied to nothing
                ties.append(Picks(ports[0], ports[0], np.arange(equation.sizes[letter])))
        return ties

    def _nonzero(
        self, node: Node, index: int, letter: str, equation: Equation, live: Demand, context: Context
    ) -> np.ndarray:
        """Slices of a letter in which an operand has a value that is not zero and meets a live output."""
        fact, letters = context.fact(node.inputs[index]), equation.operands[index]
        size = equation.sizes[letter]
        if fact is None or len(set(letters)) < len(letters):
            return np.ones(size, bool)
        array = ~fact.zero()
        for axis, other in enumerate(letters):
            if other != letter and other in equation.output:
                mask = live[equation.output.index(other)]
                if mask.size == array.shape[axis]:
                    array = array & mask.reshape([-1 if a == axis else 1 for a in range(array.ndim)])
        axis = letters.index(letter)
        found = array.any(axis=tuple(a for a in range(array.ndim) if a != axis))
        return np.array(np.broadcast_to(found, (size,)))

    def reads(self, node: Node, context: Context, state: State) -> dict[int, Demand | None]:
        equation, live = self.equation(node, context), state.live(node.outputs[0])
        if equation is None:
            return super().reads(node, context, state)
        if live and not all(mask.any() for mask in live):
            return {}
        demands: dict[int, Demand | None] = {i: everything(name, context) for i, name in enumerate(node.inputs)}
        port = self.absorbing_port(node, context)
        for letter in equation.sizes:
            ports = self._ports(node, equation, letter, context)
            inside = [index for index, own in enumerate(equation.operands) if letter in own]
            nonzero = {i: self._nonzero(node, i, letter, equation, live, context) for i in inside}
            kept = state.kept(ports[0][1])
            if equation.summed(letter):
                base = kept | np.logical_and.reduce([*nonzero.values()])
            else:
                base = live[equation.output.index(letter)]
                base = base if base.size == equation.sizes[letter] else np.ones(equation.sizes[letter], bool)
            for index, (_, axis) in ports:
                if index < 0:
                    continue
                mask = base.copy()
                for other in inside:
                    if other == index:
                        continue
                    absent = ~nonzero[other]
                    if other > index and node.inputs[other] not in context.graph.constant_only:
                        absent &= nonzero[index]  # of two computed zeros one must stay right: the first
                    mask &= ~absent
                if (node.inputs[index], axis) == port:
                    mask = self.demanded(node, mask, context, state)
                demand = demands[index]
                assert demand is not None
                demand[axis] = mask
        return {i: d for i, d in demands.items() if d is None or all(mask.any() for mask in d)}

    # --- known features

    def _weighted(self, node: Node, context: Context) -> tuple[int, int] | None:
        """(computed operand, weight) of an equation with one of each, which share a letter that is summed."""
        weights = [i for i, name in enumerate(node.inputs) if name in context.graph.constant_only]
        return (1 - weights[0], weights[0]) if len(node.inputs) == 2 and len(weights) == 1 else None

    def channels(self, node: Node, context: Context) -> Channels | None:
        equation, pair = self.equation(node, context), self._weighted(node, context)
        if equation is None or pair is None:
            return None
        data, weight = (equation.operands[i] for i in pair)
        own = [x for x in weight if x in equation.output and x in equation.sizes and x not in data]
        return Channels(equation.output.index(own[0]), (pair[1],)) if len(own) == 1 else None

    def _letter(self, node: Node, context: Context) -> str | None:
        """The first letter that the computed operand shares with the weight and that is summed."""
        equation, pair = self.equation(node, context), self._weighted(node, context)
        if equation is None or pair is None:
            return None
        data, weight = (equation.operands[i] for i in pair)
        for letter in data:
            if letter in weight and equation.summed(letter) and letter in equation.sizes:
                full = [index for index, _ in self._ports(node, equation, letter, context)]
                if sorted(full) == [0, 1]:
                    return letter
        return None

    def meeting(self, node: Node, context: Context) -> tuple[int, int, int, int] | None:
        equation, pair = self.equation(node, context), self._weighted(node, context)
        letter = self._letter(node, context)
        if equation is None or pair is None or letter is None:
            return None
        return pair[0], equation.operands[pair[0]].index(letter), pair[1], equation.operands[pair[1]].index(letter)

    def _met(self, node: Node, context: Context, live: Demand) -> np.ndarray:
        """Features that the weight does not leave out, for the live output."""
        equation, axes, letter = self.equation(node, context), self.meeting(node, context), self._letter(node, context)
        assert equation is not None
        assert axes is not None
        assert letter is not None
        return self._nonzero(node, axes[2], letter, equation, live, context)

    def read(self, node: Node, context: Context) -> np.ndarray:
        return self._met(node, context, everything(node.outputs[0], context))

    def wanted(self, node: Node, context: Context, state: State) -> np.ndarray:
        return self._met(node, context, state.live(node.outputs[0]))


register(Einsum(), "Einsum")
