"""Closing: the baseline is uniform and takes the smallest norms; branches may go where there is a way around."""

import pytest

torch = pytest.importorskip("torch")

from onnxshrink import gates  # noqa: E402
from onnxshrink.errors import InputError  # noqa: E402


@pytest.mark.parametrize("target", [0.7, 0.3])
def test_uniform_shares_differ_by_less_than_a_unit_and_reach_the_target(gated, target):
    size = gates.Size(gated)
    closed = gates.close_uniform(gated, size, target)
    assert closed == sum(gate.units - gate.kept for gate in gated.gate_list)
    assert size.kept() <= target
    least, most = (f((g.kept + d) / g.units for g in gated.gate_list) for f, d in ((max, -1), (min, 1)))
    assert least < most
    for gate in gated.gate_list:  # nothing was closed that the target had room for
        for unit in (gate.mask == 0).nonzero()[:, 0].tolist():
            gate.mask[unit] = 1
            assert size.kept() > target
            gate.mask[unit] = 0


def test_uniform_closes_the_smallest_filters(gated):
    gates.close_uniform(gated, gates.Size(gated), 0.5)
    gate = gated.gates["blocks/1/first/0"]
    norms = gated.network.blocks[1].first[0].weight.abs().sum((1, 2, 3))
    assert norms[gate.mask == 0].max() < norms[gate.mask == 1].min()


def test_uniform_does_not_cut_the_network_through(gated):
    with pytest.raises(InputError, match=r"the target is 0\.1 %"):
        gates.close_uniform(gated, gates.Size(gated), 0.001)
    assert all(gate.kept for gate in gated.gate_list)


def test_branches_may_go_altogether_and_the_trunk_keeps_its_floor(gated):
    example = torch.zeros(2, 3, 16, 16)
    size = gates.Size(gated)
    scores = torch.ones(1 + sum(gate.units for gate in gated.gate_list))
    found = gates.branches(gated, example)
    for name in gated.gates:  # the trunk matters more than any branch
        if name not in found:
            scores[gated.places(gated.coupling.axes[name.replace("/", ".") + ".weight"][0])] = 1e9
    gates.close_gates(gated, scores, size, 0.15, 0.5, found, lambda: gates.survives(gated, example))
    assert all(gated.gates[name].kept == 0 for name in found)
    assert all(gate.kept >= gate.units / 2 for name, gate in gated.gates.items() if name not in found)
    assert gates.removed(gated, example)


def test_a_branch_stays_where_the_caller_says_that_the_network_needs_it(gated):
    names = set(gated.gates)
    with pytest.raises(InputError, match="at its floor"):
        gates.close_gates(gated, torch.ones(1 + len(gated.place)), gates.Size(gated), 1e-6, 0.1, names, lambda: False)
    assert {gate.kept for gate in gated.gate_list} == {1}


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_what_is_not_finite_orders_nothing(value, gated):
    size, scores = gates.Size(gated), torch.ones(1 + len(gated.place))
    scores[0] = torch.inf  # of what has no gate
    assert gates.close_gates(gated, scores, size, 0.9)
    scores[1:4] = value
    with pytest.raises(InputError, match=r"the scores of 3 units of \d+ are not finite"):
        gates.close_gates(gated, scores, size, 0.5)
    with torch.no_grad():
        gated.network.stem[0].weight[0, 0, 0, 0] = value
    with pytest.raises(InputError, match=r"the L1 norms of \d+ units of \d+ are not finite"):
        gates.close_uniform(gated, size, 0.5)
    assert size.kept() > 0.8


def test_scores_that_are_infinite_for_what_they_save_close_what_is_open(gated):
    """Of units that cost next to nothing; closed ones are no candidates again."""
    size, scores = gates.Size(gated), torch.full((1 + len(gated.place),), 3e38)
    assert gates.close_gates(gated, scores, size, 0.5) == sum(gate.units - gate.kept for gate in gated.gate_list)
    assert size.kept() <= 0.5


@pytest.mark.parametrize("search", ["uniform", "importance"])
def test_counts_stay_multiples(search):
    from .networks import made

    gated = gates.augment(*made("unet"))  # widths of 8, 12 and 16
    size = gates.Size(gated)
    if search == "uniform":
        gates.close_uniform(gated, size, 0.5, multiple=4)
    else:
        scores = torch.rand(1 + len(gated.place), generator=torch.Generator().manual_seed(0))
        gates.close_gates(gated, scores, size, 0.5, 0.1, multiple=4)
    assert size.kept() <= 0.5
    assert all(gate.kept % 4 == 0 for gate in gated.gate_list)
