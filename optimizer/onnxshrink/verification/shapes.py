"""Shapes, element types and small integer facts of a graph, one node at a time and without touching a weight.

The structural check must not lean on the code it checks, so this is a forward pass of its own: ONNX's inference of a
single node, together with the integer tensors that compute shapes. ONNX's whole-graph inference loses everything
behind a Shape, Gather, Concat, Reshape chain; here such a vector may be known in part (`["input.0", 64, -1]`,
integers.py). What is not certain stays None.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper
from onnx.external_data_helper import load_external_data_for_tensor, uses_external_data

from .contrib_shapes import contrib_shapes, equivalent
from .facts import Dim, Facts, Shape, attribute, domain_of, opsets_of
from .integers import FLOATS, VALUE_LIMIT, VALUE_RULES
from .quantized_shapes import Twin, twin_of

_FLOAT_VALUE_LIMIT = 64


def model_facts(
    model: onnx.ModelProto,
    folder: Path | None = None,
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
) -> Facts:
    """Facts of the main graph of a model.

    Args:
        model: the model; external data may be unloaded.
        folder: where external data lies; small integer tensors are read from there.
        input_shapes: sizes to assume for inputs, for a sharper answer where dimensions are dynamic.
    """
    facts = Facts(opsets_of(model))
    _graph(model.graph, facts, folder, dict(input_shapes or {}))
    return facts


def dims_of(value: onnx.ValueInfoProto) -> Shape:
    """Declared dimensions: int, the symbol's name, or None where nothing is declared; None without a shape."""
    if not value.type.HasField("tensor_type") or not value.type.tensor_type.HasField("shape"):
        return None
    return _dims(value.type.tensor_type.shape)


def _dims(shape: onnx.TensorShapeProto) -> tuple[Dim, ...]:
    return tuple(d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in shape.dim)


def _graph(graph: onnx.GraphProto, facts: Facts, folder: Path | None, input_shapes: dict[str, Any]) -> None:
    for tensor in graph.initializer:
        _constant(tensor.name, tensor, facts, folder)
    for sparse in graph.sparse_initializer:
        facts.shapes[sparse.values.name] = tuple(sparse.dims)
        facts.types[sparse.values.name] = sparse.values.data_type
        facts.constants.add(sparse.values.name)
    for value in graph.input:
        if value.name in facts.constants:
            continue
        if value.type.HasField("tensor_type"):
            facts.types[value.name] = value.type.tensor_type.elem_type
        shape = input_shapes.get(value.name) or dims_of(value)
        if shape is not None:
            # One symbol per axis: exporters write "?" or "None" for dimensions that are not equal.
            facts.shapes[value.name] = tuple(
                d if isinstance(d, int) else f"{value.name}.{i}" for i, d in enumerate(shape)
            )
    for node in graph.node:
        _node(node, facts, folder)


def _constant(name: str, tensor: TensorProto, facts: Facts, folder: Path | None) -> None:
    facts.shapes[name], facts.types[name] = tuple(tensor.dims), tensor.data_type
    facts.constants.add(name)
    limit = _FLOAT_VALUE_LIMIT if tensor.data_type in FLOATS else VALUE_LIMIT
    if math.prod(tensor.dims) > limit or tensor.data_type == TensorProto.STRING:
        return
    try:
        if uses_external_data(tensor):
            if folder is None:
                return
            tensor = TensorProto.FromString(tensor.SerializeToString())
            load_external_data_for_tensor(tensor, str(folder))
        array = numpy_helper.to_array(tensor)
    except Exception:  # a broken tensor is reported by the check itself
        return
    facts.values[name] = np.array(array.tolist(), dtype=object).reshape(array.shape)


