"""Importance: the score against a brute force, its indifference to scale, and closing down to a target."""

import pytest

torch = pytest.importorskip("torch")

from onnxshrink import gates  # noqa: E402
from onnxshrink.errors import InputError  # noqa: E402


def loss_of(module, x, labels):
    return torch.nn.functional.cross_entropy(module(x), labels)


def scored(gated, x, labels):
    gated.zero_grad()
    importance = gates.Importance(gated)
    loss_of(gated, x, labels).backward()
    importance.add()
    return importance


@pytest.fixture
def batch():
    random = torch.Generator().manual_seed(5)
    return torch.rand(16, 3, 16, 16, generator=random), torch.randint(0, 10, (16,), generator=random)


def test_score_is_the_squared_change_of_the_loss_to_first_order(gated, batch):
    gated.double()
    x, labels = batch[0].double(), batch[1]
    gate = gated.gates["blocks/1/first/0"]
    importance = scored(gated, x, labels)
    score = importance.scores[gated.gate_list.index(gate)]
    step = 1e-6
    for unit in range(gate.units):
        losses = []
        for sign in (1, -1):
            with torch.no_grad():
                gate.mask[unit] = 1 + sign * step
                losses.append(loss_of(gated, x, labels))
                gate.mask[unit] = 1
        # The mask scales w, so this is w dL/dw.
        slope = (losses[0] - losses[1]) / (2 * step)
        assert score[unit].item() == pytest.approx(slope.item() ** 2, rel=1e-3)


def test_score_ignores_a_scale_moved_from_gamma_into_the_next_weights(gated, batch):
    block = gated.network.blocks[1]
    before = scored(gated, *batch).scores
    with torch.no_grad():
        block.first[1].weight *= 0.02
        block.first[1].bias *= 0.02
        block.second[0].weight *= 50
    for one, two in zip(before, scored(gated, *batch).scores, strict=True):
        torch.testing.assert_close(one, two, rtol=2e-5, atol=1e-7)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"slope": 20.0, "identity": True},
        {"start": -0.2, "anchored": ["0"]},
        {"form": "step"},
        {"form": "hard-concrete", "start": 0.5},
    ],
    ids=["sigmoid", "steep", "anchored", "step", "hard-concrete"],
)
@pytest.mark.parametrize("training", [True, False])
def test_score_is_of_the_factor_in_every_form(options, training):
    """A gate multiplies a filter and its bias, so w dL/dw is the sum of theta dL/dtheta over both."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 4, 3))
    x, layer = torch.randn(2, 3, 8, 8), network[0]
    gated = gates.augment(network, x, **options).train(training)
    importance, expected = gates.Importance(gated), 0.0
    for passes in (1, 2):  # passes of one batch are one sum
        gated.zero_grad()
        for _ in range(passes):
            gated(torch.randn(2, 3, 8, 8)).square().mean().backward()
        importance.add()
        change = (layer.weight.grad * layer.weight).flatten(1).sum(1) + layer.bias.grad * layer.bias
        expected = expected + change.detach() ** 2
    torch.testing.assert_close(importance.row()[1:], expected)
    assert importance.row()[1:].any()


def test_a_batch_without_a_backward_pass_is_refused(gated, batch):
    importance = scored(gated, *batch)
    with pytest.raises(InputError, match="no backward pass has told"):
        importance.add()


def test_closing_goes_down_to_the_target_and_not_below_the_floor(gated, batch):
    size = gates.Size(gated)
    importance = scored(gated, *batch)
    assert gates.close_gates(gated, importance.row(), size, 1.0) == 0
    closed = gates.close_gates(gated, importance.row(), size, 0.6)
    assert closed == sum(gate.units - gate.kept for gate in gated.gate_list)
    assert 0.4 < size.kept() <= 0.6
    with pytest.raises(InputError, match="every gate is at its floor"):
        gates.close_gates(gated, importance.row(), size, 0.0, floor=0.5)
    assert all(gate.kept >= gate.units / 2 for gate in gated.gate_list)


def test_the_first_unit_to_go_is_the_least_important_for_what_it_saves(gated, batch):
    size = gates.Size(gated)
    importance = scored(gated, *batch)
    values = {}
    for number, gate in enumerate(gated.gate_list):
        for unit in range(gate.units):
            gate.mask[unit] = 0
            values[number, unit] = importance.scores[number][unit].item() / (1 - size.kept())
            gate.mask[unit] = 1
    assert gates.close_gates(gated, importance.row(), size, 0.9999) == 1
    number, unit = min(values, key=values.get)
    assert gated.gate_list[number].mask[unit] == 0
