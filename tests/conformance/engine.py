"""Two engines that know nothing of the package run a model: ONNX Runtime, and onnx.reference where it cannot.

A result is held against its original under the engine that runs the original: outputs of every kind (tensors,
sequences, optionals, strings), integers and strings exactly, floats relative to max |y|, non-finite values in place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime
from onnx import ModelProto, TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator

NEWEST_IN_RUNTIME = 27
"""ONNX Runtime refuses opsets that it does not know, also where the operators did not change in between."""

TOLERANCES = {"float16": 4e-3, "bfloat16": 3e-2, "float8": 0.2}
"""Relative to max |y|, for outputs of few digits; all others have 1e-5."""

Feeds = Mapping[str, Any]

onnxruntime.set_default_logger_severity(4)


class CannotRun(Exception):
    """No engine runs the model."""


def run(model: ModelProto, feeds: Feeds, engine: str) -> list[Any]:
    """The outputs of a model under "runtime", "runtime, optimized" or "reference".

    Raises:
        CannotRun: the engine does not implement the model.
    """
    try:
        if engine == "reference":
            return ReferenceEvaluator(model).run(None, dict(feeds))
        return _session(model, engine == "runtime, optimized").run(None, dict(feeds))
    except Exception as error:  # both raise many unrelated types for what they do not know
        raise CannotRun(
            f"{engine}: {str(error).strip().splitlines()[0][:300] if str(error).strip() else error!r}"
        ) from None


def _session(model: ModelProto, optimized: bool) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimized else levels.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(_known(model), options, providers=["CPUExecutionProvider"])


def _known(model: ModelProto) -> bytes:
    """The model, with the newest opset that ONNX Runtime knows."""
    if all(o.version <= NEWEST_IN_RUNTIME for o in model.opset_import if not o.domain):
        return model.SerializeToString()
    copy = ModelProto()
    copy.CopyFrom(model)
    for opset in copy.opset_import:
        if not opset.domain:
            opset.version = min(opset.version, NEWEST_IN_RUNTIME)
    return copy.SerializeToString()


def engines_for(model: ModelProto, feeds: Feeds) -> dict[str, list[Any]]:
    """The engines that run the original, with its outputs; both settings of ONNX Runtime, or the reference."""
    answers: dict[str, list[Any]] = {}
    reasons = []
    for engine in ("runtime", "runtime, optimized", "reference"):
        if engine == "reference" and answers:
            break
        try:
            answers[engine] = run(model, feeds, engine)
        except CannotRun as error:
            reasons.append(str(error))
    if not answers:
        raise CannotRun("; ".join(dict.fromkeys(reasons)))
    return answers


def difference(expected: Any, actual: Any) -> str:
    """What is different between two outputs; empty where they are equal."""
    if isinstance(expected, list | tuple):
        if not isinstance(actual, list | tuple) or len(expected) != len(actual):
            return f"a sequence of {len(expected)} became {actual!r}"[:200]
        return next((text for x, y in zip(expected, actual, strict=True) if (text := difference(x, y))), "")
    if isinstance(expected, Mapping):
        return "" if expected == actual else "the maps differ"
    if expected is None or actual is None:
        return "" if expected is actual else "an optional output appeared or disappeared"
    x, y = np.asarray(expected), np.asarray(actual)
    if x.shape != y.shape or x.dtype != y.dtype:
        return f"{x.dtype}{list(x.shape)} became {y.dtype}{list(y.shape)}"
    if x.dtype.kind in "OSUbiu" and x.dtype.names is None:
        return "" if np.array_equal(x, y) else f"{int((x != y).sum())} of {x.size} exact values differ"
    return _distance(x, y)


def _distance(x: np.ndarray, y: np.ndarray) -> str:
    bound = next((t for name, t in TOLERANCES.items() if x.dtype.name.startswith(name)), 1e-5)
    kind = np.complex128 if x.dtype.kind == "c" else np.float64
    x, y = x.astype(kind), y.astype(kind)
    finite = np.isfinite(x)
    if not np.array_equal(x[~finite], y[~finite], equal_nan=True) or not np.isfinite(y[finite]).all():
        return "values that are not finite differ"
    if not finite.any():
        return ""
    error = np.abs(x[finite] - y[finite]).max() / max(np.abs(x[finite]).max(), 1e-30)
    return f"off by {error:.1e} of max |y|" if error > bound else ""


def finite(values: Sequence[Any]) -> bool:
    """Whether all numbers in the outputs are finite."""
    for value in values:
        if isinstance(value, list | tuple):
            if not finite(value):
                return False
        elif value is not None and not isinstance(value, Mapping):
            array = np.asarray(value)
            if array.dtype.kind in "fc" and not np.isfinite(array).all():
                return False
    return True


def as_array(value: Any) -> Any:
    """A value of a test data set as the engines take it."""
    return numpy_helper.to_array(value) if isinstance(value, TensorProto) else value


def same_answers(model: ModelProto, answers: Mapping[str, Sequence[Any]], feeds: Feeds) -> str:
    """What is different when `model` runs under each engine that ran the original; empty where nothing is."""
    names = [output.name for output in model.graph.output]
    for engine, expected in answers.items():
        try:
            actual = run(model, feeds, engine)
        except CannotRun as error:
            return f"the original runs, the result does not: {error}"
        for name, x, y in zip(names, expected, actual, strict=True):
            text = difference(x, y)
            if text:
                return f"{engine}: output {name}: {text}"
    return ""
