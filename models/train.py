"""Train a CIFAR-10 ResNet with gates: dense, gate search and pruning in steps, fine-tuning, export to ONNX.

python models/train.py --data FOLDER --out FOLDER

Writes a checkpoint after every epoch; the same command with --resume goes on from it and ends with the same weights.
"""

import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import click
import torch
from data import CIFAR10_MEAN, CIFAR10_STD, Images, batches, read_test, read_train, training_batches
from evaluate import accuracy
from resnet import ResNet
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import nn
from torch.nn import functional

from onnxshrink import gates

FORMS = {"importance": "sigmoid", "relax": "step"}
"""The gate of each search: where the gates themselves are trained, no scale may hide in them."""


@dataclass(frozen=True)
class Settings:
    """What defines a run.

    The search has `steps` steps of `search_epochs`, each of which ends by closing gates. With "importance" the gates
    are closed that matter least for what they cost, down to an equal share of the way to `target` in each step. With
    "relax" the size loss and the ejector train the gates, and those are closed that fell to the threshold of the step.
    """

    depth: int = 20
    dense_epochs: int = 20
    search: str = "importance"
    steps: int = 10
    search_epochs: int = 1
    thresholds: tuple[float, ...] = (0.02, 0.03, 0.05, 0.1, 0.25)
    finetune_epochs: int = 15
    batch: int = 128
    dense_rate: float = 0.25
    search_rate: float = 0.05
    finetune_rate: float = 0.1
    gate_rate: float = 0.02
    weight_decay: float = 5e-4
    label_smoothing: float = 0.1
    target: float = 0.5
    size_weight: float = 1.0
    ejector_weight: float = 5.0
    ejector_full: float = 0.8
    sigma: float = 0.5
    epoch_images: int | None = None
    bf16: bool = True
    seed: int = 0


@dataclass(frozen=True)
class Epoch:
    """One epoch of the plan: its phase, and where in the phase, and in the search step, it begins and ends.

    After the last epoch of a search step gates are closed: at the threshold `close`, or down to that share of the
    multiply-adds.
    """

    phase: str
    begin: float
    end: float
    step_begin: float = 0.0
    step_end: float = 0.0
    close: float | None = None


def plan(settings: Settings) -> list[Epoch]:
    """All epochs in order: dense, then the search step by step, then fine-tuning."""
    n = settings.dense_epochs
    epochs = [Epoch("dense", i / n, (i + 1) / n) for i in range(n)]
    if settings.search == "relax":
        closing = list(settings.thresholds)
    else:
        closing = [1 - (1 - settings.target) * (step + 1) / settings.steps for step in range(settings.steps)]
    n, total = settings.search_epochs, settings.search_epochs * len(closing)
    for step, close in enumerate(closing):
        for i in range(n):
            done = step * n + i
            last = i == n - 1
            epochs.append(
                Epoch("search", done / total, (done + 1) / total, i / n, (i + 1) / n, close if last else None)
            )
    n = settings.finetune_epochs
    return epochs + [Epoch("finetune", i / n, (i + 1) / n) for i in range(n)]


