"""Bodies and functions: every trap again, as the branch of an If and as a function; both branches; what is inside.

A trap that moves into a body keeps its answer: its inputs and outputs are pinned there as they were before.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import GraphProto, ModelProto, TensorProto, helper, numpy_helper

import onnxshrink
from onnxshrink.channels.solve import Solution
from onnxshrink.errors import ModelError, NotEqualError
from onnxshrink.rewrite.execute import Execution, execute
from onnxshrink.verification import check
from tests.zoo import oracle, trap_bodies
from tests.zoo.net import Net, parameters
from tests.zoo.trap import Trap, chain, chain_cut
from tests.zoo.traps import TRAPS

EXACT = {"align": 1, "negligible": 0, "verify": False}

# Traps whose models cannot move: they are about the interface of the main graph, or hold functions of their own.
IMMOVABLE = {trap.name for trap in trap_bodies.TRAPS} | {
    "default_inputs",
    "ir3_initializers_as_inputs",
    "ir3_constant",
    "local_function",
    "output_of_input",
    "weight_is_output",
}
MOVABLE = [trap for trap in TRAPS if trap.name not in IMMOVABLE]
SAMPLE = [
    pytest.param(trap, id=trap.name, marks=pytest.mark.slow if number % 8 else ())
    for number, trap in enumerate(MOVABLE)
]


def moved(model: ModelProto) -> ModelProto:
    """A frame for a model whose graph moves elsewhere: same inputs, outputs and versions."""
    frame = ModelProto()
    frame.CopyFrom(model)
    for name in ("node", "initializer", "sparse_initializer", "value_info"):
        frame.graph.ClearField(name)
    return frame


def in_branch(model: ModelProto, outside: bool) -> ModelProto:
    """The graph as the then-branch of an If on a new input; the other branch answers with zeros."""
    result = moved(model)
    branches = {"then_branch": GraphProto(name="then"), "else_branch": GraphProto(name="else")}
    then = branches["then_branch"]
    then.node.extend(model.graph.node)
    target = result.graph if outside else then
    target.initializer.extend(model.graph.initializer)
    target.sparse_initializer.extend(model.graph.sparse_initializer)
    renamed = {output.name: f"{output.name} inside" for output in model.graph.output}
    for node in then.node:
        for names in (node.input, node.output):
            names[:] = [renamed.get(name, name) for name in names]
    for output in model.graph.output:
        then.output.add().CopyFrom(output)
        then.output[-1].name = renamed[output.name]
        kind = output.type.tensor_type
        other, rank = f"{output.name} otherwise", len(kind.shape.dim)
        sizes = [dim.dim_value or 1 for dim in kind.shape.dim]  # below opset 11 both branches have one shape
        zero = numpy_helper.from_array(np.zeros(sizes, helper.tensor_dtype_to_np_dtype(kind.elem_type)), other)
        branches["else_branch"].node.append(helper.make_node("Constant", [], [other], value=zero))
        branches["else_branch"].output.append(helper.make_tensor_value_info(other, kind.elem_type, [None] * rank))
    flag = helper.make_tensor_value_info("flag of the If", TensorProto.BOOL, ())
    result.graph.input.append(flag)
    outputs = [output.name for output in model.graph.output]
    result.graph.node.append(helper.make_node("If", [flag.name], outputs, name="if", **branches))
    for output in result.graph.output:
        for dim in output.type.tensor_type.shape.dim:
            dim.Clear()
    return result


def in_loop(model: ModelProto) -> ModelProto:
    """The graph as the body of a Loop of two trips that reads everything from around it; the last trip answers."""
    result = moved(model)
    result.graph.initializer.extend(model.graph.initializer)
    result.graph.sparse_initializer.extend(model.graph.sparse_initializer)
    body = GraphProto(name="trip")
    body.input.append(helper.make_tensor_value_info("trip number", TensorProto.INT64, ()))
    body.input.append(helper.make_tensor_value_info("go on", TensorProto.BOOL, ()))
    body.input.append(helper.make_tensor_value_info("told", TensorProto.BOOL, ()))  # below opset 11 there must be one
    for name, source in (("going on", "go on"), ("telling", "told")):
        body.node.append(helper.make_node("Identity", [source], [name]))
        body.output.append(helper.make_tensor_value_info(name, TensorProto.BOOL, ()))
    body.node.extend(model.graph.node)
    outputs = [value.name for value in model.graph.output]
    for node in body.node:
        for names in (node.input, node.output):
            names[:] = [f"{name} inside" if name in outputs else name for name in names]
    for value in model.graph.output:
        body.output.add().CopyFrom(value)
        body.output[-1].name = f"{value.name} inside"
    for name, array in (("trips", np.array(2)), ("yes", np.array(True)), ("last", np.array(1))):
        result.graph.initializer.append(numpy_helper.from_array(array, name))
    stacked = ["finally", *(f"{name} stacked" for name in outputs)]
    result.graph.node.append(helper.make_node("Loop", ["trips", "yes", "yes"], stacked, name="loop", body=body))
    for name in outputs:
        result.graph.node.append(helper.make_node("Gather", [f"{name} stacked", "last"], [name], axis=0))
    return result


def in_function(model: ModelProto) -> ModelProto:
    """The graph as a function that is called once; weights are its arguments."""
    result = moved(model)
    weights = [tensor.name for tensor in model.graph.initializer]
    weights += [tensor.values.name for tensor in model.graph.sparse_initializer]
    result.graph.initializer.extend(model.graph.initializer)
    result.graph.sparse_initializer.extend(model.graph.sparse_initializer)
    inputs = [value.name for value in model.graph.input] + weights
    outputs = [value.name for value in model.graph.output]
    opsets = list(model.opset_import)
    result.functions.append(
        helper.make_function("moved", "Model", inputs, outputs, list(model.graph.node), opset_imports=opsets)
    )
    result.graph.node.append(helper.make_node("Model", inputs, outputs, domain="moved", name="call"))
    result.opset_import.add(domain="moved", version=1)
    result.ir_version = max(result.ir_version, 8)
    return result


def inferable(model: ModelProto) -> bool:
    """Whether onnx's strict inference accepts a model; it misreads a Slice in a body by bounds from around it."""
    try:
        onnx.checker.check_model(model, full_check=True)
    except onnx.shape_inference.InferenceError:
        return False
    return True


