"""Multiply-adds and parameters against closed forms."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper, parser

from onnxshrink.benchmark import count_macs, macs, parameters
from onnxshrink.errors import InputError

HEAD = '<ir_version: 8, opset_import: ["" : 17]>'


def text(body: str, head: str = HEAD) -> onnx.ModelProto:
    """A model from ONNX text; what is declared in <...> without a value becomes a weight of zeros."""
    model = parser.parse_model(f"{head}\n{body}")
    for value in model.graph.value_info:
        tensor = value.type.tensor_type
        shape = [dim.dim_value for dim in tensor.shape.dim]
        zeros = np.zeros(shape, helper.tensor_dtype_to_np_dtype(tensor.elem_type))
        model.graph.initializer.append(numpy_helper.from_array(zeros, value.name))
    del model.graph.value_info[:]
    return model


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        # 3x3, padded: 10·12 outputs of 6 filters of 4 channels.
        (
            "m (float[1,4,10,12] x) => (float[1,6,10,12] y) <float[6,4,3,3] w> { y = Conv <pads = [1,1,1,1]> (x, w) }",
            6 * 10 * 12 * 4 * 9,
        ),
        # Stride 2 in two groups: 5·6 outputs, 2 channels a filter.
        (
            "m (float[1,4,10,12] x) => (float[1,6,5,6] y) <float[6,2,3,3] w, float[6] b>"
            "{ y = Conv <group = 2, strides = [2,2], pads = [1,1,1,1]> (x, w, b) }",
            6 * 5 * 6 * 2 * 9,
        ),
        # Depthwise, dilated, one dimension.
        (
            "m (float[1,8,20] x) => (float[1,8,16] y)<float[8,1,3] w>{ y = Conv <group = 8, dilations = [2]> (x, w) }",
            8 * 16 * 3,
        ),
        # Each of 5·5·6 inputs meets 4 filters of 2x2.
        (
            "m (float[1,6,5,5] x) => (float[1,4,10,10] y) <float[6,4,2,2] w>"
            "{ y = ConvTranspose <strides = [2,2]> (x, w) }",
            5 * 5 * 6 * 4 * 4,
        ),
        # In 3 groups an input meets only its group's filters.
        (
            "m (float[1,6,5,5] x) => (float[1,12,10,10] y) <float[6,4,2,2] w>"
            "{ y = ConvTranspose <group = 3, strides = [2,2]> (x, w) }",
            5 * 5 * 6 * 4 * 4,
        ),
        ("m (float[3,7] x) => (float[3,5] y) <float[7,5] w> { y = Gemm (x, w) }", 3 * 7 * 5),
        ("m (float[7,3] x) => (float[3,5] y) <float[5,7] w> { y = Gemm <transA = 1, transB = 1> (x, w) }", 3 * 7 * 5),
        ("m (float[2,4,3,7] a, float[4,7,5] b) => (float[2,4,3,5] y) { y = MatMul (a, b) }", 2 * 4 * 3 * 7 * 5),
        ("m (float[7] a, float[7] b) => (float y) { y = MatMul (a, b) }", 7),
        ("m (uint8[3,7] a, uint8[7,5] b) => (int32[3,5] y) { y = MatMulInteger (a, b) }", 3 * 7 * 5),
        (
            'm (float[2,3,7] a, float[2,7,5] b) => (float[2,3,5] y) { y = Einsum <equation = "bik,bkj->bij"> (a, b) }',
            210,
        ),
        # 9 steps of 2 sequences in both directions: 4 gates of 5, from 3 inputs and 5 states.
        (
            "m (float[9,2,3] x) => (float[9,2,2,5] y) <float[2,20,3] w, float[2,20,5] r>"
            '{ y = LSTM <hidden_size = 5, direction = "bidirectional"> (x, w, r) }',
            9 * 2 * 2 * 20 * (3 + 5),
        ),
        (
            "m (float[9,2,3] x) => (float[9,1,2,5] y) <float[1,15,3] w, float[1,15,5] r>"
            "{ y = GRU <hidden_size = 5> (x, w, r) }",
            9 * 2 * 15 * (3 + 5),
        ),
        (
            "m (float[2,9,3] x) => (float[2,9,1,5] y) <float[1,5,3] w, float[1,5,5] r>"
            "{ y = RNN <hidden_size = 5, layout = 1> (x, w, r) }",
            9 * 2 * 5 * (3 + 5),
        ),
        # An ellipsis of two axes, of which one is broadcast.
        (
            "m (float[2,4,3,7] a, float[4,7,5] b) => (float[2,4,3,5] y)"
            '{ y = Einsum <equation = "...ik,...kj"> (a, b) }',
            2 * 4 * 3 * 7 * 5,
        ),
        # Elementwise work is not counted.
        ("m (float[2,3] x) => (float[2,3] y) { h = Relu (x) y = Mul (h, x) }", 0),
    ],
)
def test_closed_forms(body: str, expected: int) -> None:
    assert macs(text(body)) == expected


def test_sampled_taps_multiply_like_others() -> None:
    body = (
        "m (float[1,4,10,12] x, float[1,18,10,12] o) => (float[1,6,10,12] y) <float[6,4,3,3] w>"
        "{ y = DeformConv <pads = [1,1,1,1]> (x, w, o) }"
    )
    model = text(body)
    model.opset_import[0].version = 19
    assert macs(model) == 6 * 10 * 12 * 4 * 9


def test_quantized_convolution_counts_like_the_float_one() -> None:
    body = (
        "m (uint8[1,4,10,12] x) => (uint8[1,6,10,12] y)"
        "<float s = {0.1}, uint8 z = {0}, uint8[6,4,3,3] w, int32[6] b>"
        "{ y = QLinearConv <pads = [1,1,1,1]> (x, s, z, w, s, z, s, z, b) }"
    )
    assert macs(text(body)) == 6 * 10 * 12 * 4 * 9
    assert parameters(text(body)) == 6 * 4 * 9 + 6 + 1


CONTRIB = '<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>'
STEPS = "float s = {0.1}, uint8 z = {0}"


@pytest.mark.parametrize(
    ("body", "stored"),
    [
        (
            f"m (uint8[3,7] x) => (uint8[3,5] y) <{STEPS}, uint8[5,7] w, int32[5] b>"
            "{ y = com.microsoft.QGemm <transB = 1> (x, s, z, w, s, z, b, s, z) }",
            5 * 7 + 5 + 1,
        ),
        (
            f"m (uint8[3,7] x) => (float[3,5] y) <{STEPS}, uint8[7,5] w>"
            "{ y = com.microsoft.MatMulIntegerToFloat (x, w, s, s, z, z) }",
            7 * 5 + 1,
        ),
        (
            f"m (float[3,7] x) => (float[3,5] y) <{STEPS}, uint8[7,5] w>"
            "{ y = com.microsoft.DynamicQuantizeMatMul (x, w, s, z) }",
            7 * 5 + 1,
        ),
    ],
)
def test_quantized_products_count_like_those_of_floats(body: str, stored: int) -> None:
    assert macs(text(body, CONTRIB)) == 3 * 7 * 5
    assert parameters(text(body, CONTRIB)) == stored


def test_packed_weights_say_their_size_by_attributes() -> None:
    body = (
        "m (float[3,64] x) => (float[3,5] y) <uint8[5,2,16] w, float[5,2] s>"
        "{ y = com.microsoft.MatMulNBits <K = 64, N = 5, bits = 4, block_size = 32> (x, w, s) }"
    )
    assert macs(text(body, CONTRIB)) == 3 * 64 * 5


def test_nodes_are_told_apart() -> None:
    model = text(
        "m (float[1,4,8,8] x) => (float[1,3] y) <float[6,4,3,3] w, float[6,3] v>"
        "{ h = Conv <pads = [1,1,1,1]> (x, w) g = GlobalAveragePool (h) f = Flatten (g) y = MatMul (f, v) }"
    )
    count = count_macs(model)
    assert [(node.output, node.op, node.macs) for node in count.nodes] == [
        ("h", "Conv", 6 * 64 * 36),
        ("y", "MatMul", 18),
    ]
    assert str(count) == f"{6 * 64 * 36 + 18:,}"


DYNAMIC = 'm (float["N",4,"H","W"] x) => (float["N",6,"H","W"] y) <float[6,4,1,1] w> { y = Conv (x, w) }'


def test_dynamic_batch_is_one_and_other_dimensions_are_asked_for() -> None:
    model = text(DYNAMIC)
    assert macs(model) is None
    assert str(count_macs(model)) == "unknown: dynamic H, W"
    assert macs(model, {"x": (1, 4, 5, 7)}) == 6 * 5 * 7 * 4
    assert macs(model, {"x": (1, 4, 5, 7)}, batch=3) == 3 * 6 * 5 * 7 * 4
    assert macs(model, {"x": (2, 4, 5, 7)}) == 2 * 6 * 5 * 7 * 4


def test_a_node_that_does_not_depend_on_the_dynamic_dimension_keeps_its_count() -> None:
    model = text(
        'm (float["N",4,"H","W"] x) => (float["N",2] y) <float[6,4,1,1] w, float[6,2] v>'
        "{ h = Conv (x, w) g = GlobalAveragePool (h) f = Flatten (g) y = MatMul (f, v) }"
    )
    assert [node.macs for node in count_macs(model, batch=5).nodes] == [None, 5 * 6 * 2]


def test_one_name_for_every_unknown_dimension_is_no_symbol() -> None:
    """Some exporters write "?" for batch, height and width alike: none of them is then the batch but the first."""
    model = text(DYNAMIC)
    for dim in model.graph.input[0].type.tensor_type.shape.dim:
        if dim.dim_param:
            dim.dim_param = "?"
    assert str(count_macs(model)) == "unknown: dynamic x[2], x[3]"


def test_given_shapes_must_fit() -> None:
    model = text(DYNAMIC)
    for given in ({"z": (1,)}, {"x": (1, 4, 5)}, {"x": (1, 3, 5, 7)}):
        with pytest.raises(InputError):
            macs(model, given)


def test_computed_shapes_are_followed() -> None:
    """A size that goes through floats on its way to a Resize: onnx's inference alone loses it."""
    model = text(
        'm (float["N",4,10,14] x) => (float["N",6,5,7] y)'
        "<float[6,4,1,1] w, float[4] scale = {1.0, 1.0, 0.5, 0.5}>"
        "{ s = Shape (x) f = Cast <to = 1> (s) h = Mul (f, scale) r = Floor (h) z = Cast <to = 7> (r)"
        '  u = Resize <mode = "nearest"> (x, , , z) y = Conv (u, w) }'
    )
    assert macs(model, batch=3) == 3 * 6 * 5 * 7 * 4


