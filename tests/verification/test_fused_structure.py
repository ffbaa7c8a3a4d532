"""The structural check of attentions and fused operators: each defect is found, and nothing in its sound twin."""

from __future__ import annotations

import onnx
import pytest

from onnxshrink.verification import check
from onnxshrink.verification.shapes import model_facts

HEAD = '<ir_version: 10, opset_import: ["": 23, "com.microsoft": 1]>'

# name: (text with {v}, right value, wrong value, what the finding says)
CASES = {
    "conv_channels": (
        "g (float[1,{v},8,8] x, float[8,16,3,3] w) => (float[1,8,6,6] y)"
        ' {{ y = com.microsoft.FusedConv<activation="Relu">(x, w) }}',
        *("16", "12", "input has 12 channels"),
    ),
    "conv_addend": (
        "g (float[1,4,8,8] x, float[8,4,3,3] w, float[1,{v},6,6] z) => (float[1,8,6,6] y)"
        " {{ y = com.microsoft.FusedConv(x, w, , z) }}",
        *("8", "6", "addend [1, 6, 6, 6]"),
    ),
    "behind_conv": (
        "g (float[1,4,8,8] x, float[{v},4,3,3] w, float[5,8,1,1] u) => (float[1,5,6,6] y)"
        " {{ a = com.microsoft.FusedConv(x, w) y = Conv(a, u) }}",
        *("8", "6", "input has 6 channels"),
    ),
    "matmul": (
        "g (float[2,5,7] x, float[3,{v}] w) => (float[2,5,3] y) {{ y = com.microsoft.FusedMatMul<transB=1>(x, w) }}",
        *("7", "6", "inner sizes differ: 7 in"),
    ),
    "behind_matmul": (
        "g (float[2,7,5] x, float[{v},7] w, float[3] b) => (float[2,5,3] y)"
        " {{ a = com.microsoft.FusedMatMul<transA=1, transB=1>(x, w) y = Add(a, b) }}",
        *("3", "4", "do not broadcast"),
    ),
    "gemm_bias": (
        "g (float[5,7] x, float[7,3] w, float[{v}] b) => (float[5,3] y) {{ y = com.microsoft.FusedGemm(x, w, b) }}",
        *("3", "4", "bias [4] does not broadcast"),
    ),
    "bias_gelu": (
        "g (float[2,5,8] x, float[{v}] b) => (float[2,5,8] y) {{ y = com.microsoft.BiasGelu(x, b) }}",
        *("8", "6", "operand 1 has 6 elements"),
    ),
    "skip_scale": (
        "g (float[2,5,8] x, float[2,5,8] s, float[{v}] w) => (float[2,5,8] y)"
        " {{ y = com.microsoft.SkipLayerNormalization(x, s, w) }}",
        *("8", "6", "operand 2 has 6 elements"),
    ),
    "skip": (
        "g (float[2,5,8] x, float[2,5,{v}] s, float[8] w) => (float[2,5,8] y)"
        " {{ y = com.microsoft.SkipSimplifiedLayerNormalization(x, s, w) }}",
        *("8", "6", "skip [2, 5, 6] does not broadcast"),
    ),
    "behind_skip": (
        "g (float[2,5,8] x, float[8] w, float[{v},3] u) => (float[2,5,3] y)"
        " {{ a, m, i, s = com.microsoft.SkipLayerNormalization(x, x, w) y = MatMul(s, u) }}",
        *("8", "6", "inner sizes differ"),
    ),
    "packed_features": (
        "g (float[2,5,8] x, float[{v},36] w, float[36] b) => (float[2,5,12] y)"
        " {{ y = com.microsoft.Attention<num_heads=4>(x, w, b) }}",
        *("8", "6", "input has 8 features"),
    ),
    "packed_bias": (
        "g (float[2,5,8] x, float[8,36] w, float[{v}] b) => (float[2,5,12] y)"
        " {{ y = com.microsoft.Attention<num_heads=4>(x, w, b) }}",
        *("36", "24", "bias has 24 elements"),
    ),
    "packed_sizes": (
        "g (float[2,5,8] x, float[8,{v}] w) => (float[2,5,8] y)"
        " {{ y = com.microsoft.Attention<num_heads=4, qkv_hidden_sizes=[12,12,8]>(x, w) }}",
        *("32", "36", "in a weight of 36"),
    ),
    "packed_heads": (
        "g (float[2,5,8] x, float[8,36] w) => (float[2,5,12] y) {{ y = com.microsoft.Attention<num_heads={v}>(x, w) }}",
        *("4", "5", "5 heads do not divide"),
    ),
    "behind_packed": (
        "g (float[2,5,8] x, float[8,{v}] w, float[12,3] u) => (float[2,5,3] y)"
        " {{ a = com.microsoft.Attention<num_heads=2>(x, w) y = MatMul(a, u) }}",
        *("36", "24", "inner sizes differ"),
    ),
    "heads": (
        "g (float[2,5,12] q, float[2,5,12] k, float[2,5,8] v) => (float[2,5,8] y)"
        " {{ y = com.microsoft.MultiHeadAttention<num_heads={v}>(q, k, v) }}",
        *("4", "3", "3 heads do not divide the 8 columns of V"),
    ),
    "keys": (
        "g (float[2,5,12] q, float[2,5,{v}] k, float[2,5,8] v) => (float[2,5,8] y)"
        " {{ y = com.microsoft.MultiHeadAttention<num_heads=4>(q, k, v) }}",
        *("12", "8", "heads of 3 columns in Q, 2 in K"),
    ),
    "inner_bias": (
        "g (float[2,5,12] q, float[2,5,12] k, float[2,5,8] v, float[{v}] b) => (float[2,5,8] y)"
        " {{ y = com.microsoft.MultiHeadAttention<num_heads=4>(q, k, v, b) }}",
        *("32", "36", "bias has 36 elements"),
    ),
    "mask": (
        "g (float[2,5,12] q, float[2,5,12] k, float[2,5,8] v, float[1,{v},5,5] m) => (float[2,5,8] y)"
        " {{ y = com.microsoft.MultiHeadAttention<num_heads=4>(q, k, v, , , m) }}",
        *("4", "3", "for 4 heads"),
    ),
    "groups": (
        "g (float[2,5,12] q, float[2,5,6] k, float[2,5,6] v, int32[2] n, int32 t) => (float[2,5,12] y)"
        " {{ y = com.microsoft.GroupQueryAttention<num_heads=4, kv_num_heads={v}>(q, k, v, , , n, t) }}",
        *("2", "3", "3 heads of keys for 4"),
    ),
    "group_heads": (
        "g (float[2,5,12] q, float[2,5,6] k, float[2,5,6] v, int32[2] n, int32 t) => (float[2,5,12] y)"
        " {{ y = com.microsoft.GroupQueryAttention<num_heads={v}, kv_num_heads=2>(q, k, v, , , n, t) }}",
        *("4", "6", "heads of 2 columns in Q, 3 in K"),
    ),
    "onnx_heads": (
        "g (float[2,5,12] q, float[2,7,6] k, float[2,7,4] v) => (float[2,5,8] y)"
        " {{ y = Attention<q_num_heads={v}, kv_num_heads=2>(q, k, v) }}",
        *("4", "6", "heads of 2 columns in Q, 3 in K"),
    ),
    "onnx_heads_on_an_axis": (
        "g (float[2,{v},5,3] q, float[2,2,7,3] k, float[2,2,7,2] v) => (float[2,{v},5,2] y) {{ y = Attention(q, k, v) }}",
        *("4", "5", "heads 5, 2 and 2"),
    ),
    "onnx_columns": (
        "g (float[2,4,5,3] q, float[2,2,7,{v}] k, float[2,2,7,2] v) => (float[2,4,5,2] y) {{ y = Attention(q, k, v) }}",
        *("3", "2", "heads of 3 columns in Q, 2 in K"),
    ),
    "rotary_heads": (
        "g (float[2,5,24] x, float[2,5,3] c, float[2,5,3] s) => (float[2,5,24] y)"
        " {{ y = RotaryEmbedding<num_heads={v}>(x, c, s) }}",
        *("4", "8", "a cache for 6 columns, a head has 3"),
    ),
    "rotary_cache": (
        "g (float[2,5,{v}] x, int64[2,5] p, float[9,3] c, float[9,3] s) => (float[2,5,{v}] y)"
        " {{ y = com.microsoft.RotaryEmbedding(x, p, c, s) }}",
        *("24", "20", "20 columns are no heads of 6"),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_defect_is_found_and_its_twin_is_clean(name: str) -> None:
    text, right, wrong, message = CASES[name]
    sound, broken = (onnx.parser.parse_model(f"{HEAD}\n{text.format(v=value)}") for value in (right, wrong))
    assert check(sound, original=sound) == []
    found = check(broken)
    assert any(message in f.what for f in found), [str(f) for f in found]


# Oracle: what the operators' documents say.
SHAPES = {
    "x = com.microsoft.FusedConv<strides=[2,2], pads=[1,1,1,1]>(image, kernel)": (1, 6, 4, 4),
    "x = com.microsoft.FusedMatMul<transA=1, transB=1>(hidden, matrix)": (2, 12, 7),
    "x = com.microsoft.Attention<num_heads=4>(hidden, packed)": (2, 5, 8),
    "x = com.microsoft.Attention<num_heads=2, qkv_hidden_sizes=[8,8,8]>(hidden, packed)": (2, 5, 8),
    "x = com.microsoft.MultiHeadAttention<num_heads=4>(hidden, hidden, values)": (2, 5, 4),
    "x = com.microsoft.MultiHeadAttention<num_heads=4>(hidden, keys, keys)": (2, 5, 12),
    "x = com.microsoft.GroupQueryAttention<num_heads=4, kv_num_heads=1>(hidden, , , , , lengths, total)": (2, 5, 8),
    "x = com.microsoft.EmbedLayerNormalization(ids, , table, table)": (2, 5, 9),
    "x = com.microsoft.ExpandDims(hidden, minus)": (2, 5, 12, 1),
    "x = com.microsoft.CropAndResize(image, boxes, lengths, size)": (3, 4, 6, 5),
    "x = com.microsoft.SkipLayerNormalization(hidden, hidden, w)": (2, 5, 12),
    "x = com.microsoft.GridSample(image, grid)": (1, 4, 3, 2),
    "x = com.microsoft.Pad(image, pads)": (1, 4, 10, 8),
}


@pytest.mark.parametrize("node", SHAPES)
def test_shapes(node: str) -> None:
    model = onnx.parser.parse_model(
        f"""{HEAD}
        g (float[1,4,8,8] image, float[6,4,3,3] kernel, float[2,5,12] hidden, float[7,5] matrix, float[12,24] packed,
           float[2,5,4] values, float[2,4,5,3] keys, int32[2] lengths, int32 total, int32[2,5] ids, float[50,9] table,
           float[3,4] boxes, float[1,3,2,2] grid, float[12] w) => (float y)
        <int32 minus = {{-1}}, int32[2] size = {{6, 5}}, int64[8] pads = {{0, 0, 1, 0, 0, 0, 1, 0}}> {{ {node} }}"""
    )
    assert model_facts(model).shape("x") == SHAPES[node]
