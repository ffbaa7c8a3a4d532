"""Coupling is right if a network without its closed units computes what the gated one computes."""

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.nn import functional  # noqa: E402

from onnxshrink import gates  # noqa: E402
from onnxshrink.errors import InputError  # noqa: E402

from .networks import NETWORKS, made  # noqa: E402


def close(gated, share, seed=0):
    """Open gates by some amount, and close some units of each; one always stays."""
    random = torch.Generator().manual_seed(seed)
    for gate in gated.gate_list:
        nn.init.uniform_(gate.alpha, -0.3, 1, generator=random)
        keep = torch.rand(gate.units, generator=random) > share
        keep[int(torch.randint(gate.units, (), generator=random))] = True
        gate.mask.copy_(keep)


def answers(module, example, seed=1):
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(example.shape, generator=random)
    with torch.no_grad():
        return module(x)


def difference(one, other):
    return float((one - other).abs().max() / one.abs().max())


@pytest.mark.parametrize("name", NETWORKS)
def test_the_cut_network_computes_what_the_gated_one_does(name):
    network, example = made(name)
    gated = gates.augment(network, example).eval()
    whole = sum(p.numel() for p in network.parameters())
    for share in (0.3, 0.7):
        close(gated, share)
        expected = answers(gated, example)
        assert difference(expected, answers(gates.folded(gated), example)) == 0
        small = gates.removed(gated, example).eval()
        assert difference(expected, answers(small, example)) < 1e-5
        kept = sum(p.numel() for p in small.parameters())
        assert kept < whole
        assert gates.Size(gated, "parameters").kept() == pytest.approx(kept / whole)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_cut_network_trains_with_any_batch(name):
    network, example = made(name)
    gated = gates.augment(network, example)
    close(gated, 0.5)
    small = gates.removed(gated, example).train()
    small(torch.randn(6, *example.shape[1:])).sum().backward()
    # behind a softmax over all of it, a bias of the keys has no effect
    assert all(p.grad is not None for p in small.parameters())


@pytest.mark.parametrize("name", ["resnet", "preactivation", "densenet", "squeeze_and_excite", "vit", "encoder"])
def test_a_branch_of_which_nothing_is_left_leaves_the_network(name):
    """What it still adds, the shift of a normalization behind it, stays as a constant."""
    network, example = made(name)
    gated = gates.augment(network, example).eval()
    whole, gone = len(list(gates.removed(gated, example).modules())), 0
    for gate in gated.gate_list:
        gate.mask.zero_()
        expected = answers(gated, example)
        try:
            small = gates.removed(gated, example).eval()
        except InputError:
            pass  # the trunk: tested below
        else:
            assert difference(expected, answers(small, example)) < 1e-5
            assert len(list(small.modules())) < whole
            gone += 1
        gate.mask.fill_(1)
    assert gone


def test_a_network_of_which_nothing_is_left_is_refused():
    network, example = made("vgg")
    gated = gates.augment(network, example)
    next(iter(gated.gate_list)).mask.zero_()
    with pytest.raises(InputError, match="anchor its gate"):
        gates.removed(gated, example)


def test_gates_that_start_at_the_identity():
    network, example = made("mobilenet")
    gated = gates.augment(network, example, identity=True).eval()
    assert difference(answers(network, example), answers(gated, example)) == 0


def test_a_residual_stream_has_one_gate():
    network, example = made("resnet")
    gated = gates.augment(network, example)
    streams_and_middles = 3 + len(network.blocks)
    assert len(gated.gates) == streams_and_middles
    assert sorted(gate.units for gate in gated.gate_list) == [4, 4, 6, 6, 8, 8]


def test_whole_heads_are_units():
    gated = gates.augment(*made("encoder"))
    assert {gate.units for gate in gated.gate_list} == {4, 64}
    gated = gates.augment(*made("biased_heads"))
    assert {name: gate.units for name, gate in gated.gates.items()} == {"patch": 16, "qkv": 4}


