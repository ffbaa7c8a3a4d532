"""Maker: a random graph under construction, typed, in two worlds.

Every tensor has a shape in two worlds that differ in the sizes of the dynamic dimensions, so a step that hard-codes
a dynamic size is noticed at once: onnx's own inference refuses it, or the two worlds disagree. A step that does not
fit is undone. Weights get planted zero, constant and unread slices.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, TypeProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from tests.zoo.net import sparse

WORLDS = ({"batch": 2, "side": 6, "time": 5}, {"batch": 3, "side": 8, "time": 4})
LARGEST = 6000
"""Largest number of elements of a tensor."""

NO_DOUBLE = {
    "Acosh", "Asin", "Asinh", "Atan", "Atanh", "AveragePool", "Celu", "Conv", "ConvTranspose", "Cosh", "Elu", "Erf",
    "GRU",    "Gelu", "GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool", "GridSample", "GroupNormalization",
    "HardSigmoid", "HardSwish", "Hardmax", "InstanceNormalization", "LRN", "LSTM", "LeakyRelu", "LpPool",
    "Mean", "Mish", "PRelu", "RNN", "Resize", "Selu", "Softplus", "Softsign", "Tan", "ThresholdedRelu",
}  # fmt: skip
"""Operators for which ONNX Runtime has no kernel in double precision."""

STAND_IN = {"GreaterOrEqual": "Greater", "LessOrEqual": "Less"}
"""Operators that onnx infers no shape for, and one of the same type."""

Shape = tuple[int, ...]


class Rejected(Exception):
    """A step does not fit what there is."""


@dataclass(frozen=True, eq=False)
class Tensor:
    """A tensor's type in both worlds, and its values where it is a small integer that follows from constants and
    shapes."""

    name: str
    dtype: np.dtype
    shapes: tuple[Shape, Shape]
    values: tuple[np.ndarray, np.ndarray] | None = None

    @property
    def shape(self) -> Shape:
        return self.shapes[0]

    @property
    def rank(self) -> int:
        return len(self.shapes[0])

    @property
    def is_float(self) -> bool:
        return self.dtype.kind == "f"

    @property
    def static(self) -> bool:
        return self.shapes[0] == self.shapes[1]

    def fixed(self, axis: int) -> bool:
        """Whether the axis has the same length in both worlds."""
        return self.shapes[0][axis] == self.shapes[1][axis]


Operand = Tensor | None


class Maker:
    """A graph that grows by random steps.

    Attributes:
        rng: the only source of randomness.
        open: tensors that later steps may use, oldest first; constants are not among them.
        dtype: the float type of the model.
        share: how many of a weight's slices are planted.
    """

    def __init__(self, seed: int):
        self.rng = np.random.default_rng(seed)
        self.opset = int(self.rng.choice(range(11, 25)))
        self.ir_version = 10 if self.opset > 20 else int(self.rng.integers(7, 11))
        self.dtype = np.dtype(self.rng.choice(["float32"] * 36 + ["float16"] * 2 + ["float64"] * 2))
        self.share = float(self.rng.choice([0.15, 0.35, 0.6]))
        self.nodes: list[onnx.NodeProto] = []
        self.inputs: list[tuple[Tensor, list[int | str]]] = []
        self.initializers: dict[str, np.ndarray] = {}
        self.open: list[Tensor] = []
        self.outputs: list[Tensor] = []
        self.domains: dict[str, int] = {"": self.opset}
        self.types: dict[str, tuple[TypeProto, TypeProto]] = {}
        self._count = 0

    # --- randomness

    def chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def integer(self, low: int, high: int) -> int:
        """A random integer, both ends included."""
        return int(self.rng.integers(low, high + 1))

    def choice(self, items: Iterable):  # type: ignore[no-untyped-def, type-arg]
        items = list(items)
        if not items:
            raise Rejected("nothing to choose from")
        return items[int(self.rng.integers(len(items)))]

    def chosen(self, count: int, share: float | None = None) -> list[int]:
        """Indices of planted slices."""
        return [int(i) for i in np.flatnonzero(self.rng.random(count) < (self.share if share is None else share))]

    def pick(self, fits: Callable[[Tensor], bool] = lambda t: True, *, kind: str = "f") -> Tensor:
        """A tensor of this kind of type that fits; mostly one of the last."""
        found = [t for t in self.open if t.dtype.kind in kind and (kind != "f" or t.dtype == self.dtype) and fits(t)]
        if not found:
            raise Rejected("no tensor fits")
        return found[-1] if self.chance(0.6) else self.choice(found[-12:])

    # --- tensors

    def fresh(self, base: str) -> str:
        self._count += 1
        return f"{base.lower()}_{self._count}"

    def input(self, dims: Sequence[int | str], dtype: object = None) -> Tensor:
        shapes = [tuple(world[d] if isinstance(d, str) else d for d in dims) for world in WORLDS]
        tensor = Tensor(self.fresh("in"), np.dtype(dtype or self.dtype), (shapes[0], shapes[1]))
        self.inputs.append((tensor, list(dims)))
        self._note(tensor)
        self.open.append(tensor)
        return tensor

    def const(self, value: object, dtype: object = None) -> Tensor:
        """A constant: floats take the model's type, integers become int64."""
        array = np.asarray(value)
        if dtype is None:
            dtype = self.dtype if array.dtype.kind == "f" else array.dtype if array.dtype.kind == "b" else np.int64
        array = np.ascontiguousarray(array.astype(dtype)).reshape(array.shape)
        small = array if array.dtype == np.int64 else None
        return self._constant(array, None if small is None else (small, small))

    def _constant(self, array: np.ndarray, values: tuple[np.ndarray, np.ndarray] | None) -> Tensor:
        """Mostly an initializer, sometimes a Constant node, or an initializer that another node reads already."""
        twin = next(
            (n for n, a in self.initializers.items() if a.dtype == array.dtype and np.array_equal(a, array)), ""
        )
        if twin and self.chance(0.7):
            return self._note(Tensor(twin, array.dtype, (array.shape, array.shape), values))
        name = self.fresh("const")
        tensor = self._note(Tensor(name, array.dtype, (array.shape, array.shape), values))
        if self.chance(0.1):
            value = numpy_helper.from_array(array, name)
            self.nodes.append(helper.make_node("Constant", [], [name], name=f"node_{name}", value=value))
        else:
            self.initializers[name] = array
        return tensor

    def weight(self, *shape: int, fan_in: int = 1, planted: Sequence[int] = (), zeros: bool = True) -> Tensor:
        """Normal values, with zero slices along the `planted` axes; sometimes the weight of another node again."""
        if self.chance(0.08):
            same = [
                n for n, a in self.initializers.items() if a.shape == shape and a.dtype == self.dtype and a.size > 1
            ]
            if same:
                name = self.choice(same)
                return Tensor(name, self.dtype, (shape, shape))
        array = self.rng.standard_normal(shape) * max(1, fan_in) ** -0.5
        for axis in planted if zeros else ():
            array[(slice(None),) * axis + (self.chosen(shape[axis]),)] = 0
        tensor = self.const(array)
        if self.chance(0.04):  # a weight that is computed from constants
            tensor = self.op("Mul", tensor, self.const(float(self.rng.uniform(0.5, 1.5))), closed=True)
        return tensor

    def bias(self, count: int, zero: Sequence[int] = ()) -> Tensor:
        """Values of which some are zero, `zero` among them with probability one half each."""
        values = self.rng.standard_normal(count) * 0.5
        values[[i for i in zero if self.chance(0.5)]] = 0
        return self.const(values)

    # --- nodes

    def op(
        self,
        op_type: str,
        *inputs: Operand,
        domain: str = "",
        like: Tensor | None = None,
        closed: bool = False,
        **attributes: object,
    ) -> Tensor:
        """A node with one output; see `ops`."""
        return self.ops(
            op_type, *inputs, domain=domain, like=None if like is None else [like], closed=closed, **attributes
        )[0]

    def ops(
        self,
        op_type: str,
        *inputs: Operand,
        count: int = 1,
        domain: str = "",
        like: list[Tensor] | None = None,
        closed: bool = False,
        **attributes: object,
    ) -> list[Tensor]:
        """A node.

        Args:
            count: its number of outputs.
            like: tensors with the types of the outputs, for operators that onnx knows no inference of.
            closed: later steps do not use the outputs.

        Raises:
            Rejected: onnx's inference refuses the node, or a result is empty or too large.
        """
        if op_type in NO_DOUBLE and any(t is not None and t.dtype == np.float64 for t in inputs):
            raise Rejected(f"{op_type} has no kernel in double precision")
        names = ["" if t is None else t.name for t in inputs]
        while names and not names[-1]:
            names.pop()
        outputs = [self.fresh(op_type) for _ in range(count)]
        if domain:
            self.domains[domain] = 1
        node = helper.make_node(op_type, names, outputs, name=f"node_{outputs[0]}", domain=domain, **attributes)
        if like is not None:
            found = [(t.dtype, t.shapes) for t in like]
        else:
            worlds = [self._infer(node, inputs, world) for world in (0, 1)]
            found = [(a[0], (a[1], b[1])) for a, b in zip(*worlds, strict=True)]
        self.nodes.append(node)
        results = []
        for place, (name, (dtype, shapes)) in enumerate(zip(outputs, found, strict=True)):
            if any(int(np.prod(s)) > LARGEST or min(s, default=1) < 1 for s in shapes):
                raise Rejected(f"{op_type} gives {shapes}")
            values = self._values(node, inputs, place) if dtype == np.int64 else None
            tensor = self._note(Tensor(name, dtype, shapes, values))
            results.append(tensor)
            if not closed:
                self.open.append(tensor)
        return results

    def _note(self, tensor: Tensor) -> Tensor:
        kind = helper.np_dtype_to_tensor_dtype(tensor.dtype)
        one, other = (helper.make_tensor_type_proto(kind, shape) for shape in tensor.shapes)
        self.types[tensor.name] = one, other
        return tensor

    def _infer(self, node: onnx.NodeProto, inputs: Sequence[Operand], world: int) -> list[tuple[np.dtype, Shape]]:
        types = {t.name: self.types[t.name][world] for t in inputs if t is not None}
        data = {
            t.name: numpy_helper.from_array(t.values[world] if t.values else self.initializers[t.name], t.name)
            for t in inputs
            if t is not None and (t.values is not None or t.name in self.initializers)
        }
        try:
            schema = onnx.defs.get_schema(STAND_IN.get(node.op_type, node.op_type), self.opset, node.domain)
            found = onnx.shape_inference.infer_node_outputs(
                schema, node, types, data, opset_imports=[helper.make_opsetid("", self.opset)]
            )
        except Exception as error:  # inference raises many types for a node that is not valid
            raise Rejected(f"{node.op_type}: {error}") from error
        results = []
        for name in node.output:
            tensor = found[name].tensor_type if name in found else None
            if (
                tensor is None
                or not tensor.HasField("shape")
                or not all(d.HasField("dim_value") for d in tensor.shape.dim)
            ):
                raise Rejected(f"{node.op_type}: the shape of its output is not inferred")
            dtype = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.elem_type))
            results.append((dtype, tuple(d.dim_value for d in tensor.shape.dim)))
        return results

    def _values(
        self, node: onnx.NodeProto, inputs: Sequence[Operand], place: int
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """Values of a computed integer, in both worlds, where its operands are known (for `Shape`, their shape)."""
        given = [t for t in inputs if t is not None]
        shape = node.op_type in ("Shape", "Size")
        if not shape and not all(t.values is not None for t in given):
            return None
        results = []
        for world in (0, 1):
            feed = {t.name: np.zeros(t.shapes[world]) if shape else t.values[world] for t in given}  # type: ignore[index]
            try:
                results.append(np.asarray(ReferenceEvaluator(node, opsets=self.domains).run(None, feed)[place]))
            except Exception:  # the reference raises many types for what it does not know
                return None
        return results[0], results[1]

    # --- steps

    def attempt(self, step: Callable[[Maker], None]) -> bool:
        """Take a step, or undo it where it does not fit."""
        marks = len(self.nodes), len(self.open), dict(self.initializers), dict(self.domains)
        try:
            step(self)
        except Rejected:
            del self.nodes[marks[0] :], self.open[marks[1] :]
            self.initializers, self.domains = marks[2], marks[3]
            return False
        return len(self.nodes) > marks[0]

    # --- the model

    def model(self) -> ModelProto:
        """The checked model, without what no output needs."""
        needed = {t.name for t in self.outputs}
        nodes = []
        for node in reversed(self.nodes):
            if needed & set(node.output):
                nodes.append(node)
                needed |= set(node.input) | {n for a in node.attribute for c in a.g.node for n in c.input}
        inputs = [
            helper.make_tensor_value_info(t.name, helper.np_dtype_to_tensor_dtype(t.dtype), dims)
            for t, dims in self.inputs
            if t.name in needed
        ]
        tensors = [numpy_helper.from_array(a, n) for n, a in self.initializers.items() if n in needed]
        dense = [t for t in tensors if not self._sparse(t)]
        if len(dense) == len(tensors) and self.chance(0.03):  # overridable defaults
            inputs += [helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in tensors]
        outputs = [
            helper.make_tensor_value_info(
                t.name,
                helper.np_dtype_to_tensor_dtype(t.dtype),
                [a if a == b else None for a, b in zip(*t.shapes, strict=True)],
            )
            for t in self.outputs
        ]
        graph = helper.make_graph(nodes[::-1], "fuzz", inputs, outputs)
        graph.initializer.extend(dense)
        graph.sparse_initializer.extend(sparse(t) for t in tensors if t not in dense)
        model = helper.make_model(
            graph,
            ir_version=self.ir_version,
            opset_imports=[helper.make_opsetid(d, v) for d, v in self.domains.items()],
            producer_name="fuzz",
        )
        onnx.checker.check_model(model)
        return model

    def _sparse(self, tensor: TensorProto) -> bool:
        """Whether to store a weight sparsely: now and then, where it has zeros and is a float."""
        array = self.initializers[tensor.name]
        return bool(array.dtype == np.float32 and array.ndim > 1 and (array == 0).any() and self.chance(0.01))
