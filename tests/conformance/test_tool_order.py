"""Other tools before and after: the smallest network by default, all of them with `-m slow`."""

from __future__ import annotations

import pytest

from . import tool_order

FAST = ("resnet20_gated: onnxslim, shrink", "resnet20_gated: shrink, QDQ")


@pytest.mark.parametrize(
    "name", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in tool_order.names()]
)
def test_order(name: str) -> None:
    pytest.importorskip("onnxsim")
    pytest.importorskip("onnxslim")
    assert tool_order.run(name).state == "equal"
