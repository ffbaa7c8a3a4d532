"""What removal must not change: modes that a module settles itself, how outputs are packed, what dead branches still
add to operators that count sizes.
"""

import copy

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.nn import functional  # noqa: E402

from onnxshrink import gates  # noqa: E402
from onnxshrink.errors import InputError  # noqa: E402

from .test_coupling import difference  # noqa: E402


def gated_half(network, example):
    """The network with every second unit of each gate closed."""
    gated = gates.augment(network, example)
    for gate in gated.gate_list:
        gate.mask[::2] = 0
    return gated


class Normalized(nn.Module):
    """A BatchNorm that a module settles itself."""

    def __init__(self, how):
        super().__init__()
        self.how, self.first, self.second = how, nn.Conv2d(3, 12, 3), nn.Conv2d(12, 4, 1)
        self.norm = nn.BatchNorm2d(12, track_running_stats=how != "no statistics")

    def train(self, mode=True):
        super().train(mode)
        if self.how == "frozen":
            self.norm.eval()
        return self

    def forward(self, x):
        x, norm = self.first(x), self.norm
        if self.how in ("always", "never"):
            statistics = norm.running_mean, norm.running_var, norm.weight, norm.bias
            return self.second(functional.batch_norm(x, *statistics, self.how == "always").relu())
        return self.second(norm(x).relu())


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("how", ["frozen", "always", "never", "no statistics", "by the mode"])
def test_a_normalization_is_in_the_mode_that_it_was_in(how, training):
    torch.manual_seed(0)
    example = torch.randn(4, 3, 8, 8) * 2 + 1
    gated = gated_half(Normalized(how), example).train(training)
    small, again = gates.removed(gated, example), gates.collapse(gated, example).gated
    assert small.training == training
    expected = gated(example)
    for found in (small.train(training)(example), again.train(training)(example)):
        assert difference(expected, found) < 1e-5


