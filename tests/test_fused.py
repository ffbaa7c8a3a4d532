"""Graphs as ONNX Runtime's own optimizers leave them: fused operators, and the same channels gone as without them."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import ModelProto, helper, numpy_helper
from onnxruntime.capi.onnxruntime_pybind11_state import get_all_operator_schema

import onnxshrink
from onnxshrink.graph.view import Node
from onnxshrink.ops.rule import Rule, rule_for
from tests.zoo import networks, oracle
from tests.zoo.net import Net, parameters
from tests.zoo.trap import Trap
from tests.zoo.traps import TRAPS

EXACT = {"align": 1, "negligible": 0, "verify": False}
MS = "com.microsoft"
DOMAINS = ("com.microsoft", "com.microsoft.nchwc", "com.ms.internal.nhwc")


def fused(model: ModelProto, folder: Path) -> ModelProto:
    """The model as a session saves it at the extended level, which is the last one that other machines can load."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "fused.onnx")
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.log_severity_level = 4
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return onnx.load(folder / "fused.onnx")


def contributed(model: ModelProto) -> set[str]:
    return {node.op_type for node in model.graph.node if node.domain == "com.microsoft"}


def test_every_contributed_operator_has_a_rule_or_a_reason() -> None:
    """Oracle: the operators that this ONNX Runtime lists."""
    default = Rule().reason
    undecided = []
    for schema in get_all_operator_schema():
        if schema.domain in DOMAINS:
            proto = helper.make_node(schema.name, ["x"], ["y"], domain=schema.domain)
            rule = rule_for(Node(0, 0, schema.name, schema.domain, "", ("x",), ("y",), (), proto))
            if rule.barrier and rule.reason == default:
                undecided.append(f"{schema.domain}.{schema.name}")
    assert not undecided


# What ONNX Runtime makes of these holds more than the original: it expands constants to the size of a feature map,
# casts float16 weights inside the graph, and writes a Gather of channels as a Split.
LARGER = {
    "channel_shuffle_gather_uneven",
    "constant_of_shape",
    "conv_float16_constant",
    "expand_hard_coded",
    "scan_hidden_units",
    "zeros_like",
}


def assert_equal(model: ModelProto, result: ModelProto, feeds: dict[str, np.ndarray], what: str) -> None:
    there = {value.name for value in model.graph.input}
    arrays = {name: array for name, array in feeds.items() if name in there}
    expected = oracle.run(model, arrays)
    if all(np.isfinite(array).all() for array in expected.values() if array.dtype.kind == "f"):
        for optimize in (False, True):
            oracle.assert_equal(expected, oracle.run(result, arrays, optimize=optimize), what=what)


@pytest.mark.slow
@pytest.mark.parametrize("trap", TRAPS, ids=lambda trap: trap.name)
def test_as_small_behind_onnxruntime(trap: Trap, tmp_path: Path) -> None:
    """A trap that ONNX Runtime optimized first: equal, and no more is left of it."""
    options = {"align": 1} if trap.negligible else EXACT
    model = fused(trap.build(), tmp_path)
    result = onnxshrink.optimize(model, **options).model
    assert_equal(model, result, oracle.feeds(trap.build(), 0, trap.sizes[0]), trap.name)
    if trap.name not in LARGER:
        alone = onnxshrink.optimize(trap.build(), **options).model
        own = sum(tensor.name.startswith("_inlfunc_") for tensor in result.graph.initializer)  # of inlined functions
        assert parameters(result) <= parameters(alone) + own


@pytest.mark.parametrize("scheme", ["inner", "const"])
def test_mobilenet_behind_onnxruntime(scheme: str, tmp_path: Path) -> None:
    """Every Conv with its Clip is a FusedConv; what goes is what goes without."""
    original = networks.planted("mobilenet_v2", scheme).model
    model = fused(original, tmp_path)
    assert "FusedConv" in contributed(model)
    result, alone = (onnxshrink.optimize(m, **EXACT).model for m in (model, original))
    limits = 2  # of the Clips, which are operands of theirs before, and attributes of FusedConv
    assert parameters(result) == parameters(alone) - limits < 0.8 * parameters(original)
    assert_equal(model, result, oracle.feeds(original, 0), scheme)


def block(op: str, dead: tuple[int, ...]) -> ModelProto:
    """[2, 5, 8] -> MatMul(8, 16) -> `op` -> MatMul(16, 8) -> Add; some of the 16 hidden units are constant."""
    net = Net()
    weight, bias = net.normal(8, 16), net.normal(16)
    weight[:, dead] = 0
    x = net.input("x", (2, 5, 8))
    if op == "GemmFastGelu":
        t = net.op(op, x, net.const(weight), net.const(bias), domain=MS)
    elif op == "FusedMatMulActivation":
        t = net.op(op, x, net.const(weight.T), domain=MS, transB=1, alpha=0.5, activation="Sigmoid")
    else:
        skip = net.op("MatMul", x, net.const(weight))
        t = net.op(op, net.op("MatMul", x, net.const(weight)), net.const(bias), skip, domain=MS)
    t = net.op("MatMul", t, net.const(net.normal(16, 8)))
    t = net.op("Add", t, net.const(net.normal(8)))
    net.declared[t] = (2, 5, 8)
    return net.output(t).model()


