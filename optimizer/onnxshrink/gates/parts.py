"""What the cutter puts together a network from, besides the layers of torch."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

aten = torch.ops.aten


def move(source: nn.Module, target: nn.Module) -> None:
    """Give a module what another one has of its own."""
    for name, parameter in source.named_parameters(recurse=False):
        target.register_parameter(name, parameter)
    for name, buffer in source.named_buffers(recurse=False):
        target.register_buffer(name, buffer)
    for name, child in source.named_children():
        target.add_module(name, child)


class Packed(nn.Module):
    """Outputs in what the network gives them in: a tuple, a dictionary, or what is registered with pytree."""

    def __init__(self, packing: pytree.TreeSpec) -> None:
        super().__init__()
        self.packing = packing

    def forward(self, *outputs: Any) -> Any:
        return pytree.tree_unflatten(outputs, self.packing)


def dropout(node: Any) -> nn.Module:
    """Dropout of elements or, where the operator says so, of whole channels."""
    if node.target in (aten.dropout.default, aten.dropout_.default):
        return nn.Dropout(node.args[1])
    return {3: nn.Dropout1d, 4: nn.Dropout2d, 5: nn.Dropout3d}[node.meta["val"].dim()](node.args[1])


def mean(x: Tensor, axes: list[int], counts: dict[int, int], keepdim: bool, dtype: torch.dtype | None) -> Tensor:
    """A mean over axes of which some have lost slices of zeros; `counts` says how many there were."""
    x = x if dtype is None else x.to(dtype)
    x = x.sum(list(counts), keepdim=True) / math.prod(counts.values())
    others = [axis for axis in axes if axis not in counts]
    x = x.mean(others, keepdim=True) if others else x
    return x if keepdim else x.squeeze(axes)


def largest(x: Tensor, axes: list[int], keepdim: bool) -> Tensor:
    """The largest, of which some that are not there any more were zero."""
    return x.amax(axes, keepdim).clamp_min(0)


def smallest(x: Tensor, axes: list[int], keepdim: bool) -> Tensor:
    """The smallest, of which some that are not there any more were zero."""
    return x.amin(axes, keepdim).clamp_max(0)
