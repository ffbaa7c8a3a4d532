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
from functools import cached_property
from pathlib import Path

import numpy as np
import onnx

from ..errors import InputError
from . import data as own_data
from .compare import is_float
from .footprint import fitting, fitting_first
from .inputs import (
    DISTRIBUTIONS,
    INTEGER_LIMITS,
    Feeds,
    InputSpec,
    Ranges,
    Shapes,
    draw,
    other_sizes,
    require_drawable,
    signature,
    sizes,
)
from .judge import Judgement, judge
from .pool import PLAIN, Arrays, BrokenError, Pool
from .sensitivity import jitter, response
from .shapes import model_facts
from .stability import SUMMED, Level, base_of, most_terms, needed_nodes
from .variants import Source

#: Seconds of running that a verification aims at; the search for evidence may take as much again, three times over.
BUDGET = 6.0
_JITTERED_TRIALS = 2
#: Other sizes that are tried until the original runs on one.
_OTHER_SIZES = 16
#: An output tells something if 1 % of its inputs moves it by this much of max|y|, or by this many bounds.
_RESPONSE, _RESPONSE_BOUNDS = 3e-4, 30
LEVELS = {"off": False, "on": True}


@dataclass(frozen=True)
class Case:
    """One draw: where it comes from, the values, and the original's outputs if they are known already."""

    seed: int
    distribution: str
    feeds: Feeds
    outputs: Arrays | None = None

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
    apart: frozenset[str] = frozenset()
    input_ranges: Ranges = field(default_factory=dict)
    kept: Mapping[str, Mapping[int, Sequence[int]]] = field(default_factory=dict)


@dataclass
class Trial:
    """A case with the outputs of original and result by level, and what was judged of them.

    `got` stays empty where the original's noise made the draw useless and the result was not run; `response` is how
    far 1 % of the inputs moves each output (sensitivity.response), once that was asked for.
    """

    case: Case
    expected: dict[str, Arrays]
    got: dict[str, Arrays] = field(default_factory=dict)
    judged: list[Judgement] = field(default_factory=list)
    response: dict[str, float] | None = None


