"""The command line: parse, call the face, print. Exit codes: 0 done and verified, 1 error, 2 usage, 3 not equal,
4 a `--fail-if` condition.
"""

from __future__ import annotations

import sys

import click

from .. import __version__
from ..errors import OnnxshrinkError, short
from .measuring import bench
from .pruning import prune
from .shrinking import inspect, optimize, verify


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
@click.option("--traceback", is_flag=True, help="Show where an error was raised.")
@click.pass_context
def cli(ctx: click.Context, traceback: bool) -> None:
    """Cut the channels that carry nothing out of an ONNX model, and prove that the smaller one computes the same."""
    ctx.obj = traceback


for command in (optimize, inspect, verify, bench, prune):
    cli.add_command(command)


def main() -> None:
    """The command `onnxshrink`: every error is one line and an exit code."""
    show = "--traceback" in sys.argv
    try:
        code = cli.main(prog_name="onnxshrink", standalone_mode=False)
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
    except OSError as error:  # a disk that is full, a file that went while it was read
        if show:
            raise
        where = f"{error.filename}: " if error.filename else ""
        click.echo(f"onnxshrink: {where}{error.strerror or short(error)}", err=True)
        sys.exit(1)
    except Exception as error:  # what nobody foresaw is still one line
        if show:
            raise
        click.echo(
            f"onnxshrink: internal error, {type(error).__name__}: {short(error)}; "
            "please report it (`onnxshrink --traceback COMMAND ...` shows where)",
            err=True,
        )
        sys.exit(1)
