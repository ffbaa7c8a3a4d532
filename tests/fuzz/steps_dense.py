"""Steps on matrices, sequences and tokens: products, normalizations, attention, recurrences, quantization."""

from __future__ import annotations

import numpy as np

from . import spelling
from .maker import Maker, Rejected, Tensor


def sequence(m: Maker) -> Tensor:
    """[batch, time, features] with static features."""
    return m.pick(lambda t: t.rank == 3 and t.fixed(2) and 2 <= t.shape[2] <= 24)


def gemm(m: Maker) -> None:
    x = m.pick(lambda t: t.rank == 2 and t.fixed(1))
    trans_a = int(x.static and m.chance(0.15))
    rows, features = x.shape[::-1] if trans_a else x.shape
    outputs, trans_b = m.integer(1, 8), int(m.chance(0.5))
    shape = (outputs, features) if trans_b else (features, outputs)
    operands = [x, m.weight(*shape, fan_in=features, planted=(0, 1))]
    if m.chance(0.7):
        kinds = [(outputs,), (1, outputs), (1,), (1, 1)] + ([(rows, outputs), (rows, 1)] if x.static else [])
        addend = m.rng.standard_normal(m.choice(kinds)) * 0.5
        if addend.shape[-1] > 1:
            addend[..., m.chosen(outputs)] = 0
        operands.append(m.const(addend))
    attributes: dict[str, object] = {"transA": trans_a, "transB": trans_b}
    if m.chance(0.2):
        attributes |= {"alpha": m.choice([0.5, 2.0]), "beta": m.choice([0.5, 0.0, 1.0])}
    m.op("Gemm", *operands, **attributes)


def gemm_of_two(m: Maker) -> None:
    x = m.pick(lambda t: t.rank == 2)
    y = m.pick(
        lambda t: t.rank == 2 and any(t.shape[a] == x.shape[1] and t.shapes[1][a] == x.shapes[1][1] for a in (0, 1))
    )
    m.op("Gemm", x, y, transB=int(y.shapes[0][0] != x.shapes[0][1] or y.shapes[1][0] != x.shapes[1][1]))


def linear(m: Maker) -> None:
    """MatMul by a weight, mostly with a bias behind it."""
    rank = 5 if m.chance(0.2) else 3
    x = m.pick(lambda t: 1 <= t.rank <= rank and t.fixed(t.rank - 1) and t.shape[-1] <= 40)
    features, outputs = x.shape[-1], m.integer(1, 8)
    t = m.op("MatMul", x, m.weight(features, outputs, fan_in=features, planted=(0, 1)))
    if m.chance(0.7):
        operands = [t, m.bias(outputs, range(outputs))]
        m.op("Add", *(operands[::-1] if m.chance(0.3) else operands))


def left_product(m: Maker) -> None:
    """A weight times a tensor: it mixes the last axis but one."""
    x = m.pick(lambda t: t.rank >= 2 and t.fixed(t.rank - 2) and t.shape[-2] <= 16)
    m.op("MatMul", m.weight(m.integer(1, 6), x.shape[-2], fan_in=x.shape[-2], planted=(0, 1)), x)


def batched_product(m: Maker) -> None:
    x = m.pick(lambda t: t.rank >= 2)
    y = m.pick(lambda t: t.rank >= 2)
    if x.shapes[0][-1] != y.shapes[0][-2] or x.shapes[1][-1] != y.shapes[1][-2]:
        y = spelling.transpose(m, x, [*range(x.rank - 2), x.rank - 1, x.rank - 2])
    scaled = m.op("Mul", x, m.const(0.3))
    m.op("MatMul", scaled, y)


def weights_per_batch(m: Maker) -> None:
    """Several matrices at once: [n, t, f] x [n, f, o]."""
    x = m.pick(lambda t: t.rank >= 3 and t.static and t.shape[-1] <= 16)
    batch = x.shape[:-2] if m.chance(0.5) else x.shape[-3:-2]
    m.op(
        "MatMul",
        x,
        m.weight(*batch, x.shape[-1], m.integer(1, 5), fan_in=x.shape[-1], planted=tuple(range(len(batch) + 2))),
    )


def feed_forward(m: Maker) -> None:
    x = sequence(m)
    width, hidden = x.shape[-1], m.integer(2, 10)
    t = m.op("MatMul", x, m.weight(width, hidden, fan_in=width, planted=(1,)))
    t = m.op("Add", t, m.bias(hidden, range(hidden)))
    t = gelu(m, t)
    t = m.op("MatMul", t, m.weight(hidden, width, fan_in=hidden, planted=(0,)))
    t = m.op("Add", t, m.bias(width))
    if m.chance(0.8):
        m.op("Add", x, t)