class Biased(nn.Module):
    """Attention of four heads in windows of 6, with a bias for each head, picked from a table as a Swin picks it."""

    def __init__(self, fused, masked):
        super().__init__()
        self.fused, self.masked = fused, masked
        self.qkv, self.out = nn.Linear(8, 48), nn.Linear(16, 8)
        self.table = nn.Parameter(torch.randn(11, 4))
        self.register_buffer("index", torch.arange(6)[:, None] - torch.arange(6) + 5)

    def forward(self, x):
        q, k, v = self.qkv(x).reshape(-1, 6, 3, 4, 4).permute(2, 0, 3, 1, 4)
        bias = self.table[self.index.view(-1)].view(6, 6, -1).permute(2, 0, 1).contiguous().unsqueeze(0)
        if self.masked:
            bias = bias + torch.eye(6) * -100
        if self.fused:
            found = functional.scaled_dot_product_attention(q, k, v, bias)
        else:
            found = torch.softmax(q @ k.transpose(-2, -1) / 2 + bias, -1) @ v
        return self.out(found.transpose(1, 2).reshape(-1, 6, 16))


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("masked", [True, False])
def test_a_bias_of_each_head_goes_with_it(fused, masked):
    torch.manual_seed(0)
    network, example = Biased(fused, masked).eval(), torch.zeros(2, 6, 8)
    gated = gates.augment(network, example)
    (gate,) = gated.gate_list
    assert gate.units == 4
    close(gated, 0.5)
    small = gates.removed(gated, example)
    assert small.table.shape == (11, gate.kept)
    assert gate.kept < 4
    assert difference(answers(gated, example), answers(small, example)) < 1e-5


class Tied(nn.Module):
    """A head with the weight of the embedding, and one block under two names."""

    def __init__(self):
        super().__init__()
        self.table, self.head = nn.Embedding(10, 8), nn.Linear(8, 10, bias=False)
        self.head.weight = self.table.weight
        self.one = nn.Sequential(nn.Linear(8, 12), nn.Tanh(), nn.Linear(12, 8))
        self.two = self.one

    def forward(self, tokens):
        x = self.table(tokens)
        x = x + self.one(x)
        return self.head(x + self.two(x))


def test_shared_parameters_are_one_unit_each_and_stay_shared():
    torch.manual_seed(0)
    network, example = Tied().eval(), torch.randint(10, (2, 5))
    expected = network(example)
    gated = gates.augment(network, example).eval()
    assert {name: gate.units for name, gate in gated.gates.items()} == {"table": 8, "one/0": 12}
    for gate in gated.gate_list:
        gate.alpha.data.fill_(20)
    torch.testing.assert_close(gated(example), expected)
    assert all(isinstance(p, nn.Parameter) for p in (network.head.weight, network.one[0].weight))
    assert network.head.weight is network.table.weight
    close(gated, 0.5)
    whole, x = sum(p.numel() for p in network.parameters()), torch.randint(10, (3, 5))
    for small in (gates.removed(gated, example), gates.collapse(gated, example).gated.network):
        left = sum(p.numel() for p in small.parameters())
        assert gates.Size(gated, "parameters").kept() == pytest.approx(left / whole)
        assert small.get_parameter("table.weight").shape == (10, gated.gates["table"].kept)
    for other in (gates.folded(gated), gates.removed(gated, example), gates.collapse(gated, example).gated):
        assert difference(gated(x).detach(), other(x).detach()) < 1e-5
    gated(x).sum().backward()
    assert network.table.weight.grad is not None


class Reused(nn.Module):
    """A convolution that is used twice, once with a normalization behind it."""

    def __init__(self, normalized_first):
        super().__init__()
        self.stem, self.again, self.last = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 4, 1)
        self.norm, self.normalized_first = nn.BatchNorm2d(8), normalized_first
        nn.init.uniform_(self.norm.bias, 0.5, 1)

    def forward(self, x):
        x = torch.relu(self.again(torch.relu(self.stem(x))) if not self.normalized_first else self.stem(x))
        x = torch.relu(self.norm(self.again(x)))
        return self.last(self.again(x) if self.normalized_first else x)


@pytest.mark.parametrize("normalized_first", [True, False])
def test_a_layer_that_is_used_twice_needs_its_gate_for_both(normalized_first):
    torch.manual_seed(0)
    network, example = Reused(normalized_first).eval(), torch.zeros(2, 3, 8, 8)
    gated = gates.augment(network, example).eval()
    close(gated, 0.5)
    for small in (gates.removed(gated, example), gates.collapse(gated, example).gated):
        assert difference(answers(gated, example), answers(small.eval(), example)) < 1e-5


def test_a_channel_shuffle_ties_nothing():
    network, example = made("shufflenet")
    gated = gates.augment(network, example)
    assert [gate.units for gate in gated.gate_list] == [16, 8, 8, 8, 8, 24]


