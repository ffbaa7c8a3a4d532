"""Sections of docs/results.md that commands write, each between markers of its own."""

from __future__ import annotations

from pathlib import Path

RESULTS = Path(__file__).resolve().parent.parent / "docs" / "results.md"


def write_section(name: str, title: str, command: str, text: str, page: Path = RESULTS) -> None:
    """Put a section between its markers, at the end of the page where there are none yet.

    Args:
        name: of the markers.
        title: the heading that a new section gets.
        command: what writes it, shown above the text.
    """
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before = page.read_text(encoding="utf-8")
    if begin not in before:
        before = before.rstrip("\n") + f"\n\n## {title}\n\n{begin}\n{end}\n"
    head, _, rest = before.partition(begin)
    _, _, tail = rest.partition(end)
    page.write_text(f"{head}{begin}\n    {command}\n\n{text}\n{end}{tail}", encoding="utf-8")
