"""Layers of a model as models of their own, with any number of channels: what a table of latencies is measured on."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ..verification.inputs import Feeds
from ..verification.shapes import attribute, model_facts

CONVOLUTIONS, PRODUCTS = ("Conv", "ConvTranspose", "FusedConv"), ("Gemm", "FusedGemm", "MatMul", "FusedMatMul")

STEP = 16
"""Largest step of counts that is looked for: the widest vector of a CPU kernel, in floats."""

QUARTERS = 4


@dataclass(frozen=True)
class Layer:
    """A convolution or product with a constant weight.

    Attributes:
        node: as in the model; its weight is input 1.
        weight: the weight's name.
        dims: its shape.
        dtype: its element type, an ONNX one.
        x: shape of the input.
        biased: whether it has a third operand.
        fixed: whether its inputs, and its outputs, are the model's own, so that their number never changes.
        opsets: of the model, by domain.
    """

    node: onnx.NodeProto
    weight: str
    dims: tuple[int, ...]
    dtype: int
    x: tuple[int, ...]
    biased: bool
    fixed: tuple[bool, bool]
    opsets: tuple[tuple[str, int], ...]

    @property
    def kind(self) -> str:
        """All that its latency depends on, for people to read."""
        given = {a.name: helper.get_attribute_value(a) for a in self.node.attribute}
        told = " ".join(f"{name}={_text(value)}" for name, value in sorted(given.items()) if not _usual(name, value))
        name = onnx.TensorProto.DataType.Name(self.dtype).lower()
        weight, x = ("x".join(map(str, dims)) for dims in (self.dims, self.x))
        ends = "".join(
            f" {end} fixed" for end, is_fixed in zip(("inputs", "outputs"), self.fixed, strict=True) if is_fixed
        )
        return f"{self.node.op_type} {name} {weight}{' bias' if self.biased else ''} on {x} {told}{ends}".strip()

    @property
    def groups(self) -> int:
        return int(attribute(self.node, "group", 1)) if self.node.op_type in CONVOLUTIONS else 1

    @property
    def depthwise(self) -> bool:
        """Whether each output reads one input of its own."""
        return self.groups > 1 and self.width[0] == 1

    @property
    def width(self) -> tuple[int, int]:
        """Input channels that an output reads, and output channels."""
        first, second = self.dims[:2]
        if self.node.op_type == "ConvTranspose":
            return first // self.groups, second * self.groups
        if self.node.op_type in CONVOLUTIONS or self._transposed:
            return second, first
        return first, second

    @property
    def _transposed(self) -> bool:
        return bool(attribute(self.node, "transB", 0))

    def grid(self) -> tuple[list[int], list[int]]:
        """Counts of inputs and of outputs that are measured with each other."""
        return self._counts(0), self._counts(1)

    def probes(self, axis: int) -> list[int]:
        """Counts that tell the step of an axis: below its last multiple of `STEP` by 8, 4 and 1."""
        full, counts = self.width[axis], self._counts(axis)
        if len(counts) == 1 or (self.groups > 1 and not self.depthwise):
            return []
        last = full // STEP * STEP if full >= 2 * STEP else full // 4 * 4
        away = (8, 4, 1) if full >= 2 * STEP else (1,)
        return [last - less for less in away if last - less > 0]

    def _counts(self, axis: int) -> list[int]:
        full = self.width[axis]
        if self.fixed[axis] or (axis == 0 and self.depthwise):
            return [full]
        unit = STEP if full >= 2 * STEP else 4
        if axis == 1 and not self.depthwise:
            unit = math.lcm(unit, self.groups)
        parts = {round(full * part / QUARTERS / unit) * unit for part in range(1, QUARTERS)}
        least = max(1, self.groups if axis == 1 and not self.depthwise else 1)
        return sorted(
            {count for count in parts if least <= count < full} | {full} | ({least} if full < unit else set())
        )

    def model(self, inputs: int, outputs: int, copies: int = 1) -> onnx.ModelProto:
        """The layer alone with so many channels, its weights drawn at random; several copies read one input `x`."""
        rng = np.random.default_rng(0)
        dtype = helper.tensor_dtype_to_np_dtype(self.dtype)
        dims, groups = list(self.dims), self.groups
        if self.depthwise:
            groups = max(1, outputs * groups // self.width[1])
        if self.node.op_type == "ConvTranspose":
            dims[:2] = inputs * groups, outputs // groups
        elif self.node.op_type in CONVOLUTIONS or self._transposed:
            dims[:2] = outputs, inputs
        else:
            dims[:2] = inputs, outputs
        shape = self.shape(inputs, outputs)
        nodes, constants, results = [], [], []
        for copy in range(copies):
            node = onnx.NodeProto()
            node.CopyFrom(self.node)
            operands = {f"w{copy}": dims, **({f"b{copy}": [outputs]} if self.biased else {})}
            for name, size in operands.items():
                value = (rng.standard_normal(size) / math.sqrt(max(inputs, 1))).astype(dtype)
                constants.append(numpy_helper.from_array(value, name))
            del node.input[:], node.output[:]
            node.input.extend(["x", *operands])
            node.output.append(f"y{copy}")
            node.name = f"copy{copy}"
            for given in node.attribute:
                if given.name == "group":
                    given.i = groups
            nodes.append(node)
            results.append(onnx.ValueInfoProto(name=f"y{copy}"))
        x = helper.make_tensor_value_info("x", self.dtype, shape)
        graph = helper.make_graph(nodes, "layer", [x], results, constants)
        opsets = [helper.make_opsetid(domain, version) for domain, version in self.opsets]
        return helper.make_model(graph, opset_imports=opsets, ir_version=8)

    def shape(self, inputs: int, outputs: int) -> tuple[int, ...]:
        """Shape of the input with so many channels."""
        x = list(self.x)
        if self.node.op_type not in CONVOLUTIONS:
            x[0 if attribute(self.node, "transA", 0) else -1] = inputs
        elif self.depthwise:
            x[1] = max(1, outputs * self.groups // self.width[1])
        else:
            x[1] = inputs * self.groups
        return tuple(x)

    def feeds(self, inputs: int, outputs: int) -> Feeds:
        """Values for `x`."""
        values = np.random.default_rng(1).standard_normal(self.shape(inputs, outputs))
        return {"x": values.astype(helper.tensor_dtype_to_np_dtype(self.dtype))}


def find_layers(
    model: onnx.ModelProto, folder: Path | None, input_shapes: Mapping[str, tuple[int, ...]]
) -> Iterator[Layer]:
    """The layers of a model's main graph whose shapes are known, in its order.

    Args:
        model: the model; external data need not be loaded.
        folder: where external data lies.
        input_shapes: of all inputs.
    """
    facts = model_facts(model, folder, dict(input_shapes))
    weights = {t.name: (tuple(t.dims), t.data_type) for t in model.graph.initializer}
    for node in model.graph.node:
        tensor = next((a.t for a in node.attribute if a.name == "value"), None)
        if node.op_type == "Constant" and tensor is not None:
            weights[node.output[0]] = (tuple(tensor.dims), tensor.data_type)
    floats = {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE}
    ends = {value.name for value in model.graph.input}, {value.name for value in model.graph.output}
    opsets = tuple((o.domain, o.version) for o in model.opset_import)
    for node in model.graph.node:
        if node.op_type not in CONVOLUTIONS + PRODUCTS or not 2 <= len(node.input) <= 3:
            continue
        dims, dtype = weights.get(node.input[1], ((), 0))
        x = facts.shape(node.input[0]) or ()
        sizes = tuple(dim for dim in x if isinstance(dim, int) and dim > 0)
        rank = 3 if node.op_type in CONVOLUTIONS else 2
        if dtype not in floats or len(sizes) != len(x) or len(x) < 2 or node.input[0] in facts.constants:
            continue
        if len(dims) >= rank if rank == 3 else len(dims) == rank:
            fixed = node.input[0] in ends[0], node.output[0] in ends[1]
            biased = len(node.input) > 2 and bool(node.input[2])
            yield Layer(node, node.input[1], dims, dtype, sizes, biased, fixed, opsets)


def _usual(name: str, value: object) -> bool:
    """Whether an attribute has the value that it has where nothing is said, or says what the weight does."""
    default: object = {"auto_pad": b"NOTSET", "group": 1, "alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0}.get(name)
    if isinstance(value, list):
        default = {"pads": [0] * len(value), "dilations": [1] * len(value), "strides": [1] * len(value)}.get(name)
    return name == "kernel_shape" or value == default


def _text(value: object) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
