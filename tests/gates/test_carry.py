"""The way back: the network that is cut by the map answers what the optimized file answers."""

import json

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")

import numpy as np  # noqa: E402
import onnxruntime  # noqa: E402

import onnxshrink  # noqa: E402
from onnxshrink import gates  # noqa: E402
from onnxshrink.errors import InputError  # noqa: E402

from .networks import made  # noqa: E402
from .test_coupling import close  # noqa: E402


def check(network, source, example, align=1):
    """Export, optimize, cut the network by the map; returns the cut network and the plan."""
    gates.export(network, source, example)
    result = onnxshrink.optimize(source, align=align)
    small = gates.apply(network, json.loads(json.dumps(result.map)), example).eval()
    x = np.random.default_rng(0).standard_normal((3, *example.shape[1:])).astype(np.float32)
    session = onnxruntime.InferenceSession(result.model.SerializeToString(), providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, {"input": x})
    with torch.no_grad():
        found = small(torch.from_numpy(x)).numpy()
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()
    return small, result


@pytest.mark.parametrize("name", ["resnet", "mobilenet", "unet", "squeeze_and_excite", "vgg", "grouped"])
def test_a_gated_network_is_cut_as_its_file_was(name, tmp_path):
    network, example = made(name)
    gated = gates.augment(network, example).eval()
    close(gated, 0.5)
    small, result = check(gated, tmp_path / "model.onnx", example)
    rows = {w.name: w.dims[0] for w in result.model.graph.initializer if w.name.endswith("weight")}
    own = {name: p.shape[0] for name, p in small.named_parameters()}
    assert {name: own[name] for name in rows} == rows


def test_alignment_is_carried_over(tmp_path):
    network, example = made("vgg")
    gated = gates.augment(network, example).eval()
    close(gated, 0.5)
    small, _ = check(gated, tmp_path / "model.onnx", example, align=4)
    assert all(p.shape[0] % 4 == 0 for name, p in small.named_parameters() if p.dim() > 1 and p.shape[0] != 10)


def test_constants_go_where_the_file_has_them(tmp_path):
    """Scale 0 with a shift left, in front of a 1x1 layer with a BatchNorm, a padded layer and a Linear."""
    network, example = made("mobilenet")
    with torch.no_grad():
        network[4][1].weight[::3] = 0  # read by the Linear, through a pool
        network[4][1].bias[::3] = 0.7
        network[1].branch[1][1].weight[::2] = 0  # read by a 1x1 Conv with a BatchNorm
        network[1].branch[1][1].bias[::2] = 0.4
    small, result = check(network, tmp_path / "model.onnx", example)
    assert result.plan.removed["known"] > 8
    assert {item.into for item in result.plan.absorbed} >= {"bias"}
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in network.parameters())


def test_a_carrier_carries(tmp_path):
    network, example = made("vgg")
    with torch.no_grad():
        network[2][1].weight[::2] = 0  # read by a padded Conv
        network[2][1].bias[::2] = torch.linspace(0.2, 0.9, 12)
    _, result = check(network, tmp_path / "model.onnx", example)
    assert "carrier" in {item.into for item in result.plan.absorbed}


def test_the_cut_network_can_be_exported_and_optimized_again(tmp_path):
    network, example = made("resnet")
    gated = gates.augment(network, example).eval()
    close(gated, 0.5)
    small, _ = check(gated, tmp_path / "model.onnx", example)
    gates.export(small, tmp_path / "again.onnx", example)
    assert not onnxshrink.optimize(tmp_path / "again.onnx", align=1).changed


def test_maps_that_do_not_belong(tmp_path):
    network, example = made("resnet")
    with pytest.raises(InputError, match="map of version None"):
        gates.apply(network, {}, example)
    entry = {"source": "elsewhere", "axes": {"0": [0]}, "node": "n", "op": "Conv", "input": 1}
    with pytest.raises(InputError, match="none of the map's weights"):
        gates.apply(network, {"version": 2, "weights": [entry], "absorbed": []}, example)
    entry["source"], entry["axes"] = "stem.0.weight", {"0": [99]}
    with pytest.raises(InputError, match="keeps slice 99"):
        gates.apply(network, {"version": 2, "weights": [entry], "absorbed": []}, example)
