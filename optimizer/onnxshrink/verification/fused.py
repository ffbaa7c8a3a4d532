"""What attentions and fused operators demand of their operands: heads, head sizes, addends, packed sizes.

`TABLE` is for ONNX's own domain, `CONTRIB` for com.microsoft. Sources: Operators.md (onnx 1.23), ONNX Runtime's
docs/ContribOperators.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from .arithmetic import TABLE as ARITHMETIC
from .operand import Findings, Op, broadcast_to, clash, differ, text, vector


def _fused_conv(op: Op) -> Findings:
    yield from ARITHMETIC["Conv"](op)
    addend, result = op.shape(3), op.facts.shape(op.node.output[0])
    if addend is None or result is None:
        return
    if len(addend) != len(result) or any(differ(a, b) for a, b in zip(addend, result, strict=True)):
        yield f"addend {text(addend)} for a result of {text(result)}"


def _fused_gemm(op: Op) -> Findings:
    yield from ARITHMETIC["Gemm"](replace(op, version=13))


def _product(op: Op) -> Findings:
    a, b = op.shape(0), op.shape(1)
    if a is None or b is None or len(a) < 2 or len(b) < 2:
        return
    if op.attr("transBatchA", 0) or op.attr("transBatchB", 0):
        return
    inner = a[-2] if op.attr("transA", 0) else a[-1], b[-1] if op.attr("transB", 0) else b[-2]
    if differ(*inner):
        yield f"inner sizes differ: {inner[0]} in {text(a)}, {inner[1]} in {text(b)}"
    if clash([a[:-2], b[:-2]]):
        yield f"batch axes do not broadcast: {text(a)} times {text(b)}"
    yield from vector(op, 2, "bias", b[-2] if op.attr("transB", 0) else b[-1], "the product has columns:")


def _last(*operands: int) -> Callable[[Op], Findings]:
    """Vectors of the size of the first operand's last axis."""

    def check(op: Op) -> Findings:
        for i in operands:
            yield from vector(op, i, f"operand {i}", op.dim(0, -1), "the last axis has")

    return check


def _skip(parameters: tuple[int, ...]) -> Callable[[Op], Findings]:
    def check(op: Op) -> Findings:
        yield from _last(*parameters)(op)
        yield from broadcast_to(op.shape(1), op.shape(0), "skip", "input")

    return check


def _divides(heads: int, size: object, what: str) -> Findings:
    if isinstance(size, int) and (heads < 1 or size % heads):
        yield f"{heads} heads do not divide the {size} columns of {what}"


def _mask(op: Op, index: int, heads: int) -> Findings:
    shape = op.shape(index)
    if shape is not None and len(shape) >= 3 and shape[-3] != 1 and differ(shape[-3], heads):
        yield f"mask {text(shape)} for {heads} heads"


