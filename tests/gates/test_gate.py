"""Gates: nearly the identity at the start, three forms, pruned for good."""

import math

import pytest

torch = pytest.importorskip("torch")

from onnxshrink import gates  # noqa: E402
from onnxshrink.errors import InputError  # noqa: E402


def test_a_new_gate_is_nearly_the_identity():
    assert gates.Gate(3).weights().tolist() == pytest.approx([1 / (1 + math.exp(-5))] * 3)
    assert gates.Gate(3, identity=True).weights().tolist() == [1, 1, 1]
    assert gates.StepGate(3).weights().tolist() == [1, 1, 1]


@pytest.mark.parametrize("form", [gates.Gate, gates.StepGate, gates.HardConcrete])
def test_a_gate_that_starts_at_the_identity_is_exactly_1_in_any_precision(form):
    gate = form(19, start=2.5, identity=True).eval()
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        assert gate.to(dtype).weights().tolist() == [1] * 19
    with pytest.raises(InputError, match=r"not the identity at alpha = -1000; take a larger start"):
        form(3, start=-1000.0, identity=True)


def test_the_state_of_a_gate_is_all_that_its_factors_are_made_of():
    gate, other = gates.Gate(3, start=0.5, identity=True), gates.Gate(3)
    gates.set_slope(gate, 30)
    torch.nn.init.uniform_(gate.alpha, -0.5, 0.5)
    state = gate.state_dict()
    other.load_state_dict(state)
    assert torch.equal(other.weights(), gate.weights())
    del state["_extra_state"]
    kept = gates.Gate(3, slope=30.0, start=0.5, identity=True)
    kept.load_state_dict(state)
    assert torch.equal(kept.weights(), gate.weights())


def test_a_gate_multiplies_what_is_behind_the_normalization(gated):
    """Conv -> BatchNorm -> gate, said with parameters instead of an activation."""
    network = gated.network
    gate = gated.gates["blocks/0/first/0"]
    torch.nn.init.uniform_(gate.alpha, -1, 1)
    seen = {}
    network.blocks[0].first.register_forward_hook(lambda m, i, o: seen.update(x=i[0], y=o))
    with torch.no_grad():
        gated(torch.rand(2, 3, 16, 16))
        plain = network.blocks[0].first[1](network.blocks[0].first[0](seen["x"]))
        torch.testing.assert_close(seen["y"], plain * gate.weights().view(1, -1, 1, 1))


def test_pruning_keeps_what_is_above_the_threshold_and_is_final():
    gate = gates.Gate(3)
    gate.alpha.data = torch.tensor([-1.0, -0.7, 1.0])
    assert gates.prune_gates(gate, 0.02) == 1
    assert gate.mask.tolist() == [0, 1, 1]
    assert gate.weights()[0] == 0
    gate.alpha.data.fill_(5)
    assert gates.prune_gates(gate, 0.02) == 0
    assert gate.mask.tolist() == [0, 1, 1]


@pytest.mark.parametrize("form", [gates.StepGate, gates.HardConcrete])
def test_an_anchored_gate_that_can_be_zero_opens_its_largest_where_all_are_closed(form):
    gate = form(4, anchored=True).eval()
    gate.alpha.data = torch.tensor([-4.0, -2.5, -3.0, -0.1])
    gate.mask[3] = 0
    assert gate.weights().tolist() == [0, 1, 0, 0]
    assert gates.prune_gates(gate, 0.25) == 2
    assert gate.mask.tolist() == [0, 1, 0, 0]
    gate.mask.fill_(1)
    gate.alpha.data.fill_(-4)
    assert gate.weights().tolist() == [1, 0, 0, 0]


def test_an_anchored_gate_always_leaves_one_open():
    gate = gates.Gate(3, anchored=True)
    gate.alpha.data = torch.tensor([-3.0, -2.0, -4.0])
    assert gate.weights().max() == 1
    assert gates.prune_gates(gate, 0.5) == 2
    assert gate.mask.tolist() == [0, 1, 0]


def test_a_step_gate_is_open_or_closed_with_the_gradient_of_the_sigmoid():
    gate = gates.StepGate(3, slope=2.0)
    gate.alpha.data = torch.tensor([-0.1, 0.1, 3.0])
    w = gate.weights()
    assert w.tolist() == [0, 1, 1]
    gate.anchored = True
    assert gate.weights().tolist() == [0, 1, 1]
    w = gate.weights()
    w.sum().backward()
    soft = torch.sigmoid(2 * gate.alpha.detach())
    torch.testing.assert_close(gate.alpha.grad, 2 * soft * (1 - soft))
    torch.testing.assert_close(gate.open(), soft)


def test_hard_concrete_gates_are_drawn_in_training_and_fixed_in_evaluation():
    torch.manual_seed(0)
    gate = gates.HardConcrete(20_000, start=0.5)
    drawn = gate.train().weights().detach()
    assert 0 < (drawn == 0).float().mean() < 1
    assert 0 < (drawn == 1).float().mean() < 1
    # the share of open gates is the probability that the size loss uses
    assert float((drawn > 0).float().mean()) == pytest.approx(float(gate.open()[0].detach()), abs=0.01)
    assert torch.equal(gate.eval().weights(), gate.weights())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"form": "hard-concrete", "slope": 2.0},
            "form hard-concrete have no option 'slope'; take one of start, identity",
        ),
        ({"size": 2}, "form sigmoid have no option 'size'; take one of slope, start, identity"),
        ({"form": "step", "start": -1.0, "identity": True}, "not the identity at alpha = -1"),
    ],
)
def test_options_that_a_form_lacks_are_refused(options, message):
    network, example = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 2)), torch.zeros(2, 4)
    with pytest.raises(InputError, match=message):
        gates.augment(network, example, **options)
    gated = gates.augment(network, example, form=options.get("form", "sigmoid"), identity=True).eval()
    assert gated.factors().tolist() == [1] * 5


def test_a_threshold_outside_0_to_1_is_refused():
    with pytest.raises(InputError, match="no threshold"):
        gates.prune_gates(gates.Gate(3), 1.0)
