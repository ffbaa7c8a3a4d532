"""From a plan to a model: rules rewrite each node, equal constants are shared again, surgery does the rest."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import numpy as np
import onnx

from ..channels.solve import Solution
from ..graph.order import captured
from ..graph.surgery import Edits, NodeEdit, operate
from ..graph.view import Node, names_in
from ..ops.collapsing import rewrite_collapsed
from ..ops.rule import Rewrite
from .cut import PlannedCut


@dataclass
class Execution:
    """A rewritten model and what became of each constant.

    Attributes:
        model: the result.
        rewrites: the rewrite of every node that stays, by node index.
        changed: whether the result differs from the source.
        constants: for each constant edge that changed: (name in the source, name in the result).
        computed: values of those edges that are more than slices of what they were.
    """

    model: onnx.ModelProto
    rewrites: dict[int, Rewrite]
    changed: bool
    constants: dict[str, tuple[str, str]] = field(default_factory=dict)
    computed: dict[str, np.ndarray] = field(default_factory=dict)


def execute(solution: Solution, replaced: set[str], changed: set[str], *, altered: bool = False) -> Execution:
    """Rewrite the model for a solution.

    Args:
        solution: live and kept of every tensor.
        replaced: constants that took the place of operands (`collapse_branches`).
        changed: constants whose values were changed by lowering (negligible weights set to zero).
        altered: the graph's model is another one than its source already: bodies were cut.
    """
    cut = PlannedCut(solution)
    graph = solution.context.graph
    edits = Edits(inputs=set(graph.default_inputs))
    rewrites: dict[int, Rewrite] = {}
    staying: dict[int, Node] = {}
    alias: dict[str, str] = {}
    names = _Names(solution, cut, edits, changed)
    visible = set(graph.outputs) | {n for node in graph.nodes for n in node.captured}
    for node in graph.nodes:
        if not cut.active(node):
            continue
        rewrite = cut.context.rule(node).rewrite(node, cut)
        if rewrite.bypass is None and any(name in replaced for name in node.inputs) and not names.added_to(node):
            rewrite = _merged(rewrite, rewrite_collapsed(node, cut))
        rewrites[node.index] = rewrite
        if node.chain and rewrite == Rewrite():
            staying |= _staying(node, cut)
        else:
            names.arrays(node, rewrite)
    for node in staying.values():
        names.hold(node)
    names.assign()
    for node in graph.nodes:
        if node.index in staying:
            _rewrite_node(staying[node.index], Rewrite(), names, edits, alias, visible)
        elif node.index in rewrites:
            _rewrite_node(node, rewrites[node.index], names, edits, alias, visible)
    for tensor in graph.tensors():
        producer = graph.producer.get(tensor)
        if producer is not None and cut.active(producer) and cut.touched(tensor):
            # an output that nobody reads follows the others, but its slices were never counted
            edits.dims[tensor] = cut.shape(tensor) if cut.needed(tensor) else None
    if not edits and not altered:
        copy = onnx.ModelProto()
        copy.CopyFrom(graph.model.proto)
        return Execution(copy, rewrites, False)
    return Execution(operate(graph.model, edits), rewrites, True, names.renamed, names.computed)


def _staying(last: Node, cut: PlannedCut) -> dict[int, Node]:
    """The nodes behind a planned chain that stays, as they are in the file, up to those that the plan knows."""
    found: dict[int, Node] = {}
    waiting = [last]
    while waiting:
        node = waiting.pop()
        if node.index not in found and (node is last or not cut.active(node)):
            found[node.index] = own = node.chain[-1] if node.chain else node
            producers = cut.context.graph.producer
            waiting += [producers[name] for name in own.inputs if name in producers]
    return found


def _merged(one: Rewrite, other: Rewrite) -> Rewrite:
    return other if other.bypass is not None else one


class _Names:
    """Names of constants: an edge that changes gets the source's name if no other reader needs the old value."""

    def __init__(self, solution: Solution, cut: PlannedCut, edits: Edits, changed: set[str]):
        self._graph, self._cut, self._edits, self._changed = solution.context.graph, cut, edits, changed
        self._new: dict[str, np.ndarray] = {}
        self._untouched: set[str] = {self._graph.source[o] for o in self._graph.outputs if o in self._graph.source}
        self._names: dict[str, str] = {}
        self._addends: dict[str, np.ndarray] = {}
        self.computed: dict[str, np.ndarray] = {}
        self.renamed: dict[str, tuple[str, str]] = {}
        model = self._graph.model
        self.opset = model.opset
        self._taken = names_in(model.proto.graph) | model.outer
        self._untouched |= model.outer
        for node in model.proto.graph.node:
            self._untouched |= captured(node)

    def arrays(self, node: Node, rewrite: Rewrite) -> None:
        """Note the new value of every constant operand of a node that stays."""
        for edge, values in rewrite.addends.items():
            self._addends[edge] = self._addends.get(edge, 0.0) + values
        for index, name in enumerate(node.inputs):
            if name not in self._graph.constants or (rewrite.bypass is not None and index != rewrite.bypass):
                continue
            if index in rewrite.inputs:
                given = rewrite.inputs[index]
                if isinstance(given, np.ndarray):
                    self._new[name] = self.computed[name] = given
                continue
            if name in self._addends:
                weight = self._cut.weight(name)
                total = weight + self._addends[name].reshape(weight.shape)
                self._new[name] = self.computed[name] = total.astype(weight.dtype)
                continue
            if self._cut.touched(name) or name in self._changed or self._graph.source[name].endswith("@known"):
                self._new[name] = self._cut.weight(name)
            else:
                self._untouched.add(self._graph.source[name])

    def added_to(self, node: Node) -> bool:
        """Whether an earlier node moved what it lost into a constant operand of this one."""
        return any(name in self._addends for name in node.inputs)

    def hold(self, node: Node) -> None:
        """Note that a node goes on reading its constants as they are."""
        self._untouched |= {self._graph.source[name] for name in node.inputs if name in self._graph.constants}

    def assign(self) -> None:
        """Give every new value a name; equal values of one source share it."""
        variants: dict[tuple[str, str], str] = {}
        for edge, array in self._new.items():
            source = self._graph.source[edge]
            digest = hashlib.sha256(f"{array.dtype}{array.shape}".encode() + array.tobytes()).hexdigest()
            if (source, digest) not in variants:
                first = not any(s == source for s, _ in variants)
                keep = first and source not in self._untouched and not source.endswith("@known")
                name = source if keep else self.fresh(source.removesuffix("@known"))
                variants[source, digest] = name
                self._edits.constants[name] = array
            self._names[edge] = variants[source, digest]
            self.renamed[edge] = (source, variants[source, digest])

    def fresh(self, base: str) -> str:
        """A name that nothing in the graph has."""
        number = 1
        while f"{base}_shrunk{number}" in self._taken:
            number += 1
        name = f"{base}_shrunk{number}"
        self._taken.add(name)
        return name

    def of(self, tensor: str) -> str:
        """The name of a tensor id in the result."""
        if tensor in self._names:
            return self._names[tensor]
        return self._graph.source.get(tensor, tensor)

    def constant(self, base: str, array: np.ndarray) -> str:
        """The name of a constant that has no edge in the source."""
        name = self.fresh(base)
        self._edits.constants[name] = array
        return name


