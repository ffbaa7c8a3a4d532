"""The command line: parse, call the face, print. Exit codes: 0 done and verified, 1 error, 2 usage, 3 not equal,
4 a `--fail-if` condition.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.markup import escape

from . import __version__
from .errors import InputError, ModelError, OnnxshrinkError

PROVIDER = click.Choice(["cpu", "cuda", "tensorrt"])


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
    """A positive integer, or "auto"."""

    name = "N|auto"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        if value == "auto":
            return "auto"
        try:
            number = int(value)
        except ValueError:
            number = 0
        if not 1 <= number <= 1024:
            self.fail(f"{value!r} is neither a number from 1 to 1024 nor auto", param, ctx)
        return number


class Share(click.ParamType):
    """A share of something larger: from 0 to 0.001."""

    name = "R"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            share = float(value)
        except ValueError:
            share = -1.0
        if not 0 <= share <= 1e-3:  # NaN is no share either
            self.fail(f"{value!r} is no number from 0 to 0.001", param, ctx)
        return share


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
    return click.option("--provider", type=PROVIDER, default="cpu", show_default=True, help="Where models run.")(
        function
    )


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
@click.option("--traceback", is_flag=True, help="Show where an error was raised.")
@click.pass_context
def cli(ctx: click.Context, traceback: bool) -> None:
    """Cut the channels that carry nothing out of an ONNX model, and prove that the smaller one computes the same."""
    ctx.obj = traceback


@cli.command()
@click.argument("model", metavar="IN.onnx", type=click.Path(path_type=Path))
@click.argument("output", metavar="OUT.onnx", type=click.Path(path_type=Path))
@click.option(
    "--align", type=Align(), help="Round channel counts up to a multiple; auto measures. Default 4 (float16: 8)."
)
@click.option(
    "--negligible",
    type=Share(),
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
@click.option("--fail-if-unchanged", is_flag=True, help="Exit 4 when nothing can go.")
@click.option("--fail-if-slower", is_flag=True, help="Measure, and exit 4 when the result is slower.")
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
    from . import optimize as run
    from .report.terminal import print_plan, print_sizes, print_verification

    _refuse_targets([map_file, json_file], [model, output])
    console = _console(json_file)
    with _progress() as say:
        result = run(
            model,
            output,
            input_shapes=dict(input_shapes),
            input_ranges=dict(input_ranges),
            verify=not no_verify,
            progress=say,
            **options,
        )
    if map_file is not None:
        _write(map_file, json.dumps(result.map, indent=1))
    print_plan(console, result.plan)
    print_sizes(console, result.sizes)
    if result.verification is not None:
        print_verification(console, result.verification)
    if result.planted is not None:
        console.print(
            f"claims tested: {result.planted.known} known values, {result.planted.unread} unread channels under noise"
        )
    if result.latency is not None:
        from .report.terminal import print_benchmark

        print_benchmark(console, result.latency)
    for note in result.notes:
        console.print(f"note: {escape(note)}")
    seconds = sum(result.seconds.values())
    console.print(f"{escape(str(output))} written in {seconds:.1f} s" + ("" if result.changed else ", unchanged"))
    _json(json_file, {"input": str(model), "output": str(output), **result.to_json()})


@cli.command()
@click.argument("model", metavar="IN.onnx", type=click.Path(path_type=Path))
@click.argument("other", metavar="[OTHER.onnx]", required=False, type=click.Path(path_type=Path))
@click.option("--align", type=click.IntRange(1, 1024), default=1, show_default=True, metavar="N")
@click.option("--negligible", type=Share(), default=1e-8, show_default=True)
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
    from . import inspect as run
    from .look import Difference
    from .report.terminal import print_difference, print_plan, print_sizes
    from .shrink import DENSE

    _refuse_targets([json_file], [model, other])
    console = _console(json_file)
    found = run(model, other, input_shapes=dict(input_shapes), input_ranges=dict(input_ranges), **options)
    if isinstance(found, Difference):
        print_difference(console, found)
    else:
        print_plan(console, found.plan, everything=everything)
        print_sizes(console, found.sizes)
        if not found.plan.changes:
            console.print(f"no channel can go without loss; {escape(DENSE)}")
    _json(json_file, found.to_json())


@cli.command()
@click.argument("a", metavar="A.onnx", type=click.Path(path_type=Path))
@click.argument("b", metavar="B.onnx", type=click.Path(path_type=Path))
@option_provider
@option_shapes
@click.option("--data", type=click.Path(path_type=Path), help="Inputs to run on: an .npz file or a folder.")
@click.option("--json", "json_file", metavar="FILE|-", help="Write the verdict as JSON.")
def verify(a: Path, b: Path, input_shapes: tuple[Any, ...], json_file: str | None, **options: Any) -> None:
    """Check that two models compute the same; exit 3 if they do not."""
    from . import verify as run
    from .graph.model import read
    from .report.terminal import print_verification

    _refuse_targets([json_file], [a, b])
    read(b)  # a file that is no model is an error, not a difference
    console = _console(json_file)
    with _progress() as say:
        verdict = run(a, b, input_shapes=dict(input_shapes), progress=say, **options)
    if verdict.state == "unverified" and not verdict.draws:
        raise ModelError(f"cannot be compared: {verdict.notes[0] if verdict.notes else 'nothing ran'}", file=str(a))
    print_verification(console, verdict)
    _json(json_file, verdict.to_json())
    if verdict.state == "failed":
        raise click.exceptions.Exit(3)


@cli.command()
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
    from . import bench as run
    from .benchmark import measure_layers
    from .report.latency import print_layers
    from .report.terminal import print_benchmark

    _refuse_targets([json_file, table], [a, b])
    if layers != (table is not None) or (layers and (b is not None or len(batches) > 1)):
        raise InputError(
            "--layers and -o go together, with one model and one batch size", cure="bench A.onnx --layers -o FILE"
        )
    console = _console(json_file)
    if layers:
        try:
            with _progress() as say:
                measured = measure_layers(
                    a, table, batch=batches[0], input_shapes=dict(input_shapes), progress=say, **options
                )
        except KeyboardInterrupt:
            click.echo(f"what was measured is in {table}; the same command goes on from there", err=True)
            raise
        print_layers(console, measured)
        console.print(f"{escape(str(table))} written")
        _json(json_file, measured.to_json())
        return
    with _progress() as say:
        say("measuring")
        figures = run(a, b, input_shapes=dict(input_shapes) or None, batches=batches, **options)
    print_benchmark(console, figures)
    _json(json_file, figures.to_json())


@cli.command()
@click.argument("model", metavar="IN.onnx", type=click.Path(path_type=Path))
@click.argument("output", metavar="OUT.onnx", type=click.Path(path_type=Path))
@click.option(
    "--data", help="Samples: an .npz or .npy file, a folder of them or of images, or module:function that yields feeds."
)
@click.option("--pixels", metavar="LOW,HIGH|imagenet", help="Of images: what bytes 0 to 255 become, as in training.")
@click.option("--random-data", type=click.IntRange(2), metavar="N", help="N samples of noise; guarantees nothing.")
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
@click.option(
    "--method", type=click.Choice(["wanda", "pfp", "magnitude", "random"]), default="wanda", show_default=True
)
@click.option(
    "--allocation",
    type=click.Choice(["uniform", "global", "knapsack", "utilization"]),
    help="What each class gives up. Default: uniform; utilization for a latency.",
)
@click.option(
    "--variant",
    type=click.Choice(["top", "sampled", "mixed"]),
    default="top",
    show_default=True,
    help="Of pfp: the most sensitive channels, or drawn and reweighed ones.",
)
@click.option(
    "--reduction",
    type=click.Choice(["sum", "max"]),
    default="sum",
    show_default=True,
    help="Of pfp: shares over kernel taps, as in the theory or as in the authors' code.",
)
@click.option("--no-repair", is_flag=True, help="Do not fit what reads pruned channels.")
@click.option("--masks-only", is_flag=True, help="Write the zeros and stop.")
@click.option(
    "--align", type=click.IntRange(1, 1024), metavar="N", help="Multiple of channels. Default 4 (float16: 8)."
)
@click.option("--limit", type=click.IntRange(2), default=512, show_default=True, metavar="N", help="Use N samples.")
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
    from . import prune as run
    from .report.curve import check_figure, draw_curve
    from .report.pruned import print_curve, print_guarantee, print_latency, print_masks
    from .report.terminal import print_sizes, print_verification

    if map_file is not None and options["masks_only"]:
        raise InputError("--map is written by the shrink, which --masks-only leaves out", cure="drop one of them")
    _refuse_targets([map_file, json_file, curve], [model, output])
    if curve is not None:
        check_figure(curve)
    console = _console(json_file)
    with _progress() as say:
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
        _write(map_file, json.dumps(result.shrunk.map))
    if curve is not None:
        title = ", ".join(filter(None, (f"{model.name}: {options['method']}", options["allocation"])))
        draw_curve(result.curve, result.point, curve, title=title, repaired=not no_repair)
    print_masks(console, result.masks)
    print_curve(console, result.curve)
    print_guarantee(console, result.guarantee, result.no_guarantee)
    repaired = "" if no_repair else f", {result.error_before_repair:.3g} before repair"
    console.print(f"error on held-out samples {result.error:.3g}{repaired}")
    if result.metric is not None:
        console.print(f"metric {result.metric[0]:g} → {result.metric[1]:g}")
    print_sizes(console, result.sizes)
    if result.latency is not None:
        print_latency(console, result.latency)
    if result.shrunk is not None and result.shrunk.verification is not None:
        print_verification(console, result.shrunk.verification)
    for note in result.notes:
        console.print(f"note: {escape(note)}")
    console.print(f"{escape(str(output))} written")
    _json(json_file, {"input": str(model), "output": str(output), **result.to_json()})


def _console(json_file: str | None) -> Console:
    """Tables go to standard output, unless JSON does."""
    return Console(stderr=json_file == "-", highlight=False)


@contextmanager
def _progress() -> Any:
    """A spinner on standard error that says what is being done; silent where nobody watches."""
    console = Console(stderr=True)
    with console.status("reading") as status:
        yield lambda text: status.update(escape(text))


def _refuse_targets(targets: Sequence[Path | str | None], models: Sequence[Path | None]) -> None:
    """Say before anything is done that a report cannot be written where it was asked for.

    Raises:
        InputError: its folder does not exist, or it would overwrite a model.
    """
    for target in (Path(t) for t in targets if t is not None and t != "-"):
        if target.is_dir() or not target.parent.is_dir():
            raise InputError("cannot write there", file=str(target), cure="give a file in a folder that exists")
        if any(model is not None and target.resolve() == model.resolve() for model in models):
            raise InputError("would overwrite a model", file=str(target), cure="give another path")


def _json(target: str | None, report: dict[str, Any]) -> None:
    if target == "-":
        click.echo(json.dumps(report, indent=1))
    elif target is not None:
        _write(Path(target), json.dumps(report, indent=1) + "\n")


def _write(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise InputError(f"cannot write: {error.strerror}", file=str(path)) from error


def main() -> None:
    """The command `onnxshrink`: every error is one line and an exit code."""
    show = "--traceback" in sys.argv
    try:
        code = cli.main(standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except click.exceptions.Abort:
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except OnnxshrinkError as error:
        if show:
            raise
        click.echo(f"onnxshrink: {error}", err=True)
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, BrokenPipeError):
        sys.exit(130)
    except Exception as error:  # what nobody foresaw is still one line
        if show:
            raise
        text = " ".join(str(error).split())[:300]
        click.echo(
            f"onnxshrink: internal error, {type(error).__name__}: {text}; please report it (--traceback shows where)",
            err=True,
        )
        sys.exit(1)


if __name__ == "__main__":
    main()
