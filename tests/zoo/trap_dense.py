"""Traps: Gemm and MatMul, attention, normalizations, squeeze-and-excitation, recurrent layers, quantizers."""

from __future__ import annotations

import numpy as np

from .net import Net
from .trap import DEAD, Family, chain, chain_cut

TRAPS = Family()

BETA = {1: 0.5, 3: 0.7, 4: 0.3, 6: 0.9}
SHAPE = (2, 3, 8, 8)


# --- Gemm and MatMul


def pooled(tail) -> Net:
    """Conv(3, 8) with four zero channels -> `tail(net, t)`, which returns the output."""
    net = Net()
    t = net.known(net.conv(net.input("x", SHAPE), 3, 8, zero=DEAD), DEAD)
    return net.output(tail(net, net.op("Relu", t)))


def gemm(net: Net, t: str, cin: int, cout: int, *, zero=(), bias=None, **attributes) -> str:
    """A Gemm; transA and transB are honoured in the layout of its operands. `bias`: output -> bias, filter zero."""
    weight, values = net.normal(cin, cout, scale=cin**-0.5), net.normal(cout)
    dead = [*zero, *(bias or {})]
    weight[:, dead], values[dead] = 0, 0
    for column, value in (bias or {}).items():
        values[column] = value
    weight = weight.T if attributes.get("transB") else weight
    return net.op("Gemm", t, net.const(weight), net.const(values), **attributes)


@TRAPS.add(4 * (28 + 10), "GlobalAveragePool -> Flatten -> Gemm")
def gap_flatten_gemm() -> Net:
    return pooled(lambda net, t: gemm(net, net.op("Flatten", net.op("GlobalAveragePool", t)), 8, 10))


@TRAPS.add(4 * (28 + 10), "the mean over H and W, without keeping them")
def reducemean_spatial_gemm() -> Net:
    return pooled(lambda net, t: gemm(net, net.op("ReduceMean", t, axes=[2, 3], keepdims=0), 8, 10, transB=1))


@TRAPS.add(4 * (28 + 10), "axes as an input since opset 18, negative")
def reducemean_axes_input() -> Net:
    net = pooled(lambda net, t: gemm(net, net.op("ReduceMean", t, net.const([-1, -2]), keepdims=0), 8, 10))
    net.opset = 18
    return net


@TRAPS.add(4 * (28 + 10), "transA: the features are rows")
def gemm_trans_a() -> Net:
    def tail(net: Net, t: str) -> str:
        t = net.op("Transpose", net.op("Flatten", net.op("GlobalAveragePool", t)), perm=[1, 0])
        return gemm(net, t, 8, 10, transA=1, transB=1, alpha=0.5, beta=2.0)

    return pooled(tail)


@TRAPS.add(4 * (28 + 10), "the weight of the Gemm is an initializer that is reshaped in the graph; constants fold")
def gemm_reshaped_weight() -> Net:
    net = Net()
    constant = {1: 0.5, 3: 0.7, 4: -0.3, 6: 0.9}
    t = net.known(net.conv(net.input("x", SHAPE), 3, 8, constant=constant), constant)
    t = net.op("Flatten", net.op("GlobalAveragePool", t))
    weight = net.op("Reshape", net.const(net.normal(10, 8, 1, 1)), net.const([10, 8]))
    return net.output(net.op("Gemm", t, weight, net.const(net.normal(10)), transB=1))


def mlp(op_bias=None, zero=(0, 2, 5, 9), activation: str = "Relu", dtype: type = np.float32, **attributes) -> Net:
    """[4, 6] -> Gemm(6, 12) -> activation -> Gemm(12, 5)."""
    net = Net(dtype=dtype)
    t = gemm(net, net.input("x", (4, 6)), 6, 12, zero=[] if op_bias else zero, bias=op_bias, transB=1)
    t = net.known(net.op(activation, net.known(t, zero)), zero)
    return net.output(gemm(net, t, 12, 5, **attributes))


MLP_UNIT = 6 + 1 + 5


@TRAPS.add(4 * MLP_UNIT, "hidden units without weights")
def gemm_mlp() -> Net:
    return mlp()


@TRAPS.add(4 * MLP_UNIT, "float64 (ONNX Runtime has no Conv in it)")
def gemm_mlp_double() -> Net:
    return mlp(dtype=np.float64)


