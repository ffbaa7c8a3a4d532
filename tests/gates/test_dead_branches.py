"""What a branch of which nothing is left still adds: its bias, through whatever the network does with it."""

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.nn import functional  # noqa: E402

from onnxshrink import gates  # noqa: E402
from onnxshrink.errors import InputError  # noqa: E402

from .test_coupling import difference  # noqa: E402

EXAMPLE = (2, 3, 8, 8)


class Branch(nn.Module):
    """A residual branch, what comes behind it, and what joins it with the stream."""

    def __init__(self, behind, join=torch.add):
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 2, 1)
        self.first, self.second = nn.Conv2d(8, 6, 3, padding=1), nn.Conv2d(6, 8, 3, padding=1)
        self.behind, self.join = behind, join

    def forward(self, x):
        x = self.stem(x).relu()
        return self.head(self.join(self.behind(self.second(self.first(x).relu())), x).relu())


class Window(nn.Module):
    """A window in space that nothing trains."""

    def __init__(self):
        super().__init__()
        self.register_buffer("window", torch.linspace(0, 1, 64).view(8, 8))

    def forward(self, x):
        return functional.adaptive_avg_pool2d(x * self.window, 4).repeat_interleave(2, 2).repeat_interleave(2, 3)


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def added_in_place(branch, x):
    branch += x
    return branch


def scaled_in_place(branch, x):
    branch *= 0.5
    branch += x
    return branch.relu_()


def normalization(affine=True):
    return nn.GroupNorm(4, 8, affine=affine)


BEHIND = {
    "nothing": nn.Identity,
    "a padded average": lambda: nn.AvgPool2d(3, 1, 1),
    "an average with a divisor": lambda: nn.AvgPool2d(3, 1, 1, divisor_override=5),
    "a padded maximum": lambda: nn.MaxPool2d(3, 1, 1),
    "places of a maximum": lambda: Function(lambda x: functional.max_pool2d(x, 3, 1, 1, return_indices=True)[0]),
    "a window": Window,
    "an image twice as large": lambda: Function(lambda x: functional.interpolate(x, scale_factor=2.0)[..., ::2, ::2]),
    "a GroupNorm": normalization,
    "a PReLU": lambda: nn.PReLU(8),
    "a BatchNorm": lambda: nn.BatchNorm2d(8),
    "a BatchNorm without statistics": lambda: nn.BatchNorm2d(8, track_running_stats=False),
    "a dropout": lambda: nn.Dropout(0.5),
    "halves that change places": lambda: Function(lambda x: torch.cat(x.chunk(2, 1)[::-1], 1)),
    "a mean over space": lambda: Function(lambda x: x - x.mean((2, 3), keepdim=True) + x.amax((2, 3), keepdim=True)),
    "channels beside pixels": lambda: Function(
        lambda x: functional.pixel_shuffle(x.repeat(1, 4, 1, 1), 2)[..., ::2, ::2]
    ),
}
JOINS = {"sum": torch.add, "sum in place": added_in_place, "scaled in place": scaled_in_place}


@pytest.mark.parametrize(
    ("behind", "join"),
    [*((behind, "sum") for behind in BEHIND), *(("nothing", join) for join in JOINS if join != "sum")],
)
def test_a_dead_branch_adds_what_it_added(behind, join):
    torch.manual_seed(0)
    network, example = Branch(BEHIND[behind](), JOINS[join]), torch.randn(EXAMPLE)
    gated = gates.augment(network, example).eval()
    gated.gates["first"].mask.zero_()
    assert gates.survives(gated, example)
    for small in (gates.removed(gated, example), gates.collapse(gated, example).gated):
        assert "first.weight" not in {name.removeprefix("network.") for name, _ in small.named_parameters()}
        for _ in range(2):  # what is written in place must not be what the branch adds
            with torch.no_grad():
                assert difference(gated(example[:1]), small.eval()(example[:1])) < 1e-5


def test_a_constant_of_as_many_values_as_there_are_inputs_is_none():
    """Places that differ, counted together with an open batch: no parameter holds as many as a later batch has."""

    class Frames(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.last = nn.Linear(8, 6), nn.Linear(6, 8), nn.Linear(8, 3)
            self.register_buffer("place", torch.randn(1, 4, 1))

        def forward(self, x):
            branch = self.second(self.first(x).relu()) * self.place
            return self.last((branch.flatten(0, 1) + x.flatten(0, 1)).relu())

    torch.manual_seed(0)
    example = torch.randn(2, 4, 8)
    gated = gates.augment(Frames(), example).eval()
    gated.gates["first"].mask.zero_()
    with pytest.raises(InputError, match="a branch of which nothing is left is read by an operator"):
        gates.removed(gated, example)
    assert not gates.survives(gated, example)


class InARow(nn.Module):
    """Dead branches and a constant in a row, as in Inception and Res2Net."""

    def __init__(self, stacked):
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1)
        self.ways = nn.ModuleList(nn.Conv2d(8, 4, 1, bias=False) for _ in range(3))
        self.inner, self.norm, self.stacked = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(8 if stacked else 12), stacked
        self.last = nn.Conv2d(8 if stacked else 12, 8, 1)

    def forward(self, x):
        x = self.stem(x).relu()
        a, b, c = (way(x) for way in self.ways)
        c = self.inner(c.relu())
        row = torch.stack([a, c], 1).flatten(1, 2) if self.stacked else torch.cat([a, b, c], 1)
        return self.head(x + self.last(self.norm(row)))


@pytest.mark.parametrize("stacked", [False, True])
def test_a_constant_beside_dead_branches_is_normalized(stacked):
    torch.manual_seed(0)
    network, example = InARow(stacked), torch.randn(EXAMPLE)
    with torch.no_grad():
        for parameter in network.norm.parameters():
            parameter.uniform_(0.5, 1.5)
    gated = gates.augment(network, example).eval()
    for name, gate in gated.gates.items():
        if name.startswith("ways"):
            gate.mask.zero_()
    for small in (gates.removed(gated, example), gates.collapse(gated, example).gated):
        assert difference(gated(example), small.eval()(example)) < 1e-5
