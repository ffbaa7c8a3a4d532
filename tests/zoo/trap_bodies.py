"""Traps: bodies of If, Loop, Scan and SequenceMap, with dead channels inside and weights around them; functions.

The usual body is Conv(3, 8) -> activation -> Conv(8, width) with 3x3 kernels and biases; k dead channels in its middle
cost `double_cut(k, width)`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from onnx import FunctionProto, GraphProto, TensorProto, ValueInfoProto, helper

from .net import Net
from .trap import DEAD, Family, chain, chain_cut

TRAPS = Family()

SHAPE = (2, 3, 8, 8)

Build = Callable[[Net], Sequence[str]]


def double_cut(channels: int, width: int) -> int:
    return channels * (27 + 1 + 9 * width)


def double(net: Net, x: str, activation: str = "Relu", *, width: int = 4) -> str:
    return net.conv(net.op(activation, net.conv(x, 3, 8, zero=DEAD)), 8, width)


def value(name: str, shape: Sequence[int | None] | None = None, kind: int = TensorProto.FLOAT) -> ValueInfoProto:
    """A declared tensor; without a shape only its name is declared, as some exporters do in bodies."""
    return ValueInfoProto(name=name) if shape is None else helper.make_tensor_value_info(name, kind, shape)


def body(prefix: str, build: Build, inputs: Sequence[ValueInfoProto] = (), *, seed: int = 1) -> GraphProto:
    """A body, built by a Net of its own; every name that it defines gets the prefix.

    Args:
        prefix: makes its names unique.
        build: adds nodes, which may read outer tensors by name, and returns the outputs.
        inputs: what the body declares.
    """
    net = Net(seed=seed)
    outputs = build(net)
    own = {v.name for v in inputs} | {t.name for t in net.initializers} | {o for n in net.nodes for o in n.output}

    def renamed(name: str) -> str:
        return f"{prefix}_{name}" if name in own else name

    for node in net.nodes:
        node.name = f"{prefix}_{node.name}"
        node.input[:], node.output[:] = map(renamed, node.input), map(renamed, node.output)
    for item in (*net.initializers, *inputs):
        item.name = renamed(item.name)
    results = [value(renamed(name)) for name in outputs]
    return helper.make_graph(net.nodes, prefix, list(inputs), results, initializer=net.initializers)


def conditional(net: Net, then_build: Build, else_build: Build, name: str = "y") -> str:
    """An If on the input `flag`."""
    net.input("flag", (), np.bool_)
    branches = {"then_branch": body("then", then_build), "else_branch": body("else", else_build, seed=2)}
    return net.op("If", "flag", name=name, **branches)


# --- If


@TRAPS.add(double_cut(4, 4) + double_cut(3, 4), "weights inside both branches; one needs a carrier")
def if_weights_inside() -> Net:
    net = Net()
    x = net.input("x", SHAPE)
    return net.output(conditional(net, lambda b: [double(b, x)], lambda b: [double(b, x, "Sigmoid")]))


def weights_outside(net: Net, x: str) -> str:
    """`double`, and its initializers moved around it."""
    inner = Net(seed=5)
    last = double(inner, x)
    for tensor in inner.initializers:
        tensor.name = f"outer_{tensor.name}"
    for node in inner.nodes:
        node.input[1:] = [f"outer_{name}" for name in node.input[1:]]
    net.nodes += inner.nodes
    return last


def outer_weights(net: Net) -> None:
    """The initializers that `weights_outside` reads."""
    inner = Net(seed=5)
    double(inner, "x")
    for tensor in inner.initializers:
        tensor.name = f"outer_{tensor.name}"
        net.initializers.append(tensor)


@TRAPS.add(double_cut(4, 4), "the weights of a branch are initializers around the If")
def if_weights_outside() -> Net:
    net = Net()
    x = net.input("x", SHAPE)
    outer_weights(net)
    return net.output(conditional(net, lambda b: [weights_outside(b, x)], lambda b: [b.conv(x, 3, 4, 1)]))


@TRAPS.add(double_cut(4, 4), "the same as Constant nodes around the If")
def if_constants_outside() -> Net:
    net = if_weights_outside()
    constants = [helper.make_node("Constant", [], [t.name], value=t) for t in net.initializers]
    net.nodes[:0], net.initializers = constants, []
    return net


@TRAPS.add(4 * 28 - 4 * 36, "a layer and a branch share a weight, and only the layer's input has dead channels")
def if_shares_a_weight() -> Net:
    net = Net()
    x = net.input("x", SHAPE)
    first = net.op("Relu", net.known(net.conv(x, 3, 8, zero=DEAD), DEAD))
    weight = net.const(net.filters(8, 4, 3), "shared")
    last = net.conv(first, 8, 4, weight=weight)
    wide = net.op("Concat", x, x, net.op("Slice", x, net.const([0]), net.const([2]), net.const([1])), axis=1)
    chosen = conditional(net, lambda b: [b.conv(wide, 8, 4, weight=weight)], lambda b: [b.op("Neg", last)], "chosen")
    return net.output(net.op("Add", chosen, last, name="y"))


@TRAPS.add(4 * 28 - 4 * 36, "a layer and a branch share a weight, and only the branch's input has dead channels")
def if_shares_a_weight_that_it_cuts() -> Net:
    net = Net()
    x = net.input("x", SHAPE)
    wide = net.op("Concat", x, x, net.op("Slice", x, net.const([0]), net.const([2]), net.const([1])), axis=1)
    weight = net.const(net.filters(8, 4, 3), "shared")
    last = net.conv(wide, 8, 4, weight=weight)

    def then_build(b: Net) -> list[str]:
        return [b.conv(b.op("Relu", b.conv(x, 3, 8, zero=DEAD)), 8, 4, weight=weight)]

    chosen = conditional(net, then_build, lambda b: [b.op("Neg", last)], "chosen")
    return net.output(net.op("Add", chosen, last, name="y"))


@TRAPS.add(None, "both branches read dead channels of an outer tensor: it stays whole")
def if_reads_dead_channels() -> Net:
    net = chain(lambda net, t: net.op("Relu", t, name="mid"))
    chosen = conditional(net, lambda b: [b.conv("mid", 8, 4)], lambda b: [b.conv("mid", 8, 4, 1)], "chosen")
    net.outputs = []
    return net.output(net.op("Add", chosen, "y", name="z"))


@TRAPS.add(double_cut(4, 4) - 4, "a gate that is computed around the If is known inside")
def if_gate_outside() -> Net:
    net = Net()
    x = net.input("x", SHAPE)
    gate = np.where(np.isin(np.arange(8), DEAD), -1.0, 1.0).reshape(1, 8, 1, 1)
    relu = net.op("Relu", net.const(gate))
    chosen = conditional(
        net,
        lambda b: [b.conv(b.op("Mul", b.conv(x, 3, 8), relu), 8, 4)],
        lambda b: [b.conv(x, 3, 4, 1)],
    )
    return net.output(chosen)


@TRAPS.add(2 * double_cut(4, 4), "an If in a branch of an If")
def if_nested() -> Net:
    net = Net()
    x = net.input("x", SHAPE)
    net.input("other", (), np.bool_)

    def then_build(b: Net) -> list[str]:
        branches = {
            branch: body(prefix, lambda c: [double(c, x)], seed=seed)
            for branch, prefix, seed in (("then_branch", "deep", 3), ("else_branch", "steep", 4))
        }
        return [b.op("If", "other", name="nested", **branches)]

    return net.output(conditional(net, then_build, lambda b: [b.conv(x, 3, 4, 1)]))


@TRAPS.add(double_cut(4, 4), "weights around two Ifs, read by the innermost")
def if_nested_weights_outside() -> Net:
    net = Net()
    x = net.input("x", SHAPE)
    outer_weights(net)

    def then_build(b: Net) -> list[str]:
        deep = body("deep", lambda c: [weights_outside(c, x)])
        return [b.op("If", "flag", then_branch=deep, else_branch=body("steep", lambda c: [c.conv(x, 3, 4)]))]

    return net.output(conditional(net, then_build, lambda b: [b.conv(x, 3, 4, 1)]))


@TRAPS.add(chain_cut(4), "only a branch of a branch reads the output of the layers")
def if_nested_reads_outer() -> Net:
    net = chain(lambda net, t: net.op("Relu", t))
    net.outputs = []

    def then_build(b: Net) -> list[str]:
        branches = {"then_branch": body("deep", lambda c: [c.op("Neg", "y")])}
        branches["else_branch"] = body("steep", lambda c: [c.op("Abs", "y")])
        return [b.op("If", "flag", **branches)]

    return net.output(conditional(net, then_build, lambda b: [b.conv("x", 3, 4, 1)], "z"))


@TRAPS.add(chain_cut(4), "an If whose output nobody reads, the only one that looks at dead channels in full")
def if_unread() -> Net:
    net = chain(lambda net, t: net.op("Relu", t, name="mid"))
    conditional(net, lambda b: [b.op("Neg", "mid")], lambda b: [b.op("Abs", "mid")], "nowhere")
    return net


@TRAPS.add(chain_cut(4) + double_cut(4, 4), "dead channels before the If, and inside")
def if_and_chain() -> Net:
    net = chain(lambda net, t: net.op("Relu", t))
    net.outputs = []
    chosen = conditional(net, lambda b: [double(b, "x")], lambda b: [b.op("Neg", "y")], "z")
    return net.output(chosen)


# --- Loop, Scan, SequenceMap


def loop(net: Net, step: Build, state: str, *, typed: bool = True) -> str:
    """A Loop of three trips over one state `v`; `step` returns the state and, if it likes, a stack of [2, 4]."""
    inputs = [
        value("i", (), TensorProto.INT64),
        value("go", (), TensorProto.BOOL),
        value("v", SHAPE if typed else None),
    ]
    inner = body("step", lambda b: [b.op("Identity", "go"), *step(b)], inputs)
    yes = net.op("Cast", net.const(1.0), to=TensorProto.BOOL)
    last = net.op("Loop", net.const(np.array(3)), yes, state, name="looped", body=inner, count=len(inner.output) - 1)
    for index in range(1, len(inner.output) - 1):
        net.output(net.op("Reshape", f"{last}:{index}", net.const([3, 2, 4]), name=f"stack{index}"))
    return net.op("Reshape", last, net.const(list(SHAPE)), name="y")  # inference gives a Loop's output no shape


def half_way(b: Net, v: str) -> list[str]:
    """A step that keeps the state bounded."""
    return [b.op("Tanh", double(b, v, width=3))]


@TRAPS.add(double_cut(4, 3), "a recurrence through two layers")
def loop_weights_inside() -> Net:
    net = Net()
    return net.output(loop(net, lambda b: half_way(b, "v"), net.input("x", SHAPE)))


@TRAPS.add(None, "the state's shape is not declared, so nothing is known of it")
def loop_without_shapes() -> Net:
    net = Net()
    return net.output(loop(net, lambda b: half_way(b, "v"), net.input("x", SHAPE), typed=False))


@TRAPS.add(double_cut(4, 4), "each trip looks at an outer image, with weights around the loop, and stacks what it sees")
def loop_weights_outside() -> Net:
    net = Net()
    x = net.input("x", SHAPE)
    outer_weights(net)

    def step(b: Net) -> list[str]:
        return [b.op("Neg", "v"), b.op("ReduceMean", weights_outside(b, x), axes=[2, 3], keepdims=0)]

    return net.output(loop(net, step, x))


@TRAPS.add(None, "the state is zero in four channels before the first trip, not after")
def loop_state_starts_at_zero() -> Net:
    net = Net()
    x = net.input("x", SHAPE)
    start = net.op("Relu", net.known(net.conv(x, 3, 3, zero=(0, 2)), (0, 2)))
    return net.output(loop(net, lambda b: [b.op("Tanh", b.conv("v", 3, 3))], start))


@TRAPS.add(None, "the state is zero before the first trip, so a layer would seem to be unread")
def loop_state_starts_known() -> Net:
    net = Net()
    x = net.input("x", SHAPE)
    start = net.op("Relu", net.const(-np.ones(SHAPE)))

    def step(b: Net) -> list[str]:
        return [b.op("Tanh", b.op("Add", b.conv(x, 3, 3), b.op("Mul", "v", b.conv(x, 3, 3))))]

    return net.output(loop(net, step, start))


@TRAPS.add(4 * (5 + 1 + 4 + 4), "hidden units of a step of a Scan")
def scan_hidden_units() -> Net:
    net = Net()
    x = net.input("x", (6, 2, 5))
    state = net.input("s", (2, 4))

    def step(b: Net) -> list[str]:
        first, bias, second = b.normal(5, 8), b.normal(8), b.normal(8, 4)
        first[:, list(DEAD)], bias[list(DEAD)] = 0, 0
        hidden = b.op("Add", b.op("MatMul", "e", b.const(first)), b.const(bias))
        mixed = b.normal(4, 8)
        mixed[:, list(DEAD)] = 0
        hidden = b.op("Relu", b.op("Add", hidden, b.op("MatMul", "v", b.const(mixed))))
        new = b.op("Tanh", b.op("MatMul", hidden, b.const(second)))
        return [new, b.op("Identity", new)]

    inner = body("step", step, [value("v"), value("e")])
    return net.output(net.op("Scan", state, x, num_scan_inputs=1, body=inner, name="y", count=2), "y:1")


@TRAPS.add(double_cut(4, 4), "a layer for each image of a sequence")
def sequence_map() -> Net:
    net = Net()
    x = net.input("x", SHAPE)
    images = net.op("SplitToSequence", x, axis=0)
    inner = body("each", lambda b: [double(b, "image")], [value("image", (1, 3, 8, 8))])
    inner.output[0].CopyFrom(value(inner.output[0].name, (1, 4, 8, 8)))
    mapped = net.op("SequenceMap", images, body=inner)
    return net.output(net.op("ConcatFromSequence", mapped, axis=0, name="y"))


# --- functions


def function(name: str, inputs: Sequence[str], build: Build, attributes: Sequence[str] = ()) -> FunctionProto:
    """A function of the domain `local`; what `build` returns are its outputs."""
    net = Net(seed=3)
    outputs = build(net)
    constants = [helper.make_node("Constant", [], [t.name], value=t) for t in net.initializers]
    opsets = [helper.make_opsetid("", net.opset), *(helper.make_opsetid(d, v) for d, v in net.domains.items())]
    return helper.make_function("local", name, inputs, outputs, [*constants, *net.nodes], opsets, list(attributes))


WEIGHTS = ("w1", "b1", "w2", "b2")


def layers(f: Net, x: str) -> str:
    """Conv(3, 8) -> Relu -> Conv(8, 3) with the weights WEIGHTS, that something around gives."""
    hidden = f.op("Relu", f.op("Conv", x, "w1", "b1", pads=[1] * 4))
    return f.op("Conv", hidden, "w2", "b2", pads=[1] * 4)


def given_weights(net: Net) -> None:
    """The initializers WEIGHTS, with dead channels in the middle."""
    for name, shape in zip(WEIGHTS, ((8, 3, 3, 3), (8,), (3, 8, 3, 3), (3,)), strict=True):
        array = net.normal(*shape, scale=0.2)
        if name in ("w1", "b1"):
            array[list(DEAD)] = 0
        net.const(array, name)


@TRAPS.add(double_cut(4, 3), "a function that is called twice with the same weights, once by another function")
def function_called_twice() -> Net:
    net = Net()
    x = net.input("x", SHAPE)
    given_weights(net)
    names = ["a", *WEIGHTS]
    net.functions.append(function("Inner", names, lambda f: [layers(f, "a")]))
    net.functions.append(function("Outer", names, lambda f: [f.op("Tanh", f.op("Inner", *names, domain="local"))]))
    inner = net.op("Inner", x, *WEIGHTS, domain="local")
    return net.output(net.op("Outer", inner, *WEIGHTS, domain="local", name="y"))


@TRAPS.add(chain_cut(4), "an attribute of a function reaches its body; an optional input is absent")
def function_with_attribute() -> Net:
    net = chain(lambda net, t: net.op("Leak", t, "", domain="local", slope=0.25))
    leaky = helper.make_node("LeakyRelu", ["a"], ["b"])
    leaky.attribute.add(name="alpha", ref_attr_name="slope", type=1)
    opsets = [helper.make_opsetid("", 17)]
    net.functions.append(helper.make_function("local", "Leak", ["a", "unused"], ["b"], [leaky], opsets, ["slope"]))
    return net


@TRAPS.add(chain_cut(4), "calls that leave an attribute of a function out take its default, also within a function")
def function_with_default() -> Net:
    def middle(net: Net, t: str) -> str:
        other = net.op("Scaled", net.op("Leak", t, domain="local", slope=0.25), domain="local")
        return net.op("Leak", other, domain="local")

    net = chain(middle)
    leaky = helper.make_node("LeakyRelu", ["a"], ["b"])
    leaky.attribute.add(name="alpha", ref_attr_name="slope", type=1)
    call = helper.make_node("Leak", ["a"], ["b"], domain="local")
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    slope = helper.make_attribute("slope", 0.5)
    net.functions.append(helper.make_function("local", "Leak", ["a"], ["b"], [leaky], opsets, attribute_protos=[slope]))
    net.functions.append(helper.make_function("local", "Scaled", ["a"], ["b"], [call], opsets))
    return net


@TRAPS.add(double_cut(4, 3), "a function that a branch calls has branches of its own")
def function_in_body() -> Net:
    net = Net()
    x = net.input("x", SHAPE)
    given_weights(net)
    net.domains["local"] = 1

    def build(f: Net) -> list[str]:
        yes, no = body("yes", lambda b: [layers(b, "a")]), body("no", lambda b: [b.op("Abs", "a")])
        return [f.op("If", "c", then_branch=yes, else_branch=no)]

    net.functions.append(function("Choose", ["a", "c", *WEIGHTS], build))
    return net.output(
        conditional(
            net,
            lambda b: [b.op("Choose", x, "flag", *WEIGHTS, domain="local")],
            lambda b: [b.op("Neg", x)],
        )
    )
