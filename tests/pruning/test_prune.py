"""`prune` as a whole: budgets, equality with the model with zeros, and one clear line for all that can be wrong."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from rich.console import Console

import onnxshrink
from onnxshrink import benchmark
from onnxshrink.cli import cli
from onnxshrink.errors import InputError, ModelError
from onnxshrink.pruned import Point
from onnxshrink.report.pruned import print_curve
from onnxshrink.runtime import session
from tests.pruning.nets import NETS, Maker, inputs, residual


def data(model: onnx.ModelProto, count: int = 40) -> list[dict[str, np.ndarray]]:
    return [{"x": x[None]} for x in inputs(model, count)]


def run(model: onnx.ModelProto, x: np.ndarray) -> list[np.ndarray]:
    return session(model.SerializeToString()).run(None, {"x": x})


METHODS = [
    {"method": "wanda"},
    {"method": "wanda", "allocation": "global"},
    {"method": "magnitude"},
    {"method": "magnitude", "allocation": "global"},
    {"method": "random"},
    {"method": "pfp"},
    {"method": "pfp", "reduction": "max"},
    {"method": "pfp", "variant": "mixed", "repair_weights": False},
    {"method": "pfp", "variant": "sampled", "repair_weights": False},
]


@pytest.mark.parametrize("options", METHODS, ids=lambda options: "-".join(map(str, options.values())))
def test_every_method_keeps_to_the_budget(options: dict) -> None:
    """Not more than asked for, and the next step up would be too much."""
    model = residual()
    whole = benchmark.macs(model)
    assert whole is not None
    result = onnxshrink.prune(model, data=data(model), keep_macs=0.6, align=1, **options)
    after = benchmark.macs(result.model)
    assert after is not None
    assert after <= 0.6 * whole
    assert result.sizes["macs"] == (whole, after)
    widest = max((8 * 12 + 8 * 6) * 2 * 9 * 64 // 8, 12 * 8 * 9 * 64 // 12 * 2) + 3 * 9 * 64 + 8 * 6 * 9 * 64
    assert after >= 0.6 * whole - widest  # one channel of the widest class


@pytest.mark.parametrize("name", NETS)
def test_the_shrunk_model_is_the_model_with_zeros(name: str) -> None:
    model = NETS[name]()
    options = {"data": data(model), "keep_parameters": 0.7, "align": 1}
    masked = onnxshrink.prune(model, masks_only=True, **options)
    shrunk = onnxshrink.prune(model, **options)
    x = inputs(model, 3, seed=9)
    for one, other in zip(run(masked.model, x), run(shrunk.model, x), strict=True):
        assert np.abs(one - other).max() <= 1e-5 * max(1.0, np.abs(one).max())
    shapes = [[tuple(t.dims) for t in proto.graph.initializer] for proto in (model, masked.model)]
    assert set(shapes[0]) <= set(shapes[1])
    assert benchmark.parameters(shrunk.model) <= 0.7 * benchmark.parameters(model)
    assert masked.masks == shrunk.masks
    assert shrunk.shrunk is not None
    assert shrunk.shrunk.verification is not None
    assert shrunk.shrunk.verification.state == "passed"


def test_alignment_is_part_of_the_budget() -> None:
    m = Maker(["n", 3, 8, 8])
    model = m.model(m.conv(m.op("Relu", m.conv("x", 3, 30)), 30, 4))
    result = onnxshrink.prune(model, data=data(model), keep_macs=0.5, align=8)
    (mask,) = result.masks
    assert len(mask.kept) == 8
    assert [t.dims[0] for t in result.model.graph.initializer if len(t.dims) == 4] == [8, 4]


@pytest.mark.parametrize("options", METHODS, ids=lambda options: "-".join(map(str, options.values())))
def test_every_method_keeps_to_the_budget_when_aligned(options: dict) -> None:
    model = residual()
    result = onnxshrink.prune(model, data=data(model), keep_macs=0.6, align=4, **options)
    before, after = result.sizes["macs"]
    assert before is not None
    assert after is not None
    assert after <= 0.6 * before


def test_new_biases_are_part_of_the_budget() -> None:
    m = Maker(["n", 3, 8, 8])
    deep = m.op("Relu", m.conv("x", 3, 9, 1, bias=False))
    model = m.model(m.conv(m.op("Relu", m.conv(deep, 9, 9, 1, bias=False)), 9, 9, 1, bias=False))
    result = onnxshrink.prune(model, data=data(model), keep_parameters=0.7, align=1)
    assert any(len(t.dims) == 1 for t in result.model.graph.initializer)
    assert benchmark.parameters(result.model) <= 0.7 * benchmark.parameters(model)


def test_shared_weights_stay_shared_on_a_budget_of_parameters() -> None:
    """A repair that gave each of two layers its own weight would go over it; for MACs it may."""
    m = Maker(["n", 3, 8, 8])
    shared = m.normal(8, 8, 3, 3)
    ends = []
    for _ in range(2):
        x = m.op("Relu", m.conv("x", 3, 8))
        x = m.op("Relu", m.op("Conv", x, shared, kernel_shape=[3, 3], pads=[1] * 4))
        ends.append(m.conv(x, 8, 2))
    model = m.model(*ends)
    result = onnxshrink.prune(model, data=data(model), keep_parameters=0.8, method="magnitude", align=1)
    assert benchmark.parameters(result.model) <= 0.8 * benchmark.parameters(model)
    readers = {f"Conv `{node.name}`" for node in model.graph.node if shared in node.input}
    assert readers.isdisjoint(fit.node for fit in result.fits)
    apart = onnxshrink.prune(model, data=data(model), keep_macs=0.8, method="magnitude", align=1)
    assert readers <= {fit.node for fit in apart.fits}


def test_new_weights_and_biases_are_inputs_in_the_oldest_files() -> None:
    """Below IR 4 every initializer is one; here two layers part with a weight, and one gets a bias."""
    m = Maker(["n", 3, 8, 8])
    shared = m.normal(8, 8, 1, 1)
    x = m.op("Relu", m.conv("x", 3, 8, bias=False))
    for _ in range(2):
        x = m.op("Relu", m.op("Conv", x, shared))
    model = m.model(m.conv(x, 8, 2, bias=False))
    model.ir_version = 3
    del model.opset_import[:]
    model.opset_import.append(onnx.helper.make_opsetid("", 8))
    for tensor in model.graph.initializer:
        model.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    for options in ({}, {"masks_only": True}):
        result = onnxshrink.prune(model, data=data(model), keep_macs=0.6, align=1, **options).model
        onnx.checker.check_model(result, full_check=True)
        assert {t.name for t in result.graph.initializer} > {t.name for t in model.graph.initializer} - {shared}


def test_a_budget_that_the_shrink_alone_meets() -> None:
    """What was dead before is no loss, and nothing more goes."""
    model = residual()
    half = onnxshrink.prune(model, data=data(model), keep_macs=0.5, masks_only=True, repair_weights=False)
    again = onnxshrink.prune(half.model, data=data(model), keep_macs=0.6)
    assert again.error < 1e-6
    assert any("no channel was given up" in note for note in again.notes)
    options = {"method": "pfp", "variant": "sampled", "repair_weights": False}
    sampled = onnxshrink.prune(half.model, data=data(model), keep_macs=0.6, **options)
    assert sampled.no_guarantee == "no channel was given up, so none was sampled"


def test_repair_helps_on_data_that_nothing_saw() -> None:
    model = residual()
    result = onnxshrink.prune(model, data=data(model, 200), keep_macs=0.6)
    assert result.error < 0.7 * result.error_before_repair
    assert result.guarantee is None
    assert "no theorem" in result.no_guarantee


def test_the_error_is_the_norm_of_the_difference() -> None:
    model = residual()
    samples = data(model)
    result = onnxshrink.prune(model, data=samples, keep_macs=0.6)
    held = np.concatenate([feeds["x"] for feeds in samples[3::4]])
    (right,), (now,) = run(model, held), run(result.model, held)
    assert np.isclose(result.error, np.linalg.norm(now - right) / np.linalg.norm(right), rtol=1e-3)


def test_max_error_is_kept_and_used() -> None:
    model = residual()
    result = onnxshrink.prune(model, data=data(model, 100), max_error=0.3, align=1)
    assert 0 < result.error <= 0.3
    assert benchmark.parameters(result.model) < benchmark.parameters(model)


def test_the_callers_metric() -> None:
    model = residual()
    x = inputs(model, 30, seed=5)
    (right,) = run(model, x)
    seen: list[float] = []

    def agreement(path: Path) -> float:
        seen.append(float((run(onnx.load(path), x)[0].argmax(1) == right.argmax(1)).mean()))
        return seen[-1]

    result = onnxshrink.prune(model, data=data(model, 100), evaluate=agreement, max_drop=0.2, align=1)
    assert result.metric is not None
    assert result.metric[0] == 1
    assert result.metric[1] >= 0.8
    assert (run(result.model, x)[0].argmax(1) == right.argmax(1)).mean() == result.metric[1]


def test_the_curve_comes_from_one_order() -> None:
    model = residual()
    result = onnxshrink.prune(model, data=data(model), keep_macs=0.6, repair_weights=False, align=1)
    shares = [point.macs for point in result.curve]
    assert len(shares) == 9
    assert shares[0] == 1
    assert shares == sorted(set(shares), reverse=True)
    assert result.curve[0].error < 1e-6
    assert result.curve[1].error < result.curve[-1].error
    assert result.point.error == result.error
    before, after = result.sizes["macs"]
    assert result.point.macs == pytest.approx((after or 0) / (before or 1))
    assert len(onnxshrink.prune(model, data=data(model), keep_macs=0.6, align=1, points=3).curve) == 4


@pytest.mark.parametrize(("latency", "axis"), [(None, "MACs kept"), (0.5, "latency by the table kept")])
def test_the_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, latency: float | None, axis: str) -> None:
    """Every point is in it, in its place, and the axis is the budget's."""
    pytest.importorskip("matplotlib")
    from matplotlib import figure

    from onnxshrink.report.curve import draw_curve

    drawn: list[figure.Figure] = []
    save = figure.Figure.savefig
    monkeypatch.setattr(figure.Figure, "savefig", lambda self, *a, **k: (drawn.append(self), save(self, *a, **k)))
    curve = [Point(share, share, 1 - share, share if latency else None) for share in (1.0, 0.7, 0.3)]
    chosen = Point(0.4, 0.4, 0.2, 0.4 if latency else None)
    for name in ("curve.svg", "curve.png"):
        draw_curve(curve, chosen, tmp_path / name, title="net", repaired=True)
        (axes,) = drawn[-1].axes
        line, result = axes.lines[:2]
        assert np.allclose(line.get_xydata(), [(30, 0.7), (70, 0.3), (100, 0)])
        assert np.allclose(result.get_xydata(), [(40, 0.2)])
        assert axes.get_xlabel().startswith(axis)
    assert (tmp_path / "curve.svg").read_text().count("<svg") == 1
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("latency", "width"), [(None, 80), (0.5, 80), (0.5, 200)])
def test_the_curve_in_the_terminal(latency: float | None, width: int) -> None:
    """A row is a line, and bars are in proportion."""
    points = [Point(1.0, 1.0, 0.0, latency), Point(0.5, 0.5, 0.5, latency), Point(0.3, 0.3, 1.0, latency)]
    console = Console(file=StringIO(), width=width)
    print_curve(console, points)
    lines = console.file.getvalue().splitlines()
    assert len(lines) == 1 + len(points)
    bars = [line.count("█") for line in lines[1:]]
    assert bars[0] == 0
    assert abs(bars[2] - 2 * bars[1]) <= 1
    assert 10 <= bars[2] <= 30


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"variant": "top", "repair_weights": False}, "sampled"),
        ({"variant": "sampled"}, "repaired"),
        ({"variant": "mixed", "repair_weights": False}, "sampled"),
    ],
)
def test_no_guarantee_where_the_theorem_is_void(options: dict, reason: str) -> None:
    model = residual()
    result = onnxshrink.prune(model, data=data(model), keep_macs=0.8, method="pfp", align=1, **options)
    assert result.guarantee is None
    assert reason in result.no_guarantee


