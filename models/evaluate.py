"""The score of ONNX files on the test images of CIFAR-10 or CamVid, by ONNX Runtime on the CPU.

python models/evaluate.py MODEL.onnx --data FOLDER [--set camvid]
"""

from pathlib import Path

import click
import onnxruntime
import torch
from catalogue import DATA_SETS, read_test
from data import Examples, batches

from onnxshrink.gates.training import Classification, Task


def score(path: Path, examples: Examples, task: Task | None = None, batch: int = 250) -> float:
    """The task's score (by default, the share of right answers) of a model that takes [N, 3, H, W] in [0, 1]."""
    task = task or Classification()
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    counts = torch.zeros(())
    for x, targets in batches(examples, batch):
        (output,) = session.run(None, {name: x.contiguous().numpy()})
        counts = counts + task.counts(torch.from_numpy(output), targets)
    return task.score(counts)


@click.command(help=__doc__)
@click.argument("models", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--data", required=True, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--set", "name", type=click.Choice(["cifar10", "camvid"]), default="cifar10", show_default=True)
def main(models: tuple[Path, ...], data: Path, name: str) -> None:
    """Print one line for each model."""
    examples, task = read_test(name, data), DATA_SETS[name].task
    for path in models:
        found = score(path, examples, task, batch=250 if name == "cifar10" else 16)
        click.echo(f"{path.name}: {task.metric} {100 * found:.2f} % of {len(examples)} images")


if __name__ == "__main__":
    main()
