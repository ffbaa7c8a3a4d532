"""What is said on the command line: types of values, and options that commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

import click

from ..choices import MOST_ALIGN, MOST_NEGLIGIBLE, Provider

MULTIPLE = click.IntRange(1, MOST_ALIGN)
NEGLIGIBLE = click.FloatRange(0, MOST_NEGLIGIBLE)


def choice(words: Any) -> click.Choice:
    """The words of a Literal."""
    return click.Choice(get_args(words))


class Shapes(click.ParamType):
    """`name:1,3,224,224`; the name may contain colons itself."""

    name = "name:dims"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, tuple[int, ...]]:
        name, _, dims = str(value).rpartition(":")
        try:
            shape = tuple(int(d) for d in dims.strip("[]").split(",")) if dims else ()
        except ValueError:
            shape = ()
        if not name or not shape or min(shape) < 1:
            self.fail(f"{value!r} is not of the form x:1,3,224,224", param, ctx)
        return name, shape


class Range(click.ParamType):
    """`name:least,largest`; the name may contain colons itself."""

    name = "name:min,max"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, tuple[float, float]]:
        name, _, ends = str(value).rpartition(":")
        try:
            low, high = (float(v) for v in ends.split(","))
        except ValueError:
            self.fail(f"{value!r} is not of the form x:0,1", param, ctx)
        if not name or not low <= high:
            self.fail(f"{value!r} is not of the form x:0,1", param, ctx)
        return name, (low, high)


class Align(click.ParamType):
    """A multiple of channels, or "auto"."""

    name = "N|auto"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        return "auto" if value == "auto" else int(MULTIPLE.convert(value, param, ctx))


class Numbers(click.ParamType):
    """Comma-separated positive integers."""

    name = "N,N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        try:
            numbers = tuple(int(v) for v in str(value).split(","))
        except ValueError:
            numbers = ()
        if not numbers or min(numbers) < 1:
            self.fail(f"{value!r} is not a list of positive integers", param, ctx)
        return numbers


class Portion(click.ParamType):
    """`50%`, or `0.5`."""

    name = "P%"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        text = str(value).strip()
        try:
            portion = float(text[:-1]) / 100 if text.endswith("%") else float(text)
        except ValueError:
            portion = 0.0
        if not 0 < portion < 1:
            self.fail(f"{value!r} is no share between 0 and 100 %; write 50%", param, ctx)
        return portion


def option_shapes(function: Callable[..., Any]) -> Callable[..., Any]:
    """The option `--input-shape`, shared by all commands that run a model."""
    return click.option(
        "--input-shape",
        "input_shapes",
        type=Shapes(),
        multiple=True,
        help="Size of a dynamic input to run on, x:1,3,224,224; repeatable. The model itself stays dynamic.",
    )(function)


def option_ranges(function: Callable[..., Any]) -> Callable[..., Any]:
    """The option `--input-range`."""
    return click.option(
        "--input-range",
        "input_ranges",
        type=Range(),
        multiple=True,
        help="Least and largest value of an input, x:0,1; repeatable. What saturates within them can go too, and the "
        "result is equal for such inputs only.",
    )(function)


def option_provider(function: Callable[..., Any]) -> Callable[..., Any]:
    """The option `--provider`."""
    return click.option(
        "--provider", type=choice(Provider), default="cpu", show_default=True, help="Where models run."
    )(function)
