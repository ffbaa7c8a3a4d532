"""What the scripts take on the command line, fields of a recipe and a device, and how they say what went wrong."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click
import torch

from onnxshrink.errors import OnnxshrinkError


def value_of(text: str) -> Any:
    """The value of a field as the command line gives it: a number, true or false, a list with commas, or a word."""
    if "," in text:
        return [value_of(part) for part in text.split(",") if part]
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def usage(text: str) -> str:
    """The documentation of a script as its help: lines that are set off stay lines."""
    return text.replace("\n\n    ", "\n\n\b\n    ")


class Field(click.ParamType):
    """`FIELD=VALUE`: a field of a recipe, and what it becomes."""

    name = "FIELD=VALUE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, Any]:
        name, given, text = str(value).partition("=")
        if not name or not given:
            self.fail(f"{value!r} is not of the form target=0.3", param, ctx)
        return name, value_of(text)


class Device(click.ParamType):
    """`cpu`, `cuda` or `cuda:1`; one that is here."""

    name = "DEVICE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        kind, _, number = str(value).partition(":")
        if kind not in ("cpu", "cuda") or (number and not number.isdecimal()):
            self.fail(f"{value!r} is neither cpu nor cuda nor cuda:1", param, ctx)
        if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
            self.fail(f"there is no device {value} here: PyTorch sees {torch.cuda.device_count()} GPUs", param, ctx)
        return str(value)


SET = click.option("--set", "changes", multiple=True, type=Field(), help="of the recipe, such as target=0.3")
DEVICE = click.option(
    "--device", default="cuda" if torch.cuda.is_available() else "cpu", show_default=True, type=Device()
)


@contextmanager
def told() -> Iterator[None]:
    """Say what a user can meet in one line, with the exit code that `onnxshrink` has for it."""
    try:
        yield
    except OnnxshrinkError as error:
        shown = click.ClickException(str(error))
        shown.exit_code = error.exit_code
        raise shown from None
    except OSError as error:
        shown = click.ClickException(f"{error.filename or 'a file'}: {error.strerror or error}")
        shown.exit_code = 2
        raise shown from None
