"""Fold and export: the same function as the gated network, with zeros where channels are pruned."""

import pytest

torch = pytest.importorskip("torch")

import numpy as np  # noqa: E402

from onnxshrink import gates  # noqa: E402
from onnxshrink.errors import InputError  # noqa: E402


def test_folded_network_computes_the_same_and_has_no_gates(half_pruned):
    x = torch.rand(4, 3, 16, 16)
    before = {k: v.clone() for k, v in half_pruned.state_dict().items()}
    plain = gates.folded(half_pruned)
    y = half_pruned(x)
    assert (plain(x) - y).abs().max() <= 1e-5 * y.abs().max()
    assert not gates.gates_of(plain)
    assert all(torch.equal(v, before[k]) for k, v in half_pruned.state_dict().items())


def test_pruned_channels_are_exact_zeros_in_gamma_and_beta(half_pruned):
    plain = gates.folded(half_pruned)
    for name, gate in half_pruned.gates.items():
        before, after = (m.get_submodule(name.replace("/", ".")[:-1] + "1") for m in (half_pruned.network, plain))
        w, pruned = gate.weights(), gate.mask == 0
        assert pruned.any()
        assert not pruned.all()
        assert torch.equal(after.weight == 0, pruned)
        assert torch.equal(after.bias == 0, pruned)
        torch.testing.assert_close(after.weight, before.weight * w)
        torch.testing.assert_close(after.bias, before.bias * w)


def test_exported_file_is_single_dynamic_equal_and_shows_the_zeros(half_pruned, tmp_path, models_on_path):
    onnx = pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    path = tmp_path / "out" / "network.onnx"
    gates.export(half_pruned, path, torch.zeros(2, 3, 16, 16))
    assert [p.name for p in path.parent.iterdir()] == ["network.onnx"]

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for batch in (1, 5):
        x = torch.rand(batch, 3, 16, 16)
        with torch.no_grad():
            expected = half_pruned(x).numpy()
        (y,) = session.run(["output"], {"input": x.numpy()})
        assert np.abs(y - expected).max() <= 1e-5 * np.abs(expected).max()

    model = onnx.load(path)
    assert [o.version for o in model.opset_import if o.domain == ""] == [18]
    assert models_on_path not in str(model)
    weights = {w.name: onnx.numpy_helper.to_array(w) for w in model.graph.initializer}
    convs = [node for node in model.graph.node if node.op_type == "Conv"]
    assert len(convs) == 9
    masks = half_pruned.masks().numpy()
    for conv in convs:
        pruned = masks[half_pruned.places(half_pruned.coupling.axes[conv.input[1]][0]).numpy()] == 0
        filters, bias = weights[conv.input[1]], weights[conv.input[2]]
        np.testing.assert_array_equal(~filters.any(axis=(1, 2, 3)), pruned)
        np.testing.assert_array_equal(bias == 0, pruned)


def test_a_batch_of_one_is_refused(gated, tmp_path):
    with pytest.raises(InputError, match="batch of 2"):
        gates.export(gated, tmp_path / "network.onnx", torch.zeros(1, 3, 16, 16))
    assert not list(tmp_path.iterdir())


class TwoInputs(torch.nn.Module):
    """Two images in, as `*images`, and two tensors out."""

    def __init__(self):
        super().__init__()
        self.left, self.right = torch.nn.Conv2d(3, 6, 3), torch.nn.Conv2d(3, 6, 3)
        self.last = torch.nn.Conv2d(6, 2, 1)

    def forward(self, *images):
        hidden = self.left(images[0]).relu() + self.right(images[1]).relu()
        y = self.last(hidden)
        return y, y.mean((1, 2, 3))


def test_a_network_of_several_inputs_and_outputs_is_cut_and_exported(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    network, example = TwoInputs().eval(), (torch.zeros(2, 3, 8, 8), torch.zeros(2, 3, 8, 8))
    gated = gates.augment(network, example)
    gated.gate_list[0].mask[[0, 3]] = 0
    gates.export(gated, tmp_path / "two.onnx", example)
    session = onnxruntime.InferenceSession(str(tmp_path / "two.onnx"), providers=["CPUExecutionProvider"])
    x = torch.rand(5, 3, 8, 8), torch.rand(5, 3, 8, 8)
    with torch.no_grad():
        expected = gated(*x)
        small = gates.removed(gated, example)(*x)
    found = session.run(["output0", "output1"], {"input0": x[0].numpy(), "input1": x[1].numpy()})
    for one, cut, value in zip(expected, small, found, strict=True):
        assert (cut - one).abs().max() <= 1e-5 * one.abs().max()
        assert np.abs(value - one.numpy()).max() <= 1e-5 * float(one.abs().max())


class OnlyInTraining(torch.nn.Module):
    """A network whose own code does something else in training: stochastic depth, a scale, or a second output."""

    def __init__(self, what):
        super().__init__()
        self.what = what
        self.first, self.last = torch.nn.Conv2d(3, 8, 3), torch.nn.Conv2d(8, 4, 1)

    def forward(self, x):
        hidden = self.first(x).relu()
        if self.training and self.what == "stochastic depth":
            hidden = hidden * (torch.rand(x.shape[0], 1, 1, 1) > 0.5) / 0.5
        if self.what == "scale":
            hidden = hidden * (3.0 if self.training else 0.5)
        y = self.last(hidden)
        return (y, y + 1) if self.training and self.what == "second output" else y


@pytest.mark.parametrize("what", ["stochastic depth", "scale", "second output"])
def test_what_is_done_in_training_only_does_not_stay_in_the_cut_network(what):
    network = OnlyInTraining(what).train()
    example, x = torch.zeros(2, 3, 8, 8), torch.rand(5, 3, 8, 8)
    with pytest.warns(UserWarning, match="other things in training"):
        gated = gates.augment(network, example)
    assert network.training
    gated.gate_list[0].mask[[0, 3]] = 0
    with pytest.warns(UserWarning, match="other things in training"):
        small = gates.removed(gated, example).eval()
    with torch.no_grad():
        torch.testing.assert_close(small(x), gated.eval()(x))


@pytest.mark.parametrize("kind", [torch.nn.Dropout, torch.nn.Dropout2d])
def test_dropout_stays_a_layer(kind, recwarn):
    network = torch.nn.Sequential(
        *(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), kind(0.5), torch.nn.ReLU(), torch.nn.Conv2d(8, 4, 1))
    )
    example, x = torch.zeros(2, 3, 8, 8), torch.rand(5, 3, 8, 8)
    gated = gates.augment(network, example)
    gated.gate_list[0].mask[[0, 3]] = 0
    small = gates.removed(gated, example)
    assert not any("other things in training" in str(warning.message) for warning in recwarn)
    assert [type(module) for module in small.modules() if isinstance(module, kind)] == [kind]
    with torch.no_grad():
        torch.testing.assert_close(small.eval()(x), gated.eval()(x))
        assert not torch.equal(small.train()(x), small(x))
