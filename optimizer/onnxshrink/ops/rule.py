"""What a rule is, and the registry.

A rule says everything about one operator family: facts forward, reads backward, ties, and how a node is rewritten
for a cut. An axis that no tie of an active node mentions is pinned by that node, so the base class, which ties
nothing and reads everything, is a barrier: right for any operator, known or not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import onnx

from ..graph.view import Dim, Graph, Node, Shape
from .fact import Fact, slices
from .tie import Port, Tie

Demand = list[np.ndarray]
"""For each axis of a tensor, the mask of slices that are read; the product of the masks is read."""


class Context:
    """What a rule may look at: the graph, the facts so far, and which dimension each element of a shape operand is.

    Nothing here changes during planning.
    """

    def __init__(self, graph: Graph, facts: dict[str, Fact]):
        self.graph, self.facts = graph, facts
        self.elements: dict[str, list[Dim]] = {}
        self._patterns: dict[Any, Any] = {}

    @property
    def opset(self) -> int:
        return self.graph.model.opset

    def shape(self, tensor: str) -> Shape | None:
        return self.graph.shapes.get(tensor)

    def rank(self, tensor: str) -> int | None:
        return self.graph.rank(tensor)

    def size(self, tensor: str, axis: int) -> int | None:
        """Length of an axis, None when it is not known."""
        shape = self.shape(tensor)
        dim = shape[axis] if shape is not None and -len(shape) <= axis < len(shape) else None
        return dim if isinstance(dim, int) else None

    def fact(self, tensor: str) -> Fact | None:
        return self.facts.get(tensor) if tensor else None

    def array(self, tensor: str) -> np.ndarray | None:
        """A tensor's values when all are known, at full shape; None otherwise."""
        if tensor in self.graph.constants:
            return self.graph.constants[tensor]
        fact, shape = self.fact(tensor), self.shape(tensor)
        if fact is None or shape is None or not fact.all_known:
            return None
        full = fact.expand(shape)
        return None if full is None else full.value

    def ints(self, tensor: str) -> list[int] | None:
        """Values of a known integer tensor as a flat list."""
        array = self.array(tensor)
        return None if array is None or array.dtype.kind not in "iu" else [int(v) for v in array.reshape(-1)]

    def read_outputs(self, node: Node) -> list[str]:
        """The node's first output, and the others that somebody reads."""
        read = [o for o in node.outputs[1:] if o in self.graph.consumers or o in self.graph.outputs]
        return [node.outputs[0], *read]

    def rule(self, node: Node) -> Rule:
        """The node's rule; a barrier where the rank of one of its tensors is unknown."""
        names = (*node.inputs, *node.outputs[:1], *self.read_outputs(node)[1:])
        rule = rule_for(node)
        return (
            rule
            if rule.barrier or node.movement is not None or all(n in self.graph.shapes for n in names if n)
            else _UNRANKED
        )

    def channels(self, node: Node) -> Channels | None:
        """What reports count of the node: None unless it is a layer with weights of its own."""
        found = self.rule(node).channels(node, self)
        if found is None or self.size(node.outputs[0], found.axis) is None:
            return None
        weight = node.input(found.parameters[0])
        return found if weight in self.graph.constant_only else None

    def derived(self, tensor: str, what: str, compute: Callable[[], Any]) -> Any:
        """A value computed once from the values of a tensor; shared between analyses if the tensor is a constant."""
        if tensor not in self.graph.constants:
            return self.cached((tensor, what), compute)
        if (tensor, what) not in self.graph.derived:
            self.graph.derived[tensor, what] = compute()
        return self.graph.derived[tensor, what]

    def cached(self, key: Any, compute: Callable[[], Any]) -> Any:
        """A value computed once for this analysis."""
        if key not in self._patterns:
            self._patterns[key] = compute()
        return self._patterns[key]


class State(Protocol):
    """Live and kept, as far as they have grown."""

    def kept(self, port: Port) -> np.ndarray: ...

    def live(self, tensor: str) -> Demand: ...

    def needed(self, tensor: str) -> bool: ...


