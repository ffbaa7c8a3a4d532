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
def gated():
    """A small ResNet with gates, in eval mode, whose BatchNorms are far from the identity."""
    pytest.importorskip("torch")
    from onnxshrink import gates

    from .networks import made

    return gates.augment(*made("resnet")).eval()


@pytest.fixture
def half_pruned(gated):
    """The same with gates between 0 and 1, and every other unit of every gate pruned."""
    torch = pytest.importorskip("torch")
    from onnxshrink import gates

    for gate in gated.gate_list:
        torch.nn.init.uniform_(gate.alpha, -0.3, 1)
        with torch.no_grad():
            gate.alpha[::2] = -2
    gates.prune_gates(gated, 0.02)
    return gated