def apart(model: ModelProto) -> ModelProto:
    """The same with those operators taken apart into ones that run on a CPU."""
    copy = ModelProto()
    copy.CopyFrom(model)
    del copy.graph.node[:]
    for node in model.graph.node:
        inner, y = f"{node.output[0]}:inner", node.output[0]
        if node.op_type == "GemmFastGelu":
            copy.graph.node.append(helper.make_node("MatMul", node.input[:2], [inner]))
            copy.graph.node.append(helper.make_node("FastGelu", [inner, *node.input[2:]], [y], domain=MS))
        elif node.op_type == "FusedMatMulActivation":
            named = {a.name: helper.get_attribute_value(a) for a in node.attribute}
            behind = named.pop("activation").decode()
            copy.graph.node.append(helper.make_node("FusedMatMul", node.input, [inner], domain=MS, **named))
            copy.graph.node.append(helper.make_node(behind, [inner], [y]))
        elif node.op_type == "BiasAdd":
            copy.graph.node.append(helper.make_node("Add", node.input[:2], [inner]))
            copy.graph.node.append(helper.make_node("Add", [inner, node.input[2]], [y]))
        else:
            copy.graph.node.append(node)
    return copy


# What the units cost: their column, their row, and a bias where there is one.
@pytest.mark.parametrize(
    ("op", "unit"), [("GemmFastGelu", 8 + 1 + 8), ("FusedMatMulActivation", 8 + 8), ("BiasAdd", 8 + 8 + 1 + 8)]
)
def test_operators_without_a_kernel_for_a_cpu(op: str, unit: int) -> None:
    """They are held against the operators that they were fused from."""
    dead = (0, 3, 4, 9, 11)
    model = block(op, dead)
    result = onnxshrink.optimize(model, **EXACT).model
    assert op in contributed(result)
    assert parameters(model) - parameters(result) == len(dead) * unit
    assert_equal(apart(model), apart(result), oracle.feeds(model, 0), op)


def test_a_constant_behind_an_activation_is_no_bias() -> None:
    """What constant features contribute to a product may not be added behind its activation."""
    net = Net()
    weight, bias = net.normal(8, 16), net.normal(16)
    weight[:, [0, 3, 4]] = 0
    t = net.op("Add", net.op("MatMul", net.input("x", (2, 5, 8)), net.const(weight)), net.const(bias))
    t = net.op("FusedMatMulActivation", t, net.const(net.normal(16, 8)), domain=MS, activation="Tanh")
    t = net.op("Add", t, net.const(net.normal(8)))
    net.declared[t] = (2, 5, 8)
    model = net.output(t).model()
    result = onnxshrink.optimize(model, **EXACT).model
    assert parameters(model) - parameters(result) == 2 * (8 + 1 + 8)  # one of the three stays as the carrier
    assert_equal(apart(model), apart(result), oracle.feeds(model, 0), "")


def test_a_model_that_imports_no_operators_of_onnx() -> None:
    """Shapes and facts are found all the same."""
    rng = np.random.default_rng(0)
    first, second = (rng.standard_normal(shape).astype(np.float32) for shape in ((8, 3, 3, 3), (4, 8, 3, 3)))
    first[[1, 3]] = 0
    nodes = [
        helper.make_node("FusedConv", ["x", "first"], ["h"], domain=MS, activation="Sigmoid"),
        helper.make_node("FusedConv", ["h", "second"], ["y"], domain=MS, activation="Relu"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 4, 4, 4])],
        [numpy_helper.from_array(array, name) for array, name in ((first, "first"), (second, "second"))],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid(MS, 1)], ir_version=8)
    result = onnxshrink.optimize(model, **EXACT).model
    assert parameters(model) - parameters(result) == 2 * (27 + 36) - 4  # halves fold into a bias that was not there
    assert_equal(model, result, oracle.feeds(model, 0), "")


HIDDEN, HEADS, INNER, WORDS = 16, 4, 32, 50