@TRAPS.add(4 * MLP_UNIT, "constant hidden units fold into the bias, times beta of the Gemm")
def gemm_mlp_constant() -> Net:
    return mlp({0: 0.5, 2: 1.0, 5: 0.25, 9: 2.0}, alpha=2.0, beta=0.5)


@TRAPS.add(4 * MLP_UNIT, "Sigmoid makes them 0.5, which folds")
def gemm_mlp_sigmoid() -> Net:
    return mlp(activation="Sigmoid")


@TRAPS.add(7 * (28 + 6), "only channel 0 is read by the Gemm")
def gemm_unread() -> Net:
    net = Net()
    t = net.conv(net.input("x", SHAPE), 3, 8)
    t = net.unread(net.op("Flatten", net.op("GlobalAveragePool", t)), range(1, 8))
    weight = net.normal(8, 6)
    weight[1:] = 0
    return net.output(net.op("Gemm", t, net.const(weight), net.const(net.normal(6))))


def ffn(activation: str = "Relu", constant: bool = False, last_bias: bool = True, opset: int = 17) -> Net:
    """[2, 5, 8] -> MatMul(8, 16) -> Add -> activation -> MatMul(16, 8) [-> Add]; six hidden units are dead."""
    dead = (0, 3, 4, 9, 11, 15)
    net = Net(opset=opset)
    first, bias = net.normal(8, 16, scale=8**-0.5), net.normal(16)
    first[:, dead], bias[list(dead)] = 0, np.linspace(0.2, 1.2, 6) if constant else 0
    t = net.op("Add", net.op("MatMul", net.input("x", (2, 5, 8)), net.const(first)), net.const(bias))
    t = net.known(net.op(activation, t), dead, axis=2)
    t = net.op("MatMul", t, net.const(net.normal(16, 8, scale=0.25)))
    return net.output(net.op("Add", net.const(net.normal(8)), t) if last_bias else t)


@TRAPS.add(6 * (8 + 1 + 8), "a feed-forward block of a transformer; the biases are Adds")
def ffn_matmul() -> Net:
    return ffn()


@TRAPS.add(6 * (8 + 1 + 8), "with Gelu")
def ffn_gelu() -> Net:
    return ffn("Gelu", opset=20)


@TRAPS.add(5 * (8 + 1 + 8), "constant hidden units: a carrier at most")
def ffn_constant() -> Net:
    return ffn(constant=True)


@TRAPS.add(5 * (8 + 1 + 8), "and no bias after the second MatMul")
def ffn_constant_no_bias() -> Net:
    return ffn(constant=True, last_bias=False)


@TRAPS.add(5 * (8 + 1 + 8), "Sigmoid of zero hidden units: a carrier at most")
def ffn_sigmoid() -> Net:
    return ffn("Sigmoid")


def attention(zero_v=(), zero_q=(), unread_out=()) -> Net:
    """Self-attention over [2, 5, 16]: four heads of four, projections with bias, Reshape, Transpose, MatMul."""
    net = Net()
    x = net.input("x", (2, 5, 16))

    def projection(t: str, zero=()) -> str:
        weight, bias = net.normal(16, 16, scale=0.25), net.normal(16)
        weight[:, list(zero)], bias[list(zero)] = 0, 0
        t = net.op("Add", net.op("MatMul", t, net.const(weight)), net.const(bias))
        return net.known(t, zero, axis=2) if zero else t

    def heads(t: str, perm) -> str:
        return net.op("Transpose", net.op("Reshape", t, net.const([2, 5, 4, 4])), perm=perm)

    q, k, v = projection(x, zero_q), projection(x), projection(x, zero_v)
    scores = net.op("MatMul", heads(q, [0, 2, 1, 3]), heads(k, [0, 2, 3, 1]))
    weights = net.op("Softmax", net.op("Mul", scores, net.const(0.5)), axis=-1)
    context = net.op("Transpose", net.op("MatMul", weights, heads(v, [0, 2, 1, 3])), perm=[0, 2, 1, 3])
    context = net.op("Reshape", context, net.const([2, 5, 16]))
    weight = net.normal(16, 16, scale=0.25)
    if unread_out:
        weight[list(unread_out)] = 0
        net.unread(context, unread_out, axis=2)
    return net.output(net.op("MatMul", context, net.const(weight)))


HEAD = tuple(range(8, 12))
HEAD_DIMENSION = (2, 6, 10, 14)


@TRAPS.add(3 * 4 * 17 + 4 * 16, "a head whose values are zero: q, k, v and its rows of the output go")
def attention_dead_head() -> Net:
    return attention(zero_v=HEAD)


