"""What must hold of a model and of what `optimize` makes of it, each by an oracle that knows no rule."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, numpy_helper

import onnxshrink
from onnxshrink.errors import NotEqualError, OnnxshrinkError
from onnxshrink.verification import check
from tests.zoo import oracle

from . import facts
from .equality import SCALES, cancelled, differs, feeds, fused, grain, loads, moves, rounding, trusted, worlds
from .noise import moved
from .precise import in_double, run_double


@dataclass
class Finding:
    """Something that must not be: which oracle says so, and what it saw."""

    kind: str
    what: str


@dataclass
class Outcome:
    """What came of one model.

    Attributes:
        state: "unchanged", "equal", "no evidence" (no feed gave finite outputs that vary) or "finding".
        rounding: the outputs differ, and by rounding alone.
        pairs: (producer, consumer) operators of the model's edges; whether something was cut across one.
        removed: float elements of weights that went.
    """

    state: str = "unchanged"
    findings: list[Finding] = field(default_factory=list)
    rounding: bool = False
    pairs: dict[tuple[str, str], bool] = field(default_factory=dict)
    removed: int = 0

    def add(self, kind: str, what: object) -> None:
        self.state = "finding"
        self.findings.append(Finding(kind, " ".join(str(what).split())[:400]))


@dataclass(frozen=True)
class Options:
    """How one model is examined.

    Attributes:
        align, negligible, verify: handed to `optimize`.
        facts: look at what is known of every tensor.
        reference: compare in the reference implementation too.
    """

    align: int = 1
    negligible: float = 0.0
    verify: bool = False
    facts: bool = True
    reference: bool = False

    @classmethod
    def of(cls, seed: int) -> Options:
        """The options of a seed: mostly the sharpest cut, by the cheapest way."""
        rng = np.random.default_rng(seed + (1 << 40))
        return cls(
            align=int(rng.choice([1, 1, 1, 1, 4])),
            negligible=float(rng.choice([0.0, 0.0, 1e-8])),
            verify=bool(rng.random() < 0.1),
            facts=bool(rng.random() < 0.3),
            reference=bool(rng.random() < 0.1),
        )


def examine(model: ModelProto, options: Options) -> Outcome:
    """Optimize a model and hold everything against it that can be held."""
    outcome = Outcome()
    for finding in check(model):
        outcome.add("structure of the original", finding)
    try:
        result = onnxshrink.optimize(model, align=options.align, negligible=options.negligible, verify=options.verify)
    except NotEqualError as error:
        if _finite(model):
            outcome.add("refused", error)
        else:
            outcome.state = "no evidence"
        return outcome
    except OnnxshrinkError as error:
        outcome.add("error", error)
        return outcome
    except Exception as error:  # whatever it is, it is a bug
        outcome.add("crash", f"{type(error).__name__}: {error} {_where(error)}")
        return outcome
    if options.facts and (wrong := facts.look(model).wrong):
        outcome.add("fact", wrong)
    outcome.pairs = pairs(model, result)
    if not result.changed:
        if result.model.SerializeToString() != model.SerializeToString():
            outcome.add("unchanged", "an unchanged model has other bytes")
        return outcome
    _sound(model, result.model, outcome)
    if outcome.findings:
        return outcome
    before, after = (sum(t.size for t in floats(m)) for m in (model, result.model))
    outcome.removed = before - after
    evidence = _equal(model, result.model, outcome, options)
    if not options.negligible and (worst := moved(model, result.plan.kept)):
        outcome.add("claim", f"cut slices hold something: {worst}")
    _again(result.model, options, outcome)
    if outcome.state != "finding":
        outcome.state = "equal" if evidence else "no evidence"
    return outcome


def _where(error: BaseException) -> str:
    """The innermost place of an error, so that two bugs of one type are told apart."""
    trace, place = error.__traceback__, ""
    while trace is not None:
        code = trace.tb_frame.f_code
        if "onnxshrink" in code.co_filename:
            place = f"({code.co_filename.rsplit('/', 1)[-1]}, {code.co_name})"
        trace = trace.tb_next
    return place


def floats(model: ModelProto) -> Iterator[np.ndarray]:
    return (a for t in model.graph.initializer if (a := numpy_helper.to_array(t)).dtype.kind == "f")


def pairs(model: ModelProto, result: Any) -> dict[tuple[str, str], bool]:
    """The operators at both ends of each edge, and whether the tensor between them was cut."""
    producer = {o: n.op_type for n in model.graph.node for o in n.output if n.op_type != "Constant"}
    found: dict[tuple[str, str], bool] = {}
    for node in model.graph.node:
        for name in node.input:
            if name in producer:
                pair = producer[name], node.op_type
                found[pair] = found.get(pair, False) or name in result.plan.kept
    return found


# --- structure and interface


def _sound(model: ModelProto, made: ModelProto, outcome: Outcome) -> None:
    full = not model.graph.sparse_initializer  # which onnx's inference takes for scalars
    try:
        onnx.checker.check_model(made, full_check=full)
    except Exception as error:  # the checker raises several types
        try:
            onnx.checker.check_model(model, full_check=full)
        except Exception:
            pass  # so is the original
        else:
            outcome.add("checker", error)
    for finding in check(made, original=model):
        outcome.add("structure", finding)
    before, after = oracle.interface(model), oracle.interface(made)
    for what, value in before.items():
        if after[what] != value:
            outcome.add("interface", f"{what}: {value} became {after[what]}")


def _finite(model: ModelProto) -> bool:
    """Whether the original's answers are finite, on inputs of either sign."""
    original = oracle.session(model, optimize=False, threads=1)
    return all(
        np.isfinite(array).all()
        for world in worlds(model)
        for number, scale in enumerate((*SCALES, *(-scale for scale in SCALES)))
        for array in original.run(None, feeds(model, 10 * world + number, world, scale))
        if array.dtype.kind == "f"
    )


