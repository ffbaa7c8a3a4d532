"""Gates: nearly the identity at the start, one object per residual stream, pruned for good."""

import math

import pytest

torch = pytest.importorskip("torch")

from onnxshrink import gates  # noqa: E402
from onnxshrink.errors import InputError  # noqa: E402


def test_a_new_gate_is_nearly_the_identity():
    x = torch.randn(2, 5, 3, 3)
    y = gates.Gate(5)(x)
    torch.testing.assert_close(y, x / (1 + math.exp(-5)))
    assert (y - x).abs().max() <= 0.007 * x.abs().max()


def test_a_gated_layer_is_conv_then_batchnorm_then_gate():
    torch.manual_seed(0)
    gate = gates.Gate(6)
    torch.nn.init.uniform_(gate.alpha, -1, 1)
    layer = gates.GatedConv([3], gate, stride=2)
    torch.nn.init.uniform_(layer.bn.weight, 0.5, 2)
    torch.nn.init.uniform_(layer.bn.bias, -1, 1)
    x = torch.randn(4, 3, 9, 9)
    for training in (True, False):
        layer.train(training)
        statistics = {k: v.clone() for k, v in layer.bn.state_dict().items()}
        one_pass = layer(x)
        layer.bn.load_state_dict(statistics)
        torch.testing.assert_close(one_pass, gate(layer.bn(layer.conv(x))))


def test_a_residual_stream_has_one_gate(network):
    for block in network.blocks:
        assert block.second.reads == (block.first.gate,)
        if isinstance(block.shortcut, gates.GatedConv):
            assert block.shortcut.gate is block.second.gate
        else:
            assert block.first.reads == (block.second.gate,)
    streams_and_middles = 3 + len(network.blocks)
    assert len(gates.gates_of(network)) == streams_and_middles


def test_pruning_keeps_what_is_above_the_threshold_and_is_final():
    gate = gates.Gate(3)
    gate.alpha.data = torch.tensor([-1.0, -0.7, 1.0])
    assert gates.prune_gates(gate, 0.02) == 1
    assert gate.mask.tolist() == [0, 1, 1]
    assert gate.weights()[0] == 0
    gate.alpha.data.fill_(5)
    assert gates.prune_gates(gate, 0.02) == 0
    assert gate.mask.tolist() == [0, 1, 1]


def test_a_threshold_outside_0_to_1_is_refused():
    with pytest.raises(InputError, match="no threshold"):
        gates.prune_gates(gates.Gate(3), 1.0)


def test_a_gate_keeps_the_dtype_of_the_activation():
    assert gates.Gate(4)(torch.ones(1, 4, 2, 2, dtype=torch.bfloat16)).dtype == torch.bfloat16
