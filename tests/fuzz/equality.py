"""Equal outputs: ONNX Runtime with optimizations off and on, in every world, and what a difference means.

A difference is rounding, not an error, where the reference implementation in double precision no longer shows it, or,
where it cannot run the model, where the original itself moves as far when its weights move by one rounding; and where
the output is nothing but what rounding leaves of terms that cancel.
"""

from __future__ import annotations

from typing import TypeGuard

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

from tests.zoo import oracle
from tests.zoo.oracle import Arrays

from .maker import WORLDS
from .precise import in_double, run_double

TOLERANCE = {2: 4e-3, 4: 1e-5, 8: 1e-10}
"""Relative to max |y|, by the width of the float."""

CANCELLED = 1e-6
"""Outputs smaller than this, beside the largest value on the way, are what rounding leaves of terms that cancel."""

SCALES = (1.0, 5.0)


def feeds(model: ModelProto, seed: int, world: int, scale: float) -> Arrays:
    """Inputs of one scale; tokens are small, bytes come from their whole range."""
    rng = np.random.default_rng(1000 + seed)
    arrays: Arrays = {}
    for value in oracle.required_inputs(model):
        tensor = value.type.tensor_type
        shape = [d.dim_value if d.HasField("dim_value") else WORLDS[world][d.dim_param] for d in tensor.shape.dim]
        dtype = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.elem_type))
        if dtype.kind == "f":
            arrays[value.name] = (scale * rng.standard_normal(shape)).astype(dtype)
        else:
            high = {"b": 2, "u": 256}.get(dtype.kind, 4)
            arrays[value.name] = rng.integers(0, high, shape).astype(dtype)
    return arrays


def worlds(model: ModelProto) -> tuple[int, ...]:
    """Both worlds if the model has a dynamic input, else the first."""
    dims = [d for v in oracle.required_inputs(model) for d in v.type.tensor_type.shape.dim]
    return (0, 1) if any(not d.HasField("dim_value") for d in dims) else (0,)


def loads(model: ModelProto, arrays: Arrays) -> bool:
    """Whether ONNX Runtime's optimizations stand the original, and it runs on inputs (some make invalid graphs)."""
    try:
        opened = oracle.session(model, optimize=True, threads=1)
        if arrays:
            opened.run(None, arrays)
    except Exception:  # ONNX Runtime raises many types
        return False
    return True


def grain(model: ModelProto) -> float:
    """What a half somewhere in the model may cost every output, else 0."""
    kinds = {t.data_type for t in model.graph.initializer} | {v.type.tensor_type.elem_type for v in model.graph.input}
    kinds |= {a.i for n in model.graph.node for a in n.attribute if n.op_type == "Cast" and a.name == "to"}
    return TOLERANCE[2] if TensorProto.FLOAT16 in kinds else 0.0


def differs(expected: Arrays, actual: Arrays, grain: float, tolerance: float | None = None) -> str:
    """The first output that is not what it should be, or nothing."""
    for name, array in expected.items():
        other = actual[name]
        if array.shape != other.shape or array.dtype != other.dtype:
            return f"`{name}` is {other.dtype}{list(other.shape)}, not {array.dtype}{list(array.shape)}"
        limit = max(grain, tolerance or TOLERANCE.get(array.dtype.itemsize, 0.0))
        error = oracle.relative_error(array, other)
        if error > limit:
            return f"`{name}` differs by {error:.1e}"
    return ""


def rounding(model: ModelProto, made: ModelProto, arrays: Arrays, expected: Arrays, actual: Arrays) -> bool:
    """Whether a difference is rounding: without rounding it is gone, or the original moves as far by itself."""
    if cancelled(model, arrays, expected, actual):
        return True
    one, other = run_double(in_double(model), arrays), run_double(in_double(made), arrays)
    if trusted(one, expected) and other is not None:
        return not differs(one, other, grain(model), 1e-6) or moves(model, arrays, expected, one, other)
    return _moves_in_runtime(model, arrays, expected, actual)


def cancelled(model: ModelProto, arrays: Arrays, expected: Arrays, actual: Arrays) -> bool:
    """Whether every output that differs is as small, beside what the model computes on the way, as its rounding."""
    inner = [o for n in model.graph.node for o in n.output if o]
    values = oracle.run(oracle.expose(model, inner), arrays).values()
    largest = max((np.abs(v[np.isfinite(v)]).max(initial=0.0) for v in values if v.dtype.kind == "f"), default=0.0)
    small = all(
        max(np.abs(array).max(initial=0.0), np.abs(actual[name]).max(initial=0.0)) <= CANCELLED * largest
        for name, array in expected.items()
        if differs({name: array}, actual, 0.0)
    )
    return bool(largest) and small


def fused(model: ModelProto, arrays: Arrays, expected: Arrays, actual: Arrays) -> bool:
    """Whether ONNX Runtime's optimizations move the original as far (they fold doubles into floats)."""
    if not loads(model, arrays):
        return False
    return _distance(expected, actual) <= 4 * _distance(expected, oracle.run(model, arrays, optimize=True))


def trusted(reference: Arrays | None, expected: Arrays) -> TypeGuard[Arrays]:
    """Whether the reference computes what ONNX Runtime does; it has bugs, such as Conv with a kernel of 1."""
    if reference is None:
        return False
    alike = ((a.astype(np.float64), expected[n].astype(np.float64)) for n, a in reference.items())
    return all(
        a.shape == b.shape and bool(np.abs(a - b).max(initial=0.0) <= 1e-2 * np.abs(b).max(initial=0.0))
        for a, b in alike
    )


def _distance(one: Arrays, other: Arrays) -> float:
    return max((oracle.relative_error(a, other[n]) for n, a in one.items()), default=0.0)


def _scales(model: ModelProto, seed: int, roundings: float) -> dict[str, np.ndarray]:
    """Factors that move every float initializer by so many roundings: zeros stay zeros."""
    rng = np.random.default_rng(seed)
    arrays = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    return {
        n: 1 + roundings * float(np.finfo(a.dtype).eps) * rng.uniform(-1, 1, a.shape)
        for n, a in arrays.items()
        if a.dtype.kind == "f"
    }


def moves(model: ModelProto, arrays: Arrays, expected: Arrays, one: Arrays, other: Arrays) -> bool:
    """Whether weights that move by a rounding move the outputs nearly as far, in double precision, or whether the
    original's own rounding does (what ONNX Runtime gave is `expected`)."""
    moved = [run_double(in_double(model, _scales(model, seed, 1.0)), arrays) for seed in range(4)]
    single = {n: a.astype(one[n].dtype) for n, a in expected.items()}
    reach = max(_distance(one, m) for m in [single, *moved] if m is not None)
    return _distance(one, other) <= 4 * reach


def _moves_in_runtime(model: ModelProto, arrays: Arrays, expected: Arrays, actual: Arrays) -> bool:
    reach = 0.0
    for seed in range(4):
        copy = ModelProto()
        copy.CopyFrom(model)
        scales = _scales(model, seed, 2.0)
        for tensor in copy.graph.initializer:
            if tensor.name in scales:
                array = numpy_helper.to_array(tensor)
                moved = (array.astype(np.float64) * scales[tensor.name]).astype(array.dtype)
                tensor.CopyFrom(numpy_helper.from_array(moved, tensor.name))
        reach = max(reach, _distance(expected, oracle.run(copy, arrays)))
    return _distance(expected, actual) <= 4 * reach