def assert_equal(before: ModelProto, after: ModelProto, size: object, **fixed: np.ndarray) -> None:
    onnx.checker.check_model(after, full_check=inferable(before))
    for seed in range(2):
        arrays = oracle.feeds(before, seed, size) | fixed
        expected = oracle.run(before, arrays)
        for optimize in (False, True):
            oracle.assert_equal(expected, oracle.run(after, arrays, optimize=optimize), what=f"optimize={optimize}")


def assert_same_answer(trap: Trap, model: ModelProto, more: int = 0, **fixed: np.ndarray) -> None:
    """The moved graph keeps as many parameters as the trap alone, and `more` that were added around it."""
    alone, result = onnxshrink.optimize(trap.build(), **EXACT), onnxshrink.optimize(model, **EXACT)
    assert result.changed == alone.changed
    assert_equal(model, result.model, trap.sizes[0], **fixed)
    if result.changed:
        assert parameters(result.model) == parameters(alone.model) + more


@pytest.mark.parametrize("outside", [False, True], ids=["weights inside", "weights outside"])
@pytest.mark.parametrize("trap", SAMPLE)
def test_traps_in_a_branch(trap: Trap, outside: bool) -> None:
    model = in_branch(trap.build(), outside)
    zeros = parameters(model) - parameters(trap.build())
    assert_same_answer(trap, model, zeros, **{"flag of the If": np.array(True)})


@pytest.mark.parametrize("trap", SAMPLE)
def test_traps_in_a_loop(trap: Trap) -> None:
    assert_same_answer(trap, in_loop(trap.build()))


# ONNX Runtime does not infer the type of QLinearConcat inside a function, so the original does not open.
@pytest.mark.parametrize("trap", [case for case in SAMPLE if case.id != "qlinear_concat"])
def test_traps_in_a_function(trap: Trap) -> None:
    assert_same_answer(trap, in_function(trap.build()))


# --- both branches, every body


BODIES = [trap for trap in trap_bodies.TRAPS if trap.name.startswith(("if_", "function_in"))]


@pytest.mark.parametrize("trap", BODIES, ids=lambda trap: trap.name)
def test_both_branches_are_equal(trap: Trap) -> None:
    model = trap.build()
    result = onnxshrink.optimize(model, **EXACT).model
    flags = [value.name for value in model.graph.input if value.type.tensor_type.elem_type == TensorProto.BOOL]
    for choice in np.ndindex(*[2] * len(flags)):
        assert_equal(model, result, {}, **{f: np.array(bool(c)) for f, c in zip(flags, choice, strict=True)})


def graphs(graph: GraphProto) -> list[GraphProto]:
    """A graph and all bodies in it."""
    found = [graph]
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                found += graphs(attribute.g)
    return found


@pytest.mark.parametrize("trap", trap_bodies.TRAPS, ids=lambda trap: trap.name)
def test_no_name_hides_another(trap: Trap) -> None:
    """A body defines no name that means something around it (ONNX IR, names within a graph)."""

    def visit(graph: GraphProto, around: set[str]) -> None:
        here = {v.name for v in graph.input} | {t.name for t in graph.initializer}
        here |= {name for node in graph.node for name in node.output if name}
        assert not here & around
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.type == onnx.AttributeProto.GRAPH:
                    visit(attribute.g, around | here)

    visit(onnxshrink.optimize(trap.build(), **EXACT).model.graph, set())


