"""`verify` on two models in memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import ModelProto

from onnxshrink.verification import Verification, verify


@pytest.fixture
def held_against(tmp_path: Path) -> Callable[..., Verification]:
    def run(a: ModelProto, b: ModelProto, **options: object) -> Verification:
        onnx.save(a, tmp_path / "a.onnx")
        onnx.save(b, tmp_path / "b.onnx")
        return verify(tmp_path / "a.onnx", tmp_path / "b.onnx", **options)

    return run
