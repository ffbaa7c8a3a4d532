"""Discontinuous operators: rounding flips what they answer and must not alarm, a wrong model must.

Right results are permutations of hidden channels, which change the order of every sum; the scores are made to tie, so
that this does flip indices (asserted with ONNX Runtime, or the case would prove nothing). Wrong ones are off by 1 %.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import ModelProto, numpy_helper

from onnxshrink.verification.shapes import model_facts
from onnxshrink.verification.stability import Level, stability

from .models import changed, off_by, parse, permuted, weights

HEAD = "a = Conv<pads=[1,1,1,1]>(x, w1, b1) r = Relu(a) s = Conv<pads=[1,1,1,1]>(r, w2, b2)"
SHAPES = {"w1": (48, 3, 3, 3), "b1": (48,), "w2": (8, 48, 3, 3), "b2": (8,)}
X = "float[1,3,24,24] x"

TAILS = {
    "ArgMax": ("int64[1,1,24,24] y", "y = ArgMax<axis=1>(s)"),
    "ArgMin": ("int64[1,1,24,24] y", "y = ArgMin<axis=1>(s)"),
    "TopK": ("float[1,3,24,24] v, int64[1,3,24,24] i", "v, i = TopK<axis=1>(s, three)"),
    "TopK over positions": (
        "float[1,100] v, int64[1,100] i, float[1,100] p",
        "f = Flatten(s) v, i = TopK<axis=1>(f, hundred) q = GatherElements<axis=1>(f, i) p = Exp(q)",
    ),
    "NonMaxSuppression": (
        "int64[K,3] y, float[L,4] picked",
        """f = Reshape(s, grid) t = Transpose<perm=[0,2,1]>(f) box = Slice(t, zero, four, two)
           score = Slice(f, four, five, one) y = NonMaxSuppression(box, score, many, half, low)
           last = Gather<axis=1>(y, at) flat = Squeeze(box, zero) picked = Gather<axis=0>(flat, last)""",
    ),
    "Round": ("float[1,8,24,24] y", "q = Mul(s, ten) y = Round(q)"),
    "Floor": ("float[1,8,24,24] y", "q = Mul(s, ten) y = Floor(q)"),
    "Sign": (
        "float[1,2,24,24] y",
        "a1 = Slice(s, zero, one, one) a2 = Slice(s, two, four, one) q = Sub(a1, a2) y = Sign(q)",
    ),
    "Greater": ("bool[1,2,24,24] y", "a1 = Slice(s, zero, one, one) a2 = Slice(s, two, four, one) y = Greater(a1, a2)"),
    "Where": (
        "float[1,2,24,24] y",
        """a1 = Slice(s, zero, one, one) a2 = Slice(s, two, four, one) c = Greater(a1, a2)
           far = Slice(s, four, five, one) y = Where(c, far, a1)""",
    ),
    "Cast": ("int32[1,8,24,24] y", "q = Mul(s, ten) y = Cast<to=6>(q)"),
    "NonZero": (
        "int64[4,K] y",
        "a1 = Slice(s, zero, one, one) a2 = Slice(s, two, four, one) c = Greater(a1, a2) y = NonZero(c)",
    ),
    "QuantizeLinear": ("uint8[1,8,24,24] y", "y = QuantizeLinear(s, step, middle)"),
    "DynamicQuantizeLinear": ("uint8[1,8,24,24] y, float d, uint8 z", "y, d, z = DynamicQuantizeLinear(s)"),
    "Quantized Conv behind": (
        "float[1,4,24,24] y",
        """q = QuantizeLinear(s, step, middle) e = DequantizeLinear(q, step, middle)
           y = Conv<pads=[1,1,1,1]>(e, w3, b3)""",
    ),
    "Count": ("int64 y", "m = ArgMax<axis=1>(s) c = Equal(m, zeros) n = Cast<to=7>(c) y = ReduceSum<keepdims=0>(n)"),
}
CONSTANTS = """int64[1] zero = {0}, int64[1] one = {1}, int64[1] two = {2}, int64[1] four = {4}, int64[1] five = {5},
  int64[1] three = {3}, int64[1] hundred = {100}, int64[3] grid = {1, 8, 576}, int64 many = {50}, float half = {0.5},
  float low = {-9.0}, float ten = {10.0}, float step = {0.02}, uint8 middle = {128}, int64 zeros = {0},
  int64 at = {2}"""


def model(tail: str) -> ModelProto:
    outputs, nodes = TAILS[tail]
    values = weights(**SHAPES, w3=(4, 8, 3, 3), b3=(4,))
    # Filters 1, 5, 6 and 7 are 0, 2, 3 and 4 once more, with their input channels in another order of equal ones.
    values["w1"][1::2], values["b1"][1::2] = values["w1"][::2], values["b1"][::2]
    swapped = values["w2"][[0, 2, 3, 4]].reshape(4, 24, 2, 3, 3)[:, :, ::-1].reshape(4, 48, 3, 3)
    values["w2"][[1, 5, 6, 7]], values["b2"][[1, 5, 6, 7]] = swapped, values["b2"][[0, 2, 3, 4]]
    made = parse(f"g ({X}) => ({outputs}) <{CONSTANTS}> {{ {HEAD} {nodes} }}", values)
    used = {name for node in made.graph.node for name in node.input}
    for tensor in [t for t in made.graph.initializer if t.name not in used]:
        made.graph.initializer.remove(tensor)
    return made


def answers(made: ModelProto) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(made.SerializeToString(), options, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    return session.run(None, {"x": rng.standard_normal((1, 3, 24, 24)).astype(np.float32)})


@pytest.mark.parametrize("tail", TAILS)
def test_rounding_does_not_alarm(tail: str, held_against) -> None:
    original = model(tail)
    result = permuted(original, ["w1", "b1"], "w2")
    if tail in ("ArgMax", "ArgMin", "TopK", "TopK over positions"):
        pairs = zip(answers(original), answers(result), strict=True)
        assert any(a.shape != b.shape or not np.allclose(a, b) for a, b in pairs), "nothing flips, so nothing is tested"
    verdict = held_against(original, result)
    assert verdict.passed, verdict.notes
    assert any(d.evidence for d in verdict.draws)


@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize("weight", ["w1", "w2", "b2"])
def test_a_hundredth_fails(tail: str, weight: str, held_against) -> None:
    original = model(tail)
    verdict = held_against(original, changed(original, weight, off_by(0.5 if weight == "b2" else 1e-2)))
    assert verdict.state == "failed", verdict.notes


@pytest.mark.parametrize(
    ("tail", "name", "value"),
    [
        ("TopK", "three", 2),
        ("NonMaxSuppression", "half", 0.6),
        ("NonMaxSuppression", "many", 40),
        ("Round", "ten", 9.9),
        ("Quantized Conv behind", "w3", None),
        ("Where", "four", 5),
        ("Count", "zeros", 1),
    ],
)
def test_what_follows_or_rules_the_discontinuity_counts(tail: str, name: str, value: float, held_against) -> None:
    original = model(tail)
    change = off_by(1e-2) if value is None else lambda a: np.full_like(a, value)
    assert held_against(original, changed(original, name, change)).state == "failed"


def test_other_steps_are_not_taken_for_flips(held_against) -> None:
    """A quantizer with another step moves some values by one step, as rounding does: refused, if not proven wrong."""
    original = model("QuantizeLinear")
    assert held_against(original, changed(original, "step", lambda a: a * 1.05)).state != "passed"


@pytest.mark.parametrize("attribute", ["axis", "largest"])
def test_attributes_of_the_discontinuous_node_count(attribute: str, held_against) -> None:
    original = model("TopK")
    other = ModelProto()
    other.CopyFrom(original)
    node = next(n for n in other.graph.node if n.op_type == "TopK")
    if attribute == "largest":
        node.attribute.append(onnx.helper.make_attribute("largest", 0))
    else:
        node.attribute[0].i = 3
    assert held_against(original, other).state == "failed"


def quantized(zeroed: int = 0) -> ModelProto:
    """Conv, quantized to 8 bits, Conv: channels of the quantized tensor can be cut."""
    text = f"""g ({X}) => (float[1,8,24,24] y) <float step = {{0.02}}, uint8 middle = {{0}}> {{
      a = Conv<pads=[1,1,1,1]>(x, w1, b1) r = Relu(a) q = QuantizeLinear(r, step, middle)
      e = DequantizeLinear(q, step, middle) y = Conv<pads=[1,1,1,1]>(e, w2, b2) }}"""
    values = weights(**SHAPES)
    values["w1"][: zeroed or None][:zeroed] = 0
    values["b1"][:zeroed] = 0
    return parse(text, values)


def cut(made: ModelProto, count: int) -> ModelProto:
    for name in ("w1", "b1"):
        made = changed(made, name, lambda a: a[count:])
    return changed(made, "w2", lambda a: a[:, count:])


def test_quantized_tensor_that_was_cut(held_against) -> None:
    original = quantized(zeroed=5)
    assert held_against(original, cut(original, 5)).passed
    verdict = held_against(original, cut(original, 8))
    assert verdict.state == "failed"
    assert held_against(original, changed(cut(original, 5), "w2", off_by(0.2))).state == "failed"


def test_quantized_tensor_in_another_order(held_against) -> None:
    """Its values differ place by place, and nothing is wrong; twice, so that the second lies behind the first."""
    twice = f"""g ({X}) => (float[1,8,24,24] y) <float step = {{0.02}}, uint8 middle = {{0}}> {{
      a = Conv<pads=[1,1,1,1]>(x, w1, b1) r = Relu(a) q = QuantizeLinear(r, step, middle)
      e = DequantizeLinear(q, step, middle) c = Conv<pads=[1,1,1,1]>(e, w2, b2) s = Relu(c)
      p = QuantizeLinear(s, step, middle) d = DequantizeLinear(p, step, middle) y = Conv(d, w3, b3) }}"""
    original = parse(twice, weights(**SHAPES, w3=(8, 8, 1, 1), b3=(8,)))
    assert held_against(original, permuted(original, ["w1", "b1"], "w2")).passed
    both = permuted(permuted(original, ["w1", "b1"], "w2"), ["w2", "b2"], "w3")
    assert held_against(original, both).passed
    assert held_against(original, changed(both, "w3", off_by(1e-1))).state == "failed"


def test_static_quantized_convolution(held_against) -> None:
    """QLinearConv computes on integers and rounds: its node itself is held against the original's, step by step."""
    text = f"""g ({X}) => (float[1,8,24,24] y) <float step = {{0.02}}, float ws = {{0.01}}, float out = {{0.05}},
      uint8 zp = {{128}}, int8 wz = {{0}}> {{
      q = QuantizeLinear(x, step, zp) c = QLinearConv<pads=[1,1,1,1]>(q, step, zp, w, ws, wz, out, zp)
      y = DequantizeLinear(c, out, zp) }}"""
    w = np.random.default_rng(0).integers(-99, 99, (8, 3, 3, 3)).astype(np.int8)
    original = parse(text, {"w": w})
    assert held_against(original, original).passed
    assert held_against(original, changed(original, "w", lambda a: a + 3)).state == "failed"


