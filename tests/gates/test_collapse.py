"""Collapse: the smaller network with gates answers as the masked one, and trains on where that one was."""

import pytest

torch = pytest.importorskip("torch")

from onnxshrink import gates  # noqa: E402

from .networks import NETWORKS, made  # noqa: E402
from .test_coupling import answers, close, difference  # noqa: E402


@pytest.mark.parametrize("name", NETWORKS)
def test_the_collapsed_network_answers_as_the_masked_one_twice_in_a_row(name):
    network, example = made(name)
    gated = gates.augment(network, example).eval()
    whole = gates.Size(gated, "parameters")
    for seed, share in enumerate((0.5, 0.3)):
        close(gated, share, seed)
        smaller = gates.collapse(gated, example).gated
        assert difference(answers(gated, example), answers(smaller, example)) < 1e-5
        assert gates.Size(smaller, "parameters", whole=whole.whole).kept() == pytest.approx(
            sum(p.numel() for p in smaller.network.parameters()) / whole.whole
        )
        gated = smaller


@pytest.mark.parametrize("name", NETWORKS)
def test_gates_that_are_closed_but_not_pruned_stay_and_can_open_again(name):
    network, example = made(name)
    gated = gates.augment(network, example, form="step").eval()
    for number, gate in enumerate(gated.gate_list):
        torch.nn.init.uniform_(gate.alpha, -0.3, 1, generator=torch.Generator().manual_seed(number))
    close(gated, 0.5)
    smaller = gates.collapse(gated, example).gated
    assert difference(answers(gated, example), answers(smaller, example)) < 1e-5
    with torch.no_grad():
        for alpha in (a for g in (gated, smaller) for a in (gate.alpha for gate in g.gate_list)):
            alpha.abs_()
    assert difference(answers(gated, example), answers(smaller, example)) < 1e-5


@pytest.mark.parametrize(
    "name", ["resnet", "preactivation", "squeeze_and_excite", "densenet", "shufflenet", "unet", "vit"]
)
def test_branches_and_levels_die_and_what_they_still_add_stays(name):
    network, example = made(name)
    gated = gates.augment(network, example).eval()
    close(gated, 0.2)
    found = gates.branches(gated, example)
    assert found
    for key in found:
        mask = gated.gates[key].mask.clone()
        gated.gates[key].mask.zero_()
        assert gates.survives(gated, example)
        smaller = gates.collapse(gated, example).gated
        assert key not in smaller.gates
        assert difference(answers(gated, example), answers(smaller, example)) < 1e-5
        gated.gates[key].mask.copy_(mask)


def test_the_trunk_is_no_branch():
    network, example = made("resnet")
    gated = gates.augment(network, example)
    assert gates.branches(gated, example) == {f"blocks/{k}/first/0" for k in range(3)}
    gated.gates["stem/0"].mask.zero_()
    assert not gates.survives(gated, example)


def test_a_step_of_training_is_the_same_after_a_collapse(half_pruned):
    """Gradients, momenta and gates of what is left are those of the masked network."""
    example = torch.zeros(2, 3, 16, 16)
    x, labels = torch.rand(8, 3, 16, 16), torch.arange(8)
    found = gates.collapse(half_pruned, example)
    for gated in (half_pruned, found.gated):
        gated.train().zero_grad()
        torch.nn.functional.cross_entropy(gated(x), labels).backward()
    before, after = dict(half_pruned.network.named_parameters()), dict(found.gated.network.named_parameters())
    for name, parameter in after.items():
        expected = found.parameter(name, before[name].grad)
        torch.testing.assert_close(parameter.grad, expected, rtol=1e-5, atol=1e-7)
    old = torch.cat([torch.zeros(1), *(gate.alpha.grad for gate in half_pruned.gate_list)])
    for name, units in found.units.items():
        gate = found.gated.gates[name]
        torch.testing.assert_close(gate.alpha.grad, old[units], rtol=1e-5, atol=1e-7)
        assert gate.whole == half_pruned.gates[name].units


@pytest.mark.parametrize("name", ["resnet", "grouped", "unet"])
def test_gates_that_are_drawn_in_training_are_not_when_a_network_is_cut_then(name):
    network, example = made(name)
    gated = gates.augment(network, example, form="hard-concrete")
    close(gated, 0.5)
    gated.train()
    found = [gates.folded(gated), gates.removed(gated, example), gates.collapse(gated, example).gated]
    assert all(module.training for module in gated.modules())
    for module in found:
        assert difference(answers(gated.eval(), example), answers(module.eval(), example)) < 1e-5
        gated.train()


def test_the_given_network_is_left_as_it_is(half_pruned):
    before = {name: value.clone() for name, value in half_pruned.state_dict().items()}
    gates.collapse(half_pruned, torch.zeros(2, 3, 16, 16))
    assert all(torch.equal(value, before[name]) for name, value in half_pruned.state_dict().items())
