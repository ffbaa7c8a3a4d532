"""Activation checkpoints: what the backward pass runs again has the gates of the forward pass."""

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.utils.checkpoint import checkpoint  # noqa: E402

from onnxshrink import gates  # noqa: E402
from onnxshrink.gates.gate import FORMS  # noqa: E402


class Residual(nn.Module):
    """Two branches, which the backward pass runs again if it is asked to."""

    def __init__(self):
        super().__init__()
        self.again = False
        self.stem, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 4)
        self.branches = nn.ModuleList(
            nn.Sequential(nn.Conv2d(8, 12, 3), nn.BatchNorm2d(12), nn.ReLU(), nn.ConvTranspose2d(12, 8, 3))
            for _ in range(2)
        )

    def forward(self, x):
        x = self.stem(x).relu()
        for branch in self.branches:
            x = (x + (checkpoint(branch, x, use_reentrant=False) if self.again else branch(x))).relu()
        return {"logits": self.head(x.mean((2, 3))), "features": x}


def made(form="sigmoid", again=False):
    torch.manual_seed(0)
    gated = gates.augment(Residual(), torch.zeros(2, 3, 8, 8), form=form).train()
    gated.network.again = again
    for gate in gated.gate_list:
        nn.init.uniform_(gate.alpha, 0.05, 0.5)
        gate.mask[::2] = 0
    return gated


def step(gated):
    """Gradients of two forward passes together, with other gates in each where they are drawn."""
    torch.manual_seed(1)
    answers = [gated(torch.randn(4, 3, 8, 8)) for _ in range(2)]
    loss = sum(
        factor * answer[name].square().mean() for answer, factor in zip(answers, (1, 2), strict=True) for name in answer
    )
    loss.backward()
    return {name: parameter.grad for name, parameter in gated.named_parameters()}


@pytest.mark.parametrize("form", FORMS)
def test_gradients_are_those_without_checkpoints(form):
    expected, found = step(made(form)), step(made(form, again=True))
    for name, gradient in expected.items():
        assert torch.equal(found[name], gradient), name


def test_the_networks_own_parameters_are_back_behind_the_backward_pass():
    gated = made(again=True)
    own = dict(gated.network.named_parameters())
    step(gated)
    assert {name: id(p) for name, p in gated.network.named_parameters()} == {name: id(p) for name, p in own.items()}


def test_an_error_in_the_backward_pass_leaves_nothing_behind():
    gated = made(again=True)
    state = {name: value.clone() for name, value in gated.state_dict().items() if "running" not in name}
    answer = gated(torch.randn(4, 3, 8, 8))["logits"]

    def fails(*_):
        raise MemoryError

    gated.network.branches[0].register_forward_pre_hook(fails)
    with pytest.raises(MemoryError):
        answer.sum().backward()
    found = gated.state_dict()
    assert all(torch.equal(found[name], value) for name, value in state.items() if "batches" not in name)
    assert all(isinstance(p, nn.Parameter) for p in gated.network.parameters())
