"""Importance: what the loss says about each unit."""

from collections.abc import Callable

import torch
from torch import Tensor

from ..errors import InputError
from .augment import Gated


class Importance:
    """Sum over batches of (w dL/dw)^2 per unit: the squared first-order change of the loss if the gate closed.

    w is the factor of the unit, whatever the form of its gate. The score does not change when a layer's scale moves
    between gate, BatchNorm and the next weights. Backward passes count from when this is made.

    Source: Molchanov et al., "Importance Estimation for Neural Network Pruning", CVPR 2019, equation 8, on gates
    after BatchNorm.
    """

    def __init__(self, gated: Gated) -> None:
        self.gated = gated
        self.scores = [torch.zeros(gate.units, device=gate.alpha.device) for gate in gated.gate_list]
        gated.felt = None

    @torch.no_grad()
    def add(self, mean: Callable[[Tensor], Tensor] = lambda felt: felt) -> None:
        """Take in one batch: call it after its backward pass, in which the gates' alphas had gradients.

        Args:
            mean: over the processes that have a part of the batch each.

        Raises:
            InputError: there was no such backward pass since the last call.
        """
        felt, self.gated.felt = self.gated.felt, None
        if felt is None:
            raise InputError(
                "no backward pass has told what the loss says of the gates",
                cure="call backward() before each add(), with `requires_grad` of the gates' alphas",
            )
        parts = mean(felt)[1:].split([len(score) for score in self.scores])
        for score, part in zip(self.scores, parts, strict=True):
            score += part**2

    def row(self) -> Tensor:
        """The scores in the order of `Gated.factors`, infinite for what has no gate."""
        return torch.cat([self.scores[0].new_full((1,), torch.inf), *self.scores])
