"""Every operator has a rule or a deliberate barrier, and the table that says so is made from the rules."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import onnx
import onnxruntime
import pytest

from onnxshrink.ops.contraction import Contraction
from onnxshrink.ops.rule import FAMILIES, Rule, registered

ROOT = Path(__file__).resolve().parent.parent


def unregistered(operators: set[tuple[str, str]]) -> list[tuple[str, str]]:
    return sorted(operators - registered().keys())


def test_every_operator_of_onnx_has_a_rule_or_a_reason() -> None:
    schemas = {("" if s.domain == "ai.onnx" else s.domain, s.name) for s in onnx.defs.get_all_schemas_with_history()}
    assert len(schemas) > 220
    assert unregistered(schemas) == []


def test_every_operator_of_onnx_runtime_has_a_rule_or_a_reason() -> None:
    if onnxruntime.__version__ != "1.31.1":
        pytest.skip(f"the list was made for ONNX Runtime 1.31.1, this is {onnxruntime.__version__}")
    state = importlib.import_module("onnxruntime.capi.onnxruntime_pybind11_state")
    schemas = {("" if s.domain == "ai.onnx" else s.domain, s.name) for s in state.get_all_operator_schema()}
    assert len({s for s in schemas if s[0] == "com.microsoft"}) > 120
    assert unregistered(schemas) == []


def test_every_rule_says_what_it_is() -> None:
    for (domain, operator), rule in registered().items():
        assert rule.family in FAMILIES, (domain, operator)
        if rule.barrier:
            assert rule.reason != Rule.reason, f"{domain}.{operator} is a barrier without a reason"


def test_the_table_of_operators_is_up_to_date() -> None:
    spec = importlib.util.spec_from_file_location("operators", ROOT / "tools" / "operators.py")
    assert spec is not None
    assert spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    assert (ROOT / "docs" / "operators.md").read_text() == tool.document(), "python tools/operators.py --write"


def test_the_guide_names_every_method_of_a_rule() -> None:
    text = (ROOT / "docs" / "adding-an-operator.md").read_text(encoding="utf-8")
    methods = {name for name, what in vars(Rule).items() if callable(what) and not name.startswith("_")}
    assert set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)) == methods
    own = {name for name, what in vars(Contraction).items() if callable(what) and not name.startswith("_")}
    assert {name for name in own if f"`{name}`" not in text} == set()
