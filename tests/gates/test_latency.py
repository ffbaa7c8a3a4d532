"""Latency from a table: exact at the points, linear between them, with a gradient, and clear about bad tables."""

import json

import pytest

torch = pytest.importorskip("torch")

from onnxshrink import gates  # noqa: E402
from onnxshrink.errors import InputError  # noqa: E402


def bill(inputs, outputs):
    """A latency that is bilinear, so that interpolation is exact everywhere."""
    return 0.01 + 0.002 * inputs + 0.003 * outputs + 0.004 * inputs * outputs


@pytest.fixture
def table(gated):
    layers = {}
    for cost in gated.coupling.macs:
        into, out = (len(term) for term in cost.terms)
        grid = [(i, o) for i in sorted({1, max(1, into // 2), into}) for o in sorted({1, out // 2, out})]
        layers[cost.name] = [[i, o, bill(i, o)] for i, o in grid]
    return layers


def test_the_size_is_the_sum_of_the_layers_latencies(gated, table, tmp_path):
    path = tmp_path / "layers.json"
    path.write_text(json.dumps({"version": 1, "unit": "ms", "layers": table}))
    size = gates.Size(gated, costs=gates.latency_costs(gated, gates.read_latencies(path)))
    terms = [[len(term) for term in cost.terms] for cost in gated.coupling.macs]
    assert size.whole == pytest.approx(sum(bill(*pair) for pair in terms))
    gated.gates["blocks/1/first/0"].mask[:2] = 0
    narrow = [[int(gated.masks()[gated.places(term)].sum()) for term in cost.terms] for cost in gated.coupling.macs]
    assert size.kept() == pytest.approx(sum(bill(*pair) for pair in narrow) / size.whole)


def test_it_has_the_gradient_of_the_interpolation(gated, table):
    size = gates.Size(gated, costs=gates.latency_costs(gated, table))
    gate = gated.gates["blocks/1/first/0"]
    size.relaxed().backward()
    slope = gate.alpha.grad[0].item()
    step = 1e-2
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            gate.alpha[0] += sign * step
            values.append(size.relaxed().item())
            gate.alpha[0] -= sign * step
    assert slope == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-2)
    assert slope > 0


def test_nothing_costs_nothing(gated, table):
    size = gates.Size(gated, costs=gates.latency_costs(gated, table))
    gates_before = size.kept()
    gated.gates["blocks/1/first/0"].mask.zero_()
    first = next(c for c in gates.latency_costs(gated, table) if c.name == "blocks.1.first.0.weight")
    assert float(first.at(torch.tensor(4.0), torch.tensor(0.0))) == 0
    assert size.kept() < gates_before


def test_bad_tables(gated, table, tmp_path):
    for text, message in (("[]", "no table"), ("{", "no table"), ('{"version": 2, "layers": {}}', "version 2")):
        path = tmp_path / "layers.json"
        path.write_text(text)
        with pytest.raises(InputError, match=message):
            gates.read_latencies(path)
    with pytest.raises(InputError, match="no table"):
        gates.read_latencies(tmp_path / "missing.json")
    with pytest.raises(InputError, match=r"no grid of 3 input and 3 output"):
        gates.latency_costs(gated, {**table, "blocks.1.first.0.weight": table["blocks.1.first.0.weight"][:-1]})
    del table["stem.0.weight"]
    with pytest.raises(InputError, match=r"no latency of `stem\.0\.weight`"):
        gates.latency_costs(gated, table)
