"""Writes in place: harmless ones stay, those that are read by another way become new tensors."""

import warnings

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from onnxshrink.gates.trace import trace  # noqa: E402
from onnxshrink.gates.writes import read_elsewhere  # noqa: E402


class Body(nn.Module):
    def __init__(self, body):
        super().__init__()
        self.body, self.layer, self.drop = body, nn.Linear(8, 8), nn.Dropout(0.5)
        self.norm = nn.BatchNorm1d(8)

    def forward(self, x):
        return self.body(self, self.norm(self.layer(x)))


def total(self, x):
    x.relu_()
    return x


def around(self, x):
    y = x.view(-1, 2, 4)
    x.relu_()
    return y.flatten(1)


def before(self, x):
    y = x + 1
    return x.relu_() + y


def dropped(self, x):
    return self.drop(x).relu_() + x


def part(self, x):
    x[:, 1:3] = 2
    return x


def one(self, x):
    x[:, 4] += x[:, 5]
    return x * 2


def to_the_end(self, x):
    x[:, 3:] = 1
    x[:, -2:] *= 2
    return x + 1


def from_the_end(self, x):
    x[:, -1] = 4
    x[:, -3] *= 2
    return x + 1


def nothing(self, x):
    x[:, 5:3] = 4
    x[:, 6:20] *= 2
    return x + 1


def pieces(self, x):
    a, b = x[:, :4], x[:, 4:]
    a.mul_(2)
    return torch.cat([b, a, x], 1)


def steps(self, x):
    x[:, ::2] *= 3
    return x


def masked(self, x):
    x.masked_fill_(x > 1, 0.5)
    return x


def own(self, x):
    return (x[:, :4].relu_() + 1) * 2


HARMLESS = {
    **{"own": own, "before": before, "total": total, "masked": masked, "dropped": dropped},
    "activation": lambda self, x: self.layer(x.relu_().mul_(2)),
}
READ = {
    "around": around,
    "part": part,
    "one": one,
    "pieces": pieces,
    "steps": steps,
    "to_the_end": to_the_end,
    "from_the_end": from_the_end,
    "nothing": nothing,
}


@pytest.mark.parametrize("name", [*HARMLESS, *READ])
def test_the_graph_computes_what_the_module_does(name):
    torch.manual_seed(0)
    module = Body({**HARMLESS, **READ}[name])
    nn.init.uniform_(module.norm.running_mean, -1, 1)
    x = torch.randn(4, 8)
    program = trace(module, (x,), free_batch=True)
    targets = [str(node.target) for node in program.graph.nodes]
    assert "aten.batch_norm.default" in targets  # still a layer that knows training from evaluation
    assert ("aten.dropout.default" in targets) == (name == "dropped")
    assert not read_elsewhere(program.graph)
    assert read_elsewhere(torch.export.export(module.eval(), (x,), strict=False).graph) == (name in READ)
    schemas = [node.target._schema for node in program.graph.nodes if hasattr(node.target, "_schema")]
    assert name in HARMLESS or not any(schema.is_mutable for schema in schemas)
    for training in (False, True)[: 1 + (name != "dropped")]:  # what it drops is drawn otherwise
        module.train(training)
        torch.manual_seed(1)
        expected = module(x.clone())
        found = run(program, module, x, training)
        torch.testing.assert_close(found, expected)


def run(program, module, x, training):
    """The graph on the module's tensors, in the mode."""
    signature, tensors = program.graph_signature, {**dict(module.named_parameters()), **dict(module.named_buffers())}
    named = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    constants = signature.inputs_to_lifted_tensor_constants
    values = {}
    for node in program.graph.nodes:
        if node.op == "placeholder":
            if node.name in constants:
                values[node] = program.constants[constants[node.name]]
            else:
                values[node] = tensors[named[node.name]] if node.name in named else x.clone()
        elif node.op == "output":
            return torch.fx.map_arg(node.args[0], values.__getitem__)[0]
        else:
            arguments = list(torch.fx.map_arg(node.args, values.__getitem__))
            for place in MODE.get(str(node.target), ()):
                arguments[place] = training
            values[node] = node.target(*arguments, **torch.fx.map_arg(node.kwargs, values.__getitem__))
    raise AssertionError("a graph ends with its outputs")


MODE = {"aten.batch_norm.default": (5,), "aten.dropout.default": (2,)}


@pytest.mark.parametrize(("layer", "stays"), [(nn.Dropout(0.5), True), (nn.Dropout1d(0.5), False)])
def test_layers_that_cannot_be_told_from_their_writes_are_those_of_evaluation(layer, stays):
    """Nothing is drawn in evaluation, whatever layer drops out."""

    def body(self, x):
        return part(self, layer(self.norm(x.unsqueeze(-1)))).squeeze(-1)

    module = Body(body)
    module.held = layer
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        program = trace(module, (torch.randn(4, 8),), free_batch=True)
    assert any("drops out whole channels" in str(warning.message) for warning in told) != stays
    x = torch.randn(4, 8)
    torch.testing.assert_close(run(program, module.eval(), x, False), module(x.clone()))
