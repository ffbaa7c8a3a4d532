"""The bench: what it records, what it decides, what it refuses. Nothing here depends on how fast a machine is."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from onnxshrink import runtime
from onnxshrink.benchmark import BatchTiming, Benchmark, Ratio, Timing, bench, latency, ratio_is_slower
from onnxshrink.errors import InputError, ModelError, RuntimeMissingError

pytest.importorskip("onnxruntime")


def save(path: Path, shape: str, channels: int = 4) -> Path:
    """A model of one Conv and a Relu on disk."""
    model = parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 17]> m (float[{shape}] x) => (float["A","B","C","D"] y)'
        "{ h = Conv <pads = [1,1,1,1]> (x, w) y = Relu (h) }"
    )
    weight = np.random.default_rng(0).standard_normal((channels, 3, 3, 3)).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(weight, "w"))
    onnx.save(model, path)
    return path


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "WARM_UP_SECONDS", 0.0)
    monkeypatch.setattr(latency, "SLOT_SECONDS", 0.001)


def test_a_model_against_itself(tmp_path: Path) -> None:
    path = save(tmp_path / "a.onnx", '"N",3,16,16')
    result = bench(path, path, batches=(1, 3), threads=1, seconds=0.05)

    assert (result.a, result.b, result.provider, result.threads) == (str(path), str(path), "CPUExecutionProvider", 1)
    assert {"onnxruntime", "onnx", "numpy", "python", "cpu", "cpus", "system"} <= result.environment.keys()
    assert all(result.environment.values())
    assert [batch.batch for batch in result.batches] == [1, 3]
    assert [batch.shapes for batch in result.batches] == [{"x": (1, 3, 16, 16)}, {"x": (3, 3, 16, 16)}]
    for batch in result.batches:
        assert batch.b is not None
        assert batch.ratio is not None
        for timing in (batch.a, batch.b):
            assert 0 < timing.p10_ms <= timing.median_ms <= timing.p90_ms
        assert batch.a.runs == batch.b.runs >= batch.ratio.rounds >= 2 * latency.STARTS
        assert batch.ratio.low <= batch.ratio.ratio <= batch.ratio.high
        assert (batch.ratio.starts, batch.ratio.confidence) == (latency.STARTS, 0.95)
    assert json.loads(json.dumps(result.to_json())) == result.to_json()
    with pytest.raises(FrozenInstanceError):
        result.threads = 2  # type: ignore[misc]


def test_the_session_has_the_threads_that_are_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    session = runtime.session
    monkeypatch.setattr(runtime, "session", lambda *a, **k: opened.append(session(*a, **k)) or opened[-1])
    result = bench(save(tmp_path / "a.onnx", "1,3,8,8"), threads=2, seconds=0.01)
    assert {s.get_session_options().intra_op_num_threads for s in opened} == {result.threads} == {2}
    assert {s.get_providers()[0] for s in opened} == {result.provider}


def test_one_model_alone(tmp_path: Path) -> None:
    result = bench(save(tmp_path / "a.onnx", "1,3,8,8"), seconds=0.01)
    assert result.b is None
    assert result.batches[0].b is None
    assert result.batches[0].ratio is None
    with pytest.raises(ValueError, match="no ratio"):
        ratio_is_slower(result)


def test_a_fixed_batch_is_measured_once_and_noted(tmp_path: Path) -> None:
    result = bench(save(tmp_path / "a.onnx", "2,3,8,8"), batches=(1, 2, 8), seconds=0.01)
    assert [batch.batch for batch in result.batches] == [2]
    assert [note.split(" was")[0] for note in result.notes] == ["batch 1", "batch 8"]


def test_a_batch_that_one_model_fixes_is_fixed_for_both(tmp_path: Path) -> None:
    a, b = save(tmp_path / "a.onnx", '"N",3,8,8'), save(tmp_path / "b.onnx", "1,3,8,8")
    assert [batch.batch for batch in bench(a, b, batches=(4,), seconds=0.01).batches] == [1]


def test_other_dynamic_dimensions_need_a_shape(tmp_path: Path) -> None:
    path = save(tmp_path / "a.onnx", '"N",3,"H","W"')
    with pytest.raises(InputError, match=r"dynamic dimensions: H, W.*--input-shape"):
        bench(path, seconds=0.01)
    result = bench(path, batches=(2,), input_shapes={"x": (1, 3, 8, 12)}, seconds=0.01)
    assert result.batches[0].shapes == {"x": (2, 3, 8, 12)}


def test_models_of_different_interfaces_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="in the other"):
        bench(save(tmp_path / "a.onnx", "1,3,8,8"), save(tmp_path / "b.onnx", "1,3,9,9"))


def test_a_model_that_does_not_run_is_named(tmp_path: Path) -> None:
    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> m (float["N",6] x) => (float["M",4] y)'
        "<int64[2] s = {5, 4}> { y = Reshape (x, s) }"
    )
    onnx.save(model, tmp_path / "bad.onnx")
    with pytest.raises(ModelError, match=r"bad\.onnx: does not run"):
        bench(tmp_path / "bad.onnx")


def test_a_missing_provider_is_an_error_with_its_cure(tmp_path: Path) -> None:
    if "CUDAExecutionProvider" in runtime.onnxruntime().get_available_providers():
        pytest.skip("this ONNX Runtime has CUDA")
    with pytest.raises(RuntimeMissingError) as caught:
        bench(save(tmp_path / "a.onnx", "1,3,8,8"), provider="cuda")
    assert "onnxshrink[gpu]" in str(caught.value.cure)


@pytest.mark.gpu
def test_cuda_options_are_recorded(tmp_path: Path) -> None:
    path = save(tmp_path / "a.onnx", '"N",3,16,16')
    try:
        result = bench(path, path, provider="cuda", provider_options={"use_tf32": "0", "enable_cuda_graph": "1"})
    except RuntimeMissingError as error:
        pytest.skip(str(error))
    assert result.provider == "CUDAExecutionProvider"
    assert (result.provider_options["use_tf32"], result.provider_options["enable_cuda_graph"]) == ("0", "1")
    assert "prefer_nhwc" in result.provider_options
    assert result.environment["gpu"] != "unknown"


def test_a_bound_run_writes_the_right_answer_to_the_same_place(tmp_path: Path) -> None:
    """The run for devices, tried on the CPU's memory: it must compute what a plain run does, again and again."""
    path = save(tmp_path / "a.onnx", "1,3,8,8")
    session = runtime.session(path)
    feeds = {"x": np.random.default_rng(1).standard_normal((1, 3, 8, 8)).astype(np.float32)}
    bindings = []

    class Spy:
        def io_binding(self) -> object:
            bindings.append(session.io_binding())
            return bindings[-1]

        def __getattr__(self, name: str) -> object:
            return getattr(session, name)

    run = latency.on_device(Spy(), feeds, str(path), device="cpu")
    places = []
    for _ in range(3):
        run()
        (value,) = bindings[0].get_outputs()
        places.append(value.data_ptr())
        np.testing.assert_array_equal(value.numpy(), session.run(None, feeds)[0])
    assert len(set(places)) == 1


