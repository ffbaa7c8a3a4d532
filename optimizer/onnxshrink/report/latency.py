"""A table of layer latencies, for the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from ..benchmark import LatencyTable, additivity, own_widths
from ..benchmark.table import EVEN


def print_layers(console: Console, latencies: LatencyTable) -> None:
    """Each kind of layer with its steps, and how far the layers' sum is from the whole model."""
    table = Table("layer", "uses", "ms", "at half", "step in", "step out", "odd", box=None, header_style="bold")
    for column in table.columns[1:]:
        column.justify = "right"
    uses: dict[str, int] = {}
    for weight in latencies.nodes.values():
        kind = latencies.layers[weight].kind
        uses[kind] = uses.get(kind, 0) + 1
    points = 0
    for layer in {layer.kind: layer for layer in latencies.layers.values()}.values():
        inputs, outputs = layer.counts(0)[-1], layer.counts(1)[-1]
        points += len(layer.points)
        table.add_row(
            escape(layer.kind),
            str(uses[layer.kind]),
            f"{float(layer.at(inputs, outputs)):.3f}",
            f"{float(layer.at(max(1, inputs // 2), max(1, outputs // 2))):.3f}",
            *(str(step) for step, _ in layer.steps),
            " ".join(f"x{factor:.2f}" for _, factor in layer.steps),
        )
    console.print(table)
    ratio = additivity(latencies, own_widths(latencies))
    console.print(
        f"sum of the layers {ratio * latencies.whole:.3f} ms, whole model {latencies.whole:.3f} ms: ratio {ratio:.2f}"
    )
    console.print(
        Text(
            f"{points} pairs of counts measured; other counts cost what their next multiple of the step does, between "
            f"measured ones in a straight line, and what {EVEN} does not divide its odd factor",
            style="dim",
        )
    )
    facts = ", ".join(f"{k} {v}" for k, v in latencies.environment.items())
    console.print(
        Text(
            f"{latencies.provider}, threads: {latencies.threads or 'the choice of ONNX Runtime'}, {facts}", style="dim"
        )
    )
