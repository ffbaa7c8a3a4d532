"""The table of layer latencies by channel counts: the file format, and what it says of counts that were not measured.

    {"version": 1, "unit": "ms",
     "layers": {weight: [[input channels, output channels, latency], ...]},   a grid of measured points
     "steps":  {weight: [[step, factor] of inputs, [step, factor] of outputs]},
     "kinds":  {weight: what was measured},  "nodes": {first output of a node: weight},
     "whole": latency of the model, "provider", "threads", "shapes", "model": sha256, "environment"}

Input channels are those that one output reads: of a grouped layer those of its group, of a depthwise one 1. A program
that trains on a latency needs `version`, `unit` and `layers`; `prune` needs the rest.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError

VERSION = 1
EVEN = 4
"""Counts that this does not divide cost extra: kernels fall back to slower paths."""

Step = tuple[int, float]
"""Counts cost what their next multiple of this does; times the factor where `EVEN` does not divide them."""


@dataclass(frozen=True)
class LayerLatency:
    """The latency of one layer by its channel counts.

    Attributes:
        kind: operator, weight, input and attributes: layers of one kind are measured once.
        points: (input channels, output channels, ms), every count of inputs with every count of outputs.
        steps: of inputs and of outputs.
    """

    kind: str
    points: tuple[tuple[int, int, float], ...]
    steps: tuple[Step, Step] = ((1, 1.0), (1, 1.0))

    def counts(self, axis: int) -> list[int]:
        """Measured counts of inputs (0) or outputs (1), ascending."""
        return sorted({int(point[axis]) for point in self.points})

    def at(self, inputs: np.ndarray | float, outputs: np.ndarray | float) -> np.ndarray:
        """Milliseconds with so many channels (arrays that broadcast); 0 without any.

        A count is taken up to the next multiple of its step, measured counts are met exactly, and between them the
        latency is bilinear; below the smallest measured count too, down to no less than 0.
        """
        measured = {(i, o): ms for i, o, ms in self.points}
        rows, columns = self.counts(0), self.counts(1)
        table = np.array([[measured[i, o] for o in columns] for i in rows])
        wanted = np.broadcast_arrays(np.asarray(inputs, float), np.asarray(outputs, float))
        found = np.zeros(wanted[0].shape)
        (row, low), (column, left) = (
            _between(rows, wanted[0], self.steps[0]),
            _between(columns, wanted[1], self.steps[1]),
        )
        last = (len(rows) - 1, len(columns) - 1)
        for i, a in ((row, 1 - low), (np.minimum(row + 1, last[0]), low)):
            for j, b in ((column, 1 - left), (np.minimum(column + 1, last[1]), left)):
                found = found + table[i, j] * a * b
        for count, (_, factor), own in zip(wanted, self.steps, (rows, columns), strict=True):
            found = found * np.where((count % EVEN == 0) | np.isin(count, own), 1.0, factor)
        return np.where((wanted[0] > 0) & (wanted[1] > 0), np.maximum(found, 0), 0.0)


def _between(points: Sequence[int], count: np.ndarray, step: Step) -> tuple[np.ndarray, np.ndarray]:
    """The number of the measured count to the left, and the share of the way to the next one."""
    known = np.array(points, float)
    if known.size == 1:
        return np.zeros(count.shape, int), np.zeros(count.shape)
    stepped = np.where(np.isin(count, known), count, np.minimum(-(-count // step[0]) * step[0], known[-1]))
    left = np.clip(np.searchsorted(known, stepped, side="right") - 1, 0, known.size - 2)
    return left, (stepped - known[left]) / (known[left + 1] - known[left])


@dataclass
class LatencyTable:
    """Latencies of a model's layers, and all that they depend on.

    Attributes:
        layers: by weight.
        nodes: the weight's name by a node's first output.
        whole: milliseconds of the whole model, measured in the same way; 0 while the table is not complete.
        provider: by ONNX Runtime's name.
        threads: intra-op threads; 0 is ONNX Runtime's own choice.
        shapes: of the inputs.
        model: sha256 of the model's file.
        environment: versions, processor, GPU.
    """

    provider: str
    threads: int
    shapes: dict[str, tuple[int, ...]]
    model: str
    environment: dict[str, str]
    layers: dict[str, LayerLatency] = field(default_factory=dict)
    nodes: dict[str, str] = field(default_factory=dict)
    whole: float = 0.0

    def sum(self, widths: dict[str, tuple[int, int]]) -> float:
        """Milliseconds of all nodes at these (input, output) channels, by a node's first output."""
        return float(sum(self.layers[weight].at(*widths[output]) for output, weight in self.nodes.items()))

    def same_place(self, other: LatencyTable) -> bool:
        """Whether both were measured on one kind of machine, with the same runtime and threads."""
        facts = ("cpu", "gpu", "cpus", "onnxruntime", "system")
        ours, theirs = ([table.environment.get(fact) for fact in facts] for table in (self, other))
        return (self.provider, self.threads, ours) == (other.provider, other.threads, theirs)

    def to_json(self) -> dict[str, Any]:
        """The file's content."""
        return {
            "version": VERSION,
            "unit": "ms",
            "provider": self.provider,
            "threads": self.threads,
            "shapes": {name: list(shape) for name, shape in self.shapes.items()},
            "model": self.model,
            "environment": self.environment,
            "whole": self.whole,
            "layers": {name: [list(point) for point in layer.points] for name, layer in self.layers.items()},
            "steps": {name: [list(step) for step in layer.steps] for name, layer in self.layers.items()},
            "kinds": {name: layer.kind for name, layer in self.layers.items()},
            "nodes": self.nodes,
        }


def read_table(path: str | Path) -> LatencyTable:
    """Read a table that `onnxshrink bench --layers` wrote.

    Raises:
        InputError: the file is no such table, has another version, or points of a layer are no grid.
    """
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
        version = found["version"]
        if version == VERSION:
            steps, kinds = found["steps"], found["kinds"]
            layers = {
                name: LayerLatency(
                    str(kinds[name]),
                    tuple((int(i), int(o), float(ms)) for i, o, ms in points),
                    tuple((int(step), float(factor)) for step, factor in steps[name]),  # type: ignore[arg-type]
                )
                for name, points in found["layers"].items()
            }
            table = LatencyTable(
                str(found["provider"]),
                int(found["threads"]),
                {name: tuple(shape) for name, shape in found["shapes"].items()},
                str(found["model"]),
                dict(found["environment"]),
                layers,
                dict(found["nodes"]),
                float(found["whole"]),
            )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"this is no table of layer latencies: {type(error).__name__} {error}",
            file=str(path),
            cure="write one with `onnxshrink bench MODEL --layers -o FILE`",
        ) from error
    if version != VERSION:
        raise InputError(f"this is a table of version {version}, expected {VERSION}", file=str(path))
    for name, layer in table.layers.items():
        if not layer.points or len(layer.points) != len(layer.counts(0)) * len(layer.counts(1)):
            raise InputError(f"the points of `{name}` are no grid", file=str(path), cure="measure it again")
    return table
