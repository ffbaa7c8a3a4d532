"""Tables of layer latencies: what is measured, what is said of the rest, and that nothing measured is lost.

No test looks at a real clock: layers are timed by a function of their channels.
"""

from __future__ import annotations

import functools
import itertools
import json
import math
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

from onnxshrink import runtime
from onnxshrink.benchmark import LayerLatency, latency, layer_latency, macs, measure_layers, own_widths, read_table
from onnxshrink.benchmark.layers import find_layers
from onnxshrink.cli import cli
from onnxshrink.errors import InputError, ModelError
from tests.pruning.nets import Maker, depthwise, grouped, residual, upsampling

SECONDS = 0.01


def widths(data: bytes) -> tuple[int, int]:
    """Inputs and outputs of a layer alone: a Conv without groups."""
    outputs, inputs, *_ = onnx.load_from_string(data).graph.initializer[0].dims
    return inputs, outputs


def stairs(count: int, step: int, odd: float = 1.0) -> float:
    return math.ceil(count / step) * step * (odd if count % 4 else 1.0)


class Counting:
    """A clock that counts what it timed: a staircase in each direction, and a factor for odd inputs."""

    def __init__(self, step: tuple[int, int] = (16, 8), odd: float = 1.5, stop: int | None = None):
        self.step, self.odd, self.stop = step, odd, stop
        self.seen: list[bytes] = []

    def __call__(self, model: bytes, feeds: dict[str, np.ndarray], seconds: float) -> float:
        if len(self.seen) == self.stop:
            raise KeyboardInterrupt
        self.seen.append(model)
        inputs, outputs = widths(model)
        return stairs(inputs, self.step[0], self.odd) * stairs(outputs, self.step[1]) / 1000


def convs(*channels: int) -> onnx.ModelProto:
    m = Maker([1, channels[0], 6, 6])
    x = "x"
    for before, after in itertools.pairwise(channels):
        x = m.op("Relu", m.conv(x, before, after))
    return m.model(x)


@pytest.mark.parametrize("step", [(16, 8), (8, 16), (16, 16), (8, 8), (4, 4), (4, 16)])
def test_steps_are_found(step: tuple[int, int]) -> None:
    """With the steps of the machine every count that 4 divides is right, measured or not, and so is an odd one."""
    clock = Counting(step)
    table = measure_layers(convs(3, 64, 96, 5), clock=clock, seconds=SECONDS)
    layer = table.layers["w2"]
    assert tuple(found for found, _ in layer.steps) == step
    assert layer.steps[0][1] == pytest.approx(clock.odd, abs=0.01)
    assert layer.steps[1][1] == 1
    for inputs in (17, 20, 24, 32, 36, 44, 63, 64):
        for outputs in (24, 40, 48, 68, 90, 96):
            expected = stairs(inputs, step[0], clock.odd) * stairs(outputs, step[1]) / 1000
            assert float(layer.at(inputs, outputs)) == pytest.approx(expected, rel=0.01), (inputs, outputs)


def test_interpolation_is_bilinear_and_exact_at_points() -> None:
    rng = np.random.default_rng(0)
    grid = [(i, o, float(rng.uniform(1, 2))) for i in (8, 16, 32) for o in (4, 20)]
    layer = LayerLatency("Conv", tuple(grid))
    for i, o, ms in grid:
        assert float(layer.at(i, o)) == pytest.approx(ms)
    known = {(i, o): ms for i, o, ms in grid}
    middle = (known[8, 4] + known[8, 20] + known[16, 4] + known[16, 20]) / 4
    assert float(layer.at(12, 12)) == pytest.approx(middle)
    assert layer.at(0, 4) == layer.at(8, 0) == 0
    many = layer.at(np.array([[8], [12]]), np.array([4, 12]))
    assert many.shape == (2, 2)
    assert many[1, 1] == pytest.approx(middle)


