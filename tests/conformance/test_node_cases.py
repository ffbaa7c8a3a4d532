"""onnx's node cases: a few of them by default, all of them with `-m slow`."""

from __future__ import annotations

import zlib

import pytest

from . import node_cases
from .outcome import failures, run_suite

SHARDS = 24


def of_shard(shard: int, shards: int) -> list[str]:
    return [name for name in node_cases.names() if zlib.crc32(name.encode()) % shards == shard]


def test_there_are_as_many_as_ever() -> None:
    assert len(node_cases.names()) > 1500


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_few() -> None:
    names = of_shard(0, 250)
    outcomes = run_suite(node_cases, names)
    assert not failures(outcomes), failures(outcomes)
    assert sum(outcome.removed for outcome in outcomes) > 10


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("shard", range(SHARDS))
def test_all(shard: int) -> None:
    outcomes = run_suite(node_cases, of_shard(shard, SHARDS))
    assert not failures(outcomes), failures(outcomes)
    states = {outcome.state for outcome in outcomes}
    assert "equal" in states
    assert all(outcome.reason for outcome in outcomes if outcome.state in ("refused", "unverified"))
