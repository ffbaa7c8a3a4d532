"""Multiply-adds (MACs) and parameters of a model, counted from shapes alone.

Only contractions are counted: convolutions, matrix products, recurrent layers. A node whose shapes are not all
known, or for which there is no formula, has no count rather than a wrong one, and then the sum has none either.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx
from onnx import AttributeProto, GraphProto, NodeProto, TensorProto, inliner

from ..errors import InputError
from ..graph.model import Model
from ..graph.shapes import skeleton
from ..verification.inputs import signature
from ..verification.shapes import Facts, attribute, domain_of, model_facts
from .inputs import open_dimensions, shapes_at


@dataclass(frozen=True)
class NodeMacs:
    """Multiply-adds of the node that gives `output` first; `macs` is None where they are unknown, and `unknown` then
    says why.
    """

    output: str
    op: str
    macs: int | None
    unknown: str = ""


@dataclass(frozen=True)
class MacCount:
    """Multiply-adds of a model, node by node (nodes that multiply nothing are left out)."""

    nodes: tuple[NodeMacs, ...]

    @property
    def total(self) -> int | None:
        """The sum, or None if the count of any node is unknown."""
        counts = [node.macs for node in self.nodes if node.macs is not None]
        return sum(counts) if len(counts) == len(self.nodes) else None

    def __str__(self) -> str:
        if self.total is not None:
            return f"{self.total:,}"
        return "unknown: " + "; ".join(dict.fromkeys(node.unknown for node in self.nodes if node.unknown))


def macs(model: onnx.ModelProto, input_shapes: Mapping[str, Sequence[int]] | None = None, batch: int = 1) -> int | None:
    """Multiply-adds of one run, or None if any node's are unknown (`count_macs` says which and why).

    Args:
        model: the model; external data need not be loaded.
        input_shapes: shapes for inputs whose dynamic dimensions are not only the batch.
        batch: what a dynamic batch is taken to be.
    """
    return count_macs(model, input_shapes, batch).total


def count_macs(
    model: onnx.ModelProto, input_shapes: Mapping[str, Sequence[int]] | None = None, batch: int = 1
) -> MacCount:
    """Multiply-adds of every node that multiplies.

    With X the first input, W the weight, Y the output and |·| the number of elements: Conv |Y|·|W[0]|; ConvTranspose
    |X|·|W[0]| (products that fall on cropped borders included); Gemm and MatMul |Y|·K; Einsum the product of all its
    labels; LSTM, GRU and RNN steps·batch·(|W| + |R|); attention query positions·key positions·(columns of Q + columns
    of Y), what it masks included, and its projection where that is inside. Biases and elementwise work count nothing,
    and neither does what follows from constants alone.

    Args:
        model: the model; external data need not be loaded.
        input_shapes: shapes for inputs whose dynamic dimensions are not only the batch.
        batch: what a dynamic batch is taken to be: the leading dynamic dimension of an input, and every dimension
            that shares its symbol.

    Raises:
        InputError: an entry of `input_shapes` names no input or contradicts the model.
    """
    if model.functions:
        model = inliner.inline_local_functions(skeleton(Model(model)))
    try:
        specs = signature(model)
    except InputError:  # an input that is no tensor, or has no shape: nothing can be assumed for any
        specs = ()
    shapes: dict[str, Any] = {**shapes_at(specs, batch, input_shapes or {})}
    facts = model_facts(model, input_shapes=shapes)
    return MacCount(tuple(_count(model.graph, facts, open_dimensions(specs, shapes))))


def _count(graph: GraphProto, facts: Facts, dynamic: list[str]) -> Iterator[NodeMacs]:
    for node in graph.node:
        output = next(filter(None, node.output), "")
        if facts.constants.issuperset(filter(None, node.output)):
            continue
        if any(_bodies(node)):
            if _multiplies(node):
                yield NodeMacs(output, node.op_type, None, f"{node.op_type} decides at run time what is computed")
        elif domain_of(node) in _DOMAINS and node.op_type in _FORMULAS:
            count = _FORMULAS[node.op_type](_Node(node, facts))
            label = f"{node.op_type} `{node.name or output}`"
            why = f"dynamic {', '.join(dynamic)}" if dynamic else f"shapes of {label} are not inferred"
            yield NodeMacs(output, node.op_type, count, "" if count is not None else why)
        elif _multiplies(node):
            yield NodeMacs(output, node.op_type, None, f"no formula for {node.domain or 'ai.onnx'}.{node.op_type}")


def _multiplies(node: NodeProto) -> bool:
    """Whether a node may multiply, or one in its bodies; without a formula only its name and domain can tell."""
    bodies = list(_bodies(node))
    if bodies:
        return any(_multiplies(inner) for body in bodies for inner in body.node)
    if domain_of(node) not in _DOMAINS or node.op_type in _FORMULAS:
        return True
    return any(part in node.op_type for part in ("Attention", "Conv", "Gemm", "MatMul"))


# --- formulas --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Node:
    """A node with the shapes of its tensors; a shape that is not fully known is None."""

    proto: NodeProto
    facts: Facts

    def input(self, index: int) -> tuple[int, ...] | None:
        return self._known(self.proto.input[index]) if index < len(self.proto.input) else None

    def output(self) -> tuple[int, ...] | None:
        return self._known(next(filter(None, self.proto.output), ""))

    def _known(self, name: str) -> tuple[int, ...] | None:
        shape = self.facts.shape(name) or ()
        sizes = tuple(dim for dim in shape if isinstance(dim, int))
        return sizes if name in self.facts.shapes and len(sizes) == len(shape) else None


def _conv(weight: int) -> Callable[[_Node], int | None]:
    def count(node: _Node) -> int | None:
        y, w = node.output(), node.input(weight)
        return None if y is None or w is None else math.prod(y) * math.prod(w[1:])

    return count


def _conv_transpose(node: _Node) -> int | None:
    x, w = node.input(0), node.input(1)
    return None if x is None or w is None else math.prod(x) * math.prod(w[1:])


def _matmul(node: _Node) -> int | None:
    a, y = node.input(0), node.output()
    return None if a is None or y is None else math.prod(y) * a[-1]


def _gemm(node: _Node) -> int | None:
    a, y = node.input(0), node.output()
    return None if a is None or y is None else math.prod(y) * a[0 if attribute(node.proto, "transA", 0) else 1]


def _recurrent(node: _Node) -> int | None:
    x, w, r = node.input(0), node.input(1), node.input(2)
    return None if x is None or w is None or r is None else x[0] * x[1] * (math.prod(w) + math.prod(r))


def _einsum(node: _Node) -> int | None:
    """One or two operands; the order in which three are contracted is the runtime's choice.

    Axes of an ellipsis are labelled by their distance from its end.
    """
    equation = attribute(node.proto, "equation", b"").decode().replace(" ", "")
    terms = equation.partition("->")[0].split(",")
    operands = [node.input(i) for i in range(len(terms))]
    if len(terms) == 1:
        return 0
    if len(terms) > 2 or any(shape is None for shape in operands):
        return None
    sizes: dict[str | int, int] = {}
    for term, shape in zip(terms, operands, strict=True):
        before, _, after = term.partition("...")
        extra = len(shape or ()) - len(before) - len(after)
        if extra < 0:
            return None
        for label, size in zip((*before, *reversed(range(extra)), *after), shape or (), strict=True):
            sizes[label] = max(size, sizes.get(label, 1))
    return math.prod(sizes.values())


def _fused_matmul(node: _Node) -> int | None:
    a, y = node.input(0), node.output()
    if a is None or y is None or attribute(node.proto, "transBatchA", 0) or attribute(node.proto, "transBatchB", 0):
        return None
    return math.prod(y) * a[-2 if attribute(node.proto, "transA", 0) else -1]


def _scores(batch: int, queries: int, keys: int, columns: int) -> int:
    """Multiply-adds of Q K' and of its product with V, over `columns` of Q and of the output together."""
    return batch * queries * keys * columns


