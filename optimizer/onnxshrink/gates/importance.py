"""Importance: what the loss says about each gate, and closing the channels that matter least for what they cost."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .gate import Gate
from .loss import Contraction, kept_macs


class Importance:
    """Sum over batches of (w dL/dw)^2 per channel: the squared first-order change of the loss if the gate closed.

    It does not change when a layer's scale moves between gate, BatchNorm and the next weights.

    Source: Molchanov et al., "Importance Estimation for Neural Network Pruning", CVPR 2019, equation 8, on gates
    after BatchNorm.
    """

    def __init__(self, gates: Sequence[Gate]) -> None:
        self.gates = list(gates)
        self.scores = [torch.zeros(gate.channels) for gate in self.gates]

    @torch.no_grad()
    def add(self) -> None:
        """Take in the gradients of one batch; call it between backward() and zero_grad()."""
        for gate, score in zip(self.gates, self.scores, strict=True):
            if gate.alpha.grad is not None:
                # dL/dalpha = dL/dw * slope * w * (1 - w)
                score += (gate.alpha.grad / (gate.slope * (1 - torch.sigmoid(gate.slope * gate.alpha)))) ** 2


@torch.no_grad()
def close_gates(importance: Importance, contractions: Sequence[Contraction], target: float, floor: float = 0.25) -> int:
    """Close the channels with the least importance per multiply-add saved, until at most `target` is left.

    Changes the masks. Each gate keeps at least the share `floor` of its channels, which may leave more than `target`.

    Args:
        target: share of the original multiply-adds.

    Returns:
        How many channels were closed.
    """
    closed = 0
    share = kept_macs(contractions)
    while share > target:
        best: tuple[float, Gate, int, float] | None = None
        for gate, score in zip(importance.gates, importance.scores, strict=True):
            if gate.kept <= max(1, floor * gate.channels):
                continue
            channel = _least(score, gate.mask)
            gate.mask[channel] = 0
            without = kept_macs(contractions)
            gate.mask[channel] = 1
            value = score[channel].item() / (share - without)
            if best is None or value < best[0]:
                best = value, gate, channel, without
        if best is None:
            break
        _, gate, channel, share = best
        gate.mask[channel] = 0
        closed += 1
    return closed


def _least(score: Tensor, mask: Tensor) -> int:
    return int(torch.where(mask > 0, score, torch.inf).argmin())