def decided(low: float, high: float, margin: float) -> bool:
    timing = Timing(1.0, 0.9, 1.1, 10)
    ratio = Ratio((low + high) / 2, low, high, 0.95, 10, 5)
    batches = (BatchTiming(1, {}, timing, timing, ratio),)
    return ratio_is_slower(Benchmark("a", "b", "CPUExecutionProvider", {}, 1, {}, batches), margin)


def test_slower_is_decided_by_the_whole_interval() -> None:
    assert decided(1.05, 1.10, margin=0.02)
    assert not decided(1.05, 1.10, margin=0.07)
    assert not decided(1.01, 1.30, margin=0.02)
    assert not decided(0.60, 0.70, margin=0.02)


def rounds(rng: np.random.Generator, ratio: float, per_start: float) -> list[tuple[np.ndarray, np.ndarray]]:
    """Round times of five starts: a drifting machine, one percent of noise, and a bias that each start has."""
    starts = []
    for _ in range(5):
        drift = np.exp(np.cumsum(rng.normal(0, 0.2, 12)))
        noise = rng.normal(1, 0.01, (2, 12))
        starts.append((drift * noise[0], ratio * (1 + rng.normal(0, per_start)) * drift * noise[1]))
    return starts


def test_the_interval_holds_the_true_ratio() -> None:
    """In 95 of 100 experiments by its own claim; five starts are few, so 80 are asked for. A drift does not matter."""
    rng = np.random.default_rng(0)
    found = [latency._ratio(rounds(rng, 0.8, per_start=0.02), seed=0) for _ in range(100)]
    assert sum(r.low <= 0.8 <= r.high for r in found) >= 80
    assert all(0.76 < r.ratio < 0.84 for r in found)
    assert np.median([r.high - r.low for r in found]) < 0.05
