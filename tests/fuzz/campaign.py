"""One seed from end to end, and the tally of many."""

from __future__ import annotations

import signal
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import onnx
from onnx import ModelProto

from tests.zoo import oracle

from .equality import feeds, worlds
from .generate import random_model
from .oracles import Options, Outcome, examine
from .shrinker import shrink

SLOWEST = 30
"""Seconds that one graph may take."""


@dataclass
class Tally:
    """What came of many seeds; it can be written down and read again.

    Attributes:
        states: how many graphs ended how.
        pairs: "producer>consumer": in how many graphs, and in how many something was cut across.
        findings: seed, kind, what, text of the minimal model.
        removed: float elements of weights that went.
    """

    states: Counter[str] = field(default_factory=Counter)
    pairs: dict[str, list[int]] = field(default_factory=dict)
    findings: list[dict[str, Any]] = field(default_factory=list)
    rounding: int = 0
    removed: int = 0

    def count(self, outcome: Outcome) -> None:
        self.states[outcome.state] += 1
        self.rounding += outcome.rounding
        self.removed += outcome.removed
        for (one, other), cut in outcome.pairs.items():
            seen = self.pairs.setdefault(f"{one}>{other}", [0, 0])
            seen[0] += 1
            seen[1] += cut

    def merge(self, other: Tally) -> None:
        self.states.update(other.states)
        self.findings += other.findings
        self.rounding += other.rounding
        self.removed += other.removed
        for pair, (count, cut) in other.pairs.items():
            seen = self.pairs.setdefault(pair, [0, 0])
            seen[0] += count
            seen[1] += cut

    @property
    def graphs(self) -> int:
        return sum(self.states.values())

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "states": dict(self.states)}

    @classmethod
    def of(cls, data: dict[str, Any]) -> Tally:
        return cls(**{**data, "states": Counter(data["states"])})

    def lines(self) -> Iterator[str]:
        """The tally for people."""
        states = ", ".join(f"{count:,} {state}" for state, count in sorted(self.states.items()))
        cut = sum(1 for _, times in self.pairs.values() if times)
        yield f"{self.graphs:,} graphs: {states}"
        yield f"{self.rounding:,} differ by rounding alone; {self.removed:,} weights removed"
        yield f"{len(self.pairs):,} operator pairs, something cut across {cut:,} of them"
        kinds = Counter(f["kind"] for f in self.findings)
        yield f"{len(self.findings)} findings" + "".join(f", {n} x {kind}" for kind, n in kinds.most_common())


@contextmanager
def limited(seconds: int) -> Iterator[None]:
    """Raises TimeoutError when the body takes longer."""

    def stop(number: int, frame: object) -> None:
        raise TimeoutError(f"longer than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def examined(model: ModelProto, options: Options) -> Outcome:
    """`examine`, with a limit of time."""
    try:
        with limited(SLOWEST), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return examine(model, options)
    except TimeoutError as error:
        outcome = Outcome()
        outcome.add("hang", error)
        return outcome
    except Exception as error:  # a bug of the oracles, or a model that they cannot hold
        outcome = Outcome()
        outcome.add("oracle", f"{type(error).__name__}: {error}")
        return outcome


def run_seed(seed: int, tally: Tally, *, shrink_for: float = 60.0) -> None:
    """Examine the graph of a seed; what fails is shrunk and noted."""
    try:
        model = random_model(seed)
        runner = oracle.session(model, optimize=False, threads=1)
        for world in worlds(model):
            runner.run(None, feeds(model, 0, world, 1.0))
    except Exception as error:  # the checker and ONNX Runtime raise many types
        outcome = Outcome()
        outcome.add("generator", error)
        model = None
    else:
        outcome = examined(model, Options.of(seed))
    tally.count(outcome)
    if outcome.findings:
        kind, text = outcome.findings[0].kind, ""
        if model is not None:
            minimal = shrink(model, lambda m: reproduces(m, kind, Options.of(seed)), shrink_for)
            text = onnx.printer.to_text(minimal)
        tally.findings.append({"seed": seed, "kind": kind, "what": outcome.findings[0].what, "text": text})


def reproduces(model: ModelProto, kind: str, options: Options) -> bool:
    """Whether a model is valid, runs, and shows a finding of this kind."""
    try:
        onnx.checker.check_model(model)
        oracle.session(model, optimize=False, threads=1).run(None, feeds(model, 0, 0, 1.0))
        outcome = examined(model, options)
    except Exception:  # a candidate that is no model
        return False
    return any(f.kind == kind for f in outcome.findings)
