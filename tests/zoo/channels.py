"""How many channels can go: a small reference count for plain CNNs, sharing no code with the package.

The question: how many Conv output channels does a consistent cut remove from a network made of Conv, Gemm,
ConvTranspose, BatchNormalization, Mul and Add by constants, Relu, Clip, pools, nearest Resize, Dropout, LRN, Sum,
Concat, flatten and channel shuffle?

Every channel of every tensor is an *element*. Convs and the input create elements; everything else passes them on,
moves them (Concat, shuffle) or unites them (Sum). What is united stays or goes together. The assumptions make the count
a lower bound of what can go:

- a channel is known only if it follows from weights by the rules in `_forward` (constant planes, no bounds on ranges);
- LRN, Softmax and the graph outputs pin all channels that they see;
- a kept channel is computed from everything that its filter looks at, also where its value happens not to matter;
- all outputs of a Gemm stay;
- a grouped Conv loses the same number of inputs, and of outputs, in each group; which ones stay where the groups differ
  is a greedy choice, so planted masks should be balanced;
- a Conv that pads with zeros, and any ConvTranspose, that reads constants other than zero keeps one of them (in each
  group) as a carrier, chosen greedily; other Convs and Gemms take constants into their bias.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, NodeProto, helper, numpy_helper, shape_inference

Weights = dict[str, np.ndarray]


@dataclass
class Reader:
    """A node that looks at channels selectively: output o needs input c where `looks[o, c]`."""

    node: NodeProto
    tensor: str
    weight: str  # the initializer; a Reshape may lie between
    elements: np.ndarray  # [C]
    values: np.ndarray  # [C], nan where unknown
    looks: np.ndarray  # [O, C]
    outputs: np.ndarray | None  # [O]; None: all of them are required
    padded: bool
    group: int


@dataclass
class Producer:
    """A Conv; a depthwise one passes the elements of its input on."""

    node: NodeProto
    elements: np.ndarray  # [O]
    group: int
    depthwise: bool


def attributes(node: NodeProto) -> dict[str, object]:
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def skeleton_shapes(model: ModelProto) -> dict[str, list[int]]:
    inferred = shape_inference.infer_shapes(model)
    values = [*inferred.graph.input, *inferred.graph.value_info, *inferred.graph.output]
    return {value.name: [d.dim_value for d in value.type.tensor_type.shape.dim] for value in values}


class ChannelGraph:
    """The elements of a network, who makes and who reads them, and what is known about them.

    Attributes:
        elements: tensor -> element ids, shaped like its channel axes ([C], or [g, C/g] inside a shuffle).
        values: tensor -> the constant of each channel, nan where it is not constant.
    """

    def __init__(self, model: ModelProto, weights: Weights | None = None, shapes: dict[str, list[int]] | None = None):
        self.model = model
        self.weights = dict(weights) if weights is not None else {}
        if weights is None:
            self.weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        self.shapes = shapes or skeleton_shapes(model)
        self.elements: dict[str, np.ndarray] = {}
        self.values: dict[str, np.ndarray] = {}
        self.parent: list[int] = []
        self._flat: np.ndarray | None = None
        self.sources: dict[str, str] = {}
        self.readers: list[Reader] = []
        self.producers: list[Producer] = []
        for value in model.graph.input:
            if value.name not in self.weights:
                self._create(value.name, self.shapes[value.name][1])
        for node in model.graph.node:
            self._forward(node)
        for output in model.graph.output:
            self._pin(output.name)

    # --- elements

    def _create(self, tensor: str, channels: int) -> np.ndarray:
        start = len(self.parent)
        self.parent.extend(range(start, start + channels))
        self.elements[tensor] = np.arange(start, start + channels)
        self.values.setdefault(tensor, np.full(channels, np.nan))
        return self.elements[tensor]

    def root(self, element: int) -> int:
        while self.parent[element] != element:
            self.parent[element] = self.parent[self.parent[element]]
            element = self.parent[element]
        return element

    def roots(self, elements: np.ndarray) -> np.ndarray:
        """The class of each element, named by one of its elements; only after the whole graph is read."""
        if self._flat is None:
            flat = np.array(self.parent)
            while (flat[flat] != flat).any():
                flat = flat[flat]
            self._flat = flat
        return self._flat[elements]

    def _unite(self, first: np.ndarray, second: np.ndarray) -> None:
        for a, b in zip(first.ravel(), second.ravel(), strict=True):
            self.parent[self.root(int(b))] = self.root(int(a))

    # --- forward: elements and values

    def _forward(self, node: NodeProto) -> None:
        op, options = node.op_type, attributes(node)
        x, y = node.input[0], node.output[0]
        if all(name in self.weights for name in node.input):
            self._fold(node, options)
        elif op in ("Conv", "ConvTranspose"):
            self._conv(node, options)
        elif op == "Gemm":
            self._gemm(node, options)
        elif op in ("Sum", "Add", "Mul"):
            self._elementwise(node)
        elif op == "Concat":
            self.elements[y] = np.concatenate([self.elements[name] for name in node.input])
            self.values[y] = np.concatenate([self.values[name] for name in node.input])
        elif op in ("Reshape", "Flatten"):
            self._reshape(x, y)
        elif op == "Transpose":
            perm = [axis - 1 for axis in options["perm"][1 : 1 + self.elements[x].ndim]]
            self.elements[y], self.values[y] = self.elements[x].transpose(perm), self.values[x].transpose(perm)
        else:
            self.elements[y], self.values[y] = self.elements[x], self._pointwise(node, self.values[x], options)
            if op in ("LRN", "Softmax"):
                self._pin(x)

    def _fold(self, node: NodeProto, options: dict) -> None:
        x = self.weights[node.input[0]]
        if node.op_type == "Unsqueeze":
            self.weights[node.output[0]] = np.expand_dims(x, tuple(options["axes"]))
        elif node.op_type == "Reshape":
            self.weights[node.output[0]] = x.reshape(self.weights[node.input[1]])
            self.sources[node.output[0]] = node.input[0]
        else:
            raise NotImplementedError(node.op_type)

    def _pointwise(self, node: NodeProto, values: np.ndarray, options: dict) -> np.ndarray:
        op = node.op_type
        if op == "Relu":
            return np.maximum(values, 0)
        if op == "BatchNormalization":
            gamma, beta, mean, var = (self.weights[name].astype(float) for name in node.input[1:5])
            scale = gamma / np.sqrt(var + options.get("epsilon", 1e-5))
            return np.where(scale == 0, beta - mean * scale, values * scale + beta - mean * scale)
        if op == "AveragePool":
            if options.get("count_include_pad") and any(options.get("pads", ())):
                return np.where(values == 0, values, np.nan)
            return values
        if op in ("LRN", "Softmax"):
            return np.where(values == 0, values, np.nan) if op == "LRN" else np.full_like(values, np.nan)
        if op == "Clip":
            return np.clip(values, *(self.weights[name] for name in node.input[1:3]))
        if op in ("MaxPool", "GlobalAveragePool", "Dropout", "Resize"):
            return values
        raise NotImplementedError(op)

    def _elementwise(self, node: NodeProto) -> None:
        tensors = [name for name in node.input if name in self.elements]
        constants = [self.weights[name].ravel() for name in node.input if name in self.weights]
        first, y = tensors[0], node.output[0]
        values = self.values[first]
        for name in tensors[1:]:
            if node.op_type == "Mul":
                raise NotImplementedError("Mul of two tensors")
            self._unite(self.elements[first], self.elements[name])
            values = values + self.values[name]
        for constant in constants:
            if node.op_type == "Mul":
                values = np.where(constant == 0, 0, values * constant)
            else:
                values = values + constant
        self.elements[y], self.values[y] = self.elements[first], values

    def _reshape(self, x: str, y: str) -> None:
        source, target = self.shapes[x], self.shapes[y]
        if len(target) == 2 or (len(target) == 4 and len(source) == 2):
            self.elements[y], self.values[y] = self.elements[x], self.values[x]
        else:
            axes = target[1:-2]
            self.elements[y], self.values[y] = self.elements[x].reshape(axes), self.values[x].reshape(axes)

    def _conv(self, node: NodeProto, options: dict) -> None:
        weight, group = self.weights[node.input[1]], int(options.get("group", 1))
        transposed = node.op_type == "ConvTranspose"
        if transposed:
            if group > 1:
                raise NotImplementedError("grouped ConvTranspose")
            weight = weight.swapaxes(0, 1)
        bias = self.weights[node.input[2]] if len(node.input) > 2 else np.zeros(len(weight))
        elements, values = self.elements[node.input[0]], self.values[node.input[0]]
        padded = transposed or any(options.get("pads", ()))
        sums = weight.astype(float).sum(axis=tuple(range(2, weight.ndim)))
        looks, sums = (spread(array, group) for array in ((weight != 0).any(axis=tuple(range(2, weight.ndim))), sums))
        # known: everything that the filter looks at is known, and zero where the border would show
        safe = values == 0 if padded else ~np.isnan(values)
        known = ~(looks & ~safe).any(axis=1)
        result = np.where(known, bias + sums @ np.nan_to_num(values), np.nan)
        self.values[node.output[0]] = result
        depthwise = group > 1 and weight.shape[1] == 1 and len(weight) == group
        if depthwise:
            self.elements[node.output[0]] = elements
        else:
            self._create(node.output[0], len(weight))
            outputs = self.elements[node.output[0]]
            self.readers.append(
                Reader(node, node.input[0], node.input[1], elements, values, looks, outputs, padded, group)
            )
        self.producers.append(Producer(node, self.elements[node.output[0]], group, depthwise))

    def _gemm(self, node: NodeProto, options: dict) -> None:
        weight = self.weights[node.input[1]]
        weight = weight if options.get("transB") else weight.T
        elements, values = self.elements[node.input[0]], self.values[node.input[0]]
        looks = (weight.reshape(len(weight), len(elements), -1) != 0).any(axis=2)
        self._create(node.output[0], len(weight))
        source = self.sources.get(node.input[1], node.input[1])
        self.readers.append(Reader(node, node.input[0], source, elements, values, looks, None, False, 1))

    def _pin(self, tensor: str) -> None:
        elements = self.elements[tensor].ravel()
        looks = np.ones((1, len(elements)), bool)
        unknown = np.full(len(elements), np.nan)
        self.readers.append(Reader(NodeProto(name="pin"), tensor, "", elements, unknown, looks, None, False, 1))

    # --- backward: what stays

    def kept(self) -> np.ndarray:
        """For each element: whether its class stays, by a least fixpoint with one choice at a time."""
        kept = np.zeros(len(self.parent), bool)  # indexed by root
        readers = [(reader, self.roots(reader.elements), self._outputs(reader)) for reader in self.readers]
        while True:
            self._demand(readers, kept)
            if not self._choose_carrier(readers, kept) and not self._balance_groups(kept):
                return kept[self.roots(np.arange(len(kept)))]

    def removable(self) -> int:
        """Conv output channels that go."""
        kept = self.kept()
        return sum(int((~kept[producer.elements]).sum()) for producer in self.producers)

    def parameters(self) -> int:
        """Weights and biases of Conv, ConvTranspose, Gemm and BatchNormalization that are left after the cut.

        No bias is counted that was not there before, although folding may need one.
        """
        kept, total = self.kept(), 0
        for node in self.model.graph.node:
            if node.op_type == "BatchNormalization":
                total += 4 * int(kept[self.elements[node.input[0]]].sum())
            elif node.op_type in ("Conv", "ConvTranspose", "Gemm"):
                weight = self.weights[node.input[1]]
                source, target = kept[self.elements[node.input[0]]], kept[self.elements[node.output[0]]]
                outputs = len(target) if node.op_type == "Gemm" else int(target.sum())
                group = int(attributes(node).get("group", 1))
                inputs = outputs if group == len(source) else outputs * int(source.sum()) // group
                total += weight.size // (len(target) * len(source) // group) * inputs + outputs * (len(node.input) > 2)
        return total

    def _outputs(self, reader: Reader) -> np.ndarray | None:
        return None if reader.outputs is None else self.roots(reader.outputs)

    @staticmethod
    def _reads(reader: Reader, outputs: np.ndarray | None, kept: np.ndarray) -> np.ndarray:
        rows = reader.looks if outputs is None else reader.looks[kept[outputs]]
        return rows.any(axis=0)

    def _demand(self, readers: list, kept: np.ndarray) -> None:
        changed = True
        while changed:
            changed = False
            for reader, roots, outputs in reversed(readers):
                wanted = roots[self._reads(reader, outputs, kept) & np.isnan(reader.values)]
                if not kept[wanted].all():
                    kept[wanted] = changed = True

    def _choose_carrier(self, readers: list, kept: np.ndarray) -> bool:
        """Keeps one constant for a padded Conv that has lost all of those it reads; the one that serves most."""
        votes: dict[int, list[float]] = {}
        for reader, roots, outputs in readers:
            if not reader.padded:
                continue
            constant = ~np.isnan(reader.values) & (reader.values != 0)
            wanted = constant & self._reads(reader, outputs, kept) & ~kept[roots]
            for part in np.split(np.arange(len(roots)), reader.group):
                if wanted[part].any() and not (constant & kept[roots])[part].any():
                    for index in part[constant[part]]:
                        vote = votes.setdefault(int(roots[index]), [0, 0.0])
                        vote[0] += 1
                        vote[1] = max(vote[1], abs(float(reader.values[index])))
        if not votes:
            return False
        kept[max(votes, key=lambda root: (votes[root][0], votes[root][1], -root))] = True
        return True

    def _balance_groups(self, kept: np.ndarray) -> bool:
        """Keeps one more channel where a group of a grouped Conv would lose more than another."""
        sides = [(self.roots(r.elements), r.group) for r in self.readers if r.group > 1]
        sides += [(self.roots(p.elements), p.group) for p in self.producers if p.group > 1 and not p.depthwise]
        for roots, group in sides:
            stays = kept[roots].reshape(group, -1)
            counts = stays.sum(axis=1)
            if counts.min() < counts.max():
                fewest = int(counts.argmin())
                kept[roots.reshape(group, -1)[fewest][~stays[fewest]][0]] = True
                return True
        return False


def spread(matrix: np.ndarray, group: int) -> np.ndarray:
    """[O, C/g] of a grouped operator -> block-diagonal [O, C]."""
    rows, columns = matrix.shape
    result = np.zeros((rows, columns * group), matrix.dtype)
    for index, part in enumerate(np.split(np.arange(rows), group)):
        result[part, index * columns : (index + 1) * columns] = matrix[part]
    return result
