"""Numbers: a right result passes, a wrong one fails, and where nothing could show a defect it says so.

The oracle is how the result was made: a permutation of hidden channels is right in exact arithmetic, a weight that is
off by a known share, or a constant folded into a bias in front of a zero-padded Conv, is wrong.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnxshrink.errors import InputError, ModelError
from onnxshrink.verification import verify

from .models import changed, off_by, parse, permuted, weights

CONVS = """g (float[{n},3,{h},{w}] x) => (float[{n},8,{h},{w}] y) {{
    a = Conv<pads=[1,1,1,1]>(x, w1, b1) r = Relu(a) y = Conv<pads=[1,1,1,1]>(r, w2, b2) }}"""
SHAPES = {"w1": (32, 3, 3, 3), "b1": (32,), "w2": (8, 32, 3, 3), "b2": (8,)}


def convs(n: object = 1, h: object = 16, w: object = 16) -> onnx.ModelProto:
    return parse(CONVS.format(n=n, h=h, w=w), weights(**SHAPES))


def test_same_model_passes_with_no_difference(held_against) -> None:
    verdict = held_against(convs(), convs())
    assert verdict.passed
    assert verdict.state == "passed"
    assert verdict.max_abs == verdict.max_rel == verdict.min_tolerance == 0
    assert len(verdict.draws) == 3
    assert len({d.distribution for d in verdict.draws}) == 3


def test_permuted_channels_pass_within_rounding(held_against) -> None:
    verdict = held_against(convs(), permuted(convs(), ["w1", "b1"], "w2"))
    assert verdict.passed
    assert 0 < verdict.max_rel < 2e-6
    assert verdict.bound == 1e-5
    assert verdict.min_tolerance >= verdict.max_rel


def test_one_element_off_by_a_thousandth_fails_and_is_named(held_against) -> None:
    def one(a: np.ndarray) -> np.ndarray:
        a = a.copy()
        a[5, 7, 1, 1] *= 1.01
        return a

    for name, change in (("w1", off_by(1e-3)), ("b2", off_by(1e-3)), ("w2", one)):
        verdict = held_against(convs(), changed(convs(), name, change))
        assert verdict.state == "failed", name
        assert verdict.worst_output == "y"
        assert verdict.min_tolerance > verdict.bound
    assert verdict.worst_index[1] == 5  # the filter that was changed
    assert "`y` differs by" in verdict.notes[0]


def test_smallest_tolerance_is_the_one_that_passes(held_against) -> None:
    wrong = changed(convs(), "w1", off_by(1e-3))
    needed = held_against(convs(), wrong).min_tolerance
    assert held_against(convs(), wrong, tolerance=needed).passed
    assert held_against(convs(), wrong, tolerance=0.9 * needed).state == "failed"


def test_constant_channel_folded_into_a_bias_is_wrong_at_the_border_only(held_against) -> None:
    def constant_filter(a: np.ndarray) -> np.ndarray:
        a = a.copy()
        a[3] = 0
        return a

    def constant_bias(a: np.ndarray) -> np.ndarray:
        a = a.copy()
        a[3] = 0.5
        return a

    original = changed(changed(convs(), "w1", constant_filter), "b1", constant_bias)
    w2 = numpy_helper.to_array(original.graph.initializer[2])
    folded = changed(original, "b1", lambda a: np.where(np.arange(len(a)) == 3, 0, a))
    folded = changed(folded, "b2", lambda a: a + 0.5 * w2[:, 3].sum((1, 2)))
    verdict = held_against(original, folded)
    assert verdict.state == "failed"
    assert verdict.worst_index[2] in (0, 15) or verdict.worst_index[3] in (0, 15)
    # Without padding the same fold is right.
    text = CONVS.replace("<pads=[1,1,1,1]>(r", "(r").replace("8,{h},{w}] y", "8,14,14] y").format(n=1, h=16, w=16)
    unpadded = [
        parse(text, {t.name: numpy_helper.to_array(t) for t in m.graph.initializer}) for m in (original, folded)
    ]
    assert held_against(*unpadded).passed


def test_dynamic_dimensions_are_drawn_at_other_sizes(held_against) -> None:
    verdict = held_against(convs("N", "H", "W"), convs("N", "H", "W"))
    shapes = [d.shapes["x"] for d in verdict.draws]
    assert len({s[0] for s in shapes}) > 1
    assert len({s[2] for s in shapes}) > 1
    assert any(s[2] != s[3] for s in shapes)


def test_result_that_is_wrong_at_another_batch_size_only(held_against) -> None:
    text = """g (float[N,4,4] x) => (float[N,16] y) <int64[2] s = {{{s}}}> {{ r = Reshape(x, s) y = Relu(r) }}"""
    verdict = held_against(parse(text.format(s="0, 16")), parse(text.format(s="1, 16")))
    assert verdict.state == "failed"
    assert "does not run" in verdict.notes[0]


def test_input_shapes_of_the_caller(held_against) -> None:
    model = convs("N", "H", "W")
    verdict = held_against(model, model, input_shapes={"x": (2, 3, 20, 24)})
    assert {d.shapes["x"] for d in verdict.draws} == {(2, 3, 20, 24)}
    for wrong in ({"x": (2, 4, 20, 24)}, {"x": (2, 3, 20)}, {"z": (1,)}, {"x": (0, 3, 8, 8)}):
        with pytest.raises(InputError):
            held_against(model, model, input_shapes=wrong)


def test_multiple_inputs_share_their_sizes(held_against) -> None:
    model = parse("g (float[N,T,4] a, float[N,T,4] b) => (float[N,T,4] y) { y = Add(a, b) }")
    verdict = held_against(model, model)
    assert verdict.passed
    assert all(d.shapes["a"] == d.shapes["b"] for d in verdict.draws)


def test_sizes_are_tried_until_the_original_runs(held_against) -> None:
    # A Conv of stride 1 with kernel 100 needs at least 100; the Reshape needs what is left to be a multiple of 30.
    model = parse(
        """g (float[1,1,H,W] x) => (float[A,30] y) <int64[2] s = {-1, 30}> { c = Conv(x, w) y = Reshape(c, s) }""",
        weights(w=(1, 1, 35, 35)),
    )
    verdict = held_against(model, model)
    assert verdict.passed
    size = verdict.draws[0].shapes["x"][2]
    assert (size - 34) ** 2 % 30 == 0


def test_no_size_at_which_the_original_runs(held_against) -> None:
    model = parse(
        "g (float[N,K] x) => (float[N,2] y) <int64[2] s = {-1, 7}> { r = Reshape(x, s) y = MatMul(r, w) }",
        weights(w=(7, 2)),
    )
    verdict = held_against(model, model)
    assert verdict.state == "unverified"
    assert "none of the inputs that were tried" in verdict.notes[0]
    assert held_against(model, model, input_shapes={"x": (2, 7)}).passed


def test_embedding_indices_stay_inside_the_table(held_against) -> None:
    model = parse(
        "g (int64[N,T] ids) => (float[N,T,4] y) { i = Identity(ids) e = Gather(w, i) y = Relu(e) }", weights(w=(5, 4))
    )
    assert held_against(model, model).passed
    assert held_against(model, changed(model, "w", off_by(1e-2))).state == "failed"


def test_integer_input_takes_the_values_it_is_compared_with(held_against) -> None:
    text = """g (int64 mode, float[4] x) => (float[4] y) <int64 m = {{16000}}, float k = {{{k}}}> {{
      c = Equal(mode, m) a = Mul(x, k) y = Where(c, a, x) }}"""
    assert held_against(parse(text.format(k=2.0)), parse(text.format(k=2.1))).state == "failed"


def test_default_inputs_are_not_fed_and_may_be_taken_off(held_against) -> None:
    listed = parse(
        "g (float[4,4] x, float[4,4] w) => (float[4,4] y) { y = MatMul(x, w) }", weights(w=(4, 4)), ir=3, opset=8
    )
    newer = parse("g (float[4,4] x, float[4,4] w) => (float[4,4] y) { y = MatMul(x, w) }", weights(w=(4, 4)), opset=8)
    off = parse("g (float[4,4] x) => (float[4,4] y) { y = MatMul(x, w) }", weights(w=(4, 4)), opset=8)
    assert held_against(listed, listed).passed
    assert held_against(newer, off).passed
    assert list(held_against(newer, off).draws[0].shapes) == ["x"]


@pytest.mark.parametrize(
    ("text", "note"),
    [
        ("g (float[4] x) => (float[4] z) { z = Relu(x) }", "output `y` is gone"),
        ("g (float[4] u) => (float[4] y) { y = Relu(u) }", "input `x` is gone"),
        ("g (float16[4] x) => (float16[4] y) { y = Relu(x) }", "input `x` is tensor(float16)"),
        ("g (float[N] x) => (float[N] y) { y = Relu(x) }", "is declared [N] instead of [4]"),
        ("g (float[4] x) => (float[5] y) { y = Relu(x) }", "is declared [5] instead of [4]"),
        ("g (float[4] x) => (float[4] y, float[4] z) { y = Relu(x) z = Relu(x) }", "output `z` is new"),
        ("g (float[4] x) => (float[4] y) { y = Relu(q) }", "reads `q`"),
    ],
)
def test_interface_and_structure_fail_first(held_against, text: str, note: str) -> None:
    verdict = held_against(parse("g (float[4] x) => (float[4] y) { y = Relu(x) }"), parse(text))
    assert verdict.state == "failed"
    assert note in " ".join(verdict.notes)
    assert not verdict.draws


def test_outputs_in_another_order(held_against) -> None:
    text = "g (float[4] x) => (float[4] {a}, float[4] {b}) {{ y = Relu(x) z = Sigmoid(x) }}"
    verdict = held_against(parse(text.format(a="y", b="z")), parse(text.format(a="z", b="y")))
    assert verdict.state == "failed"
    assert "another order" in verdict.notes[0]


def test_nan_and_infinity_must_be_in_the_same_places(held_against) -> None:
    text = "g (float[4,8] x) => (float[4,8] y) <float k = {{{k}}}> {{ a = Sub(x, k) y = Log(a) }}"
    same = held_against(parse(text.format(k=0.0)), parse(text.format(k=0.0)))
    assert same.state in ("passed", "unverified")
    assert held_against(parse(text.format(k=-9.0)), parse(text.format(k=0.0))).state == "failed"


def test_float64_is_held_to_a_bound_of_its_own(held_against) -> None:
    text = "g (double[4,64] x) => (double[4,8] y) { h = MatMul(x, w1) r = Relu(h) y = MatMul(r, w2) }"
    model = parse(text, weights(dtype=np.float64, w1=(64, 32), w2=(32, 8)))
    order = np.random.default_rng(0).permutation(32)
    right = changed(changed(model, "w1", lambda a: a[:, order]), "w2", lambda a: a[order])
    assert held_against(model, right).passed
    assert held_against(model, changed(model, "w1", off_by(1e-9))).state == "failed"


def test_float16_rounding_passes_and_a_hundredth_fails(held_against) -> None:
    text = CONVS.replace("float[", "float16[").format(n=1, h=16, w=16)
    model = parse(text, weights(dtype=np.float16, **SHAPES))
    assert held_against(model, permuted(model, ["w1", "b1"], "w2")).passed
    assert held_against(model, changed(model, "w2", off_by(3e-2))).state == "failed"


def test_lower_precision_inside_rules_the_bound(held_against) -> None:
    text = """g (float[4,64] x) => (float[4,8] y) {
      h = Cast<to=10>(x) m = MatMul(h, w1) r = Relu(m) n = MatMul(r, w2) y = Cast<to=1>(n) }"""
    model = parse(text, weights(dtype=np.float16, w1=(64, 32), w2=(32, 8)))
    order = np.random.default_rng(0).permutation(32)
    right = changed(changed(model, "w1", lambda a: a[:, order]), "w2", lambda a: a[order])
    verdict = held_against(model, right)
    assert verdict.passed
    assert verdict.bound >= 2e-3


def test_saturated_output_is_no_evidence_and_is_taken_apart(held_against) -> None:
    # Softmax of logits around 1000 answers with ones and zeros whatever the last layer does.
    text = """g (float[2,16] x) => (float[2,100] y) <float k = {1000.0}> {
      a = MatMul(x, w1) r = Relu(a) z = MatMul(r, w2) s = Mul(z, k) y = Softmax(s) }"""
    model = parse(text, weights(w1=(16, 32), w2=(32, 100)))
    assert held_against(model, model).passed
    wrong = held_against(model, changed(model, "w2", off_by(1e-4)))
    assert wrong.state != "passed"


def test_answer_that_never_changes_is_weak_evidence(held_against) -> None:
    model = parse(
        "g (float[2,16] x) => (float[2,8] y) { r = Relu(x) y = MatMul(r, w) }", {"w": np.zeros((16, 8), np.float32)}
    )
    constant = parse("g (float[2,16] x) => (float[2,8] y) { y = Identity(c) }", {"c": np.zeros((2, 8), np.float32)})
    verdict = held_against(model, constant)
    assert verdict.passed
    assert "is a constant in the result" in verdict.notes[0]
    assert all(d.spread == 0 for d in verdict.draws)
    not_it = parse("g (float[2,16] x) => (float[2,8] y) { y = Identity(c) }", {"c": np.full((2, 8), 0.1, np.float32)})
    assert held_against(model, not_it).state == "failed"


def test_noise_of_the_original_is_the_floor(held_against) -> None:
    # Rounding of 1e4 + x leaves errors of 1e-3 in x, and more or less of it depending on fusion: a floor, not a defect.
    text = """g (float[1,3,16,16] x) => (float[1,8,16,16] y) <float k = {{{k}}}> {{
      a = Conv<pads=[1,1,1,1]>(x, w1, b1) r = Relu(a) c = Conv<pads=[1,1,1,1]>(r, w2, b2)
      p = Add(c, k) y = Sub(p, k) }}"""
    model = parse(text.format(k="10000.0"), weights(**SHAPES))
    verdict = held_against(model, permuted(model, ["w1", "b1"], "w2"))
    assert verdict.state in ("passed", "unverified")
    assert held_against(model, changed(model, "w2", off_by(1e-1))).state != "passed"


def test_random_operators_are_not_verified(held_against) -> None:
    model = parse("g (float[4] x) => (float[4] y) { r = RandomNormalLike(x) y = Add(x, r) }")
    verdict = held_against(model, model)
    assert verdict.state == "unverified"
    assert "random numbers" in verdict.notes[0]


def test_random_operator_without_influence_is_ignored(held_against) -> None:
    model = parse("g (float[4] x) => (float[4] y) { r = RandomNormalLike(x) y = Relu(x) }")
    assert held_against(model, model).passed


def test_string_inputs_need_data(held_against) -> None:
    model = parse("g (string[2] x) => (string[2] y) { y = Identity(x) }")
    verdict = held_against(model, model)
    assert verdict.state == "unverified"
    assert "--data" in verdict.notes[0]


def test_types_without_arrays_are_not_verified(held_against) -> None:
    model = parse("g (bfloat16[4] x) => (bfloat16[4] y) { y = Identity(x) }")
    verdict = held_against(model, model)
    assert verdict.state == "unverified"
    assert "input `x` is bfloat16" in verdict.notes[0]


def test_external_data_stays_where_it_is(tmp_path: Path) -> None:
    """A discontinuous operator, so that variants are made of a model whose weights are in another file."""
    text = "g (float[1,3,16,16] x) => (int64[1,1,16,16] y) { a = Conv<pads=[1,1,1,1]>(x, w) y = ArgMax<axis=1>(a) }"
    model = parse(text, weights(w=(8, 3, 3, 3)))
    for folder, result in (
        ("one", model),
        ("two", permuted(model, [], "w")),
        ("three", changed(model, "w", off_by(1e-2))),
    ):
        (tmp_path / folder).mkdir()
        onnx.save(result, tmp_path / folder / "m.onnx", save_as_external_data=True, location="w", size_threshold=0)
    assert verify(tmp_path / "one/m.onnx", tmp_path / "one/m.onnx").passed
    assert verify(tmp_path / "one/m.onnx", tmp_path / "three/m.onnx").state == "failed"
    assert sorted(p.name for p in (tmp_path / "one").iterdir()) == ["m.onnx", "w"]


def test_verdict_is_plain_data_and_two_lines(held_against) -> None:
    steps: list[str] = []
    for verdict in (
        held_against(convs(), convs(), progress=steps.append),
        held_against(convs(), changed(convs(), "w1", off_by(1e-2))),
        held_against(convs(), changed(convs(), "w1", lambda a: a * np.nan)),
    ):
        told = json.loads(json.dumps(verdict.to_json(), allow_nan=False))
        assert told["state"] == verdict.state
        assert told["draws"][0]["shapes"] == {"x": [1, 3, 16, 16]}
        assert set(told["draws"][0]["error"]) == {"off", "on"}
        assert verdict.summary().count("\n") == 1
    assert verdict.state == "failed"
    assert steps


def test_same_arguments_give_the_same_numbers(held_against) -> None:
    one, two = (held_against(convs(), permuted(convs(), ["w1", "b1"], "w2")) for _ in range(2))
    assert (one.max_abs, one.worst_index, one.draws) == (two.max_abs, two.worst_index, two.draws)


def test_files_that_are_no_models(tmp_path: Path) -> None:
    onnx.save(convs(), tmp_path / "a.onnx")
    (tmp_path / "b.onnx").write_bytes(b"no model")
    with pytest.raises(ModelError, match=r"b\.onnx"):
        verify(tmp_path / "b.onnx", tmp_path / "a.onnx")
    with pytest.raises(ModelError, match=r"c\.onnx"):
        verify(tmp_path / "c.onnx", tmp_path / "a.onnx")
    assert verify(tmp_path / "a.onnx", tmp_path / "b.onnx").state == "failed"


@pytest.mark.parametrize("kind", [onnx.TensorProto.FLOAT8E5M2, onnx.TensorProto.FLOAT8E4M3FN])
def test_weights_of_eight_bit_floats(kind: int, held_against) -> None:
    """Their own rounding is not moved by noise in the last bit of float32."""
    text = "g (float[N,12] x) => (float[N,5] y) <float s = {0.5}> "
    text += "{ w = DequantizeLinear(q, s) h = MatMul(x, w) r = Relu(h) y = MatMul(r, v) }"
    original = parse(text, weights(v=(32, 5)), opset=19, ir=9)
    values = weights(w=(12, 32))["w"]
    original.graph.initializer.append(onnx.helper.make_tensor("q", kind, values.shape, values.reshape(-1)))
    assert held_against(original, original).passed
    assert held_against(original, changed(original, "v", off_by(1e-2))).state == "failed"