def _equal(model: ModelProto, made: ModelProto, outcome: Outcome, options: Options) -> bool:
    """Whether some feed gave evidence; differences that are no rounding become findings."""
    original = oracle.session(model, optimize=False, threads=1)
    names = [o.name for o in original.get_outputs()]
    results = []
    for on in (False, True):
        try:
            results.append(oracle.session(made, optimize=on, threads=1))
        except Exception as error:  # ONNX Runtime raises many types
            if not on or loads(model, {}):
                outcome.add("does not load", error)
                return False
    evidence = False
    for world in worlds(model):
        for number, scale in enumerate(SCALES):
            arrays = feeds(model, 10 * world + number, world, scale)
            expected = dict(zip(names, original.run(names, arrays), strict=True))
            if not all(np.isfinite(a).all() for a in expected.values() if a.dtype.kind == "f"):
                continue
            evidence = True
            for runner, level in zip(results, ("off", "on"), strict=False):
                try:
                    actual = dict(zip(names, runner.run(names, arrays), strict=True))
                except Exception as error:  # ONNX Runtime raises many types
                    if level == "on" and not loads(model, arrays):
                        continue
                    outcome.add("does not run", error)
                    return True
                worst = differs(expected, actual, grain(model))
                if (
                    worst
                    and not (level == "on" and fused(model, arrays, expected, actual))
                    and not rounding(model, made, arrays, expected, actual)
                ):
                    outcome.add("not equal", f"{worst}, optimizations {level}, world {world}, scale {scale}")
                    return True
                outcome.rounding |= bool(worst)
            if options.reference and number == 0:
                one, other = (run_double(in_double(m), arrays) for m in (model, made))
                worst = differs(one, other, grain(model), 1e-6) if trusted(one, expected) and other is not None else ""
                if (
                    worst
                    and not cancelled(model, arrays, one, other)
                    and not moves(model, arrays, expected, one, other)
                ):
                    outcome.add("reference", worst)
    return evidence


def _again(made: ModelProto, options: Options, outcome: Outcome) -> None:
    """Optimizing the result changes nothing more."""
    try:
        result = onnxshrink.optimize(made, align=options.align, negligible=options.negligible, verify=False)
    except Exception as error:  # whatever it is, it is a bug
        outcome.add("again", f"{type(error).__name__}: {error} {_where(error)}")
        return
    if result.changed:
        first = next(iter(result.plan.kept.items()), None)
        outcome.add("again", f"the result is cut again: {first}, {result.plan.removed_nodes[:3]}")
