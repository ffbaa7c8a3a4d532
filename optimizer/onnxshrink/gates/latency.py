"""Latency as a size: a table of measured layer latencies by channel counts, interpolated with a gradient.

The table is JSON, as `onnxshrink bench --layers` writes it:

    {"version": 1, "unit": "ms", "layers": {"stem.0.weight": [[3, 4, 0.021], [3, 8, 0.034], [3, 16, 0.060]], ...}}

Keys are names of weights, which `gates.export` keeps; each point is [input channels, output channels, latency]. The
points of a layer form a grid: every count of inputs with every count of outputs that occurs.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..errors import InputError
from .augment import Gated

VERSION = 1

Points = Sequence[tuple[float, float, float]]


@dataclass(frozen=True)
class LatencyCost:
    """The latency of one layer, between measured channel counts by bilinear interpolation, beyond them by extension.

    Attributes:
        name: of the layer's weight.
        terms: units along its input and its output channels, [n] int64 each.
        inputs: counts of input channels that were measured, [i] float64, ascending.
        outputs: the same of output channels, [o].
        table: latencies, [i, o] float64.
    """

    name: str
    terms: tuple[Tensor, Tensor]
    inputs: Tensor
    outputs: Tensor
    table: Tensor

    def at(self, inputs: Tensor, outputs: Tensor) -> Tensor:
        """The latency with so many channels, which need not be whole: a scalar with a gradient, 0 without any."""
        if not bool(inputs > 0) or not bool(outputs > 0):
            return 0.0 * (inputs + outputs)
        table = self.table.to(inputs.device)
        (row, low), (column, left) = _between(self.inputs, inputs), _between(self.outputs, outputs)
        found = torch.zeros((), dtype=torch.float64, device=inputs.device)
        for i, a in ((row, 1 - low), (min(row + 1, len(self.inputs) - 1), low)):
            for j, b in ((column, 1 - left), (min(column + 1, len(self.outputs) - 1), left)):
                found = found + table[i, j] * a * b
        return found.clamp_min(0)


def _between(points: Tensor, value: Tensor) -> tuple[int, Tensor]:
    """The number of the point to the left of a value, and the share of the way to the next one."""
    if len(points) == 1:
        return 0, torch.zeros_like(value)
    left = int(torch.searchsorted(points, value.detach().cpu(), right=True)) - 1
    left = min(max(left, 0), len(points) - 2)
    a, b = float(points[left]), float(points[left + 1])
    return left, (value - a) / (b - a)


def read_latencies(path: str | os.PathLike[str]) -> dict[str, list[tuple[float, float, float]]]:
    """Read a table: for each layer's weight, points (input channels, output channels, latency).

    Raises:
        InputError: the file is not such a table.
    """
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
        version = found["version"]
        layers = {
            name: [(float(i), float(o), float(t)) for i, o, t in points] for name, points in found["layers"].items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"this is no table of layer latencies: {error}", file=str(path), cure="write one with `bench --layers`"
        ) from error
    if version != VERSION:
        raise InputError(f"this is a table of version {version}, expected {VERSION}", file=str(path))
    return layers


def latency_costs(gated: Gated, layers: Mapping[str, Points]) -> list[LatencyCost]:
    """The costs for `Size` from a table: the sum of the latencies of all layers that channels can leave.

    Raises:
        InputError: a layer is not in the table, its points are no grid, or latencies are no times.
    """
    found = []
    for cost in gated.coupling.macs:
        if len(cost.terms) != 2 or cost.name not in gated.coupling.shapes:
            continue
        if cost.name not in layers:
            raise InputError(
                f"the table has no latency of `{cost.name}`", cure="measure the file that `gates.export` writes"
            )
        measured = {(i, o): t for i, o, t in layers[cost.name]}
        inputs, outputs = sorted({i for i, _ in measured}), sorted({o for _, o in measured})
        if len(measured) != len(inputs) * len(outputs) or not measured:
            raise InputError(
                f"the points of `{cost.name}` are no grid of {len(inputs)} input and {len(outputs)} output counts"
            )
        table = torch.tensor([[measured[i, o] for o in outputs] for i in inputs], dtype=torch.float64)
        if not bool((table.isfinite() & (table >= 0)).all()):
            raise InputError(f"the table has a latency of `{cost.name}` that is no time", cure="measure it again")
        axes = [torch.tensor(counts, dtype=torch.float64) for counts in (inputs, outputs)]
        found.append(LatencyCost(cost.name, (cost.terms[0], cost.terms[1]), axes[0], axes[1], table))
    if not any(bool(cost.table.any()) for cost in found):
        raise InputError("all latencies of the table are 0, so there is nothing to make less of")
    return found
