"""From a graph to a solution: facts, negligible weights, collapsed branches, live and kept, alignment.

What kind of knowledge freed a slice is found by leaving that knowledge out: what stays in the exact analysis was
negligible, what stays without bounds went by range.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ..graph.view import Graph
from ..ops.rule import Context
from ..ops.tie import Port
from . import negligible
from .chains import find_chains
from .collapse import collapse_branches
from .facts import propagate, understand
from .negligible import Negligible
from .solve import Solution, solve


@dataclass(frozen=True)
class Options:
    """What may be treated as dead, and how channel counts are rounded.

    Attributes:
        negligible: weights below this share of their layer's largest count as zero; 0: exact zeros only.
        align: channel counts are rounded up to a multiple of this.
        exact_nodes: first outputs of nodes whose negligible weights stay (verification failed with them).
    """

    negligible: float = negligible.DEFAULT_RATIO
    align: int = 1
    exact_nodes: frozenset[str] = frozenset()


@dataclass
class Analysis:
    """A converged analysis.

    Attributes:
        options: what was asked for.
        before: facts of the graph as it was given, negligible weights and branches untouched.
        solution: live and kept of what is planned.
        negligible: the weights that count as zero.
        replaced: constants that took the place of operands.
        changed: constants whose values were changed.
        aligned: slices kept for alignment only.
        exact, unbounded: solutions without negligible weights, and without bounds; the planned one where that
            makes no difference.
    """

    options: Options
    before: Context
    solution: Solution
    negligible: list[Negligible]
    replaced: set[str]
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
    unbounded = solution if _same_knowledge(work, plain) else _solved(plain, options.align, bounds=False)[0]
    changed = {item.tensor for item in found}
    return Analysis(options, before, solution, found, replaced, changed, aligned, exact or solution, unbounded)


def _without_negligible(before: Context, options: Options) -> tuple[Context, list[Negligible]]:
    """Facts of a graph whose negligible weights are zero, and what was negligible: first weights, then what they
    leave in biases.
    """
    work = _copied(before)
    found: list[Negligible] = []
    for find in (negligible.find, negligible.find_values):
        more = [
            n for n in find(work, options.negligible) if work.graph.nodes[n.node].outputs[0] not in options.exact_nodes
        ]
        if more:
            negligible.apply(work, more)
            work = _propagated(work.graph, before, bounds=True)
            found += more
    return work, found


def _solved(context: Context, align: int, *, bounds: bool = True) -> tuple[Solution, dict[Port, np.ndarray], set[str]]:
    """Chains are planned, operands that are known become constants, then live and kept; with what was replaced."""
    if find_chains(context):
        context = _propagated(context.graph, context, bounds=bounds)
    replaced = collapse_branches(context)
    return *solve(context, align=align), replaced


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