def gelu(m: Maker, x: Tensor) -> Tensor:
    """Gelu in one of its spellings."""
    way = m.choice(["erf", "tanh", "op", "relu", "contrib", "quick"])
    if way == "op" and m.opset >= 20:
        return m.op("Gelu", x, approximate=m.choice(["none", "tanh"]))
    if way == "contrib" and x.dtype == np.float32:
        return m.op("Gelu", x, domain="com.microsoft", like=x)
    if way == "erf":
        t = m.op("Add", m.op("Erf", m.op("Div", x, m.const(1.4142135))), m.const(1.0))
        return m.op("Mul", m.op("Mul", x, t), m.const(0.5))
    if way == "tanh":
        cube = m.op("Mul", m.op("Pow", m.op("Tanh", x), m.const(3.0)), m.const(0.044715))
        t = m.op("Add", m.op("Tanh", m.op("Mul", m.op("Add", x, cube), m.const(0.79788))), m.const(1.0))
        return m.op("Mul", m.op("Mul", x, t), m.const(0.5))
    if way == "quick":
        return m.op("Mul", x, m.op("Sigmoid", m.op("Mul", x, m.const(1.702))))
    return m.op("Relu", x)


def layer_normalization(m: Maker) -> None:
    x = m.pick(lambda t: t.rank >= 2 and t.fixed(t.rank - 1) and t.shape[-1] >= 2)
    width = x.shape[-1]
    scale = m.weight(width, planted=(0,))
    way = m.choice(["op", "rms", "spelled"])
    if way == "op" and m.opset >= 17:
        m.op("LayerNormalization", x, scale, *([m.bias(width)] if m.chance(0.7) else []), axis=-1, epsilon=1e-2)
    elif way == "rms" and m.opset >= 23:
        m.op("RMSNormalization", x, scale, axis=-1, epsilon=1e-2)
    else:
        centred = m.op("Sub", x, spelling.reduce(m, "ReduceMean", x, [x.rank - 1]))
        variance = spelling.reduce(m, "ReduceMean", m.op("Mul", centred, centred), [x.rank - 1])
        t = m.op("Div", centred, m.op("Sqrt", m.op("Add", variance, m.const(1e-2))))
        m.op("Add", m.op("Mul", t, scale), m.bias(width))


def softmax(m: Maker) -> None:
    x = m.pick(lambda t: t.rank >= 1)
    m.op(m.choice(["Softmax", "Softmax", "LogSoftmax", "Hardmax"]), x, axis=m.integer(-x.rank, x.rank - 1))


def attention(m: Maker) -> None:
    """Self-attention with heads, as exporters write it: Reshape, Transpose, MatMul, Softmax, MatMul, back."""
    x = sequence(m)
    width, heads, size = x.shape[-1], m.integer(1, 3), m.integer(1, 3)
    inner = heads * size
    split = tuple((s[0], s[1], heads, size) for s in x.shapes)

    def project(planted: tuple[int, ...]) -> Tensor:
        t = m.op("MatMul", x, m.weight(width, inner, fan_in=width, planted=planted))
        return m.op("Add", t, m.bias(inner, range(inner))) if m.chance(0.7) else t

    def heads_first(t: Tensor, perm: list[int]) -> Tensor:
        return spelling.transpose(m, spelling.reshape(m, t, (split[0], split[1])), perm)

    query, key = heads_first(project((1,)), [0, 2, 1, 3]), heads_first(project((1,)), [0, 2, 3, 1])
    value = heads_first(project((1,)), [0, 2, 1, 3])
    scores = m.op("Mul", m.op("MatMul", query, key), m.const(size**-0.5))
    t = m.op("MatMul", m.op("Softmax", scores, axis=-1), value)
    t = spelling.transpose(m, t, [0, 2, 1, 3])
    t = spelling.reshape(m, t, tuple((s[0], s[1], inner) for s in x.shapes))  # type: ignore[arg-type]
    t = m.op("MatMul", t, m.weight(inner, width, fan_in=inner, planted=(0,)))
    if m.chance(0.8):
        m.op("Add", t, x)


def fused_attention(m: Maker) -> None:
    """The operator Attention of opset 23, or MultiHeadAttention of ONNX Runtime."""
    x = sequence(m)
    width, heads = x.shape[-1], m.integer(1, 2)
    inner = heads * m.integer(1, 3)
    if m.opset < 23:
        raise Rejected("needs opset 23")
    rows = [m.op("MatMul", x, m.weight(width, inner, fan_in=width, planted=(1,))) for _ in range(3)]
    m.op("Attention", *rows, q_num_heads=heads, kv_num_heads=heads)


def einsum(m: Maker) -> None:
    if m.opset < 12:
        raise Rejected("needs opset 12")
    x = m.pick(lambda t: t.rank in (2, 3) and t.fixed(t.rank - 1) and t.shape[-1] <= 16)
    if x.rank == 2:
        equation = m.choice(["ij,jk->ik", "ij,jk->ki", "ij,kj->ik", "ij,jk"])
        shape = (m.integer(1, 5), x.shape[1]) if equation == "ij,kj->ik" else (x.shape[1], m.integer(1, 5))
    else:
        equation, shape = "btf,fo->bto", (x.shape[2], m.integer(1, 5))
    m.op("Einsum", x, m.weight(*shape, fan_in=x.shape[-1], planted=(0, 1)), equation=equation)


