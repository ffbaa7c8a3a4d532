"""Size: the closed form of the multiply-adds. Ejector: the literal formula, largest where a gate is undecided."""

import math

import pytest

torch = pytest.importorskip("torch")

from onnxshrink import gates  # noqa: E402
from onnxshrink.errors import InputError  # noqa: E402


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


def test_original_macs_are_the_closed_form(gated):
    size = gates.Size(gated)
    assert size.whole == 2 * closed_form(4, [4, 6, 8], [4, 6, 8], 16, 10)  # the example is a batch of 2
    assert gates.Size(gated, "parameters").whole == sum(p.numel() for p in gated.network.parameters())


def test_relaxed_macs_at_gates_of_0_and_1_are_those_of_the_narrow_network(gated):
    size = gates.Size(gated)
    kept = {"stem/0": 3, "blocks/1/second/0": 2, "blocks/2/second/0": 5}
    middles = {"blocks/0/first/0": 1, "blocks/1/first/0": 4, "blocks/2/first/0": 7}
    for name, count in {**kept, **middles}.items():
        gate = gated.gates[name]
        gate.alpha.data = torch.where(torch.arange(gate.units) < count, 20.0, -20.0)
    narrow = closed_form(3, list(middles.values()), list(kept.values()), 16, 10)
    full = closed_form(4, [4, 6, 8], [4, 6, 8], 16, 10)
    assert size.relaxed().item() == pytest.approx(narrow / full, rel=1e-6)
    gates.prune_gates(gated, 0.5)
    assert size.relaxed().item() == pytest.approx(narrow / full, rel=1e-6)
    assert size.kept() == narrow / full


def test_a_cost_is_a_product_of_what_is_open(gated):
    """A table of one's own: 7 for each pair of two gates, 3 for each unit of another."""
    units = [gated.coupling.axes[f"{name}.weight"][0] for name in ("stem.0", "blocks.0.first.0", "blocks.1.first.0")]
    table = [gates.Cost("pairs", 7.0, (units[0], units[1])), gates.Cost("units", 3.0, (units[2],))]
    size = gates.Size(gated, costs=table)
    gated.gates["stem/0"].mask[0] = 0
    gated.gates["blocks/1/first/0"].mask[:2] = 0
    assert size.kept() == (7 * 3 * 4 + 3 * 4) / (7 * 4 * 4 + 3 * 6)


@pytest.mark.parametrize("costs", [[], [gates.Cost("free", 0.0, (torch.arange(1),))]], ids=["none", "free"])
def test_what_costs_nothing_is_no_size(costs, gated):
    with pytest.raises(InputError, match="the network costs 0, of which no share can be kept; take another size"):
        gates.Size(gated, costs=costs)


def test_size_loss_pulls_down_to_the_target_and_no_further(gated):
    size = gates.Size(gated)
    share = size.relaxed().item()
    assert size.loss(0.4).item() == pytest.approx(share - 0.4)
    loss = size.loss(share + 0.01)
    loss.backward()
    assert loss.item() == 0
    assert all(not gate.alpha.grad.any() for gate in gated.gate_list)


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


def test_the_size_of_a_network_is_the_same_in_any_precision(gated):
    gated.gate_list[0].mask[0] = 0
    kept = gates.Size(gated).kept()
    assert kept < 1
    for dtype in (torch.float64, torch.bfloat16):
        assert gates.Size(gated.to(dtype)).kept() == kept
