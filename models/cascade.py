"""Prune and retrain in rounds: prune the exported file, cut the network by the map, train on, and again.

    python models/train.py RECIPE --data FOLDER --out RUN --set search=none
    python models/cascade.py RECIPE --data FOLDER --dense RUN/trained.pt --out FOLDER --keep-macs 70% --rounds 2

RUN/dense.pt, the network after its first learning rate cycle, is what gates begin with. Each round gives up the same
share of what is left, by the scores and the repair of `onnxshrink prune`, and has an equal part of the epochs of the
recipe's second cycle, with a learning rate cycle of its own. The same command goes on from where it was killed.
"""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import catalogue
import click
import onnx
import torch
from options import DEVICE, SET, told, usage
from torch import nn
from train import scored

import onnxshrink
from onnxshrink import benchmark, gates
from onnxshrink.choices import Method
from onnxshrink.cli.options import Portion, choice
from onnxshrink.errors import InputError
from onnxshrink.files import write_whole
from onnxshrink.gates.training import Data, Recipe, Trainer, checkpoint, draw, read_log


def pruned(
    network: nn.Module, entry: catalogue.Entry, data: Data, folder: Path, share: float, samples: int, **options: Any
) -> nn.Module:
    """The network at a share of its multiply-adds. The map is kept in the folder; what is there is not made again.

    Args:
        network: plain, on the CPU.
        data: scores and repair see images of its first training batch.
        folder: of this round.
        samples: how many images.
        options: of `onnxshrink.prune`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    kept, source, example = folder / "map.json", folder / "whole.onnx", entry.data_set.example()
    if not kept.exists():
        gates.export(network, source, example)
        images, _ = next(iter(data.training(min(samples, len(data)), entry.recipe.seed, 0, 1)))
        feeds = [{"input": image[None].contiguous().cpu().numpy()} for image in images]
        result = onnxshrink.prune(
            source, folder / "pruned.onnx", data=feeds, keep_macs=share, align=1, points=0, **options
        )
        if result.shrunk is None:
            raise InputError("nothing was pruned", file=str(source))
        write_whole(kept, json.dumps(result.shrunk.map))
        before, after = result.sizes["macs"]
        click.echo(f"{source}: {before:,} → {after:,} multiply-adds, error {result.error:.3f} on held-out images")
    return gates.apply(network, json.loads(kept.read_text(encoding="utf-8")), example)


def rounds_of(recipe: Recipe, rounds: int) -> list[Recipe]:
    """The recipe of each round: the epochs of the second cycle in equal parts."""
    total = recipe.search_epochs + recipe.finetune_epochs
    if not 1 <= rounds <= total:
        raise InputError(f"{total} epochs are no {rounds} rounds", cure=f"take 1 to {total}")
    parts = [total * (k + 1) // rounds - total * k // rounds for k in range(rounds)]
    return [replace(recipe, dense_epochs=0, search_epochs=0, finetune_epochs=part) for part in parts]


def begun(out: Path, options: dict[str, Any]) -> None:
    """Keep what decides the maps of all rounds; a folder goes on with the same only.

    Raises:
        InputError: the folder was begun with others.
    """
    path = out / "options.json"
    if path.exists():
        try:
            before = dict(json.loads(path.read_text(encoding="utf-8")))
        except ValueError as error:
            raise InputError(f"these are no options: {error}", file=str(path)) from error
        others = [name for name, value in options.items() if before.get(name) != value]
        if others:
            was, now = (", ".join(f"{name}={of.get(name)}" for name in others) for of in (before, options))
            raise InputError(
                f"the rounds here were begun with {was}, now it is {now}",
                file=str(path),
                cure="give the same, or another --out",
            )
        return
    out.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(options))


@click.command(help=usage(__doc__))
@click.argument("recipe", type=click.Choice(catalogue.names()))
@click.option("--data", "folder", required=True, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--dense", required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--out", required=True, type=click.Path(file_okay=False, path_type=Path))
@click.option("--keep-macs", required=True, type=Portion(), help="of the dense network, after the last round")
@click.option("--rounds", default=1, show_default=True, type=click.IntRange(1))
@click.option("--method", type=choice(Method), default="pfp", show_default=True)
@click.option(
    "--samples",
    default=512,
    show_default=True,
    type=click.IntRange(1),
    help="training images that scores and repair see",
)
@SET
@click.option("--limit", type=click.IntRange(1), help="use only the first N examples, to try the script")
@DEVICE
@click.option("--threads", default=2, show_default=True, type=click.IntRange(1), help="of the CPU")
@click.option("--workers", default=2, show_default=True, type=click.IntRange(0), help="processes that read image files")
def main(
    recipe: str,
    folder: Path,
    dense: Path,
    out: Path,
    keep_macs: float,
    rounds: int,
    method: str,
    samples: int,
    changes: tuple[tuple[str, object], ...],
    limit: int | None,
    device: str,
    threads: int,
    workers: int,
) -> None:
    """Prune, train and export."""
    torch.set_num_threads(threads)
    with told():
        fields = {"search": "none", **dict(changes)}
        if fields["search"] != "none":
            raise InputError("a cascade prunes by --method, gates search nothing", cure="leave --set search out")
        entry = catalogue.entry(recipe, **fields)
        own = entry.data_set
        data = catalogue.read_data(entry.data, folder, epoch=None, limit=limit, workers=workers, device=device)
        network = entry.network()
        checkpoint.fill(network, checkpoint.load(dense, entry.recipe.network)["network"], dense)
        parts = rounds_of(entry.recipe, rounds)
        decisive = {"keep_macs": keep_macs, "rounds": rounds, "method": method, "samples": samples, "limit": limit}
        decisive |= {"epochs": sum(part.finetune_epochs for part in parts), "seed": entry.recipe.seed}
        begun(out, decisive | {"dense": hashlib.sha256(dense.read_bytes()).hexdigest()[:16]})
        for number, part in enumerate(parts, 1):
            here = out / str(number)
            network = pruned(network.eval(), entry, data, here, keep_macs ** (1 / rounds), samples, method=method)
            trainer = Trainer(network, own.example(), data, own.task, part, here, device=device)
            trainer.resume()
            trainer.fit()
            network = gates.folded(trainer.gated.cpu())
            if lines := read_log(here):
                draw(lines, here / "training.png", title=f"{recipe}, round {number}", metric=own.task.metric)
        last = out / f"{entry.recipe.network}_{entry.data}.onnx"
        gates.export(network, last, own.example())
        click.echo(f"{scored(last, entry, folder)}, {benchmark.macs(onnx.load(last)):,} multiply-adds")


if __name__ == "__main__":
    main()
