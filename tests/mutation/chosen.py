"""Mutants chosen by hand: the mistakes that peers make, and those that are easily made in each rule."""

from __future__ import annotations

from .mutant import Mutant

CHOSEN: tuple[Mutant, ...] = (
    Mutant("ops/conv.py", "        if self.transposed:\n            return True\n", "", "transposed is not padded"),
    Mutant("ops/conv.py", 'return any(node.attr("pads", ()))', "return False", "padding ignored"),
    Mutant("ops/conv.py", "return any(k != 1 for k in kernel)", "return False", "automatic padding ignored"),
    Mutant("ops/conv.py", "np.asarray((split != 0).any(axis=", "np.asarray((split != 0).all(axis=", "any and all"),
    Mutant("ops/conv.py", "result = bias + self._response(", "result = 0 * bias + self._response(", "bias forgotten"),
    Mutant("ops/conv.py", "ties.append(Same((node.input(2), 0), (y, 1)))", "pass", "forgotten tie"),
    Mutant("ops/conv.py", "out, into = (1, 0) if", "out, into = (0, 1) if", "swapped axis"),
    Mutant("ops/conv.py", "(nonzero & live[:, :, None]).any(axis=1)", "nonzero.all(axis=1)", "dropped demand"),
    Mutant("ops/conv.py", "(before + added)[rows]", "before[rows]", "absorbed constant forgotten"),
    Mutant("ops/conv.py", "(before + added)[rows]", "(before - added)[rows]", "sign"),
    Mutant(
        "ops/conv.py",
        "ratio = value[group * width + moved] / value[carrier]",
        "ratio = value[group * width + moved]",
        "carrier not divided by",
    ),
    Mutant("ops/conv.py", "whole[1] = demand", "whole[1] = demand & (np.arange(demand.size) != 2)", "dropped demand"),
    Mutant("ops/conv.py", 'result.attributes["group"] = packed.shape[0]', "pass", "attribute not rewritten"),
    Mutant(
        "ops/matmul.py",
        "ties: list[Tie] = [Same((a, k), (b, k2))]",
        "ties: list[Tie] = [Same((a, k), (a, k)), Same((b, k2), (b, k2))]",
        "forgotten tie",
    ),
    Mutant(
        "ops/matmul.py",
        "return factor if inner == rank - 1 - index else Factor(",
        "return factor if inner != rank - 1 - index else Factor(",
        "swapped axis",
    ),
    Mutant(
        "ops/matmul.py",
        "of_b = np.where(wanted, ~excused, kept)",
        "of_b = np.where(wanted, ~excused, False)",
        "dropped demand",
    ),
    Mutant(
        "ops/matmul.py",
        'result = result + float(node.attr("beta", 1.0)) * bias.value',
        "result = result + bias.value",
        "factor forgotten",
    ),
    Mutant("ops/matmul.py", 'and node.attr("beta", 1.0) != 0', "", "a bias that does not count takes constants"),
    Mutant(
        "ops/matmul.py",
        "if len(readers) != 1 or node.outputs[0] in context.graph.outputs:",
        "if not readers:",
        "a sum that others do not see takes constants",
    ),
    Mutant("ops/broadcast.py", "(out, axis + rank - own)))", "(out, axis)))", "aligned from the left"),
    Mutant(
        "ops/broadcast.py",
        "if self.partial:\n            live = ",
        "if False:\n            live = ",
        "garbage becomes NaN",
    ),
    Mutant(
        "ops/broadcast.py", "known = known & fact.known\n", "known = known | fact.known\n", "known if one operand is"
    ),
    Mutant("ops/broadcast.py", "zero = zero & ~own  #", "zero = zero  #", "of two zeros none must be right"),
    Mutant(
        "ops/broadcast.py",
        "return known | zero, np.where(zero, ",
        "return known, np.where(zero, ",
        "a product with zero is not known",
    ),
    Mutant("ops/broadcast.py", '    "Exp",\n', "", "an operator that is not partial"),
    Mutant("ops/normalization.py", "return factor, offset - factor * mean", "return factor, offset", "mean forgotten"),
    Mutant(
        "ops/normalization.py", "known = (factor == 0) | uniform", "known = np.ones_like(uniform)", "wrong known value"
    ),
    Mutant(
        "ops/normalization.py",
        "demand[1] &= affine[0] != 0",
        "demand[1] &= affine[0] > 0",
        "a negative factor does not read",
    ),
    Mutant("ops/pool.py", "known = known & (value == 0)\n", "pass\n", "a border that is made up"),
    Mutant("ops/pool.py", "return {0, 1}\n", "return {0, 1, 2}\n", "an axis that does not pass"),
    Mutant(
        "ops/reduction.py",
        'in ("ReduceSum", "ReduceL1", "ReduceL2", "ReduceSumSquare")',
        'in ("ReduceSum", "ReduceMean", "ReduceL2")',
        "a mean counts what is zero",
    ),
    Mutant("ops/reduction.py", 'a if node.attr("keepdims", 1) else k', "a", "axes counted as if none were lost"),
    Mutant("ops/interval.py", "return widen(a - d, b - c)", "return widen(a - c, b - d)", "bounds swapped"),
    Mutant("ops/interval.py", "np.where((p == 0) | (q == 0), 0.0, p * q)", "p * p", "wrong bounds"),
    Mutant(
        "ops/movement.py",
        "runs.append((index, name, np.arange(start, start + size)))",
        "runs.append((index, name, np.arange(size)))",
        "offset forgotten",
    ),
    Mutant(
        "ops/movement.py",
        "demand[axis] = live[axis][where]",
        "demand[axis] = live[axis][where] & False",
        "dropped demand",
    ),
    Mutant("ops/tie.py", "b = kept(self.b) | kept(self.a)[self.index]", "b = kept(self.b)", "a tie in one direction"),
    Mutant("ops/tie.py", "both = kept(self.a) | kept(self.b)", "both = kept(self.a)", "a tie in one direction"),
    Mutant(
        "ops/tie.py",
        "target = max(1, int(mask.sum(axis=1).max(initial=0)))",
        "target = max(1, int(mask.sum(axis=1).min(initial=0)))",
        "groups are not filled",
    ),
    Mutant("ops/grid.py", 'crd = node.attr("mode", "DCR") == "CRD"', "crd = True", "swapped axis"),
    Mutant(
        "ops/pad.py",
        "return Fact(value, known, np.minimum(low, fill), np.maximum(high, fill))",
        "return Fact(value, known, low, high)",
        "padding ignored",
    ),
    Mutant("ops/pad.py", "np.arange(before, before + size)", "np.arange(size)", "off by the padding"),
    Mutant("ops/fact.py", "uniform = known & ", "uniform = ", "wrong known value"),
    Mutant(
        "ops/rule.py",
        "return None if full is None else [~np.broadcast_to(full.known, full.value.shape)]",
        "return [np.zeros(full.value.shape, bool)] if full is not None else None",
        "dropped demand",
    ),
    Mutant("channels/solve.py", "if (tensor, axis) not in self._mentioned[node.index]:", "if False:", "no pins"),
    Mutant("channels/solve.py", "self._keep((tensor, axis), mask, why, node)", "pass", "live is not kept"),
    Mutant("channels/solve.py", "for tensor in node.captured:", "for tensor in ():", "bodies read nothing"),
    Mutant(
        "channels/solve.py",
        "if len(found) == before:\n            return found",
        "if len(found) == before:\n            return {p for t in ties for p in t.ports}",
        "constants share an axis that nothing holds",
    ),
)
