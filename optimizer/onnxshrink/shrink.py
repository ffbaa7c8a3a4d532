"""`optimize`, step by step: read, plan, cut, check, verify, write; and the fall-back for negligible weights."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import onnx

from . import benchmark, verification
from .channels.analysis import Analysis, Options, analyse
from .channels.plan import Plan, make_plan
from .errors import ConditionError, ModelError, NotEqualError
from .graph.model import Model, read
from .graph.view import Graph, build
from .graph.write import Staged, file_bytes
from .rewrite.cut import PlannedCut
from .rewrite.execute import Execution, execute
from .rewrite.map import make_map
from .verification.planted import Planted, example, plant

PREFIX = "onnxshrink."
CANDIDATES = (1, 4, 8, 16)
DENSE = "the model is dense: pruning it with known loss is a matter for training with onnxshrink.gates"
Progress = Callable[[str], None]
Shapes = Mapping[str, tuple[int, ...]] | None


@dataclass
class Result:
    """What `optimize` did.

    Attributes:
        model: the result; tensors that were not changed may point into the source's external data.
        plan: what went, what stayed and why.
        map: the map (see rewrite/map.py).
        verification: None with `verify=False`, and where nothing changed.
        planted: the test of the plan's claims.
        changed: whether the result differs from the original.
        sizes: parameters, MACs (None where dynamic) and file bytes, before and after.
        notes: what a reader should know besides.
        seconds: by step.
        latency: original against result, where it was measured.
    """

    model: onnx.ModelProto
    plan: Plan
    map: dict[str, Any]
    verification: verification.Verification | None
    planted: Planted | None
    changed: bool
    sizes: dict[str, tuple[int | None, int | None]]
    notes: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    latency: benchmark.Benchmark | None = None

    def to_json(self) -> dict[str, Any]:
        """The report for machines."""
        return {
            "changed": self.changed,
            **{name: {"before": before, "after": after} for name, (before, after) in self.sizes.items()},
            **self.plan.to_json(),
            "verification": None if self.verification is None else self.verification.to_json(),
            "claims": None if self.planted is None else {**vars(self.planted), "passed": self.planted.passed},
            "latency": None if self.latency is None else self.latency.to_json(),
            "notes": self.notes,
            "seconds": self.seconds,
        }


@dataclass
class Draft:
    """A planned and executed cut that has not been verified."""

    analysis: Analysis
    plan: Plan
    execution: Execution
    macs: tuple[int | None, int | None]


def draft(graph: Graph, options: Options, input_shapes: Shapes = None) -> Draft:
    """Analyse a graph, plan the cut and carry it out in memory."""
    analysis = analyse(graph, options)
    execution = execute(analysis.solution, analysis.replaced, analysis.changed)
    cut = PlannedCut(analysis.solution)
    counts = tuple(benchmark.count_macs(proto, input_shapes) for proto in (graph.model.proto, execution.model))
    by_node = tuple({node.name: node.macs for node in found.nodes} for found in counts)
    plan = make_plan(analysis, execution.rewrites, cut.shape, (by_node[0], by_node[1]))
    there = {o for node in execution.model.graph.node for o in node.output}
    plan.removed_nodes = [n.label for n in graph.nodes if not there & set(n.outputs)]
    return Draft(analysis, plan, execution, (counts[0].total, counts[1].total))


def optimize(
    source: str | Path | onnx.ModelProto,
    output: str | Path | None = None,
    *,
    align: int | Literal["auto"] | None = None,
    negligible: float = 1e-8,
    data: str | Path | None = None,
    input_shapes: Shapes = None,
    provider: str = "cpu",
    keep_default_inputs: bool = False,
    verify: bool = True,
    fail_if_unchanged: bool = False,
    fail_if_slower: bool = False,
    progress: Progress | None = None,
) -> Result:
    """Cut every channel that carries nothing out of a model, and prove that the result is equal.

    Args:
        source: a path, or a ModelProto with its weights inside.
        output: where to write the result; nothing is written without it, nor when the result is not equal.
        align: round channel counts up to a multiple (1: cut everything that can go; "auto": measure a few and take
            the fastest; None: 4 for float32, 8 for float16, which is what kernels want).
        negligible: weights below this share of their layer's largest count as zero; 0: exact zeros only.
        data: inputs to verify on, besides random ones: an .npz file or a folder.
        input_shapes: shapes of dynamic inputs to verify on.
        provider: "cpu", "cuda" or "tensorrt", for verification.
        keep_default_inputs: leave initializers that are listed as inputs (from IR 4 on) overridable.
        verify: False skips the numerical verification and the test of claims, never the structural check.
        fail_if_unchanged: nothing to cut is an error.
        fail_if_slower: measure both models, and a result that is slower is an error.
        progress: told what is being done.

    Raises:
        ModelError: the model cannot be read, cut or written.
        InputError: `data` or `input_shapes` do not fit the model.
        NotEqualError: the result differs from the original; nothing was written.
        ConditionError: a `fail_if` condition was met; nothing was written.
        RuntimeMissingError: verification needs ONNX Runtime, or the provider, and it is not there.
    """
    say = progress or (lambda _: None)
    watch = _Watch()
    model = read(source)
    if output is not None and model.path is not None and _same_file(Path(output), model.path):
        raise ModelError("output would overwrite the input", file=str(output), cure="give another output path")
    graph = build(model, keep_default_inputs=keep_default_inputs)
    say("planning")
    options = Options(negligible, align if isinstance(align, int) else default_align(graph))
    made = draft(graph, options, input_shapes)
    if fail_if_unchanged and not made.plan.changes:
        raise ConditionError("no channel can go", file=model.name, cure=DENSE)
    watch.lap("plan")
    with tempfile.TemporaryDirectory(prefix="onnxshrink-") as folder:
        origin = model.path
        if origin is None:
            origin = Path(folder) / "original.onnx"
            origin.write_bytes(model.proto.SerializeToString())
        destination = Path(output) if output is not None else Path(folder) / "result.onnx"
        if align == "auto" and made.plan.changes:
            made, options = _fastest(graph, options, model, Path(folder), provider, input_shapes, say)
            watch.lap("align")
        judge = _Judge(model, origin, destination, verify, data, input_shapes, provider, say)
        staged, verdict, planted, made, notes = _accepted(judge, graph, made, options)
        watch.lap("verify")
        with staged:
            plan = made.plan
            if graph.default_inputs and model.proto.ir_version >= 4 and plan.changes:
                notes.append(
                    f"{len(graph.default_inputs)} initializers were listed as inputs (overridable defaults); they are "
                    "constants now (--keep-default-inputs keeps them)"
                )
            proto = onnx.load_model(str(staged.path), load_external_data=False)
            sizes: dict[str, tuple[int | None, int | None]] = {
                "parameters": (benchmark.parameters(model.proto), benchmark.parameters(proto)),
                "macs": made.macs,
                "file_bytes": (file_bytes(origin), file_bytes(staged.path)),
            }
            latency = None
            if fail_if_slower and plan.changes:
                say("measuring")
                latency = benchmark.bench(origin, staged.path, provider=provider, input_shapes=input_shapes)
                if benchmark.ratio_is_slower(latency):
                    raise ConditionError(
                        "the result is slower than the original; nothing was written",
                        file=model.name,
                        cure="--align auto",
                    )
            mapping = make_map(made.analysis.solution, plan, made.execution, _said(options, keep_default_inputs))
            if output is not None:
                staged.commit()
        watch.lap("write")
    if not plan.changes:
        notes.append(f"no channel of this model can go without loss; {DENSE}")
    return Result(
        judge.result,
        plan,
        mapping,
        verdict,
        planted,
        plan.changes,
        sizes,
        [*plan.notes, *notes],
        watch.seconds,
        latency,
    )


def default_align(graph: Graph) -> int:
    """The multiple that kernels want for the model's weights: 8 for 16-bit floats, 4 for float32, else 1."""
    kinds = [array.dtype.itemsize for array in graph.constants.values() if array.ndim >= 2 and array.dtype.kind == "f"]
    if not kinds:
        return 1
    return {2: 8, 4: 4}.get(max(set(kinds), key=kinds.count), 1)


