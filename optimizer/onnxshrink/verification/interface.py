"""What a caller of a model relies on: names, order, types and shapes of inputs and outputs."""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from .operand import text
from .shapes import dims_of


def differences(original: onnx.ModelProto, result: onnx.ModelProto) -> list[str]:
    """One sentence for each difference that a caller could notice; none if the interfaces agree.

    Inputs that are defaults of initializers do not count: the result may list them or not. Names of symbolic
    dimensions do not count either, but a symbolic dimension may not become fixed, nor the other way round.
    """
    return [
        *_compare("input", _fed(original), _fed(result)),
        *_compare("output", list(original.graph.output), list(result.graph.output)),
    ]


def unexchangeable(model: onnx.ModelProto) -> str | None:
    """Why no values can be passed to or from this model; None if they can.

    The Python interface of ONNX Runtime has no arrays of bfloat16, float8 or types below 8 bits.
    """
    for kind, values in (("input", _fed(model)), ("output", model.graph.output)):
        for value in values:
            element = value.type.tensor_type.elem_type if value.type.HasField("tensor_type") else 0
            name = onnx.TensorProto.DataType.Name(element)
            if any(part in name for part in ("BFLOAT16", "FLOAT8", "FLOAT4", "INT4", "INT2")):
                return f"{kind} `{value.name}` is {name.lower()}, of which ONNX Runtime passes no arrays to Python"
    return None


def _fed(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    defaults = {t.name for t in model.graph.initializer} | {t.values.name for t in model.graph.sparse_initializer}
    return [v for v in model.graph.input if v.name not in defaults]


def _compare(kind: str, before: Sequence[onnx.ValueInfoProto], after: Sequence[onnx.ValueInfoProto]) -> list[str]:
    names, now = [v.name for v in before], [v.name for v in after]
    if names != now:
        missing, extra = [n for n in names if n not in now], [n for n in now if n not in names]
        told = [f"{kind} `{n}` is gone" for n in missing] + [f"{kind} `{n}` is new" for n in extra]
        return told or [f"the {kind}s are in another order: {', '.join(now)} instead of {', '.join(names)}"]
    found = []
    for old, new in zip(before, after, strict=True):
        if _type(old) != _type(new):
            found.append(f"{kind} `{old.name}` is {_type(new)} instead of {_type(old)}")
            continue
        was, is_now = dims_of(old), dims_of(new)
        if was is None:
            continue
        fixed = [d if isinstance(d, int) else None for d in was]
        if is_now is None or [d if isinstance(d, int) else None for d in is_now] != fixed:
            found.append(f"{kind} `{old.name}` is declared {text(is_now)} instead of {text(was)}")
    return found


def _type(value: onnx.ValueInfoProto) -> str:
    kind = value.type.WhichOneof("value") or "untyped"
    if kind in ("tensor_type", "sparse_tensor_type"):
        element = getattr(value.type, kind).elem_type
        return f"{kind.removesuffix('_type')}({onnx.TensorProto.DataType.Name(element).lower()})"
    return kind.removesuffix("_type")
