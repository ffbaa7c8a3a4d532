"""The structural check: each defect is found in the broken model, and nothing is found in its sound twin.

A case is one text with a value in it that is right or wrong, so the two models differ by nothing else.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from onnxshrink.verification import check, introduced
from onnxshrink.verification.shapes import model_facts
from tests.zoo import oracle
from tests.zoo.traps import TRAPS

from .models import parse

# What checker, strict inference or ONNX Runtime's default path accept comes first; then the rest.
# name: (text with {v}, right value, wrong value, what the finding says)
CASES = {
    "conv_input_channels": (
        "g (float[1,{v},8,8] x, float[8,16,3,3] w) => (float[1,8,6,6] y) {{ y = Conv(x, w) }}",
        *("16", "12", "input has 12 channels"),
    ),
    "conv_weight_channels": (
        "g (float[1,16,8,8] x, float[8,{v},3,3] w) => (float[1,8,6,6] y) {{ y = Conv(x, w) }}",
        *("16", "12", "expects 12"),
    ),
    "conv_bias": (
        "g (float[1,4,8,8] x, float[16,4,3,3] w, float[{v}] b) => (float[1,16,6,6] y) {{ y = Conv(x, w, b) }}",
        *("16", "12", "bias has 12 elements"),
    ),
    "depthwise_group": (
        "g (float[1,16,8,8] x, float[16,1,3,3] w) => (float[1,16,6,6] y) {{ y = Conv<group={v}>(x, w) }}",
        *("16", "12", "input has 16 channels"),
    ),
    "group_divides_filters": (
        "g (float[1,16,8,8] x, float[{v},4,3,3] w) => (float[1,{v},6,6] y) {{ y = Conv<group=4>(x, w) }}",
        *("8", "6", "does not divide the 6 filters"),
    ),
    "behind_dynamic_axes": (
        "g (float[N,4,H,W] x, float[{v},4,3,3] w, float[8,16,1,1] u) => (float[N,8,A,B] y)"
        " {{ a = Conv(x, w) b = Relu(a) y = Conv(b, u) }}",
        *("16", "12", "input has 12 channels"),
    ),
    "transposed_conv": (
        "g (float[1,16,8,8] x, float[{v},8,2,2] w) => (float[1,8,9,9] y) {{ y = ConvTranspose(x, w) }}",
        *("16", "12", "expects 12"),
    ),
    "batch_norm": (
        "g (float[1,16,8,8] x, float[16] s, float[{v}] b, float[16] m, float[16] v) => (float[1,16,8,8] y)"
        " {{ y = BatchNormalization(x, s, b, m, v) }}",
        *("16", "12", "has 12 elements"),
    ),
    "instance_norm": (
        "g (float[1,16,8,8] x, float[{v}] s, float[16] b) => (float[1,16,8,8] y)"
        " {{ y = InstanceNormalization(x, s, b) }}",
        *("16", "12", "has 12 elements"),
    ),
    "layer_norm": (
        "g (float[1,7,16] x, float[{v}] s) => (float[1,7,16] y) {{ y = LayerNormalization(x, s) }}",
        *("16", "12", "does not broadcast"),
    ),
    "prelu": (
        "g (float[1,16,8,8] x, float[{v},1,1] s) => (float[1,16,8,8] y) {{ y = PRelu(x, s) }}",
        *("16", "12", "does not broadcast"),
    ),
    "add": (
        "g (float[1,16,8,8] x, float[1,{v},1,1] s) => (float[1,16,8,8] y) {{ y = Add(x, s) }}",
        *("16", "12", "do not broadcast"),
    ),
    "where": (
        "g (bool[{v}] c, float[3,16] x, float[1] s) => (float[3,16] y) {{ y = Where(c, x, s) }}",
        *("16", "12", "do not broadcast"),
    ),
    "gemm": (
        "g (float[1,16] x, float[8,{v}] w) => (float[1,8] y) {{ y = Gemm<transB=1>(x, w) }}",
        *("16", "12", "inner sizes differ"),
    ),
    "gemm_bias": (
        "g (float[1,16] x, float[16,8] w, float[{v}] b) => (float[1,8] y) {{ y = Gemm(x, w, b) }}",
        *("8", "6", "bias [6]"),
    ),
    "matmul": (
        "g (float[2,5,16] x, float[{v},8] w) => (float[2,5,8] y) {{ y = MatMul(x, w) }}",
        *("16", "12", "inner sizes differ"),
    ),
    "flatten_gemm": (
        "g (float[N,{v},2,2] x, float[64,10] w) => (float[N,10] y) {{ f = Flatten(x) y = MatMul(f, w) }}",
        *("16", "12", "inner sizes differ"),
    ),
    "shape_chain_gemm": (
        "g (float[N,{v},2,2] x, float[64,10] w) => (float[N,10] y) <int64[1] zero = {{0}}, int64[1] rest = {{-1}}>"
        " {{ s = Shape(x) n = Gather(s, zero) t = Concat<axis=0>(n, rest) f = Reshape(x, t) y = MatMul(f, w) }}",
        *("16", "12", "inner sizes differ"),
    ),
    "concat": (
        "g (float[1,16,8,8] x, float[1,4,{v},8] s) => (float[1,20,8,8] y) {{ y = Concat<axis=1>(x, s) }}",
        *("8", "7", "operands differ on axis 2"),
    ),
    "split": (
        "g (float[1,16,8] x) => (float[1,6,8] y, float[1,10,8] z) <int64[2] s = {{6, {v}}}>"
        " {{ y, z = Split<axis=1>(x, s) }}",
        *("10", "9", "sum to 15"),
    ),
    "split_equal": (
        "g (float[1,{v},8] x) => (float[1,A,8] y, float[1,B,8] z) {{ y, z = Split<axis=1>(x) }}",
        *("16", "15", "2 equal pieces"),
    ),
    "reshape": (
        "g (float[N,{v},4] x) => (float[N,64] y) <int64[2] s = {{0, 64}}> {{ y = Reshape(x, s) }}",
        *("16", "12", "does not fit the target [0, 64]"),
    ),
    "expand": (
        "g (float[1,{v},1] x) => (float[2,16,3] y) <int64[3] s = {{2, 16, 3}}> {{ y = Expand(x, s) }}",
        *("16", "12", "does not expand"),
    ),
    "constant_of_shape": (
        "g () => (float[A,B] y) <int64[2] s = {{2, {v}}}> {{ y = ConstantOfShape(s) }}",
        *("3", "-3", "negative size"),
    ),
    "resize_channels": (
        "g (float[1,{v},8,8] x) => (float[1,C,16,16] y) <int64[4] s = {{1, 16, 16, 16}}> {{ y = Resize(x, , , s) }}",
        *("16", "12", "the channel or batch axis"),
    ),
    "resize_rank": (
        "g (float[1,16,8,8] x) => (float[A,B,C,D] y) <float[{v}] s = {{1, 1, 2, 2}}> {{ y = Resize(x, , s) }}",
        *("4", "3", "3 elements for rank 4"),
    ),
    "tile": (
        "g (float[2,3] x) => (float[A,B] y) <int64[{v}] s = {{1, 2}}> {{ y = Tile(x, s) }}",
        *("2", "3", "3 repeats for rank 2"),
    ),
    "pad": (
        "g (float[1,16,8] x) => (float[A,B,C] y) <int64[6] s = {{0, 0, 1, 0, {v}, 1}}> {{ y = Pad(x, s) }}",
        *("-16", "-17", "take more than the 16"),
    ),
    "slice_axis": (
        "g (float[2,16] x) => (float[A,B] y) <int64[1] s = {{0}}, int64[1] e = {{4}}, int64[1] a = {{{v}}}>"
        " {{ y = Slice(x, s, e, a) }}",
        *("1", "2", "axis 2 is outside of rank 2"),
    ),
    "gather": (
        "g (float[1,{v},8] x) => (float[1,2,8] y) <int64[2] s = {{3, 13}}> {{ y = Gather<axis=1>(x, s) }}",
        *("16", "12", "indices from 3 to 13"),
    ),
    "depth_to_space": (
        "g (float[1,{v},8,8] x) => (float[1,C,16,16] y) {{ y = DepthToSpace<blocksize=2>(x) }}",
        *("16", "14", "does not divide axis 1 of 14"),
    ),
    "transpose": (
        "g (float[1,2,3] x) => (float[A,B,C] y) {{ y = Transpose<perm=[2, {v}, 1]>(x) }}",
        *("0", "1", "is no permutation"),
    ),
    "squeeze": (
        "g (float[2,{v},3] x) => (float[2,3] y) <int64[1] a = {{1}}> {{ y = Squeeze(x, a) }}",
        *("1", "4", "is not 1"),
    ),
    "topk": (
        "g (float[2,{v}] x) => (float[2,14] y, int64[2,14] i) <int64[1] k = {{14}}> {{ y, i = TopK(x, k) }}",
        *("16", "12", "k 14"),
    ),
    "non_max_suppression": (
        "g (float[1,{v},4] b, float[1,1,16] s) => (int64[K,3] y) {{ y = NonMaxSuppression(b, s) }}",
        *("16", "12", "12 boxes for 16 scores"),
    ),
    "quantize": (
        "g (float[1,16,4] x, float[{v}] s) => (uint8[1,16,4] y) {{ y = QuantizeLinear<axis=1>(x, s) }}",
        *("16", "12", "scale has 12 elements"),
    ),
    "lstm": (
        "g (float[5,1,{v}] x, float[1,32,16] w, float[1,32,8] r) => (float[5,1,1,8] y)"
        " {{ y = LSTM<hidden_size=8>(x, w, r) }}",
        *("16", "12", "12 features"),
    ),
    "stft": (
        "g (float[2,64,1] x, float[16] w) => (float[2,7,{v},2] y) <int64 s = {{8}}> {{ y = STFT(x, s, w) }}",
        *("9", "16", "is declared [2, 7, 16, 2]"),
    ),
    "lstm_layout": (
        "g (float[1,5,{v}] x, float[1,32,16] w, float[1,32,8] r) => (float[1,5,1,8] y)"
        " {{ y = LSTM<hidden_size=8, layout=1>(x, w, r) }}",
        *("16", "12", "12 features"),
    ),
    "gru_hidden": (
        "g (float[5,1,16] x, float[1,24,16] w, float[1,24,8] r) => (float[5,1,1,8] y)"
        " {{ y = GRU<hidden_size={v}>(x, w, r) }}",
        *("8", "6", "should have 18 on axis 1"),
    ),
    "lstm_peepholes": (
        "g (float[5,1,16] x, float[1,32,16] w, float[1,32,8] r, float[1,{v}] u) => (float[5,1,1,8] y)"
        " {{ y = LSTM<hidden_size=8>(x, w, r, , , , , u) }}",
        *("24", "18", "should have 24 on axis 1"),
    ),
    "gru_directions": (
        "g (float[5,1,16] x, float[2,24,16] w, float[2,24,8] r) => (float[5,D,1,8] y)"
        ' {{ y = GRU<hidden_size=8, direction="{v}">(x, w, r) }}',
        *("bidirectional", "reverse", "is not for 1 direction"),
    ),
    "rnn_activations": (
        "g (float[5,1,16] x, float[2,8,16] w, float[2,8,8] r) => (float[5,2,1,8] y)"
        ' {{ y = RNN<hidden_size=8, direction="bidirectional", activations={v}>(x, w, r) }}',
        *('["Tanh", "Relu"]', '["Tanh"]', "1 activations, 1 for each"),
    ),
    "deform_conv": (
        "g (float[1,{v},8,8] x, float[1,18,8,8] o, float[4,6,3,3] w) => (float[1,4,8,8] y)"
        " {{ y = DeformConv<pads=[1, 1, 1, 1]>(x, w, o) }}",
        *("6", "5", "input has 5 channels"),
    ),
    "deform_conv_offsets": (
        "g (float[1,6,8,8] x, float[1,{v},8,8] o, float[4,6,3,3] w) => (float[1,4,8,8] y)"
        " {{ y = DeformConv<pads=[1, 1, 1, 1], offset_group=2>(x, w, o) }}",
        *("36", "18", "should have 36 on axis 1"),
    ),
    "einsum": (
        'g (float[5,{v}] x, float[16,3] w) => (float[5,3] y) {{ y = Einsum<equation="ab,bc->ac">(x, w) }}',
        *("16", "12", "`b` of"),
    ),
    "declared_output": (
        "g (float[N,16] x) => (float[N,{v}] y) {{ y = Relu(x) }}",
        *("16", "12", "declared [N, 12]"),
    ),
    "dangling": ("g (float[16] x) => (float[16] y) {{ y = Add(x, {v}) }}", "x", "z", "is made by no node"),
    "output_dangling": ("g (float[16] x) => (float[16] {v}) {{ y = Relu(x) }}", "y", "z", "is made by no node"),
    "made_twice": (
        "g (float[16] x) => (float[16] y) {{ {v} = Relu(x) y = Sigmoid(x) }}",
        *("a", "y", "made twice"),
    ),
    "order": (
        "g (float[16] x) => (float[16] y, float[16] a) {{ y = Relu({v}) a = Sigmoid(x) }}",
        *("x", "a", "used before"),
    ),
    "inside_a_branch": (
        "g (bool c, float[1,4,8,8] x, float[6,4,3,3] w, float[5,{v},1,1] u) => (float[A,B,C,D] y) {{"
        " y = If(c) <then_branch = t () => (p) {{ a = Conv(x, w) p = Conv(a, u) }},"
        " else_branch = e () => (q) {{ q = Identity(x) }}> }}",
        *("6", "7", "input has 6 channels"),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_defect_is_found_and_its_twin_is_clean(name: str) -> None:
    text, right, wrong, message = CASES[name]
    # Weights are initializers in real models; inside a branch only what does not depend on an input is known.
    sound, broken = (_with_weights(parse(text.format(v=value))) for value in (right, wrong))
    assert check(sound, original=sound) == []
    found = check(broken)
    assert any(message in f.what for f in found), [str(f) for f in found]


def _with_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Inputs named like weights become initializers."""
    for value in [v for v in model.graph.input if v.name in ("w", "u", "r")]:
        shape = [d.dim_value for d in value.type.tensor_type.shape.dim]
        model.graph.initializer.append(numpy_helper.from_array(np.zeros(shape, np.float32), value.name))
        model.graph.input.remove(value)
    return model


