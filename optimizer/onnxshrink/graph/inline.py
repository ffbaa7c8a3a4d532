"""Functions that are local to a model: their calls are replaced by their bodies, so that rules see through them.

Analysis and the cut work on the inlined graph. A model from which nothing is cut is written as it was, its functions
included.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import onnx
from onnx import AttributeProto, defs, inliner

from .model import Model
from .order import bodies

OWN_KERNELS = ("ai.onnx", "com.microsoft")
"""Beginnings of the domains whose operators ONNX Runtime runs by kernels of its own. A function of such a name is a
fall-back for other runtimes: ONNX Runtime does not look at it (tried with 1.31), so its call stays a call."""


def inlined(model: Model) -> Model:
    """The model with every call of a local function replaced by the function's body; the model itself if it has none.

    A function that was written for another operator set, in which one of its operators means something else, stays a
    call, and so a barrier. (`onnx.checker` refuses such a model, and so does ONNX Runtime.)
    """
    source = model.proto
    stay = [f for f in source.functions if not f.domain or f.domain.startswith(OWN_KERNELS)]
    known = {(f.domain, f.name) for f in source.functions} - {(f.domain, f.name) for f in stay}
    called = _operators(source.graph.node) & known
    if not called:
        return model
    bare = onnx.ModelProto()
    bare.CopyFrom(source)
    # weights need not pass through the inliner; their names, types and dimensions must, so that new names are new
    for tensor in bare.graph.initializer:
        dims, kind, name = list(tensor.dims), tensor.data_type, tensor.name
        tensor.Clear()
        tensor.dims.extend(dims)
        tensor.data_type, tensor.name = kind, name
    versions = {entry.domain: entry.version for entry in source.opset_import}
    del bare.functions[:]
    for function in source.functions:
        if (function.domain, function.name) in known:
            bare.functions.append(function)
            _move(bare.functions[-1], versions)
    defaults = {(f.domain, f.name, f.overload): list(f.attribute_proto) for f in bare.functions}
    for nodes in (bare.graph.node, *(function.node for function in bare.functions)):
        _complete(nodes, defaults)
    proto = inliner.inline_local_functions(bare)
    weights = {tensor.name: tensor for tensor in source.graph.initializer}
    for tensor in proto.graph.initializer:
        tensor.CopyFrom(weights[tensor.name])
    proto.functions.extend(stay)
    for function in source.functions:
        for entry in function.opset_import:
            if entry.domain not in versions:
                versions[entry.domain] = entry.version
                proto.opset_import.append(entry)
    left = _operators(proto.graph.node)
    names = ", ".join(sorted(f"{domain}.{name}" for domain, name in called - left))
    notes = (f"calls of functions were replaced by their bodies: {names}",) if names else ()
    return replace(model, proto=proto, given=model.original, notes=(*model.notes, *notes))


def _move(function: onnx.FunctionProto, versions: dict[str, int]) -> None:
    """Let a function import the model's operator sets, where its operators mean the same in both."""
    for entry in function.opset_import:
        wanted = versions.get(entry.domain, entry.version)
        used = [op for domain, op in _operators(function.node) if domain == entry.domain]
        if all(_since(op, entry.version, entry.domain) == _since(op, wanted, entry.domain) for op in used):
            entry.version = wanted


def _complete(nodes: Iterable[onnx.NodeProto], defaults: Mapping[tuple[str, str, str], list[AttributeProto]]) -> None:
    """Write down in calls of functions, those in bodies too, the defaults of attributes that they leave out.

    The inliner takes such an attribute for absent.
    """
    for node in nodes:
        given = {attribute.name for attribute in node.attribute}
        own = defaults.get((node.domain, node.op_type, node.overload), [])
        node.attribute.extend(attribute for attribute in own if attribute.name not in given)
        for body in bodies(node):
            _complete(body.node, defaults)


def _since(operator: str, version: int, domain: str) -> int:
    """The version of the operator set that last changed an operator, `version` where that is not known."""
    known = defs.has(operator, version, domain)
    return int(defs.get_schema(operator, version, domain).since_version) if known else version


def _operators(nodes: Iterable[onnx.NodeProto]) -> set[tuple[str, str]]:
    """Domain and name of the operators of nodes, and of those in their bodies."""
    found: set[tuple[str, str]] = set()
    for node in nodes:
        found.add(("" if node.domain == "ai.onnx" else node.domain, node.op_type))
        for body in bodies(node):
            found |= _operators(body.node)
    return found
