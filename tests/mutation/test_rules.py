"""Properties of single rules that no small graph shows by its result alone."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxshrink
from onnxshrink.channels.analysis import Options, analyse
from onnxshrink.channels.facts import understand
from onnxshrink.graph.model import read
from onnxshrink.graph.view import build
from onnxshrink.ops import interval
from onnxshrink.ops.fact import Fact, collapse, slices
from onnxshrink.pruning.coupling import find_classes
from tests.zoo.net import Net
from tests.zoo.trap import chain


def test_a_slice_is_known_only_where_all_of_it_is() -> None:
    value = np.array([[1.0, 2.0, 3.0], [1.0, 5.0, 3.0]])
    known = np.array([[True, True, True], [True, True, False]])
    uniform, values = slices(Fact(value, known), 1, 3)
    assert uniform.tolist() == [True, False, False]
    assert values.tolist() == [1.0, 0.0, 0.0]


def test_a_tensor_without_elements_has_no_slices() -> None:
    uniform, _ = slices(Fact(np.zeros((4, 0)), np.ones((1, 1), bool)), 0, 4)
    assert not uniform.any()


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_what_is_not_finite_is_not_known(bad: float) -> None:
    uniform, _ = slices(Fact(np.full((1, 2), bad), np.ones((1, 2), bool)), 1, 2)
    assert not uniform.any()


def test_facts_collapse_along_axes_that_do_not_vary() -> None:
    fact = collapse(Fact(np.array([[1.0, 1.0], [2.0, 2.0]]), np.ones((2, 2), bool)))
    assert fact is not None
    assert fact.value.tolist() == [[1.0], [2.0]]
    assert collapse(Fact(np.zeros((2, 2)), np.zeros((2, 2), bool))) is None


def test_training_dropout_is_left_alone() -> None:
    """Another shape would draw other random numbers."""

    def middle(net: Net, t: str) -> str:
        return net.op("Dropout", t, net.const(np.array(0.5)), "training")

    net = chain(middle, still_known=False)
    net.initializers.append(numpy_helper.from_array(np.array(True), "training"))
    assert not onnxshrink.optimize(net.model(), align=1, negligible=0, verify=False).changed


def known(net: Net, tensor: str) -> np.ndarray | None:
    """Which slices of the second axis are known, None where nothing is."""
    fact = understand(build(read(net.output(tensor).model()))).fact(tensor)
    return None if fact is None else np.broadcast_to(fact.known, (1, 8, 1, 1)).ravel()


def test_a_quotient_that_is_not_finite_is_not_known() -> None:
    net = Net()
    t = net.conv(net.input("x", (2, 3, 8, 8)), 3, 8, constant={1: 0.5, 2: 0.25})
    divisor = np.ones((8, 1, 1))
    divisor[2] = 0
    found = known(net, net.op("Div", t, net.const(divisor)))
    assert found is not None
    assert np.flatnonzero(found).tolist() == [1]


@pytest.mark.parametrize(
    ("op", "second"), [("Div", [0.0, 2, 2, 2]), ("Pow", [-1.0]), ("Pow", [0.5]), ("Div", None), ("Pow", [2.0])]
)
def test_what_has_poles_reads_all_that_is_kept(op: str, second: list[float] | None) -> None:
    """So pruning holds its channels; a square has none."""
    net = Net()
    hidden = net.op("MatMul", net.input("x", (2, 5, 3)), net.const(net.normal(3, 4)))
    other = net.op("Sigmoid", hidden) if second is None else net.const(np.array(second, np.float32))
    net.output(net.op("MatMul", net.op(op, hidden, other), net.const(net.normal(4, 6))))
    solution = analyse(build(read(net.model())), Options(0.0, 1)).solution
    assert [found.units for found in find_classes(solution)] == ([4] if second == [2.0] else [])


def test_what_training_dropout_leaves_is_not_known() -> None:
    net = Net()
    t = net.conv(net.input("x", (2, 3, 8, 8)), 3, 8, constant={1: 0.5})
    net.initializers.append(numpy_helper.from_array(np.array(True), "training"))
    assert known(net, net.op("Dropout", t, net.const(np.array(0.5)), "training")) is None


def test_a_cast_that_each_implementation_rounds_its_own_way_is_not_known() -> None:
    net = Net(opset=19, ir_version=9)
    t = net.conv(net.input("x", (2, 3, 8, 8)), 3, 8, constant={1: 0.5, 2: 0.3})
    narrow = net.op("Cast", t, to=TensorProto.FLOAT8E4M3FN)
    found = known(net, net.op("Cast", narrow, to=TensorProto.FLOAT))
    assert found is not None
    assert np.flatnonzero(found).tolist() == [1]


def test_a_cast_to_half_precision_is_known() -> None:
    net = Net()
    t = net.conv(net.input("x", (2, 3, 8, 8)), 3, 8, constant={1: 0.5, 2: 0.3})
    found = known(net, net.op("Cast", t, to=TensorProto.FLOAT16))
    assert found is not None
    assert np.flatnonzero(found).tolist() == [1, 2]


def test_what_an_edge_repeats_is_not_known() -> None:
    net = Net()
    t = net.conv(net.input("x", (2, 3, 8, 8)), 3, 2, constant={0: 0.5})
    padded = net.op("Pad", t, net.const([0, 1, 0, 0, 0, 5, 0, 0]), mode="edge")
    assert known(net, padded) is None


@pytest.mark.parametrize(("start", "step"), [(1, 1), (0, 2)])
def test_only_a_range_by_ones_from_zero_is_as_long_as_its_limit(start: int, step: int) -> None:
    net = Net()
    shape = net.op("Shape", net.input("x", ("N", 8)))
    limit = net.op("Squeeze", net.op("Slice", shape, net.const([0]), net.const([1])), net.const([0]))
    steps = net.op("Range", net.const(np.array(start)), limit, net.const(np.array(step)))
    graph = understand(build(read(net.output(steps).model()))).graph
    assert graph.shapes[steps] != ("N",)


@pytest.mark.parametrize("batch", [2, "N"])
def test_the_shape_of_what_stays_is_left_alone(batch: int | str) -> None:
    def middle(net: Net, t: str) -> str:
        whole = net.conv("x", 3, 8)
        return net.op("Add", t, net.op("Reshape", net.op("Flatten", whole), net.op("Shape", whole)))

    model = chain(middle, still_known=False, shape=(batch, 3, 8, 8)).model()
    result = onnxshrink.optimize(model, align=1, negligible=0, verify=False)
    assert "Where" not in {node.op_type for node in result.model.graph.node}


def test_a_known_plane_that_varies_is_not_known_behind_a_pool() -> None:
    net = Net()
    dead = net.conv(net.input("x", (2, 3, 8, 8)), 3, 8, zero=range(8))
    plane = net.op("Add", dead, net.const(net.normal(1, 8, 8, 8)))
    pooled = net.op("MaxPool", plane, kernel_shape=[2, 2], strides=[2, 2])
    fact = understand(build(read(net.output(pooled).model()))).fact(pooled)
    assert fact is None or not fact.known.any()


def test_texts_are_looked_at_without_harm() -> None:
    net = Net()
    condition = net.op("Greater", net.input("x", (2, 8, 1, 1)), net.const(np.array(0.0)))
    texts = [helper.make_tensor(name, TensorProto.STRING, [1], [b"one"]) for name in ("a", "b")]
    net.initializers += texts
    net.output(net.op("Where", condition, "a", "b", name="y"))
    assert not onnxshrink.optimize(net.model(), verify=False).changed


class Stub:
    """As much of a node as limits look at."""

    def __init__(self, count: int, **attributes: float):
        self.inputs, self.attributes = ("x",) * count, attributes

    def attr(self, name: str, default: object = None) -> object:
        return self.attributes.get(name, default)


def leaky_relu(x: np.ndarray, alpha: float) -> np.ndarray:
    return np.where(x < 0, alpha * x, x)


FUNCTIONS = {
    "add": (interval.add, 2, {}, np.add),
    "sub": (interval.sub, 2, {}, np.subtract),
    "mul": (interval.mul, 2, {}, np.multiply),
    "maximum": (interval.maximum, 2, {}, np.maximum),
    "minimum": (interval.minimum, 2, {}, np.minimum),
    "leaky": (interval.leaky, 1, {"alpha": 0.3}, lambda x: leaky_relu(x, 0.3)),
    "leaky, flat": (interval.leaky, 1, {"alpha": 0.0}, lambda x: leaky_relu(x, 0.0)),
    "hard sigmoid, falling": (
        interval.monotone(interval.hard_sigmoid),
        1,
        {"alpha": -0.4, "beta": 0.5},
        lambda x: np.clip(0.5 - 0.4 * x, 0, 1),
    ),
    "clip": (interval.clip, 1, {"min": -0.5, "max": 0.7}, lambda x: np.clip(x, -0.5, 0.7)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_limits_hold_and_are_reached(name: str) -> None:
    """Against the function itself on a grid that holds the ends of both intervals."""
    limits, count, attributes, function = FUNCTIONS[name]
    rng = np.random.default_rng(0)
    for _ in range(200):
        ends = np.sort(rng.choice([-2.0, -1.0, -0.3, 0.0, 0.4, 1.0, 3.0], (count, 2)), axis=1)
        grids = np.meshgrid(*(np.linspace(*pair, 5) for pair in ends))
        values = function(*grids)
        low, high = limits(Stub(count, **attributes), [(np.array(a), np.array(b)) for a, b in ends])
        assert values.min() - 1e-5 <= low <= values.min()
        assert values.max() <= high <= values.max() + 1e-5


def test_a_target_that_repeats_dimensions_stays_a_constant() -> None:
    def middle(net: Net, t: str) -> str:
        return net.op("Relu", net.op("Reshape", t, net.const([0, 8, 0, -1])))

    model = chain(middle, shape=("N", 3, "H", "W")).model()
    result = onnxshrink.optimize(model, align=1, negligible=0, verify=False).model
    assert [node.op_type for node in result.graph.node] == [node.op_type for node in model.graph.node]
    assert [4, 4, 3, 3] in [list(t.dims) for t in result.graph.initializer]


def test_a_filter_that_vanishes_beside_its_bias_is_proven_where_it_reads_bounded_values() -> None:
    net = Net()
    x = net.input("x", (1, 1, 8, 8))
    both = net.op("Concat", x, net.op("Sigmoid", x), axis=1)
    weight = net.normal(4, 2, 1, 1)
    weight[1] = np.reshape([0.0, 1e-12], (2, 1, 1))
    t = net.op("Conv", both, net.const(weight), net.const([0.5, 1.0, 0.5, 0.5]))
    result = onnxshrink.optimize(net.output(net.conv(t, 4, 2, name="y")).model(), align=1)
    assert [(item["slices"], item["evidence"]) for item in result.plan.negligible] == [([1], "proven")]


def test_what_is_as_large_as_the_limit_is_not_negligible() -> None:
    net = Net()
    one = net.conv(net.input("x", (1, 3, 8, 8)), 3, 2, constant={1: 1.0})
    limit = 2.0**-11
    weight = np.reshape([1.0, 0.5, 0.0, 1.5 * limit], (2, 2, 1, 1))  # the second gives 1.5 - 0.5 = 1 times the limit
    t = net.op("Conv", one, net.const(weight), net.const([0.0, -0.5 * limit]))
    model = net.output(net.conv(t, 2, 2, name="y")).model()
    assert onnxshrink.inspect(model, negligible=limit).plan.negligible == []
    assert onnxshrink.inspect(model, negligible=1.04 * limit).plan.negligible != []
