"""The table of operators, from the rules themselves: docs/operators.md.

python tools/operators.py            print it
python tools/operators.py --write    write docs/operators.md (a test holds that it is up to date)
"""

from __future__ import annotations

import argparse
import inspect
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from table import table

from onnxshrink.ops.rule import FAMILIES, Rule, registered

TARGET = Path(__file__).resolve().parent.parent / "docs" / "operators.md"

HEAD = """# Operators

Made from the rules by `python tools/operators.py --write`. What is not listed is an operator without a rule: a barrier
too, named in the report.

Every operator below a heading other than *barrier* lets cuts pass, as far as the rule beside it says. A **barrier**
keeps every slice of what it reads and writes; that is right for any operator, and here is why it was left at that.
"""

TITLES = {
    "elementwise": "an output slice depends on the same slice of the inputs",
    "movement": "the same elements, moved",
    "contraction": "layers: sums over input channels of weight times input",
    "pool": "what happens in space stays within one channel",
    "normalization": "axes that are normalized stay whole, the others pass",
    "reduction": "reduced axes are read, the others pass",
    "recurrent": "hidden units and input features go",
    "attention": "whole heads go: query, key, value and output together",
    "quantization": "known integers are values like any other",
    "shape": "shapes, and tensors made from them, follow the cut",
    "control flow": "bodies are graphs of their own",
    "barrier": "nothing is cut through these, and why",
}


def says(rule: Rule) -> str:
    """What the table says of a rule: the reason of a barrier, else the first sentence of its documentation."""
    if rule.barrier:
        return rule.reason[:1].upper() + rule.reason[1:] + "."
    if rule.about:
        return rule.about + "."
    text = " ".join((inspect.getdoc(type(rule)) or "").split("\n\n")[0].split())
    return text.split(". ")[0].rstrip(".") + "."


def document() -> str:
    """The whole page."""
    parts = [HEAD]
    for family in FAMILIES:
        rows: dict[str, list[str]] = {}
        for (domain, operator), rule in sorted(registered().items(), key=lambda item: (item[0][1], item[0][0])):
            if rule.family == family:
                rows.setdefault(says(rule), []).append(f"{domain}.{operator}" if domain else operator)
        if rows:
            ordered = sorted(rows.items(), key=lambda item: item[1][0].lower())
            cells = [[", ".join(operators), text] for text, operators in ordered]
            count = sum(len(operators) for operators in rows.values())
            parts.append(f"## {family.capitalize()} ({count}): {TITLES[family]}\n")
            parts.append(table([["operators", "rule"], *cells], markdown=True) + "\n")
    return "\n".join(parts)


def main() -> None:
    """Print or write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write docs/operators.md")
    if parser.parse_args().write:
        TARGET.write_text(document(), encoding="utf-8")
    else:
        print(document())


if __name__ == "__main__":
    main()
