"""What commands print and write: tables, progress, reports."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.markup import escape

from ..errors import InputError


def console(json_file: str | None) -> Console:
    """Tables go to standard output, unless JSON does."""
    return Console(stderr=json_file == "-", highlight=False)


@contextmanager
def progress() -> Any:
    """A spinner on standard error that says what is being done; silent where nobody watches."""
    with Console(stderr=True).status("reading") as status:
        yield lambda text: status.update(escape(text))


def refuse_targets(targets: Sequence[Path | str | None], models: Sequence[Path | None]) -> None:
    """Say before anything is done that a report cannot be written where it was asked for.

    Raises:
        InputError: its folder does not exist, or it would overwrite a model.
    """
    for target in (Path(t) for t in targets if t is not None and t != "-"):
        if target.is_dir() or not target.parent.is_dir():
            raise InputError("cannot write there", file=str(target), cure="give a file in a folder that exists")
        if any(model is not None and target.resolve() == model.resolve() for model in models):
            raise InputError("would overwrite a model", file=str(target), cure="give another path")


def write_json(target: str | None, report: dict[str, Any]) -> None:
    """Write a report to a file or, for "-", to standard output; nothing without a target."""
    if target == "-":
        click.echo(json.dumps(report, indent=1))
    elif target is not None:
        write(Path(target), json.dumps(report, indent=1) + "\n")


def write(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise InputError(f"cannot write: {error.strerror}", file=str(path)) from error