@TRAPS.add(3 * 4 * 17 + 4 * 16, "a head that the output projection does not read")
def attention_unread_head() -> Net:
    return attention(unread_out=HEAD)


@TRAPS.add(4 * 17 + 4 * 16, "the same value dimension of every head is zero")
def attention_dead_value_dimension() -> Net:
    return attention(zero_v=HEAD_DIMENSION)


@TRAPS.add(2 * 4 * 17, "a query dimension that is zero in every head makes the key dimension unread")
def attention_dead_query_dimension() -> Net:
    return attention(zero_q=HEAD_DIMENSION)


@TRAPS.add(None, "zero value dimensions at different places in the heads: the grid has no free row")
def attention_dead_values_off_grid() -> Net:
    return attention(zero_v=(0, 5, 10, 15))


@TRAPS.add(4 * (28 + 28), "both operands of a MatMul are computed: a zero contraction index on one side is enough")
def matmul_two_variables() -> Net:
    net = Net()
    x = net.input("x", SHAPE)
    p, q = net.conv(x, 3, 8, zero=(0, 1)), net.conv(x, 3, 8, zero=(6, 7))
    p, q = (net.op("Reshape", t, net.const([2, 8, 64])) for t in (p, q))
    net.known(p, (0, 1))
    net.known(q, (6, 7))
    return net.output(net.op("MatMul", net.op("Transpose", p, perm=[0, 2, 1]), q))


@TRAPS.add(None, "Einsum as a 1x1 Conv")
def einsum_channels() -> Net:
    def tail(net: Net, t: str) -> str:
        return net.op("Einsum", t, net.const(net.normal(4, 8)), equation="nchw,oc->nohw")

    return pooled(tail)


# --- normalizations


def instance_norm(bias_on_dead: float) -> Net:
    def middle(net: Net, t: str) -> str:
        scale, bias = net.normal(8) + 2, net.normal(8)
        bias[list(DEAD)] = bias_on_dead
        return net.op("InstanceNormalization", t, net.const(scale), net.const(bias))

    return chain(middle)


@TRAPS.add(4 * (64 + 2), "a zero channel normalizes to its bias, which is zero", name="instancenorm")
def instancenorm_zero_bias() -> Net:
    return instance_norm(0.0)


@TRAPS.add(3 * (64 + 2), "a zero channel normalizes to its bias: a carrier")
def instancenorm_bias() -> Net:
    return instance_norm(0.7)


@TRAPS.add(None, "GroupNormalization mixes channels of a group")
def groupnorm() -> Net:
    def middle(net: Net, t: str) -> str:
        scale, bias = net.const(net.normal(8) + 2), net.const(net.normal(8))
        return net.op("GroupNormalization", t, scale, bias, num_groups=2)

    return chain(middle, opset=21, ir_version=10, still_known=False)


@TRAPS.add(None, "the same, written as Reshape, InstanceNormalization, Reshape, Mul, Add")
def groupnorm_decomposed() -> Net:
    def middle(net: Net, t: str) -> str:
        flat = net.op("Reshape", t, net.const([0, 2, -1]))
        flat = net.op("InstanceNormalization", flat, net.const(np.ones(2)), net.const(np.zeros(2)))
        t = net.op("Reshape", flat, net.op("Shape", t))
        return net.op("Add", net.op("Mul", t, net.const(net.normal(8, 1, 1))), net.const(net.normal(8, 1, 1)))

    return chain(middle, still_known=False)


def layer_norm(normalize, opset: int = 17) -> Net:
    """Channels last, as ConvNeXt does it."""

    def middle(net: Net, t: str) -> str:
        t = normalize(net, net.op("Transpose", t, perm=[0, 2, 3, 1]))
        return net.op("Transpose", t, perm=[0, 3, 1, 2])

    return chain(middle, still_known=False, opset=opset)


@TRAPS.add(None, "a zero channel is part of the mean and the variance over channels")
def layernorm_channels_last() -> Net:
    def normalize(net: Net, t: str) -> str:
        return net.op("LayerNormalization", t, net.const(net.normal(8) + 2), net.const(net.normal(8)), axis=-1)

    return layer_norm(normalize)


