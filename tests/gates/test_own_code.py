"""Layers that people write themselves: fixed filters, frozen or unnamed parameters, normalizations without scales."""

import json
import warnings

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")

import numpy as np  # noqa: E402
import onnxruntime  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional  # noqa: E402

import onnxshrink  # noqa: E402
from onnxshrink import gates  # noqa: E402
from onnxshrink.errors import InputError  # noqa: E402

from .test_coupling import difference  # noqa: E402


class Blur(nn.Module):
    """Downsampling without aliases: one fixed filter for each channel, behind a reflecting border."""

    def __init__(self, bias=False):
        super().__init__()
        self.register_buffer("filter", torch.rand(8, 1, 3, 3), persistent=not bias)
        self.bias = nn.Parameter(torch.randn(8)) if bias else None

    def forward(self, x):
        x = functional.pad(x, (1, 1, 1, 1), mode="reflect")
        return functional.conv2d(x, self.filter, self.bias, stride=2, groups=len(self.filter))


class Constant(nn.Module):
    """A filter that is neither parameter nor buffer."""

    def __init__(self):
        super().__init__()
        self.filter = torch.rand(8, 1, 1, 3)

    def forward(self, x):
        return functional.conv2d(x, self.filter, padding=1, groups=8)


class Fixed(nn.Module):
    """A fixed basis, and weights that combine it."""

    def __init__(self):
        super().__init__()
        self.register_buffer("basis", torch.randn(6, 8, 3, 3))
        self.register_buffer("shift", torch.randn(6))
        self.combine = nn.Conv2d(6, 8, 1)

    def forward(self, x):
        return self.combine(functional.conv2d(x, self.basis, self.shift, padding=1))


class Named(nn.Module):
    """Layers as functions of parameters that are called otherwise."""

    def __init__(self):
        super().__init__()
        self.kernel, self.offset = nn.Parameter(torch.randn(12, 8, 3, 3)), nn.Parameter(torch.randn(12))
        self.turned, self.mix = nn.Parameter(torch.randn(12, 10, 3, 3)), nn.Parameter(torch.randn(8, 10))

    def forward(self, x):
        x = torch.relu(functional.conv2d(x, self.kernel, self.offset, padding=1))
        x = torch.relu(functional.conv_transpose2d(x, self.turned, None, (2, 2), 1, 1))
        return functional.linear(x.permute(0, 2, 3, 1), self.mix).permute(0, 3, 1, 2)


class Beside(nn.Module):
    """A layer's parameters in a module that has others, too."""

    def __init__(self):
        super().__init__()
        self.scale, self.weight = nn.Parameter(torch.rand(8) + 0.5), nn.Parameter(torch.randn(8, 8))
        self.inner = nn.Linear(8, 8)

    def forward(self, x):
        x = self.inner(x.permute(0, 2, 3, 1) * self.scale)
        return functional.linear(torch.relu(x), self.weight).permute(0, 3, 1, 2)


class FrozenNorm(nn.Module):
    """A normalization of buffers, as detection networks have it."""

    def __init__(self):
        super().__init__()
        for name in ("weight", "bias", "mean"):
            self.register_buffer(name, torch.randn(8))
        self.register_buffer("variance", torch.rand(8) + 0.5)

    def forward(self, x):
        scale = self.weight.view(1, -1, 1, 1) * (self.variance.view(1, -1, 1, 1) + 1e-5).rsqrt()
        return x * scale + (self.bias.view(1, -1, 1, 1) - self.mean.view(1, -1, 1, 1) * scale)


class Places(nn.Module):
    """What is largest, smallest and the mean over channels, and over all, times channels."""

    def __init__(self):
        super().__init__()
        self.look = nn.Conv2d(3, 1, 3, padding=1)

    def forward(self, x):
        places = [x.max(1)[0].unsqueeze(1), x.min(1, keepdim=True).values, x.mean(1).unsqueeze(1)]
        return x * torch.sigmoid(self.look(torch.cat(places, 1)) - x.mean((1, 2, 3), keepdim=True) + x.max())


class Responses(nn.Module):
    """Channels that are divided by the mean of their norms."""

    def __init__(self):
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.randn(8)), nn.Parameter(torch.randn(8))

    def forward(self, x):
        size = x.norm(p=2, dim=(2, 3), keepdim=True)
        response = size / (size.mean(1, keepdim=True) + 1e-6)
        return x + torch.addcmul(self.shift.view(-1, 1, 1), self.scale.view(-1, 1, 1), x * response)


def behind_a_layer(*modules):
    return lambda: nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), *modules)