class Comparison:
    """The plain comparison of two model files.

    Attributes:
        trials: what was run, in order.
        notes: sentences for the person who reads the verdict.
    """

    def __init__(self, original: Source, result: Source, pool: Pool, options: Options):
        self.original, self.result, self.pool, self.options = original, result, pool, options
        self.specs: tuple[InputSpec, ...] = signature(original.model, original.facts, options.input_ranges)
        if options.data is None:
            require_drawable(self.specs)
        self.trials: list[Trial] = []
        self.notes: list[str] = []
        self.integer_limit = INTEGER_LIMITS[0]
        self.seconds_per_run = 0.0
        self.deadline = time.monotonic() + 3 * BUDGET
        marks = original.marks
        self.fixed = {o for o in original.outputs if self._constant_in_result(o)}
        self.flipping = {o for o in original.outputs if marks.level(o) == Level.FLIPPING}

    @property
    def slow(self) -> bool:
        """Whether runs are to be saved: the result is then run only on draws that can show a defect."""
        return self.seconds_per_run > 0.25

    def base(self, name: str, value: np.ndarray) -> float:
        """The relative difference always allowed for a tensor: 0 where it must be equal to the bit."""
        if not is_float(value):
            return 0.0
        own = max(self.original.marks.base(name), base_of(_onnx_type(value)))
        if name in self.fixed:
            own *= max(1.0, self._terms / SUMMED)
        return own if self.options.tolerance is None else self.options.tolerance

    def run(self) -> None:
        """Draws and compares, until every output has evidence, a defect is sure, or time is up.

        Raises:
            BrokenError: one of the models does not open or run.
            InputError: data or shapes of the caller do not fit.
        """
        cases = self._cases()
        first = next(cases)
        count = min(self.options.seeds, max(2, int(BUDGET / (5 * self.seconds_per_run))))
        batch = [first, *itertools.islice(cases, count - 1)]
        self._compare(batch, search=self.slow and not self.flipping)
        while not self.failures() and self.lacking() and time.monotonic() < self.deadline:
            batch = list(itertools.islice(cases, 1 if self.slow else 2))
            if not batch:
                return
            self._compare(batch, search=True)

    def failures(self) -> list[Judgement]:
        """Outputs that differ by more than rounding, on draws that are evidence."""
        return [j for t in self.trials for j in t.judged if j.failed]

    def lacking(self) -> set[str]:
        """Outputs for which no draw yet could have shown a defect."""
        names = dict.fromkeys(j.name for t in self.trials for j in t.judged)
        return {n for n in names if n not in self.fixed and not self.proven(n)}

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
        drawable = all(s.dtype != np.dtype(object) for s in self.specs)
        drawn = self._drawn(base, names if drawable else [])
        yield from itertools.islice(drawn, 1)
        for i in np.unique(np.linspace(0, len(samples) - 1, self.options.seeds).round().astype(int))[1:]:
            yield Case(int(i), "data", samples[i])
        stacked = own_data.batch(samples, self.specs, 3)
        if stacked is not None and (outputs := self._outputs(stacked)) is not None:
            yield Case(0, "data", stacked, outputs)
        yield from drawn

    def _drawn(self, base: Case, distributions: Sequence[str]) -> Iterator[Case]:
        """Drawn inputs, every second one at other sizes where there are free dimensions."""
        others: Iterator[Shapes] = iter(())
        if any(s.dynamic for s in self.specs):
            candidates = other_sizes(self.specs, base.shapes, self.options.input_shapes)
            others = itertools.islice(fitting(self.original.model, self.original.folder, candidates), _OTHER_SIZES)
        other: Shapes | None = None
        for i, distribution in enumerate(distributions, start=1):
            for shapes in others if i % 2 and other is None else ():
                feeds = draw(self.specs, shapes, distribution, i, self.integer_limit)
                if (outputs := self._outputs(feeds)) is not None:
                    other = shapes
                    yield Case(i, distribution, feeds, outputs)
                    break
            else:
                shapes = other if other is not None and i % 2 else base.shapes
                yield Case(i, distribution, draw(self.specs, shapes, distribution, i, self.integer_limit))

    def _first(self, sample: Feeds | None) -> Case:
        """A case on which the original runs: the caller's sample, or drawn at sizes that are tried; and its time."""
        self.options.progress("looking for inputs on which the original runs")
        error = "no size was tried"
        for limit, feeds in [(INTEGER_LIMITS[0], sample)] if sample is not None else self._attempts():
            try:
                outputs = self.pool.run("original", PLAIN, False, feeds)
            except BrokenError as problem:
                if not problem.running:
                    raise
                error = problem.what
                continue
            self.integer_limit = limit
            before = time.monotonic()
            self.pool.run("original", PLAIN, False, feeds)
            self.seconds_per_run = max(time.monotonic() - before, 1e-4)
            return Case(0, "data" if sample is not None else "normal", feeds, outputs)
        if sample is not None or self.options.input_shapes:
            raise InputError(f"the original does not run on these inputs: {error}")
        raise BrokenError("original", f"it ran on none of the inputs that were tried, last: {error}")

    def _attempts(self) -> Iterator[tuple[int, Feeds]]:
        open_range = any(s.dtype.kind in "iu" and s.limit is None and not s.values for s in self.specs)
        for limit in INTEGER_LIMITS if open_range else INTEGER_LIMITS[:1]:
            candidates = sizes(self.specs, self.options.input_shapes)
            for shapes in fitting_first(self.original.model, self.original.folder, candidates):
                if time.monotonic() > self.deadline:
                    return
                yield limit, draw(self.specs, shapes, "normal", 0, limit)

    def _outputs(self, feeds: Feeds, optimize: bool = False) -> Arrays | None:
        """What the original answers; None where it does not run."""
        try:
            return self.pool.run("original", PLAIN, optimize, feeds)
        except BrokenError:
            return None

    # Comparing.

    def _compare(self, cases: Sequence[Case], search: bool) -> None:
        """Runs a batch level by level, so that two sessions at a time are enough; in a search, first the original."""
        trials = [Trial(case, {}) for case in cases]
        for level, optimize in LEVELS.items():
            self.options.progress(f"original, optimizations {level}, {len(cases)} draws")
            for trial in trials:
                known = trial.case.outputs if not optimize else None
                outputs = known or self._outputs(trial.case.feeds, optimize)
                if outputs is not None:
                    trial.expected[level] = outputs
        trials = [t for t in trials if "off" in t.expected]
        if trials and not any("on" in t.expected for t in trials):
            # A defect of the runtime's optimizer on the original; the comparison without it stands.
            self.notes.append("the original does not run with graph optimizations on")
        self.trials += trials
        for trial in trials:
            trial.judged = self._judge(trial)
        if search:
            wanted = self.lacking()
            trials = [t for t in trials if any(j.name in wanted and j.evidence for j in t.judged)]
        for level, optimize in LEVELS.items():
            self.options.progress(f"result, optimizations {level}, {len(trials)} draws")
            for trial in [t for t in trials if level in t.expected]:
                trial.got[level] = self.pool.run("result", PLAIN, optimize, trial.case.feeds)
        for trial in trials:
            trial.judged = self._judge(trial)
            if any(j.failed for j in trial.judged):
                trial.judged = self.with_noise(trial.judged, trial.case.feeds, PLAIN)

    def with_noise(self, judged: Sequence[Judgement], feeds: Feeds, variant: str) -> list[Judgement]:
        """Judgements that know what rounding alone does in a variant of the original, before one counts as a defect."""
        levels = {level: LEVELS[level] for j in judged for level in j.errors}
        noise = jitter(self.pool, feeds, 1 if self.slow else 2, levels, variant)
        return [j.with_noise(noise.get(j.name, {})) if j.base else j for j in judged]

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

    def flips(self, name: str) -> Judgement | None:
        """An output behind a discontinuity, held against how rounding alone flips it in the original: its worst part on
        the worst draw; a sequence or a map has parts.

        None if the result was run on no draw.
        """
        found: dict[str, list[Judgement]] = {}
        for trial in [t for t in self.trials if t.got][:_JITTERED_TRIALS]:
            noise = jitter(self.pool, trial.case.feeds)
            for part, value in trial.expected["off"].items():
                if self.output_of(part) == name:
                    judgement = judge(part, self.base(name, value), *self.values(trial, part))
                    found.setdefault(part, []).append(judgement.with_noise(noise.get(part, {})))
        floors = {part: max(j.floor for j in own) for part, own in found.items()}
        judged = [j.with_floor(floors[part]) for part, own in found.items() for j in own]
        return max(judged, key=lambda j: (j.exceeds, j.error), default=None)

    # Evidence.

    def proven(self, name: str) -> bool:
        """Whether on some draw a defect would have shown in this output."""
        return any(t.got and self.tells(t, j) for t in self.trials for j in t.judged if j.name == name)

    def tells(self, trial: Trial, judgement: Judgement) -> bool:
        """Whether a defect would show in this output on this draw: low noise, and it answers to its inputs.

        Outputs of real models move by a thousandth or more when the inputs move by a hundredth. A saturated Softmax
        moves by less than a ten-thousandth, and hides a Conv that is off by as much.
        """
        if not judgement.evidence or not judgement.base:
            return judgement.evidence
        if self.original.marks.level(self.output_of(judgement.name)) < Level.ROUNDED:
            return True
        least = max(judgement.bound, min(_RESPONSE_BOUNDS * judgement.bound, _RESPONSE))
        return self._response(trial).get(judgement.name, 0.0) > least

    def responds(self, name: str, least: float) -> bool:
        """Whether 1 % of the inputs moves an output, or a part of it, by more than `least` of max|y| on some draw."""
        return any(
            change > least
            for trial in self.trials
            for part, change in self._response(trial).items()
            if self.output_of(part) == name
        )

    def unchanging(self, name: str) -> bool:
        """Whether the original answered at least three draws with the same bits, and the result with the same."""
        first: dict[tuple[int, ...], np.ndarray] = {}
        judged = [(t, j) for t in self.trials for j in t.judged if j.name == name]
        for trial, _ in judged:
            value = trial.expected["off"][name]
            if not np.array_equal(first.setdefault(value.shape, value), value):
                return False
        return len(judged) >= 3 and any(t.got for t, _ in judged) and not any(j.exceeds for _, j in judged)

    def _response(self, trial: Trial) -> dict[str, float]:
        if trial.response is None:
            try:
                trial.response = response(self.pool, trial.case.feeds, trial.expected["off"])
            except BrokenError:
                trial.response = {}
        return trial.response

    @cached_property
    def _terms(self) -> float:
        """The most terms of a mean in the original, at the sizes of the first draw."""
        facts = model_facts(self.original.model, self.original.folder, self.trials[0].case.shapes)
        return most_terms(self.original.model.graph, facts)

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
