"""models/train.py and models/cascade.py as a user calls them, on a few generated images in CIFAR-10's own layout."""

import importlib
import pickle
import re

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("click")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")
pytest.importorskip("PIL")
pytest.importorskip("matplotlib")

import numpy as np  # noqa: E402
from click.testing import CliRunner  # noqa: E402

from onnxshrink.errors import InputError  # noqa: E402

FIELDS = {"dense_epochs": 1, "search_epochs": 1, "steps": 1, "finetune_epochs": 1, "batch": 16, "vanish": "false"}


@pytest.fixture
def images(tmp_path):
    rng, folder = np.random.default_rng(0), tmp_path / "data" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for name in [f"data_batch_{n}" for n in range(1, 6)] + ["test_batch"]:
        content = {b"data": rng.integers(0, 256, (8, 3072), np.uint8), b"labels": rng.integers(0, 10, 8).tolist()}
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
    return folder.parent


def call(images, out, *more, **fields):
    from train import main

    settings = [part for k, v in {**FIELDS, **fields}.items() for part in ("--set", f"{k}={v}")]
    arguments = ["resnet20", "--data", str(images), "--out", str(out), "--device", "cpu", "--threads", "1"]
    return CliRunner().invoke(main, [*arguments, *settings, *more])


@pytest.mark.slow
def test_a_recipe_from_images_to_an_onnx_file_in_two_parts(images, tmp_path):
    out = tmp_path / "out"
    first = call(images, out, "--stop-after", "2")
    assert first.exit_code == 0, first.output
    assert not (out / "resnet20_cifar10.onnx").exists()
    rest = call(images, out, "--resume")
    assert rest.exit_code == 0, rest.output
    assert "resumed after 2 epochs" in rest.output
    assert "of 8 test images" in rest.output
    assert {path.name for path in out.iterdir()} >= {"resnet20_cifar10.onnx", "training.png", "dense.pt", "log.jsonl"}


def test_mistakes_are_one_line(images, tmp_path):
    for fields, message in (
        ({"depth": 20}, "a recipe has no field 'depth'"),
        ({"search": "luck"}, "no search 'luck'"),
        ({"network": "foo"}, "there is no network 'foo'; take one of resnet20,"),
        ({"target": "half"}, "target is a number, 'half' is not"),
        ({"batch": 64}, "an epoch has 40 examples, fewer than a batch of 64; give more examples, or batch=40"),
    ):
        found = call(images, tmp_path / "out", **fields)
        assert found.exit_code == 2
        assert found.output.startswith("Error: ")
        assert message in found.output
        assert len(found.output.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_options_that_decided_the_rounds_of_a_cascade_cannot_change(tmp_path):
    from cascade import begun

    begun(tmp_path, {"rounds": 2, "keep_macs": 0.6})
    begun(tmp_path, {"rounds": 2, "keep_macs": 0.6})
    with pytest.raises(InputError, match=r"begun with keep_macs=0.6, now it is keep_macs=0.7; give the same"):
        begun(tmp_path, {"rounds": 2, "keep_macs": 0.7})


def test_the_other_scripts_say_mistakes_in_one_line(images, tmp_path):
    import evaluate
    import throughput

    (tmp_path / "none.onnx").write_bytes(b"nonsense")
    for script, arguments, message in (
        (throughput, ["alexnet"], "there is no recipe 'alexnet'"),
        (evaluate, [str(tmp_path / "none.onnx"), "--data", str(images)], "none.onnx: ONNX Runtime cannot read this"),
        (evaluate, [str(tmp_path / "none.onnx"), "--data", str(tmp_path)], "no CIFAR-10 test images here"),
    ):
        found = CliRunner().invoke(script.main, arguments)
        assert found.exit_code == 2
        assert message in found.output
        assert len(found.output.splitlines()) == 1


def test_no_time_to_measure_in_is_refused():
    import throughput

    found = CliRunner().invoke(throughput.main, ["--seconds", "0"])
    assert found.exit_code == 2
    assert "0.0 is not in the range" in found.output


@pytest.mark.parametrize(("script", "lines"), [("train", 2), ("cascade", 2), ("throughput", 1)])
def test_commands_stand_on_lines_of_their_own_in_the_help(script, lines):
    shown = CliRunner().invoke(importlib.import_module(script).main, ["--help"]).output
    assert len(re.findall(r"^ +(?:python|torchrun) .*models/\w+\.py", shown, re.MULTILINE)) == lines


def test_what_is_no_checkpoint_is_one_clear_line(images, tmp_path):
    (tmp_path / "dense.onnx").write_bytes(b"\x08\x08nonsense")
    found = call(images, tmp_path / "out", "--dense", str(tmp_path / "dense.onnx"))
    assert found.exit_code == 2
    expected = "dense.onnx: this is no checkpoint of a training; give a .pt file that a training wrote"
    assert found.output.splitlines()[-1].endswith(expected)
    assert len(found.output.splitlines()) == 1


def test_a_folder_that_cannot_be_made_is_one_line(images, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    found = call(images, tmp_path / "file" / "out")
    assert found.exit_code == 2
    assert "out: this folder cannot be made: Not a directory" in found.output
    assert len(found.output.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "target"], "'target' is not of the form target=0.3"),
        (["--device", "gpu"], "'gpu' is neither cpu nor cuda nor cuda:1"),
        (["--device", "cuda:99"], "there is no device cuda:99 here"),
        (["--limit", "0"], "0 is not in the range"),
    ],
)
def test_what_the_command_line_does_not_take_is_said_before_anything_is_made(arguments, message, images, tmp_path):
    found = call(images, tmp_path / "out", *arguments)
    assert found.exit_code == 2
    assert message in " ".join(found.output.split())
    assert not (tmp_path / "out").exists()


