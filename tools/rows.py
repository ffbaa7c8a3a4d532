"""Rows of the tables of docs/results.md that take minutes or hours to make.

Each is kept in the repository, a line of docs/rows/<table>/<group>.json, so that a page can be written again, and a
table completed, without running what is there. A row whose line is deleted is made again.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from onnxshrink.files import write_whole

ROWS = Path(__file__).resolve().parent.parent / "docs" / "rows"

Figures = dict[str, Any]
"""What a row holds: numbers by name, and whatever else JSON can say."""


def read(path: Path) -> Figures | None:
    """A row, FOLDER/<group>/<row>; None if it was not made."""
    return _group(path).get(path.name)


def keep(path: Path, figures: Figures) -> None:
    """Write a row; its group's file is replaced as a whole or not at all."""
    rows = _group(path) | {path.name: figures}
    lines = (f"{json.dumps(name)}: {json.dumps(row)}" for name, row in sorted(rows.items()))
    file = _file(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, "{\n" + ",\n".join(lines) + "\n}\n")


def _group(path: Path) -> dict[str, Figures]:
    """All rows of a row's group."""
    file = _file(path)
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


def _file(path: Path) -> Path:
    return path.parent.with_name(f"{path.parent.name}.json")
