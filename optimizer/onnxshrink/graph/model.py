"""A model file as it is: the protobuf, where its weights lie, and weights as arrays on demand.

External data is never loaded whole: a weight is read when it is asked for, from inside the model's own folder.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper
from onnx.external_data_helper import ExternalDataInfo, load_external_data_for_tensor, uses_external_data

from ..errors import ModelError
from .order import in_order

MAX_FILE_BYTES = 2**31 - 1


@dataclass
class Model:
    """A ModelProto whose external data, if any, is still in its files.

    Attributes:
        proto: the model that analysis works on, and never changes.
        path: where it was read from, None for a model given as a proto.
        given: the model as it was read, where `proto` is another one: functions were inlined, bodies cut.
        notes: what was done to `proto` since, in sentences.
        outer: of a body: names that mean something around it.
    """

    proto: onnx.ModelProto
    path: Path | None = None
    given: onnx.ModelProto | None = None
    notes: tuple[str, ...] = ()
    outer: frozenset[str] = frozenset()

    @property
    def original(self) -> onnx.ModelProto:
        """The model as it was read."""
        return self.proto if self.given is None else self.given

    @property
    def name(self) -> str:
        return str(self.path) if self.path else "model"

    @property
    def opset(self) -> int:
        """Version of the default operator set (0 when the model imports none)."""
        return next((o.version for o in self.proto.opset_import if o.domain in ("", "ai.onnx")), 0)

    def array(self, tensor: TensorProto) -> np.ndarray:
        """The values of an initializer or of a Constant's attribute, read-only.

        Raises:
            ModelError: external data is missing, lies outside the model's folder, or has another length.
        """
        try:
            if uses_external_data(tensor):
                loaded = TensorProto()
                loaded.CopyFrom(tensor)
                load_external_data_for_tensor(loaded, str(self.path.parent if self.path else Path.cwd()))
                tensor = loaded
            array = numpy_helper.to_array(tensor)
        except Exception as error:  # onnx raises ValueError, ValidationError, OSError, TypeError for bad data
            raise ModelError(
                f"initializer {tensor.name} cannot be read: {error}",
                file=self.name,
                cure="keep the external data file beside the model, as it was exported",
            ) from error
        array.flags.writeable = False
        return array

    def dense(self, tensor: onnx.SparseTensorProto) -> np.ndarray:
        """The values of a sparse initializer, zeros included."""
        values, indices = self.array(tensor.values), self.array(tensor.indices)
        array = np.zeros([*tensor.dims], values.dtype)
        if indices.ndim == 1:
            array.reshape(-1)[indices] = values
        else:
            array[tuple(indices.T)] = values
        return array

    def external_files(self) -> list[str]:
        """Names of the external data files, in order of first use."""
        names = [ExternalDataInfo(t).location for t in tensors(self.original.graph) if uses_external_data(t)]
        return list(dict.fromkeys(names))

    def digest(self) -> str:
        """sha256 of the model file (of the serialized proto where there is no file), hexadecimal."""
        data = self.path.read_bytes() if self.path else self.original.SerializeToString(deterministic=True)
        return hashlib.sha256(data).hexdigest()


def tensors(graph: onnx.GraphProto) -> Iterator[TensorProto]:
    """Initializers and tensor attributes, those of bodies included."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for body in [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]:
                yield from tensors(body)


def read(source: str | Path | onnx.ModelProto) -> Model:
    """Read a model without loading its external data.

    Args:
        source: a path, or a ModelProto with its weights inside.

    Raises:
        ModelError: the file is missing, empty, too large, or not an ONNX model.
    """
    if isinstance(source, onnx.ModelProto):
        copy = onnx.ModelProto()
        copy.CopyFrom(source)
        return _checked(Model(copy))
    path = Path(source)
    if not path.is_file():
        raise ModelError("no such file", file=str(path), cure="give the path of an .onnx file")
    size = path.stat().st_size
    if size == 0 or size > MAX_FILE_BYTES:
        raise ModelError(
            f"{size} bytes cannot be an ONNX model", file=str(path), cure="store weights over 2 GB as external data"
        )
    try:
        proto = onnx.load_model(str(path), load_external_data=False)
    except Exception as error:  # google.protobuf raises DecodeError, onnx its own types
        raise ModelError("not an ONNX model (protobuf cannot decode it)", file=str(path)) from error
    return _checked(Model(proto, path))


def _checked(model: Model) -> Model:
    graph = model.proto.graph
    if not graph.node and not graph.output:
        raise ModelError("holds no graph", file=model.name, cure="export the model again")
    if not model.opset and any(node.domain in ("", "ai.onnx") for node in graph.node):
        raise ModelError("imports no operator set", file=model.name, cure="export the model again")
    named = [*graph.node, *graph.initializer, *graph.input, *graph.output]
    names = [item.name for item in named] + [n for node in graph.node for n in (*node.input, *node.output)]
    if any(isinstance(name, bytes) for name in names):  # how protobuf hands out what is not UTF-8
        raise ModelError("holds names that are not UTF-8", file=model.name, cure="rename its nodes and tensors")
    if in_order(graph):
        model = replace(model, notes=(*model.notes, "its nodes were not in the order in which they are run: sorted"))
    seen = {t.name for t in graph.initializer} | {t.values.name for t in graph.sparse_initializer}
    seen |= {i.name for i in graph.input}
    for node in graph.node:
        label = f"{node.op_type} `{node.name or (node.output[0] if node.output else '?')}`"
        for name in node.input:
            if name and name not in seen:
                raise ModelError(
                    f"reads `{name}`, which nothing before it produces",
                    file=model.name,
                    node=label,
                    cure="export the model again",
                )
        for name in node.output:
            if name and name in seen:
                raise ModelError(f"writes `{name}`, which exists already", file=model.name, node=label)
            seen.add(name)
    for output in graph.output:
        if output.name not in seen:
            raise ModelError(f"output `{output.name}` is produced by no node", file=model.name)
    return model