def test_discontinuity_inside_a_branch(held_against) -> None:
    """An If that holds one is taken as a whole; what feeds it is compared."""
    branches = """then_branch = t () => (p) { p = ArgMax<axis=1>(s) },
      else_branch = e () => (q) { q = ArgMin<axis=1>(s) }"""
    text = f"g (bool c, {X}) => (int64[A,B,C,D] y) {{ {HEAD} y = If(c) <{branches}> }}"
    original = parse(text, weights(**SHAPES))
    assert held_against(original, permuted(original, ["w1", "b1"], "w2")).passed
    assert held_against(original, changed(original, "w2", off_by(1e-2))).state != "passed"


def test_maps_of_classes(held_against) -> None:
    """What scikit-learn's classifiers end in: an output that is a sequence of maps, each with a float to a class."""
    text = "g (float[N,12] x) => (float[N,5] y) { h = MatMul(x, w1) r = Relu(h) l = MatMul(r, w2) p = Softmax(l) }"
    original = parse(text, weights(w1=(12, 32), w2=(32, 5)))
    classes = onnx.helper.make_node("ZipMap", ["p"], ["y"], domain="ai.onnx.ml", classlabels_int64s=[*range(5)])
    original.graph.node.append(classes)
    original.opset_import.append(onnx.helper.make_opsetid("ai.onnx.ml", 3))
    entry = onnx.helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, [])
    kind = onnx.helper.make_sequence_type_proto(onnx.helper.make_map_type_proto(onnx.TensorProto.INT64, entry))
    original.graph.output[0].CopyFrom(onnx.helper.make_value_info("y", kind))
    reordered = changed(changed(original, "w1", lambda a: a[:, ::-1]), "w2", lambda a: a[::-1])
    assert held_against(original, reordered).passed
    assert held_against(original, changed(reordered, "w2", off_by(1e-1))).state == "failed"