def test_comparison_with_the_original_finds_stale_resize_empty_slice_and_required_input() -> None:
    text = """g (float[1,{c},8,8] x) => (float[1,A,8,8] y, float[1,B,8,8] z)
      <int64[4] s = {{1, 16, 8, 8}}, int64[1] b = {{12}}, int64[1] e = {{16}}, int64[1] a = {{1}}>
      {{ y = Resize(x, , , s) z = Slice(x, b, e, a) }}"""
    before, after = parse(text.format(c=16)), parse(text.format(c=12))
    assert check(after) == []  # each of them alone could be meant
    found = " ".join(map(str, check(after, original=before)))
    assert "changes axes [1]" in found
    assert "takes nothing" in found

    defaults = parse("g (float[4] x, float[4] k) => (float[4] y) <float[4] k = {1, 2, 3, 4}> { y = Add(x, k) }")
    dropped = parse("g (float[4] x, float[4] k) => (float[4] y) { y = Add(x, k) }")
    assert "`k` must be given now" in str(check(dropped, original=defaults)[0])


def test_initializers_below_ir_4_must_be_inputs() -> None:
    text = "g (float[4] x{more}) => (float[4] y) <float[4] k = {{1, 2, 3, 4}}> {{ y = Add(x, k) }}"
    assert check(parse(text.format(more=", float[4] k"), ir=3, opset=8)) == []
    assert "is not among the inputs" in str(check(parse(text.format(more=""), ir=3, opset=8))[0])
    assert check(parse(text.format(more=""), ir=4, opset=8)) == []


