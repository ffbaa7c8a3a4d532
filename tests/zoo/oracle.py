"""Oracles that know nothing of the package: run a model, compare two, test what a builder claims about its model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnxruntime
from onnx import ModelProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from .net import Claim

Arrays = dict[str, np.ndarray]

TOLERANCE = 1e-5
"""Relative to max |y|: ten times the float32 noise of a right removal, far below the effect of a wrong one."""

HALF_TOLERANCE = 4e-3
"""The same for outputs in float16, whose last digit is worth 1e-3."""


def required_inputs(model: ModelProto) -> list[onnx.ValueInfoProto]:
    """The inputs that a caller must give: those without an initializer."""
    defaults = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in defaults]


def feeds(model: ModelProto, seed: int, size: Mapping[str, int] | None = None) -> Arrays:
    """Standard normal inputs (coin flips for booleans); `size` gives the symbolic dimensions, "" the nameless ones.

    Images get patches of 16 x 16 pixels on top: white noise alone looks all the same behind a global pool.
    """
    rng = np.random.default_rng(1000 + seed)
    arrays = {}
    for value in required_inputs(model):
        tensor = value.type.tensor_type
        shape = [d.dim_value if d.HasField("dim_value") else (size or {})[d.dim_param] for d in tensor.shape.dim]
        dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        array = rng.random(shape) > 0.5 if dtype == np.bool_ else rng.standard_normal(shape)
        if len(shape) == 4 and min(shape[2:]) >= 32:
            coarse = rng.standard_normal([*shape[:2], *(-(-side // 16) for side in shape[2:])])
            array = array + 2 * np.kron(coarse, np.ones((16, 16)))[:, :, : shape[2], : shape[3]]
        arrays[value.name] = np.asarray(array).astype(dtype)
    return arrays


def session(model: ModelProto, *, optimize: bool, threads: int = 2) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimize else levels.ORT_DISABLE_ALL
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def run(model: ModelProto, arrays: Arrays, *, optimize: bool = False) -> Arrays:
    opened = session(model, optimize=optimize)
    return dict(zip([output.name for output in opened.get_outputs()], opened.run(None, arrays), strict=True))


def run_reference(model: ModelProto, arrays: Arrays) -> Arrays | None:
    """The outputs according to onnx.reference, or None where it does not implement the model."""
    try:
        evaluator = ReferenceEvaluator(model)
        return dict(zip(evaluator.output_names, evaluator.run(None, arrays), strict=True))
    except Exception:  # it raises many unrelated types for what it does not know
        return None


def relative_error(expected: np.ndarray, actual: np.ndarray) -> float:
    """max |expected - actual| / max |expected|, infinite for other shapes, types or non-finite values."""
    if expected.shape != actual.shape or expected.dtype != actual.dtype:
        return float("inf")
    if expected.dtype.kind != "f":
        return 0.0 if np.array_equal(expected, actual) else float("inf")
    if not (np.isfinite(expected).all() and np.isfinite(actual).all()):
        return float("inf")
    if expected.size == 0:
        return 0.0
    wide = expected.astype(np.float64)
    difference = np.abs(wide - actual.astype(np.float64)).max()
    return float(difference / max(np.abs(wide).max(), np.finfo(np.float32).tiny))


def assert_equal(expected: Arrays, actual: Arrays, tolerance: float = TOLERANCE, what: str = "") -> None:
    assert list(expected) == list(actual), f"{what}: outputs are {list(actual)}, not {list(expected)}"
    for name, array in expected.items():
        bound = max(tolerance, HALF_TOLERANCE) if array.dtype == np.float16 else tolerance
        error = relative_error(array, actual[name])
        assert error <= bound, (
            f"{what}: output {name} {array.shape} -> {actual[name].shape} is off by {error:.2e} of max |y|"
        )


def type_of(value: onnx.ValueInfoProto) -> tuple[str, int, list[int | str]]:
    tensor = value.type.tensor_type
    dims = [d.dim_value if d.HasField("dim_value") else d.dim_param for d in tensor.shape.dim]
    return value.name, tensor.elem_type, dims


def interface(model: ModelProto) -> dict[str, object]:
    """What a caller sees and what may not change."""
    return {
        "inputs": [type_of(value) for value in required_inputs(model)],
        "outputs": [type_of(value) for value in model.graph.output],
        "ir_version": model.ir_version,
        "opsets": sorted((opset.domain, opset.version) for opset in model.opset_import),
        "producer": (model.producer_name, model.producer_version, model.domain, model.model_version, model.doc_string),
        "graph": (model.graph.name, model.graph.doc_string),
    }


# --- claims


def expose(model: ModelProto, tensors: Sequence[str]) -> ModelProto:
    """A copy that also answers with `tensors`."""
    copy = ModelProto()
    copy.CopyFrom(model)
    shown = {output.name for output in copy.graph.output}
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in dict.fromkeys(tensors) if name not in shown)
    return copy


def with_noise(model: ModelProto, noise: Mapping[str, np.ndarray]) -> ModelProto:
    """A copy in which every reader of the named tensors sees them with an array added, which may broadcast."""
    copy = ModelProto()
    copy.CopyFrom(model)
    nodes = []
    for node in copy.graph.node:
        for i, name in enumerate(node.input):
            if name in noise:
                node.input[i] = f"{name}:noisy"
        nodes.append(node)
        for name in set(node.output) & set(noise):
            constant = numpy_helper.from_array(noise[name])
            nodes.append(helper.make_node("Constant", [], [f"{name}:noise"], value=constant))
            nodes.append(helper.make_node("Add", [name, f"{name}:noise"], [f"{name}:noisy"]))
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del copy.graph.node[:]
    copy.graph.node.extend(kept)
    return copy


def slice_noise(claim: Claim, value: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Noise like `value`, ten times standard normal in the claimed slices and zero elsewhere."""
    noise = np.zeros_like(value)
    where = [slice(None)] * value.ndim
    where[claim.axis] = list(claim.indices)
    noise[tuple(where)] = (10 * rng.standard_normal(noise[tuple(where)].shape)).astype(value.dtype)
    return noise


def assert_claims(model: ModelProto, claims: Sequence[Claim], size: Mapping[str, int] | None = None) -> None:
    """Known slices have one value on all inputs and positions; noise in unread ones changes no output."""
    rng = np.random.default_rng(7)
    exposed = expose(model, [claim.tensor for claim in claims])
    arrays = [feeds(model, seed, size) for seed in (0, 1)]
    answers = [run(exposed, array) for array in arrays]
    for claim in claims:
        if claim.kind == "known":
            values = np.stack([np.take(answer[claim.tensor], claim.indices, claim.axis) for answer in answers])
            rows = np.moveaxis(values, claim.axis + 1, 0).reshape(len(claim.indices), -1).astype(np.float64)
            spread = rows.max(axis=1) - rows.min(axis=1)
            assert (spread <= 1e-6 * np.maximum(1, np.abs(rows).max(axis=1))).all(), f"{claim}: {spread}"
        else:
            noisy = with_noise(model, {claim.tensor: slice_noise(claim, answers[0][claim.tensor], rng)})
            expected = {output.name: answers[0][output.name] for output in model.graph.output}
            assert_equal(expected, run(noisy, arrays[0]), 1e-6, str(claim))
