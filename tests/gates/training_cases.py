"""A small training: a ResNet with one block a stage on images of 16 x 16 in memory."""

import torch

from onnxshrink.gates.training import Classification, Monitor, Ranks, Recipe, Trainer

EXAMPLE = torch.zeros(2, 3, 16, 16)


def recipe(**changes) -> Recipe:
    """One dense epoch, two of search with three closings, one of fine-tuning; float32, so that sums are comparable."""
    small = {
        "network": "resnet8",
        "dense_epochs": 1,
        "search_epochs": 2,
        "steps": 3,
        "thresholds": (0.02, 0.9),
        "finetune_epochs": 1,
        "batch": 16,
        "bf16": False,
        "target": 0.5,
        "vanish": False,
    }
    return Recipe.of({**small, **changes})


def examples(n=64):
    """Images whose brightest channel says their class."""
    from data import Examples

    random = torch.Generator().manual_seed(1)
    labels = torch.randint(0, 3, (n,), generator=random)
    pixels = torch.randint(0, 128, (n, 16, 16, 3), generator=random, dtype=torch.uint8)
    pixels[torch.arange(n), :, :, labels] += 90
    return Examples(pixels, labels)


def trainer(
    out, *, ranks=None, network=None, data=None, task=None, example=EXAMPLE, latencies=None, of="resnet8", **changes
):
    """A trainer of the small run in a folder."""
    from data import Augmentation, InMemory
    from resnet import cifar_resnet

    own = recipe(network=of, **changes)
    torch.manual_seed(own.seed)
    plain = network or cifar_resnet(8, (0.5,) * 3, (0.25,) * 3, widths=(4, 6, 8))
    data = data or InMemory(examples(), examples(32), Augmentation(shift=2))
    first = ranks is None or ranks.first
    monitor = Monitor(out if first else None)
    monitor.console.quiet = True
    return Trainer(
        plain,
        example,
        data,
        task or Classification(),
        own,
        out,
        ranks=ranks or Ranks(),
        monitor=monitor,
        latencies=latencies,
    )
