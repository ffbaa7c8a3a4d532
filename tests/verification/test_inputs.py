"""Drawn inputs: which sizes, which values, and that the same arguments give the same ones."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from onnxshrink.errors import InputError
from onnxshrink.verification.footprint import LARGEST, fitting, fitting_first, largest
from onnxshrink.verification.inputs import DISTRIBUTIONS, InputSpec, draw, other_sizes, signature, sizes
from onnxshrink.verification.shapes import model_facts

from .models import parse, weights

FLOAT = np.dtype(np.float32)


def of(text: str, **shapes: tuple[int, ...]) -> tuple[InputSpec, ...]:
    model = parse(text, weights(**shapes))
    return signature(model, model_facts(model))


def test_every_free_size_has_a_name_of_its_own() -> None:
    image, state = of(
        "g (float[N,3,?,?] x, float[N,T] s, float[4] k) => (float[4] y) <float[4] k = {1,2,3,4}> { y = Relu(k) }"
    )
    assert (image.name, state.name) == ("x", "s")  # k has a default and is not fed
    assert image.dims[0] == state.dims[0] == "N"
    assert image.dims[2] != image.dims[3]
    assert image.dynamic
    assert not InputSpec("x", FLOAT, (1, 2)).dynamic


def test_sizes_begin_with_batch_one_and_equal_sides() -> None:
    specs = of("g (float[N,3,H,W] x) => (float[N,3,H,W] y) { y = Relu(x) }")
    tried = [s["x"] for s in sizes(specs)]
    assert tried[0] == (1, 3, 128, 128)
    assert all(n == 1 and h == w for n, _, h, w in tried)
    others = [s["x"] for s in other_sizes(specs, {"x": (1, 3, 128, 128)})]
    assert others[0][0] == 2
    assert others[0][2] != others[0][3]
    assert (2, 3, 128, 128) in others  # where only the batch can change
    assert (1, 3, 128, 128) not in others


def test_every_change_is_tried_with_another_batch_first() -> None:
    specs = of("g (float[N,3,H,W] x) => (float[N,3,H,W] y) { y = Relu(x) }")
    batches = [s["x"][0] for s in other_sizes(specs, {"x": (1, 3, 128, 128)})]
    assert batches == sorted(batches, key=(2, 3, 1).index)
    assert len(set(batches)) == 3


def test_sizes_whose_tensors_would_not_fit_come_last_or_not_at_all() -> None:
    """Attention over the places of an image: at 128 x 128 its weights alone have a gigabyte."""
    model = parse(
        "g (float[N,8,H,W] x) => (float[N,8,P] y) { k = Reshape(x, flat) q = Transpose<perm = [0, 2, 1]>(k) "
        "a = MatMul(q, k) s = Softmax(a) y = MatMul(k, s) }",
        {"flat": np.array([0, 8, -1])},
    )
    specs, folder = signature(model), Path()
    first = list(itertools.islice(fitting_first(model, folder, sizes(specs)), 11))
    assert [s["x"][2] for s in first[:3]] == [64, 32, 128]
    assert sorted(s["x"][2] for s in first) == sorted(s["x"][2] for s in sizes(specs))
    others = list(fitting(model, folder, other_sizes(specs, first[0])))
    assert {s["x"][0] for s in others} == {1, 2, 3}
    assert any(s["x"][2] != s["x"][3] for s in others)
    assert all(largest(model, folder, s) <= LARGEST for s in others)


def test_nothing_to_try_where_nothing_is_free() -> None:
    specs = of("g (float[1,4] x) => (float[1,4] y) { y = Relu(x) }")
    assert list(sizes(specs)) == [{"x": (1, 4)}]
    assert not list(other_sizes(specs, {"x": (1, 4)}))


def test_given_shapes_bind_what_inputs_share() -> None:
    specs = of("g (float[N,T,4] a, float[N,T] b) => (float[N,T,4] y) { y = Relu(a) }")
    assert list(sizes(specs, {"a": (2, 7, 4)})) == [{"a": (2, 7, 4), "b": (2, 7)}]
    with pytest.raises(InputError, match="two sizes"):
        next(sizes(specs, {"a": (2, 7, 4), "b": (2, 8)}))
    with pytest.raises(InputError, match=r"does not fit input `a` \[\?, \?, 4\]"):
        next(sizes(specs, {"a": (2, 7, 5)}))
    with pytest.raises(InputError, match="the inputs are: a, b"):
        next(sizes(specs, {"c": (1,)}))


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_draws_are_finite_varied_and_repeatable(distribution: str) -> None:
    spec = InputSpec("x", FLOAT, (2, 3, 32, 32))
    one, two, other = (draw([spec], {"x": (2, 3, 32, 32)}, distribution, seed)["x"] for seed in (0, 0, 1))
    assert one.dtype == FLOAT
    assert np.isfinite(one).all()
    assert np.array_equal(one, two)
    assert not np.array_equal(one, other)
    assert one.std() > 0


def test_distributions_differ() -> None:
    spec = InputSpec("x", FLOAT, (1, 3, 64, 64))
    drawn = {d: draw([spec], {"x": (1, 3, 64, 64)}, d, 0)["x"] for d in DISTRIBUTIONS}
    assert 0 <= drawn["uniform"].min() < drawn["uniform"].max() <= 1
    assert drawn["bytes"].max() == 255
    assert np.array_equal(drawn["bytes"], np.round(drawn["bytes"]))
    assert np.abs(drawn["small"]).max() < 0.1
    assert (drawn["sparse"] == 0).mean() > 0.8
    assert drawn["flat"].std() < 0.01
    # Even areas: neighbours are close in what is smooth, and are not in noise.
    steps = {d: np.abs(np.diff(drawn[d], axis=-1)).mean() / np.ptp(drawn[d]) for d in ("smooth", "uniform")}
    assert steps["smooth"] < 0.2 * steps["uniform"]
    for a, b in itertools.combinations(drawn.values(), 2):
        assert not np.array_equal(a, b)


@pytest.mark.parametrize(
    ("text", "shapes", "limit", "values"),
    [
        ("g (int64[N] i) => (float[N,4] y) { y = Gather(w, i) }", {"w": (5, 4)}, 5, ()),
        ("g (int32[N] i) => (float[N,4] y) { c = Cast<to=7>(i) y = Gather(w, c) }", {"w": (5, 4)}, 5, ()),
        ("g (int64[N] i) => (float[4,N] y) { y = Gather<axis=1>(w, i) }", {"w": (4, 9)}, 9, ()),
        ("g (int64 i) => (bool y) <int64 r = {16000}> { y = Equal(i, r) }", {}, None, (16000,)),
        ("g (int64[2] i) => (float[A,B] y) { y = ConstantOfShape(i) }", {}, 3, ()),
        ("g (int64[2] i) => (int64[2] y) { y = Identity(i) }", {}, None, ()),
    ],
)
def test_integers_take_what_the_model_can_use(
    text: str, shapes: dict[str, tuple[int, ...]], limit: int | None, values: tuple[int, ...]
) -> None:
    (spec,) = of(text, **shapes)
    assert (spec.limit, spec.values) == (limit, values)
    drawn = np.concatenate(
        [draw([spec], s, "normal", i)[spec.name].reshape(-1) for i in range(9) for s in [_first(spec)]]
    )
    assert drawn.dtype == spec.dtype
    assert drawn.min() >= 0
    assert drawn.max() < (limit or (16001 if values else 256))
    if values:
        assert set(drawn) == set(values)


def _first(spec: InputSpec) -> dict[str, tuple[int, ...]]:
    return next(sizes([spec]))


def test_bytes_masks_and_booleans() -> None:
    shape = (64, 64)
    pixels = draw([InputSpec("x", np.dtype(np.uint8), shape)], {"x": shape}, "normal", 0)["x"]
    assert (pixels.min(), pixels.max()) == (0, 255)
    mask = draw([InputSpec("attention_mask", np.dtype(np.int64), shape)], {"attention_mask": shape}, "normal", 0)
    assert set(np.unique(mask["attention_mask"])) == {0, 1}
    flags = draw([InputSpec("x", np.dtype(bool), shape)], {"x": shape}, "normal", 0)["x"]
    assert flags.dtype == bool
    assert 0.4 < flags.mean() < 0.6
