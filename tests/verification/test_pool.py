"""Sessions: opened once, and no more at a time than the weights allow."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from onnxshrink.verification import pool as pools
from onnxshrink.verification import verify
from onnxshrink.verification.pool import PLAIN, BrokenError, Pool
from onnxshrink.verification.variants import open_source

from .models import parse, weights

TEXT = "g (float[1,3,8,8] x) => (int64[1,1,6,6] y) { a = Conv(x, w) y = ArgMax<axis=1>(a) }"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    onnx.save(parse(TEXT, weights(w=(8, 3, 3, 3))), tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[tuple[object, bool]]:
    """The sessions that are opened, in order."""
    found: list[tuple[object, bool]] = []
    original = pools.runtime.session

    def session(what, **options):
        found.append((what if isinstance(what, Path) else "variant", options["optimize"]))
        return original(what, **options)

    monkeypatch.setattr(pools.runtime, "session", session)
    return found


def test_each_session_is_opened_once(model: Path, opened: list[tuple[object, bool]]) -> None:
    assert verify(model, model).passed
    assert len([o for o in opened if o[0] != "variant"]) == 4


def test_large_weights_are_held_twice(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "BIG", 0)
    most = []
    run = Pool.run

    def watched(self, *args, **options):
        result = run(self, *args, **options)
        most.append(len(self._open))
        return result

    monkeypatch.setattr(Pool, "run", watched)
    assert verify(model, model).passed
    assert max(most) == 2


def test_what_does_not_open_or_run_says_which(tmp_path: Path, model: Path) -> None:
    stranger = parse("g (float[4] x) => (float[4] y) { y = Relu(x) }")
    stranger.graph.node[0].domain = "nobody"
    stranger.opset_import.add(domain="nobody", version=1)
    onnx.save(stranger, tmp_path / "s.onnx")
    pool = Pool(open_source(model), open_source(tmp_path / "s.onnx"), "cpu")
    with pytest.raises(BrokenError) as opening:
        pool.run("result", PLAIN, False, {})
    assert (opening.value.side, opening.value.running) == ("result", False)
    with pytest.raises(BrokenError) as running:
        pool.run("original", PLAIN, False, {})
    assert (running.value.side, running.value.running) == ("original", True)
    verdict = verify(tmp_path / "s.onnx", tmp_path / "s.onnx")
    assert verdict.state == "unverified"
    assert "cannot be run" in verdict.notes[0]
