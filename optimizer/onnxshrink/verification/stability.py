"""Where rounding can flip a result: which tensors are exact, which carry rounding noise, which may jump.

Two right implementations differ by rounding. A continuous operator keeps that small; a discontinuous one (TopK,
NonMaxSuppression, Round, a comparison, a quantizer) turns it into another index or a whole step. This pass marks each
tensor of a graph accordingly, so that each is compared as it deserves, and lists the discontinuous nodes that rounding
reaches. One rule covers most of them: a node that makes integers or booleans of floats is discontinuous.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum

import onnx
from onnx import TensorProto

from .operand import count
from .shapes import Facts, attribute, domain_of


class Level(IntEnum):
    """How a tensor depends on the inputs."""

    CONSTANT = 0
    EXACT = 1  # on the inputs, but on no rounded arithmetic: equal to the bit
    ROUNDED = 2  # through arithmetic: equal within a bound
    FLIPPING = 3  # through a discontinuous operator: may jump


#: Bounds relative to max|y| that a right result keeps, by the lowest precision on the way to a tensor.
#: float32: the measured noise of an exact removal is at most 1e-6, ten times that is allowed. float64: the same ratio
#: to its rounding. float16 and bfloat16 keep 11 and 8 bits, so one rounding of the result is 4.9e-4 and 3.9e-3 of it;
#: about four such steps are allowed, because the order of summation changes and runtimes round between nodes.
BASES: dict[int, float] = {
    TensorProto.DOUBLE: 1e-12,
    TensorProto.FLOAT: 1e-5,
    TensorProto.FLOAT16: 2e-3,
    TensorProto.BFLOAT16: 2e-2,
}

SUMMED = 1300
"""Terms that a mean may have within the base of its type. ONNX Runtime adds them up one after another, at best eight at
a time, so n terms are n / 8 roundings, and the base of float32 has room for 160. A mean of equal terms comes near that.
"""

FACTOR = 2e-7
"""The base of a MatMul of float64 beside a factor: ONNX Runtime fuses a constant one into it, in float32."""


def base_of(kind: int) -> float:
    """The base of an element type; that of bfloat16 for float types without one of their own."""
    return BASES.get(kind, 2e-2)


_MEANS = {"GlobalAveragePool", "AveragePool", "ReduceMean", "ReduceSum"}
_RANDOM = {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial", "Bernoulli"}
_SHAPE_ONLY = {"Shape", "Size", "EyeLike"}
_QUANTIZERS = {"QuantizeLinear", "DynamicQuantizeLinear", "QGemm"}
_STEPS = {"Round", "Floor", "Ceil", "Sign", "Mod", "Hardmax", "Shrink", "ThresholdedRelu", "TopK", "MaxRoiPool"}
#: Float operators that move or select values and round nothing.
_UNROUNDED = _STEPS | {
    *("Reshape", "Transpose", "Slice", "Gather", "Concat", "Split", "Squeeze", "Unsqueeze", "Identity", "Expand"),
    *("Tile", "Flatten", "Pad", "DepthToSpace", "SpaceToDepth", "GatherND", "GatherElements", "ScatterND"),
    *("ScatterElements", "Where", "Cast", "CastLike", "Relu", "Max", "Min", "MaxPool", "GlobalMaxPool", "Abs"),
    *("Neg", "Clip", "Compress", "ReduceMax", "ReduceMin", "Dropout"),
}


@dataclass
class Stability:
    """`levels` and `bases` by tensor name; `jumps`: the discontinuous nodes that rounding reaches, in graph order;
    `random`: the nodes that draw random numbers on the way to an output.
    """

    levels: dict[str, Level] = field(default_factory=dict)
    bases: dict[str, float] = field(default_factory=dict)
    jumps: list[onnx.NodeProto] = field(default_factory=list)
    random: list[onnx.NodeProto] = field(default_factory=list)

    def level(self, name: str) -> Level:
        return self.levels.get(name, Level.CONSTANT)

    def base(self, name: str) -> float:
        return self.bases.get(name, 0.0)


def stability(graph: onnx.GraphProto, facts: Facts, exact: Iterable[str] = ()) -> Stability:
    """Marks every tensor that the outputs of a graph depend on.

    Args:
        graph: the main graph.
        facts: its element types and constants (shapes.model_facts).
        exact: tensors whose values will be given, as those of an input are.
    """
    result = Stability()
    constants = {t.name for t in graph.initializer}
    for value in graph.input:
        if value.name not in constants:
            result.levels[value.name] = Level.EXACT
    given = set(exact)
    result.levels.update(dict.fromkeys(given, Level.EXACT))
    needed = needed_nodes(graph, {v.name for v in graph.output} | given)
    _walk([n for i, n in enumerate(graph.node) if i in needed], facts, result, given, captured(graph))
    return result


def needed_nodes(graph: onnx.GraphProto, names: Collection[str]) -> set[int]:
    """Indices of the nodes that `names` depend on."""
    wanted, needed = set(names), set()
    for i in range(len(graph.node) - 1, -1, -1):
        node = graph.node[i]
        if wanted.intersection(node.output):
            needed.add(i)
            wanted.update(node.input)
            for inner in inner_graphs(node):
                wanted.update(captured(inner))
    return needed


def inner_graphs(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """The graphs inside an If, Loop or Scan."""
    return [a.g for a in node.attribute if a.type == onnx.AttributeProto.GRAPH]


def captured(graph: onnx.GraphProto) -> set[str]:
    """All names that a graph reads, those of its inner graphs included."""
    names = {name for node in graph.node for name in node.input} | {v.name for v in graph.output}
    for node in graph.node:
        for inner in inner_graphs(node):
            names |= captured(inner)
    return names


def _walk(nodes: Collection[onnx.NodeProto], facts: Facts, result: Stability, given: set[str], used: set[str]) -> None:
    factors = {name for node in nodes if node.op_type in ("Mul", "Div") for name in (*node.input, *node.output)}
    for node in nodes:
        kinds = [facts.types.get(o, 0) for o in node.output]
        level = max((result.level(i) for i in node.input if i), default=Level.CONSTANT)
        base = max((result.base(i) for i in node.input if i), default=0.0)
        if domain_of(node) == "" and node.op_type in ("If", "Loop", "Scan"):
            level, base = _nested(node, facts, result, level, base)
        elif node.op_type in _RANDOM or _trains(node, facts):
            result.random.append(node)
            level = Level.FLIPPING
        elif node.op_type in _SHAPE_ONLY:
            level = Level.FLIPPING if level == Level.FLIPPING else min(level, Level.EXACT)
        elif level >= (Level.EXACT if requantizes(node) else Level.ROUNDED) and _jumps(node, facts, used):
            result.jumps.append(node)
            level = Level.FLIPPING
        elif level == Level.EXACT and node.op_type not in _UNROUNDED and any(k in BASES for k in kinds):
            level = Level.ROUNDED
        for name, kind in zip(node.output, kinds, strict=True):
            if name and name not in given:
                result.levels[name] = level
                if level >= Level.ROUNDED:
                    fused = kind == TensorProto.DOUBLE and node.op_type == "MatMul" and factors & {*node.input, name}
                    result.bases[name] = max(base, FACTOR if fused else BASES.get(kind, 0.0))


def most_terms(graph: onnx.GraphProto, facts: Facts) -> float:
    """How many terms the largest mean of a graph has, as far as the facts know sizes."""
    most = 0.0
    for node in graph.node:
        if node.op_type in _MEANS:
            read, made = count(facts.shape(node.input[0])), count(facts.shape(node.output[0]))
            most = max(most, read / made if read and made else 0.0)
    return most


def requantizes(node: onnx.NodeProto) -> bool:
    """Rounds to integer steps, even where what it reads is exact."""
    return node.op_type in _QUANTIZERS or node.op_type.startswith("QLinear")


def _jumps(node: onnx.NodeProto, facts: Facts, used: set[str]) -> bool:
    if node.op_type in _STEPS or requantizes(node) or node.domain == "ai.onnx.ml":
        return True
    if node.op_type == "GridSample" and attribute(node, "mode") == b"nearest":
        return True
    if node.op_type == "Dropout" or not any(facts.types.get(i, 0) in (0, *BASES) for i in node.input if i):
        return False
    return any(o in used and facts.types.get(o, 0) not in (0, *BASES) for o in node.output if o)


def _trains(node: onnx.NodeProto, facts: Facts) -> bool:
    """A Dropout that may drop: its training_mode (opset 12) is not known to be false."""
    if node.op_type != "Dropout" or len(node.input) < 3 or not node.input[2]:
        return False
    mode = facts.integers(node.input[2])
    return mode is None or bool(mode[0])


def _nested(node: onnx.NodeProto, facts: Facts, outer: Stability, level: Level, base: float) -> tuple[Level, float]:
    """Level of what an If, Loop or Scan makes; a discontinuity inside makes the whole node one."""
    known: Mapping[str, list[Facts]] = facts.inner
    graphs, inner_facts = inner_graphs(node), known.get(node.output[0], [])
    result = level
    for graph, inner in zip(graphs, inner_facts, strict=False):
        local = Stability(dict(outer.levels), dict(outer.bases))
        # What a loop carries is as uncertain as the worst of what enters and what the body makes: two rounds reach it.
        for _ in range(2):
            for value in graph.input:
                local.levels[value.name], local.bases[value.name] = max(result, Level.EXACT), base
            local.jumps.clear()
            local.random.clear()
            _walk(graph.node, inner, local, set(), captured(graph))
            if node.op_type != "If":
                result = max([result, *(local.level(v.name) for v in graph.output)])
                base = max([base, *(local.base(v.name) for v in graph.output)])
        if node.op_type == "If":
            result = max([result, *(local.level(v.name) for v in graph.output)])
            base = max([base, *(local.base(v.name) for v in graph.output)])
        outer.random.extend(local.random)
        if local.jumps and (not outer.jumps or outer.jumps[-1] is not node):
            outer.jumps.append(node)
            result = Level.FLIPPING
    return result, base
