"""What a step of an LSTM, GRU or RNN makes of its units: which of them are zero, or known, at every step.

The sums of the gates are those of recurrent.py; what they do to the state differs between the three.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..graph.view import Node

FUNCTIONS = {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",)}
"""Activations of each direction where the node names none."""

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
FUNCTION: dict[str, Callable[[np.ndarray], np.ndarray] | None] = {
    "relu": lambda x: np.maximum(x, 0.0),
    "tanh": np.tanh,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "leakyrelu": lambda x: np.where(x < 0, 0.01 * x, x),
    "thresholdedrelu": lambda x: np.where(x > 1, x, 0.0),
    "hardsigmoid": lambda x: np.clip(0.2 * x + 0.5, 0.0, 1.0),
    "elu": lambda x: np.where(x < 0, np.expm1(np.minimum(x, 0)), x),
    "softsign": lambda x: x / (1 + np.abs(x)),
    "softplus": lambda x: np.logaddexp(0.0, x),
    "affine": None,
    "scaledtanh": None,
}
"""Activations with the default parameters of the operators of the same name; None where there is no such operator."""

PARAMETRIC = {"affine", "leakyrelu", "thresholdedrelu", "scaledtanh", "hardsigmoid", "elu"}


def activations(node: Node, directions: int) -> list[str]:
    """The activations, direction by direction; the standard's default names two even for one direction."""
    default = FUNCTIONS[node.op] * directions
    given = [v.decode() if isinstance(v, bytes) else v for v in node.attr("activations") or default]
    return given[: len(default)] if len(given) >= len(default) else [""]


@dataclass(frozen=True)
class Silence:
    """What is known of the units, each array [directions, hidden].

    Attributes:
        silent: the unit is zero at every step, the initial state included.
        still: its cell is, too.
        known, value: its value from the first step on.
    """

    silent: np.ndarray
    still: np.ndarray
    known: np.ndarray
    value: np.ndarray


@dataclass(frozen=True)
class Gates:
    """Pre-activations of a step that do not depend on the input, and the activations.

    Attributes:
        known: whether the weighted sum of each gate is constant, peepholes aside, [directions, gates, hidden].
        given: what known inputs add to it.
        bias: [directions, 2 (of W, of R), gates, hidden].
        peephole: whether a peephole is not zero, [directions, 3, hidden].
    """

    known: np.ndarray
    given: np.ndarray
    bias: np.ndarray
    peephole: np.ndarray
    node: Node

    def sum(self, gate: int) -> np.ndarray:
        """The constant part of a gate's sum, both biases included, [directions, hidden]."""
        return np.asarray(self.given[:, gate] + self.bias[:, 0, gate] + self.bias[:, 1, gate])

    def activated(self, which: int, value: np.ndarray) -> np.ndarray:
        """Activation number `which` of each direction on [directions, hidden]; NaN where it cannot be said."""
        names = activations(self.node, len(self.known))
        each = len(FUNCTIONS[self.node.op])
        said = self.node.attr("activation_alpha") or self.node.attr("activation_beta")
        clip = float(self.node.attr("clip", np.inf))
        rows = []
        for direction, row in enumerate(np.clip(value, -clip, clip)):
            name = names[direction * each + which].lower()
            function = None if name in PARAMETRIC and said else FUNCTION[name]
            with np.errstate(over="ignore"):
                rows.append(np.full(row.shape, np.nan) if function is None else function(row))
        return np.array(rows)


def _rnn(gates: Gates, still: np.ndarray, zero_h: np.ndarray, zero_c: np.ndarray) -> Silence:
    """RNN: h' = f(a)."""
    value = gates.activated(0, gates.sum(0))
    known = gates.known[:, 0] & np.isfinite(value)
    value = np.where(known, value, 0.0)
    return Silence(zero_h & known & (value == 0), still, known, value)


def _gru(gates: Gates, still: np.ndarray, zero_h: np.ndarray, zero_c: np.ndarray) -> Silence:
    """GRU with gates z, r, h: h' = (1 - z) n + z h, so zero stays zero where n is zero or z is one."""
    inner, known = gates.sum(2), gates.known[:, 2]
    if gates.node.attr("linear_before_reset", 0):  # n = g(W x + Wb + r (R h + Rb))
        recurrent = gates.bias[:, 1, 2]
        reset = gates.activated(0, gates.sum(1))
        inner = inner - recurrent + np.where(recurrent == 0, 0.0, reset * recurrent)
        known = known & ((recurrent == 0) | (gates.known[:, 1] & np.isfinite(reset)))
    closed = known & (gates.activated(1, inner) == 0)
    holding = gates.known[:, 0] & (gates.activated(0, gates.sum(0)) == 1)
    silent = zero_h & (closed | holding)
    return Silence(silent, still, silent, np.zeros(silent.shape))


def _lstm(gates: Gates, still: np.ndarray, zero_h: np.ndarray, zero_c: np.ndarray) -> Silence:
    """LSTM with gates i, o, f, c: c' = f c + i g stays zero where i or g is, h' = o h(c') where c' or o is."""

    def shut(gate: int, function: int) -> np.ndarray:
        return np.asarray(gates.known[:, gate] & (gates.activated(function, gates.sum(gate)) == 0))

    dry = still | ~gates.peephole[:, 0]
    still = zero_c & ((shut(0, 0) & dry) | shut(3, 1))
    dry = still | ~gates.peephole[:, 1]
    known = (shut(1, 0) & dry) | (still & (gates.activated(2, np.zeros(still.shape)) == 0))
    return Silence(zero_h & known, still, known, np.zeros(still.shape))


STEPS: dict[str, Callable[[Gates, np.ndarray, np.ndarray, np.ndarray], Silence]] = {
    "RNN": _rnn,
    "GRU": _gru,
    "LSTM": _lstm,
}
"""What units of one step are, of the gates, which cells were zero before, and which states of h and c begin at zero."""