def _node(node: onnx.NodeProto, facts: Facts, folder: Path | None) -> None:
    inputs = [name for name in node.input if name]
    domain = domain_of(node)
    if domain == "" and node.op_type == "Constant":
        for a in node.attribute:
            if a.name == "value":
                _constant(node.output[0], a.t, facts, folder)
            elif a.name in ("value_int", "value_ints", "value_float", "value_floats"):
                array = np.asarray(onnx.helper.get_attribute_value(a), np.int64 if "int" in a.name else np.float32)
                _constant(node.output[0], numpy_helper.from_array(array), facts, folder)
        return
    if domain == "" and node.op_type in ("If", "Loop", "Scan", "SequenceMap"):
        _branches(node, facts, folder)
        return
    inferred = _infer(node, inputs, facts, domain)
    own: Sequence[Shape] = ()
    if domain == "" and (rule := SHAPE_RULES.get(node.op_type)):
        own = (rule(node, facts),)
    elif domain == "com.microsoft":
        own = contrib_shapes(node, facts)
        if (alike := equivalent(node)) is not None:
            inferred = _infer(alike, [name for name in alike.input if name], facts, "")
        elif (twin := twin_of(node)) is not None:
            inferred = _of_twin(twin, facts)
    for i, name in enumerate(node.output):
        if not name:
            continue
        kind, shape = inferred.get(name, (0, None))
        merged = merge(shape, own[i] if i < len(own) else None)
        if merged is not None:
            facts.shapes[name] = merged
        if not kind and inputs:
            kind = facts.types.get(inputs[0], 0)
        facts.types[name] = kind
        if inputs and all(x in facts.constants for x in inputs):
            facts.constants.add(name)
    if domain == "" and (compute := VALUE_RULES.get(node.op_type)) and len(node.output) == 1:
        try:
            value = compute(node, facts)
        except (TypeError, ValueError, IndexError, KeyError, ZeroDivisionError, OverflowError):
            value = None
        if value is not None and value.size <= VALUE_LIMIT:
            facts.values[node.output[0]] = value
            facts.shapes[node.output[0]] = value.shape


def _infer(node: onnx.NodeProto, inputs: list[str], facts: Facts, domain: str) -> dict[str, tuple[int, Shape]]:
    """Element type and shape of each output by ONNX's inference of this one node; nothing where it declines."""
    version = facts.opsets.get(domain)
    if version is None or not onnx.defs.has(node.op_type, version, domain):
        return {}
    types = {name: _type(facts.types.get(name, 0), facts.shape(name)) for name in inputs}
    data = {}
    for name in inputs:
        value = facts.values.get(name)
        if value is None or any(not isinstance(v, (int, float)) for v in value.reshape(-1)):
            continue
        try:
            dtype = onnx.helper.tensor_dtype_to_np_dtype(facts.types.get(name, TensorProto.INT64))
            data[name] = numpy_helper.from_array(value.astype(dtype), name)
        except (KeyError, TypeError, ValueError, OverflowError):
            continue
    imports = [onnx.helper.make_opsetid(d, v) for d, v in facts.opsets.items()]
    try:
        schema = onnx.defs.get_schema(node.op_type, version, domain)
        if node.op_type == "STFT" and attribute(node, "onesided") is None:  # onnx takes its default, 1, as 0
            node = onnx.NodeProto.FromString(node.SerializeToString())
            node.attribute.append(onnx.helper.make_attribute("onesided", 1))
        found = onnx.shape_inference.infer_node_outputs(schema, node, types, data, opset_imports=imports)
    except Exception:  # inference raises unrelated types for what the checks then report in their own words
        return {}
    result: dict[str, tuple[int, Shape]] = {}
    for name, kind in found.items():
        if kind.HasField("tensor_type"):
            tensor = kind.tensor_type
            result[name] = (tensor.elem_type, _dims(tensor.shape) if tensor.HasField("shape") else None)
    return result


