"""Gates on architectures of `transformers` that nobody changed for it: what is cut computes what the gated one does."""

import random

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from onnxshrink import gates  # noqa: E402
from tests.conformance import architectures  # noqa: E402

FAST = {"resnet", "vit", "swin", "wav2vec2"}
NAMES = [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in architectures.ARCHITECTURES]


def inputs(architecture, seed):
    found = [torch.from_numpy(array) for array in architectures.feeds(architecture, seed).values()]
    return tuple(x.double() if x.is_floating_point() else x for x in found)


@pytest.mark.filterwarnings("ignore:the code of:UserWarning")
@pytest.mark.parametrize("eager", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_the_cut_network_computes_what_the_gated_one_does(name, eager):
    architecture = architectures.ARCHITECTURES[name]
    torch.manual_seed(0)
    module = architecture.build().eval()
    if eager:
        module.set_attn_implementation("eager")
    for parameter in module.parameters():
        if parameter.dim() == 1:
            torch.nn.init.normal_(parameter, 0.5, 0.5)
    network = architectures.Wrapped(module, list(architecture.inputs)).double()
    example, x = inputs(architecture, 0), inputs(architecture, 1)
    gated = gates.augment(network, example).eval().double()
    size, chosen = gates.Size(gated, "parameters"), random.Random(0)
    for gate in gated.gate_list:
        torch.nn.init.uniform_(gate.alpha, -0.3, 1)
        keep = torch.tensor([chosen.random() > 0.5 for _ in range(gate.units)])
        keep[chosen.randrange(gate.units)] = True
        gate.mask.copy_(keep)
    small = gates.removed(gated, example).eval()
    names = dict(small.named_parameters())
    unread = sum(p.numel() for name, p in network.named_parameters() if name not in names)  # but in training
    left, whole = (sum(p.numel() for p in m.parameters()) for m in (small, network))
    assert (left + unread) / whole == pytest.approx(size.kept(), abs=1e-6)
    assert size.kept() < 0.95
    with torch.no_grad():
        answers = [f(*x) for f in (gated, gates.folded(gated), small, gates.collapse(gated, example).gated)]
    for expected, *others in zip(*answers, strict=True):
        for found in others:
            assert (found - expected).abs().max() <= 1e-12 * expected.abs().max().clamp_min(1e-30)
