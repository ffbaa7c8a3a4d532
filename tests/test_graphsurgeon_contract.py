"""What onnx-graphsurgeon 0.6 does to a model: each trap that `onnxshrink.graph` works around has a test here.

A test that fails after an upgrade names a work-around that can go, or one that no longer suffices.
"""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from onnx import TensorProto, helper, numpy_helper, parser

CHAIN = """
<ir_version: 8, opset_import: ["" : 17]>
chain (float[1,4,8,8] x) => (float[1,6,8,8] y)
<float[6,4,3,3] w>
{
    h = Conv <pads = [1, 1, 1, 1]> (x, w)
    y = Relu (h)
}
"""


@pytest.fixture
def chain() -> onnx.ModelProto:
    """x -> Conv -> Relu -> y, with a weight."""
    model = parser.parse_model(CHAIN)
    weight = np.arange(6 * 4 * 9, dtype=np.float32).reshape(6, 4, 3, 3)
    del model.graph.initializer[:]
    model.graph.initializer.append(numpy_helper.from_array(weight, "w"))
    for node, name in zip(model.graph.node, ("conv", "relu"), strict=True):
        node.name = name
    return model


def test_export_loses_metadata(chain: onnx.ModelProto) -> None:
    chain.domain, chain.model_version, chain.doc_string = "org.example", 3, "a model"
    chain.graph.doc_string = "a graph"
    chain.producer_name = "exporter"
    chain.graph.node[0].doc_string = "a node"
    chain.graph.input[0].doc_string = "an input"
    chain.graph.input[0].type.tensor_type.shape.dim[0].denotation = "DATA_BATCH"
    for owner in (chain, chain.graph, chain.graph.node[0]):
        owner.metadata_props.add(key="k", value="v")
    chain.graph.quantization_annotation.add(tensor_name="h")

    exported = gs.export_onnx(gs.import_onnx(chain))

    assert (exported.domain, exported.model_version, exported.doc_string) == ("", 0, "")
    assert not exported.graph.node[0].doc_string
    assert not exported.graph.input[0].doc_string
    assert not exported.graph.input[0].type.tensor_type.shape.dim[0].denotation
    assert not any(len(owner.metadata_props) for owner in (exported, exported.graph, exported.graph.node[0]))
    assert not exported.graph.quantization_annotation
    # What survives, and need not be restored.
    assert (exported.ir_version, exported.producer_name, exported.graph.doc_string) == (8, "exporter", "a graph")
    assert exported.opset_import == chain.opset_import


def test_tensors_are_equal_by_name_and_unhashable() -> None:
    variable, constant = gs.Variable("a"), gs.Constant("a", np.zeros(3))
    assert variable == constant
    assert gs.Variable("b", np.float32, (1,)) == gs.Variable("b", np.int64, (2, 3))
    for tensor in (variable, constant, gs.Node("Relu")):
        with pytest.raises(TypeError, match="unhashable"):
            hash(tensor)


def test_removing_a_node_compares_it_with_all_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = [gs.Variable(f"t{i}", np.float32, (1,)) for i in range(51)]
    nodes = [gs.Node("Relu", f"n{i}", inputs=[tensors[i]], outputs=[tensors[i + 1]]) for i in range(50)]
    graph = gs.Graph(nodes, [tensors[0]], [tensors[-1]])
    compared = []
    equal = gs.Node.__eq__
    monkeypatch.setattr(gs.Node, "__eq__", lambda self, other: compared.append(1) or equal(self, other))
    graph.nodes.remove(nodes[-1])
    assert len(compared) >= 49


def test_constant_nodes_stay_nodes() -> None:
    model = parser.parse_model(
        """
        <ir_version: 8, opset_import: ["" : 17]>
        constants (float[2] x) => (float[2] y) <float[2] i = {1.0, 2.0}>
        {
            c = Constant <value = float[2] {3.0, 4.0}> ()
            s = Add (x, c)
            y = Mul (s, i)
        }
        """
    )
    graph = gs.import_onnx(model)
    assert [node.op for node in graph.nodes] == ["Constant", "Add", "Mul"]
    assert isinstance(graph.tensors()["c"], gs.Variable)
    assert isinstance(graph.tensors()["i"], gs.Constant)


def test_initializers_listed_as_inputs_leave_the_inputs(chain: onnx.ModelProto) -> None:
    chain.ir_version = 3
    chain.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, (6, 4, 3, 3)))
    exported = gs.export_onnx(gs.import_onnx(chain))
    assert [i.name for i in exported.graph.input] == ["x"]


def test_opset_is_ignored_on_export(chain: onnx.ModelProto) -> None:
    graph = gs.import_onnx(chain)
    graph.opset = 18
    assert gs.export_onnx(graph).opset_import[0].version == 17


def test_export_mutates_the_source(chain: onnx.ModelProto) -> None:
    before = copy.deepcopy(chain)
    graph = gs.import_onnx(chain)
    assert chain == before
    graph.tensors()["w"].name = "renamed"
    graph.nodes[1].domain = "org.example"
    gs.export_onnx(graph)
    assert chain.graph.initializer[0].name == "renamed"
    assert [entry.domain for entry in chain.opset_import] == ["", "org.example"]


def test_untouched_weights_are_passed_through_not_copied(chain: onnx.ModelProto) -> None:
    chain.graph.initializer[0].metadata_props.add(key="k", value="v")
    graph = gs.import_onnx(chain)
    assert gs.export_onnx(graph).graph.initializer[0].metadata_props
    graph.tensors()["w"].values  # noqa: B018  (reading is what loads)
    assert not gs.export_onnx(graph).graph.initializer[0].metadata_props


