"""Latency budgets: the function of the units kept, the search with the table and the clock, and what is said."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

import onnxshrink
from onnxshrink import benchmark, search
from onnxshrink.benchmark import LatencyTable, measure_layers, own_widths
from onnxshrink.benchmark.layers import find_layers
from onnxshrink.cli import cli
from onnxshrink.errors import InputError
from onnxshrink.pruning import masks as zeros
from onnxshrink.pruning.latency import latency_function
from tests.pruning.nets import NETS, inputs, residual
from tests.pruning.test_coupling import shrunk, understood

SHAPES = {"x": (1, 3, 8, 8)}


def work(model: bytes, feeds: object, seconds: float) -> float:
    """A clock for which a layer takes as long as it multiplies, and a little for itself."""
    return 1e-6 * (benchmark.macs(onnx.load_from_string(model)) or 0) + 1e-4


def table_of(model: onnx.ModelProto, *, whole: float | None = None, cpu: str = "another") -> LatencyTable:
    shape = [d.dim_value or 1 for d in model.graph.input[0].type.tensor_type.shape.dim]
    table = measure_layers(model, clock=work, seconds=0.01, input_shapes={"x": tuple(shape)})
    table.whole = table.sum(own_widths(table)) if whole is None else whole
    if cpu:
        table.environment["cpu"] = cpu
    return table


@pytest.mark.parametrize("name", NETS)
def test_it_is_the_sum_over_the_shrunk_models_layers(name: str) -> None:
    solution, classes = understood(NETS[name]())
    model = solution.context.graph.model.proto
    table = table_of(model)
    found = latency_function(solution, classes, table)
    assert found([one.units for one in classes]) == pytest.approx(table.whole)
    rng = np.random.default_rng(0)
    masks = [rng.permutation(one.units) < rng.integers(1, one.units + 1) for one in classes]
    made = shrunk(solution, zeros.zeroed(solution.context, zeros.dead_slices(classes, masks)))
    shape = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim][1:]
    layers = find_layers(made.model, None, {"x": (1, *shape)})
    expected = table.sum({layer.node.output[0]: layer.width for layer in layers})
    assert found([int(mask.sum()) for mask in masks]) == pytest.approx(expected)


def test_the_rest_grows_with_what_is_written() -> None:
    solution, classes = understood(residual())
    table = table_of(residual())
    own = table.whole
    table.whole = 3 * own
    full, half = ([one.units // part for one in classes] for part in (1, 2))
    with_rest, without = (latency_function(solution, classes, replace(table, whole=whole)) for whole in (3 * own, own))
    assert with_rest(full) == with_rest.whole == pytest.approx(3 * own)
    share = (with_rest(half) - without(half)) / (2 * own)
    assert 0.4 < share < 0.6, "all but the pooled and flat tensors have half of the channels"


def data(model: onnx.ModelProto) -> list[dict[str, np.ndarray]]:
    return [{"x": x[None]} for x in inputs(model, 40)]


@pytest.mark.parametrize("allocation", ["knapsack", "uniform", "global", "utilization"])
def test_a_table_of_another_machine(allocation: str) -> None:
    """Nothing is measured here: what counts is what the table says."""
    model = residual()
    table = table_of(model)
    result = onnxshrink.prune(model, data=data(model), keep_latency=0.6, table=table, allocation=allocation, align=1)
    assert result.latency is not None
    assert result.latency.measured is None
    assert 0.5 < result.latency.predicted <= 0.6
    assert "another" in result.latency.place
    widths = {layer.node.output[0]: layer.width for layer in find_layers(result.model, None, SHAPES)}
    assert table.sum(widths) == pytest.approx(result.latency.predicted * table.whole)
    assert all(point.latency is not None for point in result.curve)


def fake_bench(clock: Callable[[float, onnx.ModelProto], float]):  # type: ignore[no-untyped-def]
    """A benchmark whose ratio is what a function makes of the table's, and of the model."""

    def bench(a: Path, b: Path, **options: object) -> benchmark.Benchmark:
        models = [onnx.load(path) for path in (a, b)]
        own, other = (table_of(model).whole for model in models)
        ratio = benchmark.Ratio(clock(other / own, models[1]), 0.0, 2.0, 0.95, 10, 5)
        timing = benchmark.Timing(1.0, 0.9, 1.1, 100)
        return benchmark.Benchmark(
            "a", "b", "CPU", {}, 0, {}, (benchmark.BatchTiming(1, {"x": (1,)}, timing, timing, ratio),)
        )

    return bench


@pytest.mark.parametrize("factor", [1.2, 0.8])
def test_the_clock_corrects_the_table(factor: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search.benchmark, "bench", fake_bench(lambda ratio, model: factor * ratio))
    model = residual()
    result = onnxshrink.prune(model, data=data(model), keep_latency=0.6, table=table_of(model, cpu=""), align=1)
    assert result.latency is not None
    assert result.latency.measured is not None
    assert result.latency.measured.ratio == pytest.approx(factor * result.latency.predicted, rel=0.01)
    assert 0.6 * (1 - 2 * search.LOOSE) <= result.latency.measured.ratio <= 0.6 * (1 + search.CLOSE)


