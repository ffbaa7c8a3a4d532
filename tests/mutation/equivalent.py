"""Mutants that are no faults: nothing that the package promises can differ. Each says why."""

from __future__ import annotations

from .mutant import Mutant

EQUIVALENT: dict[tuple[str, str, str], str] = {
    (
        "ops/broadcast.py",
        "if name and index not in data:",
        "if False:",
    ): "operands that do not broadcast are scalars (Clip, Dropout), or their demand is replaced (Expand, CastLike)",
    (
        "channels/solve.py",
        "carrying.port, (np.zeros(carrying.candidates.size, np.int64), carrying.values)",
        "carrying.port, (np.ones(carrying.candidates.size, np.int64), carrying.values)",
    ): "every candidate has one vote more, so their order is the same",
}
"""(file, changed lines before, after) -> why no answer can differ."""


def reason_of(mutant: Mutant) -> str:
    """Why a mutant may survive, "" if it may not."""
    before, after = (text.strip() for text in mutant.changed())
    return EQUIVALENT.get((mutant.file, before, after), "")
