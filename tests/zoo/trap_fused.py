"""Traps: operators that ONNX Runtime fuses (com.microsoft), and the attention of ONNX's own domain.

Attention traps are self-attention over [2, 5, 8] with heads of w columns: projections q, k, v with biases, the
operator, and an output projection. A head costs 3 w (8 + 1) parameters before and 8 w after it; a column of the values
8 + 1 + 8, a column of queries and of keys 2 (8 + 1).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from onnx import helper, numpy_helper

from .net import Net
from .trap import DEAD, Family, chain, chain_cut

TRAPS = Family()
MS = "com.microsoft"
SHAPE = (2, 3, 8, 8)


def fuse(net: Net, activation: str = "", parameters: Sequence[float] = (), addend: str = "") -> str:
    """Turns the last node, a Conv, into a FusedConv."""
    node = net.nodes[-1]
    node.op_type, node.domain, net.domains[MS] = "FusedConv", MS, 1
    if activation:
        node.attribute.append(helper.make_attribute("activation", activation))
    if parameters:
        node.attribute.append(helper.make_attribute("activation_params", parameters))
    if addend:
        node.input.append(addend)
    return node.output[0]


def int32(net: Net, values: object) -> str:
    """An initializer of that type, which `Net.const` does not make."""
    name = net.const(np.asarray(values))
    net.initializers[-1].CopyFrom(numpy_helper.from_array(np.asarray(values, np.int32), name))
    return name


def shaped(net: Net, t: str, *shape: int | str) -> Net:
    """The net with this output; its shape is written down, ONNX infers none behind a contributed operator."""
    net.declared[t] = shape
    return net.output(t)


# --- convolutions


def fused_chain(activation: str, parameters: Sequence[float] = (), known: bool = True, **conv: object) -> Net:
    """x -> FusedConv(3, 8) -> Conv(8, 4)."""
    net = Net()
    net.conv(net.input("x", SHAPE), 3, 8, zero=DEAD, **conv)
    t = fuse(net, activation, parameters)
    return net.output(net.conv(net.known(t, DEAD) if known else t, 8, 4, name="y"))


@TRAPS.add(chain_cut(4), "Conv and Relu in one")
def fused_conv_relu() -> Net:
    return fused_chain("Relu")


@TRAPS.add(chain_cut(4), "a slope for what is negative; zero stays zero")
def fused_conv_leaky() -> Net:
    return fused_chain("LeakyRelu", [0.1])


@TRAPS.add(chain_cut(4), "Clip to [0, 6]")
def fused_conv_relu6() -> Net:
    return fused_chain("Clip", [0.0, 6.0])


@TRAPS.add(chain_cut(3), "Clip to [1, 6] makes ones of zeros: a carrier")
def fused_conv_clip_above_zero() -> Net:
    return fused_chain("Clip", [1.0, 6.0])


@TRAPS.add(chain_cut(3), "Sigmoid makes 0.5 of zeros: a carrier")
def fused_conv_sigmoid() -> Net:
    return fused_chain("Sigmoid")


@TRAPS.add(chain_cut(3), "HardSigmoid with parameters of its own: 0.25")
def fused_conv_hard_sigmoid() -> Net:
    return fused_chain("HardSigmoid", [0.1, 0.25])


@TRAPS.add(chain_cut(4), "without an activation")
def fused_conv_plain() -> Net:
    return fused_chain("")


@TRAPS.add(chain_cut(4), "a bias so low that Relu never lets it through; without weights it is no question of ranges")
def fused_conv_negative_bias() -> Net:
    net = Net()
    net.conv(net.input("x", SHAPE), 3, 8, constant=dict.fromkeys(DEAD, -2.0))
    return net.output(net.conv(net.known(fuse(net, "Relu"), DEAD), 8, 4, name="y"))


@TRAPS.add(4 * (28 + 10 + 36), "depthwise")
def fused_conv_depthwise() -> Net:
    net = Net()
    t = net.known(net.conv(net.input("x", SHAPE), 3, 8, zero=DEAD), DEAD)
    array, bias = net.filters(8, 8, 3, group=8), net.normal(8)
    bias[list(DEAD)] = 0
    net.op("Conv", t, net.const(array), net.const(bias), group=8, pads=[1] * 4, kernel_shape=[3, 3])
    t = net.known(fuse(net, "Relu"), DEAD)
    return net.output(net.conv(t, 8, 4, name="y"))


@TRAPS.add(7 * 64, "channels that the second layer does not read")
def fused_conv_unread() -> Net:
    net = Net()
    net.conv(net.input("x", SHAPE), 3, 8)
    t = net.unread(fuse(net, "Tanh"), range(1, 8))
    return net.output(net.conv(t, 8, 4, unread=range(1, 8), name="y"))


def fused_sum(zero: Iterable[int], skipped: Iterable[int], activation: str = "Relu") -> Net:
    """x -> Conv(3, 8) = s;  x -> FusedConv(3, 8) + s -> Conv(8, 4)."""
    net = Net()
    x = net.input("x", SHAPE)
    s = net.conv(x, 3, 8, zero=skipped)
    net.conv(x, 3, 8, zero=zero)
    t = net.known(fuse(net, activation, addend=s), sorted({*zero} & {*skipped}))
    return net.output(net.conv(t, 8, 4, name="y"))


@TRAPS.add(4 * (28 + 28 + 36), "a residual sum: both branches have the same zeros")
def fused_conv_sum() -> Net:
    return fused_sum(DEAD, DEAD)


@TRAPS.add(2 * (28 + 28 + 36), "a residual sum: two of the zeros agree")
def fused_conv_sum_partly() -> Net:
    return fused_sum((1, 3, 4, 6), (0, 3, 6, 7))


@TRAPS.add(None, "no zero of one branch is zero in the other: all of it stays")
def fused_conv_sum_disagree() -> Net:
    net = fused_sum((1, 3), (0, 6))
    net.claims.clear()
    return net


@TRAPS.add(8 * 28, "the addend is zero everywhere: it goes, with the layer that made it")
def fused_conv_zero_addend() -> Net:
    net = fused_sum((), range(8))
    net.claims.clear()
    return net


def zero_convolution(activation: str, parameters: Sequence[float] = ()) -> Net:
    """The convolution gives zeros, so what is left is the activation of the addend."""
    net = Net()
    x = net.input("x", SHAPE)
    s = net.conv(x, 3, 8)
    net.conv(x, 3, 8, zero=range(8))
    return net.output(net.conv(fuse(net, activation, parameters, s), 8, 4, name="y"))


@TRAPS.add(8 * 28, "a convolution of zeros, and an addend: Relu of it")
def fused_conv_zero_convolution() -> Net:
    return zero_convolution("Relu")


@TRAPS.add(8 * 28 - 2, "the same with Clip, whose limits are operands then")
def fused_conv_zero_convolution_clip() -> Net:
    return zero_convolution("Clip", [0.1, 6.0])


@TRAPS.add(8 * 28, "the same without an activation: nothing is left of it")
def fused_conv_zero_convolution_plain() -> Net:
    return zero_convolution("")


@TRAPS.add(4 * (28 + 28 + 36), "Sigmoid of the sum: the sum's zeros are halves, and the consumer is not padded")
def fused_conv_sum_sigmoid() -> Net:
    net = Net()
    x = net.input("x", SHAPE)
    s = net.conv(x, 3, 8, zero=DEAD)
    net.conv(x, 3, 8, zero=DEAD)
    t = net.known(fuse(net, "Sigmoid", addend=s), DEAD)
    return net.output(net.conv(t, 8, 4, pad=0, name="y"))


# --- products and elementwise operators


def dense(net: Net, t: str, cin: int, cout: int, *, zero=(), unread=(), constant=None, bias: bool = True) -> str:
    """MatMul and Add; `zero` and `constant` are columns, `unread` rows."""
    weight, values = net.normal(cin, cout, scale=cin**-0.5), net.normal(cout)
    dead = [*zero, *(constant or {})]
    weight[:, dead], values[dead] = 0, 0
    weight[list(unread)] = 0
    for column, value in (constant or {}).items():
        values[column] = value
    t = net.op("MatMul", t, net.const(weight))
    return net.op("Add", t, net.const(values)) if bias else t


UNITS = (0, 3, 4, 9, 11, 15)


def feed_forward(activation: str, *, bias: bool, constant: bool = False, **attributes: object) -> Net:
    """[2, 5, 8] -> MatMul(8, 16) -> activation, with or without bias -> MatMul(16, 8) -> Add; six units are dead."""
    net = Net()
    weight, values = net.normal(8, 16, scale=8**-0.5), net.normal(16)
    weight[:, UNITS] = 0
    values[list(UNITS)] = np.linspace(0.2, 1.2, 6) if constant else 0
    t = net.op("MatMul", net.input("x", (2, 5, 8)), net.const(weight))
    operands = [t, net.const(values)] if bias else [t]
    t = net.known(net.op(activation, *operands, domain=MS, **attributes), UNITS, axis=2)
    return shaped(net, dense(net, t, 16, 8), 2, 5, 8)


@TRAPS.add(6 * (8 + 1 + 8), "BiasGelu")
def fused_bias_gelu() -> Net:
    return feed_forward("BiasGelu", bias=True)


@TRAPS.add(6 * (8 + 1 + 8), "BiasGelu of constant units: they fold into the bias that is added behind")
def fused_bias_gelu_constant() -> Net:
    return feed_forward("BiasGelu", bias=True, constant=True)


@TRAPS.add(6 * (8 + 1 + 8), "FastGelu with a bias, constant units")
def fused_fast_gelu() -> Net:
    return feed_forward("FastGelu", bias=True, constant=True)


@TRAPS.add(6 * (8 + 8), "FastGelu without a bias")
def fused_fast_gelu_plain() -> Net:
    return feed_forward("FastGelu", bias=False)


@TRAPS.add(6 * (8 + 8), "Gelu")
def fused_gelu() -> Net:
    return feed_forward("Gelu", bias=False)


@TRAPS.add(6 * (8 + 8), "QuickGelu")
def fused_quick_gelu() -> Net:
    return feed_forward("QuickGelu", bias=False, alpha=1.5)


def fused_mlp(op: str, constant: bool = False, transposed: bool = False, **attributes: object) -> Net:
    """[4, 6] -> op(6, 16) with bias and activation -> Gemm(16, 5)."""
    net = Net()
    weight, values = net.normal(6, 16, scale=6**-0.5), net.normal(16)
    weight[:, UNITS] = 0
    values[list(UNITS)] = np.linspace(0.2, 1.2, 6) if constant else 0
    if transposed:
        weight, attributes = weight.T, {**attributes, "transB": 1}
    t = net.op(op, net.input("x", (4, 6)), net.const(weight), net.const(values), domain=MS, **attributes)
    t = net.op("Gemm", net.known(t, UNITS), net.const(net.normal(16, 5)), net.const(net.normal(5)))
    return shaped(net, t, 4, 5)


@TRAPS.add(6 * (6 + 1 + 5), "FusedGemm")
def fused_gemm_relu() -> Net:
    return fused_mlp("FusedGemm", activation="Relu")


@TRAPS.add(6 * (6 + 1 + 5), "FusedGemm, transposed and scaled, with a parameter of its activation; constant units")
def fused_gemm_leaky_constant() -> Net:
    return fused_mlp("FusedGemm", True, True, activation="LeakyRelu", activation_alpha=0.2, alpha=0.5, beta=2.0)


@TRAPS.add(6 * (6 + 1 + 5), "FusedGemm behind FusedGemm: constants fold into the bias before the activation")
def fused_gemm_twice() -> Net:
    net = fused_mlp("FusedGemm", True, activation="Sigmoid")
    last = next(node for node in net.nodes if node.op_type == "Gemm")
    last.op_type, last.domain = "FusedGemm", MS
    last.attribute.append(helper.make_attribute("activation", "Relu"))
    return net


def scaled_product(constant: bool, transposed: bool, op: str = "FusedMatMul") -> Net:
    """[2, 5, 8] -> MatMul(8, 16) -> Add -> Relu -> product(16, 8), scaled -> Add."""
    net = Net()
    units = dict(zip(UNITS, np.linspace(0.2, 1.2, 6), strict=True)) if constant else {}
    t = dense(net, net.input("x", (2, 5, 8)), 8, 16, zero=() if constant else UNITS, constant=units)
    t = net.known(net.op("Relu", t), UNITS, axis=2)
    weight = net.normal(8, 16) if transposed else net.normal(16, 8)
    t = net.op(op, t, net.const(weight), domain=MS, alpha=0.25, transB=int(transposed))
    return shaped(net, net.op("Add", t, net.const(net.normal(8))), 2, 5, 8)


@TRAPS.add(6 * (8 + 1 + 8), "FusedMatMul with a weight")
def fused_matmul() -> Net:
    return scaled_product(False, True)


@TRAPS.add(6 * (8 + 1 + 8), "what constants contribute is scaled by alpha and goes into the Add behind")
def fused_matmul_constant() -> Net:
    return scaled_product(True, True)


@TRAPS.add(6 * (8 + 1 + 8), "its older name")
def transpose_matmul() -> Net:
    return scaled_product(True, False, "TransposeMatMul")


HEAD = (4, 5, 6, 7)


@TRAPS.add(3 * 4 * 9 + 4 * 8, "attention with scores as FusedMatMul: a head whose values are zero")
def fused_matmul_scores() -> Net:
    net = Net()
    x = net.input("x", (2, 5, 8))
    q, k, v = (dense(net, x, 8, 16, zero=zero) for zero in ((), (), HEAD))

    def heads(t: str) -> str:
        return net.op("Transpose", net.op("Reshape", t, net.const([2, 5, 4, 4])), perm=[0, 2, 1, 3])

    scores = net.op("FusedMatMul", heads(q), heads(k), domain=MS, alpha=0.5, transB=1)
    t = net.op("Transpose", net.op("MatMul", net.op("Softmax", scores, axis=-1), heads(v)), perm=[0, 2, 1, 3])
    t = net.op("Reshape", t, net.const([2, 5, 16]))
    return shaped(net, dense(net, t, 16, 8), 2, 5, 8)


# --- attention


def columns(width: int, *heads: int) -> tuple[int, ...]:
    """The columns of some heads."""
    return tuple(head * width + column for head in heads for column in range(width))


def attention(
    kind: str,
    *,
    heads: int = 4,
    keys: int = 0,
    width: int = 6,
    zero_q=(),
    zero_k=(),
    zero_v=(),
    unread=(),
    mask: int = 0,
    four: bool = False,
    claim: tuple[int, ...] = (),
    batch: int | str = 2,
    **attributes: object,
) -> Net:
    """Self-attention with projections; `kind` is "Attention", "MultiHeadAttention" or "GroupQueryAttention".

    Args:
        heads, keys: query heads, and key heads where these are fewer.
        mask: heads of an additive mask; 0 for none.
        four: the operands are [batch, heads, sequence, width].
        claim: columns of the operator's output that are known.
    """
    keys = keys or heads
    net = Net(opset=23, ir_version=10) if kind == "Attention" else Net()
    x = net.input("x", (batch, 5, 8))
    q = dense(net, x, 8, heads * width, zero=zero_q)
    k = dense(net, x, 8, keys * width, zero=zero_k)
    v = dense(net, x, 8, keys * width, zero=zero_v)
    if four:
        q, k, v = (
            net.op("Transpose", net.op("Reshape", t, net.const([0, 5, n, width])), perm=[0, 2, 1, 3])
            for t, n in ((q, heads), (k, keys), (v, keys))
        )
    added = net.const(net.normal(1, mask, 5, 5)) if mask else ""
    if kind == "Attention":
        counts = {} if four else {"q_num_heads": heads, "kv_num_heads": keys}
        t = net.op(kind, q, k, v, *([added] if mask else []), **counts, **attributes)
    elif kind == "MultiHeadAttention":
        operands = ["", "", added] if mask else []
        t = net.op(kind, q, k, v, *operands, domain=MS, num_heads=heads, **attributes)
    else:
        lengths = [int32(net, [4, 4]), int32(net, 5)]
        caches = []
        if attributes.get("do_rotary"):
            angles = np.arange(8)[:, None] * np.linspace(0.1, 1, width // 2)
            caches = [net.const(np.cos(angles)), net.const(np.sin(angles))]
        t = net.op(
            *(kind, q, k, v, "", "", *lengths, *caches),
            domain=MS,
            num_heads=heads,
            kv_num_heads=keys,
            **attributes,
        )
    if four:
        t = net.op("Reshape", net.op("Transpose", t, perm=[0, 2, 1, 3]), net.const([0, 5, heads * width]))
    if claim:
        net.known(t, claim, axis=2)
    return shaped(net, dense(net, t, heads * width, 8, unread=unread), batch, 5, 8)


PER_HEAD = 6 * (3 * 9 + 8)
KINDS = ("Attention", "MultiHeadAttention")
V_COLUMNS, QK_COLUMNS = 9 + 8, 2 * 9
UNEVEN = (0, 1, 6, 11, 14, 15, 18, 22, 23)
"""Two columns of each head of six, in one of them three."""

for _kind in KINDS:
    _name = {"Attention": "onnx_attention", "MultiHeadAttention": "multi_head_attention"}[_kind]

    @TRAPS.add(2 * PER_HEAD, "heads whose values are zero: queries, keys, values and outputs go", name=f"{_name}_heads")
    def heads_without_values(kind: str = _kind) -> Net:
        return attention(kind, zero_v=columns(6, 1, 3), claim=columns(6, 1, 3))

    @TRAPS.add(PER_HEAD, "a head that the output projection does not read", name=f"{_name}_unread_head")
    def unread_head(kind: str = _kind) -> Net:
        return attention(kind, unread=columns(6, 2))

    @TRAPS.add(PER_HEAD, "a dynamic batch", name=f"{_name}_dynamic_batch", sizes=({"N": 1}, {"N": 3}))
    def dynamic_batch(kind: str = _kind) -> Net:
        return attention(kind, zero_v=columns(6, 0), batch="N")

    @TRAPS.add(4 * 2 * V_COLUMNS, "columns of the values, at other places in each head", name=f"{_name}_value_columns")
    def value_columns(kind: str = _kind) -> Net:
        return attention(kind, zero_v=UNEVEN)

    @TRAPS.add(4 * 2 * QK_COLUMNS, "columns of the queries; the scale is that of before", name=f"{_name}_query_columns")
    def query_columns(kind: str = _kind) -> Net:
        return attention(kind, zero_q=UNEVEN)

    @TRAPS.add(4 * 2 * QK_COLUMNS, "columns of the keys; a scale that is given stays", name=f"{_name}_key_columns")
    def key_columns(kind: str = _kind) -> Net:
        return attention(kind, zero_k=UNEVEN, scale=0.3)

    @TRAPS.add(4 * 2 * QK_COLUMNS, "half of them in queries, half in keys", name=f"{_name}_score_columns")
    def score_columns(kind: str = _kind) -> Net:
        return attention(kind, zero_q=UNEVEN[::2], zero_k=UNEVEN[1::2])

    @TRAPS.add(None, "one head without queries weighs all positions alike: it stays", name=f"{_name}_flat_head")
    def flat_head(kind: str = _kind) -> Net:
        return attention(kind, zero_q=columns(6, 1))

    @TRAPS.add(PER_HEAD + 25, "a mask with a plane for each head", name=f"{_name}_mask")
    def masked(kind: str = _kind) -> Net:
        return attention(kind, zero_v=columns(6, 1), mask=4, claim=columns(6, 1))

    @TRAPS.add(PER_HEAD, "a mask that all heads share", name=f"{_name}_shared_mask")
    def shared_mask(kind: str = _kind) -> Net:
        return attention(kind, zero_v=columns(6, 1), mask=1)


GROUP = 6 * (4 * 9 + 2 * 8)
"""Two query heads of six columns with their key head and its values."""


@TRAPS.add(GROUP, "a key head without values goes with its two query heads")
def onnx_attention_groups() -> Net:
    return attention("Attention", keys=2, zero_v=columns(6, 1), claim=columns(6, 2, 3))


@TRAPS.add(GROUP + 50, "both query heads of a key head are unread, each has a mask")
def onnx_attention_groups_mask() -> Net:
    return attention("Attention", keys=2, unread=columns(6, 0, 1), mask=4)


@TRAPS.add(None, "one of the two query heads of a key head is unread: the other one needs the key head")
def onnx_attention_half_group() -> Net:
    return attention("Attention", keys=2, unread=columns(6, 1))


@TRAPS.add(PER_HEAD, "causal, softcap")
def onnx_attention_causal() -> Net:
    return attention("Attention", zero_v=columns(6, 3), is_causal=1, softcap=2.0)


@TRAPS.add(PER_HEAD, "heads on an axis of their own")
def onnx_attention_four() -> Net:
    return attention("Attention", zero_v=columns(6, 1), four=True)


@TRAPS.add(GROUP + 50, "heads on an axis of their own, two to a key head, with masks")
def onnx_attention_four_groups() -> Net:
    return attention("Attention", keys=2, zero_v=columns(6, 1), four=True, mask=4)


@TRAPS.add(4 * (V_COLUMNS + QK_COLUMNS), "the same column of all heads")
def onnx_attention_four_columns() -> Net:
    return attention("Attention", zero_v=(0, 6, 12, 18), zero_q=(1, 7, 13, 19), four=True)


@TRAPS.add(PER_HEAD, "values of 0.5: without a mask the weights sum to one, so it comes out, and folds into the bias")
def onnx_attention_constant_values() -> Net:
    net = Net(opset=23, ir_version=10)
    x = net.input("x", (2, 5, 8))
    q, k = (dense(net, x, 8, 24) for _ in range(2))
    v = dense(net, x, 8, 24, constant=dict.fromkeys(columns(6, 1), 0.5))
    t = net.known(net.op("Attention", q, k, v, q_num_heads=4, kv_num_heads=4), columns(6, 1), axis=2)
    return shaped(net, dense(net, t, 24, 8), 2, 5, 8)


@TRAPS.add(None, "the same with a mask that leaves a query no key: it answers with zeros, so the values are read")
def onnx_attention_constant_values_masked() -> Net:
    net = Net(opset=24, ir_version=11)
    x = net.input("x", (2, 5, 8))
    q, k = (dense(net, x, 8, 24) for _ in range(2))
    v = dense(net, x, 8, 24, constant=dict.fromkeys(columns(6, 1), 0.5))
    mask = np.ones((5, 5), bool)
    mask[2] = False
    t = net.op("Attention", q, k, v, net.const(mask), q_num_heads=4, kv_num_heads=4)
    return shaped(net, dense(net, t, 24, 8), 2, 5, 8)


@TRAPS.add(None, "scores are an output, so every head stays")
def onnx_attention_scores_read() -> Net:
    net = attention("Attention", zero_v=columns(6, 1))
    node = next(n for n in net.nodes if n.op_type == "Attention")
    node.output.extend(["", "", "scores"])
    return net.output("scores")


@TRAPS.add(8 * (4 * 9 + 2 * 8), "a key head without values goes with its two query heads")
def group_query_attention() -> Net:
    return attention("GroupQueryAttention", keys=2, width=8, zero_v=columns(8, 1))


@TRAPS.add(16 * (4 * 9 + 2 * 8), "with rotary embeddings; causal")
def group_query_attention_rotary() -> Net:
    return attention("GroupQueryAttention", keys=2, width=16, unread=columns(16, 0, 1), do_rotary=1)


@TRAPS.add(None, "rotary embeddings mix the columns of a head, so no column goes alone")
def group_query_attention_columns() -> Net:
    return attention("GroupQueryAttention", keys=2, width=16, zero_k=(0, 16), do_rotary=1)


@TRAPS.add(8 * (4 * 9 + 2 * 8), "queries, keys and values in one tensor")
def group_query_attention_packed() -> Net:
    net = Net()
    # four query heads, two key heads, two of values: the second key head's values are zero
    t = dense(net, net.input("x", (2, 5, 8)), 8, 64, zero=range(56, 64))
    t = net.op(
        *("GroupQueryAttention", t, "", "", "", "", int32(net, [4, 4]), int32(net, 5)),
        **{"domain": MS, "num_heads": 4, "kv_num_heads": 2},
    )
    return shaped(net, dense(net, t, 32, 8), 2, 5, 8)


def biased(zero_q=(), zero_v=(), bias_on_dead: float = 0.0) -> Net:
    """MultiHeadAttention with the biases of the projections inside."""
    net = Net()
    x = net.input("x", (2, 5, 8))
    q, k, v = (dense(net, x, 8, 24, zero=zero, bias=False) for zero in (zero_q, (), zero_v))
    bias = net.normal(72)
    bias[[*zero_q, *(48 + column for column in zero_v)]] = bias_on_dead
    t = net.op("MultiHeadAttention", q, k, v, net.const(bias), domain=MS, num_heads=4)
    return shaped(net, dense(net, t, 24, 8), 2, 5, 8)


@TRAPS.add(2 * PER_HEAD, "the biases are inside")
def multi_head_attention_bias() -> Net:
    return biased(zero_v=columns(6, 1, 2))


@TRAPS.add(4 * 2 * QK_COLUMNS, "columns of the queries, biases inside")
def multi_head_attention_bias_columns() -> Net:
    return biased(zero_q=UNEVEN)


@TRAPS.add(None, "columns of the queries have a bias, so they make scores")
def multi_head_attention_bias_alive() -> Net:
    return biased(zero_q=UNEVEN, bias_on_dead=0.5)


def packed(
    zero_q=(), zero_k=(), zero_v=(), unread=(), dead=(), constant=(), *, depth: int = 6, mask: int = 0, **attributes
) -> Net:
    """[2, 5, 8] -> MatMul(8, 10) -> Add -> Relu -> Attention of com.microsoft, 4 heads of 6 -> MatMul -> Add."""
    net = Net()
    t = dense(net, net.input("x", (2, 5, 8)), 8, 10, zero=dead, constant=dict.fromkeys(constant, 0.7))
    t = net.op("Relu", t)
    size = 48 + 4 * depth
    weight, bias = net.normal(10, size, scale=0.4), net.normal(size)
    cut = [*zero_q, *(24 + column for column in zero_k), *(48 + column for column in zero_v)]
    weight[:, cut], bias[cut] = 0, 0
    operands = ["", "", net.const(net.normal(1, mask, 5, 5))] if mask else []
    if depth != 6:
        attributes["qkv_hidden_sizes"] = [24, 24, 4 * depth]
    t = net.op("Attention", t, net.const(weight), net.const(bias), *operands, domain=MS, num_heads=4, **attributes)
    if zero_v:
        net.known(t, zero_v, axis=2)
    return shaped(net, dense(net, t, 4 * depth, 8, unread=unread), 2, 5, 8)


PACKED_HEAD = 6 * (3 * 11 + 8)


@TRAPS.add(2 * PACKED_HEAD, "heads whose values are zero, in the packed weight and bias")
def packed_attention() -> Net:
    return packed(zero_v=columns(6, 1, 3))


@TRAPS.add(PACKED_HEAD, "an unread head")
def packed_attention_unread_head() -> Net:
    return packed(unread=columns(6, 0))


@TRAPS.add(4 * (9 + 72), "input features that are zero, or constant: these fold into the bias")
def packed_attention_features() -> Net:
    return packed(dead=(1, 4), constant=(2, 7))


@TRAPS.add(4 * 2 * (11 + 8), "columns of the values: the sizes of queries and values differ then")
def packed_attention_value_columns() -> Net:
    return packed(zero_v=UNEVEN)


@TRAPS.add(4 * 2 * 22, "columns of queries and keys: the scale is that of before")
def packed_attention_score_columns() -> Net:
    return packed(zero_q=UNEVEN[::2], zero_k=UNEVEN[1::2])


@TRAPS.add(4 * 2 * 22, "columns of queries, with a scale and sizes that are given: the sizes follow")
def packed_attention_score_columns_given() -> Net:
    return packed(zero_q=UNEVEN, depth=3, scale=0.3)


@TRAPS.add(2 * 6 * 11 + 3 * (11 + 8), "values have a size of their own")
def packed_attention_sizes() -> Net:
    return packed(zero_v=columns(3, 1), depth=3)


@TRAPS.add(PACKED_HEAD + 25, "a bias of the scores for each head, a scale")
def packed_attention_mask() -> Net:
    return packed(zero_v=columns(6, 1), mask=4, scale=0.3)


def rotary(domain: str, four: bool) -> Net:
    """Queries and keys are rotated before the attention; a head has no values."""
    net = Net(opset=23, ir_version=10)
    x = net.input("x", (2, 5, 8))
    q, k, v = (dense(net, x, 8, 24, zero=zero) for zero in ((), (), columns(6, 1)))
    angles = np.arange(5)[:, None] * np.linspace(0.1, 1, 3)
    caches = [net.const(np.cos(angles)), net.const(np.sin(angles))]
    positions = net.const(np.arange(5)[None].repeat(2, 0))

    def rotated(t: str) -> str:
        operands = [positions, *caches] if domain else [*caches, positions]
        if four:
            t = net.op("Transpose", net.op("Reshape", t, net.const([2, 5, 4, 6])), perm=[0, 2, 1, 3])
        t = net.op("RotaryEmbedding", t, *operands, domain=domain, **({} if domain or four else {"num_heads": 4}))
        return net.op("Reshape", net.op("Transpose", t, perm=[0, 2, 1, 3]), net.const([2, 5, 24])) if four else t

    t = net.op("Attention", rotated(q), rotated(k), v, q_num_heads=4, kv_num_heads=4)
    return shaped(net, dense(net, t, 24, 8), 2, 5, 8)


@TRAPS.add(PER_HEAD, "rotary embeddings")
def rotary_embedding() -> Net:
    return rotary("", False)


@TRAPS.add(PER_HEAD, "rotary embeddings, heads on an axis of their own")
def rotary_embedding_four() -> Net:
    return rotary("", True)


@TRAPS.add(PER_HEAD, "rotary embeddings of com.microsoft: the cache says how large a head is")
def rotary_embedding_contrib() -> Net:
    return rotary(MS, False)


# --- normalizations, movements, pools


@TRAPS.add(6 * (8 + 1 + 8), "a block between two sums that are normalized; the sum is read as well")
def skip_layer_normalization() -> Net:
    net = Net()
    x = net.input("x", (2, 5, 8))
    scale, bias = net.const(net.normal(8) + 2), net.const(net.normal(8))
    t = net.op("SkipLayerNormalization", x, dense(net, x, 8, 8), scale, bias, count=4, domain=MS, epsilon=1e-5)
    net.nodes[-1].output[1:3] = ["", ""]
    inner = net.known(net.op("Gelu", dense(net, t, 8, 16, zero=UNITS), domain=MS), UNITS, axis=2)
    t = net.op("SkipSimplifiedLayerNormalization", dense(net, inner, 16, 8), f"{t}:3", scale, domain=MS)
    return shaped(net, t, 2, 5, 8)


@TRAPS.add(chain_cut(4), "positions are sampled, channels pass")
def contrib_grid_sample() -> Net:
    def middle(net: Net, t: str) -> str:
        grid = net.const(net.rng.uniform(-0.9, 0.9, (2, 8, 8, 2)))
        return net.op("GridSample", t, grid, domain=MS)

    return chain(middle)


def crops(value: float) -> Net:
    """Boxes of the feature map; one reaches outside."""

    def middle(net: Net, t: str) -> str:
        boxes = net.const(np.array([[0.0, 0.0, 1.0, 1.0], [0.2, 0.1, 0.7, 1.3]]))
        where, size = int32(net, [0, 1]), int32(net, [8, 8])
        return net.op("CropAndResize", t, boxes, where, size, domain=MS, extrapolation_value=value)

    return chain(middle, still_known=value == 0)


@TRAPS.add(chain_cut(4), "crops of images, zero outside")
def contrib_crop_and_resize() -> Net:
    return crops(0.0)


@TRAPS.add(None, "outside of the image there are ones: a zero channel is none any more")
def contrib_crop_and_resize_filled() -> Net:
    return crops(1.0)


@TRAPS.add(chain_cut(4), "Pad with zeros")
def contrib_pad() -> Net:
    return chain(lambda net, t: net.op("Pad", t, net.const([0, 0, 1, 1, 0, 0, 1, 1]), domain=MS))


@TRAPS.add(chain_cut(4), "a dimension of one, and away again")
def contrib_expand_dims() -> Net:
    def middle(net: Net, t: str) -> str:
        t = net.op("ExpandDims", t, int32(net, -1), domain=MS)
        return net.op("Squeeze", t, net.const([4]))

    return chain(middle)


# --- next to nothing


@TRAPS.add(chain_cut(4), "filters that weight decay left at 1e-20, in front of a Relu", negligible=True)
def fused_conv_negligible() -> Net:
    net = Net()
    array, bias = net.filters(3, 8, 3), net.normal(8)
    array[list(DEAD)] *= 1e-20
    bias[list(DEAD)] = 0
    net.op("Conv", net.input("x", SHAPE), net.const(array), net.const(bias), pads=[1] * 4, kernel_shape=[3, 3])
    return net.output(net.conv(fuse(net, "Relu"), 8, 4, name="y"))


@TRAPS.add(chain_cut(3), "Sigmoid of a bias of -30 is next to nothing, the bias is not: a carrier", negligible=True)
def fused_conv_low_sigmoid() -> Net:
    net = Net()
    net.conv(net.input("x", SHAPE), 3, 8, constant=dict.fromkeys(DEAD, -30.0))
    return net.output(net.conv(fuse(net, "Sigmoid"), 8, 4, name="y"))


@TRAPS.add(PACKED_HEAD, "a head whose values are next to nothing", negligible=True)
def packed_attention_negligible() -> Net:
    net = packed(zero_v=columns(6, 1))
    net.claims.clear()
    weight = net.initializers[2]
    array = numpy_helper.to_array(weight).copy()
    array[:, 48 + 6 : 48 + 12] = 1e-20 * net.normal(10, 6)
    weight.CopyFrom(numpy_helper.from_array(array.astype(np.float32), weight.name))
    return net
