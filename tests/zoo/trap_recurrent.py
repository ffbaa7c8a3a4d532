"""Traps: LSTM, GRU and RNN with input features, hidden units and directions that carry nothing.

Most are x [5, 2, 4] -> MatMul(4, 5), Add -> layer with six units -> MatMul to 3, and the parameters are counted by
`size` for the widths that are left. The gate whose row makes a unit zero, when it is zero itself, is the candidate:
c of an LSTM, h of a GRU, the only one of an RNN.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from .net import Net
from .trap import Family

TRAPS = Family()

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
CANDIDATE = {"LSTM": 3, "GRU": 2, "RNN": 0}
DEAD = (1, 4)
X, INPUTS, UNITS, OUTPUTS = 4, 5, 6, 3


def size(
    op: str, inputs: int = INPUTS, units: int = UNITS, directions: int = 1, *, bias: bool = True, read: int = 1
) -> int:
    """Parameters of the whole net; `read` counts how many times the last MatMul reads the units of a direction."""
    gates = GATES[op]
    layer = directions * gates * units * (inputs + units + 2 * bias)
    return (X + 1) * inputs + layer + directions * units * OUTPUTS * read


class Weights:
    """Random weights of a layer, as [directions, gates, units, ...], with what is planted in them."""

    def __init__(self, net: Net, op: str, directions: int = 1, inputs: int = INPUTS, units: int = UNITS):
        self.op, self.gates = op, GATES[op]
        self.w = net.normal(directions, self.gates, units, inputs, scale=0.5)
        self.r = net.normal(directions, self.gates, units, units, scale=0.5)
        self.b = net.normal(directions, 2, self.gates, units, scale=0.5)

    def zero(self, units: Iterable[int], directions: Iterable[int] | None = None, gate: int | None = None) -> None:
        """The gate (the candidate unless told) hears nothing and has no bias."""
        gate = CANDIDATE[self.op] if gate is None else gate
        for direction in range(len(self.w)) if directions is None else directions:
            for unit in units:
                self.w[direction, gate, unit] = self.r[direction, gate, unit] = 0
                self.b[direction, :, gate, unit] = 0

    def unheard(self, units: Iterable[int]) -> None:
        """No other unit hears these."""
        self.r[..., list(units)] = 0

    def names(self, net: Net, *, bias: bool = True) -> list[str]:
        count = len(self.w)
        arrays = [self.w.reshape(count, -1, self.w.shape[3]), self.r.reshape(count, -1, self.r.shape[3])]
        return [net.const(a) for a in arrays] + ([net.const(self.b.reshape(count, -1))] if bias else [])


def features(net: Net, *, zero: Iterable[int] = (), constant: Mapping[int, float] | None = None) -> str:
    """The input features [5, 2, 5] of the layer."""
    weight, bias = net.normal(X, INPUTS, scale=0.5), net.normal(INPUTS)
    for index in zero:
        weight[:, index] = bias[index] = 0
    for index, value in (constant or {}).items():
        weight[:, index], bias[index] = 0, value
    t = net.op("Add", net.op("MatMul", net.input("x", (5, 2, X)), net.const(weight)), net.const(bias))
    planted = [*zero, *(constant or {})]
    return net.known(t, planted, axis=2) if planted else t


def layer(net: Net, weights: Weights, t: str, *more: str, count: int = 1, bias: bool = True, **attributes) -> str:
    units = weights.r.shape[3]
    if len(weights.w) == 2:
        attributes["direction"] = "bidirectional"
    operands = [*weights.names(net, bias=bias), *([] if bias else [""] if more else []), *more]
    return net.op(weights.op, t, *operands, count=count, hidden_size=units, **attributes)


def tail(net: Net, y: str, weights: Weights, unread: Iterable[int] = ()) -> Net:
    """All directions side by side, and a MatMul that does not read some units."""
    directions, units = len(weights.w), weights.r.shape[3]
    t = net.op("Reshape", net.op("Transpose", y, perm=[0, 2, 1, 3]), net.const([0, 0, directions * units]))
    weight = net.normal(directions * units, OUTPUTS)
    rows = [direction * units + unit for direction in range(directions) for unit in unread]
    weight[rows] = 0
    if rows:
        net.unread(t, rows, axis=2)
    return net.output(net.op("MatMul", t, net.const(weight)))


def dead_units(op: str, directions: int = 1, **attributes) -> Net:
    net = Net()
    weights = Weights(net, op, directions)
    weights.zero(DEAD)
    y = layer(net, weights, features(net), **attributes)
    return tail(net, net.known(y, DEAD, axis=3), weights)


def lost(op: str, directions: int = 1, *, inputs: int = 0, units: int = len(DEAD), **options) -> int:
    """Parameters that go with some inputs and units."""
    before = size(op, directions=directions, **options)
    return before - size(op, INPUTS - inputs, UNITS - units, directions, **options)


for _op in GATES:
    for _directions in (1, 2):
        TRAPS.add(
            lost(_op, _directions),
            "units whose candidate is zero",
            name=f"{_op.lower()}_zero_units_{_directions}",
        )(lambda op=_op, directions=_directions: dead_units(op, directions))

        def _unread(op: str = _op, directions: int = _directions) -> Net:
            net = Net()
            weights = Weights(net, op, directions)
            weights.unheard(DEAD)
            return tail(net, layer(net, weights, features(net)), weights, DEAD)

        TRAPS.add(
            lost(_op, _directions),
            "units that nobody reads, inside and outside",
            name=f"{_op.lower()}_unread_units_{_directions}",
        )(_unread)

        def _inputs(op: str = _op, directions: int = _directions) -> Net:
            net = Net()
            weights = Weights(net, op, directions)
            weights.w[..., 0] = 0
            t = features(net, zero=[2], constant={4: 0.7})
            return tail(net, layer(net, weights, t), weights)

        TRAPS.add(
            lost(_op, _directions, inputs=3, units=0),
            "one input feature that nobody has a weight for, a zero one, and a constant one that the bias takes",
            name=f"{_op.lower()}_inputs_{_directions}",
        )(_inputs)


@TRAPS.add(lost("LSTM", 2, inputs=1, units=0, bias=False) - 2 * 2 * 4 * UNITS, "the layer has no bias yet")
def lstm_constant_input_without_bias() -> Net:
    net = Net()
    weights = Weights(net, "LSTM", 2)
    return tail(net, layer(net, weights, features(net, constant={3: -1.5}), bias=False), weights)


@TRAPS.add(lost("GRU", units=3), "zero units that hear each other, and nobody else")
def gru_zero_units_in_a_ring() -> Net:
    net = Net()
    weights = Weights(net, "GRU")
    weights.zero((0, 2, 5))
    for one, other in ((0, 2), (2, 5), (5, 0)):
        weights.r[0, 2, one, other] = 0.8
    return tail(net, net.known(layer(net, weights, features(net)), (0, 2, 5), axis=3), weights)


@TRAPS.add(0, "the same ring with one live unit in it: none of them is zero")
def gru_ring_with_a_live_unit() -> Net:
    net = Net()
    weights = Weights(net, "GRU")
    weights.zero((0, 2))
    for one, other in ((0, 2), (2, 5), (5, 0)):
        weights.r[0, 2, one, other] = 0.8
    return tail(net, layer(net, weights, features(net)), weights)


@TRAPS.add(0, "unread by the output, but another unit hears them")
def lstm_units_heard_inside() -> Net:
    net = Net()
    weights = Weights(net, "LSTM")
    return tail(net, layer(net, weights, features(net)), weights, DEAD)


@TRAPS.add(
    lost("LSTM", units=1),
    "an unread unit that only another unread unit hears goes with it, one that a live unit hears stays",
)
def lstm_unread_chain() -> Net:
    net = Net()
    weights = Weights(net, "LSTM")
    weights.unheard((1,))
    return tail(net, layer(net, weights, features(net)), weights, DEAD)


@TRAPS.add(lost("LSTM", 2, units=1), "zero in one direction each, and one in both: the directions share the axis")
def lstm_directions_disagree() -> Net:
    net = Net()
    weights = Weights(net, "LSTM", 2)
    weights.zero((0, 3), [0])
    weights.zero((3, 5), [1])
    return tail(net, net.known(layer(net, weights, features(net)), [3], axis=3), weights)


def one_direction(op: str, dead: int, **attributes) -> Net:
    net = Net()
    weights = Weights(net, op, 2)
    y = layer(net, weights, features(net), **attributes)
    t = net.op("Reshape", net.op("Transpose", y, perm=[0, 2, 1, 3]), net.const([0, 0, 2 * UNITS]))
    weight = net.normal(2 * UNITS, OUTPUTS)
    rows = range(dead * UNITS, (dead + 1) * UNITS)
    weight[list(rows)] = 0
    return net.output(net.op("MatMul", net.unread(t, rows, axis=2), net.const(weight)))


for _op in GATES:
    for _dead in (0, 1):
        TRAPS.add(
            size(_op, directions=2) - size(_op),
            "a direction that nobody reads",
            name=f"{_op.lower()}_direction_{_dead}",
        )(lambda op=_op, dead=_dead: one_direction(op, dead))


@TRAPS.add(size("GRU", directions=2) - size("GRU"), "each direction has activations of its own")
def gru_direction_with_activations() -> Net:
    return one_direction("GRU", 0, activations=["Sigmoid", "Relu", "HardSigmoid", "Softsign"])


@TRAPS.add(0, "the parameters of the activations are listed for both directions")
def gru_direction_with_parameters() -> Net:
    names = ["HardSigmoid", "Tanh", "HardSigmoid", "Tanh"]
    return one_direction("GRU", 0, activations=names, activation_alpha=[0.3, 0.1], activation_beta=[0.5, 0.4])


@TRAPS.add(lost("GRU"), "the reset gate comes after the recurrent product")
def gru_linear_before_reset() -> Net:
    return dead_units("GRU", linear_before_reset=1)


@TRAPS.add(0, "and then a recurrent bias that is as large as the input's, with another sign, does not cancel it")
def gru_linear_before_reset_biases() -> Net:
    net = Net()
    weights = Weights(net, "GRU")
    weights.zero(DEAD)
    weights.b[0, 0, 2, DEAD], weights.b[0, 1, 2, DEAD] = 0.9, -0.9
    return tail(net, layer(net, weights, features(net), linear_before_reset=1), weights)


@TRAPS.add(lost("GRU"), "without it they do cancel")
def gru_biases_cancel() -> Net:
    net = Net()
    weights = Weights(net, "GRU")
    weights.zero(DEAD)
    weights.b[0, 0, 2, DEAD], weights.b[0, 1, 2, DEAD] = 0.9, -0.9
    return tail(net, net.known(layer(net, weights, features(net)), DEAD, axis=3), weights)


@TRAPS.add(0, "a Softplus of zero is not zero")
def gru_softplus() -> Net:
    net = Net()
    weights = Weights(net, "GRU")
    weights.zero(DEAD)
    return tail(net, layer(net, weights, features(net), activations=["Sigmoid", "Softplus"]), weights)


def gate(number: int, bias: float, **attributes) -> Net:
    """An LSTM in which one gate of the dead units is constant: i, o, f, c are 0, 1, 2, 3."""
    net = Net()
    weights = Weights(net, "LSTM")
    weights.zero(DEAD, gate=number)
    weights.b[0, 0, number, DEAD] = bias
    return tail(net, layer(net, weights, features(net), **attributes), weights)


HARD = {"activations": ["HardSigmoid", "Tanh", "Tanh"]}


@TRAPS.add(lost("LSTM"), "the input gate is shut: HardSigmoid(-3) = 0")
def lstm_input_gate_shut() -> Net:
    return gate(0, -3.0, **HARD)


@TRAPS.add(lost("LSTM"), "the output gate is shut")
def lstm_output_gate_shut() -> Net:
    return gate(1, -3.0, **HARD)


@TRAPS.add(0, "a shut forget gate forgets, no more")
def lstm_forget_gate_shut() -> Net:
    return gate(2, -3.0, **HARD)


@TRAPS.add(0, "clipping at 1 opens the gate again: HardSigmoid(-1) = 0.3")
def lstm_output_gate_clipped() -> Net:
    return gate(1, -3.0, clip=1.0, **HARD)


@TRAPS.add(0, "other slopes: HardSigmoid(-3) = 0.2")
def lstm_output_gate_slopes() -> Net:
    return gate(1, -3.0, activation_alpha=[0.1], activation_beta=[0.5], **HARD)


def _decayed(op: str, directions: int = 1) -> Net:
    """Units whose candidate hears next to nothing, and an input feature that nobody listens to."""
    net = Net()
    weights = Weights(net, op, directions)
    gate = CANDIDATE[op]
    for part in (weights.w[:, gate], weights.r[:, gate]):
        part[:, DEAD] *= 1e-14
    weights.b[:, :, gate, DEAD] *= 1e-14
    weights.w[..., 2] *= 1e-15
    return tail(net, layer(net, weights, features(net)), weights)


for _op in GATES:
    TRAPS.add(lost(_op, 2, inputs=1), "what weight decay leaves", name=f"{_op.lower()}_negligible", negligible=True)(
        lambda op=_op: _decayed(op, 2)
    )


def peepholes(c0: float, gate: int) -> Net:
    """A gate that is shut but for what it sees of the cell, which starts at `c0`."""
    net = Net()
    weights = Weights(net, "LSTM")
    weights.zero(DEAD, gate=gate)
    weights.b[0, 0, gate, DEAD] = -3.0
    initial = np.full((1, 2, UNITS), c0)
    more = ["", "", net.const(initial), net.const(net.normal(1, 3 * UNITS) + 2)]
    return tail(net, layer(net, weights, features(net), *more, **HARD), weights)


@TRAPS.add(
    lost("LSTM") + len(DEAD) * (2 + 3),
    "the cell of an input gate that is shut stays at zero, and so does what the gate sees of it",
)
def lstm_peephole_input_gate() -> Net:
    return peepholes(0.0, 0)


@TRAPS.add(0, "a cell that starts elsewhere opens it")
def lstm_peephole_cell() -> Net:
    return peepholes(1.0, 0)


@TRAPS.add(0, "an output gate that sees a cell which moves")
def lstm_peephole_output_gate() -> Net:
    return peepholes(0.0, 1)


def initial(op: str, value: float, *, heard: bool = True) -> Net:
    net = Net()
    weights = Weights(net, op)
    weights.zero(DEAD)
    if not heard:
        weights.unheard(DEAD)
    state = net.normal(1, 2, UNITS)
    state[..., DEAD] = value
    return tail(net, layer(net, weights, features(net), "", net.const(state)), weights)


for _op in GATES:
    TRAPS.add(lost(_op) + 2 * len(DEAD), "from a zero state", name=f"{_op.lower()}_initial_zero")(
        lambda op=_op: initial(op, 0.0)
    )
    TRAPS.add(0, "the state of a unit that starts elsewhere is heard", name=f"{_op.lower()}_initial_state")(
        lambda op=_op: initial(op, 1.0)
    )


@TRAPS.add(
    lost("LSTM", read=0) + len(DEAD) * 4 * UNITS,
    "two layers that start from parts of one tensor of zeros, as torch writes them for any batch",
    sizes=({"N": 1}, {"N": 3}),
)
def lstm_shared_zero_states() -> Net:
    net = Net()
    first, second = Weights(net, "LSTM"), Weights(net, "LSTM", inputs=UNITS)
    first.zero(DEAD)
    x = net.input("x", (5, "N", INPUTS))
    batch = net.op("Slice", net.op("Shape", x), net.const([1]), net.const([2]))
    zeros = net.op("ConstantOfShape", net.op("Concat", net.const([2]), batch, net.const([UNITS]), axis=0))
    for place, weights in enumerate((first, second)):
        state = net.op("Slice", zeros, net.const([place]), net.const([place + 1]), net.const([0]))
        y = layer(net, weights, x, "", state, state)
        x = net.op("Squeeze", y, net.const([1]))
    return tail(net, y, second)


@TRAPS.add(lost("RNN") + 2 * len(DEAD), "a unit of an RNN that is zero from the first step on, and that nobody hears")
def rnn_initial_state_unheard() -> Net:
    return initial("RNN", 1.0, heard=False)


def constant_units(*, heard: bool = False, lengths: bool = False) -> Net:
    """Units of an RNN that hear nothing: tanh of their bias, which the Add behind the MatMul takes."""
    net = Net()
    weights = Weights(net, "RNN")
    weights.zero(DEAD)
    weights.b[0, 0, 0, DEAD] = 0.6
    if not heard:
        weights.unheard(DEAD)
    more = [net.input("lengths", ("lengths",), np.int32)] if lengths else []
    y = layer(net, weights, features(net), *more)
    t = net.op("Reshape", net.op("Transpose", y, perm=[0, 2, 1, 3]), net.const([0, 0, UNITS]))
    t = net.op("MatMul", t, net.const(net.normal(UNITS, OUTPUTS)))
    return net.output(net.op("Add", t, net.const(net.normal(OUTPUTS))))


@TRAPS.add(lost("RNN"), "constant units fold into the bias behind the layer")
def rnn_constant_units() -> Net:
    return constant_units()


@TRAPS.add(0, "other units hear them, and at the first step they are still zero")
def rnn_constant_units_heard() -> Net:
    return constant_units(heard=True)


@TRAPS.add(lost("LSTM") + len(DEAD), "no state of an LSTM exceeds one, so a Relu behind a bias of -1.5 is shut")
def lstm_states_are_bounded() -> Net:
    net = Net()
    weights = Weights(net, "LSTM")
    weights.unheard(DEAD)
    shift = net.normal(UNITS)
    shift[list(DEAD)] = -1.5
    y = net.op("Relu", net.op("Add", layer(net, weights, features(net)), net.const(shift)))
    return tail(net, net.known(y, DEAD, axis=3), weights)


@TRAPS.add(0, "states that start above one may exceed it")
def gru_states_from_above() -> Net:
    net = Net()
    weights = Weights(net, "GRU")
    weights.unheard(DEAD)
    shift = net.normal(UNITS)
    shift[list(DEAD)] = -1.5
    state = net.const(np.full((1, 2, UNITS), 4.0))
    y = net.op("Relu", net.op("Add", layer(net, weights, features(net), "", state), net.const(shift)))
    return tail(net, y, weights)


@TRAPS.add(lost("LSTM"), "only the last state is read, and the sequence output is not even named")
def lstm_last_state() -> Net:
    net = Net()
    weights = Weights(net, "LSTM")
    weights.zero(DEAD)
    layer(net, weights, features(net), count=2)
    net.nodes[-1].output[0] = ""
    state = net.known(net.nodes[-1].output[1], DEAD, axis=2)
    t = net.op("Squeeze", state, net.const([0]))
    return net.output(net.op("MatMul", t, net.const(net.normal(UNITS, OUTPUTS))))


@TRAPS.add(0, "the cell of a unit whose output gate is shut is read")
def lstm_cell_is_read() -> Net:
    net = gate(1, -3.0, **HARD)
    node = next(n for n in net.nodes if n.op_type == "LSTM")
    node.output.extend(["", "cell"])
    return net.output(
        net.op("MatMul", net.op("Squeeze", "cell", net.const([0])), net.const(net.normal(UNITS, OUTPUTS)))
    )


def stacked(op: str) -> Net:
    """Two bidirectional layers: dead units of the first are dead inputs of the second."""
    net = Net()
    first = Weights(net, op, 2)
    first.zero(DEAD)
    y = net.known(layer(net, first, features(net)), DEAD, axis=3)
    t = net.op("Reshape", net.op("Transpose", y, perm=[0, 2, 1, 3]), net.const([0, 0, 2 * UNITS]))
    second = Weights(net, op, 2, 2 * UNITS)
    second.zero(DEAD)
    return tail(net, net.known(layer(net, second, t), DEAD, axis=3), second)


for _op in GATES:
    TRAPS.add(
        lost(_op, 2)
        - len(DEAD) * 2 * OUTPUTS
        + size(_op, 2 * UNITS, UNITS, 2)
        - size(_op, 2 * (UNITS - 2), UNITS - 2, 2)
        - (X + 1) * 2 * len(DEAD),
        "dead units of one layer are dead inputs of the next",
        name=f"{_op.lower()}_stacked",
    )(lambda op=_op: stacked(op))