class Between(nn.Module):
    """Something between two layers."""

    def __init__(self, width, between):
        super().__init__()
        self.between, self.one = between, nn.Conv2d(3, width, 1)
        self.two = nn.Conv2d(between(torch.zeros(1, width, 4, 4)).shape[1], 8, 3)
        self.three = nn.Conv2d(8, 4, 1)

    def forward(self, x):
        return self.three(torch.relu(self.two(self.between(self.one(x)))))


def shuffled(x, groups):
    return x.unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2)


def halves(x):
    """Every second channel, and the others, as ShuffleNet's own code has it: the batch is moved, too."""
    n, c, h, w = x.shape
    return x.reshape(n * c // 2, 2, h * w).permute(1, 0, 2).reshape(2, n, c // 2, h, w)


BETWEEN = {
    "a constant of the forward pass": (lambda x: x * torch.tensor([1.0, 2, 3] * 4).view(1, -1, 1, 1), 12),
    "a map over all of them": (lambda x: x * torch.sigmoid(x[:, 3:4]), 11),
    "added to all of them": (lambda x: x + x[:, 3:4], 11),
    "a sigmoid": (torch.sigmoid, 12),
    "summed up behind a sigmoid": (lambda x: torch.sigmoid(x).sum(1, keepdim=True) + x, 0),
    "summed up, and not zero": (lambda x: torch.sigmoid(x) + x.sum(1, keepdim=True), 12),
    "zero for one reader, not for the other": (lambda x: torch.cat([torch.relu(x), 1.7 * x + 0.3], 1), 12),
    "a constant index": (lambda x: x[:, [2, 0, 7, 5]], 12),
    "some, one by one": (lambda x: torch.cat([x, x.unbind(1)[-2].unsqueeze(1)], 1), 12),
    "one, counted from the end": (lambda x: x[:, -2].unsqueeze(1) * x, 11),
    "every second": (lambda x: x[:, ::2], 12),
    "rolled": (lambda x: x.roll(2, 1), 12),
    "rolled in space": (lambda x: x.roll((1, 2), (2, 3)), 12),
    "backwards": (lambda x: x.flip(1), 12),
    "shuffled": (lambda x: functional.channel_shuffle(x, 3), 12),
    "shuffled twice": (lambda x: shuffled(shuffled(x, 3), 2), 12),
    "shuffled, and read inside": (
        lambda x: (y := x.unflatten(1, (3, 4)).transpose(1, 2)).flatten(1, 2) + torch.relu(y).flatten(1, 2),
        4,
    ),
    "shuffled, and read between": (lambda x: shuffled(y := shuffled(x, 3), 2) + y, 3),  # its cycles
    "shuffled and halved": (lambda x: (y := halves(x))[0] * 2 - y[1], 6),
    "half of it shuffled": (lambda x: torch.cat([halves(x)[1], x], 1), 12),
    "pixels": (lambda x: functional.pixel_shuffle(x, 2), 3),
    "pixels by hand": (
        lambda x: x.unflatten(1, (3, 2, 2)).permute(0, 1, 4, 2, 5, 3).reshape(len(x), 3, 2 * x.shape[2], -1),
        3,
    ),
    "channels": (lambda x: functional.pixel_unshuffle(x, 2), 12),
    "a pole": (lambda x: 1 / x, 0),
    "a logarithm": (lambda x: torch.log1p(x.abs()) + torch.sin(x) - torch.round(x), 12),
    "a threshold": (lambda x: functional.threshold(x, 0.1, 0.5), 12),
    "a bound from below": (lambda x: x.clamp_min(0.3), 12),
    "a choice": (lambda x: torch.where(x > 0, x, 0.1 * x) + x.masked_fill(x < 0.2, 0.0), 12),
    "a mask over places": (lambda x: x.masked_fill(torch.eye(x.shape[-1], dtype=torch.bool), 2.0), 12),
    "a mask over all": (lambda x: x.masked_fill(torch.arange(12).view(1, 12, 1, 1) < 3, 2.0), 0),
    "gated linear units": (lambda x: functional.glu(x, 1), 6),
    "side by side": (lambda x: torch.stack([x, torch.relu(x)], 1).flatten(1, 2), 12),
    "side by side, and summed up": (
        lambda x: (torch.stack([x, -x]) * torch.tensor([2.0, 5.0]).view(2, 1, 1, 1, 1)).sum(0),
        12,
    ),
    "normalized": (lambda x: functional.normalize(x, dim=1) / (x.std((2, 3), keepdim=True) + 1), 12),
    "summed up": (lambda x: x + x.sum(1, keepdim=True) - x.square().sum(1).unsqueeze(1), 12),
    "a sum along places": (lambda x: x.cumsum(2), 12),
    "a sum along channels": (lambda x: x.cumsum(1), 0),
    "something of its size": (lambda x: x + torch.ones_like(x) - torch.zeros_like(x) + x.new_ones(1), 12),
    "enlarged": (lambda x: functional.interpolate(functional.pad(x, (1, 1, 0, 0), mode="replicate"), size=9), 12),
    "repeated": (lambda x: x.repeat_interleave(2, 1), 12),
    "zero by zero": (lambda x: x.sin() / x, 0),
}


@pytest.mark.parametrize("name", BETWEEN)
def test_operators_that_count_places(name):
    """Each has the gates that it can have, and what is cut counts among what is left."""
    torch.manual_seed(0)
    between, units = BETWEEN[name]
    example = torch.zeros(2, 3, 8, 8)
    gated = gates.augment(Between(12, between), example).eval()
    assert {key: gate.units for key, gate in gated.gates.items()} == ({"one": units} if units else {}) | {"two": 8}
    for share in (0.3, 0.7):
        close(gated, share)
        expected = answers(gated, example)
        for small in (gates.removed(gated, example), gates.collapse(gated, example).gated):
            assert difference(expected, answers(small.eval(), example)) < 1e-5


@pytest.mark.parametrize(("form", "anchored"), [("sigmoid", False), ("step", True), ("hard-concrete", True)])
def test_layers_that_have_become_depthwise(form, anchored):
    """One channel in front of a ConvTranspose is no group; a group that has one channel left is."""
    torch.manual_seed(0)
    grouped = (nn.Conv2d(12, 6, 1), nn.ConvTranspose2d(6, 4, 3, groups=2))
    example = torch.zeros(2, 3, 8, 8)
    for layers in ((nn.Conv2d(12, 1, 1), nn.ConvTranspose2d(1, 4, 3)), grouped):
        network = nn.Sequential(nn.Conv2d(3, 12, 1), nn.ReLU(), *layers, nn.ReLU(), nn.Conv2d(4, 4, 1))
        gated = gates.augment(network, example, form=form).eval()
        close(gated, 0.0)
        gated.gate_list[1].mask[1:] = 0
        for gate in gated.gate_list[1:] if anchored else ():
            gate.anchored = True
            gate.alpha.data.abs_().neg_()  # open only because one unit always is
        expected = answers(gated, example)
        for small in (gates.removed(gated, example), gates.collapse(gated, example).gated):
            assert difference(expected, answers(small.eval(), example)) < 1e-5


def test_what_is_not_known_keeps_everything():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two, self.three = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x):
            x = self.one(x).sort(dim=-1).values
            return self.three(torch.relu(self.two(x)))

    gated = gates.augment(Odd(), torch.zeros(2, 8))
    assert list(gated.gates) == ["two"]


