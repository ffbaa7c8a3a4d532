"""What `optimize` returns."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import onnx

from . import benchmark, verification
from .channels.plan import Plan
from .verification.planted import Planted


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
