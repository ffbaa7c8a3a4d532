"""Writes in place: a graph says what reads what, and a write into a part of a tensor is read by nobody.

Most writes do no harm, such as an activation in place whose output is all that is read on. Where something reads the
written tensor by another way, the graph is made functional: each write gives a new tensor, which those after it read.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch.export.graph_signature import OutputKind
from torch.fx import Graph, Node, map_arg

from ..errors import InputError, short
from .nodes import argument

aten = torch.ops.aten


def functional(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """The program without writes in place, if any of its writes is read by another way than as the result of the write.

    Layers of torch stay as they are.

    Raises:
        InputError: torch.export cannot do it.
    """
    if not read_elsewhere(program.graph):
        return program
    try:
        program = program.run_decompositions({})
    except Exception as error:  # it raises many unrelated types
        what = short(error, 200)
        raise InputError(
            f"the network writes into a part of a tensor, and torch.export cannot make it a new tensor: {what}",
            cure="make the forward pass free of writes in place",
        ) from error
    graph = program.graph
    for node in list(graph.nodes):
        if node.target in LAYERS:
            _restore(graph, node)
        elif node.target in SCATTERS:
            _assemble(graph, node)
        elif node.target is aten.copy.default and _alike(node, node.args[1]):
            node.replace_all_uses_with(node.args[1])
    output = next(node for node in graph.nodes if node.op == "output")
    specs = program.graph_signature.output_specs
    kept = [a for a, spec in zip(output.args[0], specs, strict=True) if spec.kind is OutputKind.USER_OUTPUT]
    output.args = (tuple(kept),)  # not what BatchNorm writes into its buffers: it is a layer again
    graph.eliminate_dead_code(is_impure_node=lambda node: node.op in ("placeholder", "output"))
    return program


def read_elsewhere(graph: Graph) -> bool:
    """Whether something reads a tensor that was written before, but not as the result of that write."""
    behind: dict[Node, tuple[Node, ...]] = {}  # the node, and what it is a view of, back to what has memory of its own
    written: dict[Node, list[Node]] = {}
    for node in graph.nodes:
        for source in node.all_input_nodes:
            views = behind[source]
            if any(write not in views for write in written.get(views[-1], ())):
                return True
        of = node.args[0] if _shares(node) and isinstance(node.args[0], Node) else None
        behind[node] = (node,) if of is None else (node, *behind[of])
        if _writes(node):
            written.setdefault(behind[node][-1], []).append(node)
    return False


def updated(program: torch.export.ExportedProgram) -> list[str]:
    """The buffers that a module's own code writes into; a BatchNorm's count of batches is torch's."""
    buffers, behind = program.graph_signature.inputs_to_buffers, dict[Node, Node]()
    found: dict[str, None] = {}
    for node in program.graph.nodes:
        of = node.args[0] if _shares(node) and isinstance(node.args[0], Node) else None
        behind[node] = node if of is None else behind[of]
        if _writes(node) and (name := buffers.get(behind[node].name)) and not name.endswith("num_batches_tracked"):
            found[name] = None
    return list(found)


def _shares(node: Node) -> bool:
    """Whether a node's result may lie in the memory of its first argument."""
    if node.target is operator.getitem or _writes(node):
        return True
    schema = getattr(node.target, "_schema", None)
    return schema is not None and any(returned.alias_info is not None for returned in schema.returns)


def _writes(node: Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return schema is not None and bool(schema.is_mutable)


def _restore(graph: Graph, node: Any) -> None:
    """A layer that torch.export took apart, as the layer again, which writes its statistics itself."""
    target, arguments = LAYERS[node.target](*node.args)
    with graph.inserting_before(node):
        layer = graph.call_function(target, arguments)
    for part in list(node.users):
        if part.args[1] == 0:
            layer.meta = dict(part.meta)
            part.replace_all_uses_with(layer)
        elif part.args[1] in STATISTICS and node.target is aten._native_batch_norm_legit_functional.default:
            part.replace_all_uses_with(node.args[part.args[1]])


def _assemble(graph: Graph, node: Any) -> None:
    """A tensor of which one part is new: that part between the others, one after the other."""
    base, part = node.args[:2]
    axis, size, start, end, step = _place(node)
    if start in (None, 0) and end in (None, END) and step == 1:
        node.replace_all_uses_with(part)
        return
    if not isinstance(size, int) or step != 1:
        return
    start, end, _ = slice(start, end).indices(size)
    end = max(start, end)

    def call(target: Any, *arguments: Any) -> Node:
        made = graph.call_function(target, arguments)
        values = map_arg(arguments, lambda n: n.meta["val"])
        made.meta["val"] = target(*values)
        return made

    with graph.inserting_before(node):
        if node.target is aten.select_scatter.default:
            part = call(aten.unsqueeze.default, part, axis)
        ends = [(0, start), (end, size)]
        before, after = (call(aten.slice.Tensor, base, axis, *e) if e[0] < e[1] else None for e in ends)
        parts = [part for part in (before, part, after) if part is not None]
        node.replace_all_uses_with(parts[0] if len(parts) == 1 else call(aten.cat.default, parts, axis))


def _place(node: Any) -> tuple[int, Any, Any, Any, int]:
    """Where a part is put: the axis, its size, and start, end and step along it."""
    value, dim = node.args[0].meta["val"], argument(node, 2, "dim", 0)
    axis = dim % value.dim()
    size = value.shape[axis]
    if node.target is aten.select_scatter.default:
        index = node.args[3]
        return axis, size, index, END if index == -1 else index + 1, 1
    return axis, size, argument(node, 3, "start"), argument(node, 4, "end"), argument(node, 5, "step", 1)


def _alike(node: Node, other: Any) -> bool:
    one, two = node.meta["val"], other.meta["val"]
    return bool(one.shape == two.shape and one.dtype == two.dtype)


END = 2**63 - 1
"""How torch.export writes the open end of a slice."""

SCATTERS = {aten.slice_scatter.default, aten.select_scatter.default}

STATISTICS = (3, 4)
"""Where a BatchNorm has its mean and its variance: among what it reads, and, new, among what it gives."""

LAYERS: dict[Any, Any] = {
    aten._native_batch_norm_legit_functional.default: lambda x, scale, shift, mean, variance, training, momentum, eps: (
        aten.batch_norm.default,
        (x, scale, shift, mean, variance, training, momentum, eps, False),
    ),
    aten._native_batch_norm_legit_no_training.default: lambda x, scale, shift, mean, variance, momentum, eps: (
        aten.batch_norm.default,
        (x, scale, shift, mean, variance, False, momentum, eps, False),
    ),
    aten._native_batch_norm_legit.no_stats: lambda x, scale, shift, training, momentum, eps: (
        aten.batch_norm.default,
        (x, scale, shift, None, None, training, momentum, eps, False),
    ),
    aten.native_dropout.default: lambda x, share, training: (aten.dropout.default, (x, share, bool(training))),
}
"""What layers become, and how they are called."""
