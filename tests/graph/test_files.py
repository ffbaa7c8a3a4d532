"""Files: what cannot be read is said in one line, external data goes round, and what was not cut stays as it was."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnx.external_data_helper import ExternalDataInfo, uses_external_data

import onnxshrink
from onnxshrink.errors import ModelError
from onnxshrink.graph.model import read
from onnxshrink.graph.view import build
from onnxshrink.graph.write import Staged, file_bytes
from tests.zoo import oracle
from tests.zoo.net import Net
from tests.zoo.trap import DEAD, chain, chain_cut

EXACT = {"align": 1, "negligible": 0}


def model(**options: object) -> ModelProto:
    return chain(lambda net, t: net.op("Relu", t), **options).model()


def wide() -> ModelProto:
    """Weights of more than 1 KB, some of which are not cut."""
    net = Net()
    t = net.conv(net.input("x", (1, 3, 8, 8)), 3, 32, zero=range(0, 32, 2))
    t = net.op("Relu", net.conv(t, 32, 32))
    return net.output(net.conv(t, 32, 16, name="y")).model()


def save_outside(proto: ModelProto, path: Path, location: str = "weights.bin", *, each: bool = False) -> Path:
    copy = ModelProto()
    copy.CopyFrom(proto)
    onnx.save(
        copy, path, save_as_external_data=True, all_tensors_to_one_file=not each,
        location=None if each else location, size_threshold=0,
    )  # fmt: skip
    return path


def outside(path: Path) -> list[ExternalDataInfo]:
    proto = onnx.load_model(str(path), load_external_data=False)
    return [ExternalDataInfo(t) for t in proto.graph.initializer if uses_external_data(t)]


def assert_same(before: ModelProto, after: ModelProto) -> None:
    arrays = oracle.feeds(before, 0)
    oracle.assert_equal(oracle.run(before, arrays), oracle.run(after, arrays, optimize=True))


# --- reading


def spoilt(spoil: str) -> ModelProto:
    proto = model()
    graph = proto.graph
    match spoil:
        case "no graph":
            proto.ClearField("graph")
        case "no operator set":
            del proto.opset_import[:]
        case "nothing before it produces":
            graph.node[0].input[0] = "nobody"
        case "exists already":
            graph.node[1].output[0] = graph.node[0].output[0]
        case "produced by no node":
            graph.output[0].name = "nobody"
        case "cannot be read":
            graph.initializer[0].raw_data = graph.initializer[0].raw_data[:-4]
    return proto


@pytest.mark.parametrize(
    "what",
    ["no graph", "no operator set", "nothing before it produces", "exists already", "produced by no node",
     "cannot be read"],
)  # fmt: skip
def test_what_cannot_be_read_says_why_and_where(tmp_path: Path, what: str) -> None:
    path = tmp_path / "spoilt.onnx"
    path.write_bytes(spoilt(what).SerializeToString())
    for source in (path, spoilt(what)):
        with pytest.raises(ModelError, match=what) as caught:
            onnxshrink.optimize(source)
        assert "\n" not in str(caught.value)
    assert "spoilt.onnx" in str(caught.value) or isinstance(source, ModelProto)


def test_external_data_may_not_lie_outside_the_folder(tmp_path: Path) -> None:
    """Neither by a path that climbs, nor by a link."""
    (tmp_path / "in").mkdir()
    path = save_outside(model(), tmp_path / "in" / "model.onnx")
    os.replace(tmp_path / "in" / "weights.bin", tmp_path / "weights.bin")
    (tmp_path / "in" / "weights.bin").symlink_to(tmp_path / "weights.bin")
    with pytest.raises(ModelError, match="cannot be read"):
        onnxshrink.optimize(path)
    proto = onnx.load_model(str(path), load_external_data=False)
    for tensor in proto.graph.initializer:
        tensor.external_data[0].value = "../weights.bin"
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(ModelError, match="cannot be read"):
        onnxshrink.optimize(path)


def test_a_proto_is_not_changed_and_not_kept() -> None:
    proto = model()
    copy = proto.SerializeToString(deterministic=True)
    held = read(proto)
    onnxshrink.optimize(proto, **EXACT, verify=False)
    assert proto.SerializeToString(deterministic=True) == copy
    proto.graph.node[0].name = "changed later"
    assert held.proto.graph.node[0].name != "changed later"


def test_external_weights_are_read_only_when_asked_for(tmp_path: Path) -> None:
    path = save_outside(wide(), tmp_path / "model.onnx")
    held = read(path)
    (tmp_path / "weights.bin").unlink()
    assert held.proto.graph.initializer[0].dims == [32, 3, 3, 3]
    with pytest.raises(ModelError, match="keep the external data file beside the model"):
        held.array(held.proto.graph.initializer[0])


# --- external data


@pytest.mark.parametrize("each", [False, True], ids=["one_file", "a_file_each"])
def test_external_data_goes_round(tmp_path: Path, each: bool) -> None:
    before = wide()
    (tmp_path / "out").mkdir()
    source, output = save_outside(before, tmp_path / "model.onnx", each=each), tmp_path / "out" / "small.onnx"
    result = onnxshrink.optimize(source, output, **EXACT)
    assert result.verification is not None
    assert result.verification.state == "passed"
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["small.onnx", "small.onnx.data"]
    infos = outside(output)
    assert {info.location for info in infos} == {"small.onnx.data"}, "relative, and beside the model"
    assert all(info.offset % 64 == 0 for info in infos)
    ends = [info.offset + info.length for info in infos]
    assert max(ends) == (tmp_path / "out" / "small.onnx.data").stat().st_size
    assert all(start >= end for start, end in zip(sorted(i.offset for i in infos)[1:], sorted(ends), strict=False))
    assert_same(before, onnx.load(output))
    assert result.sizes["file_bytes"] == (file_bytes(source), file_bytes(output))
    inside = onnxshrink.optimize(before, **EXACT)
    for tensor, other in zip(onnx.load(output).graph.initializer, inside.model.graph.initializer, strict=True):
        assert tensor.name == other.name
        np.testing.assert_array_equal(numpy_helper.to_array(tensor), numpy_helper.to_array(other))


def test_the_result_can_be_moved_and_cut_again(tmp_path: Path) -> None:
    source = save_outside(wide(), tmp_path / "model.onnx")
    (tmp_path / "a").mkdir()
    onnxshrink.optimize(source, tmp_path / "a" / "small.onnx", align=4)
    (tmp_path / "a").rename(tmp_path / "b")
    again = onnxshrink.optimize(tmp_path / "b" / "small.onnx", tmp_path / "twice.onnx", **EXACT)
    assert again.changed is False
    assert_same(wide(), onnx.load(tmp_path / "twice.onnx"))
    assert {info.location for info in outside(tmp_path / "twice.onnx")} == {"twice.onnx.data"}


def test_unchanged_model_with_external_data_gets_data_of_its_own(tmp_path: Path) -> None:
    before = model(zero=())
    source = save_outside(before, tmp_path / "model.onnx")
    result = onnxshrink.optimize(source, tmp_path / "out.onnx", **EXACT)
    assert result.changed is False
    os.unlink(tmp_path / "weights.bin")
    assert_same(before, onnx.load(tmp_path / "out.onnx"))


def test_a_failure_leaves_the_earlier_result_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model moves last: when that fails, nothing half-written is left, and the source is untouched."""
    source, output = save_outside(wide(), tmp_path / "model.onnx"), tmp_path / "out.onnx"
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    real = Path.write_bytes

    def full(self: Path, data: bytes) -> int:
        if self.name == "out.onnx":
            real(self, data[: len(data) // 2])
            raise OSError(28, "No space left on device")
        return real(self, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(ModelError, match="cannot write there: No space left on device"):
        onnxshrink.optimize(source, output, **EXACT)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no such files on this system")
def test_what_is_no_file_is_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(ModelError, match="pipe: is no file that could be replaced"):
        onnxshrink.optimize(wide(), pipe, **EXACT)
    assert pipe.is_fifo()


def test_a_link_is_written_through(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    onnx.save(wide(), tmp_path / "old" / "model.onnx")
    link = tmp_path / "current.onnx"
    link.symlink_to(Path("old") / "model.onnx")
    onnxshrink.optimize(wide(), link, **EXACT)
    assert link.is_symlink()
    assert_same(onnx.load(link), onnxshrink.optimize(wide(), **EXACT).model)
    source = save_outside(wide(), tmp_path / "outside.onnx")
    with pytest.raises(ModelError, match=r"current\.onnx: is a link, and weights lie beside a model"):
        onnxshrink.optimize(source, link, **EXACT)


def test_nodes_in_another_order_are_sorted(tmp_path: Path) -> None:
    """As the float16 converter of ONNX Runtime leaves them; ONNX Runtime itself loads such files."""
    model = wide()
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in model.graph.node][::-1]
    expected = onnxshrink.optimize(model, **EXACT).model
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.save(model, tmp_path / "model.onnx")
    result = onnxshrink.optimize(tmp_path / "model.onnx", **EXACT)
    assert_same(result.model, expected)
    assert any("sorted" in note for note in result.notes)
    model.graph.node[0].input[0] = model.graph.node[0].output[0]
    with pytest.raises(ModelError, match="which nothing before it produces"):
        read(model)


def test_staged_files_are_removed_unless_committed(tmp_path: Path) -> None:
    source = read(save_outside(wide(), tmp_path / "model.onnx"))
    with Staged(source.proto, source, tmp_path / "out.onnx") as staged:
        assert staged.path.parent.parent == tmp_path, "on the same file system as its destination"
        assert_same(wide(), onnx.load(staged.path))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.onnx", "weights.bin"]


def test_constants_in_bodies_go_outside_and_come_back(tmp_path: Path) -> None:
    """Tensors in attributes and in bodies of If may be stored outside too."""
    net = chain(lambda net, t: net.op("Relu", t))
    big = np.arange(4096, dtype=np.float32)
    branches = {}
    for branch, sign in (("then_branch", 1), ("else_branch", -1)):
        node = helper.make_node("Constant", [], [f"{branch}_k"], value=numpy_helper.from_array(sign * big))
        out = helper.make_tensor_value_info(f"{branch}_k", TensorProto.FLOAT, [4096])
        branches[branch] = helper.make_graph([node], branch, [], [out])
    net.input("flag", (), np.bool_)
    net.output(net.op("Identity", net.op("If", "flag", **branches), name="z"))
    before = net.model()
    copy = ModelProto()
    copy.CopyFrom(before)
    onnx.save(copy, tmp_path / "model.onnx", save_as_external_data=True, location="w.bin", size_threshold=0,
              convert_attribute=True)  # fmt: skip
    onnxshrink.optimize(tmp_path / "model.onnx", tmp_path / "out.onnx", **EXACT)
    os.unlink(tmp_path / "w.bin")
    arrays = oracle.feeds(before, 0)
    opened = onnx.load(tmp_path / "out.onnx")
    oracle.assert_equal(oracle.run(before, arrays), oracle.run(opened, arrays))


# --- what is not cut stays as it was


def decorated() -> ModelProto:
    proto = model()
    proto.producer_name, proto.producer_version, proto.domain = "trainer", "1.2", "org.example"
    proto.model_version, proto.doc_string = 7, "of the model"
    proto.graph.doc_string = "of the graph"
    proto.metadata_props.add(key="labels", value="cat,dog")
    proto.graph.metadata_props.add(key="of", value="graph")
    for index, node in enumerate(proto.graph.node):
        node.doc_string = f"of node {index}"
        node.metadata_props.add(key="module", value=f"layer {index}")
    for tensor in proto.graph.initializer:
        tensor.doc_string = f"of {tensor.name}"
    proto.graph.input[0].doc_string = "of the input"
    proto.graph.quantization_annotation.add(tensor_name="x").quant_parameter_tensor_names.add(key="SCALE", value="y")
    proto.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return proto


def test_metadata_and_documentation_stay() -> None:
    before = decorated()
    after = onnxshrink.optimize(before, **EXACT, verify=False).model
    assert len(after.graph.initializer[0].raw_data) < len(before.graph.initializer[0].raw_data)
    for proto in (before, after):  # everything that the model says about itself besides its layers
        for tensor in proto.graph.initializer:
            tensor.raw_data, tensor.dims[:] = b"", []
        del proto.graph.value_info[:]
    marks = {entry.key: entry.value for entry in after.metadata_props if entry.key.startswith("onnxshrink.")}
    for entry in list(after.metadata_props):
        if entry.key.startswith("onnxshrink."):
            after.metadata_props.remove(entry)
    assert after == before
    assert set(marks) == {"onnxshrink.version", "onnxshrink.source_sha256", "onnxshrink.options"}


def test_functions_become_nodes() -> None:
    net = chain(lambda net, t: net.op("Relu", t))
    net.outputs = [net.op("Double", "y", domain="local", name="z")]
    body = [helper.make_node("Add", ["a", "a"], ["b"], doc_string="twice")]
    net.functions.append(helper.make_function("local", "Double", ["a"], ["b"], body, [helper.make_opsetid("", 17)]))
    before = net.model()
    after = onnxshrink.optimize(before, **EXACT).model
    assert not after.functions
    assert [(node.op_type, node.doc_string) for node in after.graph.node][-1] == ("Add", "twice")
    assert_same(before, after)


@pytest.mark.parametrize(("ir", "opset"), [(3, 7), (4, 9), (6, 11), (7, 13), (8, 17), (10, 21)])
def test_ir_and_opset_stay(ir: int, opset: int) -> None:
    net = chain(lambda net, t: net.op("Relu", t), ir_version=ir, opset=opset)
    net.list_initializers_as_inputs = ir < 4
    before = net.model()
    after = onnxshrink.optimize(before, **EXACT).model
    assert (after.ir_version, list(after.opset_import)) == (ir, list(before.opset_import))
    assert parameters(before) - parameters(after) == chain_cut(len(DEAD))


def parameters(proto: ModelProto) -> int:
    return onnxshrink.benchmark.parameters(proto)


# --- initializers that are listed as inputs


def listed(ir: int) -> ModelProto:
    net = chain(lambda net, t: net.op("Relu", t), ir_version=ir, opset=9)
    net.list_initializers_as_inputs = True
    return net.model()


def test_below_ir_4_initializers_stay_listed_with_their_new_shape() -> None:
    after = onnxshrink.optimize(listed(3), **EXACT).model
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in after.graph.input}
    assert {t.name: list(t.dims) for t in after.graph.initializer}.items() <= shapes.items()
    assert set(shapes) == {"x"} | {t.name for t in after.graph.initializer}


def test_below_ir_4_no_initializer_is_new() -> None:
    """What a rewrite adds becomes a Constant node: an initializer would have to be an input."""
    net = chain(lambda net, t: net.op("Sigmoid", t), ir_version=3, opset=8, pad=0, conv2={"bias": False})
    net.list_initializers_as_inputs = True
    before = net.model()
    after = onnxshrink.optimize(before, **EXACT).model
    assert {t.name for t in after.graph.initializer} <= {t.name for t in before.graph.initializer}
    assert "Constant" in {node.op_type for node in after.graph.node}
    onnx.checker.check_model(after)


def test_from_ir_4_on_defaults_become_constants_and_that_is_said() -> None:
    before = listed(8)
    result = onnxshrink.optimize(before, **EXACT)
    assert [value.name for value in result.model.graph.input] == ["x"]
    assert any("listed as inputs" in note for note in result.notes)
    assert parameters(before) - parameters(result.model) == chain_cut(len(DEAD))


def test_keep_default_inputs_leaves_them_alone() -> None:
    before = listed(8)
    result = onnxshrink.optimize(before, **EXACT, keep_default_inputs=True)
    assert result.changed is False
    assert result.model == before


def test_unchanged_model_with_default_inputs_keeps_them() -> None:
    net = chain(lambda net, t: net.op("Relu", t), zero=())
    net.list_initializers_as_inputs = True
    before = net.model()
    result = onnxshrink.optimize(before, **EXACT)
    assert result.model == before
    assert not any("are constants now" in note for note in result.notes)
    assert any("are listed as inputs" in note and "export without" in note for note in result.notes)


@pytest.mark.parametrize("keep", [False, True])
def test_no_input_is_left_without_its_default(keep: bool) -> None:
    before = listed(8)
    after = onnxshrink.optimize(before, **EXACT, keep_default_inputs=keep).model
    assert [v.name for v in oracle.required_inputs(after)] == ["x"]


# --- other places for constants


def test_sparse_initializer() -> None:
    """Storage with zeros left out is a constant like any other; what was cut is stored dense."""
    net = chain(lambda net, t: net.op("Relu", t))
    weight = next(t for t in net.initializers if list(t.dims) == [8, 3, 3, 3])
    net.sparse = (weight.name,)
    before = net.model()
    graph = build(read(before))
    array = next(a for a in graph.constants.values() if a.shape == (8, 3, 3, 3))
    np.testing.assert_array_equal(array, numpy_helper.to_array(weight))
    after = onnxshrink.optimize(before, **EXACT, verify=False).model
    assert [list(t.dims) for t in after.graph.initializer if t.name == weight.name] == [[4, 3, 3, 3]]
    assert not after.graph.sparse_initializer


def test_sparse_initializer_with_coordinates() -> None:
    """Indices may also be one row of coordinates for each value."""
    array = np.array([[0, 2, 0], [0, 0, 3]], np.float32)
    values = numpy_helper.from_array(array[array != 0], "w")
    indices = numpy_helper.from_array(np.argwhere(array).astype(np.int64), "w_indices")
    sparse = helper.make_sparse_tensor(values, indices, [2, 3])
    held = read(model())
    np.testing.assert_array_equal(held.dense(sparse), array)


def as_constant_nodes(proto: ModelProto) -> ModelProto:
    """The same model with a Constant node for each initializer."""
    nodes = [helper.make_node("Constant", [], [t.name], name=f"const {t.name}", value=t)
             for t in proto.graph.initializer]  # fmt: skip
    nodes += list(proto.graph.node)
    copy = ModelProto()
    copy.CopyFrom(proto)
    del copy.graph.node[:], copy.graph.initializer[:]
    copy.graph.node.extend(nodes)
    return copy


def test_constant_nodes() -> None:
    before = as_constant_nodes(model())
    result = onnxshrink.optimize(before, **EXACT)
    assert result.verification is not None
    assert result.verification.passed
    assert parameters(before) - parameters(result.model) == chain_cut(len(DEAD))
    assert_same(before, result.model)
    names = [node.output[0] for node in result.model.graph.node if node.op_type == "Constant"]
    stored = names + [t.name for t in result.model.graph.initializer]
    assert len(stored) == len(set(stored)), "no weight is stored twice"


@pytest.mark.parametrize("kind", ["value_float", "value_floats", "value_int", "value_ints"])
def test_short_constant_nodes(kind: str) -> None:
    """Constants whose value is in an attribute of its own."""
    net = Net()
    t = net.conv(net.input("x", (1, 3, 8, 8)), 3, 8, zero=DEAD)
    value = {"value_float": 2.0, "value_floats": [3.0], "value_int": 1, "value_ints": [1, 8, 64]}[kind]
    net.op("Constant", name="c", **{kind: value})
    t = net.op("Mul", t, "c") if "float" in kind else net.op(
        "Reshape", t, "c") if kind == "value_ints" else net.op("Gather", t, "c", axis=2)  # fmt: skip
    before = net.output(net.op("ReduceMax", t, axes=[-1], name="y")).model()
    result = onnxshrink.optimize(before, **EXACT)
    assert_same(before, result.model)


def test_declared_shapes_follow_the_cut() -> None:
    net = chain(lambda net, t: net.op("Relu", t))
    net.keep_value_info = True
    before = net.model()
    after = onnxshrink.optimize(before, **EXACT).model
    onnx.checker.check_model(after, full_check=True)
    declared = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in after.graph.value_info}
    assert len(declared) == len(before.graph.value_info)
    assert {name: shape[1] for name, shape in declared.items()} == {"mixed": 3, "conv_0": 4, "relu_1": 4, "y": 4}


def test_declared_shape_of_an_output_that_nobody_reads_is_not_kept() -> None:
    """The mask of a Dropout is not needed, so nothing was counted of it: no shape is better than a wrong one."""
    net = Net()
    t = net.conv(net.input("x", (1, 3, 8, 8)), 3, 8, zero=(1, 4))
    t = net.op("Dropout", t, count=2, name="drop")
    model = net.output(net.conv(t[0] if isinstance(t, tuple | list) else t, 8, 4, name="y")).model()
    mask = next(n for n in model.graph.node if n.op_type == "Dropout").output[1]
    model.graph.value_info.append(onnx.helper.make_tensor_value_info(mask, onnx.TensorProto.BOOL, [1, 8, 8, 8]))
    result = onnxshrink.optimize(model, align=1).model
    assert mask not in {v.name for v in result.graph.value_info}
    assert onnxshrink.optimize(model, align=1).changed