def test_payload_of_tensors() -> None:
    model = parse("g (float[4] x) => (float[4] y) { y = Add(x, k) }", {"k": np.zeros(4, np.float32)})
    assert check(model) == []
    model.graph.initializer[0].raw_data = model.graph.initializer[0].raw_data[:12]
    assert "12 bytes for [4] FLOAT" in str(check(model)[0])


def test_external_data(tmp_path: Path) -> None:
    model = parse("g (float[400] x) => (float[400] y) { y = Add(x, k) }", {"k": np.zeros(400, np.float32)})
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    stored = onnx.load(tmp_path / "m.onnx", load_external_data=False)
    assert check(stored, folder=tmp_path) == []
    (tmp_path / "m.data").write_bytes(bytes(1500))
    assert "100 bytes too short" in str(check(stored, folder=tmp_path)[0])
    (tmp_path / "m.data").unlink()
    assert "`m.data` is not there" in str(check(stored, folder=tmp_path)[0])


@pytest.mark.parametrize("trap", TRAPS, ids=lambda trap: trap.name)
def test_no_false_alarm_on_traps(trap) -> None:
    model = trap.build()
    assert check(model, original=model) == []


NOT_FOLLOWED = {
    "Attention": {3, 5},  # mask, cached values
    "BatchNormalization": {1, 2, 3, 4},  # one factor for each pixel, as opset 7 has it
    "CenterCropPad": {1},
    "Col2Im": {1, 2},
    "Compress": {1},
    "CropAndResize": {1, 2, 3},
    "GRU": {5},
    "GridSample": {1},
    "GroupQueryAttention": {5, 7, 8},  # lengths, rotation tables
    "LSTM": {5, 6},
    "MatMulBnb4": {1, 2},
    "MatMulNBits": {1},
    "MaxRoiPool": {1},
    "MultiHeadAttention": {5},
    "OneHot": {2},
    "Pad": {1},
    "RNN": {5},
    "Reshape": {1},
    "Resize": {1},
    "ReverseSequence": {1},
    "RoiAlign": {1, 2},
    "RotaryEmbedding": {1, 2, 3},
    "ScatterElements": {1, 2},
    "TensorScatter": {0, 2},
}
"""Operands whose sizes the check does not hold against the others: most of them count no channels."""

