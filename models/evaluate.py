"""Accuracy of an ONNX file on the 10,000 CIFAR-10 test images, by ONNX Runtime on the CPU.

python models/evaluate.py MODEL.onnx --data FOLDER
"""

from pathlib import Path

import click
import onnxruntime
from data import Images, batches, read_test


def accuracy(path: Path, images: Images, batch: int = 500) -> float:
    """Share of images whose largest logit is that of the label. The model takes [N, 3, 32, 32] in [0, 1]."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    right = 0
    for x, labels in batches(images, batch):
        (logits,) = session.run(None, {name: x.contiguous().numpy()})
        right += int((logits.argmax(1) == labels.numpy()).sum())
    return right / len(images)


@click.command(help=__doc__)
@click.argument("models", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--data", required=True, type=click.Path(exists=True, file_okay=False, path_type=Path))
def main(models: tuple[Path, ...], data: Path) -> None:
    """Print one line for each model."""
    images = read_test(data)
    for path in models:
        click.echo(f"{path.name}: {100 * accuracy(path, images):.2f} % of {len(images)} images")


if __name__ == "__main__":
    main()