def test_copy_pins_the_type() -> None:
    constant = gs.Constant("c", np.zeros(3, np.float32)).copy()
    constant.values = np.zeros(3, np.float16)
    x, y = gs.Variable("x", np.float16, (3,)), gs.Variable("y", np.float16, (3,))
    graph = gs.Graph([gs.Node("Add", inputs=[x, constant], outputs=[y])], [x], [y])
    with pytest.raises(AssertionError, match="Cannot convert"):
        gs.export_onnx(graph)
    assert gs.Variable("s", np.float32, type="sequence_type").copy().type == "tensor_type"


def test_toposort_recurses() -> None:
    tensors = [gs.Variable(f"t{i}", np.float32, (1,)) for i in range(3001)]
    nodes = [gs.Node("Relu", f"n{i}", inputs=[tensors[i]], outputs=[tensors[i + 1]]) for i in range(3000)]
    graph = gs.Graph(nodes[::-1], [tensors[0]], [tensors[-1]])
    with pytest.raises(RecursionError):
        graph.toposort()


def test_fold_constants_folds_random_numbers() -> None:
    pytest.importorskip("onnxruntime")
    model = parser.parse_model(
        """
        <ir_version: 8, opset_import: ["" : 17]>
        noise (float[2] x) => (float[2] y)
        {
            r = RandomNormal <shape = [2]> ()
            y = Add (x, r)
        }
        """
    )
    folded = gs.import_onnx(model).fold_constants().cleanup()
    assert [node.op for node in folded.nodes] == ["Add"]


def test_optional_types_cannot_be_exported() -> None:
    element = helper.make_tensor_type_proto(TensorProto.FLOAT, [2])
    optional = helper.make_optional_type_proto(element)
    graph = helper.make_graph(
        [helper.make_node("Optional", ["x"], ["o"]), helper.make_node("OptionalGetElement", ["o"], ["y"])],
        "optional",
        [helper.make_value_info("x", element)],
        [helper.make_value_info("y", element)],
        value_info=[helper.make_value_info("o", optional)],
    )
    model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
    with pytest.raises(UnboundLocalError):
        gs.export_onnx(gs.import_onnx(model))


def test_attributes_of_some_types_are_dropped(chain: onnx.ModelProto) -> None:
    attribute = chain.graph.node[1].attribute.add(name="many", type=onnx.AttributeProto.TENSORS)
    attribute.tensors.append(numpy_helper.from_array(np.zeros(2, np.float32), "t"))
    exported = gs.export_onnx(gs.import_onnx(chain))
    assert not exported.graph.node[1].attribute


def test_strings_that_are_not_utf8_cannot_be_read(chain: onnx.ModelProto) -> None:
    chain.graph.node[1].attribute.add(name="bytes", type=onnx.AttributeProto.STRING, s=b"\xff\xfe")
    with pytest.raises(UnicodeDecodeError):
        gs.import_onnx(chain)


def test_four_bit_weights_break_once_they_are_read() -> None:
    packed = helper.make_tensor("q", TensorProto.INT4, (6,), [1, -2, 3, -4, 5, -6])
    graph = helper.make_graph(
        [helper.make_node("DequantizeLinear", ["q", "s"], ["y"])],
        "int4",
        [],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (6,))],
        [packed, numpy_helper.from_array(np.float32(1), "s")],
    )
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 21)])
    untouched = gs.export_onnx(gs.import_onnx(copy.deepcopy(model)))
    stored = {t.name: t for t in untouched.graph.initializer}["q"]
    assert stored == packed
    read = gs.import_onnx(model)
    read.tensors()["q"].values  # noqa: B018
    with pytest.raises(ValueError, match="size"):
        gs.export_onnx(read)


def test_shapes_go_stale_when_a_weight_is_cut(chain: onnx.ModelProto) -> None:
    graph = gs.import_onnx(onnx.shape_inference.infer_shapes(chain))
    weight = graph.tensors()["w"]
    weight.values = np.ascontiguousarray(weight.values[:4])
    exported = gs.export_onnx(graph)
    declared = [d.dim_value for d in exported.graph.value_info[0].type.tensor_type.shape.dim]
    assert declared == [1, 6, 8, 8]
    with pytest.raises(onnx.shape_inference.InferenceError):
        onnx.shape_inference.infer_shapes(exported, strict_mode=True)


def test_graph_outputs_have_no_readers(chain: onnx.ModelProto) -> None:
    graph = gs.import_onnx(chain)
    assert graph.outputs[0].outputs == []
    assert graph.outputs[0] is graph.nodes[1].outputs[0]


def test_a_constant_turned_variable_is_a_scalar_by_default() -> None:
    assert gs.Constant("c", np.zeros((2, 3))).to_variable().shape == []


def test_external_data_is_sought_in_the_working_directory(
    chain: onnx.ModelProto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    onnx.save(chain, tmp_path / "chain.onnx", save_as_external_data=True, location="chain.data", size_threshold=0)
    monkeypatch.chdir(tmp_path / "elsewhere")
    graph = gs.import_onnx(onnx.load(tmp_path / "chain.onnx", load_external_data=False))
    with pytest.raises(Exception, match=r"chain\.data"):
        graph.tensors()["w"].values  # noqa: B018
    # Untouched, it stays external.
    assert gs.export_onnx(graph).graph.initializer[0].data_location == TensorProto.EXTERNAL
