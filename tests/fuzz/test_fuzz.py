"""The fuzzer finds nothing, and it would: a fault in a rule is found and shrunk to a small graph."""

from __future__ import annotations

import time
from collections.abc import Callable

import onnx
import pytest
from onnx import ModelProto

from onnxshrink.ops.broadcast import Broadcast
from onnxshrink.ops.conv import Convolution
from onnxshrink.ops.interval import monotone
from tests.zoo import oracle

from .campaign import Tally, examined, run_seed
from .equality import feeds, worlds
from .generate import make, random_model
from .oracles import Options
from .shrinker import shrink

Fault = Callable[[pytest.MonkeyPatch], None]


def assert_clean(tally: Tally) -> None:
    report = "\n\n".join(f"seed {f['seed']}: {f['kind']}: {f['what']}\n{f['text']}" for f in tally.findings)
    assert not tally.findings, f"\n{report}\n" + "\n".join(tally.lines())


def test_twenty_graphs() -> None:
    tally = Tally()
    for seed in range(20):
        run_seed(seed, tally, shrink_for=5)
    assert_clean(tally)
    assert tally.states["equal"] >= 5, "the graphs have little to cut"


@pytest.mark.fuzz
def test_a_minute() -> None:
    tally, end = Tally(), time.monotonic() + 60
    for seed in range(1000, 3000):
        if time.monotonic() > end:
            break
        run_seed(seed, tally)
    assert_clean(tally)
    assert tally.graphs >= 100
    assert sum(1 for _, cut in tally.pairs.values() if cut) >= 100, "\n".join(tally.lines())


def test_models_are_valid_in_every_world() -> None:
    dynamic = 0
    for seed in range(100, 160):
        model = random_model(seed)
        runner = oracle.session(model, optimize=False, threads=1)
        for world in worlds(model):
            outputs = runner.run(None, feeds(model, 0, world, 1.0))
            assert [list(array.shape) for array in outputs] == [list(t.shapes[world]) for t in make(seed).outputs]
        dynamic += len(worlds(model)) > 1
    assert dynamic >= 10


def test_a_seed_is_one_model() -> None:
    assert random_model(7).SerializeToString() == random_model(7).SerializeToString()


def forgotten_tie(monkeypatch: pytest.MonkeyPatch) -> None:
    ties = Broadcast.ties
    monkeypatch.setattr(Broadcast, "ties", lambda self, node, context: ties(self, node, context)[:-1])


def ignored_padding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Convolution, "padded", lambda self, node, context: False)


def wrong_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    from onnxshrink.ops import rule_for

    relu = rule_for(onnx_node("Relu"))
    monkeypatch.setattr(relu, "limits", monotone(lambda x, n: x.clip(0.0, 1.0)))


def onnx_node(op: str):  # type: ignore[no-untyped-def]
    from onnxshrink.graph.model import Model
    from onnxshrink.graph.view import build

    text = f'<ir_version: 8, opset_import: ["" : 17]> g (float[1] x) => (float[1] y) {{ y = {op} (x) }}'
    return build(Model(onnx.parser.parse_model(text))).nodes[0]


FAULTS = [(forgotten_tie, 12), (ignored_padding, 4), (wrong_bound, 94)]
"""Faults, and the seed from which on they are looked for."""


@pytest.mark.parametrize(("fault", "first"), FAULTS)
def test_a_fault_is_found(fault: Fault, first: int, monkeypatch: pytest.MonkeyPatch) -> None:
    fault(monkeypatch)
    assert any(examined(random_model(seed), Options.of(seed)).findings for seed in range(first, first + 60))


@pytest.mark.slow
@pytest.mark.parametrize(("fault", "first"), FAULTS)
def test_a_fault_is_shrunk(fault: Fault, first: int, monkeypatch: pytest.MonkeyPatch) -> None:
    fault(monkeypatch)
    tally = Tally()
    for seed in range(first, first + 60):
        run_seed(seed, tally)
        if tally.findings:
            break
    minimal = onnx.parser.parse_model(tally.findings[0]["text"])
    assert len(minimal.graph.node) <= 8, tally.findings[0]["text"]


def test_shrinker_keeps_only_what_fails() -> None:
    """Of a random model with a Sigmoid only the Sigmoid is left, on one element."""
    seed = next(s for s in range(300) if any(n.op_type == "Sigmoid" for n in random_model(s).graph.node))

    def fails(model: ModelProto) -> bool:
        try:
            onnx.checker.check_model(model, full_check=True)
            oracle.session(model, optimize=False, threads=1)
        except Exception:  # a candidate that is no model
            return False
        return any(n.op_type == "Sigmoid" for n in model.graph.node)

    minimal = shrink(random_model(seed), fails)
    assert [n.op_type for n in minimal.graph.node] == ["Sigmoid"]