def embedding(m: Maker) -> None:
    tokens = m.pick(lambda t: t.values is None and t.rank in (1, 2), kind="i")
    if tokens.name not in {t.name for t, _ in m.inputs}:
        raise Rejected("only an input holds tokens")
    width = m.integer(2, 8)
    m.op("Gather", m.weight(4, width, planted=(1,)), tokens, axis=0)


def recurrent(m: Maker) -> None:
    """LSTM, GRU or RNN over [time, batch, features]; what it gives is squeezed or folded."""
    x = sequence(m)
    op = m.choice(["LSTM", "GRU", "RNN"])
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[op]
    way = m.choice(["forward", "reverse", "bidirectional"])
    count, hidden, width = (2 if way == "bidirectional" else 1), m.integer(1, 4), x.shape[-1]
    x = spelling.transpose(m, x, [1, 0, 2])
    weights = m.rng.standard_normal((count, gates * hidden, width)) * width**-0.5
    again = m.rng.standard_normal((count, gates * hidden, hidden)) * hidden**-0.5
    bias = m.rng.standard_normal((count, 2 * gates * hidden)) * 0.3
    weights[:, :, m.chosen(width)] = 0
    for unit in m.chosen(hidden, 0.4):  # a dead hidden unit: all its gates
        rows = [g * hidden + unit for g in range(gates)]
        weights[:, rows], again[:, rows] = 0, 0
        bias[:, rows + [gates * hidden + r for r in rows]] = 0
    operands = [x, m.const(weights), m.const(again), *([m.const(bias)] if m.chance(0.8) else [])]
    attributes: dict[str, object] = {"hidden_size": hidden, "direction": way}
    if op == "GRU":
        attributes["linear_before_reset"] = m.integer(0, 1)
    y = m.ops(op, *operands, count=2 if m.chance(0.4) else 1, **attributes)[0]
    if count == 1:
        spelling.transpose(m, spelling.squeeze(m, y, [1]), [1, 0, 2])
    else:
        y = spelling.transpose(m, y, [2, 0, 1, 3])
        spelling.reshape(m, y, tuple((s[0], s[1], s[2] * s[3]) for s in y.shapes))  # type: ignore[arg-type]


def quantize_and_back(m: Maker) -> None:
    """QuantizeLinear and DequantizeLinear, per tensor or per channel; coarse scales saturate or round to one value."""
    x = m.pick(lambda t: t.rank >= 1 and t.dtype == np.float32)
    kind = np.dtype(m.choice(["uint8", "int8"]))
    axis = m.integer(0, x.rank - 1)
    per_channel = m.opset >= 13 and x.fixed(axis) and m.chance(0.3)
    shape = (x.shape[axis],) if per_channel else ()
    scale = m.const(m.rng.choice([0.02, 0.1, 1.0, 50.0]) * m.rng.uniform(0.5, 1.5, shape))
    point = m.const(m.rng.integers(0, 100, shape), kind)
    attributes = {"axis": axis} if m.opset >= 13 else {}
    q = m.op("QuantizeLinear", x, scale, point, **attributes)
    if m.chance(0.2) and q.rank >= 2:
        q = spelling.transpose(m, q, m.rng.permutation(q.rank)) if not per_channel else q
    m.op("DequantizeLinear", q, scale, point, **attributes)


def quantized_convolution(m: Maker) -> None:
    """A Conv whose int8 weight is dequantized per tensor or per channel, with zero filters."""
    x = m.pick(lambda t: t.rank == 4 and t.fixed(1) and t.dtype == np.float32 and t.shape[1] <= 16)
    if m.opset < 13:
        raise Rejected("needs opset 13")
    outputs, channels = m.integer(1, 8), x.shape[1]
    weight = m.rng.integers(-100, 100, (outputs, channels, 1, 1))
    weight[m.chosen(outputs)] = 0
    weight[:, m.chosen(channels)] = 0
    per_channel = m.chance(0.5)
    scale = m.const(m.rng.uniform(0.5, 1.5, outputs if per_channel else ()) * 0.005)
    point = m.const(np.zeros(outputs if per_channel else ()), np.int8)
    attributes = {"axis": 0} if per_channel else {}
    w = m.op("DequantizeLinear", m.const(weight, np.int8), scale, point, closed=True, **attributes)
    m.op("Conv", x, w, *([m.bias(outputs, range(outputs))] if m.chance(0.7) else []))


STEPS = {
    gemm: 5,
    gemm_of_two: 0.5,
    linear: 6,
    left_product: 1,
    batched_product: 1.5,
    weights_per_batch: 0.7,
    feed_forward: 2,
    layer_normalization: 1.5,
    softmax: 1,
    attention: 1.5,
    fused_attention: 0.5,
    einsum: 1,
    embedding: 2,
    recurrent: 0.8,
    quantize_and_back: 1,
    quantized_convolution: 0.7,
}
