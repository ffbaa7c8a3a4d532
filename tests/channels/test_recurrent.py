"""LSTM, GRU and RNN as exporters write them and as the specification allows them.

The zoo has one trap for each way in which something is dead; here weights, states, activations and readers are drawn at
random, and layers come from PyTorch's own exporters.
"""

from __future__ import annotations

import io
from collections.abc import Iterable

import numpy as np
import onnx
import pytest
from onnx import ModelProto, helper

import onnxshrink
from tests.zoo import oracle
from tests.zoo.net import Net, parameters
from tests.zoo.trap_recurrent import DEAD, UNITS, Weights, features, layer, tail

STEPS, BATCH, X = 4, 2, 3
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
CANDIDATE = {"LSTM": 3, "GRU": 2, "RNN": 0}
ACTIVATIONS = {
    "LSTM": [("Sigmoid", "Tanh", "Tanh"), ("HardSigmoid", "Relu", "Softsign"), ("Relu", "Tanh", "Affine")],
    "GRU": [("Sigmoid", "Tanh"), ("HardSigmoid", "Relu"), ("Sigmoid", "Softplus")],
    "RNN": [("Tanh",), ("Relu",), ("Sigmoid",), ("ScaledTanh",), ("ThresholdedRelu",)],
}


class Random:
    """A layer of random sizes, with dead inputs and units, random options, and readers of some of its outputs."""

    def __init__(self, seed: int, batchwise: bool = False):
        self.rng = np.random.default_rng(seed)
        self.op = list(GATES)[seed % 3]
        self.net = Net(seed=seed)
        self.gates, self.batchwise = GATES[self.op], batchwise
        self.units, self.inputs, self.directions = (int(self.rng.integers(*ends)) for ends in ((2, 6), (2, 5), (1, 3)))

    def chance(self, share: float) -> bool:
        return bool(self.rng.random() < share)

    def features(self) -> str:
        net = self.net
        weight, bias = net.normal(X, self.inputs), net.normal(self.inputs)
        for index in range(self.inputs):
            if self.chance(0.5):
                weight[:, index] = 0
                bias[index] *= self.rng.integers(0, 2)
        x = net.input("x", (BATCH, STEPS, X) if self.batchwise else (STEPS, BATCH, X))
        return net.op("Add", net.op("MatMul", x, net.const(weight)), net.const(bias))

    def weights(self) -> tuple[np.ndarray, ...]:
        """W, R, B and the peepholes as [directions, ...gates, units...]."""
        net, shape = self.net, (self.directions, self.gates, self.units)
        w, r = net.normal(*shape, self.inputs), net.normal(*shape, self.units, scale=0.5)
        b, p = net.normal(self.directions, 2, *shape[1:]), net.normal(self.directions, 3, self.units)
        gate, share = CANDIDATE[self.op], self.rng.random() * 0.7
        for d in range(self.directions):
            for unit in range(self.units):
                if self.chance(share):
                    kind = int(self.rng.integers(0, 5))
                    if kind <= 1:
                        w[d, gate, unit], r[d, gate, unit], b[d, :, gate, unit] = 0, 0, 0
                        r[d, gate, unit, self.rng.integers(0, self.units)] = 0.3 * kind
                    elif kind == 2:
                        r[d, :, :, unit] = 0
                    elif kind == 3:
                        other = int(self.rng.integers(0, self.gates))
                        w[d, other, unit], r[d, other, unit] = 0, 0
                        b[d, :, other, unit] = self.rng.choice([-9, 9, 0])
                        p[d, :, unit] *= self.rng.integers(0, 2)
                    else:
                        w[d, :, unit], r[d, :, unit] = 0, 0
                        b[d, :, :, unit] *= self.rng.integers(0, 2)
        return w, r, b, p

    def options(self) -> dict[str, object]:
        found: dict[str, object] = {"hidden_size": self.units}
        if self.directions == 2:
            found["direction"] = "bidirectional"
        elif self.chance(0.4):
            found["direction"] = "reverse"
        if self.chance(0.6):
            sets = ACTIVATIONS[self.op]
            names = [n for _ in range(self.directions) for n in sets[self.rng.integers(len(sets))]]
            found["activations"] = names
            if {"Affine", "ScaledTanh"} & set(names) or self.chance(0.3):
                found["activation_alpha"], found["activation_beta"] = self.rng.uniform(
                    0.2, 0.9, (2, len(names))
                ).tolist()
        if self.chance(0.3):
            found["clip"] = 1.5
        if self.op == "GRU" and self.chance(0.6):
            found["linear_before_reset"] = 1
        if self.op == "LSTM" and self.chance(0.2):
            found["input_forget"] = 1
        return found | ({"layout": 1} if self.batchwise else {})

    def state(self) -> str:
        if self.chance(0.4):
            return ""
        shape = (BATCH, self.directions) if self.batchwise else (self.directions, BATCH)
        state = self.net.normal(*shape, self.units)
        state[..., self.rng.random(self.units) < self.rng.choice([0.0, 0.6, 1.1])] = 0
        return self.net.const(state)

    def reader(self, name: str, sequence: bool) -> str:
        """All directions side by side, and a MatMul with rows of zeros."""
        net, width = self.net, self.directions * self.units
        if not self.batchwise:
            name = net.op("Transpose", name, perm=[0, 2, 1, 3] if sequence else [1, 0, 2])
        t = net.op("Reshape", name, net.const([0, 0, -1] if sequence else [0, -1]))
        weight = net.normal(width, 3)
        if self.chance(0.3):
            weight[: self.units] = 0
        weight[np.tile(self.rng.random(self.units) < 0.4, self.directions)] = 0
        return net.op("MatMul", t, net.const(weight))

    def model(self) -> ModelProto:
        net, t = self.net, self.features()
        w, r, b, p = self.weights()
        operands = [t, net.const(w.reshape(self.directions, -1, self.inputs))]
        operands.append(net.const(r.reshape(self.directions, -1, self.units)))
        operands.append(net.const(b.reshape(self.directions, -1)) if self.chance(0.7) else "")
        operands += ["", self.state()]
        if self.op == "LSTM":
            operands += [self.state(), net.const(p.reshape(self.directions, -1)) if self.chance(0.4) else ""]
        while not operands[-1]:
            operands.pop()
        count = 3 if self.op == "LSTM" else 2
        read = [k for k in range(count) if self.chance(0.6)] or [0]
        names = [f"out{k}" if k in read or self.chance(0.3) else "" for k in range(count)]
        while not names[-1]:
            names.pop()
        net.nodes.append(helper.make_node(self.op, operands, names, name="layer", **self.options()))
        return net.output(*[self.reader(names[k], k == 0) for k in read]).model()


