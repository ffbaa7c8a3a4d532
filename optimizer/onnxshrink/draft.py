"""A planned and executed cut that has not been verified, and the choice of its alignment."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import onnx

from . import benchmark, verification
from .bodies import cut_bodies
from .channels.analysis import Analysis, Options, analyse
from .channels.following import joined
from .channels.plan import Plan, make_plan
from .channels.solve import Solution
from .choices import Provider
from .errors import InputError, ModelError
from .graph.model import Model
from .graph.view import Graph, Node, build
from .graph.write import Staged
from .rewrite.cut import PlannedCut
from .rewrite.execute import Execution, execute

Progress = Callable[[str], None]
Shapes = Mapping[str, tuple[int, ...]] | None

CANDIDATES = (1, 4, 8, 16)
"""Alignments that are measured."""

MOST = 8
"""Passes, so that there is an end; what the third one finds is little."""


@dataclass(frozen=True)
class Pass:
    """One look at a model: what it found and what it made of it."""

    analysis: Analysis
    plan: Plan
    execution: Execution

    @property
    def solution(self) -> Solution:
        """Live and kept."""
        return self.analysis.solution

    @property
    def graph(self) -> Graph:
        """What was looked at."""
        return self.solution.context.graph

    def apart(self) -> set[str]:
        """Tensors that hold something else than before: slices that may be garbage, sums not yet complete."""
        solution, graph = self.solution, self.graph
        garbage = {t for t in graph.tensors() if t not in graph.constants and solution.garbage(t)}
        moved = {graph.nodes[i].outputs[0] for i, rewrite in self.execution.rewrites.items() if rewrite.addends}
        return garbage | moved


@dataclass(frozen=True)
class Draft:
    """A planned and executed cut that has not been verified.

    Attributes:
        passes: at least one; each of the others looks at the result of the one before it.
        plan: of all of them, in terms of the original.
        macs: before and after.
    """

    passes: tuple[Pass, ...]
    plan: Plan
    macs: tuple[int | None, int | None]

    @property
    def model(self) -> onnx.ModelProto:
        """The result."""
        return self.passes[-1].execution.model

    @property
    def options(self) -> Options:
        return self.passes[0].analysis.options

    def apart(self) -> set[str]:
        """Tensors that hold something else than in the original."""
        return set().union(*(one.apart() for one in self.passes))

    def negligible(self) -> set[str]:
        """First outputs of the nodes of which weights count as zero."""
        return {one.graph.nodes[item.node].outputs[0] for one in self.passes for item in one.analysis.negligible}


def promise(graph: Graph, ranges: Mapping[str, tuple[float, float]] | None) -> None:
    """Note what the caller promises of inputs.

    Raises:
        InputError: no such input, not a number, or no range.
    """
    for name, (low, high) in (ranges or {}).items():
        if name not in graph.inputs:
            raise InputError(f"there is no input `{name}`", cure=f"the inputs are: {', '.join(graph.inputs)}")
        if not math.isfinite(low) or not math.isfinite(high) or low > high:
            raise InputError(f"the range of `{name}` is from {low:g} to {high:g}", cure=f"--input-range {name}:0,1")
        graph.ranges[name] = (float(low), float(high))


def draft(graph: Graph, options: Options, input_shapes: Shapes = None) -> Draft:
    """Analyse a graph, plan the cut and carry it out in memory, until another look at the result finds nothing."""
    first = _look(graph, options, input_shapes)
    passes, plan = [first], first.plan
    while passes[-1].execution.changed and len(passes) < MOST:
        if verification.check(passes[-1].execution.model):  # nothing to look at: it is for the judge to refuse
            break
        further = _look(_left(graph, passes[-1].execution.model), options, input_shapes)
        if not further.execution.changed:
            break
        plan = joined(plan, further.plan, (first.graph, further.graph))
        passes.append(further)
    ends = first.graph.model.proto, passes[-1].execution.model
    before, after = (benchmark.count_macs(proto, input_shapes).total for proto in ends)
    return Draft(tuple(passes), plan, (before, after))


def _left(graph: Graph, model: onnx.ModelProto) -> Graph:
    """The view of what a pass made of a graph."""
    given = replace(graph.model, proto=model, given=graph.model.original, notes=())
    view = build(given, keep_default_inputs=True, before=graph.nodes)  # default inputs that were to go are gone
    view.ranges, view.outside = graph.ranges, graph.outside
    return view


def _look(graph: Graph, options: Options, input_shapes: Shapes) -> Pass:
    """One pass; bodies first."""
    inner: list[tuple[Node, str, Plan]] = []
    notes: list[str] = []

    def cut_body(holder: Node, name: str, body: Graph) -> onnx.GraphProto | None:
        try:
            made = draft(body, Options(0.0, options.align))
        except ModelError as error:
            notes.append(f"{holder.label}/{name} stays as it is: {error.what}")
            return None
        sizes = [benchmark.parameters(proto) for proto in (body.model.proto, made.model)]
        if made.plan.changes and made.plan.channels[0] == made.plan.channels[1] and sizes[1] >= sizes[0]:
            return None  # bodies that share weights would each get their own, and nothing is won
        inner.append((holder, name, made.plan))
        return made.model.graph if made.plan.changes else None

    whole, graph = graph, cut_bodies(graph, cut_body)
    analysis = analyse(graph, options)
    execution = execute(analysis.solution, analysis.replaced, analysis.changed, altered=graph is not whole)
    counts = [benchmark.count_macs(proto, input_shapes) for proto in (graph.model.proto, execution.model)]
    by_output = [{node.output: node.macs for node in found.nodes} for found in counts]
    plan = make_plan(analysis, execution.rewrites, PlannedCut(analysis.solution).shape, (by_output[0], by_output[1]))
    there = {o for node in execution.model.graph.node for o in node.output}
    plan.changes = execution.changed
    plan.notes += [*(graph.model.notes if plan.changes else ()), *notes]
    plan.removed_nodes = [n.label for n in graph.nodes if not there & set(n.outputs)]
    for holder, name, body in inner:
        if there & set(holder.outputs):
            plan.include(f"{holder.label}/{name}", body)
    return Pass(analysis, plan, execution)


def default_align(graph: Graph) -> int:
    """The multiple that kernels want for the model's weights: 8 for 16-bit floats, 4 for float32, else 1."""
    kinds = [array.dtype.itemsize for array in graph.constants.values() if array.ndim >= 2 and array.dtype.kind == "f"]
    if not kinds:
        return 1
    return {2: 8, 4: 4}.get(max(set(kinds), key=kinds.count), 1)


def fastest(
    graph: Graph,
    options: Options,
    model: Model,
    folder: Path,
    provider: Provider,
    input_shapes: Shapes,
    say: Progress,
) -> tuple[Draft, Options]:
    """The alignment that measures fastest; a larger one must win beyond the noise."""
    best: tuple[Path, Draft, Options] | None = None
    seen: set[tuple[int, ...]] = set()
    for multiple in CANDIDATES:
        candidate = Options(options.negligible, multiple)
        made = draft(graph, candidate, input_shapes)
        widths = tuple(layer.after for layer in made.plan.layers)
        if widths in seen:
            continue
        seen.add(widths)
        say(f"measuring --align {multiple}")
        path = folder / f"align{multiple}.onnx"
        with Staged(made.model, model, path) as staged:
            staged.commit()
        if best is None:
            best = path, made, candidate
            continue
        measured = benchmark.bench(best[0], path, provider=provider, input_shapes=input_shapes, seconds=1.0)
        ratio = measured.batches[0].ratio
        if ratio is not None and ratio.high < 1:
            best = path, made, candidate
    assert best is not None
    return best[1], best[2]
