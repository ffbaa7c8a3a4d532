"""Training throughput with gates against without, as ratios from one interleaved run.

    python models/throughput.py [RECIPE ...] [--threads 1] [--seconds 20]

Plain network, the same with gates, with gates that are trained (`relaxation`), and the gated network collapsed to half
of its multiply-adds take turns, one whole training step each, so that a busy machine slows all of them alike. On a GPU
seconds are those of the clock, on the CPU those that the process was given.
"""

import time

import catalogue
import click
import torch
from options import DEVICE, told, usage
from torch import nn

from onnxshrink import gates
from onnxshrink.gates.training import Task

Step = tuple[nn.Module, torch.optim.Optimizer, "gates.Size | None"]


def prepared(entry: catalogue.Entry, device: str) -> dict[str, Step]:
    """The networks that take turns, each with its optimizer, and with its size where gates are trained."""
    example = entry.data_set.example().to(device)
    found: dict[str, Step] = {}
    for name in ("plain", "gates", "gates, trained", "collapsed to half"):
        network: nn.Module = entry.network().to(device, memory_format=torch.channels_last)
        size = None
        if name != "plain":
            network = gates.augment(network, example, form="sigmoid", identity=True).to(device)
            if name == "collapsed to half":
                gates.close_uniform(network, gates.Size(network), 0.5)
                network = gates.collapse(network, example).gated.to(device, memory_format=torch.channels_last)
            for gate in gates.gates_of(network):
                gate.alpha.requires_grad_(name == "gates, trained")
            size = gates.Size(network) if name == "gates, trained" else None
        trained = [p for p in network.parameters() if p.requires_grad]
        found[name] = network.train(), torch.optim.SGD(trained, lr=0.01, momentum=0.9), size
    return found


def step(what: Step, task: Task, x: torch.Tensor, y: torch.Tensor) -> float:
    """Seconds of one training step."""
    network, optimizer, size = what
    clock = time.perf_counter if x.is_cuda else time.process_time
    began = clock()
    with torch.autocast(x.device.type, torch.bfloat16):
        output = network(x)
    loss = task.loss(output.float(), y, 0.0)
    if size is not None:
        loss = loss + size.loss(0.0) + gates.ejector_loss(gates.gates_of(network))
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    if x.is_cuda:
        torch.cuda.synchronize()
    return clock() - began


@click.command(help=usage(__doc__))
@click.argument("recipes", nargs=-1)
@click.option("--threads", default=1, show_default=True, type=click.IntRange(1))
@click.option(
    "--seconds", default=20.0, show_default=True, type=click.FloatRange(0.1), help="of measuring for each recipe"
)
@click.option("--batch", type=click.IntRange(1), help="instead of the recipe's")
@DEVICE
def main(recipes: tuple[str, ...], threads: int, seconds: float, batch: int | None, device: str) -> None:
    """Print one line for each network: examples per second, and its ratio to the plain network's, both medians."""
    torch.set_num_threads(threads)
    with told():
        for name in recipes or ("resnet20",):
            entry = catalogue.entry(name)
            own, size = entry.data_set, batch or entry.recipe.batch
            x = torch.rand(size, 3, *own.size, device=device).contiguous(memory_format=torch.channels_last)
            shape = (size,) if own.task.metric == "accuracy" else (size, *own.size)
            y = torch.randint(0, own.classes, shape, device=device)
            networks = prepared(entry, device)
            for what in networks.values():  # the first step allocates
                step(what, own.task, x, y)
            times: dict[str, list[float]] = {which: [] for which in networks}
            until = time.perf_counter() + seconds
            while time.perf_counter() < until:
                for which, what in networks.items():
                    times[which].append(step(what, own.task, x, y))
            rounds = len(times["plain"])
            for which, taken in times.items():
                ratio = torch.tensor(times["plain"]).div(torch.tensor(taken)).median()
                speed = size / torch.tensor(taken).median()
                click.echo(f"{name}, {which}: {speed:.1f} examples/s, x {ratio:.2f} of plain ({rounds} rounds)")


if __name__ == "__main__":
    main()
