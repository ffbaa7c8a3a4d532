"""The two loss terms that gates add to the task's own: size, and the ejector of undecided gates.

They need a long search. The factor of a gate can move into the next layer's weights, and a BatchNorm behind that layer
hides it for good: where the search is short, all channels of a layer drift below the threshold together, and pruning
then cuts the network through. Compare the accuracy before and after pruning; `importance` has no such drift.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .gate import Gate
from .layer import GatedConv, GatedLinear, Source, width


@dataclass(frozen=True)
class Contraction:
    """One Conv or Linear as the size loss sees it: MACs = per_pair * sum(reads) * writes.

    Attributes:
        per_pair: multiply-adds for one input channel and one output channel: kernel elements x output positions.
    """

    reads: tuple[Source, ...]
    writes: Source
    per_pair: int

    def original(self) -> int:
        """MACs with every channel."""
        return self.per_pair * sum(map(width, self.reads)) * width(self.writes)

    def relaxed(self) -> Tensor:
        """MACs with every channel counted by its gate, at the inputs and at the outputs; differentiable."""
        return self.per_pair * torch.stack([_open(source) for source in self.reads]).sum() * _open(self.writes)

    def kept(self) -> int:
        """MACs with pruned channels cut out."""
        return self.per_pair * sum(map(_kept, self.reads)) * _kept(self.writes)


def _open(source: Source) -> Tensor:
    return torch.tensor(float(source)) if isinstance(source, int) else source.weights().sum()


def _kept(source: Source) -> int:
    return source if isinstance(source, int) else source.kept


@torch.no_grad()
def contractions_of(module: nn.Module, example: Tensor) -> list[Contraction]:
    """Run the module once on `example` (batch of 1, in eval mode) and list its gated layers with their positions."""
    found: list[Contraction] = []

    def record(layer: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if isinstance(layer, GatedLinear):
            found.append(Contraction(layer.reads, layer.out_features, 1))
        elif isinstance(layer, GatedConv):
            writes = layer.conv.out_channels if layer.gate is None else layer.gate
            per_pair = math.prod(layer.conv.kernel_size) * math.prod(output.shape[2:])
            found.append(Contraction(layer.reads, writes, per_pair))

    layers = [m for m in module.modules() if isinstance(m, GatedConv | GatedLinear)]
    hooks = [layer.register_forward_hook(record) for layer in layers]
    training = module.training
    try:
        module.eval()(example)
    finally:
        module.train(training)
        for hook in hooks:
            hook.remove()
    return found


def relative_macs(contractions: Sequence[Contraction]) -> Tensor:
    """A/A0: relaxed MACs over those of the *original* network, whatever has been pruned since; a scalar."""
    return torch.stack([c.relaxed() for c in contractions]).sum() / sum(c.original() for c in contractions)


def kept_macs(contractions: Sequence[Contraction]) -> float:
    """Share of the original MACs that is left when every pruned channel is cut out of the network."""
    return sum(c.kept() for c in contractions) / sum(c.original() for c in contractions)


def size_loss(contractions: Sequence[Contraction], target: float) -> Tensor:
    """max(0, A/A0 - target): constant pull down to the target, none below it, so a network cannot vanish."""
    return torch.relu(relative_macs(contractions) - target)


def ejector_loss(gates: Sequence[Gate], sigma: float = 1.0) -> Tensor:
    """Root mean square of G(alpha) = exp(-(alpha / (2 sigma^2))^2) over the gates that are not yet pruned.

    G is 1 where a gate is undecided (alpha = 0) and falls off on both sides, so descending it makes gates take sides.
    The literal form of arXiv 2308.14605: the square encloses 2 sigma^2, unlike the density of a normal distribution.
    """
    alpha = torch.cat([gate.alpha[gate.mask > 0] for gate in gates])
    if not alpha.numel():
        return alpha.sum()
    bump = torch.exp(-((alpha / (2 * sigma**2)) ** 2))
    # The small constant keeps the gradient of the root finite when every bump is 0.
    return torch.sqrt((bump**2).mean() + 1e-12)
