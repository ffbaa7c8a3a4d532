"""Tasks: what a network is trained for and measured by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from ...errors import InputError


class Task(Protocol):
    """A loss with a gradient, and a score from counts that add up over batches and processes."""

    metric: str

    def loss(self, output: Tensor, target: Tensor, smoothing: float) -> Tensor:
        """The mean loss of a batch, a scalar."""

    def counts(self, output: Tensor, target: Tensor) -> Tensor:
        """What the score is made of, float64."""

    def score(self, counts: Tensor) -> float:
        """The score, in [0, 1], of the sum of counts."""


class Classification:
    """Cross-entropy, and the share of right answers. Output [N, classes] logits, target [N] int64."""

    metric = "accuracy"

    def loss(self, output: Tensor, target: Tensor, smoothing: float) -> Tensor:
        return functional.cross_entropy(output, target, label_smoothing=smoothing)

    def counts(self, output: Tensor, target: Tensor) -> Tensor:
        right = (output.argmax(1) == target).sum()
        return torch.stack([right, torch.tensor(len(target), device=target.device)]).double()

    def score(self, counts: Tensor) -> float:
        right, seen = counts.tolist()
        return right / max(seen, 1)


class Segmentation:
    """Cross-entropy of each pixel, and the mean intersection over union of the classes that occur.

    Output [N, classes, H, W] logits, target [N, H, W] int64; pixels whose target is `classes` or more have no label.

    The loss is the sum over labelled pixels by the number of all pixels, so the losses of several processes' parts of a
    batch average to that of the batch.

    Args:
        weights: of each class in the loss; equal by default. The mean over union counts a rare class as much as any
            other, cross-entropy does not: a small network gives rare classes up.
    """

    metric = "mean IoU"

    def __init__(self, classes: int, weights: Sequence[float] = ()) -> None:
        if weights and len(weights) != classes:
            raise InputError(f"{len(weights)} weights for {classes} classes")
        self.classes = classes
        self.weights = tuple(weights)

    def loss(self, output: Tensor, target: Tensor, smoothing: float) -> Tensor:
        labelled = torch.where(target < self.classes, target, -100)
        weights = output.new_tensor(self.weights) if self.weights else None
        total = functional.cross_entropy(
            output, labelled, weights, ignore_index=-100, label_smoothing=smoothing, reduction="sum"
        )
        return total / target.numel()

    def counts(self, output: Tensor, target: Tensor) -> Tensor:
        """The confusion matrix, [classes, classes]: rows are targets, columns are answers."""
        labelled = target < self.classes
        pairs = target[labelled] * self.classes + output.argmax(1)[labelled]
        return torch.bincount(pairs, minlength=self.classes**2).view(self.classes, self.classes).double()

    def score(self, counts: Tensor) -> float:
        both, union = counts.diagonal(), counts.sum(0) + counts.sum(1) - counts.diagonal()
        return float((both[union > 0] / union[union > 0]).mean()) if bool((union > 0).any()) else 0.0


def distillation_loss(output: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 times the divergence of softmax(output / T) from softmax(teacher / T), a mean over examples and pixels.

    Args:
        output: [N, classes, ...] logits.
        teacher: the same of the dense network, without a gradient.
        temperature: T; the larger, the more the teacher's order of wrong classes counts.

    Source: Hinton et al., "Distilling the Knowledge in a Neural Network" (arXiv 1503.02531), section 2.
    """
    goal = functional.log_softmax(teacher / temperature, 1)
    found = functional.log_softmax(output / temperature, 1)
    divergence = functional.kl_div(found, goal, log_target=True, reduction="none").sum(1)
    return divergence.mean() * temperature**2


class Teacher:
    """A trained network that another one learns from. It is changed: in evaluation from now on, without gradients."""

    def __init__(self, network: nn.Module, temperature: float) -> None:
        self.network, self.temperature = network.eval().requires_grad_(False), temperature

    def loss(self, inputs: Tensor, output: Tensor) -> Tensor:
        """The distillation loss of the learner's output on the same inputs."""
        with torch.no_grad():
            goal = self.network(inputs)
        return distillation_loss(output.float(), goal.float(), self.temperature)