@pytest.mark.parametrize(
    "build",
    [
        trap_bodies.if_weights_inside,
        trap_bodies.if_weights_outside,
        trap_bodies.if_nested,
        trap_bodies.loop_weights_inside,
        trap_bodies.loop_weights_outside,
        trap_bodies.sequence_map,
        trap_bodies.function_in_body,
    ],
    ids=lambda build: build.__name__,
)
def test_structural_check_looks_into_bodies(build: Callable[[], Net]) -> None:
    """The second layer of a body gets a weight for one channel more than the first one gives."""
    model = onnxshrink.optimize(build().model(), **EXACT).model
    assert check(model) == []
    spoilt = 0
    for number, graph in enumerate(graphs(model.graph)):
        made = {name for node in graph.node for name in node.output}
        for node in graph.node:
            if number == 0 or node.op_type != "Conv" or node.input[0] not in made:
                continue
            copy = ModelProto()
            copy.CopyFrom(model)
            for tensor in graphs(copy.graph)[number].initializer:
                if tensor.name == node.input[1]:
                    array = numpy_helper.to_array(tensor)
                    wider = np.concatenate([array, array[:, :1]], axis=1)
                    tensor.CopyFrom(numpy_helper.from_array(wider, tensor.name))
                    spoilt += 1
            assert any("channels" in finding.what for finding in check(copy))
    assert spoilt


def test_plan_names_layers_by_their_body() -> None:
    model = trap_bodies.if_nested().model()
    plan = onnxshrink.inspect(model).plan
    counts = {layer.node: (layer.before, layer.after) for layer in plan.layers}
    nested = "If `node_y`/then_branch/If `then_node_nested`/else_branch"
    assert counts[f"{nested}/Conv `steep_node_conv_0`"] == (8, 4)
    assert counts["If `node_y`/else_branch/Conv `else_node_conv_0`"] == (4, 4)


def test_reason_of_what_a_body_reads() -> None:
    plan = onnxshrink.inspect(trap_bodies.if_reads_dead_channels().model()).plan
    assert {(stay.holder, stay.reason) for stay in plan.stays} == {("If `node_chosen`", "read inside a body")}


def test_nodes_of_a_body_keep_their_documentation() -> None:
    model = trap_bodies.if_and_chain().model()
    for graph in graphs(model.graph):
        for node in graph.node:
            node.doc_string = f"documentation of {node.name}"
            node.metadata_props.add(key="origin", value=node.name)
    result = onnxshrink.optimize(model, **EXACT).model
    assert parameters(result) < parameters(model)
    for graph in graphs(result.graph):
        for node in graph.node:
            assert node.doc_string == f"documentation of {node.name}"
            assert [entry.value for entry in node.metadata_props] == [node.name]


def test_nothing_to_cut_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    net = trap_bodies.function_called_twice()
    for tensor in net.initializers:
        array = np.ones([*tensor.dims], np.float32)
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    onnx.save(net.model(), tmp_path / "in.onnx")
    result = onnxshrink.optimize(tmp_path / "in.onnx", tmp_path / "out.onnx", align=1)
    assert not result.changed
    assert (tmp_path / "out.onnx").read_bytes() == (tmp_path / "in.onnx").read_bytes()
    assert result.model.functions


def test_external_data_read_inside_a_body(tmp_path: Path) -> None:
    model = trap_bodies.if_nested_weights_outside().model()
    stored = ModelProto()
    stored.CopyFrom(model)
    onnx.save(stored, tmp_path / "in.onnx", save_as_external_data=True, location="in.data", size_threshold=0)
    result = onnxshrink.optimize(tmp_path / "in.onnx", tmp_path / "out.onnx", align=1)
    assert result.verification is not None
    assert result.verification.state == "passed"
    after = onnx.load(tmp_path / "out.onnx")
    assert parameters(model) - parameters(after) == trap_bodies.double_cut(4, 4)
    assert_equal(model, after, {}, flag=np.array(True))


def test_defaults_stay_overridable_inside_a_body() -> None:
    """A weight that the caller may give is no constant, inside or outside."""
    net = trap_bodies.if_weights_outside()
    net.list_initializers_as_inputs = True
    result = onnxshrink.optimize(net.model(), keep_default_inputs=True, **EXACT)
    assert not result.changed
    freed = onnxshrink.optimize(net.model(), **EXACT)
    assert freed.changed
    assert [value.name for value in freed.model.graph.input] == ["x", "flag"]


# --- functions