def bert(dead: str) -> ModelProto:
    """An encoder of two layers as PyTorch's first exporter writes it, with dead hidden units and, by `dead`, heads
    ("heads": one without values, one unread) or columns of all heads ("columns": one of queries, one of values).
    """
    torch = pytest.importorskip("torch")
    functional, nn = torch.nn.functional, torch.nn
    width = HIDDEN // HEADS

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.query, self.key, self.value, self.output = (nn.Linear(HIDDEN, HIDDEN) for _ in range(4))
            self.first, self.second = nn.Linear(HIDDEN, INNER), nn.Linear(INNER, HIDDEN)
            self.norms = nn.ModuleList(nn.LayerNorm(HIDDEN) for _ in range(2))

        def split(self, x):  # type: ignore[no-untyped-def]
            return x.view(x.size(0), x.size(1), HEADS, width).permute(0, 2, 1, 3)

        def forward(self, x, mask):  # type: ignore[no-untyped-def]
            query, key, value = (self.split(f(x)) for f in (self.query, self.key, self.value))
            scores = torch.matmul(query, key.transpose(-1, -2)) / width**0.5 + mask
            context = torch.matmul(torch.softmax(scores, -1), value).permute(0, 2, 1, 3).contiguous()
            x = self.norms[0](self.output(context.view(context.size(0), context.size(1), HIDDEN)) + x)
            return self.norms[1](self.second(functional.gelu(self.first(x))) + x)

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.places, self.kinds = (nn.Embedding(n, HIDDEN) for n in (WORDS, 32, 2))
            self.norm, self.layers = nn.LayerNorm(HIDDEN), nn.ModuleList(Layer() for _ in range(2))
            self.register_buffer("positions", torch.arange(32)[None])

        def forward(self, input_ids, attention_mask, token_type_ids):  # type: ignore[no-untyped-def]
            places = self.places(self.positions[:, : input_ids.size(1)])
            x = self.norm(self.words(input_ids) + places + self.kinds(token_type_ids))
            mask = (1.0 - attention_mask[:, None, None, :].to(torch.float32)) * -10000.0
            for layer in self.layers:
                x = layer(x, mask)
            return x

    torch.manual_seed(0)
    encoder = Encoder().eval()
    with torch.no_grad():
        for layer in encoder.layers:
            rows = {"heads": range(width, 2 * width), "columns": range(1, HIDDEN, width)}[dead]
            layer.value.weight[list(rows)], layer.value.bias[list(rows)] = 0, 0
            if dead == "heads":
                layer.output.weight[:, 2 * width : 3 * width] = 0
            else:
                layer.query.weight[::width], layer.query.bias[::width] = 0, 0
            layer.first.weight[[0, 3, 7]], layer.first.bias[[0, 3]] = 0, 0
            layer.second.weight[:, [9, 10]] = 0
    names = ["input_ids", "attention_mask", "token_type_ids"]
    file = io.BytesIO()
    torch.onnx.export(
        encoder,
        tuple(torch.from_numpy(array) for array in tokens().values()),
        file,
        dynamo=False,
        opset_version=14,
        input_names=names,
        output_names=["y"],
        dynamic_axes={name: {0: "batch", 1: "sequence"} for name in names},
    )
    return onnx.load_from_string(file.getvalue())


def tokens(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    mask = np.ones((2, 7), np.int64)
    mask[1, 5:] = 0
    return {
        "input_ids": rng.integers(0, WORDS, (2, 7)),
        "attention_mask": mask,
        "token_type_ids": rng.integers(0, 2, (2, 7)),
    }


# Of each layer: five hidden units; two heads of four in Q, K, V and the output, or a column of each head in Q and K,
# and one in V and the output.
UNITS = 5 * (HIDDEN + 1 + HIDDEN)
GONE = {
    "heads": 2 * (UNITS + 2 * 4 * (3 * (HIDDEN + 1) + HIDDEN)),
    "columns": 2 * (UNITS + 4 * (3 * (HIDDEN + 1) + HIDDEN)),
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dead", ["heads", "columns"])
def test_bert_behind_the_transformers_optimizer(dead: str, tmp_path: Path) -> None:
    """EmbedLayerNormalization, Attention, SkipLayerNormalization, BiasGelu: what goes is what goes without them."""
    from onnxruntime.transformers import optimizer

    original = bert(dead)
    onnx.save(original, tmp_path / "bert.onnx")
    made = optimizer.optimize_model(
        str(tmp_path / "bert.onnx"), model_type="bert", num_heads=HEADS, hidden_size=HIDDEN, opt_level=0
    )
    made.save_model_to_file(str(tmp_path / "fused.onnx"))
    model = onnx.load(tmp_path / "fused.onnx")
    assert {"EmbedLayerNormalization", "Attention", "SkipLayerNormalization", "BiasGelu"} <= contributed(model)
    alone = onnxshrink.optimize(original, **EXACT).model
    result = onnxshrink.optimize(model, align=1, negligible=0)
    assert parameters(original) - parameters(alone) == GONE[dead]
    assert parameters(model) - parameters(result.model) == GONE[dead]
    assert result.verification is not None
    assert result.verification.passed
    types = {v.name: helper.tensor_dtype_to_np_dtype(v.type.tensor_type.elem_type) for v in model.graph.input}
    for seed in range(3):
        arrays = {name: array.astype(types[name]) for name, array in tokens(seed).items()}
        assert_equal(model, result.model, arrays, dead)