@dataclass
class Training:
    """The state of a run, which is all that a checkpoint holds: network, two optimizers, epochs done."""

    settings: Settings
    done: int = 0
    network: gates.Gated = field(init=False)
    size: gates.Size = field(init=False)
    importance: gates.Importance = field(init=False)

    def __post_init__(self) -> None:
        s = self.settings
        torch.manual_seed(s.seed)
        network = ResNet(s.depth, CIFAR10_MEAN, CIFAR10_STD).to(memory_format=torch.channels_last)
        self.network = gates.augment(network, torch.zeros(2, 3, 32, 32), form=FORMS[s.search])
        self.size = gates.Size(self.network)
        weights, alphas = gates.parameter_groups(self.network)
        self.weight_optimizer = torch.optim.SGD(
            weights, lr=s.dense_rate, momentum=0.9, nesterov=True, weight_decay=s.weight_decay
        )
        self.gate_optimizer = torch.optim.Adam(alphas, lr=s.gate_rate)

    def save(self, path: Path) -> None:
        """Write the checkpoint: the file is the old one or the new one, never a part."""
        state = {
            "done": self.done,
            "network": self.network.state_dict(),
            "weight_optimizer": self.weight_optimizer.state_dict(),
            "gate_optimizer": self.gate_optimizer.state_dict(),
            "settings": asdict(self.settings),
        }
        temporary = path.with_suffix(".part")
        torch.save(state, temporary)
        os.replace(temporary, path)

    def load(self, path: Path) -> None:
        """Take over a checkpoint. The settings stay the caller's, so the epochs still to come may be re-planned."""
        state = torch.load(path, weights_only=True)
        self.done = state["done"]
        self.network.load_state_dict(state["network"])
        self.weight_optimizer.load_state_dict(state["weight_optimizer"])
        self.gate_optimizer.load_state_dict(state["gate_optimizer"])
        for group in self.gate_optimizer.param_groups:
            group["lr"] = self.settings.gate_rate

    def close_gates(self, close: float) -> int:
        """Close gates at the end of a search step; returns how many channels."""
        if self.settings.search == "relax":
            return gates.prune_gates(self.network, close)
        return gates.close_gates(self.importance, self.size, close)

    def run_epoch(self, epoch: Epoch, images: Images, tick: Callable[[int], None]) -> dict[str, float]:
        """Train for one epoch; returns what is worth logging."""
        s = self.settings
        rate = {"dense": s.dense_rate, "search": s.search_rate, "finetune": s.finetune_rate}[epoch.phase]
        searching = epoch.phase == "search"
        relaxing = searching and s.search == "relax"
        gate_list = self.network.gate_list
        self.importance = gates.Importance(self.network)
        for gate in gate_list:
            gate.alpha.requires_grad_(searching)
        self.network.train()
        steps = min(len(images), s.epoch_images or len(images)) // s.batch
        right = seen = 0
        total = 0.0
        seed = s.seed * 100_003 + self.done
        for i, (x, labels) in enumerate(training_batches(images, s.batch, seed, s.epoch_images)):
            share = (i + 1) / steps
            progress = epoch.begin + share * (epoch.end - epoch.begin)
            for group in self.weight_optimizer.param_groups:
                group["lr"] = gates.one_cycle(progress, rate)
            with torch.autocast("cpu", torch.bfloat16, enabled=s.bf16):
                logits = self.network(x)
            loss = functional.cross_entropy(logits.float(), labels, label_smoothing=s.label_smoothing)
            total += loss.item()
            right += int((logits.argmax(1) == labels).sum())
            seen += len(labels)
            if relaxing:
                in_step = epoch.step_begin + share * (epoch.step_end - epoch.step_begin)
                ramp = gates.cubic_ramp(in_step, 0.0, s.ejector_full, s.ejector_weight)
                loss = loss + s.size_weight * self.size.loss(s.target)
                loss = loss + ramp * gates.ejector_loss(gate_list, s.sigma)
            self.weight_optimizer.zero_grad(set_to_none=True)
            self.gate_optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.importance.add()
            self.weight_optimizer.step()
            if relaxing:
                self.gate_optimizer.step()
            tick(len(labels))
        result = {"loss": total / max(steps, 1), "train_accuracy": right / max(seen, 1)}
        if relaxing:
            with torch.no_grad():
                w = torch.cat([gate.weights()[gate.mask > 0] for gate in gate_list])
                result["undecided"] = int(((w > 0.1) & (w < 0.9)).sum())
                result["relaxed_macs"] = self.size.relaxed().item()
        self.done += 1
        return result


@torch.no_grad()
def torch_accuracy(network: nn.Module, images: Images, bf16: bool) -> float:
    """Share of right answers in eval mode."""
    network.eval()
    right = 0
    for x, labels in batches(images, 500):
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            right += int((network(x).argmax(1) == labels).sum())
    return right / len(images)


