"""The caller's data: how arrays become samples, and what is refused and why."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from onnxshrink.errors import InputError
from onnxshrink.verification import data
from onnxshrink.verification.inputs import InputSpec

from .models import parse, weights

IMAGE = InputSpec("x", np.dtype(np.float32), (1, 3, 4, 4))
FREE = InputSpec("x", np.dtype(np.float32), ("n", 3, 4, 4))
STATE = InputSpec("state", np.dtype(np.float32), (2, 1, 8))
RATE = InputSpec("rate", np.dtype(np.int64), ())


def save(path: Path, **arrays: np.ndarray) -> Path:
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize("spec", [IMAGE, FREE])
def test_leading_axis_is_samples(tmp_path: Path, spec: InputSpec) -> None:
    images = np.random.default_rng(0).random((5, 3, 4, 4), np.float32)
    samples = data.load(save(tmp_path / "d.npz", x=images), [spec])
    assert len(samples) == 5
    assert all(np.array_equal(s["x"], images[i : i + 1]) for i, s in enumerate(samples))
    assert len(data.load(tmp_path / "d.npz", [spec], limit=2)) == 2


def test_one_axis_more_holds_complete_inputs(tmp_path: Path) -> None:
    states = np.random.default_rng(0).random((7, 2, 1, 8), np.float32)
    samples = data.load(save(tmp_path / "d.npz", state=states), [STATE])
    assert [s["state"].shape for s in samples] == [(2, 1, 8)] * 7
    assert np.array_equal(samples[6]["state"], states[6])
    # The input's own first dimension says how many rows one sample has.
    assert len(data.load(save(tmp_path / "e.npz", state=states.reshape(14, 1, 8)), [STATE])) == 7


def test_what_is_there_once_goes_with_every_sample(tmp_path: Path) -> None:
    samples = data.load(save(tmp_path / "d.npz", x=np.zeros((3, 3, 4, 4)), rate=np.array(16000)), [IMAGE, RATE])
    assert len(samples) == 3
    assert all(s["rate"] == 16000 and s["rate"].dtype == np.int64 for s in samples)
    with pytest.raises(InputError, match="different numbers of samples"):
        data.load(save(tmp_path / "e.npz", x=np.zeros((3, 3, 4, 4)), rate=np.arange(2)), [IMAGE, RATE])


def test_folder_of_files_in_the_order_of_their_names(tmp_path: Path) -> None:
    np.save(tmp_path / "b.npy", np.full((2, 3, 4, 4), 2, np.float32))
    save(tmp_path / "a.npz", x=np.full((1, 3, 4, 4), 1, np.float32))
    (tmp_path / "notes.txt").write_text("not data")
    assert [s["x"].max() for s in data.load(tmp_path, [FREE])] == [1, 2, 2]


def test_values_keep_their_meaning(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (1, 3, 4, 4), dtype=np.uint8)
    sample = data.load(save(tmp_path / "d.npz", x=pixels), [IMAGE])[0]["x"]
    assert sample.dtype == np.float32
    assert np.array_equal(sample, pixels)


def test_batches_along_free_first_dimensions(tmp_path: Path) -> None:
    samples = data.load(save(tmp_path / "d.npz", x=np.random.default_rng(0).random((5, 3, 4, 4))), [FREE])
    stacked = data.batch(samples, [FREE], 3)
    assert stacked is not None
    assert stacked["x"].shape == (3, 3, 4, 4)
    assert data.batch(samples, [IMAGE], 3) is None
    assert data.batch(samples[:1], [FREE], 3) is None


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"image": np.zeros((1, 3, 4, 4))}, "no array `x`, `image` is no input; the inputs are: x"),
        ({"x": np.zeros((1, 3, 4, 4)), "y": np.zeros(1)}, "`y` is no input"),
        ({"x": np.zeros((1, 3, 5, 4))}, r"no number of samples of \[1, 3, 4, 4\]"),
        ({"x": np.zeros((3, 4))}, "no number of samples"),
        ({"x": np.full((1, 3, 4, 4), np.nan)}, "NaN or infinity"),
        ({"x": np.full((1, 3, 4, 4), 1e300)}, "do not fit into float32"),
        ({"x": np.zeros((1, 3, 4, 4), complex)}, "complex128, the input wants float32"),
        ({"x": np.full((1, 3, 4, 4), "a")}, "the input wants float32"),
    ],
)
def test_refused(tmp_path: Path, arrays: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(InputError, match=message):
        data.load(save(tmp_path / "d.npz", **arrays), [IMAGE])


def test_refused_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        data.load(tmp_path / "none.npz", [IMAGE])
    with pytest.raises(InputError, match=r"no \.npz or \.npy"):
        data.load(tmp_path, [IMAGE])
    (tmp_path / "d.npz").write_bytes(b"nothing")
    with pytest.raises(InputError, match="without pickle"):
        data.load(tmp_path / "d.npz", [IMAGE])
    np.save(tmp_path / "e.npy", np.zeros((1, 3, 4, 4)))
    with pytest.raises(InputError, match="fits one input, the model has 2"):
        data.load(tmp_path / "e.npy", [IMAGE, RATE])
    with pytest.raises(InputError, match="int64"):
        data.load(save(tmp_path / "f.npz", x=np.zeros((1, 3, 4, 4)), rate=np.array(1.5)), [IMAGE, RATE])


def test_verification_on_data(tmp_path: Path, held_against) -> None:
    """A defect that only large values show: random inputs pass under the clip, the caller's do not."""
    text = """g (float[N,16] x) => (float[N,4] y) <float low = {{0.0}}, float high = {{{h}}}> {{
      c = Clip(x, low, high) y = MatMul(c, w) }}"""
    models = [parse(text.format(h=high), weights(w=(16, 4))) for high in (1e3, 1.1e3)]
    assert held_against(*models).passed
    file = save(tmp_path / "d.npz", x=np.random.default_rng(0).random((6, 16)) * 1e4)
    verdict = held_against(*models, data=file)
    assert verdict.state == "failed"
    assert {d.distribution for d in verdict.draws} == {"data", "normal"}
    assert held_against(models[0], models[0], data=file).passed
    with pytest.raises(InputError):
        held_against(*models, data=save(tmp_path / "e.npz", z=np.zeros((6, 16))))


def test_strings_can_be_given(tmp_path: Path, held_against) -> None:
    model = parse("g (string[N] x) => (string[N] y) { y = Identity(x) }")
    np.savez(tmp_path / "d.npz", x=np.array(["a", "b", "c"]))
    assert held_against(model, model, data=tmp_path / "d.npz").passed
