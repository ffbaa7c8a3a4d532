"""`--input-range`: what saturates within the range that the caller promises goes, and nothing else."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

import onnxshrink
from onnxshrink.cli import cli
from onnxshrink.errors import InputError

from .zoo.net import Net
from .zoo.oracle import run

DEAD = {
    "Relu": (-40.0, 0.0),
    "Clip": (40.0, 6.0),
    "HardSigmoid": (40.0, 1.0),
    "LeakyRelu": None,
    "Tanh": None,  # close to 1 is not 1
}


def model(op: str, bias: float, seed: int = 0) -> onnx.ModelProto:
    """Conv 3 -> 8, whose channels 1 and 6 saturate `op` for images in [0, 1] (|weights| sum to less than 27), Conv."""
    net = Net(seed=seed)
    weight = net.rng.uniform(-1, 1, (8, 3, 3, 3))
    offsets = net.rng.uniform(-0.5, 0.5, 8)
    offsets[[1, 6]] = bias
    image = net.input("x", ("batch", 3, 12, 12))
    hidden = net.op("Conv", image, net.const(weight), net.const(offsets), pads=[1, 1, 1, 1])
    if op == "Clip":
        active = net.op("Clip", hidden, net.const(np.float32(0.0)), net.const(np.float32(6.0)))
    else:
        active = net.op(op, hidden)
    net.output(net.conv(active, 8, 4, 3, pad=1))
    return net.model()


@pytest.mark.parametrize("op", DEAD)
def test_saturated_channels_go_for_the_range_only(op: str) -> None:
    found = DEAD[op]
    original = model(op, found[0] if found else 40.0)
    assert not onnxshrink.optimize(original, align=1).changed
    result = onnxshrink.optimize(original, align=1, input_ranges={"x": (0.0, 1.0)})
    if found is None:
        assert not result.changed
        return
    # a constant other than zero in front of a padded Conv leaves one carrier behind
    assert result.plan.removed["range"] == (2 if found[1] == 0.0 else 1)
    assert result.verification is not None
    assert result.verification.state == "passed"
    assert any("[0, 1]" in note for note in result.notes)
    assert result.map["options"]["input_ranges"] == {"x": [0.0, 1.0]}
    for batch in (1, 3):
        image = np.random.default_rng(batch).random((batch, 3, 12, 12)).astype(np.float32)
        (before,), (after,) = run(original, {"x": image}).values(), run(result.model, {"x": image}).values()
        np.testing.assert_allclose(after, before, rtol=0, atol=1e-5 * np.abs(before).max())


def test_a_range_that_does_not_saturate_keeps_everything() -> None:
    original = model("Relu", -40.0)
    assert not onnxshrink.optimize(original, align=1, input_ranges={"x": (0.0, 255.0)}).changed


def test_ranges_that_cannot_be(tmp_path) -> None:  # type: ignore[no-untyped-def]
    original = model("Relu", -40.0)
    for ranges in ({"y": (0.0, 1.0)}, {"x": (1.0, 0.0)}, {"x": (0.0, float("inf"))}, {"x": (float("nan"), 1.0)}):
        with pytest.raises(InputError):
            onnxshrink.optimize(original, input_ranges=ranges)
    np.savez(tmp_path / "data.npz", x=np.full((1, 3, 12, 12), 2.0, np.float32))
    with pytest.raises(InputError, match="its range was given as 0 to 1"):
        onnxshrink.optimize(original, align=1, input_ranges={"x": (0.0, 1.0)}, data=tmp_path / "data.npz")


def test_on_the_command_line(tmp_path) -> None:  # type: ignore[no-untyped-def]
    source, target = tmp_path / "in.onnx", tmp_path / "out.onnx"
    onnx.save(model("Relu", -40.0), str(source))
    call = ["optimize", str(source), str(target), "--align", "1", "--input-range", "x:0,1", "--json", "-"]
    done = CliRunner().invoke(cli, call)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["channels"]["removed"]["range"] == 2
    metadata = {entry.key: entry.value for entry in onnx.load(str(target)).metadata_props}
    assert metadata["onnxshrink.input_ranges"] == "x:0,1"
    seen = CliRunner().invoke(cli, ["inspect", str(source), "--input-range", "x:0,1", "--json", "-"])
    assert json.loads(seen.stdout)["channels"]["removed"]["range"] == 2
    for wrong in ("x", "x:1", "x:1,0", ":0,1", "x:a,b"):
        assert CliRunner().invoke(cli, ["inspect", str(source), "--input-range", wrong]).exit_code == 2
