"""Prune and retrain: the training network, cut by the map of `prune`, answers what the pruned file answers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")

import onnxshrink  # noqa: E402
from onnxshrink import gates  # noqa: E402
from onnxshrink.errors import InputError, OnnxshrinkError  # noqa: E402
from onnxshrink.runtime import session  # noqa: E402
from tests.gates.networks import made  # noqa: E402
from tests.gates.random_networks import SIZE, RandomNetwork  # noqa: E402

REFUSALS = ("can be pruned", "cannot be reached", "is no parameter of the network", "nothing of the network is left")


@pytest.fixture(autouse=True)
def _models(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `models/` holds is imported from there, as its scripts do."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "models")


def samples(example, count=48):  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(0)
    return [{"input": rng.standard_normal((1, *example.shape[1:])).astype(np.float32)} for _ in range(count)]


def answers(path, network, example):  # type: ignore[no-untyped-def]
    """Of the file and of the network, on new inputs."""
    x = np.random.default_rng(1).standard_normal((5, *example.shape[1:])).astype(np.float32)
    (expected,) = session(path).run(None, {"input": x})
    with torch.no_grad():
        return expected, network.eval()(torch.from_numpy(x)).numpy()


@pytest.mark.parametrize("repair", [True, False], ids=["repaired", "unrepaired"])
@pytest.mark.parametrize("name", ["resnet", "mobilenet", "unet", "squeeze_and_excite", "vgg", "grouped"])
def test_the_sliced_network_is_the_file(name: str, repair: bool, tmp_path) -> None:  # type: ignore[no-untyped-def]
    network, example = made(name)
    source, output = tmp_path / "dense.onnx", tmp_path / "pruned.onnx"
    gates.export(network, source, example)
    options = {"keep_parameters": 0.7, "allocation": "uniform", "align": 1, "repair_weights": repair}
    result = onnxshrink.prune(source, output, data=samples(example), **options)
    assert result.shrunk is not None
    mapping = json.loads(json.dumps(result.shrunk.map))
    small = gates.apply(network, mapping, example)
    expected, found = answers(output, small, example)
    assert np.abs(found - expected).max() <= 2e-5 * np.abs(expected).max()
    before = sum(p.numel() for p in network.parameters())
    assert sum(p.numel() for p in small.parameters()) < 0.8 * before
    if repair:
        dense, _ = answers(source, network, example)
        assert np.abs(dense - expected).max() > 1e-3 * np.abs(expected).max(), "something was lost"


class Between(torch.nn.Module):
    """Layers with biases and normalizations, and something between two of them."""

    def __init__(self, between) -> None:  # type: ignore[no-untyped-def]
        super().__init__()
        self.one, self.two = torch.nn.Conv2d(3, 16, 3), torch.nn.Conv2d(16, 12, 3)
        self.three, self.head = torch.nn.Conv2d(12, 8, 3), torch.nn.Linear(8, 5)
        self.norms = torch.nn.ModuleList([torch.nn.BatchNorm2d(n) for n in (16, 12, 8)])
        self.matrix = torch.nn.Parameter(torch.randn(16, 16))
        self.between = between
        for norm in self.norms:
            torch.nn.init.uniform_(norm.weight, 0.5, 2)
            torch.nn.init.uniform_(norm.bias, -1, 1)
            torch.nn.init.uniform_(norm.running_mean, -1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.between(self, torch.relu(self.norms[0](self.one(x))))
        y = self.two(x)
        y.mean((2, 3))  # nobody reads it, and no exporter writes it
        y = torch.relu(self.norms[1](y))
        return self.head(torch.relu(self.norms[2](self.three(y))).mean((2, 3)))


BETWEEN = {
    "nothing": lambda net, x: x,
    "a roll, whose units stay in PyTorch": lambda net, x: x.roll(3, 1),
    "a square matrix": lambda net, x: (x.permute(0, 2, 3, 1) @ net.matrix).permute(0, 3, 1, 2),
}


@pytest.mark.parametrize("repair", [True, False], ids=["repaired", "unrepaired"])
@pytest.mark.parametrize("name", BETWEEN)
def test_the_sliced_network_is_the_file_whatever_lies_between(name: str, repair: bool, tmp_path) -> None:  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    network, example = Between(BETWEEN[name]).eval(), torch.zeros(2, 3, 12, 12)
    source, output = tmp_path / "dense.onnx", tmp_path / "pruned.onnx"
    gates.export(network, source, example)
    options = {"keep_macs": 0.5, "allocation": "uniform", "align": 1, "repair_weights": repair}
    result = onnxshrink.prune(source, output, data=samples(example), **options)
    assert result.shrunk is not None
    expected, found = answers(output, gates.apply(network, result.shrunk.map, example), example)
    assert np.abs(found - expected).max() <= 2e-5 * np.abs(expected).max()


@pytest.mark.slow
@pytest.mark.parametrize("repair", [True, False], ids=["repaired", "unrepaired"])
@pytest.mark.parametrize("seed", range(40))
def test_random_networks_are_the_file(seed: int, repair: bool, tmp_path) -> None:  # type: ignore[no-untyped-def]
    """Or the mistake is said: no channel, a budget out of reach, a repaired weight under another name."""
    network, example = RandomNetwork(seed), torch.zeros(2, 3, SIZE, SIZE)
    source, output = tmp_path / "dense.onnx", tmp_path / "pruned.onnx"
    gates.export(network, source, example)
    try:
        result = onnxshrink.prune(
            source, output, data=samples(example, 24), keep_macs=0.7, align=1, points=0, repair_weights=repair
        )
        assert result.shrunk is not None
        small = gates.apply(network, result.shrunk.map, example)
    except OnnxshrinkError as error:
        assert any(text in str(error) for text in REFUSALS), error  # noqa: PT017
        return
    expected, found = answers(output, small, example)
    assert np.abs(found - expected).max() <= 5e-5 * np.abs(expected).max()


def test_the_cascade_goes_on(tmp_path) -> None:  # type: ignore[no-untyped-def]
    """Prune, slice, train a step, export, prune again."""
    network, example = made("resnet")
    x = torch.randn(8, *example.shape[1:])
    sizes = [sum(p.numel() for p in network.parameters())]
    for step in range(2):
        source, output = tmp_path / f"{step}.onnx", tmp_path / f"{step}-pruned.onnx"
        gates.export(network, source, example)
        result = onnxshrink.prune(source, output, data=samples(example), keep_macs=0.7, align=1)
        assert result.shrunk is not None
        network = gates.apply(network, result.shrunk.map, example)
        expected, found = answers(output, network, example)
        assert np.abs(found - expected).max() <= 2e-5 * np.abs(expected).max()
        network.train()
        optimizer = torch.optim.SGD(network.parameters(), 1e-2)
        before = torch.cat([p.detach().reshape(-1).clone() for p in network.parameters()])
        torch.nn.functional.cross_entropy(network(x), torch.arange(8) % 10).backward()
        optimizer.step()
        after = torch.cat([p.detach().reshape(-1) for p in network.parameters()])
        assert (after != before).float().mean() > 0.5, "all layers train"
        sizes.append(after.numel())
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] < 0.75 * sizes[0]


def test_a_scale_of_zero_is_not_divided_by(tmp_path) -> None:  # type: ignore[no-untyped-def]
    network, example = made("vgg")
    with torch.no_grad():
        network[0][1].weight[0] = 0  # its channel stays: the shift is read
        network[0][1].bias[0] = 3.0
    source, output = tmp_path / "dense.onnx", tmp_path / "pruned.onnx"
    gates.export(network, source, example)
    result = onnxshrink.prune(source, output, data=samples(example), keep_macs=0.6, align=1)
    assert result.shrunk is not None
    expected, found = answers(output, gates.apply(network, result.shrunk.map, example), example)
    assert np.abs(found - expected).max() <= 2e-5 * np.abs(expected).max()


def test_a_repaired_weight_that_the_network_does_not_have(tmp_path) -> None:  # type: ignore[no-untyped-def]
    network, example = made("resnet")
    source = tmp_path / "dense.onnx"
    gates.export(network, source, example)
    result = onnxshrink.prune(source, data=samples(example), keep_macs=0.7, align=1)
    assert result.shrunk is not None
    mapping = json.loads(json.dumps(result.shrunk.map))
    entry = next(entry for entry in mapping["weights"] if entry["input"] == 1 and "value" in entry)
    entry["source"] = "elsewhere"
    with pytest.raises(InputError, match="is no parameter of the network; prune with --no-repair"):
        gates.apply(network, mapping, example)
