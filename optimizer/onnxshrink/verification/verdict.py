"""From the comparisons to a verdict: passed, failed, or not verified numerically."""

from __future__ import annotations

import time
from dataclasses import replace

from .judge import FLOORS, Judgement
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
    notes = comparison.notes
    try:
        comparison.run()
        state, pieces = _judge(comparison)
    except BrokenError as problem:
        if problem.side == "result":
            what = "does not run" if problem.running else "is refused by ONNX Runtime"
            return _told("failed", comparison, None, started, [f"the result {what}: {problem.what}"])
        return _told("unverified", comparison, None, started, [f"the original cannot be run: {problem.what}"])
    return _told(state, comparison, pieces, started, notes)


def _judge(comparison: Comparison) -> tuple[State, Pieces | None]:
    notes = comparison.notes
    if failures := comparison.failures():
        notes.append(_sentence(max(failures, key=lambda j: j.error)))
        return "failed", None
    open_outputs = comparison.lacking() | comparison.flipping
    pieces = None
    if open_outputs:
        comparison.options.progress(f"piece by piece, for {len(open_outputs)} outputs")
        try:
            pieces = compare_pieces(comparison, _trials(comparison), dense=bool(comparison.lacking()))
        except BrokenError as problem:
            notes.append(f"the comparison piece by piece did not run on the {problem.side}: {problem.what}")
        else:
            failed = [j for row in pieces.judged for j in row if j.failed and j.name in comparison.original.outputs]
            if failed:
                notes.append(_sentence(max(failed, key=lambda j: j.error)))
                return "failed", pieces
            _explain(comparison, pieces, open_outputs)
    states = {_open_output(comparison, pieces, name) for name in sorted(open_outputs)}
    for output in sorted(comparison.fixed):
        notes.append(f"`{output}` is a constant in the result; the original answered with it on every draw")
    return next((s for s in ("failed", "unverified") if s in states), "passed"), pieces  # type: ignore[return-value]


def _explain(comparison: Comparison, pieces: Pieces, names: set[str]) -> None:
    verified = [n for n in names if n in pieces.verified]
    if verified:
        kind = (
            "behind discontinuous operators" if comparison.flipping >= set(verified) else "without evidence as a whole"
        )
        comparison.notes.append(
            f"{len(verified)} outputs {kind} were compared piece by piece, at {pieces.compared} inner tensors"
        )
    for node in pieces.joined[:3]:
        comparison.notes.append(f"{node} differs between the models and was not taken apart")


def _open_output(comparison: Comparison, pieces: Pieces | None, name: str) -> State:
    """The verdict for an output that plain runs left open; adds its reason to the notes."""
    notes = comparison.notes
    if pieces is not None and name in pieces.verified:
        return "passed"
    if pieces is not None and pieces.broken:
        node, judgement = max(pieces.broken, key=lambda pair: pair[1].error)
        notes.append(f"{node} reads `{judgement.name}`, which differs: {judgement.error:.1e} of max|y|")
        return "failed"
    if name in comparison.flipping:
        return _flipping(comparison, pieces, name)
    rows = [j for t in comparison.trials for j in t.judged if j.name == name]
    if any(j.evidence for j in rows):
        why = "it does not answer when the inputs change by 1 %"
    elif any(j.telling for j in rows):
        why = f"its own noise is {min((j.floor for j in rows if j.telling), default=0):.0e} of max|y| at best"
    else:
        why = "it is nearly the same everywhere"
    notes.append(f"`{name}`: no draw could show a defect, {why}")
    _note_differing(comparison, pieces)
    return "unverified"


def _note_differing(comparison: Comparison, pieces: Pieces | None) -> None:
    if pieces is not None and pieces.differing:
        name, error = next(iter(pieces.differing.items()))
        comparison.notes.append(f"inner tensor `{name}` differs by {error:.1e} of its maximum; it may be unread there")


def _flipping(comparison: Comparison, pieces: Pieces | None, name: str) -> State:
    """An output behind a discontinuity that could not be taken apart: held against how the original itself flips."""
    error, floor, base = comparison.flips(name)
    told = f"`{name}` differs by {error:.1e} of max|y|, rounding alone changes it by {floor:.0e} in the original"
    if pieces is not None and pieces.differing:
        comparison.notes.append(told)
        _note_differing(comparison, pieces)
        return "failed" if error > max(base, floor) else "unverified"
    if error <= base and comparison.responds(name, base):
        return "passed"
    comparison.notes.append(told)
    if error <= FLOORS * floor and floor <= _FLIP_FLOOR:
        return "passed"
    return "failed" if error > GROSS + FLOORS * floor else "unverified"


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


def _told(
    state: State, comparison: Comparison, pieces: Pieces | None, started: float, notes: list[str]
) -> Verification:
    draws, judged = [], []
    for trial in comparison.trials:
        rows = [j for j in trial.judged if j.errors or not trial.got]
        used = [j for j in rows if j.evidence and j.errors]
        judged += used
        draws.append(_draw(trial, rows, bool(used)))
    inner = [j for row in (pieces.judged if pieces else []) for j in row if j.evidence]
    outputs = judged + [j for j in inner if j.name in comparison.original.outputs]
    worst = max(outputs, key=lambda j: j.error, default=None)
    result = Verification(
        state,
        noise_floor=max((j.floor for j in outputs), default=0.0),
        min_tolerance=round_up(max((j.error for j in [*outputs, *inner]), default=0.0)),
        draws=draws,
        notes=list(dict.fromkeys(notes)),
        seconds=time.monotonic() - started,
    )
    if worst is None:
        return result
    return replace(
        result,
        max_abs=max(j.worst.absolute for j in outputs),
        max_rel=worst.error,
        bound=worst.bound,
        worst_output=worst.name,
        worst_index=worst.worst.index,
    )


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
