"""Fold: the gates disappear into BatchNorm, exactly, and pruned channels become zeros that a file can show."""

import copy

import torch
from torch import nn

from .layer import GatedConv


@torch.no_grad()
def folded(module: nn.Module) -> nn.Module:
    """A copy of the module without gates that computes the same function.

    w * (gamma * x^ + beta) = (w * gamma) * x^ + (w * beta), so each BatchNorm takes its gate's factors. A pruned
    channel gets gamma = beta = 0 to the bit. The original is left as it is.
    """
    copied = copy.deepcopy(module)
    for layer in copied.modules():
        if isinstance(layer, GatedConv) and layer.gate is not None:
            w = layer.gate.weights()
            layer.bn.weight.mul_(w)
            layer.bn.bias.mul_(w)
            layer.gate = None
            layer.reads = tuple(source if isinstance(source, int) else source.channels for source in layer.reads)
    return copied
