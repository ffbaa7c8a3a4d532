"""`optimize`, step by step: read, plan, cut, check, verify, write."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import onnx

from . import benchmark
from .acceptance import Judge, accepted
from .channels.analysis import Options
from .channels.plan import Plan
from .choices import Provider, check_align, check_choice, check_negligible
from .draft import Progress, Shapes, default_align, draft, fastest, promise
from .errors import ConditionError
from .graph.inline import inlined
from .graph.model import read
from .graph.view import Graph, build
from .graph.write import file_bytes, refuse_overwriting
from .result import Result
from .rewrite.map import make_map


def optimize(
    source: str | Path | onnx.ModelProto,
    output: str | Path | None = None,
    *,
    align: int | Literal["auto"] | None = None,
    negligible: float = 1e-8,
    data: str | Path | None = None,
    input_shapes: Shapes = None,
    input_ranges: Mapping[str, tuple[float, float]] | None = None,
    provider: Provider = "cpu",
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
        input_ranges: least and largest value of inputs. What saturates within these counts as known; the result
            equals the original for such inputs only.
        provider: "cpu", "cuda" or "tensorrt", for verification.
        keep_default_inputs: leave initializers that are listed as inputs (from IR 4 on) overridable.
        verify: False skips the numerical verification and the test of claims, never the structural check.
        fail_if_unchanged: nothing to cut is an error.
        fail_if_slower: measure both models, and a result that is slower is an error.
        progress: told what is being done.

    Raises:
        ModelError: the model cannot be read, cut or written.
        InputError: an option cannot be, or `data`, `input_shapes` or `input_ranges` do not fit the model.
        NotEqualError: the result differs from the original; nothing was written.
        ConditionError: a `fail_if` condition was met; nothing was written, and the error holds the result.
        RuntimeMissingError: verification needs ONNX Runtime, or the provider, and it is not there.
    """
    say = progress or (lambda _: None)
    watch = _Watch()
    if align is not None and align != "auto":
        check_align(align)
    check_negligible(negligible)
    check_choice("provider", provider, Provider)
    model = inlined(read(source))
    if output is not None:
        refuse_overwriting(Path(output), model)
    graph = build(model, keep_default_inputs=keep_default_inputs)
    promise(graph, input_ranges)
    say("planning")
    options = Options(negligible, align if isinstance(align, int) else default_align(graph))
    made = draft(graph, options, input_shapes)
    watch.lap("plan")
    with tempfile.TemporaryDirectory(prefix="onnxshrink-") as folder:
        origin = model.path
        if origin is None:
            origin = Path(folder) / "original.onnx"
            origin.write_bytes(model.original.SerializeToString())
        destination = Path(output) if output is not None else Path(folder) / "result.onnx"
        if align == "auto" and made.plan.changes:
            made, options = fastest(graph, options, model, Path(folder), provider, input_shapes, say)
            watch.lap("align")
        judge = Judge(model, origin, destination, verify, data, input_shapes, graph.ranges, provider, say)
        staged, verdict, planted, made, notes = accepted(judge, graph, made, options)
        watch.lap("verify")
        with staged:
            plan = made.plan
            if align == "auto" and plan.changes:
                notes.append(f"--align auto measured and took {options.align}")
            if plan.removed["range"] and graph.ranges:
                told = ", ".join(f"`{name}` in [{low:g}, {high:g}]" for name, (low, high) in graph.ranges.items())
                notes.append(f"equal for inputs within the ranges given: {told}")
            if graph.default_inputs:
                count = len(graph.default_inputs)
                notes.append(
                    f"{count} initializers were listed as inputs (overridable defaults); they are constants now "
                    "(--keep-default-inputs keeps them)"
                    if plan.changes
                    else f"{count} initializers are listed as inputs (overridable defaults), so ONNX Runtime neither "
                    "folds nor fuses them, which can halve its speed; export without keep_initializers_as_inputs"
                )
            proto = onnx.load_model(str(staged.path), load_external_data=False)
            parameters = benchmark.parameters(model.original), benchmark.parameters(proto)
            if parameters[1] > parameters[0]:
                notes.append(
                    f"parameters grow by {parameters[1] - parameters[0]:,}: constants that several nodes share were "
                    "cut for some of them only, or known values are stored that were computed"
                )
            sizes: dict[str, tuple[int | None, int | None]] = {
                "parameters": parameters,
                "macs": made.macs,
                "file_bytes": (file_bytes(origin), file_bytes(staged.path)),
            }
            latency = None
            if fail_if_slower and plan.changes:
                say("measuring")
                latency = benchmark.bench(origin, staged.path, provider=provider, input_shapes=input_shapes)
            if not plan.changes:
                notes.append("; ".join(why_unchanged(plan)))
            result = Result(
                judge.result,
                plan,
                make_map(made.passes, plan, _said(options, keep_default_inputs, graph)),
                verdict,
                planted,
                plan.changes,
                sizes,
                [*plan.notes, *notes],
                watch.seconds,
                latency,
            )
            _refuse(result, fail_if_unchanged, model.name)
            if output is not None:
                staged.commit()
        watch.lap("write")
    return result


def _refuse(result: Result, fail_if_unchanged: bool, file: str) -> None:
    """Raise ConditionError where nothing changed and that is a failure, or where it was measured and is slower."""
    if fail_if_unchanged and not result.changed:
        what, cure = why_unchanged(result.plan)
    elif result.latency is not None and benchmark.ratio_is_slower(result.latency):
        what, cure = "the result is slower than the original", "--align auto"
    else:
        return
    raise ConditionError(f"{what}; no model was written", result, file=file, cure=cure)


def _said(options: Options, keep_default_inputs: bool, graph: Graph) -> dict[str, Any]:
    return {
        "align": options.align,
        "negligible": options.negligible,
        "keep_default_inputs": keep_default_inputs,
        "input_ranges": {name: list(ends) for name, ends in graph.ranges.items()},
    }


class _Watch:
    """Seconds by step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name] = round(now - self._last, 3)
        self._last = now


def why_unchanged(plan: Plan) -> tuple[str, str]:
    """Why a plan that changes nothing does not, and what its reader can do."""
    aligned = sum(layer.aligned for layer in plan.layers)
    if aligned:
        return f"no channel goes: {aligned} that carry nothing stay for alignment", "--align 1 cuts them"
    return (
        "no channel of this model can go without loss: it is dense",
        "give up channels at a known loss with `onnxshrink prune`, or train onnxshrink.gates",
    )
