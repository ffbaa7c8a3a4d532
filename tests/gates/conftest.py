"""Fixtures of the gate tests. Without torch they skip: a skip at import would stop the run of all tests."""

from pathlib import Path

import pytest

MODELS = Path(__file__).parents[2] / "models"


@pytest.fixture(autouse=True)
def models_on_path(monkeypatch):
    """The reference networks in models/, importable for one test."""
    monkeypatch.syspath_prepend(str(MODELS))
    return str(MODELS)


@pytest.fixture(autouse=True)
def one_thread():
    torch = pytest.importorskip("torch")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def network():
    """A small gated ResNet in eval mode whose BatchNorms are far from the identity."""
    torch = pytest.importorskip("torch")
    from resnet import ResNet

    torch.manual_seed(0)
    network = ResNet(8, mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.3), widths=(4, 6, 8))
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 2)
            torch.nn.init.uniform_(module.bias, -1, 1)
            torch.nn.init.uniform_(module.running_mean, -1, 1)
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
    return network.eval()


@pytest.fixture
def half_pruned(network):
    """The same with gates between 0 and 1, and every other channel of every gate pruned."""
    torch = pytest.importorskip("torch")
    from onnxshrink import gates

    for gate in gates.gates_of(network):
        torch.nn.init.uniform_(gate.alpha, -0.3, 1)
        with torch.no_grad():
            gate.alpha[::2] = -2
    gates.prune_gates(network, 0.02)
    return network
