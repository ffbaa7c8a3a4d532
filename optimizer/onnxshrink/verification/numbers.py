"""Original against result under ONNX Runtime: draws, what each of them proves, and the verdict.

First the plain files are compared on a few draws, more of them as long as an output has no draw that could show a
defect. What discontinuous operators or noise leave open is then compared piece by piece (piecewise.py).
"""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx

from ..errors import InputError
from . import data as own_data
from .compare import is_float
from .inputs import DISTRIBUTIONS, INTEGER_LIMITS, Feeds, InputSpec, Shapes, draw, other_sizes, signature, sizes
from .judge import Judgement, judge
from .pool import PLAIN, Arrays, BrokenError, Pool
from .stability import BASES, Level, needed_nodes
from .variants import Source

#: Seconds of running that a verification aims at; the search for evidence may take as much again, three times over.
BUDGET = 6.0
LEVELS = {"off": False, "on": True}


@dataclass(frozen=True)
class Case:
    """One draw: where it comes from, and the values."""

    seed: int
    distribution: str
    feeds: Feeds

    @property
    def shapes(self) -> Shapes:
        return {name: value.shape for name, value in self.feeds.items()}


@dataclass(frozen=True)
class Options:
    """What the caller of `verify` asks for; see there."""

    data: str | Path | None
    input_shapes: Mapping[str, tuple[int, ...]]
    seeds: int
    tolerance: float | None
    progress: Callable[[str], None]


@dataclass
class Trial:
    """A case with the outputs of original and result by level, and what was judged of them.

    `got` stays empty where the original's noise made the draw useless and the result was not run.
    """

    case: Case
    expected: dict[str, Arrays]
    got: dict[str, Arrays] = field(default_factory=dict)
    judged: list[Judgement] = field(default_factory=list)