@TRAPS.add(None, "the same, decomposed")
def layernorm_decomposed() -> Net:
    def normalize(net: Net, t: str) -> str:
        centered = net.op("Sub", t, net.op("ReduceMean", t, axes=[-1], keepdims=1))
        variance = net.op("ReduceMean", net.op("Mul", centered, centered), axes=[-1], keepdims=1)
        return net.op("Div", centered, net.op("Sqrt", net.op("Add", variance, net.const(1e-5))))

    return layer_norm(normalize)


@TRAPS.add(None, "each channel is divided by a sum over its neighbours; a zero channel is a neighbour, too")
def lrn() -> Net:
    return chain(lambda net, t: net.op("LRN", t, size=3, alpha=0.5, beta=0.75))


@TRAPS.add(4 * 65, "one slope for each channel")
def prelu() -> Net:
    return chain(lambda net, t: net.op("PRelu", t, net.const(net.rng.uniform(0.1, 0.4, (8, 1, 1)))))


@TRAPS.add(4 * 64, "one slope for all channels")
def prelu_shared() -> Net:
    return chain(lambda net, t: net.op("PRelu", t, net.const(np.full((1, 1, 1), 0.25))))


# --- squeeze and excitation


def se_block(gate: str = "Sigmoid", closed=(), zero=DEAD) -> Net:
    """GlobalAveragePool -> 1x1 Conv(8, 4) -> Relu -> 1x1 Conv(4, 8) -> gate -> Mul; `closed` gates are 0."""

    def middle(net: Net, t: str) -> str:
        squeezed = net.op("Relu", net.conv(net.op("GlobalAveragePool", t), 8, 4, 1))
        scale = net.conv(squeezed, 4, 8, 1, constant=dict.fromkeys(closed, -10.0))
        options = {"alpha": 0.2, "beta": 0.5} if gate == "HardSigmoid" else {}
        return net.known(net.op("Mul", t, net.op(gate, scale, **options)), (*zero, *closed))

    return chain(middle, zero=zero, still_known=False)


SE_CHANNEL = 28 + 4 + 5 + 36


@TRAPS.add(4 * SE_CHANNEL, "the gate of a zero channel is unread", name="se_block")
def se_block_zero() -> Net:
    return se_block()


@TRAPS.add(4 * SE_CHANNEL, "HardSigmoid gates")
def se_block_hardsigmoid() -> Net:
    return se_block("HardSigmoid")


@TRAPS.add(0, "closed gates, HardSigmoid(-10) = 0: the squeeze still reads the channels that the Mul ties to them")
def se_block_closed_gates() -> Net:
    return se_block("HardSigmoid", closed=(2, 5), zero=())


# --- recurrent layers and quantizers: barriers


def recurrent(op_type: str, gates: int) -> Net:
    def tail(net: Net, t: str) -> str:
        t = net.op("Transpose", net.op("Reshape", t, net.const([2, 8, 64])), perm=[2, 0, 1])
        weights = [net.const(net.normal(1, gates * 5, size, scale=0.3)) for size in (8, 5)]
        return net.op(op_type, t, *weights, hidden_size=5)

    return pooled(tail)


@TRAPS.add(None, "zero features of an LSTM input")
def lstm_input() -> Net:
    return recurrent("LSTM", 4)


@TRAPS.add(None, "zero features of a GRU input")
def gru_input() -> Net:
    return recurrent("GRU", 3)


@TRAPS.add(None, "QuantizeLinear and DequantizeLinear per tensor, asymmetric: zero stays zero")
def qdq_tensor() -> Net:
    def middle(net: Net, t: str) -> str:
        scale, zero_point = net.const(0.05), net.const(np.array(100, np.uint8))
        quantized = net.op("QuantizeLinear", t, scale, zero_point)
        return net.op("DequantizeLinear", quantized, scale, zero_point)

    return chain(middle)


@TRAPS.add(None, "QuantizeLinear and DequantizeLinear per channel")
def qdq_channel() -> Net:
    def middle(net: Net, t: str) -> str:
        scale, zero_point = net.const(net.rng.uniform(0.03, 0.06, 8)), net.const(np.zeros(8, np.int8))
        quantized = net.op("QuantizeLinear", t, scale, zero_point, axis=1)
        return net.op("DequantizeLinear", quantized, scale, zero_point, axis=1)

    return chain(middle)


@TRAPS.add(chain_cut(4), "float -> double -> float")
def cast_there_and_back() -> Net:
    return chain(lambda net, t: net.op("Cast", net.op("Tanh", net.op("Cast", t, to=11)), to=1))