def test_the_guarantee_of_a_sample() -> None:
    model = residual()
    options = {"method": "pfp", "variant": "sampled", "repair_weights": False, "align": 1}
    result = onnxshrink.prune(model, data=data(model), keep_macs=0.9, **options)
    guarantee = result.guarantee
    assert guarantee is not None
    assert guarantee.bounds
    for bound in guarantee.bounds:
        assert 1 - 1e-5 <= bound.s <= bound.units
        assert bound.kept <= min(bound.m, bound.units)
        assert bound.epsilon == result.epsilon
    assert guarantee.within == 1  # the bound is conservative
    assert guarantee.worst <= result.epsilon
    assert guarantee.composed > result.epsilon
    assert guarantee.delta == sum(bound.delta for bound in guarantee.bounds)
    noise = onnxshrink.prune(model, random_data=20, keep_macs=0.9, **options)
    assert noise.guarantee is None
    assert "noise" in noise.no_guarantee


def test_same_seed_same_bytes() -> None:
    model = residual()
    options = {"data": data(model), "keep_macs": 0.7, "method": "pfp", "variant": "mixed"}
    results = [onnxshrink.prune(model, **options).model.SerializeToString(deterministic=True) for _ in range(2)]
    assert results[0] == results[1]


# bad input


def wrong(model: onnx.ModelProto, **options: object) -> str:
    with pytest.raises((InputError, ModelError)) as found:
        onnxshrink.prune(model, **{"keep_macs": 0.5, **options})
    assert "\n" not in str(found.value)
    return str(found.value)


