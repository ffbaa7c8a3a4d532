"""The map says everything: the result's cut weights follow from it and the original's weights, to the bit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, numpy_helper

import onnxshrink
from onnxshrink.rewrite.map import VERSION, rebuild
from tests.zoo import networks
from tests.zoo.net import Net
from tests.zoo.trap import DEAD, Trap, chain
from tests.zoo.traps import TRAPS

GOLDEN = sorted((Path(__file__).parents[1] / "golden").glob("*.txt"))
MODELS = sorted((Path(__file__).parents[2] / "models").glob("resnet20*.onnx"))


def constants(model: ModelProto) -> dict[str, np.ndarray]:
    """All constants by name: initializers, sparse ones and Constant nodes."""
    found = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    for sparse in model.graph.sparse_initializer:
        values, indices = numpy_helper.to_array(sparse.values), numpy_helper.to_array(sparse.indices)
        array = np.zeros(list(sparse.dims), values.dtype)
        array.reshape(-1)[indices] = values
        found[sparse.values.name] = array
    for node in model.graph.node:
        if node.op_type == "Constant":
            attribute = node.attribute[0]
            found[node.output[0]] = (
                numpy_helper.to_array(attribute.t)
                if attribute.name == "value"
                else np.asarray(onnx.helper.get_attribute_value(attribute))
            )
    return found


def assert_rebuilds(model: ModelProto, **options: object) -> dict[str, np.ndarray]:
    """Every constant of the result is one of the original's, or what the map makes of it."""
    result = onnxshrink.optimize(model, verify=False, **options)
    mapping = json.loads(json.dumps(result.map))
    before, after = constants(model), constants(result.model)
    rebuilt = rebuild(mapping, before)
    for name, array in rebuilt.items():
        if name in after:
            assert array.dtype == after[name].dtype or array.dtype.kind == after[name].dtype.kind, name
            np.testing.assert_array_equal(array, after[name], err_msg=name, strict=False)
    changed = {
        name
        for name, array in after.items()
        if array.ndim and (name not in before or not np.array_equal(before[name], array))
    }
    # shape operands, masks and addends of nodes that the rewrite adds are no weights of the original
    made = {name for name in changed if "_shrunk" in name and after[name].dtype.kind in "iub"}
    assert {name for name in changed - made if after[name].dtype.kind == "f"} <= set(rebuilt), "the map misses weights"
    return rebuilt


@pytest.mark.parametrize("trap", TRAPS, ids=lambda trap: trap.name)
def test_traps(trap: Trap) -> None:
    assert_rebuilds(trap.build(), align=1, **({} if trap.negligible else {"negligible": 0}))


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_golden_models(path: Path) -> None:
    """Some of these are cut in two passes."""
    assert_rebuilds(onnx.parser.parse_model(path.read_text()), align=1, negligible=0)


@pytest.mark.parametrize("align", [2, 3])
@pytest.mark.parametrize("trap", TRAPS[::5], ids=lambda trap: trap.name)
def test_traps_with_alignment(trap: Trap, align: int) -> None:
    assert_rebuilds(trap.build(), align=align)


def carried(**options: object) -> ModelProto:
    return chain(lambda net, t: net.op("Sigmoid", t), constant={2: 0.75, 5: -1.5}, **options).model()


def test_the_sum_in_a_carrier_is_the_weighted_one() -> None:
    """W'[:, k0] = sum over k of (v_k / v_k0) W[:, k], with v the Sigmoid of the planted values."""
    model = carried()
    rebuilt = assert_rebuilds(model, align=1, negligible=0)
    original = constants(model)["const_2"].astype(np.float64)
    planted = {**dict.fromkeys(DEAD, 0.0), 2: 0.75, 5: -1.5}
    known = {channel: 1 / (1 + np.exp(-value)) for channel, value in planted.items()}
    kept = sorted(set(range(8)) - set(known))
    cut = next(array for array in rebuilt.values() if array.shape[:2] == (4, len(kept) + 1))
    total = sum(value * original[:, channel] for channel, value in known.items())
    carrier = [i for i in range(len(kept) + 1) if not any(np.array_equal(cut[:, i], original[:, k]) for k in kept)]
    assert len(carrier) == 1
    ratio = total / cut[:, carrier[0]]
    assert np.allclose(ratio, ratio.flat[0], rtol=1e-5), "the carrier's column is the sum, up to its own value"
    assert np.isclose(ratio.flat[0], list(known.values()), rtol=1e-5).any()


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64])
def test_carriers_in_other_types(dtype: type) -> None:
    assert_rebuilds(carried(dtype=dtype), align=1)


@pytest.mark.parametrize("transposed", [False, True], ids=["Conv", "ConvTranspose"])
@pytest.mark.parametrize("group", [2, 4, 8])
def test_grouped_with_carriers(group: int, transposed: bool) -> None:
    net = Net()
    x = net.op("Sigmoid", net.conv(net.input("x", (1, 3, 6, 6)), 3, 16, zero=(0, 1, 2, 4, 5, 8, 13)))
    t = net.conv(x, 16, 16, group=group, transposed=transposed, zero=(3, 7, 11, 15))
    assert_rebuilds(net.output(net.conv(t, 16, 4, name="y")).model(), align=1)


def test_whole_groups_go() -> None:
    net = Net()
    x = net.conv(net.input("x", (1, 3, 6, 6)), 3, 12, zero=range(4, 8))
    t = net.conv(x, 12, 12, group=3, zero=range(4, 8))
    rebuilt = assert_rebuilds(net.output(net.conv(t, 12, 4, name="y")).model(), align=1)
    assert (8, 4, 3, 3) in {array.shape for array in rebuilt.values()}


