"""One model that nobody here wrote, as it is and in the middle of networks with planted channels.

As it is, it runs through `optimize` as a user would run it. Planted (see wrap.py), inputs that are not in turn become
constants, a gate makes slices of the input dead or constant along each axis in turn, and the reader behind leaves
slices unread; weights get zero slices. The cut itself is held against the original, without the verification that would
refuse what is wrong.

What can go is counted by running the model: where it answers an input from which slices are deleted with an output
from which they are deleted, or does not notice, a consistent cut exists.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto, ValueInfoProto, numpy_helper

import onnxshrink
from onnxshrink.errors import NotEqualError, OnnxshrinkError

from . import engine
from .outcome import Outcome
from .wrap import FLOATS, Wrapped, zeros_left

CONSTANT = 0.5
"""The value of slices that are constant but not zero; in the domain of most operators."""

HIGHEST_RANK = 6
"""Tensors of more axes are not planted: the readers' chain would be longer than the model."""


WIDEST = 4096
"""Longer axes are not planted: a gate's matrix has the square of that many entries."""


@dataclass(frozen=True)
class Case:
    """A model, the values of its inputs, and the operator it is about."""

    model: ModelProto
    feeds: dict[str, Any]
    operator: str = ""

    @property
    def inputs(self) -> list[ValueInfoProto]:
        """The inputs that have no initializer."""
        return [value for value in self.model.graph.input if value.name in self.feeds]


@dataclass(frozen=True)
class Planting:
    """What is planted around a case.

    Attributes:
        gates: (input, axis, dead slices) of the inputs that stay variable; all others are constants.
        value: what dead slices hold.
        zeroed: constants or initializers with zero slices: (name, axis, slice).
    """

    gates: tuple[tuple[str, int, tuple[int, ...]], ...]
    value: float = 0.0
    zeroed: tuple[tuple[str, int, int], ...] = ()

    def __str__(self) -> str:
        gates = [f"{name}[axis {axis}: {list(dead)}] = {self.value}" for name, axis, dead in self.gates]
        return ", ".join([*gates, *(f"{name}[axis {axis}: {k}] = 0" for name, axis, k in self.zeroed)])


def run_case(name: str, case: Case) -> Outcome:
    """A case as it is, and with everything that can be planted around it."""
    tally = Tally()
    tally.plain(case)
    try:
        example = next(iter(engine.engines_for(case.model, case.feeds).values()))
    except engine.CannotRun:
        example = None
    for planting in plantings(case) if example is not None and len(example) == len(case.model.graph.output) else ():
        tally.plant(case, planting, example, zlib.crc32(name.encode()))
    return tally.outcome(name, case)


# --- planting


def numeric(value: ValueInfoProto, array: Any) -> bool:
    """Whether a value is a tensor of numbers with axes."""
    kind = value.type.tensor_type.elem_type if value.type.HasField("tensor_type") else TensorProto.UNDEFINED
    excluded = (TensorProto.UNDEFINED, TensorProto.STRING, TensorProto.COMPLEX64, TensorProto.COMPLEX128)
    if kind in excluded or not 0 < np.ndim(array) <= HIGHEST_RANK:
        return False
    return np.size(array) > 0 and max(np.shape(array)) <= WIDEST


def dead_of(size: int) -> tuple[int, ...]:
    """The slices that are planted in an axis: not the first, not contiguous, and most are left."""
    return () if size < 2 else (1,) if size < 5 else (1, 3)


def unread_of(size: int) -> tuple[int, ...]:
    """The slices that the reader does not look at; others than the dead ones."""
    return (2,) if size > 2 else ()


def plantings(case: Case) -> Iterator[Planting]:
    """Dead and constant slices along each axis of each input, of all float inputs at once, and zeros in weights."""
    able = [v.name for v in case.inputs if numeric(v, case.feeds[v.name])]
    floats = [v.name for v in case.inputs if v.name in able and v.type.tensor_type.elem_type in FLOATS]
    main = floats or able[:1]
    for name in main:
        for axis, size in enumerate(np.shape(case.feeds[name])):
            if size > 1:
                yield Planting(((name, axis, dead_of(size)),))
                if name == main[0]:
                    yield Planting(((name, axis, dead_of(size)),), CONSTANT)
    yield from _together(case, floats)
    weights = [(name, np.shape(case.feeds[name])) for name in floats[1:]]
    weights += [(t.name, tuple(t.dims)) for t in case.model.graph.initializer if t.data_type in FLOATS]
    for first in main[:1]:
        shape = np.shape(case.feeds[first])
        axis = min(1, len(shape) - 1)
        gates = ((first, axis, dead_of(shape[axis])),)
        for name, sizes in weights:
            for own, size in enumerate(sizes):
                if size > 1:
                    yield Planting(gates, zeroed=((name, own, size - 1),))
        if weights and weights[0][1]:  # the filters and, where one follows, the bias
            last = weights[0][1][0] - 1
            biases = [(name, 0, last) for name, sizes in weights[1:] if sizes == weights[0][1][:1]]
            if biases and last:
                yield Planting(gates, zeroed=((weights[0][0], 0, last), *biases))


