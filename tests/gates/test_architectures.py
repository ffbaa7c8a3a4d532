"""Gates on architectures of `transformers` that nobody changed for it: what is cut computes what the gated one does."""

import json
import random

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import numpy as np  # noqa: E402
import onnxruntime  # noqa: E402

import onnxshrink  # noqa: E402
from onnxshrink import gates  # noqa: E402
from onnxshrink.errors import InputError  # noqa: E402
from tests.conformance import architectures  # noqa: E402


def names(*fast):
    return [
        name if name in fast else pytest.param(name, marks=pytest.mark.slow) for name in architectures.ARCHITECTURES
    ]


def built(name):
    """The architecture and a network of it whose biases differ, as trained ones do."""
    architecture = architectures.ARCHITECTURES[name]
    torch.manual_seed(0)
    module = architecture.build().eval()
    for parameter in module.parameters():
        if parameter.dim() == 1:
            torch.nn.init.normal_(parameter, 0.5, 0.5)
    return architecture, module


def close_some(gated):
    chosen = random.Random(0)
    for gate in gated.gate_list:
        keep = torch.tensor([chosen.random() > 0.5 for _ in range(gate.units)])
        keep[chosen.randrange(gate.units)] = True
        gate.mask.copy_(keep)


def inputs(architecture, seed):
    found = [torch.from_numpy(array) for array in architectures.feeds(architecture, seed).values()]
    return tuple(x.double() if x.is_floating_point() else x for x in found)


@pytest.mark.filterwarnings("ignore:the code of:UserWarning")
@pytest.mark.parametrize("eager", [False, True])
@pytest.mark.parametrize("name", names("resnet", "vit", "swin", "wav2vec2"))
def test_the_cut_network_computes_what_the_gated_one_does(name, eager):
    architecture, module = built(name)
    if eager:
        module.set_attn_implementation("eager")
    network = architectures.Wrapped(module, list(architecture.inputs)).double()
    example, x = inputs(architecture, 0), inputs(architecture, 1)
    gated = gates.augment(network, example).eval().double()
    size = gates.Size(gated, "parameters")
    for gate in gated.gate_list:
        torch.nn.init.uniform_(gate.alpha, -0.3, 1)
    close_some(gated)
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


SHARED = {"albert"}  # all of its layers have the same weights


@pytest.mark.parametrize("way", ["optimize", "prune"])
@pytest.mark.parametrize("name", names("vit", "albert", "swin"))
def test_the_way_back_is_the_file(name, way, tmp_path):
    """What `optimize` cuts, gates cut, and both are of the same size; what `prune` repairs is repaired here."""
    architecture, module = built(name)
    network = architectures.Wrapped(module, list(architecture.inputs))
    example, x = (tuple(map(torch.from_numpy, architectures.feeds(architecture, seed).values())) for seed in (0, 1))
    gated = gates.augment(network, example).eval()
    if way == "optimize":
        close_some(gated)
    path = tmp_path / "model.onnx"
    gates.export(gated, path, example)
    if way == "optimize":
        result = onnxshrink.optimize(path, align=1)
    else:
        feeds = [architectures.feeds(architecture, seed) for seed in range(2, 18)]
        inputs = [value.name for value in onnxruntime.InferenceSession(str(path)).get_inputs()]
        data = [dict(zip(inputs, (array[:1] for array in arrays.values()), strict=True)) for arrays in feeds]
        pruned = onnxshrink.prune(path, tmp_path / "small.onnx", data=data, keep_parameters=0.93, align=1, points=0)
        result = pruned.shrunk
    mapping = json.loads(json.dumps(result.map))
    if way == "prune" and name in SHARED:
        with pytest.raises(InputError, match="pruned otherwise for each of them"):
            gates.apply(gated, mapping, example)
        return
    small = gates.apply(gated, mapping, example).eval()
    session = onnxruntime.InferenceSession(result.model.SerializeToString(), providers=["CPUExecutionProvider"])
    expected = session.run(None, {v.name: t.numpy() for v, t in zip(session.get_inputs(), x, strict=True)})
    with torch.no_grad():
        for found, answer in zip(small(*x), expected, strict=True):
            assert np.abs(found.numpy() - answer).max() <= 2e-5 * np.abs(answer).max()
    left, own, whole = (sum(p.numel() for p in m.parameters()) for m in (small, gates.removed(gated, example), network))
    assert left < whole
    assert way == "prune" or left <= own
