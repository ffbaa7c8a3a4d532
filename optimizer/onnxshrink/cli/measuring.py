"""The command that measures: bench."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from rich.markup import escape

from ..errors import InputError
from .options import Numbers, option_provider, option_shapes
from .output import console, progress, refuse_targets, write_json


@click.command()
@click.argument("a", metavar="A.onnx", type=click.Path(path_type=Path))
@click.argument("b", metavar="[B.onnx]", required=False, type=click.Path(path_type=Path))
@option_provider
@option_shapes
@click.option("--batch", "batches", type=Numbers(), default=(1,), help="Batch sizes, 1,8.  [default: 1]")
@click.option("--threads", type=click.IntRange(1), help="Intra-op threads; ONNX Runtime chooses by default.")
@click.option(
    "--seconds",
    type=click.FloatRange(0.1),
    default=3.0,
    show_default=True,
    help="How long to measure: each batch size, or each layer.",
)
@click.option(
    "--layers", is_flag=True, help="Measure each layer of A against its channel counts, into the table of -o."
)
@click.option("-o", "table", type=click.Path(path_type=Path), help="The table; an interrupted one is taken up again.")
@click.option("--json", "json_file", metavar="FILE|-", help="Write the figures as JSON.")
def bench(
    a: Path,
    b: Path | None,
    input_shapes: tuple[Any, ...],
    batches: tuple[int, ...],
    layers: bool,
    table: Path | None,
    json_file: str | None,
    **options: Any,
) -> None:
    """Measure latency: of one model, of two in turns with their ratio, or of a model's layers."""
    from .. import bench as run
    from ..benchmark import measure_layers
    from ..report.latency import print_layers
    from ..report.terminal import print_benchmark

    refuse_targets([json_file, table], [a, b])
    if layers != (table is not None) or (layers and (b is not None or len(batches) > 1)):
        raise InputError(
            "--layers and -o go together, with one model and one batch size", cure="bench A.onnx --layers -o FILE"
        )
    out = console(json_file)
    if layers:
        try:
            with progress() as say:
                measured = measure_layers(
                    a, table, batch=batches[0], input_shapes=dict(input_shapes), progress=say, **options
                )
        except KeyboardInterrupt:
            click.echo(f"what was measured is in {table}; the same command goes on from there", err=True)
            raise
        print_layers(out, measured)
        out.print(f"{escape(str(table))} written")
        write_json(json_file, measured.to_json())
        return
    with progress() as say:
        say("measuring")
        figures = run(a, b, input_shapes=dict(input_shapes) or None, batches=batches, **options)
    print_benchmark(out, figures)
    write_json(json_file, figures.to_json())
