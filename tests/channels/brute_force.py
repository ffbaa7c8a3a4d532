"""The largest cut of a small graph, found by trying, without a rule.

A cut removes slices of constants: one slice of one axis of one of them, then whatever must go with it so that ONNX
Runtime runs the model again. Which slices these can be is tried out: where a node fails, slices of the constants that
it reads, or of those that made its operands, go too. A cut is right if the outputs are what they were; the bias of a
layer may take up a difference that is constant. Nothing is known here of operators, except that Conv, Gemm and MatMul
are layers with a bias and that `group` counts as a size. Carriers are not tried, so a plan may well remove more.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
import onnx
from onnx import ModelProto, helper, numpy_helper

from tests.fuzz.equality import differs, feeds
from tests.fuzz.shrinker import prune
from tests.zoo import oracle
from tests.zoo.oracle import Arrays

LAYERS = ("Conv", "Gemm", "MatMul")

DEPTH = 6
"""How many slices may go at once."""

Slice = tuple[str, int, int]


class Search:
    """A search on one model; `model` is the smallest right cut so far, `runs` counts what was tried."""

    def __init__(self, model: ModelProto, limit: int = 4000):
        self.original, self.model, self.limit = model, model, limit
        self.feeds = [feeds(model, seed, 0, scale) for seed, scale in ((0, 1.0), (1, 4.0))]
        self.expected = [oracle.run(model, arrays) for arrays in self.feeds]
        self.runs = 0

    def run(self) -> ModelProto:
        """Take one slice after the other away until none can go."""
        found = True
        while found and self.runs < self.limit:
            found = False
            for start in slices(self.model):
                smaller = self._cut(self.model, [start], set())
                if smaller is not None:
                    self.model, found = smaller, True
                    break
        return self.model

    def _cut(self, model: ModelProto, gone: list[Slice], seen: set[frozenset[Slice]]) -> ModelProto | None:
        """A right model without these slices and what goes with them."""
        if frozenset(gone) in seen or len(gone) > DEPTH or self.runs >= self.limit:
            return None
        seen.add(frozenset(gone))
        candidate = without(model, gone)
        self.runs += 1
        failing = self._failing(candidate)
        if failing is None:
            return candidate if self._right(candidate) else self._with_bias(model, candidate, gone)
        for more in suspects(candidate, failing, {name for name, _, _ in gone}):
            smaller = self._cut(model, [*gone, more], seen)
            if smaller is not None:
                return smaller
        return None

    def _failing(self, candidate: ModelProto) -> str | None:
        """The node at which a model does not run, or None."""
        try:
            oracle.session(candidate, optimize=False, threads=1).run(None, self.feeds[0])
        except Exception as error:  # ONNX Runtime raises many types, and names the node in its message
            named = re.search(r"[Nn]ode[: ]*(?:Name:)?\s*\(?'?(node_\w+)", str(error)) or re.search(
                r"Name:'(node_\w+)'", str(error)
            )
            return named.group(1) if named else ""
        return None

    def _right(self, candidate: ModelProto) -> bool:
        for arrays, expected in zip(self.feeds, self.expected, strict=True):
            if differs(expected, oracle.run(candidate, arrays), 1e-4):
                return False
        return True

    def _with_bias(self, model: ModelProto, candidate: ModelProto, gone: list[Slice]) -> ModelProto | None:
        """The candidate with biases that take up what is constant, if it is right then."""
        names = {name for name, _, _ in gone}
        for node in candidate.graph.node:
            if node.op_type not in LAYERS or node.input[1] not in names:
                continue
            wanted = [expose(model, node.output[0], arrays) for arrays in self.feeds]
            actual = [expose(candidate, node.output[0], arrays) for arrays in self.feeds]
            if any(a.shape != b.shape for a, b in zip(wanted, actual, strict=True)):
                continue  # its own channels went too
            if not bears_bias(candidate, node):
                return None
            axis = 1 if node.op_type == "Conv" else actual[0].ndim - 1
            delta = np.concatenate(
                [np.moveaxis(a - b, axis, 0).reshape(a.shape[axis], -1) for a, b in zip(wanted, actual, strict=True)], 1
            )
            if np.ptp(delta, axis=1).max() > 1e-4 * max(1.0, float(np.abs(wanted[0]).max())):
                return None
            candidate = biased(candidate, node.name, delta.mean(axis=1), actual[0].ndim - 1 - axis)
        return candidate if self._right(candidate) else None


def expose(model: ModelProto, tensor: str, arrays: Arrays) -> np.ndarray:
    return oracle.run(oracle.expose(model, [tensor]), arrays)[tensor]


def slices(model: ModelProto) -> Iterator[Slice]:
    """Every slice of every float constant whose axis has more than one."""
    for tensor in model.graph.initializer:
        if numpy_helper.to_array(tensor).dtype.kind == "f":
            for axis, size in enumerate(tensor.dims):
                yield from ((tensor.name, axis, index) for index in range(size) if size > 1)


def without(model: ModelProto, gone: list[Slice]) -> ModelProto:
    """The model without these slices; a grouped Conv that lost some of its rows has fewer groups if it is depthwise."""
    copy = ModelProto()
    copy.CopyFrom(model)
    for tensor in copy.graph.initializer:
        array = numpy_helper.to_array(tensor)
        for axis in range(array.ndim):
            array = np.delete(array, [i for name, a, i in gone if name == tensor.name and a == axis], axis)
        tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array), tensor.name))
    sizes = {t.name: list(t.dims) for t in copy.graph.initializer}
    before = {t.name: list(t.dims) for t in model.graph.initializer}
    for node in copy.graph.node:
        for attribute in node.attribute:
            weight = node.input[1] if len(node.input) > 1 else ""
            if (
                attribute.name == "group"
                and attribute.i > 1
                and weight in sizes
                and before[weight][0] % attribute.i == 0
            ):
                rows = before[weight][0] // attribute.i
                if sizes[weight][0] % rows == 0:
                    attribute.i = sizes[weight][0] // rows
    return copy


def suspects(model: ModelProto, failing: str, taken: set[str]) -> Iterator[Slice]:
    """Slices that may have to go so that a node runs: of constants that it reads, or that made its operands."""
    producer = {o: n for n in model.graph.node for o in n.output}
    constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    nodes = [n for n in model.graph.node if n.name == failing] or list(model.graph.node)
    names: list[str] = []
    queue, seen = nodes, set()
    while queue:
        node = queue.pop(0)
        if node.name in seen:
            continue
        seen.add(node.name)
        names += [n for n in node.input if n in constants and n not in names]
        queue += [producer[n] for n in node.input if n in producer]
    for name in names:
        if name not in taken and constants[name].dtype.kind == "f":
            for axis, size in enumerate(constants[name].shape):
                yield from ((name, axis, index) for index in range(size) if size > 1)


def bears_bias(model: ModelProto, node: onnx.NodeProto) -> bool:
    """Whether a node has a bias or can get one without another node: Conv, Gemm, or a MatMul before an Add."""
    readers = [n for n in model.graph.node if node.output[0] in n.input]
    constants = {t.name for t in model.graph.initializer}
    added = len(readers) == 1 and readers[0].op_type == "Add" and bool(constants & set(readers[0].input))
    return node.op_type != "MatMul" or (added and node.output[0] not in {o.name for o in model.graph.output})


def biased(model: ModelProto, name: str, delta: np.ndarray, trailing: int) -> ModelProto:
    """The model with `delta` added to the output of a node, along the axis that so many others follow."""
    copy = ModelProto()
    copy.CopyFrom(model)
    place = next(i for i, n in enumerate(copy.graph.node) if n.name == name)
    node = copy.graph.node[place]
    out, weight = node.output[0], next(t for t in copy.graph.initializer if t.name == node.input[1])
    array, kind = delta.reshape([-1] + [1] * trailing), numpy_helper.to_array(weight).dtype
    copy.graph.initializer.append(numpy_helper.from_array(array.astype(kind), f"{out}_taken"))
    node.output[0] = f"{out}_short"
    nodes = list(copy.graph.node)
    nodes.insert(place + 1, helper.make_node("Add", [f"{out}_short", f"{out}_taken"], [out], name=f"node_{out}_taken"))
    nodes = [onnx.NodeProto.FromString(n.SerializeToString()) for n in nodes]
    del copy.graph.node[:]
    copy.graph.node.extend(nodes)
    return copy


def weights(model: ModelProto) -> int:
    """Elements of the constants that layers multiply by, where an output needs the layer."""
    needed = prune(model)
    if needed is None:
        return 0
    sizes = {t.name: int(np.prod(t.dims)) for t in needed.graph.initializer}
    return sum(sizes.get(n, 0) for node in needed.graph.node if node.op_type in LAYERS for n in node.input[:2])
