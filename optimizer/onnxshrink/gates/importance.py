"""Importance: what the loss says about each unit, and closing the units that matter least for what they cost."""

import torch
from torch import Tensor

from ..errors import InputError
from .augment import Gated
from .loss import Size


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


@torch.no_grad()
def close_gates(importance: Importance, size: Size, target: float, floor: float = 0.25) -> int:
    """Close the units with the least importance for what they save, until at most `target` is left.

    Changes the masks. Each gate keeps at least the share `floor` of its units.

    Args:
        target: share of the original size.

    Returns:
        How many units were closed.

    Raises:
        InputError: the floors do not let the size down to the target; as much as they allow was closed.
    """
    gates = importance.gated.gate_list
    owner = torch.cat([torch.full((gate.units,), k) for k, gate in enumerate(gates)])
    scores, closed = importance.row().cpu(), 0
    while size.kept() > target:
        closable = torch.cat([torch.zeros(1, dtype=torch.bool), *(gate.mask.cpu() > 0 for gate in gates)])
        room = torch.tensor([gate.kept > max(1, floor * gate.units) for gate in gates])
        closable[1:] &= room[owner]
        if not closable.any():
            raise InputError(
                f"{100 * size.kept():.1f} % of the size is left when every gate is at its floor, the target is "
                f"{100 * target:.1f} %",
                cure=f"a lower floor than {floor:g}, or another target",
            )
        with torch.enable_grad():
            savings = size.savings().cpu()
        value = torch.where(closable, scores / savings.clamp_min(1e-30), torch.inf)
        unit = int(value.argmin()) - 1
        gate = int(owner[unit])
        first = sum(g.units for g in gates[:gate])
        gates[gate].mask[unit - first] = 0
        closed += 1
    return closed
