"""The network at one place: all tensors that are alive there, for all samples, moved forward layer by layer.

So a layer-by-layer method runs every node once and not once for each layer behind it. What is alive lies on disk, batch
by batch; memory holds one batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx

from ..graph.order import captured
from ..runtime import session
from ..verification.inputs import Feeds
from .probe import Probe, exposed


class Frontier:
    """Tensors that nodes before a position give and nodes from it on read, for every batch."""

    def __init__(
        self,
        model: onnx.ModelProto,
        batches: Sequence[Feeds],
        folder: Path,
        *,
        provider: str = "cpu",
        data_folder: Path | None = None,
    ):
        """Stand in front of the first node.

        Args:
            batches: what the model is fed.
            folder: where tensors are kept, an empty one.
            data_folder: where the model's external data lies.
        """
        self._folder, self._provider, self._data_folder = folder, provider, data_folder
        self._batches = batches
        self._inputs = {value.name for value in model.graph.input}
        self._born, self._last = _lives(model.graph)
        self._alive: set[str] = set()
        self._numbers: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._batches)

    def __call__(self, batch: int, tensor: str) -> np.ndarray:
        """A tensor's value for one batch."""
        if tensor in self._inputs:
            return self._batches[batch][tensor]
        return np.load(self._path(batch, tensor))

    def move(self, model: onnx.ModelProto, position: int) -> None:
        """Go on to the node at `position`, with the weights that `model` has now.

        Raises:
            InputError: the model does not run on the samples.
            ModelError: ONNX Runtime refuses it.
        """
        wanted = {name for name, last in self._last.items() if self._born[name] < position <= last}
        new = sorted(wanted - self._alive - self._inputs)
        if new:
            given = {name: self(0, name) for name in (*self._alive, *self._inputs) if name in self._born}
            part = exposed(model, new, given)
            opened = session(part.SerializeToString(), provider=self._provider, folder=self._data_folder)
            probe = Probe(opened, new)
            for batch in range(len(self._batches)):
                feeds = {name: self(batch, name) for name in probe.inputs}
                for name, value in probe(feeds).items():
                    np.save(self._path(batch, name), value)
        for name in self._alive - wanted:
            for batch in range(len(self._batches)):
                self._path(batch, name).unlink()
        self._alive = wanted - self._inputs

    def _path(self, batch: int, tensor: str) -> Path:
        number = self._numbers.setdefault(tensor, len(self._numbers))
        return self._folder / f"{number}.{batch}.npy"


def _lives(graph: onnx.GraphProto) -> tuple[dict[str, int], dict[str, int]]:
    """For each tensor that depends on an input: the position of the node that gives it (-1: an input), and of the last
    that reads it.
    """
    own = {tensor.name for tensor in graph.initializer}
    born = {value.name: -1 for value in graph.input if value.name not in own}
    last: dict[str, int] = {}
    for position, node in enumerate(graph.node):
        read = [name for name in (*node.input, *captured(node)) if name in born]
        last |= dict.fromkeys(read, position)
        if read:
            born |= {name: position for name in node.output if name}
    return born, last