def test_functions_are_said_to_be_inlined_and_their_claims_are_tested() -> None:
    net = chain(lambda net, t: net.op("Shift", t, domain="local"))
    net.functions.append(trap_bodies.function("Shift", ["a"], lambda f: [f.op("Neg", f.op("Add", "a", f.const(2.0)))]))
    result = onnxshrink.optimize(net.model(), align=1)
    assert result.changed
    assert not result.model.functions
    assert any("local.Shift" in note for note in result.notes)
    assert result.planted is not None
    assert result.planted.known == 3
    assert_equal(net.model(), result.model, {})


def test_a_function_for_another_operator_set() -> None:
    net = chain(lambda net, t: net.op("Old", t, domain="local"))
    net.functions.append(trap_bodies.function("Old", ["a"], lambda f: [f.op("Sigmoid", "a")]))
    net.opset = 18
    model = net.model()
    assert model.functions[0].opset_import[0].version == 17
    result = onnxshrink.optimize(model, **EXACT).model
    assert parameters(model) - parameters(result) == chain_cut(3)
    assert_equal(model, result, {})


@pytest.mark.parametrize(("domain", "name"), [("com.microsoft", "FastGelu"), ("", "Relu")])
def test_a_function_of_an_operator_that_the_runtime_knows(domain: str, name: str) -> None:
    """ONNX Runtime runs its own kernel, whatever the function says; so the call must not become the body."""
    net = chain(lambda net, t: net.op(name, t, domain=domain))
    wrong = [helper.make_node("Add", ["a", "a"], ["b"])]
    net.functions.append(helper.make_function(domain, name, ["a"], ["b"], wrong, [helper.make_opsetid("", 17)]))
    model = net.model()
    result = onnxshrink.optimize(model, align=1)
    assert_equal(model, result.model, {})
    assert [node.op_type for node in result.model.graph.node][2] == name
    assert len(result.model.functions) == 1


def test_a_function_brings_the_operator_set_of_its_body() -> None:
    net = chain(lambda net, t: net.op("Smooth", t, domain="local"))
    net.functions.append(
        trap_bodies.function("Smooth", ["a"], lambda f: [f.op("QuickGelu", "a", domain="com.microsoft")])
    )
    model = net.model()
    result = onnxshrink.optimize(model, **EXACT).model
    imported = {entry.domain: entry.version for entry in result.opset_import}
    if not any(node.domain == "local" for node in result.graph.node):
        assert imported["com.microsoft"] == 1
    assert_equal(model, result, {})


def test_a_wrong_cut_inside_a_body_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gate of the whole: a body whose weight is spoilt after the cut."""
    from onnxshrink import draft

    whole = draft.cut_bodies

    def spoil(graph: object, cut: object) -> object:
        found = whole(graph, cut)
        for inner in graphs(found.model.proto.graph)[1:]:
            for tensor in inner.initializer:
                if len(tensor.dims) == 4:
                    tensor.CopyFrom(numpy_helper.from_array(1.5 * numpy_helper.to_array(tensor), tensor.name))
        return found

    monkeypatch.setattr(draft, "cut_bodies", spoil)
    with pytest.raises(NotEqualError):
        onnxshrink.optimize(trap_bodies.if_weights_inside().model(), align=1)


@pytest.mark.parametrize("build", [trap_bodies.if_weights_outside, trap_bodies.if_constants_outside])
def test_initializers_listed_as_inputs_around_a_body(build: Callable[[], Net]) -> None:
    """Below IR 4 a new initializer would have to be an input, and a body has none to add: it becomes a Constant."""
    net = build()
    net.ir_version, net.opset, net.list_initializers_as_inputs = 3, 8, True
    for graph in [a.g for node in net.nodes for a in node.attribute if a.type == onnx.AttributeProto.GRAPH]:
        constants = [helper.make_node("Constant", [], [t.name], value=t) for t in graph.initializer]
        nodes = [*constants, *graph.node]
        graph.CopyFrom(helper.make_graph(nodes, graph.name, graph.input, graph.output))
    model = net.model()
    result = onnxshrink.optimize(model, **EXACT).model
    assert parameters(model) - parameters(result) == trap_bodies.double_cut(4, 4)
    for choice in (False, True):
        assert_equal(model, result, {}, flag=np.array(choice))


def test_a_body_that_cannot_be_cut_stays_with_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    """The graph around it, and the other branch, are cut all the same."""
    from onnxshrink import draft

    def refuse(solution: Solution, *arguments: object, **options: object) -> Execution:
        if solution.context.graph.model.proto.graph.name == "else":
            raise ModelError("cannot be edited")
        return execute(solution, *arguments, **options)

    monkeypatch.setattr(draft, "execute", refuse)
    model = trap_bodies.if_weights_inside().model()
    result = onnxshrink.optimize(model, **EXACT)
    assert parameters(model) - parameters(result.model) == trap_bodies.double_cut(4, 4)
    assert "If `node_y`/else_branch stays as it is: cannot be edited" in result.notes
