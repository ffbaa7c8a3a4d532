"""What a training shows: a progress bar, a line for each epoch, a log file, and TensorBoard where it is installed."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from ...errors import InputError
from ...files import write_whole

LOG = "log.jsonl"


class Monitor:
    """Shows and logs epochs.

    Args:
        folder: where `log.jsonl` and TensorBoard's files go; None: nowhere, as in all processes but the first.
        console: where lines and the progress bar go.
    """

    def __init__(self, folder: Path | None, console: Console | None = None) -> None:
        self.folder = folder
        self.console = console or Console(quiet=folder is None)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self.progress = Progress(*columns, console=self.console, disable=not self.console.is_terminal, transient=True)
        self.bar: TaskID | None = None
        self.board = None if folder is None else _board(folder / "tensorboard")

    @contextmanager
    def epoch(self, title: str, total: int) -> Iterator[None]:
        """Show the progress of one epoch of so many examples."""
        with self.progress:
            self.bar = self.progress.add_task(title, total=total)
            yield
            self.progress.remove_task(self.bar)

    def advance(self, examples: int) -> None:
        """So many examples are done."""
        if self.bar is not None:
            self.progress.advance(self.bar, examples)

    def say(self, text: str) -> None:
        """Print a line."""
        self.console.print(text, soft_wrap=True, highlight=False)

    def keep(self, epochs: int) -> None:
        """Drop from the log what is not of the first so many epochs: what has no checkpoint is run again."""
        if self.folder is None or not (path := self.folder / LOG).exists():
            return
        write_whole(path, "".join(text + "\n" for text, line in _lines(path) if line["epoch"] <= epochs))

    def log(self, line: Mapping[str, Any]) -> None:
        """Log one epoch: its number and phase, figures by name, and widths by the name of the gate."""
        if self.folder is None:
            return
        rounded = {name: float(f"{value:.6g}") if isinstance(value, float) else value for name, value in line.items()}
        with (self.folder / LOG).open("a", encoding="utf-8") as file:
            file.write(json.dumps(rounded) + "\n")
        shown = {name: value for name, value in rounded.items() if not isinstance(value, dict)}
        self.say(
            " ".join(
                f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}"
                for name, value in shown.items()
            )
        )
        if self.board is not None:
            for name, value in line.items():
                if isinstance(value, int | float) and name != "epoch":
                    self.board.add_scalar(name, value, line["epoch"])
            for gate, width in line.get("widths", {}).items():
                self.board.add_scalar(f"widths/{gate}", width, line["epoch"])
            self.board.flush()


def _board(folder: Path) -> Any:
    """TensorBoard's writer, or None without the package."""
    try:
        return importlib.import_module("torch.utils.tensorboard").SummaryWriter(folder)
    except ModuleNotFoundError:
        return None


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The epochs of a log, each once: one that was run again counts as it was last. Without a log there are none.

    Raises:
        InputError: a line is none of a log.
    """
    path = folder / LOG
    found = {line["epoch"]: line for _, line in _lines(path)} if path.exists() else {}
    return [found[number] for number in sorted(found)]


def _lines(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """The lines of a log as text and as they read, without a last one that a kill tore."""
    *whole, _ = path.read_text(encoding="utf-8", errors="replace").split("\n")
    found = []
    for number, text in enumerate(whole, 1):
        try:
            line = json.loads(text)
            int(line["epoch"])
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"line {number} is no epoch of a log", file=str(path), cure="remove the line") from error
        found.append((text, line))
    return found
