"""Remaking: an operator whose weights are parameters as the layer of torch that it came from, with fewer channels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node

from .coupling import Trace, handler_of
from .layers import convolution, linear, transposed
from .left import Left
from .nodes import argument

aten = torch.ops.aten


@dataclass(frozen=True)
class Remade:
    """A layer of torch in place of an operator.

    Attributes:
        make: gives the layer, with weights of its own.
        tensors: by the layer's field, the node that it takes its values from, or None.
        arguments: of the operator after the cut, where it may stay one; None where it always becomes a layer.
    """

    make: Callable[[], nn.Module]
    tensors: dict[str, Any]
    arguments: tuple[Any, ...] | None = None


class Remake:
    """Remakes the operators of a traced network.

    Args:
        trace: of the network.
        left: what stays of it.
    """

    def __init__(self, trace: Trace, left: Left) -> None:
        self.trace, self.left = trace, left

    def __call__(self, node: Any) -> Remade | None:
        """The layer of an operator; None for one that is none, or whose weights are computed."""
        tensors = [n for n in node.args[1:] if isinstance(n, Node) and isinstance(n.meta.get("val"), Tensor)]
        if not tensors or any(self.trace.named(n) is None for n in tensors):
            return None
        handler = handler_of(node)
        if handler in (convolution, transposed):
            return self._convolution(node)
        if handler is linear:
            return self._linear(node)
        if node.target is aten.batch_norm.default:
            return self._batch_norm(node)
        return self._group_norm(node) if node.target is aten.group_norm.default else None

    def _shape(self, node: Node) -> list[int]:
        """The shape of a parameter after the cut."""
        name = self.trace.named(node)
        assert name is not None
        shape = list(self.trace.shapes[name])
        for axis, units in self.trace.coupling.axes.get(name, {}).items():
            shape[axis] = int(self.left.kept(units).sum())
        return shape

    def _convolution(self, node: Any) -> Remade:
        transposed = "transpose" in str(node.target)
        defaults: tuple[Any, ...] = (None, 1, 0, 0, 1, 1) if transposed else (None, 1, 0, 1, 1)
        bias, stride, padding, *rest = tuple(node.args[2:]) + defaults[len(node.args) - 2 :]
        extra, groups, dilation = rest if transposed else (0, rest[1], rest[0])
        weight: Any = node.args[1]
        shape = self._shape(weight)
        dims = len(shape) - 2
        width = self.left.width(node.args[0], node.meta["val"].dim() - dims - 1)
        if not transposed:
            groups = width // shape[1]
        elif groups == weight.meta["val"].shape[0]:
            groups = width
        stride, dilation, extra = (_spread(value, dims) for value in (stride, dilation, extra))
        padding = padding if isinstance(padding, str) else _spread(padding, dims)
        ends = (extra, groups, dilation) if transposed else (dilation, groups)
        out = shape[1] * groups if transposed else shape[0]
        kind = getattr(nn, f"Conv{'Transpose' if transposed else ''}{dims}d")
        options = {
            "kernel_size": tuple(shape[2:]),
            "stride": stride,
            "padding": padding,
            "dilation": dilation,
            "groups": groups,
            "bias": bias is not None,
            **({"output_padding": extra} if transposed else {}),
        }
        arguments = (node.args[0], weight, bias, stride, padding, *ends)
        return Remade(lambda: kind(width, out, **options), {"weight": weight, "bias": bias}, arguments)

    def _linear(self, node: Any) -> Remade:
        weight, bias = node.args[1], argument(node, 2, "bias")
        out, into = self._shape(weight)
        return Remade(
            lambda: nn.Linear(into, out, bias=bias is not None), {"weight": weight, "bias": bias}, tuple(node.args)
        )

    def _batch_norm(self, node: Any) -> Remade:
        scale, shift, mean, variance, _, momentum, epsilon, *_ = node.args[1:]
        width = self.left.width(node, 1)
        kind = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}[node.meta["val"].dim()]
        given = {"affine": scale is not None, "track_running_stats": mean is not None}
        tensors = {"weight": scale, "bias": shift, "running_mean": mean, "running_var": variance}
        return Remade(lambda: kind(width, eps=epsilon, momentum=momentum, **given), tensors)

    def _group_norm(self, node: Any) -> Remade:
        groups, scale, shift = node.args[1:4]
        (width,), channels = self._shape(scale), int(scale.meta["val"].shape[0])
        epsilon, left = float(argument(node, 4, "eps", 1e-5)), groups * width // channels
        return Remade(lambda: nn.GroupNorm(left, width, epsilon), {"weight": scale, "bias": shift})


def _spread(value: Any, dims: int) -> tuple[int, ...]:
    """A number for each dimension, where one may stand for all."""
    values = tuple(value) if isinstance(value, list | tuple) else (value,)
    return values * dims if len(values) == 1 else values
