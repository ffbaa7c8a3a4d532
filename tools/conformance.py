"""Run the conformance suites and print, for each, what became of its cases.

    python tools/conformance.py [SUITE ...] [--only TEXT] [--json FILE] [--write]

Suites are named by their module in tests/conformance, for example node_cases; all of them are run without a name. The
tests run the same modules, a part of their cases by default and all of them with `-m slow`.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import warnings
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # tests and tools, from wherever this is started

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from tests.conformance.outcome import STATES, Outcome, Suite, run_suite
from tools.page import write_section
from tools.table import table

SUITES = ("node_cases", "wheel_cases", "architectures", "published", "tool_order")
HEADER = ("suite", "cases", *STATES, "planted", "removable", "removed", "optimize s", "largest", "s")


def row_of(name: str, outcomes: Sequence[Outcome]) -> list[str]:
    """One suite as text, a cell for each column of HEADER; the last two are about its largest model."""
    largest = max(outcomes, key=lambda outcome: (outcome.size, outcome.seconds))
    counts = [str(sum(outcome.state == state for outcome in outcomes)) for state in STATES]
    totals = [f"{sum(getattr(o, what) for o in outcomes):,}" for what in ("planted", "removable", "removed")]
    seconds = sum(outcome.seconds for outcome in outcomes)
    return [name, str(len(outcomes)), *counts, *totals, f"{seconds:.0f}", largest.case, f"{largest.seconds:.1f}"]


def holding(outcomes: Sequence[Outcome]) -> dict[str, list[str]]:
    """What stayed that could go, by operator."""
    missed: dict[str, list[str]] = defaultdict(list)
    for outcome in outcomes:
        if outcome.operator and outcome.missed:
            missed[outcome.operator] += [f"{outcome.case}: {what}" for what in outcome.missed]
    return dict(sorted(missed.items()))


def blocking(outcomes: Sequence[Outcome]) -> list[str]:
    """Operators around which channels were planted and nothing went at all."""
    planted: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for outcome in outcomes:
        if outcome.operator:
            planted[outcome.operator][0] += outcome.planted
            planted[outcome.operator][1] += outcome.removed
    return sorted(operator for operator, (count, removed) in planted.items() if count and not removed)


def main() -> None:
    """Run, print, and answer 1 if any case failed."""
    parser = argparse.ArgumentParser(description="Run the conformance suites and print a table.")
    parser.add_argument("suites", nargs="*", default=SUITES, help=f"of {', '.join(SUITES)}; all without a name")
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--json", type=Path, help="write all outcomes here")
    parser.add_argument("--write", action="store_true", help="write the section of docs/results.md")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")  # of operators outside of their domain, on planted zeros
    rows, everything = [HEADER], {}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        for module in arguments.suites:
            if module not in SUITES:
                parser.error(f"no suite {module!r}; there are {', '.join(SUITES)}")
            suite: Suite = importlib.import_module(f"tests.conformance.{module}")
            names = [name for name in suite.names() if arguments.only in name]
            if not names:
                continue
            task = progress.add_task(suite.NAME, total=len(names))
            outcomes = run_suite(suite, names, lambda _, task=task: progress.advance(task))
            everything[module] = outcomes
            rows.append(tuple(row_of(suite.NAME, outcomes)))
    told, examples = [], []
    for module, outcomes in everything.items():
        told += [f"failed: {module}: {o.case}: {o.reason}" for o in outcomes if o.state == "failed"]
        if blocked := blocking(outcomes):
            told.append(f"{module}: nothing goes around {', '.join(blocked)}")
        if held := holding(outcomes):
            counts = ", ".join(f"{operator} {len(found)}" for operator, found in held.items())
            told.append(f"{module}: something stays that could go: {counts}")
            examples += [f"{module}: {operator}: as {found[0]}" for operator, found in held.items()]
    print("\n\n".join([table(rows, markdown=False), *told, "\n".join(examples)]))
    if arguments.write:
        text = "\n\n".join([table(rows, markdown=True), *told])
        write_section("conformance", "Conformance suites", "python tools/conformance.py --write", text)
    if arguments.json is not None:
        data = {module: [asdict(outcome) for outcome in outcomes] for module, outcomes in everything.items()}
        arguments.json.write_text(json.dumps(data, indent=1), encoding="utf-8")
    sys.exit(any(outcome.state == "failed" for outcomes in everything.values() for outcome in outcomes))


if __name__ == "__main__":
    main()