@pytest.mark.parametrize("made", [residual, depthwise, grouped, upsampling])
def test_a_layer_alone_is_the_layer(made) -> None:  # type: ignore[no-untyped-def]
    """It multiplies as often as in the model, it runs with every count of the table, and the work is in proportion."""
    model = made()
    shape = (1, *(d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim[1:]))
    layers = [*find_layers(model, None, {"x": shape})]
    total = sum(macs(layer.model(*layer.width)) or 0 for layer in layers)
    assert total == macs(model, {"x": shape})
    for layer in layers:
        full = macs(layer.model(*layer.width))
        assert full
        inputs, outputs = layer.grid()
        assert (inputs[-1], outputs[-1]) == layer.width
        pairs = {(i, o) for i in inputs for o in outputs}
        pairs |= {(i, outputs[-1]) for i in layer.probes(0)} | {(inputs[-1], o) for o in layer.probes(1)}
        for i, o in pairs:
            alone = layer.model(i, o)
            assert macs(alone) == full * i * o // (layer.width[0] * layer.width[1])
            (y,) = runtime.session(alone.SerializeToString()).run(None, layer.feeds(i, o))
            assert y.shape[-1 if layer.node.op_type in ("Gemm", "MatMul") else 1] == o


def test_what_never_changes_is_measured_once() -> None:
    clock = Counting()
    table = measure_layers(convs(3, 32, 32, 32, 10), clock=clock, seconds=SECONDS)
    assert table.layers["w0"].counts(0) == [3]
    assert {widths(seen)[0] for seen in clock.seen if widths(seen)[0] < 4} == {3}
    assert table.layers["w2"] == table.layers["w4"]
    assert len(set(clock.seen)) == len(clock.seen), "two layers of one kind are one"


def test_an_interrupted_run_is_taken_up(tmp_path: Path) -> None:
    source, output = tmp_path / "model.onnx", tmp_path / "table.json"
    onnx.save(convs(3, 8, 12, 16), source)
    whole = Counting()
    expected = measure_layers(source, clock=whole, seconds=SECONDS)
    first, second = Counting(stop=len(whole.seen) - 2), Counting()
    with pytest.raises(KeyboardInterrupt):
        measure_layers(source, output, clock=first, seconds=SECONDS)
    kept = read_table(output)
    assert list(kept.layers) == ["w0", "w2"]
    assert not kept.whole
    found = measure_layers(source, output, clock=second, seconds=SECONDS)
    assert found.layers == expected.layers == read_table(output).layers
    assert 0 < len(second.seen) < len(whole.seen)
    assert found.whole > 0
    third = Counting(stop=0)
    assert measure_layers(source, output, clock=third, seconds=SECONDS).layers == expected.layers


def test_the_sum_and_the_file(tmp_path: Path) -> None:
    output = tmp_path / "table.json"
    table = measure_layers(convs(3, 16, 24, 8), output, clock=Counting((4, 4)), seconds=SECONDS)
    assert table.sum(own_widths(table)) == pytest.approx((4 * 1.5 * 16 + 16 * 24 + 24 * 8) / 1000)
    again = read_table(output)
    assert again == table
    assert again.same_place(table)
    assert {"onnxruntime", "cpu", "cpus"} <= again.environment.keys()


def test_the_table_of_something_else_is_not_written_over(tmp_path: Path) -> None:
    output = tmp_path / "table.json"
    measure_layers(convs(3, 8, 8), output, clock=Counting(), seconds=SECONDS)
    before = output.read_bytes()
    with pytest.raises(InputError, match="of another model"):
        measure_layers(convs(3, 8, 9), output, clock=Counting(), seconds=SECONDS)
    with pytest.raises(InputError, match="of another model"):
        measure_layers(convs(3, 8, 8), output, threads=1, clock=Counting(), seconds=SECONDS)
    output.with_name("other.json").write_text("{}")
    with pytest.raises(InputError, match="no table of layer latencies"):
        measure_layers(convs(3, 8, 8), output.with_name("other.json"), clock=Counting(), seconds=SECONDS)
    assert output.read_bytes() == before


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda found: found.update(version=7), "version 7, expected 1"),
        (lambda found: found["layers"]["w2"].pop(), "`w2` are no grid"),
        (lambda found: found.pop("steps"), "no table of layer latencies: KeyError"),
    ],
)
def test_bad_tables(tmp_path: Path, damage, message: str) -> None:  # type: ignore[no-untyped-def]
    output = tmp_path / "table.json"
    measure_layers(convs(3, 8, 8), output, clock=Counting(), seconds=SECONDS)
    found = json.loads(output.read_text())
    damage(found)
    output.write_text(json.dumps(found))
    with pytest.raises(InputError, match=message):
        read_table(output)


