"""LSTM, GRU and RNN: input features, hidden units and directions that carry nothing.

With gates g and units j, the pre-activations of a step are

    a[g,j] = sum_i W[g,j,i] x[i] + sum_k R[g,j,k] h[k] + Wb[g,j] + Rb[g,j] (+ P[g,j] c[j], the peepholes of an LSTM)

and the units are computed from them one by one: RNN h' = f(a); GRU h' = (1 - z) n + z h; LSTM c' = f c + i g and
h' = o tanh(c'). So

- an input feature goes where no unit has a weight for it, or where it is known: what it adds is a bias;
- a unit that is zero at every step (n = 0 or g = 0, from a zero state) is read by nobody. Which units are zero depends
  on which others are: the largest set of units that are all zero as long as all of them are;
- a unit goes where no output and no unit that stays reads it.

The directions of a bidirectional layer are independent, but share the hidden axis of the outputs: unit j goes where
it goes in both. A direction that nobody needs goes as a whole.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..graph.view import Node
from .contraction import Contraction, largest
from .fact import Fact, collapse
from .recurrent_steps import FUNCTION, FUNCTIONS, GATES, STEPS, Gates, Silence, activations
from .rule import Channels, Context, Cut, Demand, Rewrite, Rule, State, free_slices, register
from .tie import Feeds, Port, Same, Tie

X, W, R, B, LENGTHS, INITIAL_H, INITIAL_C, P = range(8)
INITIAL = (INITIAL_H, INITIAL_C)


@dataclass(frozen=True)
class Layout:
    """Sizes, and where each kind of tensor has its axes for directions, batch and units."""

    directions: int
    hidden: int
    inputs: int
    x_batch: int
    y: tuple[int, int, int]
    state: tuple[int, int, int]


class Recurrent(Contraction):
    """Input features, units and directions go; the largest set of zero units that keeps itself at zero is known."""

    family = "recurrent"

    # --- the layer

    def layout(self, node: Node, context: Context) -> Layout | None:
        """The layer's sizes; None where weights are not known or anything does not fit."""
        return context.cached((node.index, "layout"), lambda: self._layout(node, context))

    def _layout(self, node: Node, context: Context) -> Layout | None:
        w, r = context.array(node.inputs[W]), context.array(node.inputs[R])
        if w is None or r is None or w.ndim != 3 or r.ndim != 3 or context.rank(node.inputs[X]) != 3:
            return None
        directions, gates, hidden = w.shape[0], GATES[node.op], r.shape[2]
        fits = w.shape[1] == gates * hidden and r.shape == (directions, gates * hidden, hidden)
        fits = fits and context.size(node.inputs[X], 2) == w.shape[2] and node.attr("hidden_size", hidden) == hidden
        fits = fits and directions == (2 if node.attr("direction", "forward") == "bidirectional" else 1)
        for index, size in ((B, 2 * gates * hidden), (P, 3 * hidden)):
            if node.input(index):
                fits = fits and context.shape(node.input(index)) == (directions, size)
        if not fits or any(name.lower() not in FUNCTION for name in activations(node, directions)):
            return None
        if node.attr("layout", 0):
            layout = Layout(directions, hidden, w.shape[2], x_batch=0, y=(2, 0, 3), state=(1, 0, 2))
        else:
            layout = Layout(directions, hidden, w.shape[2], x_batch=1, y=(1, 2, 3), state=(0, 1, 2))
        states = self._states(node, context, layout)
        sizes = [(context.size(name, axes[0]), context.size(name, axes[2])) for name, axes in states]
        there = bool(states) and states[0][0] in node.outputs
        return layout if there and all(pair == (directions, hidden) for pair in sizes) else None

    @staticmethod
    def _states(node: Node, context: Context, layout: Layout) -> list[tuple[str, tuple[int, int, int]]]:
        """Tensors that hold units, outputs that are read first, with their axes (directions, batch, units)."""
        read = [o for o in node.outputs if o in context.graph.consumers or o in context.graph.outputs]
        outputs = [(o, layout.state if k else layout.y) for k, o in enumerate(node.outputs) if o in read]
        outputs += [
            (o, layout.state if k else layout.y)
            for k, o in enumerate(node.outputs)
            if o and o not in read and o in context.graph.shapes
        ]
        zero = Recurrent._zero_states(node, context)
        return outputs + [(node.input(i), layout.state) for i in INITIAL if node.input(i) and i not in zero]

    @staticmethod
    def _zero_states(node: Node, context: Context) -> set[int]:
        """Initial states that are zero as a whole: the layer starts so without them.

        torch's exporter hands parts of one tensor of zeros to all layers, which would tie their units to each other.
        """
        facts = {i: context.fact(node.input(i)) for i in INITIAL if node.input(i)}
        return {i for i, fact in facts.items() if fact is not None and fact.zero().all()}

    def channels(self, node: Node, context: Context) -> Channels | None:
        layout = self.layout(node, context)
        return None if layout is None else Channels(3, (W, R, B, P))

    def _weights(self, node: Node, context: Context, index: int) -> np.ndarray:
        """W or R as [directions, gates, hidden, columns]."""
        array = context.array(node.inputs[index])
        assert array is not None
        return array.reshape(array.shape[0], GATES[node.op], -1, array.shape[2])

    def _nonzero(self, node: Node, context: Context, index: int) -> np.ndarray:
        """Where W or R is not zero, [directions, gates, hidden, columns]."""
        name = node.inputs[index]
        return context.derived(name, f"gates of {node.op}", lambda: self._weights(node, context, index) != 0)

    # --- facts

    def silence(self, node: Node, context: Context, layout: Layout) -> Silence:
        """Units of known value, by the largest set of zero units that sustains itself."""
        return context.cached((node.index, "silence"), lambda: self._silence(node, context, layout))

    def _silence(self, node: Node, context: Context, layout: Layout) -> Silence:
        gates, shape = GATES[node.op], (layout.directions, layout.hidden)
        no = np.zeros(shape, bool)
        bias = np.zeros((layout.directions, 2, gates, layout.hidden))
        if node.input(B):
            array = context.array(node.input(B))
            if array is None:
                return Silence(no, no, no, np.zeros(shape))
            bias = array.astype(np.float64).reshape(bias.shape)
        peephole = np.zeros((layout.directions, 3, layout.hidden), bool)
        if node.input(P):
            array = context.array(node.input(P))
            peephole = np.ones_like(peephole) if array is None else array.reshape(peephole.shape) != 0
        uniform, value = free_slices(node.inputs[X], 2, context)
        fixed = ~self._nonzero(node, context, W)[..., ~uniform].any(axis=-1)
        given = np.zeros(fixed.shape)
        loud = np.flatnonzero(value)
        if loud.size:
            given = self._weights(node, context, W)[..., loud].astype(np.float64) @ value[loud]
        recurrent = self._nonzero(node, context, R)
        zero_h, zero_c = (self._starts_at_zero(node, index, context, layout) for index in INITIAL)
        found, step = Silence(zero_h, zero_c, zero_h, np.zeros(shape)), STEPS[node.op]
        while True:
            known = fixed & ~(recurrent & ~found.silent[:, None, None, :]).any(axis=-1)
            stepped = step(Gates(known, given, bias, peephole, node), found.still, zero_h, zero_c)
            settled = (stepped.silent == found.silent).all() and (stepped.still == found.still).all()
            found = stepped
            if settled:
                return found

    def _starts_at_zero(self, node: Node, index: int, context: Context, layout: Layout) -> np.ndarray:
        """Whether the initial state of each unit is zero, [directions, hidden]."""
        name = node.input(index)
        if not name:
            return np.ones((layout.directions, layout.hidden), bool)
        fact = context.fact(name)
        if fact is None:
            return np.zeros((layout.directions, layout.hidden), bool)
        direction, batch, _ = layout.state
        zero = np.asarray(fact.zero().all(axis=batch, keepdims=True))
        order = (direction, batch, 2)
        return np.array(np.broadcast_to(zero.transpose(order)[:, 0, :], (layout.directions, layout.hidden)))

    def facts(self, node: Node, context: Context) -> list[Fact | None]:
        none: list[Fact | None] = [None] * len(node.outputs)
        layout = self.layout(node, context)
        if layout is None:
            return none
        silence = self.silence(node, context, layout)
        steps = context.size(node.inputs[X], 1 - layout.x_batch)
        padded = bool(node.input(LENGTHS))  # outputs beyond a sequence's length are zero
        known = silence.known & ((not padded) | (silence.value == 0))
        last = silence.silent | (silence.known & (not padded and steps is not None))
        limit = self._limit(node, context, layout)
        arrays = (
            (silence.value, known, limit),
            (np.where(silence.silent, 0.0, silence.value), last, limit),
            (np.zeros_like(silence.value), silence.still, None),
        )
        found: list[Fact | None] = []
        for index, (name, (value, mask, bound)) in enumerate(zip(node.outputs, arrays, strict=False)):
            dtype = context.graph.dtypes.get(name)
            if not name or dtype is None:
                found.append(None)
                continue
            axes = layout.state if index else layout.y
            rank = 3 if index else 4
            shape = [layout.directions if a == axes[0] else layout.hidden if a == axes[2] else 1 for a in range(rank)]
            ends = (None, None) if bound is None else (np.full([1] * rank, -bound), np.full([1] * rank, bound))
            found.append(collapse(Fact(value.astype(dtype).reshape(shape), mask.reshape(shape), *ends)))
        return found

    def _limit(self, node: Node, context: Context, layout: Layout) -> float | None:
        """Bound of |h|: 1 for the default activations, or what the initial state has if that is more."""
        default = FUNCTIONS[node.op] * layout.directions
        if [n.lower() for n in activations(node, layout.directions)] != [n.lower() for n in default]:
            return None
        initial = 0.0
        if node.input(INITIAL_H):
            fact = context.fact(node.input(INITIAL_H))
            if fact is None:
                return None
            initial = float(np.max(np.abs(fact.bounds())))
        return max(1.0, initial) * (1 + 1e-6) if np.isfinite(initial) else None

    # --- ties and reads

    def ties(self, node: Node, context: Context) -> list[Tie]:
        layout = self.layout(node, context)
        if layout is None:
            return []
        states = self._states(node, context, layout)
        anchor, axes = states[0]
        units, directions = (anchor, axes[2]), (anchor, axes[0])
        gates, several = GATES[node.op], layout.directions > 1
        columns = self._nonzero(node, context, R).any(axis=1)
        heard = columns & ~self.silence(node, context, layout).silent[:, None, :]
        ties: list[Tie] = [Feeds(units, directions, heard), Same((node.inputs[X], 2), (node.inputs[W], 2))]
        for name, (direction, _, unit) in states[1:]:
            ties += [Same(units, (name, unit)), Same(directions, (name, direction))]
        ties.append(Same(units, (node.inputs[R], 2)))
        for index, copies in ((W, gates), (R, gates), (B, 2 * gates), (P, 3)):
            name = node.input(index)
            if name:
                ties += [Same(units, (name, 1), np.tile(np.arange(layout.hidden), copies)), Same(directions, (name, 0))]
        if several and (node.attr("activation_alpha") or node.attr("activation_beta")):
            # which direction takes how many of these parameters is not certain, so both stay
            ties.append(Feeds(directions, directions, np.ones((2, 2, 2), bool)))
        size = context.size(node.inputs[X], layout.x_batch)
        batches = [(name, batch) for name, (_, batch, _) in states]
        batches += [(node.input(LENGTHS), 0)] if node.input(LENGTHS) else []
        if size is not None and all(context.size(*port) == size for port in batches):
            ties += [Same((node.inputs[X], layout.x_batch), port) for port in batches]
        return ties

    def _kept(self, node: Node, context: Context, state: State, layout: Layout) -> tuple[np.ndarray, np.ndarray]:
        """Directions and units that stay; what stays is computed, so it is right."""
        name, axes = self._states(node, context, layout)[0]
        return state.kept((name, axes[0])), state.kept((name, axes[2]))

    def _wanted(self, node: Node, context: Context, state: State, layout: Layout) -> np.ndarray:
        """Input features that a unit which stays has a weight for, [I]."""
        directions, units = self._kept(node, context, state, layout)
        nonzero = self._nonzero(node, context, W)[directions][:, :, units]
        return np.asarray(nonzero.any(axis=(0, 1, 2)))

    def absorbing_port(self, node: Node, context: Context) -> Port | None:
        return None if self.layout(node, context) is None else (node.inputs[X], 2)

    def read(self, node: Node, context: Context) -> np.ndarray:
        return np.asarray(self._nonzero(node, context, W).any(axis=(0, 1, 2)))

    def absorbs(self, node: Node, context: Context) -> tuple[np.ndarray, np.ndarray]:
        uniform, value = free_slices(node.inputs[X], 2, context)
        return uniform & ((value == 0) | self._fits(node, context, value)), np.zeros_like(uniform)

    def _fits(self, node: Node, context: Context, value: np.ndarray) -> bool:
        """Whether the bias can take what known features add, cached."""

        def compute() -> bool:
            bias = context.array(node.input(B)) if node.input(B) else np.zeros(1)
            weight = context.array(node.inputs[W])
            if bias is None or weight is None:
                return False
            loud = np.flatnonzero(value)
            added = np.abs(weight[..., loud].astype(np.float64)).max(axis=(0, 1), initial=0) @ np.abs(value[loud])
            return bool(added + np.abs(bias).max(initial=0) <= largest(weight.dtype))

        return bool(context.cached((node.index, "fits"), compute))

    def carriers(self, node: Node, context: Context, kept: np.ndarray) -> np.ndarray:
        return np.array([-1])

    def operands(self, node: Node, context: Context, state: State) -> list[int]:
        there = super().operands(node, context, state)
        if self.layout(node, context) is None:
            return there
        zero = self._zero_states(node, context)
        return [i for i in there if i not in zero]

    def reads(self, node: Node, context: Context, state: State) -> dict[int, Demand | None]:
        layout = self.layout(node, context)
        if layout is None:
            return super().reads(node, context, state)
        batch = np.zeros(context.size(node.inputs[X], layout.x_batch) or 1, bool)
        for name, axes in self._states(node, context, layout):
            if name in node.outputs and all(mask.any() for mask in state.live(name)):
                live = state.live(name)[axes[1]]
                batch |= live if live.size == batch.size else True
        if not batch.any():
            return self.steering(node, context)
        x = node.inputs[X]
        free, _ = self.absorbs(node, context)
        directions, units = self._kept(node, context, state, layout)
        demand = [np.ones(context.size(x, axis) or 1, bool) for axis in range(3)]
        demand[layout.x_batch] = batch
        demand[2] = self._wanted(node, context, state, layout) & ~(free & ~state.kept((x, 2)))
        demands: dict[int, Demand | None] = {i: None for i in self.operands(node, context, state) if i != X}
        for index in INITIAL:
            if index in demands:
                whole = [batch, batch, batch]
                whole[layout.state[0]], whole[layout.state[2]] = directions, units
                if context.size(node.input(index), layout.state[1]) != batch.size:
                    whole[layout.state[1]] = np.ones(context.size(node.input(index), layout.state[1]) or 1, bool)
                demands[index] = whole
        return {0: demand, **demands} if demand[2].any() else demands

    def held(self, node: Node, context: Context, state: State) -> dict[int, str]:
        layout = self.layout(node, context)
        if layout is None:
            return {}
        states = [(name, axes) for name, axes in self._states(node, context, layout) if name in node.outputs]
        live = np.logical_or.reduce([state.live(name)[axes[2]] for name, axes in states])
        directions, units = self._kept(node, context, state, layout)
        silent = self.silence(node, context, layout).silent[directions]
        found = {int(u): "other hidden units read it" for u in np.flatnonzero(units & ~live & ~silent.all(axis=0))}
        shared = "it is zero in one direction only, and both share the hidden axis of the outputs"
        return found | {int(u): shared for u in np.flatnonzero(units & silent.any(axis=0) & ~silent.all(axis=0))}

    # --- the cut

    def rewrite(self, node: Node, cut: Cut) -> Rewrite:
        context = cut.context
        layout = self.layout(node, context)
        if layout is None:
            return Rewrite()
        name, axes = self._states(node, context, layout)[0]
        directions, units = cut.indices(name, axes[0]), cut.indices(name, axes[2])
        result = Rewrite(inputs=dict.fromkeys(self._zero_states(node, context)))
        if units is not None and node.attr("hidden_size") is not None:
            result.attributes["hidden_size"] = int(units.size)
        if directions is not None:
            result.attributes["direction"] = "reverse" if directions[0] else "forward"
            if node.attr("activations") is not None:
                each = len(FUNCTIONS[node.op])
                names = activations(node, layout.directions)
                result.attributes["activations"] = names[directions[0] * each : (directions[0] + 1) * each]
        self._absorb(node, cut, layout, result)
        return result

    def _absorb(self, node: Node, cut: Cut, layout: Layout, result: Rewrite) -> None:
        """Put what known input features added into the bias of the input weights."""
        context, into = cut.context, cut.indices(node.inputs[X], 2)
        if into is None:
            return
        kept = np.zeros(layout.inputs, bool)
        kept[into] = True
        _, value = free_slices(node.inputs[X], 2, context)
        gone = np.flatnonzero((value != 0) & ~kept & self.read(node, context))
        if not gone.size:
            return
        weights, gates = self._weights(node, context, W), GATES[node.op]
        added = np.zeros((layout.directions, 2, gates, layout.hidden))
        added[:, 0] = weights[..., gone].astype(np.float64) @ value[gone]
        if node.input(B):
            bias = context.array(node.input(B))
            assert bias is not None
            added += bias.reshape(added.shape)
        name, axes = self._states(node, context, layout)[0]
        for axis, where in ((0, cut.indices(name, axes[0])), (3, cut.indices(name, axes[2]))):
            added = added if where is None else added.take(where, axis)
        result.inputs[B] = added.reshape(added.shape[0], -1).astype(weights.dtype)


register(Recurrent(), *STEPS)
register(Rule("the states of its cell are mixed by attention"), "AttnLSTM", domain="com.microsoft")
register(Rule("its weights are quantized column by column and packed"), "DynamicQuantizeLSTM", domain="com.microsoft")
