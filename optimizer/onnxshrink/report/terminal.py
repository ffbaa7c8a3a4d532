"""Plans, results, differences and benchmarks as tables for the terminal. Names from models are printed as they are,
never as markup.
"""

from __future__ import annotations

from typing import Any

from rich.console import Console, Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from ..benchmark import Benchmark
from ..channels.plan import KINDS, Layer, Plan
from ..verification import Verification

SHORT = {"zero": "zero", "known": "known", "unread": "unread", "range": "range", "negligible": "negl."}


def number(value: int | None) -> str:
    """A count with thousands separated; "?" where it is not known."""
    return "?" if value is None else f"{value:,}"


def saved(before: int | None, after: int | None) -> str:
    """What part went, in percent; nothing where nothing did."""
    if not before or after is None or after == before:
        return ""
    return (
        f"-{100 * (before - after) / before:.1f} %" if after < before else f"+{100 * (after - before) / before:.1f} %"
    )


def print_sizes(console: Console, sizes: dict[str, tuple[int | None, int | None]]) -> None:
    """Sizes before and after, a row each."""
    table = Table("", "before", "after", "", box=None, header_style="bold")
    for column in table.columns[1:]:
        column.justify = "right"
    for name, (before, after) in sizes.items():
        label = {"macs": "MACs", "file_bytes": "file bytes"}.get(name, name)
        table.add_row(label, number(before), number(after), saved(before, after))
    console.print(table)


def print_plan(console: Console, plan: Plan, *, everything: bool = False) -> None:
    """What goes, layer by layer, then what stays and why."""
    layers = (
        plan.layers if everything else [layer for layer in plan.layers if layer.after != layer.before or layer.aligned]
    )
    if layers:
        console.print(_layers(layers))
    untouched = len(plan.layers) - len(layers)
    if untouched and layers:
        console.print(Text(f"{untouched} layers are unchanged", style="dim"))
    before, after = plan.channels
    kinds = ", ".join(f"{count} {kind}" for kind, count in plan.removed.items() if count)
    console.print(f"channels {before:,} → {after:,}" + (f" ({kinds})" if kinds else ""))
    carried = [item for item in plan.absorbed if item.into == "carrier"]
    folded = [item for item in plan.absorbed if item.into == "bias"]
    for items, text in ((folded, "folded into biases"), (carried, "moved into a carrier channel")):
        if items:
            console.print(f"{sum(len(i.slices) for i in items)} known values {text}, in {len(items)} layers")
    if plan.negligible:
        proven = sum(len(item["slices"]) for item in plan.negligible if item["evidence"] == "proven")
        count, largest = sum(len(i["slices"]) for i in plan.negligible), max(i["largest"] for i in plan.negligible)
        console.print(
            f"{count} negligible slices of weights count as zero (largest entry {largest:.1e}; "
            f"{proven} proven, {count - proven} tested by verification)"
        )
    if plan.removed_nodes:
        names = ", ".join(plan.removed_nodes[:6]) + (", ..." if len(plan.removed_nodes) > 6 else "")
        console.print(Text(f"{len(plan.removed_nodes)} nodes disappear: {names}"))
    _stays(console, plan)
    _disagreements(console, plan)


def _layers(layers: list[Layer]) -> Table:
    kinds = [k for k in KINDS if any(layer.removed.get(k) for layer in layers)]
    aligned = any(layer.aligned for layer in layers)
    table = Table(box=None, header_style="bold", row_styles=["", "dim"])
    table.add_column("layer", overflow="fold")
    columns = ["before", "after", *(SHORT[k] for k in kinds), *(["align"] if aligned else []), "parameters", "MACs"]
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    for layer in layers:
        cells = [str(layer.before), str(layer.after), *(str(layer.removed.get(k) or "") for k in kinds)]
        if aligned:
            cells.append(str(layer.aligned or ""))
        cells += [saved(*layer.parameters), saved(*layer.macs)]
        table.add_row(escape(layer.node), *cells)
    return table