@dataclass
class Rewrite:
    """How one node changes. Anything not said stays.

    Attributes:
        attributes: new values; None removes one.
        inputs: by index: an array (a new constant), a name of another tensor, or None (dropped).
        addends: by constant edge of a later node: what is added to it, in the shape it has after the cut.
        patches: by input index: (mask, values): elements of a computed integer operand that are replaced.
        op: another operator of the default domain.
        outputs: outputs that stay, by index, where some are dropped.
        bypass: the node disappears and its first output that stays is this input.
        answer: (mask, values): elements of the only, integer, output that must go on saying what they said.
        behind: (operator, constant or None, attributes): an operator of both that the only output goes through.
    """

    attributes: dict[str, Any] = field(default_factory=dict)
    inputs: dict[int, np.ndarray | str | None] = field(default_factory=dict)
    addends: dict[str, np.ndarray] = field(default_factory=dict)
    patches: dict[int, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    op: str | None = None
    outputs: list[int] | None = None
    bypass: int | None = None
    answer: tuple[np.ndarray, np.ndarray] | None = None
    behind: tuple[str, np.ndarray | None, dict[str, Any]] | None = None


class Cut(Protocol):
    """The plan as a rule sees it while it rewrites one node."""

    context: Context

    def indices(self, tensor: str, axis: int) -> np.ndarray | None: ...

    def shape(self, tensor: str) -> Shape | None: ...

    def live(self, tensor: str) -> Demand: ...

    def needed(self, tensor: str) -> bool: ...

    def stale(self, tensor: str) -> bool: ...

    def said(self, tensor: str) -> list[Dim] | None: ...

    def weight(self, tensor: str) -> np.ndarray: ...


@dataclass(frozen=True)
class Carrying:
    """A consumer that needs one channel of known non-zero value to stay (see `Rule.carrying`)."""

    port: Port
    candidates: np.ndarray
    values: np.ndarray


@dataclass(frozen=True)
class Channels:
    """What reports count of a layer: the axis of its first output that counts channels, and the inputs that hold its
    parameters, the weight first.
    """

    axis: int
    parameters: tuple[int, ...]


FAMILIES = (
    "elementwise",
    "movement",
    "contraction",
    "pool",
    "normalization",
    "reduction",
    "recurrent",
    "attention",
    "quantization",
    "shape",
    "control flow",
    "barrier",
)


class Rule:
    """The base rule, and the barrier.

    Attributes:
        family: one of FAMILIES; the operator table is ordered by it.
        about: what the table of operators says, where that is not the first sentence of the documentation.
        reason: of a barrier: why nothing is cut through it.
    """

    family = "barrier"
    about = ""
    reason = "no rule for this operator"

    def __init__(self, reason: str = ""):
        self.reason = reason or self.reason

    @property
    def barrier(self) -> bool:
        return self.family == "barrier"

    def facts(self, node: Node, context: Context) -> list[Fact | None]:
        """What is known of each output."""
        return [None] * len(node.outputs)

    def evaluable(self, node: Node, context: Context) -> bool:
        """Whether what the facts leave open may be evaluated where all operands are known."""
        return True

    def refine(self, node: Node, context: Context) -> dict[str, Shape]:
        """Shapes of outputs that follow from known integer operands."""
        return {}

    def stand_in(self, node: Node, context: Context) -> list[onnx.NodeProto] | None:
        """Nodes of the default domain that give outputs of the same shapes and types, by the names in the file.

        For an operator that onnx's inference does not know: it sees these instead. None: it sees the node as it is.
        """
        return None

    def ties(self, node: Node, context: Context) -> list[Tie]:
        """Which slices stand or fall together; axes that are not mentioned are pinned."""
        return []

    def operands(self, node: Node, context: Context, state: State) -> list[int]:
        """Inputs that must be there for the node to run."""
        return [i for i, name in enumerate(node.inputs) if name]

    def reads(self, node: Node, context: Context, state: State) -> dict[int, Demand | None]:
        """For each input that is read: the slices whose right value is needed; None means all of them."""
        return {i: None for i, name in enumerate(node.inputs) if name}

    def steering(self, node: Node, context: Context) -> dict[int, Demand | None]:
        """What is read even where nobody needs the values of the outputs: integers and flags behind the first input.

        They say where, how often or how long: a wrong one may point outside of a table, or make another shape.
        """
        behind = list(enumerate(node.inputs))[1:]
        return {i: None for i, name in behind if name and not context.graph.is_float(name)}

    def channels(self, node: Node, context: Context) -> Channels | None:
        """The channels that reports count; None for a node that is no layer."""
        return None

    def held(self, node: Node, context: Context, state: State) -> dict[int, str]:
        """Channels that the node itself holds although its readers could do without them, and why."""
        return {}

    def carrying(self, node: Node, context: Context, state: State) -> Carrying | None:
        """The carrier that this node still lacks, if it lacks one."""
        return None

    def rewrite(self, node: Node, cut: Cut) -> Rewrite:
        """The node after the cut; constants of its own are sliced by the caller."""
        return Rewrite()


PLANNED = "onnxshrink"
"""The domain of rules for planned chains, each named like what a chain amounts to (see `Node.movement`)."""

_RULES: dict[tuple[str, str], Rule] = {}
_BARRIER = Rule()
OLDER = Rule("it is meant as only old opsets know it")
_UNRANKED = Rule("the rank of a tensor that it reads or gives is not known")


def register(rule: Rule, *operators: str, domain: str = "") -> Rule:
    """Make `rule` responsible for operators of a domain."""
    for operator in operators:
        _RULES[domain, operator] = rule
    return rule


def registered() -> dict[tuple[str, str], Rule]:
    """All rules by (domain, operator), without those for what the package itself makes of a graph."""
    return {key: rule for key, rule in _RULES.items() if key[0] != PLANNED}


def rule_for(node: Node) -> Rule:
    """The rule of a node's operator or of its planned movement; the barrier if there is none, or if the node means what
    no rule says.
    """
    if node.movement is not None:
        return _RULES[PLANNED, type(node.movement).__name__]
    return OLDER if _older(node) else _RULES.get((node.domain, node.op), _BARRIER)


def _older(node: Node) -> bool:
    """Whether a node is meant as only old opsets know it: broadcasting by attributes (below 7), or a
    BatchNormalization with statistics for each pixel (below 9).
    """
    return not node.domain and bool(node.attr("broadcast", 0) or not node.attr("spatial", 1))


def everything(tensor: str, context: Context) -> Demand:
    """The demand for all of a tensor."""
    return [np.ones(d if isinstance(d, int) else 1, bool) for d in context.shape(tensor) or ()]


def unknown_elements(tensor: str, context: Context) -> Demand | None:
    """The demand for the elements of a shape operand that are not known; what is known can be written down."""
    fact, size = context.fact(tensor), context.size(tensor, 0)
    full = fact.expand((size,)) if fact is not None and fact.rank == 1 and size else None
    return None if full is None else [~np.broadcast_to(full.known, full.value.shape)]


def free_slices(tensor: str, axis: int, context: Context) -> tuple[np.ndarray, np.ndarray]:
    """Slices along an axis that hold one known value everywhere, as (mask [n], value [n] float64), cached."""
    size = context.size(tensor, axis) or 1

    return context.cached((tensor, axis, "uniform"), lambda: slices(context.fact(tensor), axis, size))