def _together(case: Case, floats: Sequence[str]) -> Iterator[Planting]:
    """Gates on all float inputs, along axes that broadcasting aligns; the second one has more dead slices."""
    rank = max((np.ndim(case.feeds[name]) for name in floats), default=0)
    for back in range(1, rank + 1):
        gates: list[tuple[str, int, tuple[int, ...]]] = []
        for name in floats:
            axis = np.ndim(case.feeds[name]) - back
            size = np.shape(case.feeds[name])[axis] if axis >= 0 else 1
            if size > 1:
                more = (0,) if len(gates) == 1 and size > 4 else ()
                gates.append((name, axis, (*more, *dead_of(size))))
        if len(gates) > 1:
            yield Planting(tuple(gates))


def wrapped(case: Case, planting: Planting, example: Sequence[Any], seed: int, first: int | None) -> Wrapped:
    """The planted model; its readers look at axis `first` first."""
    net = Wrapped(case.model, case.feeds, seed)
    variable = {name for name, _, _ in planting.gates}
    zeroed: dict[str, list[tuple[int, int]]] = {}
    for name, axis, where in planting.zeroed:
        zeroed.setdefault(name, []).append((axis, where))
    constants = {
        v.name: case.feeds[v.name] for v in case.inputs if isinstance(case.feeds[v.name], np.ndarray | np.generic)
    }
    constants |= {t.name: numpy_helper.to_array(t) for t in case.model.graph.initializer if t.name in zeroed}
    for name, value in constants.items():
        if name in variable:
            continue
        array = np.array(value)
        for axis, where in zeroed.get(name, ()):
            array[(slice(None),) * axis + (where,)] = 0
        net.constant(name, array)
    for name, axis, dead in planting.gates:
        net.gate(name, axis, dead, planting.value)
    for value, array in zip(case.model.graph.output, example, strict=True):
        if numeric(value, array):
            sizes = enumerate(np.shape(array))
            net.read(value.name, np.asarray(array), {axis: unread_of(size) for axis, size in sizes}, first)
    return net


# --- what can go, by running the model


class Probe:
    """The case as a function of one input, of any shape."""

    def __init__(self, case: Case, planting: Planting):
        self.case, self.value = case, planting.value
        self.name, self.axis, self.dead = planting.gates[0]
        self.model = ModelProto()
        self.model.CopyFrom(case.model)
        del self.model.graph.value_info[:]
        for value in [*self.model.graph.input, *self.model.graph.output]:
            if value.type.HasField("tensor_type") and value.name not in {t.name for t in case.model.graph.initializer}:
                value.type.tensor_type.ClearField("shape")
        self.draws = self._draws()
        self._whole = [self._run(array, {}) for array in self.draws]

    def _draws(self) -> list[np.ndarray]:
        """Inputs with the planted slices: the case's own values, moved about, and with the other sign."""
        own = np.array(self.case.feeds[self.name])
        moved = np.random.default_rng(5).permutation(own.reshape(-1)).reshape(own.shape)
        found = [own, moved]
        if own.dtype.kind == "f":
            found.append(-moved)
        for array in found:
            array[(slice(None),) * self.axis + (list(self.dead),)] = np.array(self.value).astype(array.dtype)
        return found

    def _run(self, array: np.ndarray, others: Mapping[str, Any]) -> list[Any] | None:
        feeds = {**self.case.feeds, **others, self.name: array}
        for which in ("runtime", "reference"):
            try:
                return engine.run(self.model, feeds, which)
            except engine.CannotRun:
                continue
        return None

    def _aligned(self, where: list[int]) -> dict[str, Any]:
        """The other inputs without the slices, where they broadcast along the same axis."""
        own = np.asarray(self.case.feeds[self.name])
        back = own.ndim - self.axis
        others = {}
        for name, array in self.case.feeds.items():
            axis = np.ndim(array) - back if isinstance(array, np.ndarray) else -1
            if name != self.name and axis >= 0 and array.shape[axis] == own.shape[self.axis]:
                others[name] = np.delete(array, where, axis)
        return others

    def follows(self, where: Sequence[int]) -> list[int | None]:
        """For each output the axis that loses exactly the slices that the input loses, None where it does not notice.

        Returns an empty list where deleting slices does anything else.
        """
        if not where:
            return []
        variants: list[dict[str, Any]] = [{}]
        if others := self._aligned(list(where)):
            variants.append(others)
        for others in variants:
            seen = {self._lost(k, list(where), others) for k in range(len(self.draws))}
            if len(seen) == 1 and (axes := seen.pop()) is not None:
                return list(axes)
        return []

    def _lost(self, draw: int, where: list[int], others: Mapping[str, Any]) -> tuple[int | None, ...] | None:
        whole, less = self._whole[draw], self._run(np.delete(self.draws[draw], where, self.axis), others)
        if whole is None or less is None:
            return None
        axes: list[int | None] = []
        for x, y in zip(whole, less, strict=True):
            if not isinstance(x, np.ndarray) or not isinstance(y, np.ndarray) or x.dtype.kind not in "fiub":
                return None
            if not x.size:
                return None
            if x.shape == y.shape and not engine.difference(x, y):
                axes.append(None)
                continue
            near = sorted(range(x.ndim), key=lambda a: a != self.axis)
            found = [a for a in near if max(where) < x.shape[a] and not engine.difference(np.delete(x, where, a), y)]
            if not found:
                return None
            axes.append(found[0])
        return tuple(axes)

    def dead_removable(self, axes: Sequence[int | None]) -> int:
        """Of the planted dead slices, how many can go: all where they make zeros, all but one where constants."""
        zero = constant = bool(axes)
        for index, axis in enumerate(axes):
            if axis is None:
                continue
            for answer in self._whole:
                rows = (
                    np.take(answer[index], list(self.dead), axis).astype(np.float64) if answer else np.array([np.nan])
                )
                first = self._whole[0][index].take(self.dead[0], axis).reshape(-1)[:1] if self._whole[0] else np.nan
                constant &= bool(np.isfinite(rows).all() and (rows == first).all())
                zero &= bool((rows == 0).all())
        return len(self.dead) if zero else len(self.dead) - 1 if constant else 0


