"""Schedules at the points where they are known, and gates without weight decay."""

import pytest

pytest.importorskip("torch")

from onnxshrink import gates


def test_cubic_ramp():
    assert gates.cubic_ramp(0.0) == gates.cubic_ramp(0.5) == 0
    assert gates.cubic_ramp(0.75, maximum=2) == pytest.approx(2 / 8)
    assert gates.cubic_ramp(1.0, maximum=2) == gates.cubic_ramp(1.5, maximum=2) == 2


def test_one_cycle_rises_to_the_peak_and_falls_to_0():
    assert gates.one_cycle(0.0, 0.3) == 0
    assert gates.one_cycle(0.1, 0.3) == pytest.approx(0.15)
    assert gates.one_cycle(0.2, 0.3) == pytest.approx(0.3)
    assert gates.one_cycle(0.6, 0.3) == pytest.approx(0.15)
    assert gates.one_cycle(1.0, 0.3) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("options", [{}, {"start": 0.5}, {"slope": 30.0}])
def test_a_gate_at_the_identity_stays_there_at_any_slope(options):
    gate = gates.Gate(3, identity=True, **options)
    plain = gates.Gate(3, **options)
    for slope in (6.0, 2.0):
        for one in (gate, plain):
            gates.set_slope(one, slope)
        assert gate.weights().tolist() == [1, 1, 1]
        assert plain.weights().tolist() == plain.alpha.mul(slope).sigmoid().tolist()


def test_every_parameter_is_in_one_group_and_shared_gates_once(gated):
    weights, alphas = gates.parameter_groups(gated)
    ids = [id(p) for p in weights + alphas]
    assert len(ids) == len(set(ids)) == len(list(gated.parameters()))
    assert {id(p) for p in alphas} == {id(gate.alpha) for gate in gates.gates_of(gated)}
