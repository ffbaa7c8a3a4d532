"""Gated layers: Conv -> BatchNorm -> gate, and the Linear that reads gated channels."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.func import functional_call

from .gate import Gate

Source = Gate | int
"""Where input channels come from: a gate, or a plain number of channels that nothing gates (the network's input)."""


def width(source: Source) -> int:
    """Number of channels of a source before any pruning."""
    return source if isinstance(source, int) else source.channels


class GatedConv(nn.Module):
    """Conv without bias -> BatchNorm -> gate; the activation is the caller's.

    Args:
        reads: the sources whose channels this layer sees, in order; more than one after a Concat.
        gate: what gates the output. Pass one object to all layers whose outputs are added.
    """

    def __init__(self, reads: Sequence[Source], gate: Gate, kernel: int = 3, stride: int = 1) -> None:
        super().__init__()
        # A tuple hides the sources from nn.Module: they are registered where they gate, not where they are read.
        self.reads = tuple(reads)
        channels = sum(width(source) for source in self.reads)
        self.conv = nn.Conv2d(channels, gate.channels, kernel, stride, kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(gate.channels)
        self.gate: Gate | None = gate

    def forward(self, x: Tensor) -> Tensor:
        """[N, C_in, H, W] -> [N, C_out, H', W']."""
        x = self.conv(x)
        if self.gate is None:
            return self.bn(x)
        # w * (gamma * x^ + beta) = (w * gamma) * x^ + w * beta: the gate costs no pass over the activation.
        w, bn = self.gate.weights(), self.bn
        return functional_call(bn, {"weight": bn.weight * w, "bias": bn.bias * w}, (x,))


class GatedLinear(nn.Linear):
    """A Linear on gated channels; its own outputs are the network's and have no gate."""

    def __init__(self, reads: Sequence[Source], out_features: int) -> None:
        reads = tuple(reads)
        super().__init__(sum(width(source) for source in reads), out_features)
        self.reads = reads
