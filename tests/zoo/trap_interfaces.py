"""Traps: several readers, shared weights, graph outputs, inputs with defaults, sub-graphs, names and metadata."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper

from .net import Net
from .trap import DEAD, Family, chain, chain_cut, conv_size

TRAPS = Family()

SHAPE = (2, 3, 8, 8)


# --- readers


def readers(unread_a=(), unread_b=(), zero=(), unread=()) -> Net:
    """Conv(3, 8) -> Relu -> two Convs(8, 4), both outputs."""
    net = Net()
    t = net.op("Relu", net.conv(net.input("x", SHAPE), 3, 8, zero=zero))
    if zero:
        net.known(t, zero)
    if unread:
        net.unread(t, unread)
    return net.output(net.conv(t, 8, 4, unread=unread_a, name="y"), net.conv(t, 8, 4, unread=unread_b, name="z"))


@TRAPS.add(4 * (28 + 36 + 36), "two readers of zero channels")
def two_consumers() -> Net:
    return readers(zero=DEAD)


@TRAPS.add(chain_cut(4), "no filter of the only reader looks at four channels")
def dead_by_consumer() -> Net:
    return chain(lambda net, t: net.op("Relu", t), zero=(), unread=DEAD)


@TRAPS.add(0, "one of two readers does not look, the other does")
def dead_by_one_of_two_consumers() -> Net:
    return readers(unread_a=DEAD)


@TRAPS.add(2 * (28 + 36 + 36), "two readers that ignore different channels: the common two go")
def readers_ignore_different_channels() -> Net:
    return readers((0, 1, 2, 3), (2, 3, 4, 5), unread=(2, 3))


@TRAPS.add(2 * (28 + 36 + 36), "zero for both, plus unread by both")
def readers_zero_and_unread() -> Net:
    return readers((5,), (5,), zero=(2,), unread=(5,))


@TRAPS.add(conv_size(3, 8) + conv_size(8, 8) - conv_size(3, 4) - conv_size(4, 4) + 4 * 36, "unread through two layers")
def dead_chain() -> Net:
    """The second Conv's channels DEAD are unread; only their filters look at channels 0, 2, 5, 7 of the first."""
    net = Net()
    first = net.op("Relu", net.unread(net.conv(net.input("x", SHAPE), 3, 8), (0, 2, 5, 7)))
    weight = net.filters(8, 8, 3)
    live = [channel for channel in range(8) if channel not in DEAD]
    weight[np.ix_(live, [0, 2, 5, 7])] = 0
    second = net.op("Conv", first, net.const(weight), net.const(net.normal(8)), pads=[1, 1, 1, 1])
    return net.output(net.conv(net.unread(second, DEAD), 8, 4, unread=DEAD, name="y"))


# --- shared weights


def shared(zero_p, zero_q, what: str = "weight") -> Net:
    """Two Convs(3, 8), then two Convs(8, 4) that share their weight (or bias)."""
    net = Net()
    x = net.input("x", SHAPE)
    p, q = (net.known(net.conv(x, 3, 8, zero=zero), zero) for zero in (zero_p, zero_q))
    name = net.const(net.filters(8, 4, 3) if what == "weight" else net.normal(4))
    options = {"weight": name} if what == "weight" else {"bias_name": name}
    return net.output(net.op("Add", net.conv(p, 8, 4, **options), net.conv(q, 8, 4, **options), name="y"))


@TRAPS.add(2 * 4 * 28 - 4, "one weight read by two Convs with different masks: it becomes two")
def shared_weight() -> Net:
    return shared((0, 1, 2, 3), (2, 3, 4, 5))


@TRAPS.add(2 * 4 * 28 + 4 * 36, "one weight read by two Convs with the same mask: it stays one")
def shared_weight_same_mask() -> Net:
    return shared(DEAD, DEAD)


@TRAPS.add(2 * 4 * 64, "a shared bias that need not change")
def shared_bias() -> Net:
    return shared((0, 1, 2, 3), (2, 3, 4, 5), "bias")


@TRAPS.add(6 * (28 + 36) + 4 * (8 - 4 - 6), "one BatchNormalization for two layers with different masks")
def shared_batch_norm() -> Net:
    net = Net()
    x = net.input("x", SHAPE)
    values = [net.const(array) for array in (net.rng.uniform(0.5, 1.5, 8), np.zeros(8), np.zeros(8), np.ones(8))]
    sums = []
    for zero in ((0, 1, 2, 3), (4, 5)):
        t = net.op("BatchNormalization", net.conv(x, 3, 8, zero=zero), *values)
        sums.append(net.conv(net.known(t, zero), 8, 4))
    return net.output(net.op("Add", *sums, name="y"))


# --- outputs


@TRAPS.add(0, "the middle tensor is itself an output")
def also_graph_output() -> Net:
    net = chain(lambda net, t: net.op("Relu", t, name="mid"))
    return net.output("mid")


@TRAPS.add(0, "the tensor before the ReLU is an output")
def also_graph_output_before() -> Net:
    net = chain(lambda net, t: net.op("Relu", t))
    return net.output(net.nodes[1].output[0])


@TRAPS.add(None, "a copy of the tensor is an output")
def output_through_identity() -> Net:
    net = chain(lambda net, t: net.op("Relu", t, name="mid"))
    net.op("Identity", "mid", name="copy")
    return net.output("copy")


@TRAPS.add(chain_cut(4), "a copy of the input is an output as well")
def output_of_input() -> Net:
    net = chain(lambda net, t: net.op("Relu", t))
    net.op("Identity", "x", name="same")
    return net.output("same")