def _of_twin(twin: Twin, facts: Facts) -> dict[str, tuple[int, Shape]]:
    """What the twin of a quantized node gives for floats, with the element type of the node itself."""
    inputs = list(twin.node.input)
    wide = {n: k if k == TensorProto.BOOL else int(TensorProto.FLOAT) for n, k in facts.types.items() if n in inputs}
    inferred = _infer(twin.node, inputs, replace(facts, types=wide), "")
    kind = facts.types.get(twin.like, 0) or twin.kind
    return {name: (kind, shape) for name, (_, shape) in inferred.items()}


def _type(kind: int, shape: Shape) -> onnx.TypeProto:
    result = onnx.TypeProto()
    result.tensor_type.elem_type = kind or TensorProto.FLOAT
    if shape is not None:
        result.tensor_type.shape.SetInParent()
        for d in shape:
            dim = result.tensor_type.shape.dim.add()
            if isinstance(d, int):
                dim.dim_value = d
            elif d is not None:
                dim.dim_param = d
    return result


def _branches(node: onnx.NodeProto, facts: Facts, folder: Path | None) -> None:
    """Facts inside the graphs of If, Loop, Scan and SequenceMap.

    A branch that never runs may be impossible for the shapes at hand (torch exports `squeeze` as such an If), so of
    what comes from outside an If only constants, types and ranks are used.
    """
    results = []
    for a in node.attribute:
        if a.type != onnx.AttributeProto.GRAPH:
            continue
        inner = Facts(
            facts.opsets,
            {k: s if node.op_type != "If" or k in facts.constants else _rank(s) for k, s in facts.shapes.items()},
            dict(facts.types),
            {k: v for k, v in facts.values.items() if k in facts.constants},
            set(facts.constants),
        )
        own_inputs = {v.name for v in a.g.input}
        inner.constants -= own_inputs
        _graph(a.g, inner, folder, {})
        results.append((a.g, inner))
    facts.inner[node.output[0]] = [f for _, f in results]
    first = 1 if node.op_type == "Loop" else 0  # the body's first output says whether to go on
    for i, name in enumerate(node.output, start=first):
        outs = [(g.output[i].name, f) for g, f in results if i < len(g.output)]
        kinds = {f.types.get(o, 0) for o, f in outs}
        if len(kinds) == 1:
            facts.types[name] = kinds.pop()
        if node.op_type == "If":
            shapes = [f.shape(o) for o, f in outs]
            known = shapes[0] if shapes else None
            if known is not None and all(s is not None and len(s) == len(known) for s in shapes):
                columns = zip(*[s for s in shapes if s is not None], strict=True)
                facts.shapes[name] = tuple(
                    c[0] if isinstance(c[0], int) and len(set(c)) == 1 else None for c in columns
                )


def _rank(shape: tuple[Dim, ...]) -> tuple[Dim, ...]:
    """The same number of dimensions, none of them known."""
    return (None,) * len(shape)


def merge(a: Shape, b: Shape) -> Shape:
    """The more certain of two answers, dimension by dimension; `a` where they contradict."""
    if a is None or b is None or len(a) != len(b):
        return b if a is None else a
    return tuple(x if isinstance(x, int) or y is None else y for x, y in zip(a, b, strict=True))


# Shapes that ONNX's node inference does not give: from partly known vectors, or behind an operator it does not know.


def _same(node: onnx.NodeProto, facts: Facts) -> Shape:
    return facts.shape(node.input[0])


def _reshape(node: onnx.NodeProto, facts: Facts) -> Shape:
    given = facts.shape(node.input[0])
    target = facts.integers(node.input[1]) if len(node.input) > 1 else attribute(node, "shape")
    if target is None:
        return None
    out: list[Dim] = list(target)
    if not attribute(node, "allowzero", 0):
        for i, d in enumerate(out):
            if d == 0:
                out[i] = given[i] if given is not None and i < len(given) else None
    if -1 in out:
        hole = out.index(-1)
        rest = out[:hole] + out[hole + 1 :]
        out[hole] = _quotient(given, rest) if given is not None else None
    return tuple(out)


