"""Activation checkpoints: parts of a network that the backward pass runs again, with the gates of the forward pass."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Variable
from torch.utils import _pytree as pytree


class Recompute:
    """Gated parameters in the place of a network's own while a backward pass runs.

    By then `functional_call` has put the own ones back, and `torch.utils.checkpoint(..., use_reentrant=False)` would
    run a part of the network without its gates, for gradients that are wrong.
    """

    def __init__(self) -> None:
        self._own: list[tuple[nn.Module, str, nn.Parameter]] = []

    def prepare(self, network: nn.Module, answer: Any, values: Mapping[str, Tensor]) -> None:
        """Have these values in place from the first gradient of the answer to the end of that backward pass.

        Args:
            network: what has the parameters.
            answer: what it computed with the values.
            values: by the name of the parameter that each stands for.
        """
        if not torch.is_grad_enabled() or torch.compiler.is_compiling():  # compiled, checkpoints are part of the graph
            return

        def enter(gradient: Tensor) -> None:
            self.leave()
            for name, value in values.items():
                path, _, leaf = name.rpartition(".")
                module = network.get_submodule(path)
                self._own.append((module, leaf, module.get_parameter(leaf)))
                module._parameters[leaf] = value  # type: ignore[assignment]
            Variable._execution_engine.queue_callback(self.leave)

        for output in pytree.tree_leaves(answer):
            if isinstance(output, Tensor) and output.requires_grad:
                output.register_hook(enter)

    def leave(self) -> None:
        """Put the network's own parameters back, which an error in a backward pass may have left away."""
        while self._own:
            module, leaf, own = self._own.pop()
            module._parameters[leaf] = own