X = np.ones((4, 3, 8, 8), np.float32)


def feeds() -> Iterator[dict[str, np.ndarray]]:
    for x in inputs(residual(), 1000):
        yield {"x": x[None]}


def test_a_function_that_yields_and_a_limit() -> None:
    result = onnxshrink.prune(residual(), data="tests.pruning.test_prune:feeds", limit=40, keep_macs=0.6)
    alike = onnxshrink.prune(residual(), data=data(residual(), 1000)[:40], keep_macs=0.6)
    assert result.error == alike.error


def feeds_that_raise() -> list[dict[str, np.ndarray]]:
    raise RuntimeError("no disk")


def raising(path: Path) -> float:
    raise ValueError("no labels")


BAD_DATA = {
    "wrong name": ([{"y": X}], "no array `x`, `y` is no input; the inputs are: x"),
    "wrong shape": ([{"x": X[:, :2]}], r"`x` has shape \[4, 2, 8, 8\], which is no number of samples"),
    "wrong dtype": ([{"x": X.astype(complex)}], "`x` is complex128, the input wants float32"),
    "NaN": ([{"x": X * np.nan}], "`x` holds NaN or infinity"),
    "one sample": ([{"x": X[:1]}], "too few samples to score on and to hold out: 1; give at least 2"),
    "none": ([], "data: too few samples to score on and to hold out: 0"),
    "all zero": ([{"x": 0 * X}], "all samples are zero; give inputs as the model sees them in use"),
    "no mapping": ([X], "yields ndarray, not a mapping"),
    "no file": ("nowhere.npz", "nowhere.npz: there is no such file or folder"),
    "no module": ("nowhere:at_all", "nowhere:at_all: cannot be imported: ModuleNotFoundError"),
    "no function": ("tests.pruning.test_prune:nothing", "cannot be imported: AttributeError"),
    "not callable": ("tests.pruning.test_prune:X", "is no function; give module:function"),
    "raises": ("tests.pruning.test_prune:feeds_that_raise", "feeds_that_raise: raised RuntimeError: no disk"),
}


