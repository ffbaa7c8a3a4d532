"""What a conformance suite says of one case, and how a suite is run.

Every suite is a module with `NAME`, `names()` and `run(name)`; the tests and tools/conformance.py use the same modules.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

STATES = ("equal", "unchanged", "unverified", "refused", "failed")


@dataclass(frozen=True)
class Outcome:
    """One case.

    Attributes:
        case: its name within the suite.
        state: "equal" (changed, verified), "unchanged" (nothing to cut), "unverified" (changed, no evidence; the
            reason says why), "refused" (one clear line), or "failed" (only from `run_suite`).
        planted: channels that the planter made to carry nothing.
        removable: how many of these a consistent cut can remove, counted without the rules.
        removed: how many of these are gone.
        seconds: wall time of `optimize`.
        reason: why it is unverified, refused or failed.
        size: bytes of the model.
        operator: what the case is about, where it is about one operator.
        missed: what could go and did not, in words.
    """

    case: str
    state: str
    planted: int = 0
    removable: int = 0
    removed: int = 0
    seconds: float = 0.0
    reason: str = ""
    size: int = 0
    operator: str = ""
    missed: tuple[str, ...] = ()


class Suite(Protocol):
    """A module that holds a suite. `run` raises AssertionError where a result is wrong or a channel was missed."""

    NAME: str

    def names(self) -> Sequence[str]: ...

    def run(self, name: str) -> Outcome: ...


def run_suite(
    suite: Suite, names: Sequence[str] | None = None, progress: Callable[[Outcome], None] | None = None
) -> list[Outcome]:
    """All cases, or those named; a case that raises, whatever it raises, is an outcome with the state "failed"."""
    outcomes = []
    for name in suite.names() if names is None else names:
        try:
            outcome = suite.run(name)
        except Exception as error:  # a crash of one case is its result
            text = str(error).strip() or "no message"
            outcome = Outcome(name, "failed", reason=f"{type(error).__name__}: {text}")
        outcomes.append(outcome)
        if progress is not None:
            progress(outcome)
    return outcomes


def failures(outcomes: Sequence[Outcome]) -> str:
    """One paragraph for each case that failed; empty where none did."""
    return "\n".join(f"{outcome.case}: {outcome.reason}" for outcome in outcomes if outcome.state == "failed")
