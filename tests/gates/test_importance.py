"""Importance: the score against a brute force, its indifference to scale, and closing down to a target."""

import pytest

torch = pytest.importorskip("torch")

from onnxshrink import gates  # noqa: E402


def loss_of(network, x, labels):
    return torch.nn.functional.cross_entropy(network(x), labels)


def scored(network, x, labels):
    network.zero_grad()
    importance = gates.Importance(gates.gates_of(network))
    loss_of(network, x, labels).backward()
    importance.add()
    return importance


@pytest.fixture
def batch():
    random = torch.Generator().manual_seed(5)
    return torch.rand(16, 3, 16, 16, generator=random), torch.randint(0, 10, (16,), generator=random)


def test_score_is_the_squared_change_of_the_loss_to_first_order(network, batch):
    network.double()
    x, labels = batch[0].double(), batch[1]
    gate = network.blocks[1].first.gate
    importance = scored(network, x, labels)
    score = importance.scores[importance.gates.index(gate)]
    step = 1e-6
    for channel in range(gate.channels):
        losses = []
        for sign in (1, -1):
            with torch.no_grad():
                gate.mask[channel] = 1 + sign * step
                losses.append(loss_of(network, x, labels))
                gate.mask[channel] = 1
        # The mask scales w, so this is w dL/dw.
        slope = (losses[0] - losses[1]) / (2 * step)
        assert score[channel].item() == pytest.approx(slope.item() ** 2, rel=1e-3)


def test_score_ignores_a_scale_moved_from_gamma_into_the_next_weights(network, batch):
    block = network.blocks[1]
    before = scored(network, *batch).scores
    with torch.no_grad():
        block.first.bn.weight *= 0.02
        block.first.bn.bias *= 0.02
        block.second.conv.weight *= 50
    for one, two in zip(before, scored(network, *batch).scores, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-7)


def test_closing_goes_down_to_the_target_and_not_below_the_floor(network, batch):
    found = gates.contractions_of(network, batch[0][:1])
    importance = scored(network, *batch)
    assert gates.close_gates(importance, found, 1.0) == 0
    closed = gates.close_gates(importance, found, 0.6)
    assert closed == sum(gate.channels - gate.kept for gate in importance.gates)
    assert 0.4 < gates.kept_macs(found) <= 0.6
    gates.close_gates(importance, found, 0.0, floor=0.5)
    assert all(gate.kept >= gate.channels / 2 for gate in importance.gates)


def test_the_first_channel_to_go_is_the_least_important_for_what_it_saves(network, batch):
    found = gates.contractions_of(network, batch[0][:1])
    importance = scored(network, *batch)
    values = {}
    for number, gate in enumerate(importance.gates):
        for channel in range(gate.channels):
            gate.mask[channel] = 0
            values[number, channel] = importance.scores[number][channel].item() / (1 - gates.kept_macs(found))
            gate.mask[channel] = 1
    assert gates.close_gates(importance, found, 0.9999) == 1
    number, channel = min(values, key=values.get)
    assert importance.gates[number].mask[channel] == 0