@pytest.mark.parametrize("case", BAD_DATA)
def test_bad_data(case: str) -> None:
    given, expected = BAD_DATA[case]
    assert re.search(expected, wrong(residual(), data=given))


BAD_BUDGETS = {
    "none": ({"keep_macs": None}, "give exactly one budget; --keep-macs"),
    "two": ({"keep_parameters": 0.5}, "give exactly one budget"),
    "no share": ({"keep_macs": 1.5}, "--keep-macs 1.5 is no share between 0 and 1"),
    "drop alone": ({"max_drop": 0.5}, "give exactly one budget"),
    "negative": ({"keep_macs": None, "max_error": -1.0}, "--max-error -1 is no number from 0 up"),
    "too small": ({"keep_macs": 0.001}, r"0.1 % of the macs cannot be reached; the nearest reachable is \d+\.\d %"),
    "no error": ({"keep_macs": None, "max_error": 0.0}, "within an error of 0; the nearest reachable error is 0"),
    "raises": ({"keep_macs": None, "evaluate": raising, "max_drop": 1.0}, "raising: raised ValueError: no labels"),
    "no number": (
        {"keep_macs": None, "evaluate": lambda path: float("nan"), "max_drop": 1.0},
        "gave nan, which is no metric",
    ),
    "both data": ({"random_data": 8}, "there is data and random data"),
    "no data": ({"data": None}, "there is no calibration data; --data"),
    "variant": ({"variant": "mixed"}, "wanda has no variant; leave --variant out, or --method pfp"),
    "reduction": ({"method": "random", "reduction": "max"}, "random has no reduction; leave --reduction out"),
    "limit": ({"limit": 0}, "--limit: too few samples to score on and to hold out: 0; give at least 2"),
    "noise": ({"data": None, "random_data": 1}, "--random-data: too few samples to score on and to hold out: 1"),
    "pixels": ({"data": None, "random_data": 8, "pixels": "0,1"}, "there is no data; leave --pixels out"),
}


@pytest.mark.parametrize("case", BAD_BUDGETS)
def test_bad_budgets(case: str) -> None:
    options, expected = BAD_BUDGETS[case]
    model = residual()
    assert re.search(expected, wrong(model, **{"data": data(model), **options}))