def test_units_that_are_not_zero_where_they_are_closed_have_their_gate_in_front_of_who_reads_them():
    """The oracle multiplies activations: those that are read, not those that are made."""
    network, example = made("awake")
    network.double()
    gated = gates.augment(network, example.double()).eval()
    units = {name: gate.units for name, gate in gated.gates.items()}
    assert units == {"first/0": 8, "joined": 6, "up": 6, "grouped": 6, "hidden": 16}
    close(gated, 0.3)
    factors, handles = gated.factors().detach().double(), []
    for name, groups, rank in (("joined", 1, 3), ("grouped", 2, 3), ("up", 1, 3), ("hidden", 1, 1), ("out", 1, 1)):
        read = gated.coupling.axes[f"{name}.weight"][0 if name == "up" else 1]
        factor = factors[gated.places(read)].repeat(groups).view(-1, *[1] * (rank - 1))
        layer = network.get_submodule(name)
        handles.append(layer.register_forward_pre_hook(lambda _, inputs, factor=factor: (inputs[0] * factor,)))
    x = torch.randn(3, 3, 16, 16, dtype=torch.double)
    with torch.no_grad():
        expected = network(x)
        for handle in handles:
            handle.remove()
        assert difference(expected, gated(x)) < 1e-12
        assert difference(expected, network(x)) > 1e-3