@pytest.mark.parametrize(
    "overwrite",
    ["p = Mul (s, rest) q = Add (p, value)", "p = Mul (rest, s) q = Add (value, p)", "q = Where (cut, value, s)"],
)
def test_what_is_not_known_of_a_shape_does_no_harm_where_it_is_overwritten(overwrite: str) -> None:
    model = text(
        'm (float[5,"N"] x) => (float[5,"K"] y)'
        "<float[4,7] w, int64[2] rest = {1, 0}, int64[2] value = {0, 4}, bool[2] cut = {0, 1}>"
        f"{{ s = Shape (x) {overwrite} r = Reshape (x, q) y = MatMul (r, w) }}"
    )
    assert macs(model) == 5 * 4 * 7


def test_no_count_without_a_formula_or_a_known_path() -> None:
    branch = parser.parse_graph("b () => (float[3,5] o) { o = MatMul (x, w) }")
    node = helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
    graph = helper.make_graph(
        [node],
        "m",
        [
            helper.make_tensor_value_info("c", TensorProto.BOOL, ()),
            helper.make_tensor_value_info("x", TensorProto.FLOAT, (3, 7)),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (3, 5))],
        [numpy_helper.from_array(np.zeros((7, 5), np.float32), "w")],
    )
    branching = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
    assert str(count_macs(branching)).startswith("unknown: If")

    custom = text("m (float[2,3] x) => (float[2,3] y) { y = org.example.Mystery (x) }")
    custom.opset_import.add(domain="org.example", version=1)
    assert macs(custom) is None


