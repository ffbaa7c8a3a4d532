"""Shapes behind operators of com.microsoft, which ONNX's inference does not know.

Some of them are an operator of ONNX with something fused to it: ONNX infers that one. For the others there is a
function that gives the shape of each output, None where it is not known. Source: ONNX Runtime,
docs/ContribOperators.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx

from .facts import Dim, Facts, Shape, attribute

_CONV = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")
_EQUIVALENT: dict[str, tuple[str, int, tuple[str, ...]]] = {
    "FusedConv": ("Conv", 2, _CONV),
    "FusedGemm": ("Gemm", 2, ("transA", "transB")),
    "GridSample": ("GridSample", 2, ("align_corners",)),
    "Pad": ("Pad", 3, ("mode",)),
}
"""By operator: the one of ONNX, how many of its inputs that reads, and the attributes that decide shapes."""


def equivalent(node: onnx.NodeProto) -> onnx.NodeProto | None:
    """A node of ONNX's own domain whose first output has the shape of this one's; None where there is none."""
    if node.op_type not in _EQUIVALENT:
        return None
    op, count, names = _EQUIVALENT[node.op_type]
    found = onnx.helper.make_node(op, node.input[:count], node.output[:1])
    found.attribute.extend(a for a in node.attribute if a.name in names)
    return found


def contrib_shapes(node: onnx.NodeProto, facts: Facts) -> Sequence[Shape]:
    """Shapes of the outputs of a com.microsoft node, as far as they are known."""
    rule = _SHAPES.get(node.op_type)
    return rule(node, facts) if rule is not None else ()


def _input(node: onnx.NodeProto, facts: Facts, index: int) -> Shape:
    return facts.shape(node.input[index]) if index < len(node.input) and node.input[index] else None


def _same(*outputs: int) -> Callable[[onnx.NodeProto, Facts], Sequence[Shape]]:
    """These outputs have the shape of the first input."""

    def rule(node: onnx.NodeProto, facts: Facts) -> Sequence[Shape]:
        shape = _input(node, facts, 0)
        return [shape if k in outputs else None for k in range(max(outputs) + 1)]

    return rule


def _scaled(dim: Dim, factor: int, divisor: int) -> Dim:
    """The share factor / divisor of a dimension, if it is a whole number."""
    return dim * factor // divisor if isinstance(dim, int) and divisor and dim * factor % divisor == 0 else None


def _product(node: onnx.NodeProto, facts: Facts) -> Sequence[Shape]:
    a, b = _input(node, facts, 0), _input(node, facts, 1)
    if a is None or b is None or attribute(node, "transBatchA", 0) or attribute(node, "transBatchB", 0):
        return ()
    if len(a) < 2 or len(b) < 2:
        return ()
    rows = a[-1] if attribute(node, "transA", 0) else a[-2]
    columns = b[-2] if attribute(node, "transB", 0) else b[-1]
    size = max(len(a), len(b)) - 2
    pairs = zip((1,) * (size - len(a) + 2) + a[:-2], (1,) * (size - len(b) + 2) + b[:-2], strict=True)
    return [(*(y if x == 1 else x for x, y in pairs), rows, columns)]


def _attention(node: onnx.NodeProto, facts: Facts) -> Sequence[Shape]:
    x, w = _input(node, facts, 0), _input(node, facts, 1)
    sizes = attribute(node, "qkv_hidden_sizes")
    if x is None or len(x) != 3:
        return ()
    columns = sizes[2] if sizes else _scaled(w[1], 1, 3) if w is not None and len(w) == 2 else None
    return [(x[0], x[1], columns)]


def _multi_head(node: onnx.NodeProto, facts: Facts) -> Sequence[Shape]:
    q, v = _input(node, facts, 0), _input(node, facts, 2)
    heads = attribute(node, "num_heads", 0)
    if q is None or len(q) not in (3, 5):
        return ()
    if len(q) == 5:
        return [(q[0], q[1], _scaled(q[4], heads, 1))]
    if v is None or len(v) not in (3, 4):
        return [(q[0], q[1], None)]
    return [(q[0], q[1], v[2] if len(v) == 3 else _scaled(v[3], heads, 1))]


def _group_query(node: onnx.NodeProto, facts: Facts) -> Sequence[Shape]:
    q, heads, keys = _input(node, facts, 0), attribute(node, "num_heads", 0), attribute(node, "kv_num_heads", 0)
    if q is None or len(q) != 3:
        return ()
    return [q if len(node.input) > 1 and node.input[1] else (q[0], q[1], _scaled(q[2], heads, heads + 2 * keys))]


def _embedding(node: onnx.NodeProto, facts: Facts) -> Sequence[Shape]:
    ids, table = _input(node, facts, 0), _input(node, facts, 2)
    if ids is None or table is None or len(ids) != 2 or len(table) != 2:
        return ()
    return [(*ids, table[1]), (ids[0],), (*ids, table[1])]


def _expand_dims(node: onnx.NodeProto, facts: Facts) -> Sequence[Shape]:
    x, axis = _input(node, facts, 0), facts.integers(node.input[1])
    if x is None or not axis or not isinstance(axis[0], int) or not -len(x) - 1 <= axis[0] <= len(x):
        return ()
    place = axis[0] if axis[0] >= 0 else axis[0] + len(x) + 1
    return [(*x[:place], 1, *x[place:])]


def _crops(node: onnx.NodeProto, facts: Facts) -> Sequence[Shape]:
    x, boxes, sizes = _input(node, facts, 0), _input(node, facts, 1), facts.integers(node.input[3])
    if x is None or len(x) != 4 or boxes is None or sizes is None or len(sizes) != 2:
        return ()
    return [(boxes[0] if boxes else None, x[1], *(s if isinstance(s, int) else None for s in sizes))]


def _channels_last(node: onnx.NodeProto, facts: Facts) -> Sequence[Shape]:
    x = _input(node, facts, 0)
    return () if x is None or len(x) < 3 else [(x[0], *(None,) * (len(x) - 2), x[-1])]


def _packed(node: onnx.NodeProto, facts: Facts) -> Sequence[Shape]:
    x = _input(node, facts, 0)
    return () if not x else [(*x[:-1], attribute(node, "N"))]


_SHAPES: dict[str, Callable[[onnx.NodeProto, Facts], Sequence[Shape]]] = {
    **dict.fromkeys(("Gelu", "FastGelu", "QuickGelu", "BiasGelu", "BiasAdd", "GatedAdd", "ScaledSiLU"), _same(0)),
    **dict.fromkeys(
        ("RotaryEmbedding", "Trilu", "Inverse", "MoE", "GroupNorm", "BiasSoftmax", "BiasDropout"), _same(0)
    ),
    **dict.fromkeys(("SkipLayerNormalization", "SkipSimplifiedLayerNormalization"), _same(0, 3)),
    "SkipGroupNorm": _same(0, 1),
    **dict.fromkeys(("FusedMatMul", "TransposeMatMul", "FusedMatMulActivation", "GemmFastGelu"), _product),
    **dict.fromkeys(("Attention", "QAttention"), _attention),
    "MultiHeadAttention": _multi_head,
    "GroupQueryAttention": _group_query,
    "EmbedLayerNormalization": _embedding,
    "ExpandDims": _expand_dims,
    "CropAndResize": _crops,
    "NhwcMaxPool": _channels_last,
    "MatMulNBits": _packed,
}
