"""From the comparisons to a verdict: passed, failed, or not verified numerically."""

from __future__ import annotations

import time

from .judge import Judgement
from .numbers import Comparison, Trial
from .piecewise import Pieces, compare_pieces
from .pool import BrokenError
from .result import Draw, State, Verification, round_up

#: Differences behind discontinuous operators that neither pass nor surely fail: above this fraction they fail.
GROSS = 0.05
#: The most that rounding may flip an output behind a discontinuity if a comparison of it is to mean anything.
_FLIP_FLOOR = 1e-2
#: Draws that are compared piece by piece.
_PIECE_TRIALS = 2
_PIECE_SECONDS = 0.05


def conclude(comparison: Comparison, started: float) -> Verification:
    """Runs the comparison and whatever it leaves open, and says what follows.

    Args:
        comparison: not yet run.
        started: `time.monotonic()` when the verification began.
    """
    case = _Case(comparison)
    try:
        comparison.run()
        state = case.decide()
    except BrokenError as problem:
        if problem.side == "result":
            what = "does not run" if problem.running else "is refused by ONNX Runtime"
            state, note = "failed", f"the result {what}: {problem.what}"
        else:
            state, note = "unverified", f"the original cannot be run: {problem.what}"
        comparison.notes.insert(0, note)
    return case.told(state, time.monotonic() - started)


class _Case:
    """What is known so far: the plain comparison, the pieces, and outputs that were held against their own flips."""

    def __init__(self, comparison: Comparison):
        self.comparison, self.notes = comparison, comparison.notes
        self.pieces: Pieces | None = None
        self.flipped: list[Judgement] = []

    def decide(self) -> State:
        if failures := self.comparison.failures():
            self.notes.append(_sentence(max(failures, key=lambda j: j.error)))
            return "failed"
        lacking = self.comparison.lacking()
        left = lacking | self.comparison.flipping
        if left and self._take_apart(left, dense=bool(lacking)):
            return "failed"
        states = [self._left(name) for name in sorted(left)]
        for output in sorted(self.comparison.fixed):
            self.notes.append(f"`{output}` is a constant in the result, and what the original answered to every draw")
        order: list[State] = ["failed", "unverified", "passed"]
        return min([*states, "passed"], key=order.index)

    def _take_apart(self, names: set[str], dense: bool) -> bool:
        """Compares piece by piece; whether an output failed there."""
        self.comparison.options.progress(f"piece by piece, for {len(names)} outputs")
        try:
            pieces = self.pieces = compare_pieces(self.comparison, _trials(self.comparison), dense)
        except BrokenError as problem:
            self.notes.append(f"the comparison piece by piece did not run on the {problem.side}: {problem.what}")
            return False
        outputs = self.comparison.original.outputs
        failed = [j for row in pieces.judged for j in row if j.failed and j.name in outputs]
        if failed and pieces.settled:
            self.notes.append(_sentence(max(failed, key=lambda j: j.error)))
            return True
        if verified := names & pieces.verified:
            behind = "behind discontinuous operators " if verified <= self.comparison.flipping else ""
            told = f"{len(verified)} output{'s' * (len(verified) > 1)} {behind}compared piece by piece"
            self.notes.append(f"{told}, at {pieces.compared} inner tensors")
        if pieces.joined:
            more = f" and {len(pieces.joined) - 1} more" if len(pieces.joined) > 1 else ""
            self.notes.append(f"{pieces.joined[0]}{more} changed its shape and was not taken apart")
        return False

    def _left(self, name: str) -> State:
        """The verdict for an output that plain runs left open; adds its reason to the notes."""
        pieces = self.pieces
        if pieces is not None and name in pieces.verified:
            return "passed"
        if pieces is not None and pieces.broken:
            node, judgement = max(pieces.broken, key=lambda pair: pair[1].error)
            self.notes.append(f"{node} reads `{judgement.name}`, which differs by {judgement.error:.1e} of its maximum")
            return "failed"
        if name in self.comparison.flipping:
            return self._flipping(name)
        differing = pieces is not None and bool(pieces.differing)
        if self.comparison.unchanging(name) and not differing:
            draws = len(self.comparison.trials)
            self.notes.append(f"weak evidence: `{name}` is the same for all {draws} draws, in original and result")
            return "passed"
        self.notes.append(f"`{name}`: no draw could show a defect, {self._why(name)}")
        self._note_differing()
        return "unverified"

    def _why(self, name: str) -> str:
        rows = [j for t in self.comparison.trials for j in t.judged if j.name == name]
        if any(j.evidence for j in rows):
            return "it hardly answers when the inputs change by 1 %"
        if any(j.telling for j in rows):
            return f"its own noise is {min(j.floor for j in rows if j.telling):.0e} of max|y| at best"
        return "it is nearly the same everywhere"

    def _flipping(self, name: str) -> State:
        """An output behind a discontinuity that was not taken apart, held against how the original itself flips."""
        judgement = self.comparison.flips(name)
        if judgement is None:
            self.notes.append(f"`{name}`: the result was not run")
            return "unverified"
        self.flipped.append(judgement)
        told = f"`{name}` differs by {judgement.error:.1e} of max|y|"
        told += f", rounding alone changes it by {judgement.floor:.0e} in the original"
        if self.pieces is not None and self.pieces.differing:
            self.notes.append(told)
            self._note_differing()
            return "failed" if judgement.error > max(judgement.base, judgement.floor) else "unverified"
        if judgement.error <= judgement.base and self.comparison.responds(name, judgement.base):
            return "passed"
        self.notes.append(told)
        if not judgement.exceeds and judgement.floor <= _FLIP_FLOOR:
            return "passed"
        return "failed" if judgement.error > GROSS + judgement.bound else "unverified"

    def _note_differing(self) -> None:
        if self.pieces is not None and self.pieces.differing:
            name, error = next(iter(self.pieces.differing.items()))
            self.notes.append(f"inner tensor `{name}` differs by {error:.1e} of its maximum")

    def told(self, state: State, seconds: float) -> Verification:
        """The verdict with the numbers of everything that counts as evidence."""
        outputs = set(self.comparison.original.outputs)
        trials, pieces = self.comparison.trials, self.pieces
        rows = {id(t): list(t.judged) for t in trials}
        for trial, judged in zip(pieces.trials, pieces.judged, strict=False) if pieces is not None else ():
            rows[id(trial)] += judged
        compared = [j for t in trials for j in rows[id(t)] if j.evidence and j.errors]
        # Outputs are what is told; inner tensors only where no output could be compared as a whole.
        counted = [j for j in compared if self.comparison.output_of(j.name) in outputs] + self.flipped or compared
        worst = max(counted, key=lambda j: (j.failed, j.error), default=None)
        draws = [_draw(t, rows[id(t)], self._tells(t, rows[id(t)])) for t in trials]
        return Verification(
            state,
            max_abs=max((j.worst.absolute for j in counted), default=0.0),
            max_rel=worst.error if worst else 0.0,
            noise_floor=max((j.floor for j in counted), default=0.0),
            min_tolerance=round_up(max((j.error for j in [*counted, *compared]), default=0.0)),
            bound=worst.bound if worst else 0.0,
            worst_output=worst.name if worst else None,
            worst_index=worst.worst.index if worst else (),
            draws=draws,
            notes=list(dict.fromkeys(self.notes)),
            seconds=seconds,
        )

    def _tells(self, trial: Trial, rows: list[Judgement]) -> bool:
        """Whether a draw counts as evidence; a slow model is not run again to ask for its response."""
        unasked = self.comparison.slow and trial.response is None
        own = {id(j) for j in trial.judged}
        return any(
            j.evidence and bool(j.errors) and (unasked or id(j) not in own or self.comparison.tells(trial, j))
            for j in rows
        )