@TRAPS.add(None, "a weight that is also visible at the output")
def weight_is_output() -> Net:
    net = chain(lambda net, t: net.op("Relu", t))
    net.op("Identity", net.nodes[1].input[1], name="weights")
    return net.output("weights")


@TRAPS.add(chain_cut(4), "nodes that lead nowhere, an initializer that nobody reads")
def unreachable_nodes() -> Net:
    net = chain(lambda net, t: net.op("Relu", t, name="mid"))
    net.op("GlobalAveragePool", net.conv("mid", 8, 8))
    net.const(net.normal(3), "unused")
    return net


# --- inputs with defaults


@TRAPS.add(chain_cut(4), "IR 3 lists every initializer as an input")
def ir3_initializers_as_inputs() -> Net:
    net = chain(lambda net, t: net.op("Relu", t), ir_version=3, opset=8)
    net.list_initializers_as_inputs = True
    return net


@TRAPS.add(chain_cut(3), "IR 3 with a carrier")
def ir3_constant() -> Net:
    net = chain(lambda net, t: net.op("Sigmoid", t), ir_version=3, opset=8)
    net.list_initializers_as_inputs = True
    return net


@TRAPS.add(chain_cut(4), "from IR 4 on these are defaults that a caller could override", drops_default_inputs=True)
def default_inputs() -> Net:
    net = chain(lambda net, t: net.op("Relu", t))
    net.list_initializers_as_inputs = True
    return net


# --- sub-graphs and other domains


def conditional(read_outer: bool) -> Net:
    """If over two branches; with `read_outer` they read the middle tensor, otherwise only the output of the chain."""
    net = chain(lambda net, t: net.op("Relu", t, name="mid"))
    outer = "mid" if read_outer else "y"
    branches = {}
    for branch, scale in (("then_branch", 2.0), ("else_branch", -1.0)):
        factor = helper.make_tensor(f"{branch}_factor", TensorProto.FLOAT, [], [scale])
        body = [
            helper.make_node("Constant", [], [f"{branch}_k"], name=f"{branch}_constant", value=factor),
            helper.make_node("Mul", [outer, f"{branch}_k"], [f"{branch}_out"], name=f"{branch}_mul"),
        ]
        out = helper.make_tensor_value_info(f"{branch}_out", TensorProto.FLOAT, None)
        branches[branch] = helper.make_graph(body, branch, [], [out])
    net.input("flag", (), np.bool_)
    last = net.op("If", "flag", name="result", **branches)
    if read_outer:
        net.outputs = [net.op("Add", net.op("ReduceSum", last, net.const([1, 2, 3]), keepdims=1), "y", name="z")]
    else:
        net.outputs = [net.op("Identity", last, name="z")]
    return net


@TRAPS.add(None, "both branches of an If read a tensor from outside")
def if_reads_outer() -> Net:
    return conditional(True)


@TRAPS.add(chain_cut(4), "the If reads the output of the chain only")
def if_after_chain() -> Net:
    return conditional(False)


@TRAPS.add(None, "an operator of another domain between the Convs")
def contrib_operator() -> Net:
    return chain(lambda net, t: net.op("Gelu", t, domain="com.microsoft"))


@TRAPS.add(chain_cut(4), "an operator of another domain elsewhere")
def contrib_operator_elsewhere() -> Net:
    net = chain(lambda net, t: net.op("Relu", t))
    net.outputs = [net.op("Gelu", "y", domain="com.microsoft", name="z")]
    return net


@TRAPS.add(None, "a function that is local to the model between the Convs: 2 x + 1 of a zero channel")
def local_function() -> Net:
    net = chain(lambda net, t: net.op("Affine", t, domain="local"))
    body = [
        helper.make_node("Constant", [], ["two"], value_float=2.0),
        helper.make_node("Constant", [], ["one"], value_float=1.0),
        helper.make_node("Mul", ["a", "two"], ["double"]),
        helper.make_node("Add", ["double", "one"], ["b"]),
    ]
    net.functions.append(helper.make_function("local", "Affine", ["a"], ["b"], body, [helper.make_opsetid("", 17)]))
    return net


# --- names and metadata


@TRAPS.add(chain_cut(4), "stale shapes in value_info")
def value_info_kept() -> Net:
    net = chain(lambda net, t: net.op("Relu", t))
    net.keep_value_info = True
    return net


@TRAPS.add(chain_cut(3), "metadata, documentation and nameless nodes")
def metadata_and_nameless_nodes() -> Net:
    net = chain(lambda net, t: net.op("Sigmoid", t))
    net.metadata = {"author": "zoo", "labels": "a,b"}
    for node in net.nodes:
        node.name, node.doc_string = "", f"documentation of {node.op_type}"
    return net


@TRAPS.add(chain_cut(3), "names with slashes, colons and spaces, and names that a tool could make up")
def strange_names() -> Net:
    net = chain(lambda net, t: net.op("Sigmoid", t))
    renamed = {net.initializers[0].name: "conv/kernel:0 (1)", net.initializers[1].name: "y_bias"}
    renamed |= {net.initializers[2].name: "onnxshrink_carrier", net.initializers[3].name: "y_weight"}
    for tensor in net.initializers:
        tensor.name = renamed.get(tensor.name, tensor.name)
    for index, node in enumerate(net.nodes):
        for position, name in enumerate(node.input):
            node.input[position] = renamed.get(name, name)
        node.name = f"{node.op_type}/: {index} y_weight"
    return net