def test_a_clock_that_jumps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice as fast once a little smaller: the table's own answer gives up far more than it has to."""
    looked = []

    def clock(ratio: float, model: onnx.ModelProto) -> float:
        looked.append(ratio)
        return ratio if ratio > 0.93 else ratio / 2

    monkeypatch.setattr(search.benchmark, "bench", fake_bench(clock))
    model = residual()
    result = onnxshrink.prune(model, data=data(model), keep_latency=0.6, table=table_of(model, cpu=""), align=1)
    assert result.latency is not None
    assert looked[0] < 0.61
    assert result.latency.predicted > 0.8
    assert len(looked) <= search.MEASURED_TRIES + 1  # and the result's own


def test_weights_that_are_inputs_are_constants_before_anything_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime is slow where a caller could override weights; that alone keeps to this budget."""

    def clock(ratio: float, model: onnx.ModelProto) -> float:
        return ratio * (1 if len(model.graph.input) > 1 else 0.5)

    monkeypatch.setattr(search.benchmark, "bench", fake_bench(clock))
    model = residual()
    for weight in model.graph.initializer:
        model.graph.input.append(onnx.helper.make_tensor_value_info(weight.name, weight.data_type, weight.dims))
    count = len(model.graph.input) - 1
    samples = [{"x": x[None]} for x in inputs(residual(), 40)]
    result = onnxshrink.prune(model, data=samples, keep_latency=0.75, table=table_of(model, cpu=""), align=1)
    assert [value.name for value in result.model.graph.input] == ["x"]
    assert result.error < 1e-6  # ONNX Runtime folds more where weights are constants
    assert any("no channel was given up" in note for note in result.notes)
    assert any(f"{count} initializers were listed as inputs" in note for note in result.notes)


@pytest.mark.parametrize("factor", [0.05, 1.0])
def test_the_clock_says_what_cannot_be_reached(factor: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table that is wrong about this machine is no reason to give up; one that is right is."""
    monkeypatch.setattr(search.benchmark, "bench", fake_bench(lambda ratio, model: factor * ratio))
    model = residual()
    table = table_of(model, cpu="")
    if factor < 1:
        result = onnxshrink.prune(model, data=data(model), keep_latency=0.01, table=table, align=1)
        assert result.latency is not None
        assert result.latency.measured is not None
        assert result.latency.measured.ratio <= 0.01 * (1 + search.CLOSE)
    else:
        with pytest.raises(InputError, match=r"1 % of the latency cannot be reached.*nearest .* as the clock says"):
            onnxshrink.prune(model, data=data(model), keep_latency=0.01, table=table, align=1)


def test_a_miss_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which nothing becomes faster."""
    from onnxshrink.benchmark import layer_latency

    monkeypatch.setattr(search.benchmark, "bench", fake_bench(lambda ratio, model: 0.9))
    monkeypatch.setattr(layer_latency, "_Profile", lambda threads: work)
    model = residual()
    onnx.save(model, tmp_path / "in.onnx")
    np.savez(tmp_path / "calib.npz", x=inputs(model, 40))
    arguments = ["prune", "in.onnx", "out.onnx", "--data", "calib.npz", "--keep-latency", "60%", "--align", "1"]
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 0, result.output
    assert "60.0 % wanted" in result.output
    assert "misses the budget by 30.0 points, within the noise" in " ".join(result.output.split())


def test_a_fixed_batch_is_measured_at_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    from onnxshrink.benchmark import layer_latency

    monkeypatch.setattr(search.benchmark, "bench", fake_bench(lambda ratio, model: ratio))
    monkeypatch.setattr(layer_latency, "_Profile", lambda threads: work)
    model = residual()
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2
    samples = [{"x": x} for x in inputs(model, 40).reshape(20, 2, 3, 8, 8)]
    result = onnxshrink.prune(model, data=samples, keep_latency=0.6, align=1, allocation="uniform")
    assert result.latency is not None
    assert result.latency.measured is not None
    assert 0 < result.latency.predicted < 1


BAD = {
    "unreachable": (
        {"keep_latency": 0.01},
        r"1 % of the latency cannot be reached; the nearest reachable is \d+\.\d %",
    ),
    "no share": ({"keep_latency": 1.2}, "--keep-latency 1.2 is no share"),
    "two budgets": ({"keep_latency": 0.5, "keep_macs": 0.5}, "exactly one budget"),
    "table alone": ({"keep_macs": 0.5}, "for a latency budget only"),
    "own allocation": ({"keep_latency": 0.5, "method": "pfp", "allocation": "knapsack"}, "allocation of its own"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_latency_budgets(case: str) -> None:
    options, message = BAD[case]
    model = residual()
    with pytest.raises(InputError, match=message):
        onnxshrink.prune(model, data=data(model), table=table_of(model), **options)


def test_tables_that_do_not_fit() -> None:
    model = residual()
    for table, message in (
        (table_of(NETS["excited"]()), "no latency of Conv"),
        (table_of(model, whole=0.0), "not complete; run the command"),
    ):
        with pytest.raises(InputError, match=message):
            onnxshrink.prune(model, data=data(model), keep_latency=0.5, table=table)