def test_inputs_that_are_no_tensors_do_no_harm() -> None:
    model = text(
        "m (float[3,7] x, seq(float[2]) s) => (float[3,5] y, seq(float[2]) t) <float[7,5] w>"
        "{ y = MatMul (x, w) t = Identity (s) }"
    )
    assert macs(model) == 3 * 7 * 5


def test_constants_alone_are_not_counted() -> None:
    model = text("m (float[3,5] x) => (float[3,5] y) <float[3,7] a, float[7,5] b> { c = MatMul (a, b) y = Add (x, c) }")
    assert macs(model) == 0


def test_local_functions_are_looked_into() -> None:
    model = text(
        """
        m (float[3,7] x) => (float[3,5] y) <float[7,5] w> { h = local.linear (x, w) y = Relu (h) }
        <domain: "local", opset_import: ["" : 17]>
        linear (a, b) => (c) { c = MatMul (a, b) }
        """,
        head='<ir_version: 8, opset_import: ["" : 17, "local" : 1]>',
    )
    assert macs(model) == 3 * 7 * 5


def test_weights_are_not_needed() -> None:
    model = text("m (float[1,64,9,9] x) => (float[1,96,9,9] y) <float[96,64,1,1] w> { y = Conv (x, w) }")
    weight = model.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="is-not-there.data")
    assert macs(model) == 96 * 64 * 81
    assert parameters(model) == 96 * 64


def test_parameters() -> None:
    model = text(
        "m (float[1,4,8,8] x) => (float[1,4,8,8] y) <float[4,4,1,1] w, float[4] b, int64[4] s>"
        "{ h = Conv (x, w, b) g = Conv (h, w, b) c = Constant <value = float[2,3] {1,2,3,4,5,6}> ()"
        "  d = Constant <value_float = 2.0> () e = Constant <value_floats = [1.0, 2.0]> () y = Relu (g) }"
    )
    # The weight and the bias that both Convs read are stored once; shapes are no parameters.
    assert parameters(model) == 16 + 4 + 6 + 1 + 2


def test_parameters_of_sparse_weights_and_bodies() -> None:
    model = text("m (bool c) => (float[2] y) { y = Identity (c) }")
    body = parser.parse_graph("b () => (float[2] o) <float[2] w = {1.0, 2.0}> { o = Identity (w) }")
    model.graph.node[0].CopyFrom(helper.make_node("If", ["c"], ["y"], then_branch=body, else_branch=body))
    values = numpy_helper.from_array(np.ones(3, np.float32), "sparse")
    indices = numpy_helper.from_array(np.array([1, 5, 6]), "indices")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, (3, 4)))
    assert parameters(model) == 2 + 2 + 3
