"""What `prune` did, for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from rich.bar import Bar
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..benchmark import Ratio
from ..pruning.guarantee import Guarantee


class Kept(Protocol):
    """What a coupling class keeps."""

    @property
    def name(self) -> str: ...
    @property
    def layers(self) -> tuple[str, ...]: ...
    @property
    def units(self) -> int: ...
    @property
    def kept(self) -> tuple[int, ...]: ...


class OnCurve(Protocol):
    """A point of the budget curve."""

    @property
    def macs(self) -> float | None: ...
    @property
    def parameters(self) -> float: ...
    @property
    def error(self) -> float: ...
    @property
    def latency(self) -> float | None: ...


class Met(Protocol):
    """A latency budget and what came of it, as shares."""

    @property
    def wanted(self) -> float: ...
    @property
    def predicted(self) -> float: ...
    @property
    def measured(self) -> Ratio | None: ...
    @property
    def place(self) -> str: ...


def print_masks(console: Console, masks: Sequence[Kept]) -> None:
    """Units of each class, before and after."""
    table = Table("class", "layers", "units", "kept", box=None, header_style="bold")
    for column in table.columns[1:]:
        column.justify = "right"
    for mask in masks:
        table.add_row(escape(mask.name), str(len(mask.layers)), str(mask.units), str(len(mask.kept)))
    console.print(table)


def print_curve(console: Console, curve: Sequence[OnCurve]) -> None:
    """Error on held-out samples by budget, with a bar in proportion, as wide as the terminal leaves room for."""
    if not curve:
        return
    timed = any(point.latency is not None for point in curve)
    names = ["MACs kept", "parameters kept", *(["latency kept"] if timed else []), "error, unrepaired", ""]
    table = Table(*names, box=None, header_style="bold")
    for column in table.columns[:-1]:
        column.no_wrap = True
    table.columns[-1].max_width = 30
    top = max(point.error for point in curve) or 1.0
    for point in curve:
        macs = "?" if point.macs is None else f"{100 * point.macs:.1f} %"
        latency = [] if point.latency is None else [f"{100 * point.latency:.1f} %"]
        table.add_row(macs, f"{100 * point.parameters:.1f} %", *latency, f"{point.error:.3g}", Bar(top, 0, point.error))
    console.print(table)


def print_latency(console: Console, latency: Met) -> None:
    """The latency that was wanted beside the one that is predicted and, where it could be, measured."""
    wanted, measured = f"latency: {100 * latency.wanted:.1f} % wanted", latency.measured
    table = f"{100 * latency.predicted:.1f} % by the table ({escape(latency.place)})"
    if measured is None:
        console.print(f"{wanted}, {table}; not measured: measure there with `onnxshrink bench IN.onnx OUT.onnx`")
        return
    console.print(
        f"{wanted}, {table}, [bold]{100 * measured.ratio:.1f} % measured[/bold] "
        f"(95 % interval {100 * measured.low:.1f} to {100 * measured.high:.1f})"
    )
    if measured.ratio > latency.wanted:
        noise = ", within the noise" if measured.low <= latency.wanted else ""
        over = 100 * (measured.ratio - latency.wanted)
        console.print(f"[yellow]it misses the budget by {over:.1f} points{noise}[/yellow]")


def print_guarantee(console: Console, guarantee: Guarantee | None, reason: str) -> None:
    """The bound of each class and what held-out samples say of it, or why there is none."""
    if guarantee is None:
        console.print(f"no guarantee: {escape(reason)}")
        return
    table = Table("class", "S", "m", "n", "epsilon", "delta", "K held out", box=None, header_style="bold")
    for bound in guarantee.bounds:
        table.add_row(
            escape(bound.name),
            f"{bound.s:.2f} of {bound.units}",
            f"{bound.m:,}",
            str(bound.kept),
            f"{bound.epsilon:.3g}",
            f"{bound.delta:.0e}",
            f"{bound.held_out_k:.2f}",
        )
    console.print(table)
    console.print(
        f"guarantee: on the {guarantee.used} samples that scored, with probability 1 - {guarantee.delta:.0e}, each "
        f"layer's parts are within (1 ± epsilon); composed over the network: {guarantee.composed:.2g}\n"
        f"held out: {100 * guarantee.within:.2f} % within, largest error {guarantee.worst:.3g}"
    )
    if guarantee.used < guarantee.asked:
        console.print(f"note: the authors ask for {guarantee.asked} samples")
