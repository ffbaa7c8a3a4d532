"""What commands print and write: tables, progress, reports."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.markup import escape

from ..errors import InputError
from ..files import write_whole
from ..graph.model import read
from ..graph.write import data_of
from ..pruning import images
from ..verification import data as arrays

SAMPLES = images.SUFFIXES | arrays.SUFFIXES
"""Endings of files in a folder that are samples."""


def console(json_file: str | None) -> Console:
    """Tables go to standard output, unless JSON does."""
    return Console(stderr=json_file == "-", highlight=False)


@contextmanager
def progress() -> Any:
    """A spinner on standard error that says what is being done; silent where nobody watches."""
    with Console(stderr=True).status("reading") as status:
        yield lambda text: status.update(escape(text))


Named = Path | str | None
"""A file that an option names, if it was given."""


def refuse_targets(
    reports: Sequence[Named], models: Sequence[Named], data: Sequence[Named] = (), output: Path | None = None
) -> None:
    """Say before anything is done that a file cannot be written where it was asked for.

    Args:
        reports: what is written besides a model; "-" is standard output.
        models: that are read, perhaps with external data.
        data: samples and tables that are read, or a folder of samples.
        output: the model to write; whether it would overwrite one of `models` is for the face to say.

    Raises:
        InputError: a report's folder does not exist, or a file would overwrite another.
    """
    made = [] if output is None else [output, data_of(output)]
    targets = [Path(target) for target in reports if target is not None and target != "-"]
    sources = [Path(model) for model in models if model is not None]
    for number, target in enumerate(targets):
        if target.is_dir() or not target.parent.is_dir():
            raise InputError("cannot write there", file=str(target), cure="give a file in a folder that exists")
        if target.exists() and not target.is_file():
            raise InputError("is no file that could be replaced", file=str(target), cure="`-` is the standard output")
        taken = [*made, *targets[:number], *sources]
        if target.exists():
            taken += [model.parent / name for model in sources for name in read(model).external_files()]
        if any(_same(target, other) for other in taken):
            raise InputError("would overwrite a model or another report", file=str(target), cure="give another path")
    for target in [*targets, *made]:
        if any(named is not None and _among(target, Path(named)) for named in data):
            raise InputError("would overwrite data that is read", file=str(target), cure="give another path")


def _same(one: Path, other: Path) -> bool:
    return one.resolve() == other.resolve() or (one.exists() and other.exists() and one.samefile(other))


def _among(target: Path, data: Path) -> bool:
    """Whether a file is the data, or a sample of the folder that is."""
    inside = data.is_dir() and data.resolve() in target.resolve().parents
    return _same(target, data) or (inside and target.suffix.lower() in SAMPLES)


def write_json(target: str | None, report: dict[str, Any]) -> None:
    """Write a report to a file or, for "-", to standard output; nothing without a target."""
    if target == "-":
        click.echo(json.dumps(report, indent=1))
    elif target is not None:
        write_whole(Path(target), json.dumps(report, indent=1) + "\n")
