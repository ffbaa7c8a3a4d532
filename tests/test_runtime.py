"""ONNX Runtime that is missing, doubled or broken is said in one line with its cure."""

from __future__ import annotations

import importlib.metadata
import sys
import types
from collections.abc import Iterator

import pytest

from onnxshrink import runtime
from onnxshrink.errors import RuntimeMissingError


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    runtime.onnxruntime.cache_clear()
    yield
    runtime.onnxruntime.cache_clear()


def installed(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    found = [types.SimpleNamespace(metadata={"Name": name}) for name in names]
    monkeypatch.setattr(importlib.metadata, "distributions", lambda: found)


def test_two_distributions_are_refused_with_the_two_lines_that_help(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, "numpy", "onnxruntime", "onnxruntime_gpu")
    with pytest.raises(RuntimeMissingError, match="overwrite each other") as raised:
        runtime.onnxruntime()
    assert "pip uninstall -y onnxruntime onnxruntime-gpu" in str(raised.value)
    assert "onnxshrink[gpu]" in str(raised.value)


def test_none_names_both_extras(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, "numpy", "onnxruntime-extensions")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(RuntimeMissingError, match="not installed") as raised:
        runtime.onnxruntime()
    assert "onnxshrink[cpu]" in str(raised.value)
    assert "onnxshrink[gpu]" in str(raised.value)


def test_what_is_left_of_a_removed_one_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, "onnxruntime")
    monkeypatch.setitem(sys.modules, "onnxruntime", types.ModuleType("onnxruntime"))
    with pytest.raises(RuntimeMissingError, match="broken"):
        runtime.onnxruntime()


def test_a_build_under_another_name_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, "ort-nightly")
    assert hasattr(runtime.onnxruntime(), "InferenceSession")
