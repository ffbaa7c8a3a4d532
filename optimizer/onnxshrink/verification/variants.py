"""A model on disk, and variants of it for one run: more outputs, and tensors that are given instead of computed.

Variants are bytes in memory; external data stays in its file. Showing more outputs never parses a weight: a protobuf
message followed by another one is their merge, so the outputs are simply appended to the file's bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import onnx

from ..graph.model import Model, read
from .shapes import Facts, model_facts
from .stability import Stability, inner_graphs, stability

#: Appended to the name under which consumers read a tensor that is given.
GIVEN = "::given"


@dataclass(frozen=True)
class Source:
    """A model file, its protobuf without external data, and what follows from it."""

    file: Model

    @property
    def model(self) -> onnx.ModelProto:
        return self.file.proto

    @property
    def path(self) -> Path:
        assert self.file.path is not None, "a Source comes from a file"
        return self.file.path

    @property
    def folder(self) -> Path:
        return self.path.parent

    @cached_property
    def facts(self) -> Facts:
        return model_facts(self.model, self.folder)

    @cached_property
    def marks(self) -> Stability:
        return stability(self.model.graph, self.facts)

    @cached_property
    def producers(self) -> dict[str, onnx.NodeProto]:
        """The node of the main graph that makes each tensor."""
        return {o: n for n in self.model.graph.node for o in n.output if o}

    @cached_property
    def constants(self) -> dict[str, onnx.TensorProto]:
        """Initializers, and values of Constant nodes, by name."""
        found = {t.name: t for t in self.model.graph.initializer}
        for node in self.model.graph.node:
            if node.op_type == "Constant" and (values := [a.t for a in node.attribute if a.name == "value"]):
                found[node.output[0]] = values[0]
        return found

    @cached_property
    def outputs(self) -> list[str]:
        return [v.name for v in self.model.graph.output]

    def bytes_of_weights(self) -> int:
        """Size of the model file and of its external data."""
        files = [self.folder / name for name in self.file.external_files()]
        return self.path.stat().st_size + sum(f.stat().st_size for f in files if f.is_file())


def open_source(path: str | Path) -> Source:
    """A model file; weights in external files are not read.

    Raises:
        ModelError: there is no such file, or it is not an ONNX model.
    """
    return Source(read(path))


def with_outputs(source: Source, names: Iterable[str]) -> bytes:
    """The model with more outputs; those it already has are skipped."""
    more = onnx.ModelProto()
    more.graph.output.extend(onnx.ValueInfoProto(name=n) for n in names if n not in source.outputs)
    return source.path.read_bytes() + more.SerializeToString()


def with_given(source: Source, given: Mapping[str, np.ndarray], shown: Iterable[str]) -> bytes:
    """The model in which every reader of a `given` tensor reads an input `NAME::given` instead; its node still runs.

    Args:
        source: the model.
        given: a sample value for each such tensor; its dtype and rank become those of the input.
        shown: tensors that become outputs, the given ones as their nodes compute them.
    """
    model = onnx.ModelProto()
    model.CopyFrom(source.model)
    _rename_reads(model.graph, dict.fromkeys(given))
    del model.graph.value_info[:]
    for name, value in given.items():
        kind = onnx.helper.np_dtype_to_tensor_dtype(value.dtype)
        model.graph.input.append(onnx.helper.make_tensor_value_info(name + GIVEN, kind, [None] * value.ndim))
    here = {v.name for v in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=n) for n in shown if n not in here)
    return model.SerializeToString()


def _rename_reads(graph: onnx.GraphProto, given: dict[str, None], inside: bool = False) -> None:
    if inside:
        own = {v.name for v in graph.input} | {t.name for t in graph.initializer}
        own |= {o for n in graph.node for o in n.output}
        given = {k: None for k in given if k not in own}
        for value in graph.output:
            if value.name in given:
                value.name += GIVEN
    for node in graph.node:
        for i, name in enumerate(node.input):
            if name in given:
                node.input[i] = name + GIVEN
        for inner in inner_graphs(node):
            _rename_reads(inner, given, inside=True)
