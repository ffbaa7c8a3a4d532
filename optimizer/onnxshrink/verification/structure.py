"""The structural check: is this a graph whose parts fit each other, on its own evidence?

`onnx.checker`, strict shape inference and ONNX Runtime's optimized CPU path accept a Conv whose input has 12 channels
and whose weight expects 16, and compute garbage (onnxruntime#28731, #29464). This check does not: wiring, the payload
of every tensor, and what each operator demands of its operands (predicates.py) on shapes of its own (shapes.py).
It says nothing about what it does not know, so a valid model has no findings.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import TensorProto

from .movement import resized_axes
from .operand import Op, differ, text
from .predicates import TABLE
from .shapes import Facts, dims_of, domain_of, model_facts


@dataclass(frozen=True)
class Finding:
    """One defect: the node (or the graph) that has it, and what is wrong, in one sentence."""

    node: str
    what: str

    def __str__(self) -> str:
        return f"{self.node}: {self.what}"


def check(
    model: onnx.ModelProto,
    *,
    folder: Path | None = None,
    original: onnx.ModelProto | None = None,
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
) -> list[Finding]:
    """Every structural defect that is certain; an empty list for a sound model.

    Args:
        model: the model; its external data may be unloaded, weights are never read.
        folder: the folder of the model file, to check that external data is there and long enough.
        original: the model it was made from; adds what only a comparison shows: an input that became required, a
            Resize that now changes an axis which it kept, a Slice that now takes nothing.
        input_shapes: sizes to assume for dynamic inputs, for a sharper answer.
    """
    facts = model_facts(model, folder, input_shapes)
    found = [*_wiring(model.graph, set()), *_inputs(model), *_payloads(model.graph, folder)]
    found += _nodes(model.graph, facts)
    found += _declared(model.graph, facts)
    if original is not None:
        found += _compared(model, facts, original, model_facts(original, folder, input_shapes))
    return list(dict.fromkeys(found))


def introduced(
    result: onnx.ModelProto, original: onnx.ModelProto, *, folder: Path | None = None, source: Path | None = None
) -> list[Finding]:
    """Defects of a result that its original does not have. The same defect may name other sizes.

    Args:
        folder: where the result's external data lies.
        source: where the original's lies.
    """
    found = check(result, folder=folder, original=original)
    known = {(f.node, _without_sizes(f.what)) for f in check(original, folder=source)} if found else set()
    return [f for f in found if (f.node, _without_sizes(f.what)) not in known]


def _without_sizes(text: str) -> str:
    return re.sub(r"\d+", "#", text)


def label(node: onnx.NodeProto) -> str:
    """How a node is named to people: operator and name, or its first output where it has none."""
    return f"{node.op_type} `{node.name or next((o for o in node.output if o), '')}`"


def _graphs(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    return [a.g for a in node.attribute if a.type == onnx.AttributeProto.GRAPH]


def _wiring(graph: onnx.GraphProto, outer: set[str]) -> Iterator[Finding]:
    """Every name is produced once, before it is used."""
    tensors = [t.name for t in graph.initializer] + [t.values.name for t in graph.sparse_initializer]
    for name in {n for n in tensors if tensors.count(n) > 1} if len(set(tensors)) < len(tensors) else ():
        yield Finding("graph", f"initializer `{name}` is there twice")
    here = {v.name for v in graph.input} | set(tensors)
    later = {o for n in graph.node for o in n.output if o}
    for node in graph.node:
        for name in node.input:
            if name and name not in here and name not in outer:
                order = "used before the node that makes it" if name in later else "made by no node"
                yield Finding(label(node), f"input `{name}` is {order}")
        for inner in _graphs(node):
            yield from _wiring(inner, outer | here)
        for name in node.output:
            if name and name in here:
                yield Finding(label(node), f"output `{name}` is made twice")
            if name:
                here.add(name)
    for value in graph.output:
        if value.name not in here and value.name not in outer:
            yield Finding("graph", f"output `{value.name}` is made by no node")


def _inputs(model: onnx.ModelProto) -> Iterator[Finding]:
    declared = {v.name: dims_of(v) for v in model.graph.input}
    if len(declared) < len(model.graph.input):
        yield Finding("graph", "an input is declared twice")
    for tensor in model.graph.initializer:
        if tensor.name not in declared:
            if model.ir_version < 4:
                yield Finding(
                    "graph", f"initializer `{tensor.name}` is not among the inputs, IR {model.ir_version} wants it"
                )
        else:
            shape = declared[tensor.name]
            if shape is not None and (
                len(shape) != len(tensor.dims) or any(differ(a, b) for a, b in zip(shape, tensor.dims, strict=True))
            ):
                yield Finding("graph", f"input `{tensor.name}` {text(shape)} has a default of {list(tensor.dims)}")


def _payloads(graph: onnx.GraphProto, folder: Path | None) -> Iterator[Finding]:
    """Each tensor has as many bytes as its dimensions say, here or in its external file."""
    for tensor in graph.initializer:
        if wrong := _payload(tensor, folder):
            yield Finding(f"initializer `{tensor.name}`", wrong)
    for node in graph.node:
        for a in node.attribute:
            if a.type == onnx.AttributeProto.TENSOR and (wrong := _payload(a.t, folder)):
                yield Finding(label(node), wrong)
        for inner in _graphs(node):
            yield from _payloads(inner, folder)


_FIELDS = ("float_data", "int32_data", "string_data", "int64_data", "double_data", "uint64_data")


def _payload(tensor: TensorProto, folder: Path | None) -> str | None:
    count = math.prod(tensor.dims)
    if tensor.data_type == TensorProto.STRING:
        return (
            None if len(tensor.string_data) == count else f"{len(tensor.string_data)} strings for {list(tensor.dims)}"
        )
    name = TensorProto.DataType.Name(tensor.data_type)
    bits = next((b for key, b in (("INT2", 2), ("INT4", 4), ("FLOAT4", 4)) if key in name), 0)
    if not bits:
        bits = 8 * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    size = (count * bits + 7) // 8
    if tensor.data_location == TensorProto.EXTERNAL:
        where = {e.key: e.value for e in tensor.external_data}
        if folder is None:
            return None
        file = folder / where.get("location", "")
        if not where.get("location") or not file.is_file():
            return f"external data `{where.get('location', '')}` is not there"
        length = int(where.get("length", 0)) or size
        if length != size:
            return f"{length} bytes of external data for {list(tensor.dims)} {name}"
        missing = int(where.get("offset", 0)) + length - file.stat().st_size
        return f"external data `{where['location']}` is {missing} bytes too short" if missing > 0 else None
    if tensor.HasField("raw_data"):
        return None if len(tensor.raw_data) == size else f"{len(tensor.raw_data)} bytes for {list(tensor.dims)} {name}"
    stored = sum(len(getattr(tensor, f)) for f in _FIELDS)
    if bits < 8:
        return None  # packed in ways that differ between versions
    per = 2 if "COMPLEX" in name else 1
    return None if stored == count * per else f"{stored} values for {list(tensor.dims)} {name}"


def _nodes(graph: onnx.GraphProto, facts: Facts) -> Iterator[Finding]:
    for node in graph.node:
        domain = domain_of(node)
        if (predicate := TABLE.get(domain, {}).get(node.op_type)) and domain in facts.opsets:
            for what in predicate(Op(node, facts, facts.opsets[domain])):
                yield Finding(label(node), what)
        for inner, known in zip(
            _graphs(node), facts.inner.get(node.output[0], ()) if node.output else (), strict=False
        ):
            yield from _nodes(inner, known)


def _declared(graph: onnx.GraphProto, facts: Facts) -> Iterator[Finding]:
    """Declared shapes of outputs, and of inner tensors, against those that the graph computes."""
    for kind, values in (("output", graph.output), ("value_info", graph.value_info)):
        for value in values:
            says, computes = dims_of(value), facts.shape(value.name)
            if says is None or computes is None:
                continue
            if len(says) != len(computes) or any(differ(a, b) for a, b in zip(says, computes, strict=True)):
                yield Finding(
                    "graph", f"{kind} `{value.name}` is declared {text(says)}, the graph computes {text(computes)}"
                )


def _compared(model: onnx.ModelProto, facts: Facts, original: onnx.ModelProto, before: Facts) -> Iterator[Finding]:
    fed = {v.name for v in original.graph.input} - {t.name for t in original.graph.initializer}
    defaults = {t.name for t in model.graph.initializer}
    for value in model.graph.input:
        if value.name not in fed and value.name not in defaults:
            yield Finding("graph", f"input `{value.name}` must be given now, it was not before")
    old = {o: n for n in original.graph.node for o in n.output if o}
    for node in model.graph.node:
        was = old.get(node.output[0]) if node.output else None
        if was is None or was.op_type != node.op_type or domain_of(node) != "":
            continue
        now, then = Op(node, facts, facts.opsets.get("", 0)), Op(was, before, before.opsets.get("", 0))
        if node.op_type == "Resize" and (new := resized_axes(now)[0] & resized_axes(then)[1]):
            yield Finding(label(node), f"changes axes {sorted(new)} of {text(now.shape(0))}, which it kept before")
        if node.op_type == "Slice":
            result, earlier = facts.shape(node.output[0]), before.shape(node.output[0])
            if result is not None and 0 in result and not (earlier is None or 0 in earlier):
                yield Finding(label(node), f"takes nothing ({text(result)}), it took {text(earlier)} before")