def assert_same(original: ModelProto, result: ModelProto, seed: int) -> None:
    arrays = oracle.feeds(original, seed)
    expected, actual = oracle.run(original, arrays), oracle.run(result, arrays)
    for name, array in expected.items():
        scale = max(float(np.abs(array).max(initial=0)), 1e-2)
        np.testing.assert_allclose(actual[name], array, rtol=0, atol=2e-5 * scale, err_msg=f"{seed} {name}")


@pytest.mark.parametrize("first", range(0, 90, 30))
def test_random_layers(first: int) -> None:
    removed = 0
    for seed in range(first, first + 30):
        model = Random(seed).model()
        result = onnxshrink.optimize(model, align=1, negligible=0, verify=False).model
        assert_same(model, result, seed)
        removed += parameters(model) - parameters(result)
    assert removed > 300


def steps_first(model: ModelProto) -> ModelProto:
    """The same model with its layer in layout 0, for ONNX Runtime has no other."""
    copy = ModelProto()
    copy.CopyFrom(model)
    nodes: list[onnx.NodeProto] = []
    for node in copy.graph.node:
        if node.op_type not in GATES:
            nodes.append(node)
            continue
        layer = onnx.NodeProto()
        layer.CopyFrom(node)
        kept = [a for a in layer.attribute if a.name != "layout"]
        del layer.attribute[:]
        layer.attribute.extend(kept)
        for index in (0, 5, 6):
            if index < len(layer.input) and layer.input[index]:
                turned = f"turned{index}"
                nodes.append(helper.make_node("Transpose", [layer.input[index]], [turned], perm=[1, 0, 2]))
                layer.input[index] = turned
        back = []
        for index, name in enumerate(layer.output):
            if name:
                layer.output[index] = f"{name}:turned"
                perm = [1, 0, 2] if index else [2, 0, 1, 3]
                back.append(helper.make_node("Transpose", [f"{name}:turned"], [name], perm=perm))
        nodes += [layer, *back]
    kept_nodes = [onnx.NodeProto.FromString(n.SerializeToString()) for n in nodes]
    del copy.graph.node[:]
    copy.graph.node.extend(kept_nodes)
    return copy


