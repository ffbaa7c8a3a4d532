"""From a graph to a solution: facts, negligible weights, collapsed branches, live and kept, alignment.

What kind of knowledge freed a slice is found by leaving that knowledge out: what stays in the exact analysis was
negligible, what stays without bounds went by range.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ..graph.view import Graph
from ..ops.rule import Context, Demand, free_slices
from ..ops.tie import Port
from . import negligible
from .collapse import collapse_branches
from .facts import propagate, understand
from .negligible import Negligible
from .shuffle import find_selections
from .solve import Solution, solve

MAX_CONSTANT = 1 << 16
"""Largest constant that is looked at again after a cut; what is new there is not worth more time."""


@dataclass(frozen=True)
class Options:
    """What may be treated as dead, and how channel counts are rounded.

    Attributes:
        negligible: weights below this share of their layer's largest count as zero; 0: exact zeros only.
        align: channel counts are rounded up to a multiple of this.
        exact_nodes: indices of nodes whose negligible weights stay (verification failed with them).
    """

    negligible: float = negligible.DEFAULT_RATIO
    align: int = 1
    exact_nodes: frozenset[int] = frozenset()


@dataclass
class Analysis:
    """A converged analysis.

    Attributes:
        options: what was asked for.
        before: facts of the graph as it was given, negligible weights and branches untouched.
        solution: live and kept of what is planned.
        negligible: the weights that count as zero.
        replaced: operands that became constants, by new tensor id.
        changed: constants whose values were changed.
        aligned: slices kept for alignment only.
        exact, unbounded: solutions without negligible weights, and without bounds; the planned one where that
            makes no difference.
    """

    options: Options
    before: Context
    solution: Solution
    negligible: list[Negligible]
    replaced: dict[str, str]
    changed: set[str]
    aligned: dict[Port, np.ndarray]
    exact: Solution
    unbounded: Solution

    @property
    def context(self) -> Context:
        return self.solution.context


def analyse(graph: Graph, options: Options) -> Analysis:
    """Analyse a graph as `graph.view.build` made it; the graph itself only gains shapes."""
    before = understand(graph)
    work, found = _without_negligible(before, options)
    plain = _propagated(_copy(work.graph), before, bounds=False)
    exact = _solved(_copied(before), options.align)[0] if found else None
    solution, aligned, replaced = _solved(work, options.align)
    unbounded = solution if _same_knowledge(work, plain) else _solved(plain, options.align)[0]
    changed = {item.tensor for item in found}
    return Analysis(options, before, solution, found, replaced, changed, aligned, exact or solution, unbounded)


def _without_negligible(before: Context, options: Options) -> tuple[Context, list[Negligible]]:
    """Facts of a graph whose negligible weights are zero, and what was negligible: first weights, then what they
    leave in biases.
    """
    work = _copied(before)
    found: list[Negligible] = []
    for find in (negligible.find, negligible.find_values):
        more = [n for n in find(work, options.negligible) if n.node not in options.exact_nodes]
        if more:
            negligible.apply(work, more)
            work = _propagated(work.graph, before, bounds=True)
            found += more
    return work, found


def _solved(context: Context, align: int) -> tuple[Solution, dict[Port, np.ndarray], dict[str, str]]:
    """A solution that stands on its own: nothing more can go from what it leaves.

    A slice may be known in all that is left of a tensor but not in the whole. So what is left is looked at again,
    until nothing new is known of it.
    """
    find_selections(context)
    replaced = collapse_branches(context)
    solution, aligned = solve(context, align=align)
    while (narrower := _narrower(solution)) is not None:
        more = collapse_branches(narrower)
        again, filled = solve(narrower, align=align)
        if not again.within(solution, more):  # a choice fell on something that was cut before
            break
        if not more and solution.within(again, {}):  # what was learnt frees nothing
            break
        solution, aligned, replaced = again, filled, replaced | more
    return solution, aligned, replaced


def _narrower(solution: Solution) -> Context | None:
    """The same knowledge about what a solution leaves; None where that says nothing new."""
    context = solution.context
    own = _copied(context)
    tensors = [t for t in context.graph.tensors() if t in context.facts and solution.needed(t)]
    own.kept = _partial({t: [solution.kept((t, a)) for a in range(context.rank(t) or 0)] for t in tensors})
    own.live = _partial({t: solution.live(t) for t in tensors if t not in context.graph.constants})
    if any(own.settled(t) and not context.settled(t) for t in own.live):
        return own
    for tensor, masks in own.kept.items():
        constant = context.graph.constants.get(tensor)
        if constant is not None and constant.size > MAX_CONSTANT:
            continue
        for axis, mask in enumerate(masks):
            if (free_slices(tensor, axis, own)[0] & ~free_slices(tensor, axis, context)[0] & mask).any():
                return own
    return None


def _partial(masks: dict[str, Demand]) -> dict[str, Demand]:
    """Those of which something is left out."""
    return {tensor: axes for tensor, axes in masks.items() if not all(mask.all() for mask in axes)}


def _propagated(graph: Graph, like: Context, *, bounds: bool) -> Context:
    context = propagate(graph, bounds=bounds)
    context.elements = like.elements
    return context


def _copied(context: Context) -> Context:
    """The same knowledge about a view of its own."""
    own = Context(_copy(context.graph), dict(context.facts))
    own.elements = context.elements
    return own


def _copy(graph: Graph) -> Graph:
    """A view that shares arrays but not its tables."""
    return replace(
        graph,
        nodes=list(graph.nodes),
        outputs=list(graph.outputs),
        shapes=dict(graph.shapes),
        dtypes=dict(graph.dtypes),
        constants=dict(graph.constants),
        source=dict(graph.source),
    )


def _same_knowledge(one: Context, other: Context) -> bool:
    """Whether two analyses know the same values (their bounds aside)."""
    for name, fact in one.facts.items():
        count = 0 if name not in other.facts else int(other.facts[name].known.sum())
        if name not in one.graph.constants and int(fact.known.sum()) != count and fact.known.any():
            return False
    return True
