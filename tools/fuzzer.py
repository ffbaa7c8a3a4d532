"""What a campaign of the fuzzer found, from its folder; with --write as a section of docs/results.md.

python -m tests.fuzz.run --seconds 3600 --first-seed N --log FOLDER
python tools/fuzzer.py FOLDER [--pairs 20] [--write]
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # tests and tools, from wherever this is started

from tests.fuzz.campaign import Tally
from tools.page import write_section
from tools.table import table

COMMAND = "python -m tests.fuzz.run --seconds 3600 --first-seed N --log FOLDER && python tools/fuzzer.py FOLDER --write"


def section(tally: Tally, pairs: int) -> str:
    """The tally, the findings and the commonest operator pairs, as Markdown."""
    states = [("graphs", f"{tally.graphs:,}"), *((state, f"{n:,}") for state, n in sorted(tally.states.items()))]
    names = {name for pair in tally.pairs for name in pair.split(">")}
    cut = sum(1 for _, times in tally.pairs.values() if times)
    covered = [
        f"{len(names)} operators in {len(tally.pairs):,} pairs of neighbours, of which {cut:,} were cut across",
        f"{tally.rounding:,} graphs differ by rounding alone; {tally.removed:,} weights went",
    ]
    found = [f"- seed {f['seed']}: {f['kind']}: {f['what']}" for f in tally.findings] or ["No finding."]
    common = sorted(tally.pairs.items(), key=lambda item: (-item[1][0], item[0]))[:pairs]
    rows = [("pair", "graphs", "cut across"), *((p.replace(">", " → "), f"{n:,}", f"{c:,}") for p, (n, c) in common)]
    parts = [table([("", ""), *states], markdown=True), "; ".join(covered) + ".", "\n".join(found)]
    return "\n\n".join([*parts, table(rows, markdown=True)])


def main() -> None:
    """Print or write."""
    parser = argparse.ArgumentParser(description="What a campaign of the fuzzer found.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pairs", type=int, default=20, help="how many of the commonest operator pairs to show")
    parser.add_argument("--write", action="store_true", help="write docs/results.md instead of printing")
    arguments = parser.parse_args()
    try:
        tally = Tally.of(json.loads((arguments.folder / "tally.json").read_text(encoding="utf-8"))["tally"])
    except (OSError, ValueError, LookupError, TypeError):
        parser.error(f"no tally.json of a campaign in {arguments.folder}")
    text = section(tally, arguments.pairs)
    if arguments.write:
        write_section("fuzzer", "Fuzzer", COMMAND, text)
    else:
        print(text)


if __name__ == "__main__":
    main()
