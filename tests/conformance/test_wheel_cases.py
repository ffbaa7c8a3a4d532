"""The wheel's other cases: a few of the small ones by default, all of them with `-m slow`.

The light networks are in tests/test_light_networks.py.
"""

from __future__ import annotations

import pytest

from . import wheel_cases
from .outcome import failures, run_suite


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("part", [0, *(pytest.param(part, marks=pytest.mark.slow) for part in range(1, 40))])
def test_small(part: int) -> None:
    outcomes = run_suite(wheel_cases, wheel_cases.small()[part::40])
    assert not failures(outcomes), failures(outcomes)
    assert part or sum(outcome.removed for outcome in outcomes) > 0