def _trials(comparison: Comparison) -> list[Trial]:
    """The draws to take apart: those that both models have run, of different shapes first."""
    ran = [t for t in comparison.trials if t.got] or comparison.trials
    first: dict[tuple[tuple[str, tuple[int, ...]], ...], Trial] = {}
    for trial in ran:
        first.setdefault(tuple(trial.case.shapes.items()), trial)
    chosen = list(first.values())
    chosen += [t for t in ran if not any(t is c for c in chosen)]
    return chosen[: 1 if comparison.seconds_per_run > _PIECE_SECONDS else _PIECE_TRIALS]


def _sentence(j: Judgement) -> str:
    if j.worst.mismatch:
        return f"`{j.name}` at {list(j.worst.index)}: {j.worst.mismatch}"
    return f"`{j.name}` differs by {j.error:.1e} of max|y| at {list(j.worst.index)}, {j.bound:.0e} would be rounding"


def _draw(trial: Trial, rows: list[Judgement], evidence: bool) -> Draw:
    levels = dict.fromkeys(level for j in rows for level in j.errors)
    return Draw(
        trial.case.seed,
        trial.case.distribution,
        trial.case.shapes,
        floor=max((j.floor for j in rows), default=0.0),
        error={level: max(j.errors[level].relative for j in rows if level in j.errors) for level in levels},
        evidence=evidence,
        spread=min((j.spread for j in rows), default=0.0),
    )
