"""The gate: one trainable number per channel that says whether the channel is worth its cost."""

import torch
from torch import Tensor, nn

from ..errors import InputError

SLOPE = 5.0
ALPHA_START = 1.0


class Gate(nn.Module):
    """Multiply channel c by w_c = sigmoid(slope * alpha_c), or by exactly 0 once it is pruned.

    Tensors that are added to each other share *one* Gate object, so that a residual stream keeps or drops a channel
    everywhere at once. A gate starts at sigmoid(5) = 0.993: nearly the identity.

    Source: Larson et al., "A Generalization of Continuous Relaxation in Structured Pruning" (arXiv 2308.14605).

    Attributes:
        alpha: [C] float, trainable; 0 is the undecided point.
        mask: [C] float, 1 for a kept channel and 0 for a pruned one. Pruning is final: nothing sets it back to 1.
    """

    mask: Tensor

    def __init__(self, channels: int, slope: float = SLOPE, start: float = ALPHA_START) -> None:
        super().__init__()
        self.slope = slope
        self.alpha = nn.Parameter(torch.full((channels,), float(start)))
        self.register_buffer("mask", torch.ones(channels))

    @property
    def channels(self) -> int:
        return self.alpha.numel()

    @property
    def kept(self) -> int:
        """Number of channels that are not pruned."""
        return int(self.mask.sum())

    def weights(self) -> Tensor:
        """The factors w, [C], in [0, 1]."""
        return torch.sigmoid(self.slope * self.alpha) * self.mask

    def forward(self, x: Tensor) -> Tensor:
        """Scale x, [N, C, ...], channel by channel; the result keeps the dtype of x."""
        shape = (1, -1) + (1,) * (x.dim() - 2)
        return x * self.weights().to(x.dtype).view(shape)

    def extra_repr(self) -> str:
        return f"{self.channels}, kept={self.kept}"


def gates_of(module: nn.Module) -> list[Gate]:
    """Every gate in the module, once, however many layers share it."""
    return [m for m in module.modules() if isinstance(m, Gate)]


@torch.no_grad()
def prune_gates(module: nn.Module, threshold: float) -> int:
    """Close every gate that is not open by more than `threshold`: keep iff w > threshold.

    Changes the masks of the module's gates, and returns how many channels are newly pruned.

    Raises:
        InputError: the threshold is not in [0, 1).
    """
    if not 0 <= threshold < 1:
        raise InputError(f"a gate is between 0 and 1, so no threshold can be {threshold}", cure="take one in [0, 1)")
    closed = 0
    for gate in gates_of(module):
        keep = (gate.weights() > threshold).to(gate.mask.dtype)
        closed += int((gate.mask - keep).sum())
        gate.mask.copy_(keep)
    return closed