def test_integers_that_no_float_reaches_must_be_equal(held_against) -> None:
    text = "g (float[N,3,H,W] x) => (int64[4] y, float[N,3,H,W] z) {{ s = Shape(x) y = {op}(s, s) z = Relu(x) }}"
    assert held_against(parse(text.format(op="Add")), parse(text.format(op="Add"))).passed
    verdict = held_against(parse(text.format(op="Add")), parse(text.format(op="Mul")))
    assert verdict.state == "failed"
    assert verdict.worst_output == "y"


def test_levels() -> None:
    """The four levels, and that a discontinuity on exact values is none."""
    made = parse(
        """g (float[4,4] x) => (float[4,4] r, int64[4] i, int64[4] j, int64[2] s) <int64[1] o = {1}> {
          k = MatMul(w, w) m = Transpose(x) r = MatMul(m, k) i = ArgMax<axis=0, keepdims=0>(r)
          j = ArgMax<axis=0, keepdims=0>(m) s = Shape(r) }""",
        {"w": np.eye(4, dtype=np.float32)},
    )
    marks = stability(made.graph, model_facts(made))
    expected = {"k": Level.CONSTANT, "m": Level.EXACT, "r": Level.ROUNDED, "i": Level.FLIPPING, "j": Level.EXACT}
    assert {name: marks.level(name) for name in expected} == expected
    assert marks.level("s") == Level.EXACT
    assert [n.output[0] for n in marks.jumps] == ["i"]
    assert numpy_helper.to_array(made.graph.initializer[-1]).shape == (4, 4)