def test_the_gates_read_it(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from onnxshrink.gates import read_latencies

    output = tmp_path / "table.json"
    table = measure_layers(convs(3, 8, 8), output, clock=Counting(), seconds=SECONDS)
    assert read_latencies(output) == {name: list(layer.points) for name, layer in table.layers.items()}


@pytest.mark.parametrize("name", ["mobilenet", "grouped", "vgg"])
def test_the_gates_train_on_it(name: str, tmp_path: Path) -> None:
    """Layers of the exported file are those of the gated network, depthwise and grouped ones too."""
    pytest.importorskip("torch")
    pytest.importorskip("onnxscript")
    from onnxshrink import gates
    from tests.gates.networks import made

    network, example = made(name)
    gates.export(network, tmp_path / "model.onnx", example)
    table = measure_layers(
        tmp_path / "model.onnx",
        tmp_path / "table.json",
        clock=lambda model, feeds, seconds: 1e-6 * (macs(onnx.load_from_string(model)) or 0),
        seconds=SECONDS,
    )
    gated = gates.augment(network, example)
    size = gates.Size(gated, costs=gates.latency_costs(gated, gates.read_latencies(tmp_path / "table.json")))
    assert size.whole == pytest.approx(table.sum(own_widths(table)))
    assert size.whole == pytest.approx(1e-6 * (macs(onnx.load(tmp_path / "model.onnx")) or 0))


def test_the_profile_times_the_layer_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Conversions of layout that ONNX Runtime puts around a layer that stands alone do not count."""
    layer = next(iter(find_layers(convs(32, 32), None, {"x": (1, 32, 6, 6)})))
    taken: list[str] = []
    monkeypatch.setattr(layer_latency, "_faster_half", lambda times: taken.append("kernel") or 1.0)
    clock = layer_latency._Profile(1)
    assert clock(layer.model(32, 32).SerializeToString(), layer.feeds(32, 32), SECONDS) == 1.0
    assert taken == ["kernel"]


def test_copies_share_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The way of other providers, tried on the CPU's memory: each copy has weights of its own and the same input."""
    layer = next(iter(find_layers(convs(8, 12), None, {"x": (1, 8, 6, 6)})))
    copies = layer_latency.COPIES
    model = layer.model(8, 12, copies)
    weights = [t.raw_data for t in model.graph.initializer if len(t.dims) == 4]
    assert len(set(weights)) == len(weights) == copies
    assert macs(model) == copies * (macs(layer.model(8, 12)) or 0)
    monkeypatch.setattr(layer_latency, "on_device", functools.partial(latency.on_device, device="cpu"))
    monkeypatch.setattr(layer_latency, "_faster_half", lambda times: 4.0)
    clock = layer_latency._Copies("cpu", 1)
    assert clock(model.SerializeToString(), layer.feeds(8, 12), SECONDS) == 4.0 / copies


def test_a_model_without_layers() -> None:
    m = Maker([1, 3, 4, 4])
    with pytest.raises(ModelError, match="no convolution or product"):
        measure_layers(m.model(m.op("Relu", "x")))


def test_the_command(tmp_path: Path) -> None:
    source, output = tmp_path / "model.onnx", tmp_path / "table.json"
    onnx.save(convs(3, 8, 8), source)
    arguments = ["bench", str(source), "--layers", "-o", str(output), "--threads", "1", "--seconds", "0.1"]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 0, result.output
    assert "ratio" in result.output
    assert len(read_table(output).layers) == 2
    for wrong in (["--layers"], ["-o", str(output)], [str(source), "--layers", "-o", str(output)]):
        result = CliRunner().invoke(cli, ["bench", str(source), *wrong])
        assert isinstance(result.exception, InputError)
        assert "go together" in str(result.exception)
