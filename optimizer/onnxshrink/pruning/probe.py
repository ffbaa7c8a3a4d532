"""Running a model with intermediate tensors as its outputs, in groups that fit into bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from ..errors import InputError, short
from ..graph.order import captured
from ..runtime import session
from ..verification.inputs import Feeds
from .calibration import Calibration

MEMORY = 256 << 20
"""Bytes of exposed tensors that are held at once: so many tensors to a pass, and samples to a batch."""

MAX_BATCH = 64
Watch = Callable[[int, int], None]
"""Told (samples done, samples to do)."""


class Probe:
    """Some tensors of a model under ONNX Runtime."""

    def __init__(self, opened: Any, tensors: Sequence[str]):
        self.tensors = list(tensors)
        self._session = opened
        self.inputs = [value.name for value in opened.get_inputs()]

    def __call__(self, feeds: Feeds) -> dict[str, np.ndarray]:
        """The tensors' values.

        Raises:
            InputError: the model does not run on these values.
        """
        try:
            values = self._session.run(self.tensors, {name: feeds[name] for name in self.inputs})
        except Exception as error:  # the C++ layer raises many unrelated types
            raise InputError(f"the model does not run on the data: {short(error)}") from error
        return dict(zip(self.tensors, values, strict=True))


def probe(
    model: onnx.ModelProto, tensors: Sequence[str], *, provider: str = "cpu", folder: Path | None = None
) -> Probe:
    """A session on the part of a model that computes `tensors`.

    Args:
        folder: where its external data lies.

    Raises:
        ModelError: ONNX Runtime refuses it.
        RuntimeMissingError: ONNX Runtime, or the provider, is not there.
    """
    part = exposed(model, list(tensors), {})
    return Probe(session(part.SerializeToString(), provider=provider, folder=folder), tensors)


def exposed(model: onnx.ModelProto, tensors: Sequence[str], given: Mapping[str, np.ndarray]) -> onnx.ModelProto:
    """The part of a model that computes some of its tensors, with these as its outputs.

    Args:
        given: tensors that are inputs of the part, with values of their types.
    """
    graph = model.graph
    wanted, nodes = set(tensors), []
    for node in reversed(graph.node):
        if (wanted - set(given)) & set(node.output):
            nodes.append(node)
            wanted |= {name for name in node.input if name} | captured(node)
    part = onnx.ModelProto()
    part.ir_version = model.ir_version
    part.opset_import.extend(model.opset_import)
    part.functions.extend(model.functions)
    part.graph.name = graph.name or "part"
    part.graph.node.extend(reversed(nodes))
    part.graph.initializer.extend(t for t in graph.initializer if t.name in wanted)
    part.graph.sparse_initializer.extend(t for t in graph.sparse_initializer if t.values.name in wanted)
    part.graph.input.extend(value for value in graph.input if value.name in wanted)
    there = {value.name for value in part.graph.input}
    for name in sorted((wanted & set(given)) - there):
        kind = onnx.helper.np_dtype_to_tensor_dtype(given[name].dtype)
        part.graph.input.append(onnx.helper.make_tensor_value_info(name, kind, None))
    known = {value.name: value for value in (*graph.output, *graph.value_info, *graph.input)}
    for name in tensors:
        part.graph.output.append(known[name] if name in known else onnx.ValueInfoProto(name=name))
    return part


def passes(sizes: Mapping[str, int | None]) -> Iterator[tuple[list[str], int]]:
    """Tensors in groups, each with the number of samples to a batch, that keep within `MEMORY`.

    Args:
        sizes: bytes of each tensor for one sample, None where they are not known.
    """
    group: list[str] = []
    held = 0
    for name, size in sizes.items():
        own = size or MEMORY // MAX_BATCH
        if group and held + own > MEMORY // 8:
            yield group, _batch(held)
            group, held = [], 0
        group.append(name)
        held += own
    if group:
        yield group, _batch(held)


def _batch(size: int) -> int:
    return int(np.clip(MEMORY // max(size, 1), 1, MAX_BATCH))


def stream(
    opened: Probe, calibration: Calibration, samples: Sequence[Feeds], batch: int, watch: Watch
) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """The tensors' values, batch by batch, and how many samples these are of."""
    done = 0
    for count, feeds in calibration.batches(samples, batch):
        yield count, opened(feeds)
        done += count
        watch(done, len(samples))