MODULES = {
    "blur": (Blur, {"0": 8, "4": 8}),
    "blur with a bias": (lambda: Blur(bias=True), {"0": 8, "4": 8}),
    "constant": (Constant, {"0": 8, "4": 8}),
    "fixed basis": (Fixed, {"0": 8, "2": 6, "2/combine": 8, "4": 8}),
    "behind a sigmoid, a fixed basis": (
        lambda: nn.Sequential(nn.Sigmoid(), Fixed()),
        {"2/1": 6, "2/1/combine": 8, "4": 8},
    ),
    "own names": (Named, {"0": 8, "2": 12, "2/turned": 10, "2/mix": 8, "4": 8}),
    "beside others": (Beside, {"0": 8, "2/inner": 8, "2": 8, "4": 8}),
    "frozen normalization": (FrozenNorm, {"0": 8, "4": 8}),
    "frozen layer": (lambda: behind_a_layer(nn.BatchNorm2d(8))().requires_grad_(False), {"0": 8, "2/0": 8, "4": 8}),
    "no scale": (behind_a_layer(nn.BatchNorm2d(8, affine=False)), {"0": 8, "2/0": 8, "4": 8}),
    "places": (Places, {"0": 8, "4": 8}),
    "places of any sign": (behind_a_layer(Places()), {"0": 8, "2/0": 8, "4": 8}),
    "responses": (behind_a_layer(Responses()), {"0": 8, "2/0": 8, "4": 8}),
    "each image by itself": (behind_a_layer(nn.InstanceNorm2d(8)), {"0": 8, "2/0": 8, "4": 8}),
}


@pytest.mark.parametrize("name", MODULES)
def test_it_is_gated_cut_exported_and_comes_back(name, tmp_path):
    torch.manual_seed(0)
    make, units = MODULES[name]
    ends = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 3, 1)
    network = nn.Sequential(ends[0], nn.ReLU(), make(), nn.ReLU(), ends[1], nn.ReLU(), ends[2])
    for module in network.modules():
        if getattr(module, "running_var", None) is not None:
            nn.init.uniform_(module.running_mean, -1, 1)
            nn.init.uniform_(module.running_var, 0.5, 2)
    example, x = torch.randn(2, 3, 8, 8), torch.randn(5, 3, 8, 8)
    frozen = {name for name, parameter in network.named_parameters() if not parameter.requires_grad}
    gated = gates.augment(network, example).eval()
    assert {name: gate.units for name, gate in gated.gates.items()} == units
    for gate in gated.gate_list:
        nn.init.uniform_(gate.alpha, -0.3, 1)
        gate.mask[::2] = 0
    gates.export(gated, tmp_path / "gated.onnx", example)
    result = onnxshrink.optimize(tmp_path / "gated.onnx", align=1)
    session = onnxruntime.InferenceSession(result.model.SerializeToString(), providers=["CPUExecutionProvider"])
    small, smaller = gates.removed(gated, example).eval(), gates.collapse(gated, example).gated.eval()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        back = gates.apply(gated, json.loads(json.dumps(result.map)), example).eval()
    with torch.no_grad():
        expected = gated(x)
        found = [small(x), smaller(x), back(x), torch.from_numpy(session.run(None, {"input": x.numpy()})[0])]
    assert all(difference(expected, one) < 1e-5 for one in found)
    size = [sum(p.numel() for p in m.parameters()) for m in (network, small, back)]
    assert gates.Size(gated, "parameters").kept() == pytest.approx(size[1] / size[0])
    assert size[2] <= size[1]
    named = {
        name: parameter for name, parameter in small.named_parameters() if name in dict(network.named_parameters())
    }
    assert len(named) == len(list(small.parameters()))
    assert {name for name, parameter in named.items() if not parameter.requires_grad} == frozen
    assert np.isfinite(expected.numpy()).all()


@pytest.mark.parametrize("offset", [True, False])
@pytest.mark.parametrize("repair", [True, False])
def test_what_prune_repaired_comes_back_or_is_refused(repair, offset, tmp_path):
    """A function of parameters has no place for a bias that it did not have."""

    class Function(nn.Module):
        def __init__(self):
            super().__init__()
            self.kernel = nn.Parameter(torch.randn(12, 8, 3, 3))
            self.offset = nn.Parameter(torch.randn(12)) if offset else None

        def forward(self, x):
            return functional.conv2d(x, self.kernel, self.offset, padding=1)

    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), Function(), nn.ReLU(), nn.Conv2d(12, 3, 1)).eval()
    example = torch.randn(2, 3, 8, 8)
    gates.export(network, tmp_path / "whole.onnx", example)
    data = [{"input": np.random.default_rng(k).standard_normal((1, 3, 8, 8)).astype(np.float32)} for k in range(8)]
    small = tmp_path / "small.onnx"
    options = {"keep_macs": 0.6, "align": 1, "points": 0, "repair_weights": repair}
    mapping = json.loads(json.dumps(onnxshrink.prune(tmp_path / "whole.onnx", small, data=data, **options).shrunk.map))
    if repair and not offset:
        with pytest.raises(InputError, match=r"was repaired, whose weight `2\.kernel` is that of no layer of torch"):
            gates.apply(network, mapping, example)
        return
    session = onnxruntime.InferenceSession(small, providers=["CPUExecutionProvider"])
    expected = torch.from_numpy(session.run(None, {"input": example.numpy()})[0])
    with torch.no_grad():
        assert difference(expected, gates.apply(network, mapping, example).eval()(example)) < 1e-5


def test_uniform_closing_knows_fixed_filters():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 1), Fixed(), nn.ReLU(), nn.Conv2d(8, 3, 1))
    gated = gates.augment(network, torch.zeros(2, 3, 8, 8))
    gates.close_uniform(gated, size := gates.Size(gated), 0.4)
    assert 0.2 < size.kept() <= 0.4
