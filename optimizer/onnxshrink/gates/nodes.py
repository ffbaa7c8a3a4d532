"""Nodes of an exported graph."""

from typing import Any

import torch
from torch.fx import Node


def argument(node: Node, index: int, name: str, default: Any = None) -> Any:
    """An argument of an operator, given by place or by name."""
    return node.args[index] if len(node.args) > index else node.kwargs.get(name, default)


def out_of_place(target: Any) -> Any:
    """The operator that makes a new tensor of what another one writes into its first operand; others as they are."""
    schema = getattr(target, "_schema", None)
    if schema is None or not schema.is_mutable:
        return target
    packet = getattr(torch.ops.aten, schema.name.removeprefix("aten::").removesuffix("_"))
    return getattr(packet, schema.overload_name or "default")
