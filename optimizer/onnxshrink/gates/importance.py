"""Importance: what the loss says about each unit."""

import torch
from torch import Tensor

from .augment import Gated


class Importance:
    """Sum over batches of (w dL/dw)^2 per unit: the squared first-order change of the loss if the gate closed.

    It does not change when a layer's scale moves between gate, BatchNorm and the next weights.

    Source: Molchanov et al., "Importance Estimation for Neural Network Pruning", CVPR 2019, equation 8, on gates
    after BatchNorm.
    """

    def __init__(self, gated: Gated) -> None:
        self.gated = gated
        self.scores = [torch.zeros(gate.units, device=gate.alpha.device) for gate in gated.gate_list]

    @torch.no_grad()
    def add(self) -> None:
        """Take in the gradients of one batch; call it between backward() and zero_grad()."""
        for gate, score in zip(self.gated.gate_list, self.scores, strict=True):
            if gate.alpha.grad is not None:
                # dL/dalpha = dL/dw * slope * w * (1 - w)
                score += (gate.alpha.grad / (gate.slope * (1 - torch.sigmoid(gate.slope * gate.alpha)))) ** 2

    def row(self) -> Tensor:
        """The scores in the order of `Gated.factors`, infinite for what has no gate."""
        return torch.cat([self.scores[0].new_full((1,), torch.inf), *self.scores])
