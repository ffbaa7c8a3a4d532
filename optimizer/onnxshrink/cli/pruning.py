"""The command that gives up channels at a known loss: prune."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from rich.markup import escape

from ..choices import Allocation, Method, Reduction, Variant
from ..errors import InputError
from ..files import write_whole
from ..pruning.calibration import LEAST
from .options import MULTIPLE, Portion, choice, option_provider, option_shapes
from .output import console, progress, refuse_targets, write_json


@click.command()
@click.argument("model", metavar="IN.onnx", type=click.Path(path_type=Path))
@click.argument("output", metavar="OUT.onnx", type=click.Path(path_type=Path))
@click.option(
    "--data", help="Samples: an .npz or .npy file, a folder of them or of images, or module:function that yields feeds."
)
@click.option("--pixels", metavar="LOW,HIGH|imagenet", help="Of images: what bytes 0 to 255 become, as in training.")
@click.option("--random-data", type=click.IntRange(LEAST), metavar="N", help="N samples of noise; guarantees nothing.")
@click.option("--keep-macs", type=Portion(), help="Share of the multiply-adds that may stay, 50%.")
@click.option("--keep-parameters", type=Portion(), help="Share of the parameters that may stay, 50%.")
@click.option("--keep-latency", type=Portion(), help="Share of the latency on the provider in use that may stay, 50%.")
@click.option(
    "--table",
    type=click.Path(path_type=Path),
    help="Of `bench --layers`, perhaps from the device; else this model is measured first.",
)
@click.option("--max-error", type=float, metavar="E", help="Largest |y' - y| / |y| on held-out samples.")
@click.option("--evaluate", metavar="MODULE:FUNCTION", help="Your metric of a model's path; more is better.")
@click.option("--max-drop", type=float, metavar="D", help="Largest drop of that metric.")
@click.option("--method", type=choice(Method), default="wanda", show_default=True)
@click.option(
    "--allocation",
    type=choice(Allocation),
    help="Of wanda and magnitude: what each class gives up. Default: utilization.",
)
@click.option(
    "--variant",
    type=choice(Variant),
    default="top",
    show_default=True,
    help="Of pfp: the most sensitive channels, or drawn and reweighed ones.",
)
@click.option(
    "--reduction",
    type=choice(Reduction),
    default="sum",
    show_default=True,
    help="Of pfp: shares over kernel taps, as in the theory or as in the authors' code.",
)
@click.option("--no-repair", is_flag=True, help="Do not fit what reads pruned channels.")
@click.option("--masks-only", is_flag=True, help="Write the zeros and stop.")
@click.option("--align", type=MULTIPLE, metavar="N", help="Multiple of channels. Default 4 (float16: 8).")
@click.option("--limit", type=click.IntRange(LEAST), default=512, show_default=True, metavar="N", help="Use N samples.")
@click.option("--seed", type=int, default=0, show_default=True)
@option_shapes
@option_provider
@click.option("--map", "map_file", type=click.Path(path_type=Path), help="Write the map of kept channels here.")
@click.option("--curve", type=click.Path(path_type=Path), help="Draw size against error: an .svg, .png or .pdf file.")
@click.option("--json", "json_file", metavar="FILE|-", help="Write the report as JSON.")
def prune(
    model: Path,
    output: Path,
    input_shapes: tuple[Any, ...],
    map_file: Path | None,
    curve: Path | None,
    json_file: str | None,
    no_repair: bool,
    **options: Any,
) -> None:
    """Give up channels at a known loss, by weights or by sample inputs, without training."""
    from .. import prune as run
    from ..report.curve import check_figure, draw_curve
    from ..report.pruned import print_curve, print_guarantee, print_latency, print_masks
    from ..report.terminal import print_sizes, print_verification

    if map_file is not None and options["masks_only"]:
        raise InputError("--map is written by the shrink, which --masks-only leaves out", cure="drop one of them")
    refuse_targets([map_file, json_file, curve], [model], [options["data"], options["table"]], output)
    if curve is not None:
        check_figure(curve)
    out = console(json_file)
    with progress() as say:
        result = run(
            model,
            output,
            input_shapes=dict(input_shapes),
            repair_weights=not no_repair,
            points=24 if curve else 8,
            progress=say,
            **options,
        )
    if map_file is not None and result.shrunk is not None:
        write_whole(map_file, json.dumps(result.shrunk.map))
    if curve is not None:
        title = ", ".join(filter(None, (f"{model.name}: {options['method']}", options["allocation"])))
        draw_curve(result.curve, result.point, curve, title=title, repaired=not no_repair)
    print_masks(out, result.masks)
    print_curve(out, result.curve)
    print_guarantee(out, result.guarantee, result.no_guarantee)
    repaired = "" if no_repair else f", {result.error_before_repair:.3g} before repair"
    out.print(f"error on held-out samples {result.error:.3g}{repaired}")
    if result.metric is not None:
        out.print(f"metric {result.metric[0]:g} → {result.metric[1]:g}")
    print_sizes(out, result.sizes)
    if result.latency is not None:
        print_latency(out, result.latency)
    if result.shrunk is not None and result.shrunk.verification is not None:
        print_verification(out, result.shrunk.verification)
    for note in result.notes:
        out.print(f"note: {escape(note)}")
    out.print(f"{escape(str(output))} written")
    write_json(json_file, {"input": str(model), "output": str(output), **result.to_json()})