def _rewrite_node(
    node: Node, rewrite: Rewrite, names: _Names, edits: Edits, alias: dict[str, str], visible: set[str]
) -> None:
    def resolved(name: str) -> str:
        return alias.get(name, name)

    outputs = [o for k, o in enumerate(node.outputs) if rewrite.outputs is None or k in rewrite.outputs]
    if rewrite.bypass is not None:
        target = resolved(names.of(node.inputs[rewrite.bypass]))
        if outputs[0] in visible:
            edits.nodes[node.position] = NodeEdit(
                [target], outputs[:1], dict.fromkeys(_attribute_names(node)), "Identity"
            )
        else:
            alias[outputs[0]] = target
        return
    inputs: list[str] = []
    for index in range(max([len(node.inputs), *(k + 1 for k in rewrite.inputs)])):
        name = node.input(index)
        given = rewrite.inputs.get(index, name)
        if given is None:
            if node.op not in ("Concat", "QLinearConcat"):
                inputs.append("")
            continue
        if isinstance(given, np.ndarray):
            if name in names.renamed:
                inputs.append(names.of(name))
            else:
                inputs.append(names.constant(f"{node.name or node.outputs[0]}_{index}", given))
        else:
            inputs.append(resolved(names.of(given)) if given else "")
    for index, (mask, values) in rewrite.patches.items():
        patched = names.fresh(inputs[index])
        _overwrite(inputs[index], patched, patched, mask, values, node.position, names, edits)
        inputs[index] = patched
    while inputs and not inputs[-1]:
        inputs.pop()
    if rewrite.answer is not None:
        mask, values = rewrite.answer
        raw = names.fresh(node.outputs[0])
        _overwrite(raw, node.outputs[0], raw, mask, values, node.position + 1, names, edits)
        outputs = [raw]
    if rewrite.behind is not None:
        operator, constant, attributes = rewrite.behind
        raw = names.fresh(node.outputs[0])
        operands = [raw] if constant is None else [raw, names.constant(f"{raw}_{operator.lower()}", constant)]
        edits.added.append((node.position + 1, operator, operands, [node.outputs[0]], attributes))
        outputs = [raw]
    original = list(node.proto.input)
    while original and not original[-1]:
        original.pop()
    if node.op != node.proto.op_type:  # it merely repeats a known value
        edits.nodes[node.position] = NodeEdit(inputs, outputs, dict.fromkeys(_attribute_names(node)), node.op)
    elif inputs != original or outputs != list(node.proto.output) or rewrite.attributes or rewrite.op:
        edits.nodes[node.position] = NodeEdit(inputs, outputs, dict(rewrite.attributes), rewrite.op)


def _overwrite(
    source: str,
    target: str,
    stem: str,
    mask: np.ndarray,
    values: np.ndarray,
    position: int,
    names: _Names,
    edits: Edits,
) -> None:
    """Add nodes that make `target` of `source`, integers with the elements under a mask replaced."""
    if names.opset >= 9:
        operands = [names.constant(f"{stem}_mask", mask), names.constant(f"{stem}_value", values)]
        edits.added.append((position, "Where", [*operands, source], [target], {}))
        return
    rest = names.constant(f"{stem}_rest", (~mask).astype(values.dtype))
    value = names.constant(f"{stem}_value", np.where(mask, values, 0).astype(values.dtype))
    product = names.fresh(stem)
    edits.added.append((position, "Mul", [source, rest], [product], {}))
    edits.added.append((position, "Add", [product, value], [target], {}))


def _attribute_names(node: Node) -> list[str]:
    return [a.name for a in node.proto.attribute]