def test_dropout_that_always_drops_goes_on():
    class Dropping(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(8, 64), nn.Linear(64, 3)

        def forward(self, x):
            return self.second(functional.dropout(self.first(x).relu(), 0.5, training=True))

    example = torch.ones(2, 8)
    small = gates.removed(gated_half(Dropping(), example).eval(), example).eval()
    first, second = small(example)
    assert (first != second).any()


@pytest.mark.parametrize(
    "pack",
    [
        lambda x, y: {"logits": x, "features": y},
        lambda x, y: [x, y],
        lambda x, y: (x, {"features": y}),
        lambda x, y: {"logits": x},
        lambda x, y: [x],
    ],
)
def test_outputs_stay_packed_as_they_were(pack):
    class Packing(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.inner, self.head = nn.Linear(8, 6), nn.Linear(6, 12), nn.Linear(12, 3)

        def forward(self, x):
            features = self.stem(x)
            return pack(self.head(self.inner(features).relu()), features)

    example = torch.randn(2, 8)
    gated = gated_half(Packing(), example).eval()
    leaves, expected = torch.utils._pytree.tree_flatten(gated(example))
    for small in (gates.removed(gated, example), gates.collapse(gated, example).gated):
        found, packing = torch.utils._pytree.tree_flatten(small(example))
        assert packing == expected
        assert all(difference(*pair) < 1e-5 for pair in zip(leaves, found, strict=True))


class Memory(nn.Module):
    """What is read from a memory, summed over as many places as there are."""

    def __init__(self):
        super().__init__()
        self.first, self.query = nn.Linear(8, 12), nn.Linear(12, 10)
        self.last, self.beside = nn.Linear(12, 3), nn.Linear(8, 3)
        self.keys, self.values = nn.Parameter(torch.randn(6, 10)), nn.Parameter(torch.randn(6, 12))

    def forward(self, x):
        read = (self.query(self.first(x).relu()) @ self.keys.t()).softmax(-1) @ self.values
        return self.last(read.sum(1)) + self.beside(x).mean(1)


class Turned(nn.Module):
    """Points turned by a matrix of their own, which a small network makes for each example."""

    def __init__(self):
        super().__init__()
        self.first, self.matrix = nn.Conv1d(8, 6, 1), nn.Linear(6, 64)
        self.second, self.head = nn.Conv1d(8, 10, 1), nn.Linear(10, 4)

    def forward(self, x):
        x = x.transpose(1, 2)
        matrix = self.matrix(self.first(x).relu().amax(2)).view(-1, 8, 8) + torch.eye(8)
        return self.head(self.second(torch.bmm(matrix, x)).relu().amax(2))


class Positions(nn.Module):
    """A bias of attention, which a small network makes for each distance, picked by a table."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(1, 12), nn.Linear(12, 4)
        self.qkv, self.last = nn.Linear(8, 48), nn.Linear(16, 3)
        self.register_buffer("distances", torch.randn(9, 1))
        self.register_buffer("table", torch.arange(5)[:, None] - torch.arange(5) + 4)

    def forward(self, x):
        q, k, v = self.qkv(x).view(-1, 5, 3, 4, 4).permute(2, 0, 3, 1, 4)
        bias = self.second(self.first(self.distances).relu())[self.table.view(-1)].view(5, 5, 4).permute(2, 0, 1)
        return self.last(((q @ k.transpose(-1, -2) + bias).softmax(-1) @ v).transpose(1, 2).flatten(2))


class InARow(nn.Module):
    """A branch behind the tokens that it reads, beside them, and as examples of its own."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = nn.Linear(8, 12), nn.Linear(12, 8), nn.Linear(8, 3)

    def forward(self, x):
        branch, one = (self.second(self.first(y).relu()) for y in (x, x[:, 0]))
        both = torch.cat([x, branch], 1).sum(1) + torch.stack([branch, x], 2).sum((1, 2))
        return self.last(torch.cat([both, one]).relu())


@pytest.mark.parametrize("make", [Memory, Turned, Positions, InARow])
def test_what_is_left_of_a_dead_branch_has_the_size_that_is_read(make):
    torch.manual_seed(0)
    example = torch.randn(2, 5, 8)
    gated = gates.augment(make(), example).eval()
    gated.gates["first"].mask.zero_()
    small = gates.removed(gated, example).eval()
    for x in (example, torch.randn(3, 5, 8)):
        assert difference(gated(x), small(x)) < 1e-5


class Unpooled(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.inner, self.last = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 3, 1)

    def forward(self, x):
        y, places = functional.max_pool2d(self.first(x).relu(), 2, return_indices=True)
        return self.last(functional.max_unpool2d(self.inner(y).relu(), places, 2))


class WithoutBatch(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = nn.Conv1d(3, 8, 3), nn.Conv1d(8, 8, 3), nn.Linear(3, 3)

    def forward(self, x):
        y = functional.max_pool1d(self.first(x[0]).relu(), 2)
        return self.last(self.second(y).relu().mean(0)) + x.mean()


class SharedHeads(nn.Module):
    """Heads of the query that share those of key and value."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.v = nn.Linear(8, 24), nn.Linear(8, 12), nn.Linear(8, 12)
        self.inner, self.last = nn.Linear(24, 10), nn.Linear(10, 3)

    def forward(self, x):
        q, k, v = (layer(x).unflatten(2, (-1, 4)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        y = functional.scaled_dot_product_attention(q, k, v, enable_gqa=True)
        return self.last(self.inner(y.transpose(1, 2).flatten(2)).relu())


class Chosen(nn.Module):
    """Branches weighed against each other, channel by channel, and a map of one channel spread over all."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.map = (nn.Conv2d(3, n, 1) for n in (12, 12, 1))
        self.last = nn.Conv2d(12, 3, 1)

    def forward(self, x):
        branches = torch.stack([self.one(x), self.two(x)])
        y = (branches.mean((3, 4), keepdim=True).softmax(0) * branches).sum(0)
        return self.last(y * self.map(x).sigmoid().expand_as(y))


class Tied(nn.Module):
    """A decoder with the weight of the encoder."""

    def __init__(self):
        super().__init__()
        self.encoder, self.inner, self.back = nn.Linear(8, 12), nn.Linear(12, 10), nn.Linear(10, 12)

    def forward(self, x):
        y = self.back(self.inner(self.encoder(x).relu()).relu())
        return functional.linear(y, self.encoder.weight.mT)


class Cropped(nn.Module):
    """Parts of the channels, counted from both ends."""

    def __init__(self):
        super().__init__()
        self.first, self.last, self.other = nn.Conv2d(3, 16, 1), nn.Conv2d(12, 3, 1), nn.Conv2d(12, 3, 1)

    def forward(self, x):
        x = self.first(x)
        return self.last(x.narrow(1, 2, 12)) + self.other(functional.pad(x, (0, 0, 0, 0, -3, -1)))


class Placed(nn.Module):
    """A position that is learnt for each channel and place."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 3, 1)
        self.position = nn.Parameter(torch.randn(1, 8, 4, 5))

    def forward(self, x):
        return self.last((self.first(x) + self.position).relu())


class Squeezed(nn.Module):
    """All axes of length one go, and one that a cut makes so long does not."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 2, 1), nn.Linear(2, 3)

    def forward(self, x):
        return self.last(self.first(x).relu().mean((2, 3), keepdim=True).squeeze())


CUT = {
    "parts of the channels": (Cropped, (2, 3, 5, 5), {"first": 16}),
    "a position": (Placed, (2, 3, 4, 5), {"first": 8}),
    "one channel is left": (Squeezed, (2, 3, 5, 5), {"first": 2}),
    "places of a pooling": (Unpooled, (2, 3, 10, 10), {"first": 8}),
    "no batch": (WithoutBatch, (2, 3, 12), {"first": 8, "second": 8}),
    "shared heads": (SharedHeads, (2, 5, 8), {"q": 3, "inner": 10}),
    "branches": (Chosen, (2, 3, 6, 6), {"one": 12}),
    "a weight with another reader": (Tied, (2, 8), {"inner": 10}),
}


@pytest.mark.parametrize("name", CUT)
def test_the_cut_network_answers_as_the_gated_one(name):
    torch.manual_seed(0)
    make, shape, units = CUT[name]
    example = torch.randn(shape)
    gated = gated_half(make(), example).eval()
    assert {key: gate.units for key, gate in gated.gates.items()} == units
    for small in (gates.removed(gated, example).eval(), gates.collapse(gated, example).gated.eval()):
        assert difference(gated(example), small(example)) < 1e-5


@pytest.mark.parametrize("name", ["graph", "code", "meta"])
def test_a_part_with_a_name_of_torch_fx_is_told(name):
    network = nn.Sequential()
    network.add_module(name, nn.Linear(8, 4))
    network.add_module("head", nn.Linear(4, 2))
    with pytest.raises(InputError, match=rf"`{name}` of Sequential.*another name"):
        gates.augment(network, torch.zeros(2, 8))
    assert list(gates.augment(nn.Sequential(network), torch.zeros(2, 8)).gates) == [f"0/{name}"]


class Named(nn.Module):
    """Parts that have the names which a cut would give to its own."""

    def __init__(self):
        super().__init__()
        self.first, self.outputs, self.dropout_module = nn.Linear(8, 6), nn.Linear(6, 4), nn.Linear(4, 4)
        self.dropout = nn.Dropout(0.0)

    def forward(self, x):
        y = self.outputs(self.first(x).relu())
        return {"y": self.dropout_module(self.dropout(y)), "x": y}


def test_parts_keep_their_names():
    torch.manual_seed(0)
    example = torch.randn(2, 8)
    gated = gated_half(Named(), example).eval()
    for small in (gates.removed(gated, example).eval(), gates.collapse(gated, example).gated.eval()):
        for key, value in gated(example).items():
            assert difference(value, small(example)[key]) < 1e-5


def test_frozen_parts_stay_frozen():
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5))
    network, example = (
        nn.Sequential(backbone, nn.Conv2d(8, 6, 1), nn.BatchNorm2d(6), nn.ReLU()),
        torch.randn(4, 3, 5, 5),
    )
    gated = gated_half(nn.Sequential(network, nn.Conv2d(6, 2, 1)), example).train()
    backbone.eval()
    for small in (gates.removed(gated, example), gates.collapse(gated, example).gated):
        assert difference(gated(example), small(example)) < 1e-5


@pytest.mark.parametrize("momentum", [None, 0.3])
def test_statistics_go_on_as_they_would(momentum):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8, momentum=momentum), nn.ReLU(), nn.Conv2d(8, 2, 1))
    example = torch.randn(4, 3, 5, 5)
    gated = gated_half(network, example)
    gated(example)
    for small in (gates.removed(gated, example), gates.collapse(gated, example).gated):
        again = copy.deepcopy(gated)
        for one in (again, small):
            one.train()(example + 3)
        assert difference(again.eval()(example), small.eval()(example)) < 1e-5
        assert [int(b) for name, b in small.named_buffers() if name.endswith("num_batches_tracked")] == [2]


class Centred(nn.Module):
    """A running mean of its own."""

    def __init__(self):
        super().__init__()
        self.register_buffer("centre", torch.zeros(6))

    def forward(self, x):
        y = x - self.centre
        if self.training:
            self.centre.copy_(0.9 * self.centre + 0.1 * x.detach().mean(0))
        return y


def test_a_buffer_that_is_not_written_any_more_is_told():
    network = nn.Sequential(nn.Linear(3, 6), Centred(), nn.Linear(6, 2))
    with pytest.warns(UserWarning, match="writes into its buffer `1.centre` in training"):
        gates.augment(network, torch.randn(2, 3))


def test_a_layer_behind_a_normalized_length_keeps_its_gate():
    torch.manual_seed(0)

    class Length(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1)

        def forward(self, x):
            return self.last(functional.normalize(self.first(x), dim=1))

    gated = gated_half(Length(), torch.randn(2, 3, 5, 5))
    assert {name: gate.units for name, gate in gates.collapse(gated, torch.randn(2, 3, 5, 5)).gated.gates.items()} == {
        "first": 4
    }