def train(
    settings: Settings,
    images: Images,
    test: Images,
    out: Path,
    resume: bool = False,
    console: Console | None = None,
    stop_after: int | None = None,
) -> Training:
    """Run the plan, from its beginning or from `out`/checkpoint.pt, and write the dense and the gated ONNX file.

    Per epoch, `out`/log.jsonl gets one line. The accuracy in it is that on the first 2,000 test images and decides
    nothing; the figures of record are those of the exported files on all of `test`.

    Args:
        stop_after: end after this many epochs of the plan, before the export.
    """
    console = console or Console()
    out.mkdir(parents=True, exist_ok=True)
    checkpoint = out / "checkpoint.pt"
    stem = f"resnet{settings.depth}_cifar10"
    training = Training(settings)
    if resume and checkpoint.exists():
        training.load(checkpoint)
        console.print(f"resumed after {training.done} epochs")
    epochs = plan(settings)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        while training.done < len(epochs[:stop_after]):
            number, epoch = training.done, epochs[training.done]
            bar = progress.add_task(
                f"epoch {number + 1}/{len(epochs)} {epoch.phase}", total=settings.epoch_images or len(images)
            )
            began = time.monotonic()
            result = training.run_epoch(epoch, images, lambda n, bar=bar: progress.advance(bar, n))
            check = test.first(2000)
            if epoch.close is not None:
                result["accuracy_before_closing"] = torch_accuracy(training.network, check, settings.bf16)
                result["closed_now"] = training.close_gates(epoch.close)
            result["kept_macs"] = training.size.kept()
            result["check_accuracy"] = torch_accuracy(training.network, check, settings.bf16)
            result["seconds"] = time.monotonic() - began
            training.save(checkpoint)
            progress.remove_task(bar)
            line = {"epoch": number + 1, "phase": epoch.phase, **{k: round(v, 4) for k, v in result.items()}}
            with (out / "log.jsonl").open("a") as log:
                log.write(json.dumps(line) + "\n")
            console.print(*(f"{k}={v}" for k, v in line.items()), soft_wrap=True)
            if training.done == settings.dense_epochs:
                write(training, out / f"{stem}_dense.onnx", test, console)
    if training.done == len(epochs):
        write(training, out / f"{stem}_gated.onnx", test, console)
    return training


def write(training: Training, path: Path, test: Images, console: Console) -> None:
    """Export the network as it is and say how good the file is."""
    gates.export(training.network, path, torch.zeros(2, 3, 32, 32))
    share = training.size.kept()
    console.print(
        f"{path.name}: {100 * accuracy(path, test):.2f} % of {len(test)} test images under ONNX Runtime, "
        f"{100 * share:.1f} % of the multiply-adds kept, {path.stat().st_size:,} bytes",
        soft_wrap=True,
    )


@click.command(help=__doc__)
@click.option("--data", required=True, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--out", required=True, type=click.Path(file_okay=False, path_type=Path))
@click.option("--depth", default=20, show_default=True, help="6n + 2: 20, 56, 110")
@click.option("--dense", "dense_epochs", default=20, show_default=True, help="epochs before the search")
@click.option("--search", type=click.Choice(["importance", "relax"]), default="importance", show_default=True)
@click.option("--steps", default=10, show_default=True, help="search steps (importance)")
@click.option("--thresholds", default="0.02,0.03,0.05,0.1,0.25", show_default=True, help="one search step each (relax)")
@click.option("--search-epochs", default=1, show_default=True, help="epochs of each search step")
@click.option("--finetune", "finetune_epochs", default=15, show_default=True, help="epochs after the last step")
@click.option("--epoch-images", type=int, help="shorter epochs of N random images, for more frequent checkpoints")
@click.option("--finetune-rate", default=0.1, show_default=True, help="peak learning rate of the fine-tuning")
@click.option("--target", default=0.5, show_default=True, help="share of the multiply-adds to keep")
@click.option("--size-weight", default=1.0, show_default=True)
@click.option("--ejector-weight", default=5.0, show_default=True, help="reached at --ejector-full of each search step")
@click.option("--ejector-full", default=0.8, show_default=True)
@click.option("--sigma", default=0.5, show_default=True, help="width of the ejector")
@click.option("--gate-rate", default=0.02, show_default=True, help="learning rate of the gates (Adam)")
@click.option("--bf16/--no-bf16", default=True, show_default=True)
@click.option("--threads", default=2, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--limit", type=int, help="use only the first N images, to try the script")
@click.option("--resume", is_flag=True, help="go on from the checkpoint in --out")
def main(data: Path, out: Path, thresholds: str, threads: int, limit: int | None, resume: bool, **options) -> None:
    """Train, prune and export with the options of the command line."""
    torch.set_num_threads(threads)
    settings = Settings(thresholds=tuple(float(t) for t in thresholds.split(",")), **options)
    images, test = read_train(data), read_test(data)
    if limit is not None:
        images, test = images.first(limit), test.first(limit)
    train(settings, images, test, out, resume=resume)


if __name__ == "__main__":
    main()