def _fastest(
    graph: Graph,
    options: Options,
    model: Model,
    folder: Path,
    provider: str,
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
        with Staged(made.execution.model, model, path) as staged:
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


def _accepted(
    judge: _Judge, graph: Graph, made: Draft, options: Options
) -> tuple[Staged, verification.Verification | None, Planted | None, Draft, list[str]]:
    """The first draft that verifies: with all negligible weights, else without those layers that break it.

    Raises:
        NotEqualError: even the exact cut differs.
    """
    try:
        return (*judge(made), made, [])
    except NotEqualError as failure:
        layers = sorted({item.node for item in made.analysis.negligible})
        if not layers:
            raise
        judge.say("not equal with negligible weights as zeros; trying layer by layer")
        exact = draft(graph, Options(0.0, options.align))
        verdict = judge(exact)
        verdict[0].discard()
        spared = _harmful(judge, graph, options, layers, [])
        made = draft(graph, Options(options.negligible, options.align, frozenset(spared)))
        names = ", ".join(graph.nodes[index].label for index in spared)
        note = f"negligible weights of {len(spared)} layers change the outputs and stay: {names} ({failure.what})"
        return (*judge(made), made, [note])


def _harmful(judge: _Judge, graph: Graph, options: Options, layers: list[int], spared: list[int]) -> list[int]:
    """Layers whose negligible weights must stay, found by halving."""
    everything = sorted({item.node for item in draft(graph, options).analysis.negligible})

    def fine(group: list[int]) -> bool:
        stay = frozenset(set(everything) - set(group))
        try:
            judge(draft(graph, Options(options.negligible, options.align, stay)))[0].discard()
        except NotEqualError:
            return False
        return True

    def search(group: list[int]) -> list[int]:
        if fine(group):
            return []
        if len(group) == 1:
            return group
        half = len(group) // 2
        return search(group[:half]) + search(group[half:])

    harmful = search(layers)
    good = [layer for layer in layers if layer not in harmful]
    # each half may pass alone and fail together: rounding adds up
    return harmful if not good or fine(good) else layers


class _Judge:
    """Checks, stages and verifies a draft."""

    def __init__(
        self,
        model: Model,
        origin: Path,
        destination: Path,
        verify: bool,
        data: str | Path | None,
        input_shapes: Shapes,
        provider: str,
        say: Progress,
    ):
        self.model, self.origin, self.destination, self.verify = model, origin, destination, verify
        self.data, self.input_shapes, self.provider, self.say = data, input_shapes, provider, say
        self.result = model.proto

    def __call__(self, made: Draft) -> tuple[Staged, verification.Verification | None, Planted | None]:
        """The draft on disk with its verdict.

        Raises:
            NotEqualError: the structure is broken, a claim does not hold, or the numbers differ.
        """
        proto = onnx.ModelProto()
        proto.CopyFrom(made.execution.model if made.plan.changes else self.model.proto)
        if made.plan.changes:
            _sign(proto, self.model, made)
        self.result = proto
        staged = Staged(proto, self.model, self.destination, verbatim=not made.plan.changes)
        try:
            verdict, planted = None, None
            if made.plan.changes:
                if self.verify:  # which begins with the structure
                    verdict, planted = self._numbers(staged, made.plan)
                else:
                    self._structure(staged)
            return staged, verdict, planted
        except BaseException:
            staged.discard()
            raise

    def _structure(self, staged: Staged) -> None:
        self.say("checking the structure")
        proto = onnx.load_model(str(staged.path), load_external_data=False)
        before = set(verification.check(self.model.proto, folder=self.origin.parent))
        found = [
            finding
            for finding in verification.check(proto, folder=staged.path.parent, original=self.model.proto)
            if finding not in before
        ]
        if found:
            raise NotEqualError(
                f"the result's structure is broken ({found[0].what}), {len(found)} findings",
                file=self.model.name,
                node=found[0].node,
                cure="this is a bug of onnxshrink: please report it with the model",
            )

    def _numbers(self, staged: Staged, plan: Plan) -> tuple[verification.Verification, Planted | None]:
        self.say("verifying")
        verdict = verification.verify(
            self.origin,
            staged.path,
            data=self.data,
            input_shapes=self.input_shapes,
            provider=self.provider,
            progress=self.say,
        )
        if verdict.state == "failed":
            what = f"result differs from the original by {verdict.max_rel:.1e} of max|y| at output "
            what += f"`{verdict.worst_output}` (allowed {verdict.bound:.1e})"
            raise NotEqualError(
                f"{verdict.notes[0] if verdict.worst_output is None and verdict.notes else what}; nothing was written",
                file=self.model.name,
                cure="--negligible 0, or report it with the model",
            )
        planted = None
        feed = example(self.origin, self.input_shapes)
        if feed is not None:
            self.say("testing the plan's claims")
            planted = plant(self.origin, feed, plan.unread, plan.absorbed)
            if not planted.passed:
                raise NotEqualError(
                    f"a claim of the plan does not hold: {planted.broken[0]}; nothing was written",
                    file=self.model.name,
                    cure="--negligible 0, or report it with the model",
                )
        return verdict, planted


def _sign(proto: onnx.ModelProto, model: Model, made: Draft) -> None:
    """Source, version and options in prefixed metadata; the first source stays the source."""
    from . import __version__

    options = made.analysis.options
    values = {
        "version": __version__,
        "source_sha256": model.digest(),
        "options": f"align={options.align} negligible={options.negligible:g}",
    }
    for entry in list(proto.metadata_props):
        if entry.key.startswith(PREFIX):
            proto.metadata_props.remove(entry)
    for key, value in values.items():
        proto.metadata_props.add(key=PREFIX + key, value=value)


def _said(options: Options, keep_default_inputs: bool) -> dict[str, Any]:
    return {
        "align": options.align,
        "negligible": options.negligible,
        "keep_default_inputs": keep_default_inputs,
    }


def _same_file(one: Path, other: Path) -> bool:
    return one.exists() and one.samefile(other)


class _Watch:
    """Seconds by step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name] = round(now - self._last, 3)
        self._last = now
