"""Latency of one model, or of two against each other, under ONNX Runtime.

Two models are run in turns, A B B A, so that a machine that slows down slows both: what is compared are the two
times of one round, never two averages taken minutes apart. Two sessions of one and the same model differ by up to a
percent or so (where their memory and threads came to lie), so the measurement is spread over several starts, and the
interval of the ratio counts both. Beside the figures stands what is needed to measure them again: provider, its
options, threads, versions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from .. import runtime
from ..choices import Provider, check_choice
from ..errors import InputError, ModelError, short
from ..graph.model import read
from ..verification.inputs import Feeds, draw
from .environment import environment
from .inputs import common, feed_shapes, inputs_of

STARTS = 5
MIN_ROUNDS_PER_START = 2
SLOT_SECONDS = 0.02
WARM_UP_SECONDS = 0.2
WARM_UP_RUNS = 3
RESAMPLES = 4000
CONFIDENCE = 0.95

Run = Callable[[], None]


@dataclass(frozen=True)
class Timing:
    """Time of one run in milliseconds: the median, the spread from the 10th to the 90th percentile, and of how many."""

    median_ms: float
    p10_ms: float
    p90_ms: float
    runs: int


@dataclass(frozen=True)
class Ratio:
    """Time of B over time of A: the mean over starts of the median over rounds, and its bootstrap interval."""

    ratio: float
    low: float
    high: float
    confidence: float
    rounds: int
    starts: int


@dataclass(frozen=True)
class BatchTiming:
    """What was measured at one batch size. `shapes` are those of the inputs that were fed."""

    batch: int
    shapes: dict[str, tuple[int, ...]]
    a: Timing
    b: Timing | None = None
    ratio: Ratio | None = None


@dataclass(frozen=True)
class Benchmark:
    """Latency of A, and of B beside it, with everything that the figures depend on.

    Attributes:
        a, b: the models' files.
        provider: the execution provider that ran, by ONNX Runtime's name.
        provider_options: all options in effect (for CUDA also use_tf32, prefer_nhwc and enable_cuda_graph).
        threads: intra-op threads; 0 is ONNX Runtime's own choice.
        environment: versions, processor, GPU.
        batches: one entry for each batch size measured.
        notes: what was asked for and not done, and why.
    """

    a: str
    b: str | None
    provider: str
    provider_options: dict[str, str]
    threads: int
    environment: dict[str, str]
    batches: tuple[BatchTiming, ...]
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """All of it as plain dictionaries, lists, strings and numbers."""
        plain = asdict(self)
        for batch in plain["batches"]:
            batch["shapes"] = {name: list(shape) for name, shape in batch["shapes"].items()}
        return {**plain, "batches": list(plain["batches"]), "notes": list(self.notes)}


def ratio_is_slower(bench: Benchmark, margin: float = 0.02) -> bool:
    """Whether B is slower than A by more than `margin` (0.02: two percent) at any batch size, beyond the noise.

    The whole interval must lie above 1 + margin: a median above it that the spread does not carry decides nothing.

    Raises:
        ValueError: only one model was measured.
    """
    ratios = [batch.ratio for batch in bench.batches if batch.ratio is not None]
    if not ratios:
        raise ValueError("one model alone has no ratio")
    return any(ratio.low > 1 + margin for ratio in ratios)


def bench(
    a: str | Path,
    b: str | Path | None = None,
    *,
    provider: Provider = "cpu",
    batches: Sequence[int] = (1,),
    threads: int | None = None,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    seconds: float = 3.0,
    provider_options: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> Benchmark:
    """Measure the latency of A, or of A and B in turns.

    On CUDA inputs and outputs stay on the device (otherwise copies would be timed) and each run ends with a
    synchronization inside the timed region. On the CPU binding changes nothing, and a plain run is timed.

    Args:
        a: path of a model.
        b: path of a model with the same inputs.
        provider: "cpu", "cuda" or "tensorrt".
        batches: batch sizes. A model whose batch is fixed is measured at its own, and `notes` say so.
        threads: intra-op threads; None lets ONNX Runtime choose.
        input_shapes: shapes for inputs whose dynamic dimensions are not only the batch.
        seconds: how long to measure each batch size, warm-ups not counted. Slow models take longer: a round runs each
            model twice, and there are never fewer than 2 rounds in each of 5 starts.
        provider_options: options of the provider; `{"enable_cuda_graph": "1"}` captures a CUDA graph.
        seed: of the random inputs and of the bootstrap.

    Raises:
        RuntimeMissingError: ONNX Runtime or the provider is not there.
        ModelError: ONNX Runtime refuses a model.
        InputError: an option cannot be, a dynamic dimension needs a shape, or A and B have different inputs.
    """
    check_choice("provider", provider, Provider)
    if not batches or min(batches) < 1 or seconds <= 0 or (threads or 0) < 0:
        raise InputError("batches, seconds and threads must be positive")
    paths = [str(path) for path in (a, b) if path is not None]
    specs = inputs_of(read(paths[0]))
    for path in paths[1:]:
        specs = common(specs, inputs_of(read(path)))

    def start(which: int, feeds: Feeds) -> tuple[Run, dict[str, str]]:
        session = runtime.session(
            paths[which], provider=provider, threads=threads or 0, provider_options=dict(provider_options or {})
        )
        effective = session.get_provider_options()[runtime.PROVIDERS[provider]]
        return (plain if provider == "cpu" else on_device)(session, feeds, paths[which]), effective

    measured: list[BatchTiming] = []
    notes: list[str] = []
    effective: dict[str, str] = {}
    for batch in dict.fromkeys(batches):
        shapes, actual = feed_shapes(specs, batch, input_shapes or {})
        if actual != batch:
            notes.append(f"batch {batch} was not measured: the inputs are fixed to batch {actual}")
        if any(timing.batch == actual for timing in measured):
            continue
        feeds = draw(specs, shapes, "normal", seed)
        starts: list[list[list[np.ndarray]]] = []
        for number in range(STARTS):
            # Which model is loaded first, and which begins a round, takes turns too.
            order = [*range(len(paths))][:: -1 if number % 2 else 1]
            begun = {which: start(which, feeds) for which in order}
            effective = {key: str(value) for key, value in begun[0][1].items()}
            starts.append(_rounds({which: run for which, (run, _) in begun.items()}, seconds / STARTS))
        measured.append(_summary(starts, actual, shapes, seed))
    return Benchmark(
        a=paths[0],
        b=paths[1] if len(paths) > 1 else None,
        provider=runtime.PROVIDERS[provider],
        provider_options=effective,
        threads=threads or 0,
        environment=environment(provider),
        batches=tuple(measured),
        notes=tuple(notes),
    )


# --- runs ------------------------------------------------------------------------------------------------------------


def plain(session: Any, feeds: Feeds, path: str) -> Run:
    """A run on the CPU, tried once."""

    def run() -> None:
        session.run(None, feeds)

    return _tried(run, path)


def on_device(session: Any, feeds: Feeds, path: str, device: str = "cuda") -> Run:
    """A run whose inputs and outputs stay on the device, with the wait for its end."""
    ort = runtime.onnxruntime()
    binding = session.io_binding()
    for name, array in feeds.items():
        binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array, device, 0))
    outputs = [output.name for output in session.get_outputs()]
    for name in outputs:
        binding.bind_output(name, device, 0)

    def run() -> None:
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()

    _tried(run, path)
    # Keep the buffers of this first run: later ones allocate nothing, and a CUDA graph finds the same addresses.
    for name, value in zip(outputs, binding.get_outputs(), strict=True):
        binding.bind_ortvalue_output(name, value)
    return run


def _tried(run: Run, path: str) -> Run:
    try:
        run()
    except Exception as error:  # the C++ layer raises many unrelated types
        raise ModelError(
            f"does not run: {short(error)}", file=path, cure="give shapes that it accepts with --input-shape"
        ) from error
    return run


# --- times -----------------------------------------------------------------------------------------------------------


def _rounds(runs: dict[int, Run], seconds: float) -> list[list[np.ndarray]]:
    """For each model the slots of one start: two in each round where there are two models, else one."""
    slowest = max(_warm_up(run) for run in runs.values())
    per_slot = math.ceil(max(SLOT_SECONDS, seconds / 40) / slowest)
    order = [*runs, *reversed(runs)] if len(runs) == 2 else [*runs]
    slots: list[list[np.ndarray]] = [[] for _ in runs]
    rounds, end = 0, perf_counter() + seconds
    while rounds < MIN_ROUNDS_PER_START or perf_counter() < end:
        for which in order:
            slots[which].append(_slot(runs[which], per_slot))
        rounds += 1
    return slots


def _summary(
    starts: list[list[list[np.ndarray]]], batch: int, shapes: dict[str, tuple[int, ...]], seed: int
) -> BatchTiming:
    timings = [_timing([slot for start in starts for slot in start[which]]) for which in range(len(starts[0]))]
    if len(timings) == 1:
        return BatchTiming(batch, shapes, timings[0])
    ratio = _ratio([(_per_round(start[0]), _per_round(start[1])) for start in starts], seed)
    return BatchTiming(batch, shapes, timings[0], timings[1], ratio)


def _per_round(slots: list[np.ndarray]) -> np.ndarray:
    return np.array([np.median(slot) for slot in slots]).reshape(-1, 2).sum(axis=1)


def _warm_up(run: Run) -> float:
    """Run a few times and for a while; the median of the later runs in seconds."""
    times: list[float] = []
    end = perf_counter() + WARM_UP_SECONDS
    while len(times) < WARM_UP_RUNS or perf_counter() < end:
        times.extend(_slot(run, 1))
    return float(np.median(times[len(times) // 2 :]))


def _slot(run: Run, count: int) -> np.ndarray:
    """Seconds of `count` runs in a row.

    Before several short ones one more goes untimed: the other model has left its data in the caches, and its threads
    still spin.
    """
    if count > 1:
        run()
    times = np.empty(count)
    for i in range(count):
        start = perf_counter()
        run()
        times[i] = perf_counter() - start
    return times


def _timing(slots: list[np.ndarray]) -> Timing:
    ms = 1e3 * np.concatenate(slots)
    p10, median, p90 = np.percentile(ms, [10, 50, 90])
    return Timing(median_ms=float(median), p10_ms=float(p10), p90_ms=float(p90), runs=len(ms))


def _ratio(starts: list[tuple[np.ndarray, np.ndarray]], seed: int) -> Ratio:
    """Time of B over time of A from the times of each round, and its interval.

    The bootstrap draws starts, and within each the rounds, with replacement: rounds of one start share what the start
    happened to get, so they alone would give too narrow an interval.
    """
    rng = np.random.default_rng(seed)
    ratios = [of_b / of_a for of_a, of_b in starts]
    medians = np.stack([np.median(r[rng.integers(0, len(r), (RESAMPLES, len(r)))], axis=1) for r in ratios])
    drawn = rng.integers(0, len(ratios), (len(ratios), RESAMPLES))
    means = np.take_along_axis(medians, drawn, axis=0).mean(axis=0)
    low, high = np.percentile(means, [50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE)])
    return Ratio(
        ratio=float(np.mean([np.median(r) for r in ratios])),
        low=float(low),
        high=float(high),
        confidence=CONFIDENCE,
        rounds=sum(len(r) for r in ratios),
        starts=len(ratios),
    )
