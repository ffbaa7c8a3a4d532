"""The bound: when a difference is rounding, when it is a defect, and when a draw could not tell.

A tensor passes if it differs by at most max(base * max|y|, 3 * floor), where the floor is the noise of the original
itself, graph optimizations on against off, on the same inputs. A floor above ten times the base (1e-4 for float32) is
no evidence: half a broken Conv would pass under it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from .compare import Difference, difference, is_float, spread

#: How far above its noise floor a right result may be: the floor is one sample of a random quantity.
FLOORS = 3.0
_SAMPLE = 1 << 16


@dataclass(frozen=True)
class Judgement:
    """One tensor on one draw; all numbers but `worst` are relative to max|y|.

    `errors` has the difference by optimization level, "off" and "on"; `worst` is the largest of them. `telling` is
    false where the original's values themselves could hide a defect: mostly not finite, or of a few values only.
    `noise` is what rounding alone was seen to do at a level, besides the floor.
    """

    name: str
    floor: float
    base: float
    errors: Mapping[str, Difference]
    spread: float
    telling: bool
    noise: Mapping[str, float] = field(default_factory=dict)

    @property
    def worst(self) -> Difference:
        return max(self.errors.values(), key=lambda d: d.relative, default=Difference())

    @property
    def error(self) -> float:
        return self.worst.relative

    def bound_at(self, level: str) -> float:
        """What may differ at one level."""
        return max(self.base, FLOORS * max(self.floor, self.noise.get(level, 0.0)))

    @property
    def bound(self) -> float:
        return max((self.bound_at(level) for level in self.errors), default=self.bound_at("off"))

    @property
    def evidence(self) -> bool:
        """Whether a defect would show on this draw."""
        return self.telling and self.floor <= limit(self.base)

    @property
    def exceeds(self) -> bool:
        return any(error.relative > self.bound_at(level) for level, error in self.errors.items())

    @property
    def failed(self) -> bool:
        return self.evidence and self.exceeds

    @property
    def passed(self) -> bool:
        return self.evidence and not self.exceeds

    def with_floor(self, floor: float) -> Judgement:
        """The same with a floor that is at least `floor`."""
        return replace(self, floor=max(self.floor, floor))

    def with_noise(self, noise: Mapping[str, float]) -> Judgement:
        """The same with what rounding alone does at each level; without optimizations that is a floor for both."""
        return replace(self.with_floor(noise.get("off", 0.0)), noise=noise)


def limit(base: float) -> float:
    """The highest floor that is still evidence: ten times the base, twice for float16 and bfloat16 (base >= 1e-3)."""
    return base * (2 if base >= 1e-3 else 10)


def judge(name: str, base: float, expected: Mapping[str, np.ndarray], got: Mapping[str, np.ndarray]) -> Judgement:
    """One tensor of the original and of the result, each by optimization level.

    Args:
        name: the tensor.
        base: the relative difference that is always allowed; 0 for what must be equal to the bit.
        expected: the original's values, "off" and, if it could be had, "on".
        got: the result's values at any of these levels.
    """
    first = expected["off"] if "off" in expected else expected["on"]
    floor = max((difference(first, other).relative for other in expected.values()), default=0.0)
    errors = {level: difference(expected.get(level, first), value) for level, value in got.items()}
    return Judgement(name, floor, base, errors, spread(first), telling(first))


def telling(a: np.ndarray) -> bool:
    """Whether values carry enough to show a defect.

    A detector that sees nothing answers with 0 and a few pixels of 3e-8, one step of its Sigmoid: noise floor and
    difference are then 0, and prove nothing. So a large float tensor must not be a few multiples of one step.
    """
    if not is_float(a) or a.size == 0:
        return True
    sample = a.reshape(-1)[:: -(-a.size // _SAMPLE)].astype(np.float32)
    if np.isfinite(sample).mean() < 0.5:
        return False
    levels = np.unique(np.abs(sample[np.isfinite(sample)]))
    if a.size < 64 or len(levels) >= 16:
        return True
    levels = levels[levels > 0].astype(np.float64)
    steps = levels / levels[0] if levels.size else levels
    return bool(np.abs(steps - np.round(steps)).max(initial=0.0) > 1e-3)
