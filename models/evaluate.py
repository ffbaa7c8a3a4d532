"""The score of ONNX files on the test images of a data set, or its validation images where those have no labels, by
ONNX Runtime on the CPU.

python models/evaluate.py MODEL.onnx --data FOLDER [--set camvid]
"""

from collections.abc import Iterable
from pathlib import Path

import click
import onnxruntime
import torch
from catalogue import DATA_SETS, read_final
from options import told
from torch import Tensor

from onnxshrink.errors import InputError, short
from onnxshrink.gates.training import Task


def score(path: Path, batches: Iterable[tuple[Tensor, Tensor]], task: Task) -> float:
    """The task's score of a model that takes [N, 3, H, W] in [0, 1].

    Raises:
        InputError: ONNX Runtime cannot read it, or it does not take these images and answer with these classes.
    """
    counts = torch.zeros(())
    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
    except Exception as error:  # ONNX Runtime raises many types
        raise InputError(f"ONNX Runtime cannot read this: {short(error, 120)}", file=str(path)) from error
    for x, targets in batches:
        try:
            (output,) = session.run(None, {name: x.contiguous().numpy()})
            counts = counts + task.counts(torch.from_numpy(output), targets)
        except Exception as error:
            raise InputError(f"this is no model for these images: {short(error, 120)}", file=str(path)) from error
    return task.score(counts)


@click.command(help=__doc__)
@click.argument("models", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--data", required=True, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--set", "name", type=click.Choice(list(DATA_SETS)), default="cifar10", show_default=True)
def main(models: tuple[Path, ...], data: Path, name: str) -> None:
    """Print one line for each model."""
    with told():
        images, task = read_final(name, data), DATA_SETS[name].task
        for path in models:
            found = score(path, images.batches(), task)
            click.echo(f"{path.name}: {task.metric} {100 * found:.2f} % of {images.count} {images.split} images")


if __name__ == "__main__":
    main()
