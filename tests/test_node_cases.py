"""onnx's own node cases, which nobody here wrote: never a crash, never another result."""

from __future__ import annotations

import warnings

import numpy as np
import onnxruntime as ort
import pytest
from onnx.backend.test.case.node import collect_testcases

import onnxshrink
from onnxshrink.errors import OnnxshrinkError

ort.set_default_logger_severity(4)


def run(model, feeds):  # type: ignore[no-untyped-def]
    """Outputs under ONNX Runtime; None where it cannot run the case."""
    try:
        session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        names = [i.name for i in session.get_inputs()]
        return session.run(None, dict(zip(names, feeds, strict=False)))
    except Exception:  # not every case is implemented
        return None


@pytest.mark.slow
def test_node_cases_keep_their_result() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cases = collect_testcases(None)
    assert len(cases) > 1500
    changed = compared = 0
    for case in cases:
        try:
            result = onnxshrink.optimize(case.model, align=1, verify=False)
        except OnnxshrinkError:
            continue
        if not result.changed:
            continue
        changed += 1
        feeds = case.data_sets[0][0]
        before, after = run(case.model, feeds), run(result.model, feeds)
        if before is None:
            continue
        assert after is not None, f"{case.name} runs no more"
        compared += 1
        for x, y in zip(before, after, strict=True):
            if isinstance(x, np.ndarray) and x.dtype.kind in "fiub":
                np.testing.assert_allclose(y, x, rtol=1e-5, atol=1e-6, err_msg=case.name)
    assert compared > 50
    assert changed >= compared