def test_random_layers_batch_first() -> None:
    removed = 0
    for seed in range(100, 145):
        model = Random(seed, batchwise=True).model()
        result = onnxshrink.optimize(model, align=1, negligible=0, verify=False).model
        assert_same(steps_first(model), steps_first(result), seed)
        removed += parameters(model) - parameters(result)
    assert removed > 300


# --- what is said of units that stay


def stays(net: Net) -> dict[tuple[int, ...], str]:
    plan = onnxshrink.inspect(net.model()).plan
    return {stay.slices: stay.reason for stay in plan.stays if stay.layer.startswith("LSTM")}


def test_a_unit_that_is_dead_in_one_direction_says_so() -> None:
    net = Net()
    weights = Weights(net, "LSTM", 2)
    weights.zero((1,), [0])
    weights.zero((4,), [1])
    assert "both share the hidden axis" in stays(tail(net, layer(net, weights, features(net)), weights))[1, 4]


def test_a_unit_that_only_others_hear_says_so() -> None:
    net = Net()
    weights = Weights(net, "LSTM")
    found = stays(tail(net, layer(net, weights, features(net)), weights, DEAD))
    assert found[DEAD] == "other hidden units read it"


def test_layers_are_counted_and_aligned() -> None:
    net = Net()
    weights = Weights(net, "GRU")
    weights.zero(DEAD)
    model = tail(net, layer(net, weights, features(net)), weights).model()
    for align, after in ((1, UNITS - 2), (3, 6), (5, 5)):
        plan = onnxshrink.inspect(model, align=align).plan
        (found,) = [item for item in plan.layers if item.op == "GRU"]
        assert (found.before, found.after, found.removed.get("zero", 0)) == (UNITS, after, UNITS - after)
        hidden = [n for n in onnxshrink.optimize(model, align=align).model.graph.node if n.op_type == "GRU"]
        assert [a.i for n in hidden for a in n.attribute if a.name == "hidden_size"] == [after]


def test_known_operands_are_not_evaluated_by_the_reference() -> None:
    """onnx.reference knows neither directions nor activations of a layer whose input is constant."""
    net = Net()
    weights = Weights(net, "RNN", 2, inputs=X, units=UNITS)
    state = net.const(net.normal(STEPS, BATCH, X))
    y = layer(net, weights, state, activations=["Relu", "Softplus"], clip=0.5)
    x = net.op("MatMul", net.input("x", (STEPS, 2, BATCH, UNITS)), net.const(net.normal(UNITS, UNITS)))
    model = net.output(net.op("Mul", y, x)).model()
    assert_same(model, onnxshrink.optimize(model, align=1, verify=False).model, 0)


# --- PyTorch


