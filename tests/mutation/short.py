"""The short suite's own part: every trap once, those of all families mixed, so that a fault is met early.

It says no more than tests/test_traps.py, but says it in a quarter of the time. Not collected by default.
"""

from __future__ import annotations

import zlib

import pytest

import onnxshrink
from tests.test_traps import options
from tests.zoo import oracle
from tests.zoo.net import parameters
from tests.zoo.trap import Trap
from tests.zoo.traps import TRAPS

MIXED = sorted(TRAPS, key=lambda trap: zlib.crc32(trap.name.encode()))


@pytest.mark.parametrize("trap", MIXED, ids=lambda trap: trap.name)
def test_trap(trap: Trap) -> None:
    model = trap.build()
    result = onnxshrink.optimize(model, **options(trap)).model
    assert oracle.interface(result) == oracle.interface(model)
    sessions = [oracle.session(which, optimize=False, threads=1) for which in (model, result)]
    names = [output.name for output in sessions[0].get_outputs()]
    for size in trap.sizes:
        arrays = oracle.feeds(model, 0, size)
        expected, actual = (dict(zip(names, session.run(names, arrays), strict=True)) for session in sessions)
        oracle.assert_equal(expected, actual, what=f"{size}")
    before, after = (parameters(which, integers=trap.integers) for which in (model, result))
    assert before - after >= (trap.removable or 0), f"{before} -> {after}, {trap.removable} can go: {trap.why}"
