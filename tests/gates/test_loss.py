"""Size: the closed form of the multiply-adds. Ejector: the literal formula, largest where a gate is undecided."""

import math

import pytest

torch = pytest.importorskip("torch")

from onnxshrink import gates  # noqa: E402


def closed_form(stem: int, middles: list[int], streams: list[int], size: int, classes: int) -> int:
    """Multiply-adds of a three-stage ResNet with one block a stage, written out from its widths."""
    macs = 9 * size**2 * 3 * stem
    incoming = stem
    for stage, (middle, stream) in enumerate(zip(middles, streams, strict=True)):
        positions = (size // 2**stage) ** 2
        macs += 9 * positions * incoming * middle + 9 * positions * middle * stream
        macs += positions * incoming * stream if stage else 0
        incoming = stream
    return macs + incoming * classes


def test_original_macs_are_the_closed_form(network):
    found = gates.contractions_of(network, torch.zeros(1, 3, 16, 16))
    assert sum(c.original() for c in found) == closed_form(4, [4, 6, 8], [4, 6, 8], 16, 10)


def test_relaxed_macs_at_gates_of_0_and_1_are_those_of_the_narrow_network(network):
    found = gates.contractions_of(network, torch.zeros(1, 3, 16, 16))
    kept_streams, kept_middles = [3, 2, 5], [1, 4, 7]
    streams = [network.stem.gate] + [block.second.gate for block in network.blocks[1:]]
    middles = [block.first.gate for block in network.blocks]
    for gate, kept in zip(streams + middles, kept_streams + kept_middles, strict=True):
        gate.alpha.data = torch.where(torch.arange(gate.channels) < kept, 20.0, -20.0)
    narrow = closed_form(3, kept_middles, kept_streams, 16, 10)
    full = closed_form(4, [4, 6, 8], [4, 6, 8], 16, 10)
    assert gates.relative_macs(found).item() == pytest.approx(narrow / full, rel=1e-6)
    gates.prune_gates(network, 0.5)
    assert gates.relative_macs(found).item() == pytest.approx(narrow / full, rel=1e-6)
    assert gates.kept_macs(found) == narrow / full


def test_counting_leaves_the_training_mode_alone(network):
    network.train()
    statistics = network.stem.bn.running_mean.clone()
    gates.contractions_of(network, torch.randn(1, 3, 16, 16))
    assert network.training
    assert torch.equal(network.stem.bn.running_mean, statistics)


def test_a_layer_that_reads_two_sources_counts_both():
    up, skip = gates.Gate(4), gates.Gate(6)
    layer = gates.GatedConv([up, skip, 2], gates.Gate(5), kernel=1)
    (found,) = gates.contractions_of(layer, torch.zeros(1, 12, 3, 3))
    up.alpha.data = torch.tensor([20.0, 20, -20, -20])
    w = 1 / (1 + math.exp(-5))
    assert found.original() == 9 * 12 * 5
    assert found.relaxed().item() == pytest.approx(9 * (2 + 6 * w + 2) * 5 * w)


def test_size_loss_pulls_down_to_the_target_and_no_further(network):
    found = gates.contractions_of(network, torch.zeros(1, 3, 16, 16))
    share = gates.relative_macs(found).item()
    assert gates.size_loss(found, 0.4).item() == pytest.approx(share - 0.4)
    loss = gates.size_loss(found, share + 0.01)
    loss.backward()
    assert loss.item() == 0
    assert all(not gate.alpha.grad.any() for gate in gates.gates_of(network))


@pytest.mark.parametrize("sigma", [0.33, 1.0, 3.0])
def test_ejector_is_the_literal_formula_and_largest_at_0(sigma):
    def at(alpha: float) -> float:
        return gates.ejector_loss([gates.Gate(1, start=alpha)], sigma).item()

    assert at(0.0) == pytest.approx(1)
    for alpha in (-1.5, -0.2, 0.2, 1.5):
        assert at(alpha) < at(0.0)
        assert at(alpha) == pytest.approx(math.exp(-((alpha / (2 * sigma**2)) ** 2)), abs=1e-5)


def test_ejector_pushes_away_from_0_on_both_sides_and_leaves_pruned_gates_out():
    gate = gates.Gate(3)
    gate.alpha.data = torch.tensor([-0.3, 0.3, -2.0])
    gates.prune_gates(gate, 0.02)
    loss = gates.ejector_loss([gate])
    loss.backward()
    assert loss.item() == pytest.approx(math.exp(-0.09 / 4), abs=1e-5)
    assert gate.alpha.grad[0] > 0 > gate.alpha.grad[1]
    assert gate.alpha.grad[2] == 0
    gate.mask.zero_()
    assert gates.ejector_loss([gate]).item() == 0
