"""onnx's own node cases: as they are, and each in the middle of a network with dead channels."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Sequence

from onnx.backend.test.case.node import collect_testcases

from . import engine
from .outcome import Outcome
from .planted import Case, run_case

NAME = "node cases"


@functools.cache
def cases() -> dict[str, Case]:
    """All cases by name. The expanded form of an operator counts as one of its own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = collect_testcases(None)
    result: dict[str, Case] = {}
    for case in found:
        names = [value.name for value in case.model.graph.input]
        values = [engine.as_array(value) for value in case.data_sets[0][0]]
        base = result.get(case.name.partition("_expanded")[0])
        operator = f"{base.operator} (expanded)" if base is not None else case.model.graph.node[0].op_type
        result[case.name] = Case(case.model, dict(zip(names, values, strict=True)), operator)
    return result


def names() -> Sequence[str]:
    return list(cases())


def run(name: str) -> Outcome:
    return run_case(name, cases()[name])