INSIDE = ("function_", "local_function", "if_", "loop_", "gru_states_from_above", "resize_extrapolation")
BEHIND = ("meanvariancenormalization", "compress", "matmul_bnb4")
"""Beginnings of traps whose weights lie inside functions and bodies, in regions, or behind an operator of whose output
the check knows no shape.
"""


@pytest.mark.slow
def test_every_tensor_cut_short_that_onnxruntime_refuses_is_found() -> None:
    """Oracle: ONNX Runtime, optimizations off, on each trap with the last slice of one initializer's axis cut off.

    What it refuses must be found, except in operands that are listed.
    """
    found = missed = 0
    for trap in TRAPS:
        original = trap.build()
        feeds = oracle.feeds(original, 0, trap.sizes[0])
        for position, tensor in enumerate(original.graph.initializer):
            for axis in (a for a, size in enumerate(tensor.dims) if size > 1):
                broken = _cut_short(original, position, axis)
                if _runs(broken, feeds):
                    continue
                found += (caught := bool(check(broken, original=original)))
                missed += not caught
                readers = [
                    (n.op_type, list(n.input).index(tensor.name)) for n in original.graph.node if tensor.name in n.input
                ]
                listed = trap.name.startswith(INSIDE + BEHIND) or any(
                    i in NOT_FOLLOWED.get(op, ()) for op, i in readers
                )
                assert caught or listed, (trap.name, tensor.name, axis, readers)
    assert found > 7000
    assert missed < 0.03 * found


