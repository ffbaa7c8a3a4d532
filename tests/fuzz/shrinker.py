"""From a model that fails to a minimal one: whatever can go while the failure stays, goes.

Every change is tried on its own and kept if the failure is still there: outputs, nodes (their input takes their place,
a constant does, or the graph begins behind them), attributes, sizes, values, names.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import islice

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from tests.zoo import oracle

from .equality import feeds
from .maker import WORLDS

Fails = Callable[[ModelProto], bool]
Values = dict[str, np.ndarray]


def shrink(model: ModelProto, fails: Fails, seconds: float = 60.0) -> ModelProto:
    """A smaller model that still fails.

    Args:
        model: a model that fails.
        fails: whether a candidate is valid and shows the same failure.
        seconds: how long to go on.
    """
    end = time.monotonic() + seconds
    progress = True
    while progress and time.monotonic() < end:
        progress = False
        for changes in (_plain, _outputs, _later, _earlier, _frozen, _bypassed, _attributes, _sizes, _values):
            tried, found = 0, True
            while found and time.monotonic() < end:
                found = False
                for candidate in islice(changes(model), tried, None):
                    if time.monotonic() > end:
                        break
                    pruned = prune(candidate)
                    if pruned is not None and pruned != model and fails(pruned):
                        model, found, progress = pruned, True, True
                        break
                    tried += 1
    named = _renamed(model)
    return named if fails(named) else model


def prune(model: ModelProto) -> ModelProto | None:
    """The model without nodes, initializers and inputs that no output needs; None if no node is left."""
    needed = {o.name for o in model.graph.output}
    nodes: list[NodeProto] = []
    for node in reversed(model.graph.node):
        if needed & {o for o in node.output if o}:
            nodes.append(node)
            needed |= set(node.input) | {n for a in node.attribute for c in a.g.node for n in c.input}
    if not nodes or not model.graph.output:
        return None
    copy = _copy(model)
    _set(copy.graph.node, nodes[::-1])
    _set(copy.graph.initializer, [t for t in model.graph.initializer if t.name in needed])
    _set(copy.graph.sparse_initializer, [t for t in model.graph.sparse_initializer if t.values.name in needed])
    _set(copy.graph.input, [v for v in model.graph.input if v.name in needed])
    return copy


def _copy(model: ModelProto) -> ModelProto:
    copy = ModelProto()
    copy.CopyFrom(model)
    return copy


def _set(field, values) -> None:  # type: ignore[no-untyped-def]
    kept = [type(v).FromString(v.SerializeToString()) for v in values]
    del field[:]
    field.extend(kept)


def _inner(model: ModelProto) -> Values:
    """The value of every computed tensor on one input; nothing where the model does not run."""
    names = [o for n in model.graph.node for o in n.output if o]
    try:
        exposed = oracle.session(oracle.expose(model, names), optimize=False, threads=1)
        found = exposed.run(names, feeds(model, 0, 0, 1.0))
    except Exception:  # ONNX Runtime raises many types
        return {}
    return {n: a for n, a in zip(names, found, strict=True) if isinstance(a, np.ndarray)}


def _info(name: str, array: np.ndarray) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)


# --- the changes


def _plain(model: ModelProto) -> Iterator[ModelProto]:
    """Constant nodes become initializers, halves become singles, dynamic dimensions get a size."""
    yield with_initializers(model)
    copy = _copy(model)
    for value in [*copy.graph.input, *copy.graph.output]:
        if value.type.tensor_type.elem_type == TensorProto.FLOAT16:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    for tensor in copy.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT16:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
    yield copy
    copy = _copy(model)
    for value in [*copy.graph.input, *copy.graph.output]:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in WORLDS[0]:
                dim.dim_value = WORLDS[0][dim.dim_param]
    values = _inner(copy)
    _set(copy.graph.output, [_info(o.name, values[o.name]) if o.name in values else o for o in copy.graph.output])
    yield copy


def with_initializers(model: ModelProto) -> ModelProto:
    """The same model with initializers instead of Constant nodes."""
    copy = _copy(model)
    for node in [n for n in copy.graph.node if n.op_type == "Constant" and n.attribute[0].name == "value"]:
        tensor = copy.graph.initializer.add()
        tensor.CopyFrom(node.attribute[0].t)
        tensor.name = node.output[0]
        copy.graph.node.remove(node)
    return copy


def _outputs(model: ModelProto) -> Iterator[ModelProto]:
    for place in range(len(model.graph.output)):
        copy = _copy(model)
        del copy.graph.output[place]
        yield copy


def _later(model: ModelProto) -> Iterator[ModelProto]:
    """What computes an output goes, and its inputs become the outputs."""
    values = _inner(model)
    for output in model.graph.output:
        node = next((n for n in model.graph.node if output.name in n.output), None)
        inputs = [n for n in (node.input if node else ()) if n in values]
        others = [o for o in model.graph.output if o.name != output.name]
        for names in ([n] for n in inputs) if len(inputs) > 1 else [inputs]:
            if names:
                copy = _copy(model)
                there = {o.name for o in others}
                _set(copy.graph.output, [*others, *(_info(n, values[n]) for n in names if n not in there)])
                yield copy


def _bypassed(model: ModelProto) -> Iterator[ModelProto]:
    """The readers of a node read its input."""
    values = {**_inner(model), **feeds(model, 0, 0, 1.0)}
    for node in list(model.graph.node)[::-1]:
        for out in node.output:
            for name in node.input:
                if out in values and name in values and _alike(values[out], values[name]):
                    yield _rewired(model, out, name)


def _alike(one: np.ndarray, other: np.ndarray) -> bool:
    return one.shape == other.shape and one.dtype == other.dtype


def _rewired(model: ModelProto, old: str, new: str) -> ModelProto:
    copy = _copy(model)
    for node in copy.graph.node:
        for place, name in enumerate(node.input):
            if name == old:
                node.input[place] = new
    produced = {o for n in copy.graph.node for o in n.output}
    for value in copy.graph.output:
        if value.name == old and new in produced:
            value.name = new
    return copy


def _frozen(model: ModelProto) -> Iterator[ModelProto]:
    """A computed tensor becomes a constant."""
    outputs = {o.name for o in model.graph.output}
    for name, array in _inner(model).items():
        if name not in outputs:
            yield _given(model, name, array, constant=True)


def _earlier(model: ModelProto) -> Iterator[ModelProto]:
    """A computed tensor becomes an input."""
    outputs = {o.name for o in model.graph.output}
    for name, array in list(_inner(model).items())[::-1]:
        if name not in outputs and array.dtype.kind == "f":
            yield _given(model, name, array, constant=False)


def _given(model: ModelProto, name: str, array: np.ndarray, *, constant: bool) -> ModelProto:
    copy = _copy(model)
    for node in copy.graph.node:
        for place, out in enumerate(node.output):
            if out == name:
                node.output[place] = f"{name}_unused"
    if constant:
        copy.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
    else:
        copy.graph.input.append(_info(name, array))
    return copy


def _attributes(model: ModelProto) -> Iterator[ModelProto]:
    for index, node in enumerate(model.graph.node):
        for place in range(len(node.attribute)):
            copy = _copy(model)
            del copy.graph.node[index].attribute[place]
            yield copy
        for place in range(2, len(node.input)):
            copy = _copy(model)
            del copy.graph.node[index].input[place:]
            yield copy


def _sizes(model: ModelProto) -> Iterator[ModelProto]:
    """Every dimension of one size gets smaller, all at once; or one axis of one constant and of what must fit it."""
    sizes = {d.dim_value for v in model.graph.input for d in v.type.tensor_type.shape.dim if d.dim_value > 1}
    sizes |= {d for t in model.graph.initializer for d in t.dims if d > 1}
    for size in sorted(sizes, reverse=True):
        for smaller in dict.fromkeys((1, 2, size - 1)):
            if smaller < size:
                for last in (False, True):
                    yield _resized(model, size, smaller, last)


def _resized(model: ModelProto, size: int, smaller: int, last: bool) -> ModelProto:
    """All axes of length `size` are cut to `smaller`: their first entries stay, or their last."""
    copy = _copy(model)
    for value in copy.graph.input:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_value == size:
                dim.dim_value = smaller
    for value in copy.graph.output:
        value.type.tensor_type.ClearField("shape")
    for tensor in copy.graph.initializer:
        array = numpy_helper.to_array(tensor)
        for axis, length in enumerate(array.shape):
            if length == size:
                where = slice(size - smaller, size) if last else slice(0, smaller)
                array = array[(slice(None),) * axis + (where,)]
        if array.dtype == np.int64:
            array = np.where(array == size, smaller, array)
        tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array), tensor.name))
    for node in copy.graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.INT and attribute.i == size and attribute.name != "to":
                attribute.i = smaller
    return _declared(copy)


def _declared(model: ModelProto) -> ModelProto:
    """The outputs declared as they are."""
    values = _inner(model)
    _set(model.graph.output, [_info(o.name, values[o.name]) if o.name in values else o for o in model.graph.output])
    return model


def _values(model: ModelProto) -> Iterator[ModelProto]:
    """Simpler floats: ones where they are not zero, or one decimal."""
    for index, tensor in enumerate(model.graph.initializer):
        array = numpy_helper.to_array(tensor)
        if array.dtype.kind != "f" or not array.size:
            continue
        for simple in (np.where(array != 0, 1.0, 0.0), np.round(array.astype(np.float64), 1)):
            if not np.array_equal(simple.astype(array.dtype), array):
                copy = _copy(model)
                copy.graph.initializer[index].CopyFrom(numpy_helper.from_array(simple.astype(array.dtype), tensor.name))
                yield copy


def _renamed(model: ModelProto) -> ModelProto:
    """Short names: x for inputs, w for constants, t for what is computed, y for outputs."""
    copy = _copy(model)
    names = {v.name: f"x{i}" for i, v in enumerate(model.graph.input)}
    names |= {t.name: f"w{i}" for i, t in enumerate(model.graph.initializer)}
    computed = [o for n in model.graph.node for o in n.output if o]
    names |= {o: f"t{i}" for i, o in enumerate(computed)}
    names |= {o.name: f"y{i}" for i, o in enumerate(model.graph.output)}
    for value in [*copy.graph.input, *copy.graph.output, *copy.graph.initializer]:
        value.name = names.get(value.name, value.name)
    for node in copy.graph.node:
        node.name = ""
        for field in (node.input, node.output):
            for place, name in enumerate(field):
                field[place] = names.get(name, name)
        for attribute in node.attribute:
            for child in attribute.g.node:
                for place, name in enumerate(child.input):
                    child.input[place] = names.get(name, name)
    return copy
