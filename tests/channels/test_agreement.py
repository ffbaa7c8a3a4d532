"""Who holds what alone: the report is held against what really goes once that branch gives its channels up."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import onnxshrink
from onnxshrink.channels.agreement import Disagreement
from tests.zoo.net import Net

WIDTH = 16
STEM, FIRST, SECOND = range(4), range(8), range(2, 12)
"""Channels that each branch of the residual stream gives up; {2, 3} are common."""


def residual(stem=STEM, first=FIRST, second=SECOND, blind=(12, 13), pinned=False):  # type: ignore[no-untyped-def]
    """Two residual blocks on one stream, and two readers, of which `beside` does not read the channels `blind`."""
    net = Net(seed=1)
    image = net.input("x", ("batch", 3, 12, 12))
    stream = net.op("Relu", net.conv(image, 3, WIDTH, 3, pad=1, zero=list(stem), name="stem"))
    for name, dead in (("first", first), ("second", second)):
        inner = net.op("Relu", net.conv(stream, WIDTH, 8, 3, pad=1, name=f"{name}_in"))
        outer = net.conv(inner, 8, WIDTH, 3, pad=1, zero=list(dead), name=f"{name}_out")
        stream = net.op("Relu", net.op("Add", stream, outer, name=f"{name}_add"))
    net.output(net.conv(stream, WIDTH, 4, 3, pad=1, name="reader"))
    net.output(net.conv(stream, WIDTH, 4, 1, unread=list(blind), name="beside"))
    if pinned:
        net.output(stream)
    return net.model()


def by_place(model: onnx.ModelProto) -> dict[str, Disagreement]:
    return {d.where: d for d in onnxshrink.inspect(model).plan.disagreements}


def removed(model: onnx.ModelProto) -> int:
    result = onnxshrink.optimize(model, align=1)
    return sum(layer.before - layer.after for layer in result.plan.layers if layer.before == WIDTH)


def test_each_sum_names_who_holds_what() -> None:
    found = by_place(residual())
    first, second = found["Add `node_first_add`"], found["Add `node_second_add`"]
    assert (first.kind, first.slices, first.stay) == ("sum", 16, 14)
    assert [b.alone for b in first.branches] == [4, 0]  # the stem alone holds 4..7
    assert [b.free for b in first.branches] == [2, 6]
    assert first.branches[0].layers == ("Conv `node_stem`",)
    assert [b.alone for b in second.branches] == [8, 2]  # the stream 4..11, the second block 0 and 1
    assert set(second.branches[0].layers) == {"Conv `node_stem`", "Conv `node_first_out`"}
    assert second.branches[1].layers == ("Conv `node_second_out`",)


@pytest.mark.parametrize(
    ("given_up", "more"),
    [
        ({"second": range(12)}, 2),
        ({"stem": range(12), "first": range(12)}, 8),
        ({"stem": range(12), "first": range(12), "second": range(12)}, 10),
    ],
)
def test_giving_up_what_is_held_alone_frees_just_that(given_up, more) -> None:  # type: ignore[no-untyped-def]
    assert removed(residual(**given_up)) - removed(residual()) == 3 * more


def test_readers_of_one_tensor() -> None:
    model = residual()
    readers = next(d for d in onnxshrink.inspect(model).plan.disagreements if d.kind == "readers" and d.stay == 14)
    assert [(b.name, b.alone) for b in readers.branches if b.alone] == [("Conv `node_reader`", 2)]


def test_no_disagreement_where_nothing_could_go() -> None:
    assert not by_place(residual(STEM, STEM, STEM, blind=()))
    assert not [d for d in by_place(residual(pinned=True)).values() if d.kind == "sum"]


def test_a_chained_concat_moves_the_numbers() -> None:
    net = Net(seed=2)
    image = net.input("x", ("batch", 3, 8, 8))
    left = net.conv(image, 3, 4, 3, pad=1, zero=[0])
    right = net.conv(image, 3, 4, 3, pad=1)
    both = net.op("Concat", left, right, axis=1)
    other = net.conv(image, 3, 8, 3, pad=1, zero=[0, 1, 6], name="other")
    net.output(net.conv(net.op("Add", both, other, name="sum"), 8, 4, 1))
    (found,) = [d for d in onnxshrink.inspect(net.model()).plan.disagreements if d.kind == "sum"]
    assert (found.stay, [b.alone for b in found.branches]) == (7, [2, 0])
    assert np.sum([b.free for b in found.branches]) == 2