def _cut_short(model: onnx.ModelProto, position: int, axis: int) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.value_info[:]
    tensor = copy.graph.initializer[position]
    array = numpy_helper.to_array(tensor)
    tensor.CopyFrom(numpy_helper.from_array(array.take(range(array.shape[axis] - 1), axis), tensor.name))
    for value in copy.graph.input:
        if value.name == tensor.name:
            value.type.tensor_type.shape.dim[axis].dim_value -= 1
    return copy


def _runs(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> bool:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        session.run(None, feeds)
    except Exception:
        return False
    return True


@pytest.mark.shared
def test_no_false_alarm_on_published_models(published: Path) -> None:
    model = onnx.load(published)
    assert check(model, folder=published.parent, original=model) == []


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_no_false_alarm_on_the_cases_of_the_standard() -> None:
    """Oracle for the facts: the stored outputs of each of ONNX's own operator cases."""
    from onnx.backend.test.case.node import collect_testcases

    cases = collect_testcases(None)
    assert len(cases) > 1500
    for case in cases:
        assert check(case.model, original=case.model) == [], case.name
        facts = model_facts(case.model)
        for _, outputs in case.data_sets:
            for value, array in zip(case.model.graph.output, outputs, strict=True):
                if hasattr(array, "shape"):
                    assert _agrees(facts.shape(value.name), array.shape), case.name


def _agrees(known: tuple[int | str | None, ...] | None, shape: tuple[int, ...]) -> bool:
    if known is None:
        return True
    return len(known) == len(shape) and all(not isinstance(k, int) or k == n for k, n in zip(known, shape, strict=True))


@pytest.mark.parametrize("trap", TRAPS, ids=lambda trap: trap.name)
def test_facts_agree_with_onnxruntime(trap) -> None:
    """Oracle: the shapes and types of all tensors of the main graph as ONNX Runtime computes them."""
    model = trap.build()
    facts = model_facts(model)
    names = [o for n in model.graph.node for o in n.output if o]
    here = {v.name for v in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=n) for n in names if n not in here)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    arrays = session.run(None, oracle.feeds(trap.build(), 0, trap.sizes[0]))
    for output, array in zip(session.get_outputs(), arrays, strict=True):
        if isinstance(array, np.ndarray):
            assert _agrees(facts.shape(output.name), array.shape), output.name
            assert facts.types.get(output.name) in (None, onnx.helper.np_dtype_to_tensor_dtype(array.dtype))


def test_a_defect_that_was_there_before_is_not_the_cut_s() -> None:
    """A slope that fits no axis: the sentence names sizes, which the cut changes."""

    def model(channels: int) -> onnx.ModelProto:
        return onnx.parser.parse_model(f"""<ir_version: 8, opset_import: ["": 17]>
            g (float[1, {channels}, 4, 5] x) => (float[1, {channels}, 4, 5] y) <float[3] s = {{1, 2, 3}}>
            {{ y = PRelu(x, s) }}""")

    assert check(model(6))
    assert check(model(5))
    assert not introduced(model(5), model(6))
    fine = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["": 17]>
        g (float[1, 6, 4, 5] x) => (float[1, 6, 4, 5] y) <float[5] s = {1, 2, 3, 4, 5}> { y = PRelu(x, s) }""")
    assert introduced(model(5), fine)