def test_no_drop_within_reach() -> None:
    model = residual()
    metrics = iter(range(0, -1000, -1))
    options = {"keep_macs": None, "evaluate": lambda path: float(next(metrics)), "max_drop": 0.5}
    assert "the nearest reachable drop is" in wrong(model, data=data(model), **options)


def test_a_model_without_a_class() -> None:
    m = Maker(["n", 3, 8, 8])
    model = m.model(m.conv("x", 3, 4))
    assert "no channel of this model can be pruned; onnxshrink inspect" in wrong(model, data=data(model))


# files and the command


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path, Path]:
    model = residual()
    onnx.save(model, tmp_path / "in.onnx")
    np.savez(tmp_path / "calib.npz", x=inputs(model, 40))
    return tmp_path / "in.onnx", tmp_path / "calib.npz", tmp_path / "out.onnx"


def test_the_command(files: tuple[Path, Path, Path]) -> None:
    source, calib, output = files
    report, mapping = output.with_name("report.json"), output.with_name("map.json")
    arguments = ["prune", source, output, "--data", calib, "--keep-macs", "60%", "--json", report, "--map", mapping]
    arguments += ["--curve", output.with_name("curve.svg")]
    result = CliRunner().invoke(cli, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    assert "no guarantee" in result.output
    assert output.with_name("curve.svg").stat().st_size
    written = json.loads(report.read_text())
    assert written["macs"]["after"] == benchmark.macs(onnx.load(output)) <= 0.6 * written["macs"]["before"]
    kept = json.loads(mapping.read_text())
    assert kept["weights"]
    assert kept["options"]["pruned"] == "wanda"


@pytest.mark.parametrize(
    "arguments",
    [
        ["--keep-macs", "0.1%"],
        ["--keep-macs", "50%", "--max-error", "1"],
        ["--keep-macs", "50%", "--curve", "curve.gif"],
    ],
)
def test_nothing_is_written_on_an_error(files: tuple[Path, Path, Path], arguments: list[str]) -> None:
    source, calib, output = files
    result = CliRunner().invoke(cli, ["prune", str(source), str(output), "--data", str(calib), *arguments])
    assert isinstance(result.exception, InputError)
    assert result.exception.exit_code == 2
    assert sorted(p.name for p in output.parent.iterdir()) == ["calib.npz", "in.onnx"]


def test_a_folder_and_external_data(files: tuple[Path, Path, Path]) -> None:
    source, _, output = files
    model = residual()
    folder = output.parent / "samples"
    folder.mkdir()
    for number, x in enumerate(inputs(model, 40)):
        np.save(folder / f"{number:03}.npy", x[None])
    onnx.save(model, source, save_as_external_data=True, size_threshold=0)
    result = onnxshrink.prune(source, output, data=folder, keep_macs=0.6)
    x = inputs(model, 2)
    (written,) = session(output).run(None, {"x": x})
    assert np.isfinite(written).all()
    assert Path(f"{output}.data").exists()
    alike = onnxshrink.prune(residual(), data=[{"x": x[None]} for x in inputs(model, 40)], keep_macs=0.6)
    assert np.allclose(written, run(alike.model, x)[0], atol=1e-4)
    assert np.allclose(written, run(result.model, x)[0], atol=1e-6), "the model needs no file"
    assert result.error == pytest.approx(alike.error, rel=1e-3)


def test_the_folder_is_checked_before_any_work(files: tuple[Path, Path, Path]) -> None:
    source, calib, output = files
    with pytest.raises(ModelError, match="cannot write there"):
        onnxshrink.prune(source, output.parent / "nowhere" / "out.onnx", data=calib, keep_macs=0.5)


def test_the_output_is_not_the_input(files: tuple[Path, Path, Path]) -> None:
    source, calib, _ = files
    with pytest.raises(ModelError, match="would overwrite the input"):
        onnxshrink.prune(source, source, data=calib, keep_macs=0.5)


def test_layers_that_are_too_large_to_be_repaired_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from onnxshrink.pruning import repair

    model = NETS["residual"]()
    options = {"keep_macs": 0.6, "allocation": "uniform", "align": 1}
    assert not any("too large" in note for note in onnxshrink.prune(model, data=data(model), **options).notes)
    monkeypatch.setattr(repair, "ROOM", {})
    result = onnxshrink.prune(model, data=data(model), **options)
    assert f"too large to be repaired: {', '.join(fit.node for fit in result.fits)}" in result.notes
    assert result.fits
    assert result.error == pytest.approx(result.error_before_repair)
