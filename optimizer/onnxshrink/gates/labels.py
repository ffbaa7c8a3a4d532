"""Labels: which unit each element of an activation belongs to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node


@dataclass(frozen=True)
class Labels:
    """The units of an activation's elements.

    Attributes:
        units: int64, broadcastable to the activation; axes along which nothing varies have length one.
        zero: whether elements of a closed unit are zero if the gate multiplies what makes it.
        parameter: the parameter that the activation is, or is a view of a part of.
    """

    units: Tensor
    zero: bool = False
    parameter: str | None = None


def along(units: Tensor, axis: int, rank: int, *, zero: bool = True) -> Labels:
    """Labels of an activation whose units lie along one axis."""
    shape = [1] * rank
    shape[axis] = -1
    return Labels(units.reshape(shape), zero)


def compress(units: Tensor) -> Tensor:
    """The labels with axes of length one where nothing varies."""
    for axis in range(units.dim()):
        if units.shape[axis] > 1 and bool((units == units.narrow(axis, 0, 1)).all()):
            units = units.narrow(axis, 0, 1)
    return units


def nothing(value: Any) -> Any:
    """Labels of an operator's outputs in which nothing could go."""
    if isinstance(value, Tensor):
        return Labels(torch.zeros((1,) * value.dim(), dtype=torch.long))
    return [nothing(v) for v in value] if isinstance(value, tuple | list) else None


def shape_of(node: Node) -> tuple[int, ...]:
    """The shape of what a node computes."""
    return tuple(int(d) for d in node.meta["val"].shape)
