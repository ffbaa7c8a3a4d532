"""Nodes of an exported graph."""

from typing import Any

from torch.fx import Node


def argument(node: Node, index: int, name: str, default: Any = None) -> Any:
    """An argument of an operator, given by place or by name."""
    return node.args[index] if len(node.args) > index else node.kwargs.get(name, default)
