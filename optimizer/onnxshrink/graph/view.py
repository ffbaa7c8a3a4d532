"""The read-only view that analysis works on: nodes, tensors, and constants that are private to each edge.

One initializer may feed several nodes, and these may be cut differently. Here every (node, input) edge that reads
a constant has a tensor of its own; on writing, equal cuts are shared again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, helper

from .model import Model
from .order import bodies, captured

Dim = int | str | None
Shape = tuple[Dim, ...]


def count(shape: Shape) -> int | None:
    """Number of elements, None where a dimension is not known."""
    total = 1
    for dim in shape:
        if not isinstance(dim, int):
            return None
        total *= dim
    return total


def is_float(dtype: np.dtype) -> bool:
    """Whether a type holds floating-point numbers, those that NumPy does not know included."""
    return dtype.kind == "f" or dtype.name.startswith(("bfloat", "float"))


def is_plain_float(dtype: np.dtype) -> bool:
    """Whether NumPy knows a type of floating-point numbers itself; ml_dtypes gives one of eight bits the same kind."""
    return np.issubdtype(dtype, np.floating)


@dataclass(frozen=True)
class Selected:
    """Slices along one axis: the input's `take(index, axis)`."""

    axis: int
    index: np.ndarray


@dataclass(frozen=True)
class Reordered:
    """All axes, in another order."""

    order: tuple[int, ...]


@dataclass(frozen=True)
class Split:
    """Axes split in several, and these in another order.

    Attributes:
        sizes: of the axes of the grid between the two, in the order of the input's elements.
        axes: for each axis of the input, those of the grid that it is split in; none for an axis of length one.
        order: for each axis of the output, that of the grid.
    """

    sizes: tuple[Dim, ...]
    axes: tuple[tuple[int, ...], ...]
    order: tuple[int, ...]


Movement = Selected | Reordered | Split


@dataclass(frozen=True, eq=False)
class Node:
    """One node. `inputs` and `outputs` are tensor ids ("" for an absent optional one); `label` is how reports and the
    map name it, and no other node of the graph.

    `position` is the node's place in the file (Constant nodes have none here); `captured` are outer tensors that
    bodies of If, Loop and Scan read. A node with a `movement` stands for a chain that amounts to it, and is planned as
    this one movement of its first input; its other inputs are the shapes known at run time only that `chain`, the
    nodes as they are in the file, reads.
    """

    index: int
    position: int
    op: str
    domain: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    captured: tuple[str, ...]
    proto: onnx.NodeProto = field(repr=False)
    movement: Movement | None = field(default=None, repr=False)
    chain: tuple[Node, ...] = field(default=(), repr=False)
    label: str = ""

    @cached_property
    def _attributes(self) -> dict[str, Any]:
        return {
            a.name: helper.get_attribute_value(a)
            for a in self.proto.attribute
            if not a.ref_attr_name and a.type not in (AttributeProto.GRAPH, AttributeProto.GRAPHS)
        }

    def attr(self, name: str, default: Any = None) -> Any:
        """An attribute's value (strings decoded), or `default`."""
        value = self._attributes.get(name, default)
        return value.decode() if isinstance(value, bytes) else value

    def input(self, index: int) -> str:
        """Tensor id of an input, "" when it is absent."""
        return self.inputs[index] if index < len(self.inputs) else ""


@dataclass
class Graph:
    """A model's main graph with shapes.

    Attributes:
        shapes: dimensions of each tensor: int when known, a name when symbolic, None when unknown or zero; absent
            when not even the rank is known.
        dtypes: numpy type of each tensor, absent when unknown.
        constants: values of each constant edge's tensor.
        source: the name in the file of each constant edge's tensor.
        ranges: least and largest value of inputs, where the caller promises them.
        outside: of the view of a body: what is known of its inputs around it (facts, see channels/facts.py).
        derived: what was computed from constants once, such as a weight's pattern of non-zeros; views that share
            constants share it.
    """

    model: Model
    nodes: list[Node]
    inputs: list[str]
    outputs: list[str]
    default_inputs: list[str]
    shapes: dict[str, Shape] = field(default_factory=dict)
    dtypes: dict[str, np.dtype] = field(default_factory=dict)
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    source: dict[str, str] = field(default_factory=dict)
    ranges: dict[str, tuple[float, float]] = field(default_factory=dict)
    outside: dict[str, Any] = field(default_factory=dict, repr=False)
    derived: dict[tuple[str, str], Any] = field(default_factory=dict, repr=False)
    mark: str = "@"

    def edge(self, name: str, node: int, index: int) -> str:
        """Tensor id of a constant read by input `index` of node number `node`."""
        return f"{name}{self.mark}{node}.{index}"

    @cached_property
    def producer(self) -> dict[str, Node]:
        return {out: node for node in self.nodes for out in node.outputs if out}

    @cached_property
    def consumers(self) -> dict[str, list[tuple[Node, int]]]:
        """Readers of each tensor as (node, input index); the index is -1 for a body that captures it."""
        readers: dict[str, list[tuple[Node, int]]] = {}
        for node in self.nodes:
            for index, name in enumerate(node.inputs):
                if name:
                    readers.setdefault(name, []).append((node, index))
            for name in node.captured:
                readers.setdefault(name, []).append((node, -1))
        return readers

    def change(self, values: dict[str, np.ndarray]) -> None:
        """Give constant edges new values, and forget what was derived from the old ones."""
        self.constants.update(values)
        self.derived = {key: value for key, value in self.derived.items() if key[0] not in values}

    def forget_wiring(self) -> None:
        """Drop what was derived from `nodes`, after they changed."""
        for derived in ("producer", "consumers", "constant_only"):
            self.__dict__.pop(derived, None)

    def leading_to_outputs(self, read: Callable[[Node], Iterable[str]] | None = None) -> set[str]:
        """The graph's outputs and every tensor that they are computed from; `read` says what a node reads of those that
        it names (default: all).
        """
        found: set[str] = set()
        waiting = list(self.outputs)
        while waiting:
            name = waiting.pop()
            node = self.producer.get(name) if name not in found else None
            found.add(name)
            if node is not None:
                waiting += [n for n in (*(read(node) if read else node.inputs), *node.captured) if n]
        return found

    def tensors(self) -> Iterator[str]:
        """Every tensor id, inputs and constants first, then in graph order."""
        yield from self.inputs
        yield from self.constants
        for node in self.nodes:
            yield from (o for o in node.outputs if o)

    @cached_property
    def constant_only(self) -> set[str]:
        """Constants, and tensors computed from the file's alone, such as a gate given as Sigmoid(parameter)."""
        own = {name for name in self.constants if not self.source.get(name, "").endswith("@known")}
        for node in self.nodes:
            names = [n for n in node.inputs if n]
            if names and not node.captured and all(n in own for n in names):
                own |= {o for o in node.outputs if o}
        return own | set(self.constants)

    def is_float(self, tensor: str) -> bool:
        dtype = self.dtypes.get(tensor)
        return dtype is not None and is_float(dtype)

    def rank(self, tensor: str) -> int | None:
        shape = self.shapes.get(tensor)
        return None if shape is None else len(shape)


