"""Rows of the tables of docs/results.md that take minutes or hours to make.

Each is kept in the repository, docs/rows/<table>/<group>/<row>.json, so that a page can be written again, and a table
completed, without running what is there. A row whose file is deleted is made again.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

ROWS = Path(__file__).resolve().parent.parent / "docs" / "rows"

Figures = dict[str, Any]
"""What a row holds: numbers by name, and whatever else JSON can say."""


def read(path: Path) -> Figures | None:
    """A row; None if it was not made."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def keep(path: Path, figures: Figures) -> None:
    """Write a row whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(figures) + "\n", encoding="utf-8")
    os.replace(partial, path)