def _past(node: _Node, index: int) -> int | None:
    """Positions that a cache adds, from its axis before the last."""
    given = index < len(node.proto.input) and node.proto.input[index]
    shape = node.input(index) if given else None
    return (None if shape is None else shape[-2]) if given else 0


def _attention(node: _Node) -> int | None:
    """Attention of either domain: queries, keys and values apart, or as one product with a packed weight."""
    if domain_of(node.proto) == "com.microsoft":
        x, w, y, past = node.input(0), node.input(1), node.output(), _past(node, 4)
        if x is None or w is None or y is None or past is None:
            return None
        columns = (w[1] - y[2]) // 2 + y[2]
        return math.prod(x) * w[1] + _scores(x[0], x[1], x[1] + past, columns)
    q, k, y, past = node.input(0), node.input(1), node.output(), _past(node, 4)
    if q is None or k is None or y is None or past is None:
        return None
    heads = q[1] if len(q) == 4 else 1
    return _scores(q[0], q[-2], k[-2] + past, heads * (q[-1] + y[-1]))


def _separate_attention(cache: int) -> Callable[[_Node], int | None]:
    """Attention of [batch, positions, columns] operands; the cache is input number `cache`."""

    def count(node: _Node) -> int | None:
        q, k, y, past = node.input(0), node.input(1), node.output(), _past(node, cache)
        if q is None or k is None or y is None or past is None or not len(q) == len(k) == 3:
            return None
        return _scores(q[0], q[1], k[1] + past, q[2] + y[2])

    return count


