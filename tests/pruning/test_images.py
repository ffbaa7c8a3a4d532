"""A folder of images as calibration data, against Pillow and the formula by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper

Image = pytest.importorskip("PIL.Image")

from onnxshrink.cli import cli  # noqa: E402
from onnxshrink.errors import InputError  # noqa: E402
from onnxshrink.pruning.calibration import load  # noqa: E402
from tests.pruning.nets import residual  # noqa: E402


def model_of(*dims: int | str, dtype: int = TensorProto.FLOAT) -> onnx.ModelProto:
    x = helper.make_tensor_value_info("x", dtype, dims)
    y = helper.make_tensor_value_info("y", dtype, None)
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [x], [y])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve images in two folders, of different sizes, one with alpha, one grey."""
    rng = np.random.default_rng(0)
    for number in range(12):
        inner = tmp_path / "images" / ("cats" if number < 6 else "dogs")
        inner.mkdir(parents=True, exist_ok=True)
        shape = [(20 + number, 30, 3), (24, 18, 4), (16, 16)][0 if number > 1 else number + 1]
        kind = "jpg" if number == 5 else "png"
        Image.fromarray(rng.integers(0, 256, shape, np.uint8)).save(inner / f"{number:02}.{kind}")
    (tmp_path / "images" / "labels.txt").write_text("none of ours")
    return tmp_path / "images"


def by_hand(folder: Path, height: int, width: int, mode: str = "RGB") -> np.ndarray:
    found = []
    for path in sorted([*folder.rglob("*.png"), *folder.rglob("*.jpg")]):
        image = Image.open(path).convert(mode).resize((width, height), Image.Resampling.BILINEAR)
        found.append(np.asarray(image).reshape(height, width, -1))
    return np.stack(found).astype(np.float64)


def values(found: object) -> np.ndarray:
    """All samples in the order in which they were read: every fourth is held out."""
    scoring, held = iter(found.scoring), iter(found.held)  # type: ignore[attr-defined]
    return np.concatenate([next(held if number % 4 == 3 else scoring)["x"] for number in range(len(found))])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("pixels", "scaled"),
    [
        ("0,1", lambda x: x / 255),
        ("0,255", lambda x: x),
        ("-1,1", lambda x: x / 127.5 - 1),
        ("imagenet", lambda x: (x / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]),
    ],
)
def test_scaling_and_layout(folder: Path, pixels: str, scaled) -> None:  # type: ignore[no-untyped-def]
    expected = scaled(by_hand(folder, 8, 10))
    last = values(load(model_of("n", 8, 10, 3), folder, 100, pixels))
    assert np.allclose(last, expected, atol=1e-5)
    first = values(load(model_of("n", 3, 8, 10), folder, 100, pixels))
    assert first.dtype == np.float32
    assert np.allclose(first, expected.transpose(0, 3, 1, 2), atol=1e-5)


def test_grey_bytes_fixed_batches_and_open_sizes(folder: Path) -> None:
    grey = values(load(model_of(1, 1, 8, 8), folder, 100, "0,255"))
    assert np.allclose(grey[:, 0], by_hand(folder, 8, 8, "L")[..., 0], atol=1e-5)
    raw = load(model_of("n", 8, 8, 3, dtype=TensorProto.UINT8), folder, 100)
    assert np.array_equal(values(raw), by_hand(folder, 8, 8))
    pairs = load(model_of(2, 3, 8, 8), folder, 100, "0,1")
    assert len(pairs) == 6
    assert np.allclose(values(pairs).transpose(0, 2, 3, 1), by_hand(folder, 8, 8) / 255, atol=1e-5)
    sized = load(model_of("n", 3, "h", "w"), folder, 100, "0,1", {"x": (1, 3, 6, 4)})
    assert values(sized).shape == (12, 3, 6, 4)


def test_a_limit_takes_from_all_folders(folder: Path) -> None:
    found = values(load(model_of("n", 8, 8, 3), folder, 4, "0,255"))
    every = by_hand(folder, 8, 8)
    which = [int(np.abs(every - one).sum(axis=(1, 2, 3)).argmin()) for one in found]
    assert which == [0, 4, 7, 11]


BAD = {
    "no scaling": (("n", 3, 8, 8), None, r"nothing says what bytes become; --pixels 0,1 or"),
    "wrong scaling": (("n", 3, 8, 8), "1,0", "--pixels 1,0 is no range"),
    "unknown scaling": (("n", 3, 8, 8), "cifar", "--pixels cifar is no range; 0,1"),
    "open size": (("n", 3, "h", "w"), "0,1", r"is dynamic; --input-shape x:1,3,224,224"),
    "no channels": (("n", 5, 8, 8), "0,1", "neither behind the batch nor at the end"),
    "no image": (("n", 3, 8), "0,1", "one input of rank 4"),
    "large batch": ((32, 3, 8, 8), "0,1", "12 images are no batch of 32"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(folder: Path, case: str) -> None:
    dims, pixels, message = BAD[case]
    with pytest.raises(InputError, match=message):
        load(model_of(*dims), folder, 100, pixels)


def test_bad_files(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="bytes as they are; leave --pixels out"):
        load(model_of("n", 8, 8, 3, dtype=TensorProto.UINT8), folder, 100, "0,1")
    (folder / "broken.png").write_bytes(b"\x89PNG no more")
    with pytest.raises(InputError, match=r"broken\.png: is no image"):
        load(model_of("n", 3, 8, 8), folder, 100, "0,1")
    np.save(folder / "x.npy", np.zeros((4, 3, 8, 8), np.float32))
    with pytest.raises(InputError, match="holds images and arrays"):
        load(model_of("n", 3, 8, 8), folder, 100, "0,1")
    np.save(tmp_path / "x.npy", np.ones((4, 3, 8, 8), np.float32))
    with pytest.raises(InputError, match="arrays are taken as they are; leave --pixels out"):
        load(model_of("n", 3, 8, 8), tmp_path / "x.npy", 100, "0,1")


def test_the_command(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    onnx.save(residual(), "in.onnx")
    arguments = ["prune", "in.onnx", "out.onnx", "--data", str(folder), "--pixels", "-1,1", "--keep-macs", "60%"]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 0, result.output
    assert Path("out.onnx").exists()