# --- running


@dataclass
class Tally:
    """The sum over a case and its plantings."""

    states: list[str] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    planted: int = 0
    removable: int = 0
    removed: int = 0
    seconds: float = 0.0
    size: int = 0
    missed: list[str] = field(default_factory=list)

    def say(self, state: str, reason: str = "") -> None:
        self.states.append(state)
        if reason and reason not in self.reasons:
            self.reasons.append(reason)

    def optimize(self, model: ModelProto, **options: Any) -> onnxshrink.Result | None:
        self.size = max(self.size, model.ByteSize())
        started = time.perf_counter()
        try:
            return onnxshrink.optimize(model, align=1, **options)
        except NotEqualError as error:
            raise AssertionError(f"a wrong cut was planned: {error}") from error
        except OnnxshrinkError as error:
            line = str(error)
            assert line.strip(), "a refusal says why"
            self.say("refused", line)
            return None
        finally:
            self.seconds += time.perf_counter() - started

    def plain(self, case: Case) -> None:
        """The case as it is, verified as for a user, and compared here too."""
        result = self.optimize(case.model)
        if result is not None:
            self.judge(case.model, result, case.feeds)

    def judge(self, model: ModelProto, result: onnxshrink.Result, feeds: Mapping[str, Any]) -> None:
        """Hold a result against its original.

        Raises:
            AssertionError: they differ.
        """
        if not result.changed:
            self.say("unchanged")
            return
        try:
            answers = engine.engines_for(model, feeds)
        except engine.CannotRun as error:
            self.say("unverified", f"no engine runs the original: {error}")
            return
        if not all(map(engine.finite, [*answers.values(), list(feeds.values())])):
            self.say("unverified", "the input or the original's answer is not finite")
            return
        text = engine.same_answers(result.model, answers, feeds)
        if text and engine.same_answers(model, answers, feeds):
            self.say("unverified", "the original answers differently each time")
            return
        assert not text, text
        self.say("equal")

    def plant(self, case: Case, planting: Planting, example: Sequence[Any], seed: int) -> None:
        """One planting; around a case that nothing runs then, it says nothing and is left out."""
        probe = Probe(case, planting) if len(planting.gates) == 1 and not planting.zeroed else None
        axes = probe.follows(planting.gates[0][2]) if probe is not None else []
        first = next((axis for axis in axes if axis is not None), planting.gates[0][1])
        net = wrapped(case, planting, example, seed, first)
        model = net.build()
        try:
            engine.engines_for(model, net.feeds)
        except engine.CannotRun:
            return
        try:
            result = self.optimize(model, negligible=0, verify=False)
            if result is not None:
                self.judge(model, result, net.feeds)
        except Exception as error:
            raise AssertionError(f"planted {planting}: {error}") from error
        if result is not None:
            self._count(planting, net, result.model, probe, axes)

    def _count(
        self, planting: Planting, net: Wrapped, model: ModelProto, probe: Probe | None, axes: Sequence[int | None]
    ) -> None:
        dead = sum(len(slices) - zeros_left(model, f"{name}:gate", 0) for name, _, slices in planting.gates)
        unread = sum(count - zeros_left(model, reader, 1) for reader, count in net.unread.items())
        self.planted += sum(len(slices) for _, _, slices in planting.gates) + sum(net.unread.values())
        self.removed += dead + unread
        if probe is None:
            return
        removable = probe.dead_removable(axes)
        self.removable += removable
        if dead < removable:
            self.missed.append(f"{planting}: {dead} of {removable} are gone")

    def outcome(self, name: str, case: Case) -> Outcome:
        order = ("equal", "unverified", "unchanged", "refused")
        state = next((s for s in order if s in self.states), "unchanged")
        return Outcome(
            name,
            state,
            self.planted,
            self.removable,
            self.removed,
            self.seconds,
            "; ".join(self.reasons),
            self.size,
            case.operator,
            tuple(self.missed),
        )