def test_values_of_fields():
    from options import value_of

    assert value_of("0.02,0.5,") == [0.02, 0.5]
    assert [value_of(text) for text in ("true", "8", "1e-4", "step")] == [True, 8, 1e-4, "step"]


def cascade(images, out, dense, *more):
    from cascade import main

    arguments = ["resnet20", "--data", str(images), "--out", str(out), "--dense", str(dense), "--keep-macs", "60%"]
    settings = [part for k, v in FIELDS.items() for part in ("--set", f"{k}={v}")]
    options = ["--samples", "16", "--device", "cpu", "--threads", "1"]
    return CliRunner().invoke(main, [*arguments, *settings, *options, *more])


def test_a_cascade_searches_nothing(images, tmp_path):
    (tmp_path / "dense.pt").write_bytes(b"")
    found = cascade(images, tmp_path / "out", tmp_path / "dense.pt", "--set", "search=relaxation")
    assert found.exit_code == 2
    assert "a cascade prunes by --method, gates search nothing; leave --set search out" in found.output
    assert not (tmp_path / "out").exists()


def test_what_a_run_that_goes_on_does_not_read_is_said(images, tmp_path):
    (tmp_path / "dense.pt").write_bytes(b"")
    assert call(images, tmp_path / "out", "--stop-after", "1").exit_code == 0
    found = call(images, tmp_path / "out", "--stop-after", "1", "--resume", "--dense", str(tmp_path / "dense.pt"))
    assert found.exit_code == 0, found.output
    assert f"resumed after 1 epochs; {tmp_path / 'dense.pt'} is not read" in found.output


@pytest.mark.slow
def test_the_dense_network_is_kept_for_other_runs(images, tmp_path):
    """What a run that closes nothing ends with, for PyTorch and as ONNX, is one network."""
    import catalogue
    import onnxruntime

    from onnxshrink.gates.training import checkpoint

    out = tmp_path / "out"
    done = call(images, out, search="none")
    assert done.exit_code == 0, done.output
    network = catalogue.entry("resnet20").network()
    checkpoint.fill(network, checkpoint.load(out / "trained.pt", "resnet20")["network"], out / "trained.pt")
    x = torch.rand(3, 3, 32, 32)
    with torch.no_grad():
        expected = network.eval()(x).numpy()
    found = onnxruntime.InferenceSession(out / "resnet20_cifar10.onnx").run(None, {"input": x.numpy()})[0]
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()


@pytest.mark.slow
def test_two_rounds_of_prune_and_retrain_and_on_from_where_they_were(images, tmp_path):
    assert call(images, tmp_path / "dense", "--stop-after", "1", search="none").exit_code == 0
    dense, out = tmp_path / "dense" / "dense.pt", tmp_path / "out"
    first = cascade(images, out, dense, "--rounds", "2")
    assert first.exit_code == 0, first.output
    counts = [int(line.split("→")[1].split()[0].replace(",", "")) for line in first.output.splitlines() if "→" in line]
    assert len(counts) == 2
    assert counts[1] < counts[0] < 40_813_184
    assert 0.56 * 40_813_184 < counts[1] <= 0.6 * 40_813_184
    last = next(line for line in first.output.splitlines() if "of 8 test images" in line)
    assert last.endswith(f"{counts[1]:,} multiply-adds")
    (out / "2" / "checkpoint.pt").unlink()  # as if it was killed before the first epoch of the last round
    again = cascade(images, out, dense, "--rounds", "2")
    assert again.exit_code == 0, again.output
    assert "→" not in again.output
    assert last in again.output.splitlines()
    other = cascade(images, out, dense, "--rounds", "2", "--method", "magnitude")
    assert other.exit_code == 2
    assert "the rounds here were begun with method=pfp, now it is method=magnitude; give the same" in other.output


def test_mistakes_of_the_cascade_are_one_line(images, tmp_path):
    (tmp_path / "empty.pt").write_bytes(b"")
    found = cascade(images, tmp_path / "out", tmp_path / "empty.pt")
    assert found.exit_code == 2
    assert "this is no checkpoint of a training" in found.output
    assert len(found.output.splitlines()) == 1
    assert not (tmp_path / "out").exists()
