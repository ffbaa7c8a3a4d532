"""One node evaluated on arrays by onnx's own reference implementation, in the operator set of the model.

Operators of com.microsoft that act elementwise are added to it (contrib_reference.py). Facts use it, so the value of
a known channel behind any operator is what the operator says, never a list of operators that "keep zero".
"""

from __future__ import annotations

import warnings
from functools import lru_cache

import numpy as np
import onnx
from onnx import helper
from onnx.reference import ReferenceEvaluator

from .contrib_reference import OPERATORS


@lru_cache(maxsize=512)
def _evaluator(node: bytes, opset: int) -> ReferenceEvaluator:
    proto = onnx.NodeProto()
    proto.ParseFromString(node)
    names = [n for n in proto.input if n]
    graph = helper.make_graph(
        [proto],
        "node",
        [helper.make_value_info(n, helper.make_tensor_type_proto(0, None)) for n in names],
        [helper.make_value_info(n, helper.make_tensor_type_proto(0, None)) for n in proto.output if n],
    )
    domains = [helper.make_opsetid("", opset)]
    if proto.domain:
        domains.append(helper.make_opsetid(proto.domain, 1))
    return ReferenceEvaluator(helper.make_model(graph, opset_imports=domains), new_ops=list(OPERATORS))


def evaluate(node: onnx.NodeProto, arrays: list[np.ndarray | None], opset: int) -> list[np.ndarray] | None:
    """Outputs of a node, or None if the reference implementation cannot say.

    Args:
        node: the node; its names do not matter.
        arrays: an array for each input, None for an absent one.
        opset: version of the default operator set.
    """
    bare = onnx.NodeProto()
    bare.op_type = node.op_type
    bare.domain = "" if node.domain == "ai.onnx" else node.domain
    bare.attribute.extend(node.attribute)
    bare.input.extend("" if a is None else f"i{k}" for k, a in enumerate(arrays))
    bare.output.extend(f"o{k}" if name else "" for k, name in enumerate(node.output))
    feeds = {f"i{k}": np.asarray(a) for k, a in enumerate(arrays) if a is not None}
    try:
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            results = _evaluator(bare.SerializeToString(deterministic=True), opset).run(None, feeds)
    except Exception:  # the reference raises whatever numpy raises; then nothing is known
        return None
    return [np.asarray(r) for r in results]