def labels(nodes: Sequence[onnx.NodeProto], before: Sequence[Node] = ()) -> list[str]:
    """A label for each node: operator and name (or first output); where nodes share that, all but one say their output.

    Args:
        nodes: of one graph.
        before: nodes of what the graph was made of: one that still gives the same has the same label.
    """
    told = {(node.proto.op_type, output): node.label for node in before for output in node.outputs if output}
    keys = [[(node.op_type, output) for output in node.output if output] for node in nodes]
    found = [next((told[key] for key in own if key in told), "") for own in keys]
    taken = set(found)
    for number, node in enumerate(nodes):
        if not found[number]:
            output = next((o for o in node.output if o), "?")
            label = f"{node.op_type} `{node.name or output}`"
            found[number] = f"{label} giving `{output}`" if label in taken else label
            taken.add(found[number])
    return found


def build(model: Model, *, keep_default_inputs: bool = False, before: Sequence[Node] = ()) -> Graph:
    """The view of a model, without shapes of computed tensors (see `shapes.infer`).

    Args:
        before: nodes of what the model was made of: their labels go on.
        keep_default_inputs: leave initializers that are listed as inputs from IR 4 on (overridable defaults) as
            inputs whose values are unknown, instead of treating them as constants.
    """
    graph = model.proto.graph
    values: dict[str, TensorProto] = {t.name: t for t in graph.initializer}
    overridable = [i.name for i in graph.input if i.name in values and model.proto.ir_version >= 4]
    if keep_default_inputs:
        for name in overridable:
            del values[name]
        overridable = []
    nodes: list[tuple[int, onnx.NodeProto]] = []
    arrays = {t.values.name: model.dense(t) for t in graph.sparse_initializer}
    for position, proto in enumerate(graph.node):
        constant = constant_value(model, proto)
        if constant is None:
            nodes.append((position, proto))
        else:
            arrays[proto.output[0]] = constant
    view = Graph(model, [], [i.name for i in graph.input if i.name not in values], [], overridable)
    names = names_in(graph, inside=False)
    while any(view.mark in name for name in names):
        view.mark += "@"

    def tensor(name: str, node: int, index: int) -> str:
        if name not in values and name not in arrays:
            return name
        if name not in arrays:
            arrays[name] = model.array(values[name])
        array = arrays[name]
        name_of_edge = view.edge(name, node, index)
        view.constants[name_of_edge] = array
        view.source[name_of_edge] = name
        view.shapes[name_of_edge] = tuple(int(d) or None for d in array.shape)
        view.dtypes[name_of_edge] = array.dtype
        return name_of_edge

    named = labels([proto for _, proto in nodes], before)
    for number, (position, proto) in enumerate(nodes):
        view.nodes.append(
            Node(
                number,
                position,
                proto.op_type,
                "" if proto.domain == "ai.onnx" else proto.domain,
                proto.name,
                tuple(tensor(n, number, i) if n else "" for i, n in enumerate(proto.input)),
                tuple(proto.output),
                tuple(n for n in sorted(captured(proto)) if n not in values and n not in arrays),
                proto,
                label=named[number],
            )
        )
    view.outputs = [tensor(o.name, -1, k) for k, o in enumerate(graph.output)]
    return view


def constant_value(model: Model, node: onnx.NodeProto) -> np.ndarray | None:
    """The array of a Constant node; None for other nodes and for constants without a dense numeric array."""
    if node.op_type != "Constant" or node.domain not in ("", "ai.onnx") or len(node.attribute) != 1:
        return None
    attribute = node.attribute[0]
    match attribute.name:
        case "value":
            return model.array(attribute.t)
        case "value_int" | "value_ints":
            return np.asarray(helper.get_attribute_value(attribute), np.int64)
        case "value_float" | "value_floats":
            return np.asarray(helper.get_attribute_value(attribute), np.float32)
    return None


def names_in(graph: onnx.GraphProto, *, inside: bool = True) -> set[str]:
    """Names of all tensors of a graph and, unless `inside` is False, of the bodies in it."""
    names = {v.name for v in [*graph.input, *graph.output]} | {t.name for t in graph.initializer}
    names |= {t.values.name for t in graph.sparse_initializer}
    for node in graph.node:
        names |= {*node.input, *node.output}
        for body in bodies(node) if inside else ():
            names |= names_in(body)
    return names