class Comparison:
    """The plain comparison of two model files.

    Attributes:
        trials: what was run, in order.
        notes: sentences for the person who reads the verdict.
    """

    def __init__(self, original: Source, result: Source, pool: Pool, options: Options):
        self.original, self.result, self.pool, self.options = original, result, pool, options
        self.specs: tuple[InputSpec, ...] = signature(original.model, original.facts)
        self.trials: list[Trial] = []
        self.notes: list[str] = []
        self.integer_limit = INTEGER_LIMITS[0]
        self._levels = dict(LEVELS)
        self._started = time.monotonic()
        marks = original.marks
        self.fixed = {o for o in original.outputs if self._constant_in_result(o)}
        self.flipping = {o for o in original.outputs if marks.level(o) == Level.FLIPPING}

    def base(self, name: str, value: np.ndarray) -> float:
        """The relative difference always allowed for a tensor: 0 where it must be equal to the bit."""
        if not is_float(value):
            return 0.0
        own = max(self.original.marks.base(name), BASES.get(_onnx_type(value), 2e-2))
        return own if self.options.tolerance is None else self.options.tolerance

    def run(self) -> None:
        """Draws and compares, until every output has evidence, a defect is sure, or time is up.

        Raises:
            BrokenError: one of the models does not open or run.
            InputError: data or shapes of the caller do not fit.
        """
        cases = self._cases()
        first = next(cases)
        count = min(self.options.seeds, max(2, int(BUDGET / (5 * max(self._seconds_per_run, 1e-4)))))
        batch = [first, *itertools.islice(cases, count - 1)]
        search = False
        while batch:
            self._compare(batch, search)
            if self.failures() or not self.lacking() or time.monotonic() - self._started > 3 * BUDGET:
                return
            batch, search = list(itertools.islice(cases, 2)), True

    def failures(self) -> list[Judgement]:
        """Outputs that differ by more than rounding, on draws that are evidence."""
        return [j for t in self.trials for j in t.judged if j.failed]

    def lacking(self) -> set[str]:
        """Outputs without a draw that could show a defect, or that answer the same to every draw."""
        names = dict.fromkeys(j.name for t in self.trials for j in t.judged)
        return {n for n in names if n not in self.fixed and not (self.proven(n) and self.varies(n))}

    # Draws.

    def _cases(self) -> Iterator[Case]:
        """The caller's data and drawn inputs in turn; the original has run on the first."""
        floats = any(is_float(np.empty(0, s.dtype)) for s in self.specs)
        names = list(DISTRIBUTIONS) if floats else ["normal"] * 4
        if self.options.data is None:
            base = self._first(None)
            yield base
            yield from self._drawn(base, names[1:])
            return
        samples = own_data.load(self.options.data, self.specs)
        base = self._first(samples[0])
        yield base
        drawn = self._drawn(base, names)
        yield from itertools.islice(drawn, 1)
        for i in np.unique(np.linspace(0, len(samples) - 1, self.options.seeds).round().astype(int))[1:]:
            yield Case(int(i), "data", samples[i])
        stacked = own_data.batch(samples, self.specs, 3)
        if stacked is not None and self._runs(stacked):
            yield Case(0, "data", stacked)
        yield from drawn

    def _drawn(self, base: Case, distributions: Sequence[str]) -> Iterator[Case]:
        other: Shapes | None = None
        if any(s.dynamic for s in self.specs):
            for attempt, shapes in enumerate(other_sizes(self.specs, base.shapes, self.options.input_shapes)):
                if attempt == 10 or self._runs(draw(self.specs, shapes, "normal", 0, self.integer_limit)):
                    other = shapes if attempt < 10 else None
                    break
        for i, distribution in enumerate(distributions, start=1):
            shapes = other if other is not None and i % 2 else base.shapes
            yield Case(i, distribution, draw(self.specs, shapes, distribution, i, self.integer_limit))

    def _first(self, sample: Feeds | None) -> Case:
        """A case on which the original runs: the caller's sample, or drawn at sizes that are tried; and its time."""
        self.options.progress("looking for inputs on which the original runs")
        error = "no size was tried"
        for limit, feeds in [(INTEGER_LIMITS[0], sample)] if sample is not None else self._attempts():
            try:
                self.pool.run("original", PLAIN, False, feeds)
            except BrokenError as problem:
                if not problem.running:
                    raise
                error = problem.what
                continue
            self.integer_limit = limit
            self._started = time.monotonic()
            self.pool.run("original", PLAIN, False, feeds)
            self._seconds_per_run = time.monotonic() - self._started
            return Case(0, "data" if sample is not None else "normal", feeds)
        if sample is not None or self.options.input_shapes:
            raise InputError(f"the original does not run on these inputs: {error}")
        raise BrokenError("original", f"it ran on none of the inputs that were tried, last: {error}")

    def _attempts(self) -> Iterator[tuple[int, Feeds]]:
        open_range = any(s.dtype.kind in "iu" and s.limit is None and not s.values for s in self.specs)
        for limit in INTEGER_LIMITS if open_range else INTEGER_LIMITS[:1]:
            for shapes in sizes(self.specs, self.options.input_shapes):
                yield limit, draw(self.specs, shapes, "normal", 0, limit)

    def _runs(self, feeds: Feeds) -> bool:
        try:
            self.pool.run("original", PLAIN, False, feeds)
        except BrokenError:
            return False
        return True

    # Comparing.

    def _compare(self, cases: Sequence[Case], search: bool) -> None:
        """Runs a batch level by level, so that two sessions at a time are enough; in a search, first the original."""
        expected: list[dict[str, Arrays]] = [{} for _ in cases]
        for level, optimize in self._levels.copy().items():
            self.options.progress(f"original, optimizations {level}, {len(cases)} draws")
            try:
                for i, case in enumerate(cases):
                    expected[i][level] = self.pool.run("original", PLAIN, optimize, case.feeds)
            except BrokenError as problem:
                if not optimize:
                    raise
                # A defect of the runtime's optimizer on the original; the comparison without it stands.
                self._levels.pop(level)
                self.notes.append(f"the original does not run with optimizations on: {problem.what}")
                for e in expected:
                    e.pop(level, None)
        trials = [Trial(c, e) for c, e in zip(cases, expected, strict=True)]
        self.trials += trials
        for trial in trials:
            trial.judged = self._judge(trial)
        if search:
            wanted = self.lacking()
            trials = [t for t in trials if any(j.name in wanted and j.evidence for j in t.judged)]
        for level, optimize in self._levels.items():
            self.options.progress(f"result, optimizations {level}, {len(trials)} draws")
            for trial in trials:
                trial.got[level] = self.pool.run("result", PLAIN, optimize, trial.case.feeds)
        for trial in trials:
            trial.judged = self._judge(trial)
            if any(j.failed for j in trial.judged):
                floors = self.jitter(trial.case)
                trial.judged = [j.with_floor(floors.get(j.name, 0.0)) if j.base else j for j in trial.judged]

    def _judge(self, trial: Trial) -> list[Judgement]:
        judged = []
        for name, value in next(iter(trial.expected.values())).items():
            output = self.output_of(name)
            if output not in self.flipping:
                judged.append(judge(name, self.base(output, value), *self.values(trial, name)))
        return judged

    def values(self, trial: Trial, name: str) -> tuple[Arrays, Arrays]:
        """One output of the original and of the result by level."""
        before = {level: arrays[name] for level, arrays in trial.expected.items() if name in arrays}
        return before, {level: arrays[name] for level, arrays in trial.got.items() if name in arrays}

    def output_of(self, name: str) -> str:
        """The graph output that a part of a sequence belongs to."""
        return name if name in self.original.outputs else re.sub(r"(\.length|\[[^]]*\])+$", "", name)

    def jitter(self, case: Case, samples: int = 2) -> dict[str, float]:
        """How much each output moves when the last bit of the inputs does: the model's own amplification of rounding.

        On against off shows nothing where optimizations find nothing to fuse; this shows it before a verdict of
        "differs" is given.
        """
        rng = np.random.default_rng(case.seed)
        still = self.pool.run("original", PLAIN, False, case.feeds)
        worst = dict.fromkeys(still, 0.0)
        for _ in range(samples):
            feeds = {}
            for name, value in case.feeds.items():
                if is_float(value):
                    signs = rng.choice(np.array([-1, 1]), value.shape)
                    ulp = np.finfo(value.dtype).eps if value.dtype.kind == "f" else 2.0**-8
                    value = (value.astype(np.float64) * (1 + signs * float(ulp))).astype(value.dtype)
                feeds[name] = value
            moved = self.pool.run("original", PLAIN, False, feeds)
            for name, value in still.items():
                other = moved.get(name)
                change = judge(name, 0.0, {"off": value}, {"off": other}).error if other is not None else np.inf
                worst[name] = max(worst[name], float(change))
        return worst

    def flips(self, name: str) -> tuple[float, float, float]:
        """For an output behind a discontinuity: the largest difference of the result, what rounding alone does to the
        original, and the difference that is always allowed."""
        error = floor = base = 0.0
        for trial in [t for t in self.trials if t.got]:
            judgement = judge(name, 0.0, *self.values(trial, name))
            error = max(error, judgement.error)
            floor = max(floor, judgement.floor, self.jitter(trial.case, 3).get(name, 0.0))
            base = self.base(name, next(iter(trial.expected.values()))[name])
        return error, floor, base

    # Evidence.

    def proven(self, name: str) -> bool:
        """Whether some draw could have shown a defect in this output."""
        return any(j.name == name and j.evidence for t in self.trials if t.got for j in t.judged)

    def varies(self, name: str) -> bool:
        """Whether an output depends on its inputs in what was run: two draws of one shape differ, or rows of a batch."""
        seen: dict[tuple[int, ...], np.ndarray] = {}
        for trial in self.trials:
            value = next(iter(trial.expected.values()))[name]
            if value.shape in seen:
                if not np.array_equal(seen[value.shape], value):
                    return True
            elif value.ndim and len(value) > 1 and any(not np.array_equal(value[0], row) for row in value[1:]):
                return True
            seen[value.shape] = value
        lone = len(seen) == len(self.trials)
        return lone and any(j.spread > 0 for t in self.trials for j in t.judged if j.name == name)

    def _constant_in_result(self, output: str) -> bool:
        """Whether the result computes this output from no input at all: a network that ended as a constant."""
        graph = self.result.model.graph
        if output not in self.result.producers:
            return output in self.result.constants
        needed = needed_nodes(graph, {output})
        fed = {s.name for s in self.specs}
        return not any(fed.intersection(graph.node[i].input) for i in needed)


def _onnx_type(value: np.ndarray) -> int:
    return onnx.helper.np_dtype_to_tensor_dtype(value.dtype)
