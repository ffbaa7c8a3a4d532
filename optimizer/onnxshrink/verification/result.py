"""What a verification found: the verdict, the numbers behind it, and how it is told."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

State = Literal["passed", "failed", "unverified"]


@dataclass(frozen=True)
class Draw:
    """One set of inputs, run through both models. All numbers are relative to max|y| and the worst over the outputs.

    `floor` is the original's own noise: graph optimizations on against off. `error` is the result against the
    original with optimizations "off" and "on"; empty where the result was not run because the draw is no evidence.
    `evidence` tells whether it counts: for at least one output the floor is low enough to see a defect, and the output
    answers to its inputs. `spread` is (max - min) / max|y| of the output that varies least; 0 means that an output was
    the same everywhere.
    """

    seed: int
    distribution: str
    shapes: dict[str, tuple[int, ...]]
    floor: float
    error: dict[str, float]
    evidence: bool
    spread: float


@dataclass(frozen=True)
class Verification:
    """Whether a result computes what its original computes.

    `state` is "passed", "failed" or "unverified" (nothing speaks against it, but no draw could have shown a defect;
    `notes` says why). `max_abs`, `max_rel` (to max|y|), `bound` and `worst_*` are over the outputs in draws that are
    evidence, the latter three of one output in one draw: the largest difference, or the largest that failed;
    `min_tolerance` is the smallest relative tolerance that would have passed everything that was compared, inner
    tensors included. `worst_index` is the place of the largest difference in `worst_output`.
    """

    state: State
    max_abs: float = 0.0
    max_rel: float = 0.0
    noise_floor: float = 0.0
    min_tolerance: float = 0.0
    bound: float = 0.0
    worst_output: str | None = None
    worst_index: tuple[int, ...] = ()
    draws: list[Draw] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        return self.state == "passed"

    def to_json(self) -> dict[str, Any]:
        """Plain data for `json.dumps`; infinite differences are the string "inf"."""
        plain: dict[str, Any] = _plain(asdict(self))
        return plain

    def summary(self) -> str:
        """Two lines for people, to which `notes` add: the verdict with its numbers, and what it rests on."""
        word = {"passed": "equal", "failed": "NOT EQUAL", "unverified": "not verified numerically"}[self.state]
        numbers = ""
        if any(d.error for d in self.draws):
            place = f" at {list(self.worst_index)}" if self.worst_index else ""
            worst = f", worst in `{self.worst_output}`{place}" if self.worst_output is not None and self.max_abs else ""
            numbers = (
                f": difference {self.max_rel:.1e} of max|y| ({self.max_abs:.1e} absolute){worst}; "
                f"bound {self.bound:.0e}, noise floor {self.noise_floor:.1e}, "
                f"smallest tolerance that passes {self.min_tolerance:.1e}"
            )
        rests = f"{self.seconds:.1f} s"
        if self.draws:
            count = sum(d.evidence for d in self.draws)
            kinds = ", ".join(dict.fromkeys(d.distribution for d in self.draws if d.evidence)) or "none"
            rests = f"{count} of {len(self.draws)} draws are evidence ({kinds}), optimizations off and on, {rests}"
        return f"{word}{numbers}\n{rests}"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "inf" if value > 0 else str(value)
    return value


def round_up(value: float) -> float:
    """Two significant digits, upwards, so that the tolerance as printed passes."""
    if not value or not math.isfinite(value):
        return value
    unit = 10.0 ** (math.floor(math.log10(value)) - 1)
    return float(f"{math.ceil(value / unit - 1e-9) * unit:.1e}")
