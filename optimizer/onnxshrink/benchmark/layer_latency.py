"""Measuring a table of layer latencies (table.py) on the provider in use.

On the CPU the time of the layer's own kernel is taken from ONNX Runtime's profile: around a layer that stands alone
there are conversions to the blocked layout that a whole network does not pay. On other providers a profile has launch
times only, so several copies are run and divided by their number. What counts is the mean of the faster half of the
runs: other work on the machine only ever makes a run slower.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import perf_counter

import numpy as np
import onnx

from .. import runtime
from ..choices import Provider, check_choice
from ..errors import InputError, ModelError
from ..files import write_whole
from ..graph.inline import inlined
from ..graph.model import read
from ..verification.inputs import Feeds, draw
from .environment import environment
from .latency import feed_shapes, inputs_of, on_device, plain
from .layers import STEP, Layer, find_layers
from .table import EVEN, LatencyTable, LayerLatency, Step, read_table

COPIES = 8
"""Copies of a layer in one session, where its kernel cannot be timed alone."""

LEAST_RUNS, MOST_RUNS = 5, 400
STEPS = (8, STEP)
TELLS = 0.02
"""A larger step must explain the latencies this much better, in their logarithm: less is noise."""

Clock = Callable[[bytes, Feeds, float], float]
"""Milliseconds of one layer alone: of a model, its inputs and how many seconds to measure."""


def measure_layers(
    model: str | Path | onnx.ModelProto,
    output: str | Path | None = None,
    *,
    provider: Provider = "cpu",
    threads: int | None = None,
    batch: int = 1,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    seconds: float = 3.0,
    progress: Callable[[str], None] = lambda text: None,
    clock: Clock | None = None,
) -> LatencyTable:
    """Measure every distinct layer of a model against its channel counts.

    A layer is measured at up to four counts of inputs with up to four of outputs, quarters of its own rounded to
    multiples of 16 (4 below 32 channels), and at up to three more counts on each side that tell in what steps its
    latency grows and what a count costs that 4 does not divide. Nothing else is measured: `LayerLatency.at`
    interpolates.

    Args:
        model: a path, or a ModelProto with its weights inside.
        output: where the table is kept, written anew after each layer. A table of the same model, provider and
            machine that is there is taken up where it ends.
        provider: "cpu", "cuda" or "tensorrt".
        threads: intra-op threads; None lets ONNX Runtime choose.
        batch: the batch size, where it is free.
        input_shapes: shapes for inputs whose dynamic dimensions are not only the batch.
        seconds: how long to measure each layer at most, and the whole model at the end.
        progress: told what is being measured.
        clock: another way to time a layer.

    Raises:
        InputError: there is no such provider, `output` holds something else, or a dynamic dimension needs a shape.
        ModelError: ONNX Runtime refuses the model, or no layer of it has known shapes.
        RuntimeMissingError: ONNX Runtime or the provider is not there.
    """
    check_choice("provider", provider, Provider)
    source = inlined(read(model))
    folder = source.path.parent if source.path is not None else None
    specs = inputs_of(source)
    shapes, _ = feed_shapes(specs, batch, input_shapes or {})
    layers = [*find_layers(source.proto, folder, shapes)]
    if not layers:
        raise ModelError("has no convolution or product to measure", file=source.name)
    table = LatencyTable(runtime.PROVIDERS[provider], threads or 0, shapes, source.digest(), environment(provider))
    known = _taken_up(Path(output), table) if output is not None else {}
    timed = clock or (_Profile(threads or 0) if provider == "cpu" else _Copies(provider, threads or 0))
    distinct = len({layer.kind for layer in layers})
    for layer in layers:
        name = layer.weight
        if name in table.layers and table.layers[name].kind != layer.kind:
            name = f"{layer.weight}@{layer.node.output[0]}"
        if layer.kind not in known:
            progress(f"layer {len(known) + 1} of {distinct}: {layer.kind}")
            known[layer.kind] = measured(layer, timed, seconds, 1 if provider == "cpu" else COPIES)
        table.layers[name], table.nodes[layer.node.output[0]] = known[layer.kind], name
        _keep(table, output)
    progress("the whole model")
    feeds = draw(specs, shapes, "normal", 0)
    where: str | bytes = str(source.path) if source.path else source.proto.SerializeToString()
    session = runtime.session(where, provider=provider, threads=threads or 0)
    run = (plain if provider == "cpu" else on_device)(session, feeds, source.name)
    table.whole = _faster_half(_walls(run, seconds))
    _keep(table, output)
    return table


def additivity(table: LatencyTable, widths: Mapping[str, tuple[int, int]]) -> float:
    """The sum of the layers' latencies at these (input, output) channels over the latency of the whole model.

    Below 1 is what other operators take; above 1 the layers gain from each other.
    """
    return table.sum(dict(widths)) / table.whole


def own_widths(table: LatencyTable) -> dict[str, tuple[int, int]]:
    """The channels that the layers have in the model that was measured: the largest of their counts."""
    return {
        output: (table.layers[weight].counts(0)[-1], table.layers[weight].counts(1)[-1])
        for output, weight in table.nodes.items()
    }


def measured(layer: Layer, clock: Clock, seconds: float, copies: int = 1) -> LayerLatency:
    """One layer's latencies by channel counts."""
    inputs, outputs = layer.grid()
    probes = layer.probes(0), layer.probes(1)
    each = seconds / (len(inputs) * len(outputs) + len(probes[0]) + len(probes[1]))

    def at(i: int, o: int) -> float:
        made = layer.model(i, o, copies).SerializeToString()
        return clock(made, layer.feeds(i, o), each)

    points = tuple((i, o, at(i, o)) for i in inputs for o in outputs)
    full = inputs[-1], outputs[-1]
    line = LayerLatency(layer.kind, points)
    seen = (
        {count: at(count, full[1]) for count in probes[0]},
        {count: at(full[0], count) for count in probes[1]},
    )
    steps = _step(line, 0, seen[0], full[1]), _step(line, 1, seen[1], full[0])
    return LayerLatency(layer.kind, points, steps)