def _packed(op: Op) -> Findings:
    columns, heads = op.dim(1, 1), op.attr("num_heads", 0)
    if differ(op.dim(0, -1), op.dim(1, 0)):
        yield f"input has {op.dim(0, -1)} features, weight {text(op.shape(1))} expects {op.dim(1, 0)}"
    yield from vector(op, 2, "bias", columns, "the weight has columns:")
    if not isinstance(columns, int):
        return
    sizes = op.attr("qkv_hidden_sizes") or [columns // 3] * 3
    if sum(sizes) != columns or sizes[0] != sizes[1]:
        yield f"queries, keys and values of {list(sizes)} columns in a weight of {columns}"
    for size, what in zip(sizes, ("Q", "K", "V"), strict=True):
        yield from _divides(heads, size, what)
    yield from _mask(op, 5, heads)


def _separate(op: Op, queries: int, keys: int, mask: int) -> Findings:
    q, k, v = op.shape(0), op.shape(1), op.shape(2)
    if q is None or k is None or v is None or not len(q) == len(k) == len(v) == 3:
        return
    if keys < 1 or queries % keys:
        yield f"{keys} heads of keys for {queries} of queries"
        return
    for heads, size, what in ((queries, q[2], "Q"), (keys, k[2], "K"), (keys, v[2], "V")):
        yield from _divides(heads, size, what)
    if isinstance(q[2], int) and isinstance(k[2], int) and q[2] * keys != k[2] * queries:
        yield f"heads of {q[2] / queries:g} columns in Q, {k[2] / keys:g} in K"
    if differ(k[1], v[1]) or differ(q[0], k[0]) or differ(q[0], v[0]):
        yield f"operands {text(q)}, {text(k)} and {text(v)} do not fit each other"
    yield from _mask(op, mask, queries)


def _multi_head(op: Op) -> Findings:
    heads = op.attr("num_heads", 0)
    yield from _separate(op, heads, heads, 5)
    sizes = [op.dim(i, 2) for i in range(3)]
    if op.has(3) and all(len(op.shape(i) or ()) == 3 for i in range(3)):
        total = sum(size for size in sizes if isinstance(size, int))
        if all(isinstance(size, int) for size in sizes):
            yield from vector(op, 3, "bias", total, "Q, K and V have columns:")


def _group_query(op: Op) -> Findings:
    queries, keys = op.attr("num_heads", 0), op.attr("kv_num_heads", 0)
    yield from _separate(op, queries, keys, 10)
    yield from vector(op, 11, "head_sink", queries, "heads:")


def _attention(op: Op) -> Findings:
    q, k, v = op.shape(0), op.shape(1), op.shape(2)
    if q is None or k is None or v is None:
        return
    if len(q) == 3:
        yield from _separate(op, op.attr("q_num_heads", 0), op.attr("kv_num_heads", 0), 3)
        return
    if not len(q) == len(k) == len(v) == 4:
        yield f"operands of {len(q)}, {len(k)} and {len(v)} axes"
        return
    if differ(k[1], v[1]) or (isinstance(q[1], int) and isinstance(k[1], int) and (not k[1] or q[1] % k[1])):
        yield f"heads {q[1]}, {k[1]} and {v[1]} of Q, K and V do not fit each other"
    if differ(q[3], k[3]):
        yield f"heads of {q[3]} columns in Q, {k[3]} in K"
    if isinstance(q[1], int):
        yield from _mask(op, 3, q[1])


def _rotary(cache: int) -> Callable[[Op], Findings]:
    def check(op: Op) -> Findings:
        x, half = op.shape(0), op.dim(cache, -1)
        heads = op.attr("num_heads", 0)
        if x is None or not isinstance(half, int):
            return
        size = x[3] if len(x) == 4 else x[2] // heads if len(x) == 3 and heads and isinstance(x[2], int) else None
        if len(x) == 3 and heads:
            yield from _divides(heads, x[2], "the input")
        if len(x) == 3 and not heads and isinstance(x[2], int) and (not half or x[2] % (2 * half)):
            yield f"{x[2]} columns are no heads of {2 * half}"
        if isinstance(size, int) and 2 * half > size:
            yield f"a cache for {2 * half} columns, a head has {size}"

    return check


TABLE: dict[str, Callable[[Op], Findings]] = {"Attention": _attention, "RotaryEmbedding": _rotary(1)}

CONTRIB: dict[str, Callable[[Op], Findings]] = {
    "FusedConv": _fused_conv,
    "FusedGemm": _fused_gemm,
    **dict.fromkeys(("FusedMatMul", "TransposeMatMul", "FusedMatMulActivation", "GemmFastGelu"), _product),
    **dict.fromkeys(("BiasGelu", "FastGelu", "BiasAdd"), _last(1)),
    "SkipLayerNormalization": _skip((2, 3, 4)),
    "SkipSimplifiedLayerNormalization": _skip((2, 3)),
    "Attention": _packed,
    "MultiHeadAttention": _multi_head,
    "GroupQueryAttention": _group_query,
    "RotaryEmbedding": _rotary(2),
}
