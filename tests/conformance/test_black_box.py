"""What stays in results although it carries nothing, and that the plan or the data say why."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import onnxshrink
from onnxshrink.result import Result
from onnxshrink.runtime import session
from onnxshrink.verification.inputs import draw, signature, sizes
from onnxshrink.verification.shapes import model_facts
from tests.zoo import light, networks, oracle
from tests.zoo.net import Net
from tests.zoo.oracle import Arrays

from .black_box import Idle, idle_channels, summary

SMALL = ("blazeface_front_128", "fastestdet_coco", "mnist_cnn_pruned", "selfie_seg_landscape", "yunet_n_320")


def optimized(model: onnx.ModelProto | Path) -> Result:
    return onnxshrink.optimize(model, align=1, verify=False)


def assert_explained(found: list[Idle]) -> None:
    print("\n".join(summary(found)))
    missed = [item for item in found if not item.reason]
    assert not missed, "\n".join(summary(missed))


def test_what_an_add_holds_is_found_with_its_reason() -> None:
    """Channel 2 of one branch is zero, but the other branch needs it."""
    net = Net()
    x = net.input("x", (1, 3, 8, 8))
    one = net.conv(x, 3, 4, zero=[2], name="one")
    total = net.op("Add", one, net.conv(x, 3, 4, name="other"))
    model = net.output(net.conv(total, 4, 2, name="y")).model()
    found = idle_channels(optimized(model), [oracle.feeds(model, seed) for seed in (0, 1)])
    assert [(item.layer, item.channel, item.why) for item in found] == [("one", 2, "constant")]
    assert "other" in found[0].reason


def test_what_was_not_cut_has_no_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """A result that still holds a zero channel and an unread one is found out."""
    net = Net()
    x = net.input("x", (1, 3, 8, 8))
    t = net.conv(x, 3, 5, zero=[1], name="t")
    model = net.output(net.conv(t, 5, 2, unread=[3], name="y")).model()
    result = optimized(model)
    result.model = model
    found = idle_channels(result, [oracle.feeds(model, seed) for seed in (0, 1)])
    assert {(item.layer, item.channel, item.why) for item in found} == {("t", 1, "constant"), ("t", 3, "unread")}
    with pytest.raises(AssertionError, match="NO REASON"):
        assert_explained([item for item in found if item.why == "unread"])


@pytest.mark.parametrize("build", [lambda: light.build("squeezenet").model, lambda: planted("unet", "indep")])
def test_planted_networks(build) -> None:  # type: ignore[no-untyped-def]
    model = build()
    feeds = [oracle.feeds(model, seed) for seed in (0, 1)]
    assert_explained(idle_channels(optimized(model), feeds, limit=40))


def planted(architecture: str, scheme: str) -> onnx.ModelProto:
    return networks.planted(architecture, scheme).model


@pytest.mark.shared
@pytest.mark.parametrize("name", SMALL)
def test_published_models(name: str, shared: Path) -> None:
    path = shared / "onnx" / f"{name}.onnx"
    assert_explained(idle_channels(optimized(path), drawn(path), limit=60))


def drawn(path: Path) -> list[Arrays]:
    """Two inputs on which a model runs."""
    model = onnx.load(path)
    specs = signature(model, model_facts(model, path.parent))
    runner = session(path, optimize=False)
    for shapes in sizes(specs, None):
        feeds = [draw(specs, shapes, kind, seed) for seed, kind in enumerate(("normal", "uniform"))]
        try:
            runner.run(None, dict(feeds[0]))
        except Exception:  # the model does not run at this size; ONNX Runtime raises many types
            continue
        return [{name: np.asarray(array) for name, array in feed.items()} for feed in feeds]
    raise AssertionError(f"{path.name} runs at no size")
