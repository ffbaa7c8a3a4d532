"""Random networks, cut: what is removed or collapsed computes what the gated network computes, or is refused."""

import random

import pytest

torch = pytest.importorskip("torch")

from onnxshrink import gates  # noqa: E402
from onnxshrink.errors import InputError  # noqa: E402

from .random_networks import SIZE, RandomNetwork  # noqa: E402
from .test_coupling import difference  # noqa: E402

NO_GATES = ("no unit of RandomNetwork can go", "they begin with a parameter")
NOTHING_LEFT = ("nothing of the network is left", "cannot do without it", "no unit is left that could go")
SEEDS = [*range(8), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(8, 160))]


def close_at_random(gated, share, chosen, anchored):
    """Close a share of the units; of each anchored gate one stays."""
    for gate in gated.gate_list:
        keep = torch.tensor([chosen.random() > share for _ in range(gate.units)])
        if anchored or chosen.random() < 0.7:
            keep[chosen.randrange(gate.units)] = True
        gate.mask.copy_(keep)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_cut_network_computes_what_the_gated_one_does(seed):
    network, chosen = RandomNetwork(seed).double(), random.Random(seed)
    example, x = torch.randn(2, 2, 3, SIZE, SIZE, dtype=torch.double)
    try:
        gated = gates.augment(network, example, form=("sigmoid", "step", "hard-concrete")[seed % 3]).eval().double()
    except InputError as error:
        assert any(text in str(error) for text in NO_GATES), error  # noqa: PT017
        return
    for gate in gated.gate_list:
        torch.nn.init.uniform_(gate.alpha, -1.5 / gate.slope, 5 / gate.slope)
        gate.anchored = chosen.random() < 0.5
    for share, anchored in ((0.4, True), (0.7, True), (0.5, False)):
        close_at_random(gated, share, chosen, anchored)
        with torch.no_grad():
            expected = gated(x)
            assert torch.isfinite(expected).all()
            assert difference(expected, gates.folded(gated)(x)) < 1e-12
            for cut in (gates.removed, lambda *both: gates.collapse(*both).gated):
                try:
                    small = cut(gated, example).eval()
                except InputError as error:
                    assert any(text in str(error) for text in NOTHING_LEFT), error  # noqa: PT017
                    continue
                assert difference(expected, small(x)) < 1e-9
