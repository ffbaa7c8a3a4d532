"""The commands around the lossless cut: optimize, inspect, verify."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from rich.markup import escape

from ..errors import ConditionError, ModelError
from ..files import write_whole
from .options import MULTIPLE, NEGLIGIBLE, Align, option_provider, option_ranges, option_shapes
from .output import console, progress, refuse_targets, write_json


@click.command()
@click.argument("model", metavar="IN.onnx", type=click.Path(path_type=Path))
@click.argument("output", metavar="OUT.onnx", type=click.Path(path_type=Path))
@click.option(
    "--align", type=Align(), help="Round channel counts up to a multiple; auto measures. Default 4 (float16: 8)."
)
@click.option(
    "--negligible",
    type=NEGLIGIBLE,
    default=1e-8,
    show_default=True,
    help="Weights below this share of their layer's largest count as zero; 0: exact zeros only.",
)
@click.option("--data", type=click.Path(path_type=Path), help="Inputs to verify on: an .npz file or a folder.")
@option_shapes
@option_ranges
@option_provider
@click.option("--map", "map_file", type=click.Path(path_type=Path), help="Write the map of kept channels here.")
@click.option("--json", "json_file", metavar="FILE|-", help="Write the report as JSON.")
@click.option("--keep-default-inputs", is_flag=True, help="Leave initializers that are listed as inputs overridable.")
@click.option("--no-verify", is_flag=True, help="Skip the numerical verification (never the structural check).")
@click.option("--fail-if-unchanged", is_flag=True, help="Exit 4, with --json but without OUT, when nothing can go.")
@click.option("--fail-if-slower", is_flag=True, help="Measure; exit 4 in the same way when the result is slower.")
def optimize(
    model: Path,
    output: Path,
    input_shapes: tuple[Any, ...],
    input_ranges: tuple[Any, ...],
    map_file: Path | None,
    json_file: str | None,
    no_verify: bool,
    **options: Any,
) -> None:
    """Write a smaller model that computes the same."""
    from .. import optimize as run
    from ..report.terminal import print_plan, print_sizes, print_verification

    refuse_targets([map_file, json_file], [model], [options["data"]], output)
    out = console(json_file)
    try:
        with progress() as say:
            result = run(
                model,
                output,
                input_shapes=dict(input_shapes),
                input_ranges=dict(input_ranges),
                verify=not no_verify,
                progress=say,
                **options,
            )
    except ConditionError as met:
        if json_file is None:
            raise
        write_json(json_file, {"input": str(model), "output": None, **met.result.to_json()})
        raise ConditionError(f"{met.what}, only the report", met.result, file=met.file, cure=met.cure) from met
    if map_file is not None:
        write_whole(map_file, json.dumps(result.map, indent=1))
    print_plan(out, result.plan)
    print_sizes(out, result.sizes)
    if result.verification is not None:
        print_verification(out, result.verification)
    elif result.changed:
        out.print("not verified: --no-verify")
    if result.planted is not None:
        out.print(
            f"claims tested: {result.planted.known} known values, {result.planted.unread} unread channels under noise"
        )
    if result.latency is not None:
        from ..report.terminal import print_benchmark

        print_benchmark(out, result.latency)
    for note in result.notes:
        out.print(f"note: {escape(note)}")
    seconds = sum(result.seconds.values())
    out.print(f"{escape(str(output))} written in {seconds:.1f} s" + ("" if result.changed else ", unchanged"))
    write_json(json_file, {"input": str(model), "output": str(output), **result.to_json()})


@click.command()
@click.argument("model", metavar="IN.onnx", type=click.Path(path_type=Path))
@click.argument("other", metavar="[OTHER.onnx]", required=False, type=click.Path(path_type=Path))
@click.option("--align", type=MULTIPLE, default=1, show_default=True, metavar="N")
@click.option("--negligible", type=NEGLIGIBLE, default=1e-8, show_default=True)
@click.option("--all", "everything", is_flag=True, help="List unchanged layers too.")
@option_shapes
@option_ranges
@click.option("--json", "json_file", metavar="FILE|-", help="Write the plan as JSON.")
def inspect(
    model: Path,
    other: Path | None,
    input_shapes: tuple[Any, ...],
    input_ranges: tuple[Any, ...],
    json_file: str | None,
    everything: bool,
    **options: Any,
) -> None:
    """Show what could go and what holds the rest; or how two models differ."""
    from .. import inspect as run
    from ..look import Difference
    from ..report.terminal import print_difference, print_plan, print_sizes
    from ..shrink import why_unchanged

    refuse_targets([json_file], [model, other])
    out = console(json_file)
    found = run(model, other, input_shapes=dict(input_shapes), input_ranges=dict(input_ranges), **options)
    if isinstance(found, Difference):
        print_difference(out, found)
    else:
        print_plan(out, found.plan, everything=everything)
        print_sizes(out, found.sizes)
        if not found.plan.changes:
            out.print(escape("; ".join(why_unchanged(found.plan))))
    write_json(json_file, found.to_json())


@click.command()
@click.argument("a", metavar="A.onnx", type=click.Path(path_type=Path))
@click.argument("b", metavar="B.onnx", type=click.Path(path_type=Path))
@option_provider
@option_shapes
@click.option("--data", type=click.Path(path_type=Path), help="Inputs to run on: an .npz file or a folder.")
@click.option("--json", "json_file", metavar="FILE|-", help="Write the verdict as JSON.")
def verify(a: Path, b: Path, input_shapes: tuple[Any, ...], json_file: str | None, **options: Any) -> None:
    """Check that two models compute the same; exit 3 if they do not."""
    from .. import verify as run
    from ..graph.model import read
    from ..report.terminal import print_verification

    refuse_targets([json_file], [a, b], [options["data"]])
    read(b)  # a file that is no model is an error, not a difference
    out = console(json_file)
    with progress() as say:
        verdict = run(a, b, input_shapes=dict(input_shapes), progress=say, **options)
    if verdict.state == "unverified" and not verdict.draws:
        raise ModelError(f"cannot be compared: {verdict.notes[0] if verdict.notes else 'nothing ran'}", file=str(a))
    print_verification(out, verdict)
    write_json(json_file, verdict.to_json())
    if verdict.state == "failed":
        raise click.exceptions.Exit(3)
