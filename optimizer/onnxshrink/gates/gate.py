"""Gates: trainable numbers, one for each unit, that say whether the unit is worth its cost.

Three forms. `Gate`, the default, is a sigmoid; `StepGate` is open or closed in the forward pass and a sigmoid in the
backward pass, so that no scale can hide in it; `HardConcrete` draws gates that are often exactly 0 or 1.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError

SLOPE = 5.0
ALPHA_START = 1.0
EXTRA = "_extra_state"
"""What torch calls in a state dict what is no tensor of its module."""


class Gate(nn.Module):
    """Multiply unit u by w_u = sigmoid(slope * alpha_u), or by exactly 0 once it is pruned.

    A gate starts at sigmoid(5) = 0.993, nearly the identity. Source: Larson et al., "A Generalization of Continuous
    Relaxation in Structured Pruning" (arXiv 2308.14605).

    Attributes:
        alpha: [n] float, trainable; 0 is the undecided point.
        mask: [n] float, 1 for a unit that is kept and 0 for one that is pruned. Pruning is final.
        slope: of the sigmoid; raising it as training goes on is the annealed form.
        start: alpha at the beginning.
        identity: w is exactly 1 where alpha is `start`, whatever the slope: a sigmoid is divided by what it is there.
        whole: how many units it had at its beginning, before any were cut out.
        anchored: one gate, the largest, always stays open, so that the layer cannot vanish: all are divided by it or,
            where gates can be exactly 0, it is 1.

    Its state dict has slope, start and identity too; one without them leaves them as they are.

    Raises:
        InputError: it is to be the identity, and cannot be at this start.
    """

    mask: Tensor

    def __init__(
        self,
        units: int,
        *,
        slope: float = SLOPE,
        start: float = ALPHA_START,
        identity: bool = False,
        anchored: bool = False,
    ) -> None:
        super().__init__()
        self.slope, self.start, self.identity = float(slope), float(start), identity
        self.anchored, self.whole = anchored, units
        self.alpha = nn.Parameter(torch.full((units,), self.start))
        self.register_buffer("mask", torch.ones(units))
        with settled(self):
            if identity and not bool((self.weights() == 1).all()):
                raise InputError(f"a gate is not the identity at alpha = {start:g}", cure="take a larger start")

    @property
    def units(self) -> int:
        return self.alpha.numel()

    @property
    def kept(self) -> int:
        """Number of units that are not pruned."""
        return int(self.mask.sum())

    def relaxed(self) -> Tensor:
        """The gates before pruning, [n], in [0, 1]."""
        return torch.sigmoid(self.slope * self.alpha)

    def weights(self) -> Tensor:
        """The factors w that multiply the units, [n]."""
        w = self.relaxed()
        if self.identity:
            w = w / torch.sigmoid(self.slope * torch.full_like(self.alpha, self.start))
        if self.anchored:
            w = w / (w * self.mask).max().clamp_min(1e-12)
        return w * self.mask

    def open(self) -> Tensor:
        """How far each unit counts in a cost, [n] in [0, 1]."""
        return self.weights()

    def get_extra_state(self) -> Tensor:
        """What a state dict has besides alpha and mask, [3] float64."""
        return torch.tensor([self.slope, self.start, self.identity], dtype=torch.float64)

    def set_extra_state(self, state: Tensor) -> None:
        """Take over what a state dict has."""
        self.slope, self.start, identity = state.tolist()
        self.identity = bool(identity)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        state_dict.setdefault(prefix + EXTRA, self.get_extra_state())
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self) -> str:
        return f"{self.units}, kept={self.kept}"


class SharpGate(Gate):
    """A gate that can be exactly 0 or 1, and is 1 at its beginning by itself. Anchored, its largest is 1."""

    def weights(self) -> Tensor:
        return self.relaxed() * self.mask

    def largest(self) -> Tensor:
        """Which of the gates that are not pruned has the largest alpha, bool [n]; of equal ones, the first."""
        left = torch.where(self.mask > 0, self.alpha.detach(), -torch.inf)
        return torch.arange(self.units, device=left.device) == left.argmax()


class StepGate(SharpGate):
    """1 where alpha > 0 and else 0, with the gradient of the sigmoid (a straight-through estimator).

    Source: Bengio et al., "Estimating or Propagating Gradients Through Stochastic Neurons" (arXiv 1308.3432),
    section 4.
    """

    def relaxed(self) -> Tensor:
        soft = torch.sigmoid(self.slope * self.alpha)
        opens = self.alpha > 0
        if self.anchored:
            opens = opens | self.largest()
        return opens.to(soft.dtype) + (soft - soft.detach())

    def open(self) -> Tensor:
        """The sigmoid: the step would tell a cost nothing until alpha crosses 0, where many gates cross it at once."""
        return torch.sigmoid(self.slope * self.alpha) * self.mask


class HardConcrete(SharpGate):
    """A stretched and clipped concrete variable: drawn anew in each training pass, its median in evaluation.

    Source: Louizos et al., "Learning Sparse Neural Networks through L0 Regularization" (arXiv 1712.01312), section
    2.2; alpha is their log alpha.
    """

    BETA, LOW, HIGH = 2 / 3, -0.1, 1.1

    def __init__(self, units: int, *, start: float = 3.0, identity: bool = False, anchored: bool = False) -> None:
        super().__init__(units, slope=1.0, start=start, identity=identity, anchored=anchored)

    def relaxed(self) -> Tensor:
        noise: Tensor | float = 0.0
        if self.training:
            uniform = torch.rand_like(self.alpha).clamp(1e-6, 1 - 1e-6)
            noise = torch.log(uniform) - torch.log1p(-uniform)
        scale = self.BETA if self.training else 1.0
        concrete = torch.sigmoid((noise + self.alpha) / scale)
        w = (concrete * (self.HIGH - self.LOW) + self.LOW).clamp(0, 1)
        return torch.where(self.largest(), 1.0, w) if self.anchored else w

    def open(self) -> Tensor:
        """The probability that the gate is not zero (their equation 12)."""
        return torch.sigmoid(self.alpha - self.BETA * math.log(-self.LOW / self.HIGH)) * self.mask


FORMS = {"sigmoid": Gate, "step": StepGate, "hard-concrete": HardConcrete}


def gates_of(module: nn.Module) -> list[Gate]:
    """Every gate in the module."""
    return [m for m in module.modules() if isinstance(m, Gate)]


@contextmanager
def settled(module: nn.Module) -> Iterator[None]:
    """The module's gates as they are in evaluation, where hard-concrete ones are not drawn."""
    modes = [(gate, gate.training) for gate in gates_of(module)]
    try:
        for gate, _ in modes:
            gate.eval()
        yield
    finally:
        for gate, training in modes:
            gate.train(training)


@torch.no_grad()
def prune_gates(module: nn.Module, threshold: float) -> int:
    """Close every gate that is not open by more than `threshold`: keep iff w > threshold.

    Changes the masks of the module's gates, and returns how many units are newly pruned.

    Raises:
        InputError: the threshold is not in [0, 1).
    """
    if not 0 <= threshold < 1:
        raise InputError(f"a gate is between 0 and 1, so no threshold can be {threshold}", cure="take one in [0, 1)")
    closed = 0
    with settled(module):
        for gate in gates_of(module):
            keep = (gate.weights() > threshold).to(gate.mask.dtype)
            closed += int((gate.mask - keep).sum())
            gate.mask.copy_(keep)
    return closed
