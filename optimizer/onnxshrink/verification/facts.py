"""What is known of the tensors of a graph: shapes, element types, and the values of small ones, all maybe in part."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx

#: An int, a symbol (one per dynamic axis of an input), or None where nothing is certain.
Dim = int | str | None
Shape = tuple[Dim, ...] | None


@dataclass
class Facts:
    """What is known of the tensors of one graph, by name.

    `shapes` holds only tensors of known rank; `values` holds object arrays whose elements are numbers, symbols or
    None; `constants` names the tensors that do not depend on an input; `inner` has, by the first output of an If, Loop
    or Scan, the facts of its graphs in the order of its attributes.
    """

    opsets: dict[str, int]
    shapes: dict[str, tuple[Dim, ...]] = field(default_factory=dict)
    types: dict[str, int] = field(default_factory=dict)
    values: dict[str, np.ndarray] = field(default_factory=dict)
    constants: set[str] = field(default_factory=set)
    inner: dict[str, list[Facts]] = field(default_factory=dict)

    def shape(self, name: str) -> Shape:
        return self.shapes.get(name)

    def integers(self, name: str) -> list[Any] | None:
        """The elements of a known integer vector or scalar, each an int, a symbol or None; None if not known."""
        value = self.values.get(name)
        return None if value is None else list(value.reshape(-1))


def domain_of(node: onnx.NodeProto) -> str:
    """The node's operator domain, with ONNX's two spellings of its own made one."""
    return "" if node.domain == "ai.onnx" else node.domain


def opsets_of(model: onnx.ModelProto) -> dict[str, int]:
    """Operator set version by domain; ONNX's own domain is the empty string."""
    return {"" if o.domain == "ai.onnx" else o.domain: o.version for o in model.opset_import}


def attribute(node: onnx.NodeProto, name: str, default: Any = None) -> Any:
    """The value of a node's attribute, or `default`."""
    for a in node.attribute:
        if a.name == name:
            return onnx.helper.get_attribute_value(a)
    return default