_DOMAINS = ("", "com.microsoft")
_FORMULAS: dict[str, Callable[[_Node], int | None]] = {
    "Attention": _attention,
    "Conv": _conv(1),
    "ConvInteger": _conv(1),
    "ConvTranspose": _conv_transpose,
    "DeformConv": _conv(1),
    "DynamicQuantizeMatMul": _matmul,
    "Einsum": _einsum,
    "FusedConv": _conv(1),
    "FusedGemm": _gemm,
    "FusedMatMul": _fused_matmul,
    "FusedMatMulActivation": _fused_matmul,
    "GRU": _recurrent,
    "Gemm": _gemm,
    "GemmFastGelu": _matmul,
    "GroupQueryAttention": _separate_attention(3),
    "LSTM": _recurrent,
    "MatMul": _matmul,
    "MatMulInteger": _matmul,
    "MatMulIntegerToFloat": _matmul,
    "MatMulNBits": _matmul,
    "MultiHeadAttention": _separate_attention(6),
    "QGemm": _gemm,
    "QLinearConv": _conv(3),
    "QLinearMatMul": _matmul,
    "RNN": _recurrent,
    "TransposeMatMul": _fused_matmul,
}


# --- parameters ------------------------------------------------------------------------------------------------------

_FLOATS = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE})
# Inputs where an integer tensor stands for a float weight or bias.
_QUANTIZED = {
    "ConvInteger": (1,),
    "DequantizeLinear": (0,),
    "DynamicQuantizeMatMul": (1,),
    "MatMulInteger": (0, 1),
    "MatMulIntegerToFloat": (1,),
    "QGemm": (3, 6),
    "QLinearConv": (3, 8),
    "QLinearMatMul": (0, 3),
}


def parameters(model: onnx.ModelProto) -> int:
    """Number of float values that the model stores: initializers and Constant nodes, shared ones once.

    An integer tensor that stands for a float weight or bias of a quantized layer counts like that.
    """
    graphs = [model.graph, *(body for node in model.graph.node for body in _nested(node))]
    nodes = [node for owner in [*graphs, *model.functions] for node in owner.node]
    quantized = {
        node.input[slot] for node in nodes for slot in _QUANTIZED.get(node.op_type, ()) if slot < len(node.input)
    }
    stored = [(t.name, t) for graph in graphs for t in graph.initializer]
    total = sum(math.prod(s.values.dims) for graph in graphs for s in graph.sparse_initializer)
    for node in nodes:
        if node.op_type == "Constant":
            for a in node.attribute:
                if a.type == AttributeProto.TENSOR:
                    stored.append((node.output[0], a.t))
                elif a.name in ("value_float", "value_floats"):
                    total += len(a.floats) or 1
    return total + sum(math.prod(t.dims) for name, t in stored if t.data_type in _FLOATS or name in quantized)


def _bodies(node: NodeProto) -> Iterator[GraphProto]:
    for a in node.attribute:
        if a.type == AttributeProto.GRAPH:
            yield a.g
        yield from a.graphs


def _nested(node: NodeProto) -> Iterator[GraphProto]:
    for body in _bodies(node):
        yield body
        for inner in body.node:
            yield from _nested(inner)
