"""Coupling classes against what the shrink really removes, one unit at a time."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from onnxshrink import benchmark
from onnxshrink.channels.analysis import Options, analyse
from onnxshrink.channels.solve import Solution
from onnxshrink.draft import Draft, draft
from onnxshrink.graph.inline import inlined
from onnxshrink.graph.model import read
from onnxshrink.graph.view import build
from onnxshrink.pruning import masks as zeros
from onnxshrink.pruning.coupling import CouplingClass, find_classes
from onnxshrink.pruning.size import mac_function, parameter_function
from tests.pruning.nets import NETS, Maker


def understood(model: object) -> tuple[Solution, list[CouplingClass]]:
    solution = analyse(build(inlined(read(model))), Options(0.0, 1)).solution
    return solution, find_classes(solution)


def shrunk(solution: Solution, changed: dict[str, np.ndarray]) -> Draft:
    proto = zeros.write(solution.context.graph, changed, {})
    return draft(build(inlined(read(proto))), Options(0.0, 1))


EXPECTED = {
    "residual": [(8, 3, 3), (12, 1, 1), (6, 1, 1)],
    "depthwise": [(10, 1, 1)],
    "concat": [(6, 1, 1), (7, 1, 1), (9, 1, 1)],
    "grouped": [(4, 1, 1), (4, 1, 1)],
    "flatten": [(6, 1, 1), (10, 1, 1)],
    "upsampling": [(8, 1, 1), (6, 1, 1)],
    "excited": [(12, 2, 2), (5, 1, 1)],
    "attention": [(4, 3, 1), (20, 1, 1)],
    "gelu": [(10, 1, 1), (8, 1, 1)],
}
"""Units, producers and consumers of each class, by hand."""


@pytest.mark.parametrize("name", NETS)
def test_classes_by_hand(name: str) -> None:
    _, classes = understood(NETS[name]())
    assert sorted((c.units, len(c.producers), len(c.consumers)) for c in classes) == sorted(EXPECTED[name])


@pytest.mark.parametrize("name", NETS)
def test_every_unit_goes_alone_and_whole(name: str) -> None:
    """Zeroing one unit cuts its slices and no other's, and the size function says what that saves."""
    solution, classes = understood(NETS[name]())
    parameters, macs = parameter_function(solution, classes), mac_function(solution, classes, _shapes(solution))
    for number, found in enumerate(classes):
        for unit in range(found.units):
            masks = [np.ones(one.units, bool) for one in classes]
            masks[number][unit] = False
            dead = zeros.dead_slices(classes, masks)
            made = shrunk(solution, zeros.zeroed(solution.context, dead))
            after = made.passes[0].solution
            for port, where in dead.items():
                if port[0] not in solution.context.graph.constants and after.needed(port[0]):
                    assert (np.flatnonzero(~after.kept(port)) == where).all(), (name, port)
            kept = [int(mask.sum()) for mask in masks]
            assert parameters(kept) == benchmark.parameters(made.model)
            assert macs is not None
            assert macs(kept) == benchmark.macs(made.model, _shapes(solution))


@pytest.mark.parametrize("name", ["residual", "excited"])
def test_no_smaller_set_would_do(name: str) -> None:
    """A channel of several producers stays when one of them is left as it was."""
    solution, classes = understood(NETS[name]())
    graph = solution.context.graph
    found = max(classes, key=lambda one: len(one.producers))
    masks = [np.ones(one.units, bool) for one in classes]
    masks[classes.index(found)][0] = False
    changed = zeros.zeroed(solution.context, zeros.dead_slices(classes, masks))
    readers = {node.inputs[1] for node, _ in found.consumers}
    for spared in found.producers if name == "residual" else ():
        behind = {n for node in graph.nodes if node.op == "BatchNormalization" for n in node.inputs[1:3]}
        own = {*spared.inputs[1:], *behind, *readers}
        made = shrunk(solution, {edge: value for edge, value in changed.items() if edge not in own})
        port = next(port for _, port in found.consumers)
        assert made.passes[0].solution.kept(port).all()
    for spared in readers:  # nor when one reader goes on reading it and the producers are alive
        writers = {name for node in found.producers for name in node.inputs[1:]} - readers
        writers |= {n for node in graph.nodes if node.op == "BatchNormalization" for n in node.inputs[1:3]}
        left = {edge: value for edge, value in changed.items() if edge not in writers | {spared}}
        port = next(port for node, port in found.consumers if node.inputs[1] == spared)
        assert shrunk(solution, left).passes[0].solution.kept(port).all()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", NETS)
