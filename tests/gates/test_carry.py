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


class Block(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = torch.nn.Conv2d(8, 6, 3, padding=1), torch.nn.Conv2d(6, 8, 3, padding=1)

    def forward(self, x):
        return x + 0.1 * self.b(self.a(x).relu())


@pytest.mark.parametrize("others", [0, 2])
def test_a_branch_that_the_file_does_not_have_goes(others, tmp_path):
    """None of its weights is in the map, which may have nothing else."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 1), torch.nn.ReLU(), Block(), Block(), torch.nn.Conv2d(8, 2, 1))
    example = torch.randn(2, 3, 8, 8)
    gated = gates.augment(network, example).eval()
    gated.gates["2/a"].mask.zero_()
    gated.gates["3/a"].mask[:others] = 0
    small, result = check(gated, tmp_path / "model.onnx", example)
    assert {"2.a.weight", "2.b.weight"} <= set(result.map["gone"])
    own, removed = ({k: p.shape for k, p in net.named_parameters()} for net in (small, gates.removed(gated, example)))
    assert own == removed


@pytest.mark.parametrize("first", [True, False])
def test_closed_heads_of_torch_s_attention_go(first, tmp_path):
    """Whose file counts heads together with the batch."""

    class Attending(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.into, self.out = torch.nn.Linear(5, 12), torch.nn.Linear(12, 3)
            self.attention = torch.nn.MultiheadAttention(12, 3, batch_first=first)

        def forward(self, x):
            y = self.into(x)
            return self.out(y + self.attention(y, y, y, need_weights=False)[0])

    torch.manual_seed(0)
    example = torch.randn(2, 4, 5)
    gated = gates.augment(Attending(), example).eval()
    gated.gates["attention"].mask[1] = 0
    small, result = check(gated, tmp_path / "model.onnx", example)
    assert result.map["weights"]
    sizes = [sum(p.numel() for p in net.parameters()) for net in (small, gates.removed(gated, example))]
    assert sizes[0] == sizes[1] < sum(p.numel() for p in gated.network.parameters())


class Shifted(torch.nn.Module):
    """Some channels of each frame come from its neighbours, written in place, as in temporal shift modules."""

    def forward(self, x):
        frames = x.unflatten(0, (-1, 4))
        out = torch.zeros_like(frames)
        out[:, :-1, :2] = frames[:, 1:, :2]
        out[:, 1:, 2:4] = frames[:, :-1, 2:4]
        out[:, :, 4:] = frames[:, :, 4:]
        return out.flatten(0, 1)


def test_channels_that_are_written_in_parts_go_from_the_file(tmp_path):
    torch.manual_seed(0)
    first, last, example = torch.nn.Conv2d(3, 12, 1), torch.nn.Conv2d(12, 2, 1), torch.randn(2, 4, 3, 5, 5)
    network = torch.nn.Sequential(torch.nn.Flatten(0, 1), first, torch.nn.ReLU(), Shifted(), last)
    gated = gates.augment(network, example).eval()
    close(gated, 0.5)
    gates.export(gated, tmp_path / "model.onnx", example)
    result = onnxshrink.optimize(tmp_path / "model.onnx", align=1)
    sizes = {w.dims[0] for w in result.model.graph.initializer if w.name in ("1.weight", "1.bias")}
    assert sizes == {gates.removed(gated, example).get_parameter("1.weight").shape[0]}
    assert sizes != {12}


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


@pytest.mark.parametrize("kernel", [1, 3])
def test_constants_go_into_the_group_that_read_them(kernel, tmp_path):
    torch.manual_seed(0)
    grouped = torch.nn.Conv2d(8, 8, kernel, padding=kernel // 2, groups=2)
    layers = torch.nn.Conv2d(3, 8, 1), torch.nn.BatchNorm2d(8), torch.nn.ReLU(), grouped, torch.nn.ReLU()
    network = torch.nn.Sequential(*layers, torch.nn.Conv2d(8, 2, 1)).eval()
    with torch.no_grad():
        network[1].weight[[1, 2, 5, 6]] = 0
        network[1].bias[[1, 2, 5, 6]] = torch.tensor([0.7, 0.2, 0.4, 0.9])
    _, result = check(network, tmp_path / "model.onnx", torch.randn(2, 3, 6, 6))
    assert {item.into for item in result.plan.absorbed} == {"bias" if kernel == 1 else "carrier"}


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


class Twice(torch.nn.Module):
    """A layer and a BatchNorm that are used twice; of one use, half is read."""

    def __init__(self, normalized):
        super().__init__()
        self.layer, self.last = torch.nn.Linear(8, 12), torch.nn.Linear(18, 3)
        self.norm = torch.nn.BatchNorm1d(12) if normalized else torch.nn.Identity()

    def forward(self, x):
        one, two = (self.norm(self.layer(sign * x)).relu() for sign in (1, -1))
        return self.last(torch.cat([one[:, :6], two], 1))


@pytest.mark.parametrize("normalized", [False, True])
def test_what_only_one_of_two_uses_lost_stays_for_the_other(normalized, tmp_path):
    torch.manual_seed(0)
    network = Twice(normalized).eval()
    torch.nn.init.uniform_(network.layer.bias, 1, 2)
    _, result = check(network, tmp_path / "model.onnx", torch.randn(2, 8))
    assert result.plan.removed["unread"] == 6


class Tokens(torch.nn.Module):
    """Two blocks of token layers; the second may have the first one's weights, or equal ones."""

    def __init__(self, second="own"):
        super().__init__()
        torch.manual_seed(0)
        self.one, self.two = (self.block() for _ in range(2))
        if second == "shared":
            self.two = self.one
        elif second == "equal":
            self.two.load_state_dict(self.one.state_dict())
        elif second in ("equal biases", "equal sums"):
            for block in (self.one, self.two):
                torch.nn.init.zeros_(block[0 if second == "equal biases" else 2].bias)
        self.last = torch.nn.Linear(6, 3)

    @staticmethod
    def block():
        return torch.nn.Sequential(torch.nn.Linear(6, 12), torch.nn.GELU(), torch.nn.Linear(12, 6))

    def forward(self, x):
        return self.last(x + self.one(x) + self.two(self.one(x)))


def pruned(network, path, names=True):
    """The map of a pruned file; without the names of transposed weights, as torch.onnx.export alone writes it."""
    import onnx

    gates.export(network, path, TOKENS)
    if not names:
        model = onnx.load(path)
        renamed = {i.name: f"unnamed_{k}" for k, i in enumerate(model.graph.initializer) if i.name.endswith(".T")}
        for item in model.graph.initializer:
            item.name = renamed.get(item.name, item.name)
        for node in model.graph.node:
            node.input[:] = [renamed.get(name, name) for name in node.input]
        onnx.save(model, path)
    data = [{"input": np.random.default_rng(k).standard_normal((1, 5, 6)).astype(np.float32)} for k in range(16)]
    return onnxshrink.prune(path, data=data, keep_parameters=0.8, align=1, points=0, repair_weights=names).shrunk


TOKENS = torch.zeros(2, 5, 6)


def test_what_only_one_of_two_equal_parameters_lost(tmp_path):
    """Small equal constants are one in the file: a bias that goes goes with its weight, a repaired one is refused."""
    network = Tokens("equal biases").eval()
    gated = gates.augment(network, TOKENS).eval()
    gated.gates["two/0"].mask[::2] = 0
    small, _ = check(gated, tmp_path / "model.onnx", TOKENS)
    assert small.two.get_submodule("0").out_features == 6
    assert small.one.get_submodule("0").out_features == 12


@pytest.mark.parametrize(
    ("second", "message"),
    [("shared", r"is the weight of 3 layers, and the file has it pruned otherwise"), ("equal sums", "are equal")],
)
def test_parameters_that_the_map_cannot_tell_apart(second, message, tmp_path):
    network = Tokens(second).eval()
    mapping = pruned(network, tmp_path / "model.onnx").map
    with pytest.raises(InputError, match=message):
        gates.apply(network, mapping, TOKENS)


def test_weights_without_a_name_are_told(tmp_path):
    """They stay, as zeros, and the answers are the file's."""
    network = Tokens().eval()
    result = pruned(network, tmp_path / "model.onnx", names=False)
    with pytest.warns(UserWarning, match="have weights that are not the network's, such as unnamed_"):
        small = gates.apply(network, result.map, TOKENS)
    x = torch.randn(3, 5, 6)
    session = onnxruntime.InferenceSession(result.model.SerializeToString(), providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, {"input": x.numpy()})
    with torch.no_grad():
        assert np.abs(small(x).numpy() - expected).max() <= 1e-5 * np.abs(expected).max()