def _quotient(dims: Iterable[Dim], divisors: Iterable[Dim]) -> Dim:
    """The product of `dims` over that of `divisors`, symbols cancelled; None if not certain or not whole."""
    top, bottom = list(dims), list(divisors)
    for symbol in [d for d in bottom if isinstance(d, str)]:
        if symbol in top:
            top.remove(symbol)
            bottom.remove(symbol)
    above, below = math.prod(d for d in top if isinstance(d, int)), math.prod(d for d in bottom if isinstance(d, int))
    left = [d for d in top + bottom if not isinstance(d, int)]
    if left:
        return left[0] if left == [d for d in top if isinstance(d, str)][:1] and above == below else None
    return above // below if below and above % below == 0 else None


def _vector(position: int) -> Callable[[onnx.NodeProto, Facts], Shape]:
    """The shape that an operand spells out; negative or unknown elements stay unknown."""

    def rule(node: onnx.NodeProto, facts: Facts) -> Shape:
        if len(node.input) <= position or (value := facts.integers(node.input[position])) is None:
            return None
        return tuple(v if isinstance(v, str) or (isinstance(v, int) and v >= 0) else None for v in value)

    return rule


def _expand(node: onnx.NodeProto, facts: Facts) -> Shape:
    given, target = facts.shape(node.input[0]), _vector(1)(node, facts)
    if given is None or target is None:
        return None
    size = max(len(given), len(target))
    rows = zip((1,) * (size - len(given)) + given, (1,) * (size - len(target)) + target, strict=True)
    return tuple(
        b if a == 1 else a if b == 1 or isinstance(a, int) else b if isinstance(b, int) else None for a, b in rows
    )


def _resize(node: onnx.NodeProto, facts: Facts) -> Shape:
    given = facts.shape(node.input[0])
    if attribute(node, "axes") or attribute(node, "keep_aspect_ratio_policy", b"stretch") != b"stretch":
        return None
    if len(node.input) > 3 and node.input[3]:
        return _vector(3)(node, facts)
    last = node.input[2] if len(node.input) > 2 else node.input[1] if len(node.input) > 1 else ""
    scales = facts.integers(last) if last else attribute(node, "scales")
    if given is None or scales is None or len(scales) != len(given):
        return None
    return tuple(d if s == 1 else None for d, s in zip(given, scales, strict=True))


def _conv(node: onnx.NodeProto, facts: Facts) -> Shape:
    x, w = facts.shape(node.input[0]), facts.shape(node.input[1])
    if w is None:
        return None
    group = attribute(node, "group", 1)
    inner = w[1]
    channels = w[0] if node.op_type == "Conv" else inner * group if isinstance(inner, int) else None
    return (x[0] if x else None, channels) + (None,) * (len(w) - 2)


def _crop(node: onnx.NodeProto, facts: Facts) -> Shape:
    given = facts.shape(node.input[0])
    return given[:2] + (None,) * (len(given) - 2) if given is not None else None


SHAPE_RULES: dict[str, Callable[[onnx.NodeProto, Facts], Shape]] = {
    "Reshape": _reshape,
    "Expand": _expand,
    "ConstantOfShape": _vector(0),
    "Resize": _resize,
    "Upsample": _resize,
    "Conv": _conv,
    "ConvTranspose": _conv,
    "Crop": _crop,
    **dict.fromkeys(("Relu", "LeakyRelu", "PRelu", "Elu", "Clip", "Sigmoid", "Tanh", "Softplus", "Softmax"), _same),
    **dict.fromkeys(("BatchNormalization", "InstanceNormalization", "GroupNormalization", "LRN", "Dropout"), _same),
    **dict.fromkeys(("Identity", "Exp", "Neg", "Abs", "Sqrt", "Gelu", "Mish", "HardSwish", "HardSigmoid"), _same),
    "ImageScaler": _same,
    **dict.fromkeys(("LayerNormalization", "SimplifiedLayerNormalization"), _same),
}