def test_size_of_random_masks(name: str, seed: int) -> None:
    solution, classes = understood(NETS[name]())
    rng = np.random.default_rng(seed)
    masks = [rng.permutation(found.units) < rng.integers(1, found.units + 1) for found in classes]
    kept = [int(mask.sum()) for mask in masks]
    made = shrunk(solution, zeros.zeroed(solution.context, zeros.dead_slices(classes, masks)))
    assert parameter_function(solution, classes)(kept) == benchmark.parameters(made.model)
    macs = mac_function(solution, classes, _shapes(solution))
    assert macs is not None
    assert macs(kept) == benchmark.macs(made.model, _shapes(solution))


def test_layers_that_share_a_name_count_for_themselves() -> None:
    model = NETS["residual"]()
    for node in model.graph.node:
        node.name = "layer"
    solution, classes = understood(model)
    macs = mac_function(solution, classes, _shapes(solution))
    assert macs is not None
    assert macs([found.units for found in classes]) == benchmark.macs(model, _shapes(solution))


def test_a_shared_weight_counts_as_often_as_it_may_be_cut() -> None:
    """Two layers read one filter; when they are cut differently the file holds it twice."""
    m = Maker(["n", 3, 8, 8])
    shared = m.normal(6, 3, 3, 3)
    ends = []
    for _ in range(2):
        x = m.op("Relu", m.op("Conv", "x", shared, kernel_shape=[3, 3]))
        ends.append(m.op("Conv", x, m.normal(2, 6, 3, 3), kernel_shape=[3, 3]))
    solution, classes = understood(m.model(*ends))
    assert [found.units for found in classes] == [6, 6]
    masks = [np.arange(6) < 3, np.arange(6) >= 3]
    made = shrunk(solution, zeros.zeroed(solution.context, zeros.dead_slices(classes, masks)))
    assert parameter_function(solution, classes)([3, 3]) == benchmark.parameters(made.model)


@pytest.mark.shared
@pytest.mark.slow
def test_half_of_a_published_model(published) -> None:  # type: ignore[no-untyped-def]
    """What is zeroed goes, and nothing is left that the size function does not know of."""
    solution, classes = understood(published)
    if not classes:
        pytest.skip("no class")
    masks = [np.arange(found.units) % 2 == 0 for found in classes]
    dead = zeros.dead_slices(classes, masks)
    made = shrunk(solution, zeros.zeroed(solution.context, dead))
    after = made.passes[0].solution
    for port, where in dead.items():
        if port[0] not in solution.context.graph.constants and after.needed(port[0]):
            assert not after.kept(port)[where].any(), port
    parameters = parameter_function(solution, classes)
    whole = benchmark.parameters(shrunk(solution, {}).model)
    rest = max(0, whole - parameters([found.units for found in classes]))  # bodies
    half = parameters([int(mask.sum()) for mask in masks])
    assert benchmark.parameters(made.model) <= half + rest


def _shapes(solution: Solution) -> dict[str, tuple[int, ...]]:
    graph: onnx.GraphProto = solution.context.graph.model.proto.graph
    dims = graph.input[0].type.tensor_type.shape.dim
    return {"x": (1, *(dim.dim_value for dim in dims[1:]))}
