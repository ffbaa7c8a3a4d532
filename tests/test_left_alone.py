"""What is no plain tensor, or no plain graph: never a crash, equal, cut around it, and barriers with their reason."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, TypeProto, ValueInfoProto, helper, numpy_helper

import onnxshrink
from tests.zoo import oracle, trap_bodies
from tests.zoo.net import Net, parameters
from tests.zoo.trap import chain, chain_cut

EXACT = {"align": 1, "negligible": 0}

SEQUENCE = "tensors of one sequence may be of any number, and each reader sees all of them"
OPTIONAL = "whether an optional holds a tensor is known at run time only"


def relu(net: Net, t: str) -> str:
    return net.op("Relu", t)


def answers(model: ModelProto, extra: dict[str, object], *, optimize: bool = False) -> list[np.ndarray]:
    """All outputs as arrays; `extra` are inputs that are no tensors."""
    opened = oracle.session(model, optimize=optimize)
    plain = ModelProto()
    plain.CopyFrom(model)
    del plain.graph.input[:]
    plain.graph.input.extend(value for value in model.graph.input if value.name not in extra)
    return [np.asarray(value) for value in opened.run(None, {**oracle.feeds(plain, 0), **extra})]


def assert_same(before: ModelProto, after: ModelProto, **extra: object) -> None:
    expected = answers(before, extra)
    for optimize in (False, True):
        for one, other in zip(expected, answers(after, extra, optimize=optimize), strict=True):
            if one.dtype.kind == "f":
                assert oracle.relative_error(one, other) <= 1e-5
            else:
                assert np.array_equal(one, other)


# --- between the layers: barriers


def through_sequence(net: Net, t: str) -> str:
    parts = net.op("SplitToSequence", t, axis=0)
    return net.op("Concat", *(net.op("SequenceAt", parts, net.const(i)) for i in (0, 1)), axis=0)


def through_changes(net: Net, t: str) -> str:
    changed = net.op("SequenceErase", net.op("SequenceInsert", net.op("SequenceConstruct", t, t), t, net.const(0)))
    net.op("SequenceLength", changed)
    return net.op("SequenceAt", changed, net.const(1))


def through_concat(net: Net, t: str) -> str:
    both = net.op("ConcatFromSequence", net.op("SequenceConstruct", t, t), axis=0)
    return net.op("Slice", both, net.const([0]), net.const([2]), net.const([0]))


def through_optional(net: Net, t: str) -> str:
    return net.op("OptionalGetElement", net.op("Optional", t))


@pytest.mark.parametrize(
    ("middle", "reason"),
    [
        (through_sequence, SEQUENCE),
        (through_changes, SEQUENCE),
        (through_concat, SEQUENCE),
        (through_optional, OPTIONAL),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_barriers_say_why(middle: Callable[[Net, str], str], reason: str) -> None:
    model = chain(middle, still_known=False, opset=18).model()
    result = onnxshrink.optimize(model, **EXACT)
    assert not result.changed
    assert {stay.reason for stay in result.plan.stays} == {f"axis 1 is pinned: {reason}"}


# --- beside the layers: left alone


def extended(
    build: Callable[[Net], None], inputs: list[ValueInfoProto], outputs: list[ValueInfoProto], opset: int = 18
) -> ModelProto:
    """A chain whose output is `y`, more nodes, and more inputs and outputs of any type."""
    net = chain(relu, opset=opset)
    build(net)
    shown = [helper.make_tensor_value_info("y", TensorProto.FLOAT, (2, 4, 8, 8)), *outputs]
    graph = helper.make_graph(net.nodes, "net", [*net.inputs, *inputs], shown, initializer=net.initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def typed(name: str, kind: TypeProto) -> ValueInfoProto:
    return helper.make_value_info(name, kind)


FLOATS = helper.make_tensor_type_proto(TensorProto.FLOAT, (2, 2))
TENSOR = np.ones((2, 2), np.float32)


def sequence_output() -> tuple[ModelProto, dict[str, object], bool]:
    def build(net: Net) -> None:
        net.op("SequenceConstruct", "y", "y", name="z")

    kind = helper.make_sequence_type_proto(helper.make_tensor_type_proto(TensorProto.FLOAT, None))
    return extended(build, [], [typed("z", kind)]), {}, True


def sequence_input() -> tuple[ModelProto, dict[str, object], bool]:
    def build(net: Net) -> None:
        net.op("SequenceAt", "given", net.const(0), name="z")

    model = extended(build, [typed("given", helper.make_sequence_type_proto(FLOATS))], [typed("z", FLOATS)])
    return model, {"given": [TENSOR]}, False


def optional_input() -> tuple[ModelProto, dict[str, object], bool]:
    def build(net: Net) -> None:
        net.op("OptionalHasElement", "given", name="z")

    kind = helper.make_tensor_type_proto(TensorProto.BOOL, ())
    model = extended(build, [typed("given", helper.make_optional_type_proto(FLOATS))], [typed("z", kind)])
    return model, {"given": TENSOR}, False


def string_input() -> tuple[ModelProto, dict[str, object], bool]:
    def build(net: Net) -> None:
        net.op("Reshape", "words", net.const([1, 3]), name="z")

    kinds = [helper.make_tensor_type_proto(TensorProto.STRING, shape) for shape in ((3,), (1, 3))]
    model = extended(build, [typed("words", kinds[0])], [typed("z", kinds[1])])
    return model, {"words": np.array(["one", "two", "three"], object)}, False


def string_constants() -> tuple[ModelProto, dict[str, object], bool]:
    def build(net: Net) -> None:
        net.initializers.append(helper.make_tensor("labels", TensorProto.STRING, [4], [b"a", b"b", b"c", b"d"]))
        mean = net.op("ReduceMean", "y", net.const([0, 2, 3]), keepdims=0)
        net.op("Gather", "labels", net.op("ArgMax", mean, axis=0, keepdims=0), name="z")
        net.nodes.append(helper.make_node("Constant", [], ["w"], value_string="said"))

    kind = helper.make_tensor_type_proto(TensorProto.STRING, ())
    return extended(build, [], [typed("z", kind), typed("w", kind)]), {}, True


@pytest.mark.parametrize(
    "build", [sequence_output, sequence_input, optional_input, string_input, string_constants], ids=lambda b: b.__name__
)
def test_other_types_beside_the_layers(build: Callable[[], tuple[ModelProto, dict[str, object], bool]]) -> None:
    """The layers are cut; where an input cannot be drawn, the verdict says so."""
    model, extra, drawable = build()
    result = onnxshrink.optimize(model, **EXACT)
    assert parameters(model) - parameters(result.model) == chain_cut(4)
    assert result.verification is not None
    assert result.verification.state == ("passed" if drawable else "unverified")
    assert drawable or any(name in result.verification.notes[0] for name in extra)
    assert [v for v in result.model.graph.input if v.name in extra] == [v for v in model.graph.input if v.name in extra]
    assert list(result.model.graph.output) == list(model.graph.output)
    assert_same(model, result.model, **extra)


# --- nothing in a dimension


def empty_gather(net: Net) -> str:
    return net.op("Gather", "y", net.const(np.zeros(0, np.int64)), axis=1)


def empty_slice(net: Net) -> str:
    return net.op("Slice", "y", net.const([0]), net.const([0]), net.const([1]))


def sum_of_nothing(net: Net) -> str:
    return net.op("ReduceSum", empty_slice(net), net.const([1]), keepdims=1)


def product_of_nothing(net: Net) -> str:
    columns = net.op("Slice", "y", net.const([0]), net.const([0]), net.const([3]))
    return net.op("MatMul", columns, net.const(np.zeros((0, 5))))


def concat_with_nothing(net: Net) -> str:
    return net.op("Concat", net.const(np.zeros((2, 0, 8, 8))), "y", axis=1)


@pytest.mark.parametrize(
    "build",
    [empty_gather, empty_slice, sum_of_nothing, product_of_nothing, concat_with_nothing],
    ids=lambda b: b.__name__,
)
def test_dimensions_of_zero_beside_the_layers(build: Callable[[Net], str]) -> None:
    net = chain(relu)
    net.output(build(net))
    model = net.model()
    result = onnxshrink.optimize(model, **EXACT)
    assert parameters(model) - parameters(result.model) == chain_cut(4)
    assert_same(model, result.model)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_dimensions_of_zero_between_the_layers(axis: int) -> None:
    """A Slice that takes nothing joins the feature map: right is all that is asked for."""

    def middle(net: Net, t: str) -> str:
        nothing = net.op("Slice", t, net.const([3]), net.const([3]), net.const([axis]))
        return net.op("Concat", nothing, t, axis=axis)

    model = chain(middle).model()
    assert_same(model, onnxshrink.optimize(model, **EXACT).model)


def test_a_batch_of_none() -> None:
    model = chain(relu, shape=(0, 3, 8, 8)).model()
    result = onnxshrink.optimize(model, **EXACT)
    assert result.verification is not None
    assert result.verification.state == "unverified"
    assert parameters(model) - parameters(result.model) == chain_cut(4)
    assert_same(model, result.model)


# --- names and outputs


def nameless(model: ModelProto) -> None:
    for node in model.graph.node:
        node.name = ""


def output_of_an_input(model: ModelProto) -> None:
    model.graph.output.append(model.graph.input[0])


def output_twice(model: ModelProto) -> None:
    model.graph.output.append(model.graph.output[0])


def absent_operands(model: ModelProto) -> None:
    model.graph.node[2].op_type = "Clip"
    model.graph.node[2].input.extend(["", ""])


@pytest.mark.parametrize(
    "spoil", [nameless, output_of_an_input, output_twice, absent_operands], ids=lambda spoil: spoil.__name__
)
def test_odd_graphs(spoil: Callable[[ModelProto], None]) -> None:
    model = chain(relu).model()
    spoil(model)
    result = onnxshrink.optimize(model, **EXACT)
    assert parameters(model) - parameters(result.model) == chain_cut(4)
    assert list(result.model.graph.output) == list(model.graph.output)
    assert_same(model, result.model)


def test_an_output_that_is_an_initializer_stays_whole() -> None:
    net = chain(relu)
    model = net.model()
    weight = net.initializers[0]
    model.graph.output.append(helper.make_tensor_value_info(weight.name, TensorProto.FLOAT, list(weight.dims)))
    result = onnxshrink.optimize(model, **EXACT)
    assert result.changed
    assert_same(model, result.model)


def test_two_nodes_of_one_name() -> None:
    """onnx allows it, ONNX Runtime does not: so nothing can be verified."""
    model = chain(relu).model()
    for node in model.graph.node:
        node.name = "same"
    onnx.checker.check_model(model)
    result = onnxshrink.optimize(model, **EXACT)
    assert result.verification is not None
    assert result.verification.state == "unverified"
    assert parameters(model) - parameters(result.model) == chain_cut(4)
    nameless(model)
    nameless(result.model)
    assert_same(model, result.model)


def test_a_graph_without_nodes() -> None:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])
    graph = helper.make_graph([], "net", [value], [value])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    assert not onnxshrink.optimize(model).changed


def test_a_sparse_weight_around_a_body() -> None:
    net = trap_bodies.if_weights_outside()
    dense = net.model()
    net.sparse = tuple(tensor.name for tensor in net.initializers if len(tensor.dims) == 4)
    model = net.model()
    result = onnxshrink.optimize(model, **EXACT).model
    bodies = {a.name: a.g for node in result.graph.node for a in node.attribute}
    assert [list(t.dims) for t in bodies["then_branch"].initializer if len(t.dims) == 4] == [[4, 3, 3, 3], [4, 4, 3, 3]]
    assert not result.graph.sparse_initializer
    for choice in (False, True):
        arrays = oracle.feeds(dense, 0) | {"flag": np.array(choice)}
        oracle.assert_equal(oracle.run(model, arrays), oracle.run(result, arrays))


def test_a_body_reads_a_sequence() -> None:
    net = chain(relu)
    both = net.op("SequenceConstruct", "y", "y")
    zero = net.const(np.array(0))
    net.outputs = []
    net.output(
        trap_bodies.conditional(net, lambda b: [b.op("SequenceAt", both, zero)], lambda b: [b.op("Neg", "y")], "z")
    )
    model = net.model()
    result = onnxshrink.optimize(model, **EXACT).model
    assert parameters(model) - parameters(result) == chain_cut(4)
    assert_same(model, result)


def test_numbers_of_no_dimension() -> None:
    def middle(net: Net, t: str) -> str:
        net.input("factor", ())
        return net.op("Mul", net.op("Mul", t, "factor"), net.op("Div", net.const(6.0), net.const(3.0)))

    model = chain(middle).model()
    result = onnxshrink.optimize(model, **EXACT).model
    assert parameters(model) - parameters(result) >= chain_cut(4)
    assert_same(model, result)


def test_weights_that_are_computed_in_the_graph() -> None:
    """A Constant of any spelling feeds a layer."""
    net = chain(relu)
    for tensor in net.initializers[1::2]:
        values = numpy_helper.to_array(tensor).tolist()
        net.nodes.insert(0, helper.make_node("Constant", [], [tensor.name], value_floats=values))
    net.initializers = net.initializers[::2]
    model = net.model()
    result = onnxshrink.optimize(model, **EXACT).model
    assert_same(model, result)
    assert parameters(model) - parameters(result) >= chain_cut(4) - 8
