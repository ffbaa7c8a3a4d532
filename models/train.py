"""Train a network with gates by a recipe of recipes.toml: dense, gate search, collapse, fine-tuning, export to ONNX.

    python models/train.py RECIPE --data FOLDER --out FOLDER
    torchrun --nproc-per-node 2 models/train.py RECIPE --data FOLDER --out FOLDER

Writes a checkpoint after every epoch; the same command with --resume goes on from it and ends with the same weights.
"""

from pathlib import Path

import catalogue
import click
import torch
from evaluate import score
from options import DEVICE, SET, told, usage

from onnxshrink import gates
from onnxshrink.errors import OnnxshrinkError
from onnxshrink.gates.training import Trainer, draw, join, read_log


def scored(path: Path, entry: catalogue.Entry, data: Path) -> str:
    """How good a file is, in words; only its size where the images that say it are not there."""
    size = f"{path.stat().st_size:,} bytes"
    try:
        images = catalogue.read_final(entry.data, data)
    except OnnxshrinkError:
        return f"{path}: {size}"
    found, task = score(path, images.batches(), entry.data_set.task), entry.data_set.task
    return f"{path}: {task.metric} {100 * found:.2f} % of {images.count} {images.split} images, {size}"


def export(trainer: Trainer, entry: catalogue.Entry, data: Path) -> None:
    """Write the network as ONNX and say how good the file is; where nothing was closed, for PyTorch too."""
    path = trainer.out / f"{entry.recipe.network}_{entry.data}.onnx"
    if entry.recipe.search == "none":
        trainer.save_network(trainer.out / "trained.pt")
    gates.export(trainer.gated.cpu(), path, entry.data_set.example())
    share = f"{100 * trainer.size.kept():.1f} % of the {entry.recipe.size} kept"
    trainer.monitor.say(f"{scored(path, entry, data)}, {share}")


@click.command(help=usage(__doc__))
@click.argument("recipe", type=click.Choice(catalogue.names()))
@click.option("--data", required=True, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--out", required=True, type=click.Path(file_okay=False, path_type=Path))
@SET
@click.option(
    "--dense",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="dense.pt or trained.pt of another run",
)
@click.option("--latencies", type=click.Path(exists=True, dir_okay=False), help="table for size=latency")
@click.option("--epoch", type=click.IntRange(1), help="examples in an epoch, for more frequent checkpoints")
@click.option("--stop-after", type=click.IntRange(1), help="end after this many epochs of the plan")
@click.option("--limit", type=click.IntRange(1), help="use only the first N examples, to try the script")
@DEVICE
@click.option("--threads", default=2, show_default=True, type=click.IntRange(1), help="of the CPU")
@click.option("--workers", default=2, show_default=True, type=click.IntRange(0), help="processes that read image files")
@click.option("--resume", is_flag=True, help="go on from the checkpoint in --out")
def main(
    recipe: str,
    data: Path,
    out: Path,
    changes: tuple[tuple[str, object], ...],
    dense: Path | None,
    latencies: str | None,
    epoch: int | None,
    stop_after: int | None,
    limit: int | None,
    device: str,
    threads: int,
    workers: int,
    resume: bool,
) -> None:
    """Train, prune and export."""
    torch.set_num_threads(threads)
    with told():
        ranks = join(device)
        if device == "cuda":
            device = f"cuda:{ranks.rank % torch.cuda.device_count()}"
            torch.cuda.set_device(device)
        entry = catalogue.entry(recipe, **dict(changes))
        where = device if device.startswith("cuda") else "cpu"
        trainer = Trainer(
            entry.network(),
            entry.data_set.example(),
            catalogue.read_data(entry.data, data, epoch=epoch, limit=limit, workers=workers, device=where),
            entry.data_set.task,
            entry.recipe,
            out,
            latencies=gates.read_latencies(latencies) if latencies else None,
            device=device,
            ranks=ranks,
        )
        if resume and trainer.resume():
            unread = "" if dense is None else f"; {dense} is not read"
            trainer.monitor.say(f"resumed after {trainer.done} epochs{unread}")
        elif dense is not None:
            trainer.start_from(dense)
        if stop_after is not None and stop_after <= trainer.done:
            trainer.monitor.say(f"nothing to train: {trainer.done} epochs of {len(trainer.plan)} are done")
        trainer.fit(stop_after)
        if trainer.done == len(trainer.plan) and ranks.first:
            export(trainer, entry, data)
        if ranks.first and (lines := read_log(out)):
            metric = entry.data_set.task.metric
            draw(lines, out / "training.png", title=f"{recipe}, {entry.recipe.search}", metric=metric)


if __name__ == "__main__":
    main()
