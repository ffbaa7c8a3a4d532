"""The two optimizers of a gated network, weights and gates, whose momenta survive a collapse."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..augment import Gated
from ..collapse import Collapsed
from ..schedule import parameter_groups


class Optimizers:
    """SGD with Nesterov momentum for weights, Adam for gates.

    Gates, and weights with one axis such as those of BatchNorm, have no weight decay.
    """

    def __init__(self, gated: Gated, weight_decay: float, gate_rate: float) -> None:
        self.gated = gated
        weights, alphas = parameter_groups(gated)
        groups = [
            {"params": [p for p in weights if p.dim() > 1], "weight_decay": weight_decay},
            {"params": [p for p in weights if p.dim() <= 1], "weight_decay": 0.0},
        ]
        self.weights = torch.optim.SGD(groups, lr=0.0, momentum=0.9, nesterov=True)
        self.gates = torch.optim.Adam(alphas, lr=gate_rate)

    def set_rate(self, rate: float) -> None:
        """Set the learning rate of the weights."""
        for group in self.weights.param_groups:
            group["lr"] = rate

    def zero_grad(self) -> None:
        """Forget all gradients."""
        self.weights.zero_grad(set_to_none=True)
        self.gates.zero_grad(set_to_none=True)

    def step(self, *, gates: bool) -> None:
        """One step of the weights, and of the gates if they are trained."""
        self.weights.step()
        if gates:
            self.gates.step()

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"weights": self.weights.state_dict(), "gates": self.gates.state_dict()}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take over what a checkpoint kept."""
        self.weights.load_state_dict(state["weights"])
        self.gates.load_state_dict(state["gates"])

    def carry(self, old: Optimizers, found: Collapsed) -> None:
        """Go on with the momenta of a network's optimizers after it was collapsed."""
        before = dict(old.gated.network.named_parameters())
        for name, parameter in self.gated.network.named_parameters():
            momentum = old.weights.state.get(before[name], {}).get("momentum_buffer") if name in before else None
            if momentum is not None:
                self.weights.state[parameter]["momentum_buffer"] = found.parameter(name, momentum).clone()
        states = [old.gates.state.get(gate.alpha) for gate in old.gated.gate_list]
        if not all(states):
            return
        one = old.gated.gate_list[0].alpha.new_zeros(1)
        rows: dict[str, Tensor] = {
            key: torch.cat([one, *(state[key] for state in states if state)]) for key in ("exp_avg", "exp_avg_sq")
        }
        for name, gate in zip(self.gated.gates, self.gated.gate_list, strict=True):
            units = found.units[name].to(one.device)
            self.gates.state[gate.alpha] = {key: row[units] for key, row in rows.items()}
            self.gates.state[gate.alpha]["step"] = states[0]["step"].clone() if states[0] else torch.zeros(())
