"""Patches against ONNX Runtime, and the repair against numpy.linalg."""

from __future__ import annotations

import itertools
import tracemalloc
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx.numpy_helper import from_array, to_array

from onnxshrink.channels.analysis import Options, analyse
from onnxshrink.graph.inline import inlined
from onnxshrink.graph.model import read
from onnxshrink.graph.view import build
from onnxshrink.pruning import calibration, masks, repair
from onnxshrink.pruning.coupling import find_classes
from onnxshrink.pruning.frontier import Frontier
from onnxshrink.pruning.patches import Reader
from onnxshrink.runtime import session
from tests.pruning.nets import NETS, Maker, flatten, inputs, residual


def single(kind: str, x: tuple[int, ...], weight: np.ndarray, **attributes: object) -> onnx.ModelProto:
    graph = helper.make_graph(
        [helper.make_node(kind, ["x", "w"], ["y"], name="n", **attributes)],
        "g",
        [helper.make_tensor_value_info("x", 1, x)],
        [helper.make_tensor_value_info("y", 1, None)],
        [from_array(weight, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


CASES = {
    "padded": single("Conv", (2, 4, 7, 8), normal(5, 4, 3, 3), pads=[1, 0, 1, 2]),
    "strided": single("Conv", (2, 4, 9, 8), normal(5, 4, 3, 2), strides=[2, 3], dilations=[2, 1]),
    "same_upper": single("Conv", (1, 4, 9, 8), normal(5, 4, 3, 2), auto_pad="SAME_UPPER", strides=[2, 2]),
    "same_lower": single("Conv", (1, 4, 9, 8), normal(5, 4, 2, 4), auto_pad="SAME_LOWER"),
    "grouped": single("Conv", (2, 6, 5, 5), normal(9, 2, 3, 3), group=3),
    "line": single("Conv", (2, 4, 11), normal(5, 4, 3), pads=[1, 1]),
    "volume": single("Conv", (1, 2, 5, 4, 6), normal(3, 2, 3, 1, 2)),
    "gemm": single("Gemm", (6, 4), normal(4, 5), alpha=0.5),
    "transposed": single("Gemm", (4, 6), normal(5, 4), transA=1, transB=1),
    "matmul": single("MatMul", (2, 3, 4), normal(4, 5)),
}


@pytest.mark.parametrize("name", CASES)
def test_patches_times_matrix_is_the_layer(name: str) -> None:
    solution = analyse(build(inlined(read(CASES[name]))), Options(0.0, 1)).solution
    (node,) = solution.context.graph.nodes
    reader = Reader(node, solution.context)
    dims = CASES[name].graph.input[0].type.tensor_type.shape.dim
    x = normal(*(d.dim_value for d in dims))
    rows = reader.rows(x, 10**6, np.random.default_rng(0))
    matrix = reader.matrix(to_array(CASES[name].graph.initializer[0]))
    found = rows.reshape(len(rows), -1) @ matrix.reshape(len(matrix), -1).T
    (y,) = session(CASES[name].SerializeToString()).run(None, {"x": x})
    y = y.reshape(-1, y.shape[-1]) if node.op in ("Gemm", "MatMul") else np.moveaxis(y, 1, -1).reshape(-1, y.shape[1])
    assert np.allclose(found, y, atol=1e-4)
    if reader.dense:
        weight = to_array(CASES[name].graph.initializer[0])
        assert np.allclose(reader.store(matrix, weight), weight)


@pytest.mark.parametrize("kind", [np.float64, np.float32])
@pytest.mark.parametrize(("block", "n"), [(1024, 9), (4, 9), (3, 9), (5, 23)])
def test_solve_in_blocks(block: int, n: int, kind: type[np.floating], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repair, "BLOCK", block)
    rng = np.random.default_rng(n)
    rows, right = rng.standard_normal((60, n)).astype(kind), rng.standard_normal((n, 4)).astype(kind)
    gram = np.zeros((n, n), kind)
    repair.add_gram(gram, rows[:25])
    repair.add_gram(gram, rows[25:])
    exact = {np.float64: 1e-9, np.float32: 1e-4}[kind]
    assert np.allclose(gram, rows.T @ rows, atol=exact)
    before = gram.copy()
    for ridge in (0.0, 2.0):
        solved = repair.solve(gram, right, np.full(n, ridge))
        assert solved is not None
        assert solved.dtype == kind
        assert np.allclose(solved, np.linalg.solve(before.astype(float) + ridge * np.eye(n), right), atol=exact)
        assert (gram == before).all()
    assert repair.solve(-gram, right, np.zeros(n)) is None


def pruned_inputs(model: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    """Half of every class goes, and the repair sees every place and hardly any ridge."""
    monkeypatch.setattr(repair, "RIDGES", (1e-12,))
    monkeypatch.setattr(repair, "LEAST_ROWS", 10**6)
    solution = analyse(build(inlined(read(model))), Options(0.0, 1)).solution
    classes = find_classes(solution)
    chosen = [np.arange(found.units) % 2 == 0 for found in classes]
    dead = masks.dead_slices(classes, chosen)
    data = calibration.load(model, [{"x": x[None]} for x in inputs(model, 300)], 300)
    return solution, dead, masks.zeroed(solution.context, dead), data


def test_the_first_consumer_is_the_least_squares_solution(monkeypatch: pytest.MonkeyPatch) -> None:
    model = flatten()
    solution, dead, zeroed, data = pruned_inputs(model, monkeypatch)
    done = repair.repair(solution, zeroed, dead, data)
    node = next(n for n in solution.context.graph.nodes if n.op == "Gemm")
    fitted = [s for k, s in enumerate(data.scoring) if k % repair.CHOOSE_EVERY != repair.CHOOSE_EVERY - 1]
    x = np.concatenate([s["x"] for s in fitted])
    exposed = onnx.ModelProto()
    exposed.CopyFrom(model)
    exposed.graph.output.append(onnx.ValueInfoProto(name=node.inputs[0]))
    features = session(exposed.SerializeToString()).run(None, {"x": x})[-1]
    alive = np.setdiff1d(np.arange(96), dead[node.inputs[0], 1])
    columns = np.setdiff1d(np.arange(10), dead[node.outputs[0], 1])
    weight, bias = (solution.context.graph.constants[name] for name in node.inputs[1:])
    target = (features @ weight + bias)[:, columns]
    ones = np.ones((len(features), 1))
    (best, *_) = np.linalg.lstsq(np.hstack([features[:, alive], ones]).astype(float), target.astype(float))
    found = done.changed[node.inputs[1]], done.changed[node.inputs[2]]
    now = features[:, alive] @ found[0][np.ix_(alive, columns)] + found[1][columns]
    expected = features[:, alive] @ best[:-1] + best[-1]
    assert np.allclose(now, expected, atol=2e-3)
    assert not found[0][dead[node.inputs[0], 1]].any()
    assert not found[1][dead[node.outputs[0], 1]].any()


def test_no_layer_gets_worse_where_it_was_not_fitted(monkeypatch: pytest.MonkeyPatch) -> None:
    model = residual()
    solution, dead, zeroed, data = pruned_inputs(model, monkeypatch)
    monkeypatch.undo()
    done = repair.repair(solution, zeroed, dead, data)
    assert len(done.fits) >= 4
    assert all(fit.after <= fit.before for fit in done.fits)
    assert any(fit.after < 0.8 * fit.before for fit in done.fits)


@pytest.mark.parametrize("room", ["float32", "none"])
def test_a_matrix_that_has_no_room_is_smaller_or_none(room: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = residual()
    solution, dead, zeroed, data = pruned_inputs(model, monkeypatch)
    monkeypatch.undo()
    exact = repair.repair(solution, zeroed, dead, data).fits
    assert repair.precision(13500) is np.float64
    assert repair.precision(13501) is np.float32
    assert repair.precision(2048 * 9 + 1) is np.float32
    assert repair.precision(23171) is None
    monkeypatch.setattr(repair, "precision", lambda size: {"float32": np.float32, "none": None}[room])
    fits = repair.repair(solution, zeroed, dead, data).fits
    assert [fit.node for fit in fits] == [fit.node for fit in exact]
    assert fits[0].before == exact[0].before, "the first layer that lost inputs"
    for fit, best in zip(fits, exact, strict=True):
        if room == "float32":
            assert fit.after == pytest.approx(best.after, rel=0.01)
        else:
            assert (fit.after, fit.ridge, fit.rows) == (fit.before, None, 0)


def test_a_layer_without_a_bias_gets_one(monkeypatch: pytest.MonkeyPatch) -> None:
    m = Maker(["n", 3, 6, 6])
    deep = m.op("Relu", m.conv("x", 3, 8))
    model = m.model(m.conv(deep, 8, 4, bias=False))
    solution, dead, zeroed, data = pruned_inputs(model, monkeypatch)
    done = repair.repair(solution, zeroed, dead, data)
    (bias,) = done.biases.values()
    assert bias.any()
    written = masks.write(solution.context.graph, done.changed, done.biases)
    onnx.checker.check_model(written)
    (old,) = session(model.SerializeToString()).run(None, {"x": inputs(model, 64, 1)})
    errors = []
    for changed, biases in ((zeroed, {}), (done.changed, done.biases)):
        proto = masks.write(solution.context.graph, changed, biases)
        (new,) = session(proto.SerializeToString()).run(None, {"x": inputs(model, 64, 1)})
        errors.append(float(np.square(new - old).sum()))
    assert errors[1] < 0.8 * errors[0]


def test_solving_needs_no_second_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repair, "BLOCK", 64)
    rng = np.random.default_rng(0)
    gram = np.zeros((1200, 1200))
    tracemalloc.start()
    repair.add_gram(gram, rng.standard_normal((1500, 1200)).astype(np.float32))
    tracemalloc.reset_peak()
    before, _ = tracemalloc.get_traced_memory()
    assert repair.solve(gram, np.ones((1200, 3)), np.ones(1200)) is not None
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak - before < 0.25 * gram.nbytes


@pytest.mark.parametrize("name", NETS)
def test_the_frontier_holds_what_the_model_computes(name: str, tmp_path: Path) -> None:
    model = NETS[name]()
    x = inputs(model, 5)
    batches = [{"x": x[:3]}, {"x": x[3:]}]
    frontier = Frontier(model, batches, tmp_path)
    whole = onnx.ModelProto()
    whole.CopyFrom(model)
    names = [output for node in model.graph.node for output in node.output]
    known = {value.name for value in model.graph.output}
    whole.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in known)
    opened = session(whole.SerializeToString())
    for position, node in enumerate(model.graph.node):
        frontier.move(model, position)
        read = [tensor for tensor in node.input if tensor in names or tensor == "x"]
        for batch, feeds in enumerate(batches):
            for tensor in read:
                right = feeds["x"] if tensor == "x" else opened.run([tensor], feeds)[0]
                assert np.allclose(frontier(batch, tensor), right, atol=1e-4)
    left = {path.name.split(".")[0] for path in tmp_path.iterdir()}
    assert len(left) <= 3  # what nobody reads any more is gone


def test_every_output_of_two_layers_has_its_own_seed() -> None:
    """Places are the same for the original and for the pruned network, or the fit would compare unlike things."""
    x = normal(4, 6, 9, 9)
    solution = analyse(build(inlined(read(single("Conv", (4, 6, 9, 9), normal(2, 6, 3, 3))))), Options(0.0, 1)).solution
    reader = Reader(solution.context.graph.nodes[0], solution.context)
    pairs = [reader.rows(scale * x, 20, np.random.default_rng(1)) for scale in (1, 2)]
    assert np.array_equal(2 * pairs[0], pairs[1])
    assert len(pairs[0]) == 20
    assert not any(np.array_equal(a, b) for a, b in itertools.combinations(pairs[0], 2))