def _stays(console: Console, plan: Plan) -> None:
    if not plan.stays:
        return
    holders: dict[tuple[str, int, str], int] = {}
    for stay in plan.stays:
        key = (stay.holder, stay.axis, stay.reason)
        holders[key] = holders.get(key, 0) + len(stay.slices)
    console.print(f"\n[bold]stays although it carries nothing[/bold]: {sum(holders.values())} channels")
    table = Table(box=None, show_header=False)
    table.add_column(justify="right")
    table.add_column(overflow="fold")
    table.add_column(overflow="fold", style="dim")
    ordered = sorted(holders.items(), key=lambda item: -item[1])
    for (holder, axis, reason), count in ordered[:15]:
        table.add_row(str(count), escape(f"{holder} axis {axis}"), escape(reason))
    console.print(table)
    if len(ordered) > 15:
        console.print(Text(f"and {len(ordered) - 15} more holders (--json lists all)", style="dim"))


def _disagreements(console: Console, plan: Plan) -> None:
    """Sums and tensors where one branch holds what the others do without: what to change in training."""
    if not plan.disagreements:
        return
    console.print("\n[bold]held by one branch alone[/bold] (would go if it agreed with the others)")
    table = Table(box=None, show_header=False)
    table.add_column(justify="right")
    table.add_column(overflow="fold")
    table.add_column(overflow="fold", style="dim")
    ordered = sorted(plan.disagreements, key=lambda item: -item.alone)
    for item in ordered[:15]:
        place = item.where if item.kind == "sum" else f"readers of `{item.where}`"
        held = []
        for branch in item.branches:
            if branch.alone:
                layers = ", ".join(branch.layers[:2]) + (", ..." if len(branch.layers) > 2 else "")
                name = f"`{branch.name}`" if item.kind == "sum" else branch.name
                held.append(f"{branch.alone} by {name}" + (f" (from {layers})" if layers else ""))
        text = f"{place} axis {item.axis}, {item.stay} of {item.slices} stay"
        table.add_row(str(item.alone), escape(text), escape("; ".join(held)))
    console.print(table)
    if len(ordered) > 15:
        console.print(Text(f"and {len(ordered) - 15} more places (--json lists all)", style="dim"))


def print_verification(console: Console, verification: Verification) -> None:
    """The verdict in two lines, and its notes."""
    style = {"passed": "green", "failed": "red", "unverified": "yellow"}[verification.state]
    console.print(Text(verification.summary(), style=style))
    for note in verification.notes:
        console.print(Text(f"  {note}", style="dim"))


def print_difference(console: Console, difference: Any) -> None:
    """How two models differ."""
    table = Table("", "A", "B", "", box=None, header_style="bold")
    for name, (a, b) in difference.sizes.items():
        table.add_row("MACs" if name == "macs" else name, number(a), number(b), saved(a, b))
    console.print(table)
    if difference.layers:
        rows = Table("layer", "weight in A", "weight in B", box=None, header_style="bold")
        for name, a, b in difference.layers:
            rows.add_row(escape(name), *("-" if s is None else "x".join(map(str, s)) for s in (a, b)))
        console.print(rows)
    if difference.nodes:
        text = ", ".join(f"{op} {a}→{b}" for op, (a, b) in difference.nodes.items())
        console.print(Group(Text("operators: " + text)))
    if not difference.layers and not difference.nodes:
        console.print("same operators, same weight shapes")


def print_benchmark(console: Console, bench: Benchmark) -> None:
    """Latency with everything that the figures depend on."""
    two = any(batch.ratio for batch in bench.batches)
    table = Table(box=None, header_style="bold")
    names = ["batch", "A ms", "p10..p90", *(["B ms", "p10..p90", "B / A", "95 % interval"] if two else [])]
    for name in names:
        table.add_column(name, justify="right")
    for batch in bench.batches:
        cells = [str(batch.batch)]
        for timing in (batch.a, batch.b):
            if timing is not None:
                cells += [f"{timing.median_ms:.3f}", f"{timing.p10_ms:.3f}..{timing.p90_ms:.3f}"]
        if batch.ratio is not None:
            cells += [f"{batch.ratio.ratio:.3f}", f"{batch.ratio.low:.3f}..{batch.ratio.high:.3f}"]
        table.add_row(*cells)
    console.print(table)
    facts = ", ".join(f"{k} {v}" for k, v in bench.environment.items())
    threads = bench.threads or "ONNX Runtime's choice"
    console.print(Text(f"{bench.provider}, threads: {threads}, {facts}", style="dim"))
    for note in bench.notes:
        console.print(Text(note, style="dim"))
