"""Inject faults into a copy of the rules, and see whether the short suites catch them.

    python tools/mutants.py [--jobs 2] [--log FILE] [--only TEXT] [--json FILE] [--write]

With `--log` the verdicts are kept as they come, and a later run goes on behind them.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # tests and tools, from wherever this is started

from tests.mutation.run import Verdict, all_mutants, run
from tools.page import write_section
from tools.table import table

WANTED = 0.95
"""The share of mutants, equivalent ones apart, that must be caught."""


def main() -> None:
    """Examine, print, and answer 1 if too many survive."""
    parser = argparse.ArgumentParser(description="See whether the short suites catch faults in the rules.")
    parser.add_argument("--jobs", type=int, default=2, help="mutants at a time (default 2)")
    parser.add_argument("--log", type=Path, help="keep verdicts here, and do not examine again what it holds")
    parser.add_argument("--only", default="", help="mutants whose name contains this")
    parser.add_argument("--json", type=Path, help="write all verdicts here")
    parser.add_argument("--write", action="store_true", help="write the section of docs/results.md")
    parser.add_argument("--deselect", action="append", default=[], help="a test that is left out, as for pytest")
    arguments = parser.parse_args()
    mutants = [mutant for mutant in all_mutants() if arguments.only in mutant.name]
    if not mutants:
        parser.error(f"no mutant's name contains {arguments.only!r}")
    seen = 0

    def say(verdict: Verdict) -> None:
        nonlocal seen
        seen += 1
        outcome = verdict.caught_by or f"SURVIVED {verdict.equivalent}"
        print(f"{seen}: {verdict.mutant}: {outcome} ({verdict.seconds:.0f} s)", file=sys.stderr, flush=True)

    extra = [f"--deselect={name}" for name in arguments.deselect]
    verdicts = run(mutants, arguments.jobs, arguments.log, say, extra)
    counted = [verdict for verdict in verdicts if not verdict.equivalent]
    caught = [verdict for verdict in counted if verdict.caught_by]
    files: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        files.setdefault(verdict.mutant.partition(":")[0], []).append(verdict)
    rows = [("file", "mutants", "equivalent", "caught", "survived")]
    for file, found in sorted(files.items()):
        equivalent, held = sum(bool(v.equivalent) for v in found), sum(bool(v.caught_by) for v in found)
        rows.append((file, *map(str, (len(found), equivalent, held, len(found) - equivalent - held))))
    share = len(caught) / max(len(counted), 1)
    lines = [f"survived: {verdict.mutant}" for verdict in counted if not verdict.caught_by]
    lines.append(f"{len(caught)} of {len(counted)} caught ({100 * share:.1f} %)")
    print("\n".join([table(rows, markdown=False), *lines]))
    if arguments.write:
        text = "\n\n".join([table(rows, markdown=True), *(f"    {line}" for line in lines)])
        write_section("mutants", "Mutants of the rules", "python tools/mutants.py --write", text)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps([asdict(verdict) for verdict in verdicts], indent=1), encoding="utf-8")
    sys.exit(share < WANTED)


if __name__ == "__main__":
    main()
