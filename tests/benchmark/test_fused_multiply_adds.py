"""Multiply-adds of fused operators: those of the operators that they were fused from."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxshrink.benchmark import macs

BATCH, POSITIONS, KEYS = 2, 5, 7


def model(
    op: str, inputs: dict[str, tuple[int, ...] | None], domain: str = "com.microsoft", opset: int = 17, **attributes
) -> onnx.ModelProto:
    """One node; inputs named in lower case are graph inputs, those in upper case weights, None an absent one."""
    names = [name if shape is not None else "" for name, shape in inputs.items()]
    node = helper.make_node(op, names, ["y"], domain=domain, **attributes)
    there = {name: shape for name, shape in inputs.items() if shape is not None}
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in there.items() if n.islower()],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.zeros(s, np.float32), n) for n, s in there.items() if n.isupper()],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (
            model("FusedConv", {"x": (1, 4, 10, 12), "W": (6, 4, 3, 3)}, pads=[1] * 4, activation="Relu"),
            6 * 10 * 12 * 4 * 9,
        ),
        (model("FusedMatMul", {"a": (2, 4, 7, 3), "b": (4, 5, 7)}, transA=1, transB=1), 2 * 4 * 3 * 7 * 5),
        (model("TransposeMatMul", {"a": (3, 7), "B": (7, 5)}, alpha=0.5), 3 * 7 * 5),
        (model("GemmFastGelu", {"a": (2, 3, 7), "B": (7, 5), "C": (5,)}), 2 * 3 * 7 * 5),
        (model("FusedGemm", {"a": (7, 3), "B": (5, 7)}, transA=1, transB=1, activation="Relu"), 3 * 7 * 5),
        # Projections of 8 features to 12 + 12 + 12; 4 heads of 3: scores and sums.
        (
            model("Attention", {"x": (BATCH, POSITIONS, 8), "W": (8, 36), "B": (36,)}, num_heads=4),
            BATCH * POSITIONS * 8 * 36 + BATCH * 4 * POSITIONS * POSITIONS * (3 + 3),
        ),
        # The same with values of 4 heads of 2.
        (
            model(
                "Attention",
                {"x": (BATCH, POSITIONS, 8), "W": (8, 32), "B": (32,)},
                num_heads=4,
                qkv_hidden_sizes=[12, 12, 8],
            ),
            BATCH * POSITIONS * 8 * 32 + BATCH * 4 * POSITIONS * POSITIONS * (3 + 2),
        ),
        (
            model(
                "MultiHeadAttention",
                {"q": (BATCH, POSITIONS, 12), "k": (BATCH, KEYS, 12), "v": (BATCH, KEYS, 8)},
                num_heads=4,
            ),
            BATCH * 4 * POSITIONS * KEYS * (3 + 2),
        ),
        # A cache of 7 positions.
        (
            model(
                "MultiHeadAttention",
                {
                    **{"q": (BATCH, POSITIONS, 12), "k": (BATCH, POSITIONS, 12), "v": (BATCH, POSITIONS, 12)},
                    **{"bias": None, "padding": None, "mask": None},
                    **{"past_k": (BATCH, 4, KEYS, 3), "past_v": (BATCH, 4, KEYS, 3)},
                },
                num_heads=4,
            ),
            BATCH * 4 * POSITIONS * (POSITIONS + KEYS) * (3 + 3),
        ),
        # Two query heads share a key head.
        (
            model(
                "GroupQueryAttention",
                {"q": (BATCH, POSITIONS, 12), "k": (BATCH, POSITIONS, 6), "v": (BATCH, POSITIONS, 6)},
                num_heads=4,
                kv_num_heads=2,
            ),
            BATCH * 4 * POSITIONS * POSITIONS * (3 + 3),
        ),
        (
            model(
                "Attention",
                {"q": (BATCH, POSITIONS, 12), "k": (BATCH, KEYS, 6), "v": (BATCH, KEYS, 4)},
                "",
                23,
                q_num_heads=4,
                kv_num_heads=2,
            ),
            BATCH * 4 * POSITIONS * KEYS * (3 + 2),
        ),
        (
            model(
                "Attention", {"q": (BATCH, 4, POSITIONS, 3), "k": (BATCH, 2, KEYS, 3), "v": (BATCH, 2, KEYS, 2)}, "", 23
            ),
            BATCH * 4 * POSITIONS * KEYS * (3 + 2),
        ),
    ],
    ids=lambda value: value.graph.node[0].op_type if isinstance(value, onnx.ModelProto) else "",
)
def test_formulas(made: onnx.ModelProto, expected: int) -> None:
    assert macs(made) == expected


def test_batches_that_trade_places_with_rows_are_not_counted() -> None:
    made = model("FusedMatMul", {"a": (3, 2, 7), "b": (2, 7, 5)}, transBatchA=1)
    assert macs(made) is None