def test_what_no_layer_makes_is_kept_where_it_is_read_behind_an_activation():
    class Learned(nn.Module):
        def __init__(self):
            super().__init__()
            self.learned = nn.Parameter(torch.randn(2, 8))
            self.one, self.two, self.three = nn.Linear(8, 6), nn.Linear(6, 4), nn.Linear(6, 4)

        def forward(self, x):
            return self.two(torch.relu(self.one(torch.sigmoid(self.learned)))) + self.three(x)

    assert list(gates.augment(Learned(), torch.zeros(2, 6)).gates) == ["one"]


def test_units_that_no_layer_makes_are_not_gated_silently():
    class Learned(nn.Module):
        def __init__(self):
            super().__init__()
            self.learned, self.norm = nn.Parameter(torch.randn(1, 8, 1, 1)), nn.BatchNorm2d(8)
            self.one, self.two = nn.Conv2d(3, 6, 1), nn.Conv2d(14, 4, 1)

        def forward(self, x):
            code = self.norm(self.learned.expand(x.shape[0], 8, x.shape[2], x.shape[3]))
            return self.two(torch.cat([self.one(x), code], 1))

    with pytest.raises(InputError, match=r"`norm\.weight` would get gates, but no layer makes 8 of its units"):
        gates.augment(Learned(), torch.zeros(2, 3, 8, 8))


class Sorting(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(3, 8), nn.Linear(8, 4)

    def forward(self, x):
        return self.two(self.one(x).sort(1)[0])


def test_bad_use_gets_a_clear_answer(capsys):
    class Branching(nn.Module):
        def forward(self, x):
            return x if float(x.sum()) > 0 else -x

    with pytest.raises(InputError, match=r"cannot be traced by torch\.export"):
        gates.augment(Branching(), torch.zeros(2, 3))
    assert "def forward" not in capsys.readouterr().err
    with pytest.raises(InputError, match=r"no unit of Sorting can go: .* nothing is known: aten\.sort\.default$"):
        gates.augment(Sorting(), torch.zeros(2, 3))
    normed = nn.Sequential(*(torch.nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)) for _ in range(2)))
    with pytest.raises(
        InputError, match=r"nothing is known: aten\.linear\.default with a computed weight \(2 times\)$"
    ):
        gates.augment(normed, torch.zeros(2, 4))
    with pytest.raises(InputError, match="no unit of Linear can go"):
        gates.augment(nn.Linear(4, 4), torch.zeros(2, 4))
    network, example = made("vgg")
    with pytest.raises(InputError, match="no gate form 'soft'"):
        gates.augment(network, example, form="soft")
    with pytest.raises(InputError, match=r"the gates are: 0\.0, 2\.0"):
        gates.augment(network, example, anchored=["nowhere"])
    with pytest.raises(InputError, match="no size 'weight'"):
        gates.Size(gates.augment(network, example), "weight")


@pytest.mark.parametrize(
    "name", ["resnet", "mobilenet", "densenet", "squeeze_and_excite", "unet", "vgg", "awake", "group_norms"]
)
def test_onnxshrink_cuts_the_exported_file_to_the_same_widths(name, tmp_path):
    """The file with zeros in it, optimized, is the file of the cut network: two ways that share no code."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    import numpy as np
    import onnxruntime

    import onnxshrink

    network, example = made(name)
    gated = gates.augment(network, example).eval()
    close(gated, 0.5)
    gates.export(gated, tmp_path / "gated.onnx", example)
    gates.export(gates.removed(gated, example), tmp_path / "cut.onnx", example)
    result = onnxshrink.optimize(tmp_path / "gated.onnx", align=1)
    cut = onnx.load(tmp_path / "cut.onnx")

    def channels(model):
        named = dict(network.named_parameters())  # the exporter has constants of its own, too
        own = [w for w in model.graph.initializer if w.dims and w.name.removesuffix(".T") in named]
        return {w.name: w.dims[0] for w in own}

    # weights of one sign behind a ReLU may prove a channel dead that no gate closed
    found, expected = channels(result.model), channels(cut)
    assert found.keys() == expected.keys()
    assert sum(expected.values()) - sum(found.values()) == result.plan.removed["range"]
    assert all(found[name] <= expected[name] for name in expected)
    x = np.random.default_rng(0).standard_normal(example.shape).astype(np.float32)
    found = [
        onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(
            None, {"input": x}
        )[0]
        for model in (result.model, cut)
    ]
    assert np.abs(found[0] - found[1]).max() <= 1e-5 * np.abs(found[1]).max()