def _step(line: LayerLatency, axis: int, seen: Mapping[int, float], other: int) -> Step:
    """The step that says best what was measured at even counts, and what an uneven one costs on top of it."""

    def expected(count: int, step: int) -> float:
        steps: tuple[Step, Step] = ((step, 1.0), (1, 1.0)) if axis == 0 else ((1, 1.0), (step, 1.0))
        table = LayerLatency(line.kind, line.points, steps)
        return float(table.at(count, other) if axis == 0 else table.at(other, count)) or 1e-9

    def off(counts: Mapping[int, float], step: int) -> float:
        return float(np.mean([abs(np.log(ms / expected(count, step))) for count, ms in counts.items()]))

    even = {count: ms for count, ms in seen.items() if count % EVEN == 0}
    uneven = {count: ms for count, ms in seen.items() if count % EVEN}
    best = EVEN
    for step in STEPS if even else ():
        if off(even, step) < off(even, best) - TELLS:
            best = step
    if best == EVEN and (not uneven or off(uneven, 1) < off(uneven, EVEN) - TELLS):
        best = 1
    factor = max([1.0, *(ms / expected(count, best) for count, ms in uneven.items())])
    return best, round(factor, 3)


class _Profile:
    """The time of a layer's kernel on the CPU, from ONNX Runtime's profile."""

    def __init__(self, threads: int):
        self.threads = threads

    def __call__(self, model: bytes, feeds: Feeds, seconds: float) -> float:
        with tempfile.TemporaryDirectory(prefix="onnxshrink-") as folder:
            session = runtime.session(model, threads=self.threads, profile=Path(folder) / "layer")
            _walls(plain(session, feeds, "layer"), seconds)
            found = Path(session.end_profiling())
            events = json.loads(found.read_text(encoding="utf-8"))
        times: dict[str, list[float]] = {}
        for event in events:
            kernel = event.get("cat") == "Node" and str(event["name"]).endswith("_kernel_time")
            if kernel and not event["args"]["op_name"].startswith("Reorder"):
                times.setdefault(event["name"], []).append(event["dur"] / 1e3)
        return sum(_faster_half(runs[1:]) for runs in times.values())


class _Copies:
    """The time of one of several copies of a layer, with inputs and outputs on the device."""

    def __init__(self, provider: str, threads: int):
        self.provider, self.threads = provider, threads

    def __call__(self, model: bytes, feeds: Feeds, seconds: float) -> float:
        session = runtime.session(model, provider=self.provider, threads=self.threads)
        run = on_device(session, feeds, "layer")
        return _faster_half(_walls(run, seconds)) / len(session.get_outputs())


def _walls(run: Callable[[], None], seconds: float) -> list[float]:
    """Milliseconds of runs for so long, at most `MOST_RUNS` of them, after one that does not count."""
    run()
    times: list[float] = []
    end = perf_counter() + seconds
    while len(times) < LEAST_RUNS or (len(times) < MOST_RUNS and perf_counter() < end):
        start = perf_counter()
        run()
        times.append(1e3 * (perf_counter() - start))
    return times


def _faster_half(times: Sequence[float]) -> float:
    return float(np.mean(np.sort(times)[: max(1, len(times) // 2)]))


def _taken_up(output: Path, table: LatencyTable) -> dict[str, LayerLatency]:
    """Layers by their kind that an interrupted run left."""
    if not output.exists():
        return {}
    before = read_table(output)
    if before.model != table.model or before.shapes != table.shapes or not before.same_place(table):
        raise InputError(
            "is the table of another model, shape, provider or machine",
            file=str(output),
            cure="give another file, or delete this one",
        )
    return {layer.kind: layer for layer in before.layers.values()}


def _keep(table: LatencyTable, output: str | Path | None) -> None:
    """Write the table, if it is to be kept."""
    if output is not None:
        write_whole(Path(output), json.dumps(table.to_json()) + "\n")