def exported(module, example, dynamo: bool) -> ModelProto:  # type: ignore[no-untyped-def]
    import torch

    if dynamo:
        return torch.onnx.export(module, (example,), dynamo=True, verbose=False).model_proto
    buffer = io.BytesIO()
    axes = {"x": {0: "steps", 1: "batch"}}
    torch.onnx.export(module, (example,), buffer, dynamo=False, input_names=["x"], dynamic_axes=axes)
    return onnx.load_from_string(buffer.getvalue())


def pytorch_size(op: str, units: int, inputs: int, layers: int, directions: int, x: int, out: int) -> int:
    gates, total = GATES[op], 0
    for number in range(layers):
        heard = inputs if number == 0 else directions * units
        total += directions * gates * units * (heard + units + 2)
    return total + (x + 1) * inputs + out * (directions * units + 1)


def make_module(op: str, dead: Iterable[int], unread: bool):  # type: ignore[no-untyped-def]
    """Linear(6, 5) -> two bidirectional layers with eight units -> Linear(16, 3); input features 2 and 4 are known."""
    import torch

    class Module(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = torch.nn.Linear(6, 5)
            self.layers = getattr(torch.nn, op)(5, 8, num_layers=2, bidirectional=True)
            self.last = torch.nn.Linear(16, 3)

        def forward(self, x):  # type: ignore[no-untyped-def]
            return self.last(self.layers(self.first(x))[0])

    torch.manual_seed(0)
    module = Module().eval()
    gate = {"LSTM": 2, "GRU": 2}[op]  # PyTorch's order is i, f, g, o and r, z, n
    with torch.no_grad():
        module.first.weight[[2, 4]] = 0
        module.first.bias[2], module.first.bias[4] = 0, 0.7
        for name, value in module.layers.named_parameters():
            for unit in dead:
                if not unread:
                    value[gate * 8 + unit] = 0
                elif "weight_hh" in name:
                    value[:, unit] = 0
                elif "weight_ih_l1" in name:
                    value[:, [unit, 8 + unit]] = 0
        if unread:
            module.last.weight[:, [d * 8 + unit for d in (0, 1) for unit in dead]] = 0
    return module


@pytest.mark.slow
@pytest.mark.parametrize("unread", [False, True], ids=["zero", "unread"])
@pytest.mark.parametrize("dynamo", [False, True], ids=["torchscript", "dynamo"])
@pytest.mark.parametrize("op", ["LSTM", "GRU"])
def test_pytorch(op: str, dynamo: bool, unread: bool) -> None:
    torch = pytest.importorskip("torch")
    model = exported(make_module(op, (1, 3, 4), unread), torch.randn(7, 2, 6), dynamo)
    assert op in {node.op_type for node in model.graph.node}
    result = onnxshrink.optimize(model, align=1)
    before, after = (pytorch_size(op, units, inputs, 2, 2, 6, 3) for units, inputs in ((8, 5), (5, 3)))
    assert parameters(model) - parameters(result.model) >= before - after
    assert result.verification is not None
    assert result.verification.passed
    arrays = {model.graph.input[0].name: np.random.default_rng(0).standard_normal((7, 2, 6)).astype(np.float32)}
    oracle.assert_equal(oracle.run(model, arrays), oracle.run(result.model, arrays))


def test_sequence_lengths_at_run_time() -> None:
    """Zero units stay zero however long a sequence is; constant ones are zero beyond its end."""
    for op, bias in (("LSTM", 0.0), ("RNN", 0.6)):
        net = Net()
        weights = Weights(net, op)
        weights.zero(DEAD)
        weights.unheard(DEAD)
        weights.b[0, 0, CANDIDATE[op], DEAD] = bias
        t = features(net)
        y = layer(net, weights, t, net.input("lengths", (2,), np.int32))
        model = tail(net, y, weights).model()
        result = onnxshrink.optimize(model, align=1, verify=False).model
        assert (parameters(result) < parameters(model)) == (bias == 0.0)
        arrays = {"x": oracle.feeds(model, 0)["x"], "lengths": np.array([5, 2], np.int32)}
        oracle.assert_equal(oracle.run(model, arrays), oracle.run(result, arrays))
