"""Chains of Reshape and Transpose as one movement: held against the chain itself, run on numbered elements.

A chain is built from factors: each axis of the input is a product of factors, and every step regroups or moves them.
Some factors are symbols; the chain is then run for several of their lengths.
"""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxshrink
from onnxshrink.channels.chains import find_chains
from onnxshrink.channels.facts import understand
from onnxshrink.graph.model import read
from onnxshrink.graph.view import Movement, Reordered, Selected, Split, build
from tests.zoo import oracle

SYMBOLS = {"b": (1, 2, 5), "t": (3, 1, 4)}
CHAINS = 60


def product(factors: list[int | str], sizes: dict[str, int]) -> int:
    return int(np.prod([f if isinstance(f, int) else sizes[f] for f in factors], dtype=np.int64))


def random_chain(seed: int, whole: bool = False) -> onnx.ModelProto:
    """A model y = chain(x), in which every axis of y is one factor; x has an axis of two factors if it is `whole`."""
    rng = np.random.default_rng(seed)
    first, second = int(rng.choice([2, 3, 4])), int(rng.choice([2, 3]))
    axes: list[list[int | str]] = [["b"], [first, second], ["t"]] if whole else [["b"], [first], ["t"], [second]]
    shape = [axis[0] if len(axis) == 1 else first * second for axis in axes]
    steps: list[tuple[str, list]] = []
    for _ in range(int(rng.integers(1, 3))):
        order = [int(a) for a in rng.permutation(len(axes))]
        axes = [axes[a] for a in order]
        steps.append(("Transpose", order))
        flat = [f for axis in axes for f in axis]
        cuts = sorted(rng.choice(np.arange(1, len(flat)), int(rng.integers(1, len(flat))), replace=False).tolist())
        # a shape operand holds one -1, so of all axes that are not plain numbers or symbols only one may be made
        groups = [flat[i:j] for i, j in zip([0, *cuts], [*cuts, len(flat)], strict=True)]
        if sum(len(g) > 1 and any(isinstance(f, str) for f in g) for g in groups) > 1:
            groups = [[f] for f in flat]
        axes = groups
        steps.append(("Reshape", [list(g) for g in groups]))
    order = [int(a) for a in rng.permutation(len(axes))]
    steps.append(("Transpose", order))
    axes = [axes[a] for a in order]
    steps.append(("Reshape", [[f] for axis in axes for f in axis]))
    nodes, constants, current = [], [], "x"
    nodes.append(helper.make_node("Shape", ["x"], ["shape"]))
    for axis, symbol in ((0, "b"), (2, "t")):
        constants.append(numpy_helper.from_array(np.array([axis]), f"at_{symbol}"))
        nodes.append(helper.make_node("Gather", ["shape", f"at_{symbol}"], [f"size_{symbol}"]))
    for number, (op, how) in enumerate(steps):
        out = "y" if number == len(steps) - 1 else f"t{number}"
        if op == "Transpose":
            nodes.append(helper.make_node(op, [current], [out], perm=how))
        else:
            parts = []
            for place, group in enumerate(how):
                if len(group) == 1 and isinstance(group[0], str):
                    parts.append(f"size_{group[0]}")
                    continue
                size = -1 if any(isinstance(f, str) for f in group) else product(group, {})
                constants.append(numpy_helper.from_array(np.array([size]), f"{out}_{place}"))
                parts.append(f"{out}_{place}")
            nodes.append(helper.make_node("Concat", parts, [f"{out}_shape"], axis=0))
            nodes.append(helper.make_node(op, [current, f"{out}_shape"], [out]))
        current = out
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "chain",
        [value("x", TensorProto.FLOAT, shape)],
        [value("y", TensorProto.FLOAT, None)],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def planned(model: onnx.ModelProto) -> tuple[str, Movement | None]:
    """What the last node is planned as, and the tensor that this moves."""
    context = understand(build(read(model)))
    find_chains(context)
    last = context.graph.producer["y"]
    return last.inputs[0], last.movement


def moved(x: np.ndarray, movement: Movement) -> np.ndarray:
    """The movement as its definition says."""
    if isinstance(movement, Reordered):
        return x.transpose(movement.order)
    if isinstance(movement, Selected):
        return x.take(movement.index, movement.axis)
    length = {parts[0]: x.shape[axis] for axis, parts in enumerate(movement.axes) if len(parts) == 1}
    grid = [length.get(g, size) for g, size in enumerate(movement.sizes)]
    return x.reshape(grid).transpose(movement.order)


def assert_planned_right(model: onnx.ModelProto, start: str, movement: Movement) -> None:
    for b, t in zip(*SYMBOLS.values(), strict=True):
        shape = [d.dim_value or {"b": b, "t": t}[d.dim_param] for d in model.graph.input[0].type.tensor_type.shape.dim]
        x = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
        answer = {"x": x, **oracle.run(oracle.expose(model, [] if start == "x" else [start]), {"x": x})}
        np.testing.assert_array_equal(answer["y"], moved(answer[start], movement))


@pytest.mark.parametrize("whole", [False, True])
def test_what_is_planned_is_what_the_chain_does(whole: bool) -> None:
    found = []
    for model in (random_chain(seed, whole) for seed in range(CHAINS)):
        start, movement = planned(model)
        if movement is not None:
            found.append(type(movement))
            assert_planned_right(model, start, movement)
    assert found.count(Split if whole else Reordered) > CHAINS // 4


def test_chains_that_only_move_axes_are_found() -> None:
    """From x to y factors only change places, and each is an axis of both: the whole chain is one transposition."""
    for model in (random_chain(seed) for seed in range(CHAINS)):
        start, movement = planned(model)
        assert isinstance(movement, Reordered)
        assert start == "x", onnx.printer.to_text(model)


def test_statistics_of_groups_before_opset_21() -> None:
    """GroupNormalization of opset 18 has scale and bias for each group, and is refused by onnx's checker."""
    rng = np.random.default_rng(0)
    first, bias = rng.standard_normal((8, 3, 1, 1)), rng.standard_normal(8)
    first[2:6], bias[2:6] = 0, 0  # groups 1 and 2 of four
    arrays = {
        "w": first,
        "b": bias,
        "scale": rng.standard_normal(4),
        "shift": rng.standard_normal(4),
        "v": rng.standard_normal((2, 8, 1, 1)),
        "c": rng.standard_normal(2),
    }
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w", "b"], ["t"]),
            helper.make_node("GroupNormalization", ["t", "scale", "shift"], ["u"], num_groups=4),
            helper.make_node("Conv", ["u", "v", "c"], ["y"]),
        ],
        "groups",
        [value("x", TensorProto.FLOAT, [2, 3, 4, 4])],
        [value("y", TensorProto.FLOAT, [2, 2, 4, 4])],
        [numpy_helper.from_array(a.astype(np.float32), n) for n, a in arrays.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    result = onnxshrink.optimize(model, align=1, negligible=0).model
    shapes = {t.name: tuple(t.dims) for t in result.graph.initializer}
    assert shapes["w"] == (4, 3, 1, 1)
    assert shapes["scale"] == shapes["shift"] == (2,)
    assert shapes["v"] == (2, 4, 1, 1)
    feeds = {"x": rng.standard_normal((2, 3, 4, 4)).astype(np.float32)}
    for optimize in (False, True):
        oracle.assert_equal(oracle.run(model, feeds), oracle.run(result, feeds, optimize=optimize))