@pytest.mark.parametrize("trans_b", [0, 1])
def test_gemm(trans_b: int) -> None:
    net = Net()
    weight, second = net.normal(6, 10), net.normal(10, 4)
    weight[:, [1, 4, 5]] = 0
    bias = net.normal(10)
    bias[[1, 4]] = 0
    x = net.input("x", ("n", 6))
    first = net.op("Gemm", x, net.const(weight.T if trans_b else weight), net.const(bias), transB=trans_b)
    t = net.op("Sigmoid", first)
    last = net.op("Gemm", t, net.const(second.T if trans_b else second), net.const(net.normal(4)), transB=trans_b)
    assert assert_rebuilds(net.output(last).model(), align=1)


def test_matmul_add_batch_norm_prelu() -> None:
    net = Net()
    weight = net.normal(6, 10)
    weight[:, [0, 3, 9]] = 0
    t = net.op("MatMul", net.input("x", ("n", 5, 6)), net.const(weight))
    t = net.op("Add", t, net.const(np.where(weight.any(axis=0), net.normal(10), 0)))
    t = net.op("Transpose", t, perm=[0, 2, 1])
    t = net.batch_norm(t, 10, zero=(0, 3), constant={9: 1.0})
    t = net.op("PRelu", t, net.const(net.normal(10, 1)))
    t = net.op("MatMul", net.op("Transpose", t, perm=[0, 2, 1]), net.const(net.normal(10, 4)))
    rebuilt = assert_rebuilds(net.output(t).model(), align=1)
    assert len(rebuilt) >= 5


def test_one_weight_becomes_two() -> None:
    trap = next(trap for trap in TRAPS if trap.name == "shared_weight")
    rebuilt = assert_rebuilds(trap.build(), align=1)
    assert sum(array.shape[:2] == (4, 4) for array in rebuilt.values()) == 2


def test_negligible_weights_are_zero_in_the_carrier() -> None:
    net = Net()
    weight = net.filters(3, 8, 3)
    weight[[1, 4]] *= 1e-20
    first = net.op("Conv", net.input("x", (1, 3, 8, 8)), net.const(weight), net.const(np.zeros(8)), pads=[1] * 4)
    model = net.output(net.conv(net.op("Sigmoid", first), 8, 4, name="y")).model()
    result = onnxshrink.optimize(model, align=1, verify=False)
    assert result.map["negligible"]
    assert_rebuilds(model, align=1)


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["inner", "const"])
@pytest.mark.parametrize("architecture", ["mobilenet_v2", "unet"])
def test_networks(architecture: str, scheme: str) -> None:
    for folded in (True, False):
        assert_rebuilds(networks.planted(architecture, scheme, folded=folded).model, align=1)


@pytest.mark.skipif(not MODELS, reason="models/ holds no resnet20*.onnx")
@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_models_that_ship(path: Path) -> None:
    assert_rebuilds(onnx.load(path), align=1)


def test_nodes_of_one_name_have_carriers_of_their_own() -> None:
    """Two named alike, and one without a name that gives a tensor of that name; each absorbs what the others do not."""
    rng = np.random.default_rng(0)
    nodes, parts = [], ["q", "p", "r"]
    weights = {"last": rng.normal(size=(4, 8, 1, 1))}
    for part, (dead, name) in zip(parts, (((0, 3, 5), ""), ((1, 2, 6), "q"), ((2, 5, 7), "q")), strict=True):
        weights |= {f"w_{part}": rng.normal(size=(8, 3, 3, 3)), f"v_{part}": rng.normal(size=(8, 8, 3, 3))}
        weights[f"w_{part}"][list(dead)] = 0
        weights[f"b_{part}"] = rng.uniform(1, 2, 8)
        first = ["x", f"w_{part}", f"b_{part}"]
        nodes.append(onnx.helper.make_node("Conv", first, [f"t_{part}"], f"first_{part}", pads=[1] * 4))
        nodes.append(onnx.helper.make_node("Conv", [f"t_{part}", f"v_{part}"], [part], name, pads=[1] * 4))
    nodes += [onnx.helper.make_node("Sum", parts, ["sum"]), onnx.helper.make_node("Conv", ["sum", "last"], ["y"])]
    values = (onnx.helper.make_tensor_value_info(n, TensorProto.FLOAT, (2, c, 6, 6)) for n, c in (("x", 3), ("y", 4)))
    arrays = [onnx.numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()]
    graph = onnx.helper.make_graph(nodes, "g", [next(values)], [next(values)], arrays)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    assert {f"v_{part}" for part in parts} <= set(assert_rebuilds(model, align=1, negligible=0))


def test_another_version_is_refused() -> None:
    with pytest.raises(ValueError, match="version 3, expected 2"):
        rebuild({"version": VERSION + 1}, {})


def test_the_map_names_its_source(tmp_path: Path) -> None:
    import hashlib

    path = tmp_path / "model.onnx"
    onnx.save(carried(), path)
    mapping = onnxshrink.optimize(path, align=2, verify=False).map
    assert mapping["version"] == VERSION
    assert mapping["source"] == {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "opset": 17}
    assert mapping["options"] == {
        "align": 2,
        "negligible": 1e-8,
        "keep_default_inputs": False,
        "input_ranges": {},
    }


def test_kept_channels_of_tensors_match_the_result() -> None:
    model = carried()
    result = onnxshrink.optimize(model, align=1, verify=False)
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim]
              for v in onnx.shape_inference.infer_shapes(result.model).graph.value_info}  # fmt: skip
    assert result.map["tensors"]
    for tensor, axes in result.map["tensors"].items():
        for axis, kept in axes.items():
            assert shapes[tensor][int(axis)] == len(kept)
