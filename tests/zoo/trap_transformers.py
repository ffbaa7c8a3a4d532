"""Traps: attention as exporters write it, products of unknown length, GroupNormalization, guards, open broadcasts."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .net import Net
from .trap import DEAD, Family, chain, chain_cut

TRAPS = Family()

HIDDEN, HEADS, LENGTH = 12, 3, 4
HEAD = LENGTH * (4 * HIDDEN + 3)
"""Parameters of one head: rows of query, key and value with their biases, and columns of the output projection."""


def dense(
    net: Net, t: str, cin: int, cout: int, *, zero=(), constant: Mapping[int, float] | None = None, **options
) -> str:
    """MatMul and Add; `zero` and `constant` are outputs without weights, `unread` inputs that no output reads."""
    weight, bias = net.normal(cin, cout, scale=cin**-0.5), net.normal(cout)
    weight[:, [*zero, *(constant or {})]] = 0
    weight[list(options.pop("unread", ()))] = 0
    bias[list(zero)] = 0
    for column, value in (constant or {}).items():
        bias[column] = value
    return net.op("Add", net.op("MatMul", t, net.const(weight)), net.const(bias), **options)


def rows(*heads: int) -> list[int]:
    return [head * LENGTH + i for head in heads for i in range(LENGTH)]


def attention(
    *,
    zero=(),
    constant: Mapping[int, float] | None = None,
    unread=(),
    query_zero=(),
    batch: int | str = 2,
    time: int | str = 5,
    keys=None,
    guard: str = "",
    mask=None,
) -> Net:
    """[batch, time, 12] -> query, key and value of three heads -> softmax -> output projection and Add.

    Args:
        zero, constant, unread, query_zero: columns of value, value, output projection (rows) and query.
        keys: moves the keys from [batch, time, heads, length] to [batch, heads, length, time].
        guard: "" or "IsNaN": Where(IsNaN(p), 0, p) behind the Softmax.
        mask: adds a mask to the scores.
    """
    net = Net()
    x = net.input("x", (batch, time, HIDDEN))
    split = net.const([0, 0, HEADS, LENGTH])

    def heads(t: str) -> str:
        return net.op("Reshape", t, split)

    query = net.op("Transpose", heads(dense(net, x, HIDDEN, HIDDEN, zero=query_zero)), perm=[0, 2, 1, 3])
    key = heads(dense(net, x, HIDDEN, HIDDEN))
    key = keys(net, key) if keys else net.op("Transpose", key, perm=[0, 2, 3, 1])
    value = dense(net, x, HIDDEN, HIDDEN, zero=zero, constant=constant)
    if zero or constant:
        net.known(value, [*zero, *(constant or {})], axis=2)
    value = net.op("Transpose", heads(value), perm=[0, 2, 1, 3])
    scores = net.op("Mul", net.op("MatMul", query, key), net.const(LENGTH**-0.5))
    if mask:
        scores = mask(net, scores)
    weights = net.op("Softmax", scores, axis=-1)
    if guard:
        weights = net.op("Where", net.op(guard, weights), net.const(0.0), weights)
    mixed = net.op("Transpose", net.op("MatMul", weights, value), perm=[0, 2, 1, 3])
    mixed = net.op("Reshape", mixed, net.const([0, 0, HIDDEN]))
    if zero or (constant and not mask):
        net.known(mixed, [*zero, *(constant or {})], axis=2)
    if unread:
        net.unread(mixed, unread, axis=2)
    return net.output(dense(net, mixed, HIDDEN, HIDDEN, unread=unread, name="y"))


SIZES = ({"batch": 1, "time": 5}, {"batch": 3, "time": 4})
SLICE = dict(zip(rows(1), (0.5, -0.7, 1.1, 0.3), strict=True))


@TRAPS.add(2 * HEAD, "one head without values, one that nobody reads, batch and length dynamic", sizes=SIZES)
def attention_dynamic() -> Net:
    return attention(zero=rows(0), unread=rows(2), batch="batch", time="time")


@TRAPS.add(HEAD, "weights sum to one, so a head of constant values is constant", sizes=SIZES)
def attention_constant_head() -> Net:
    return attention(constant=SLICE, batch="batch", time="time")


@TRAPS.add(HEAD, "no mask reaches the scores, so the guard against NaN does nothing")
def attention_constant_head_guarded() -> Net:
    return attention(constant=SLICE, guard="IsNaN")


def masked(net: Net, scores: str) -> str:
    hidden = net.input("hidden", (2, 1, 1, 5), np.bool_)
    return net.op("Add", scores, net.op("Where", hidden, net.const(-np.inf), net.const(0.0)))


@TRAPS.add(None, "a row that the mask hides altogether is zero behind the guard, not the head's constant")
def attention_constant_head_masked() -> Net:
    return attention(constant=SLICE, guard="IsNaN", mask=masked)


@TRAPS.add(HEAD, "a dead head is dead behind mask and guard too")
def attention_masked() -> Net:
    return attention(zero=rows(2), guard="IsNaN", mask=masked)


@TRAPS.add(0, "a query of zeros attends uniformly: nothing goes")
def attention_uniform_head() -> Net:
    return attention(query_zero=rows(1))


@TRAPS.add(0, "half a head is dead: heads stay equally long")
def attention_half_head() -> Net:
    return attention(zero=rows(0)[:2])


INNER = HEADS * (2 * HIDDEN + 1)


@TRAPS.add(INNER, "one dimension is dead in the values of all heads")
def attention_value_dimension() -> Net:
    return attention(zero=[head * LENGTH + 1 for head in range(HEADS)])


@TRAPS.add(HEADS * (2 * HIDDEN + 2), "one dimension of all queries is zero: the keys' goes with it")
def attention_score_dimension() -> Net:
    return attention(query_zero=[head * LENGTH + 2 for head in range(HEADS)])


def flattened(net: Net, t: str) -> str:
    """[b, t, h, l] -> [b, h, t, l] -> [b h, t, l] -> [b h, l, t] -> [b, h, l, t], as the dynamo exporter writes it."""
    t = net.op("Transpose", t, perm=[0, 2, 1, 3])
    shape = net.op("Shape", t)
    batch, time = (net.op("Slice", shape, net.const([a]), net.const([a + 1])) for a in (0, 2))
    three = net.op("Concat", net.const([-1]), time, net.const([LENGTH]), axis=0)
    t = net.op("Transpose", net.op("Reshape", t, three), perm=[0, 2, 1])
    return net.op("Reshape", t, net.op("Concat", batch, net.const([HEADS, LENGTH]), time, axis=0))


@TRAPS.add(HEAD, "the keys pass through an axis of batch times heads, and back", sizes=SIZES)
def attention_flattened_keys() -> Net:
    return attention(zero=rows(1), keys=flattened, batch="batch", time="time")


def packed(zero: bool) -> Net:
    """Query, key and value from one product [12, 3 x 12], as timm and nn.MultiheadAttention write them."""
    net = Net()
    x = net.input("x", (2, 5, HIDDEN))
    dead = [part * HIDDEN + i for part in (range(3) if zero else [2]) for i in rows(1)]
    t = dense(net, x, HIDDEN, 3 * HIDDEN, zero=dead)
    t = net.op("Reshape", net.known(t, dead, axis=2), net.const([2, 5, 3, HEADS, LENGTH]))
    t = net.op("Transpose", t, perm=[2, 0, 3, 1, 4])
    query, key, value = (net.op("Gather", t, net.const(i), axis=0) for i in range(3))
    scores = net.op("MatMul", query, net.op("Transpose", key, perm=[0, 1, 3, 2]))
    mixed = net.op("MatMul", net.op("Softmax", scores, axis=-1), value)
    mixed = net.op("Reshape", net.op("Transpose", mixed, perm=[0, 2, 1, 3]), net.const([2, 5, HIDDEN]))
    return net.output(dense(net, mixed, HIDDEN, HIDDEN, name="y"))


@TRAPS.add(HEAD, "one product makes query, key and value; the head's values are zero")
def attention_packed() -> Net:
    return packed(False)


@TRAPS.add(HEAD, "and its query and key as well")
def attention_packed_all() -> Net:
    return packed(True)


@TRAPS.add(2 * HEAD, "length first, and heads counted together with the batch, as nn.MultiheadAttention", sizes=SIZES)
def attention_heads_in_the_batch() -> Net:
    net = Net()
    x = net.op("Transpose", net.input("x", ("batch", "time", HIDDEN)), perm=[1, 0, 2])
    shape = net.op("Shape", x)
    time, batch = (net.op("Slice", shape, net.const([a]), net.const([a + 1])) for a in (0, 1))
    together = net.op("Concat", time, net.op("Mul", batch, net.const([HEADS])), net.const([LENGTH]), axis=0)
    apart = net.op("Concat", batch, net.const([HEADS]), time, net.const([LENGTH]), axis=0)

    def heads(t: str) -> str:
        t = net.op("Transpose", net.op("Reshape", t, together), perm=[1, 0, 2])
        return net.op("Reshape", t, apart)

    query, key = heads(dense(net, x, HIDDEN, HIDDEN)), heads(dense(net, x, HIDDEN, HIDDEN))
    value = heads(net.known(dense(net, x, HIDDEN, HIDDEN, zero=rows(0)), rows(0), axis=2))
    scores = net.op("MatMul", query, net.op("Transpose", key, perm=[0, 1, 3, 2]))
    mixed = net.op("MatMul", net.op("Softmax", scores, axis=-1), value)
    flat = net.op("Concat", time, batch, net.const([HIDDEN]), axis=0)
    mixed = net.op("Reshape", net.op("Transpose", mixed, perm=[2, 0, 1, 3]), flat)
    net.known(mixed, rows(0), axis=2)
    net.unread(mixed, rows(2), axis=2)
    return net.output(dense(net, mixed, HIDDEN, HIDDEN, unread=rows(2), name="y"))


# --- GroupNormalization

GROUPS = (0, 1, 4, 5)
"""Groups 0 and 2 of four, two channels each; the eight channels of a chain."""


def group_norm(scale_zero=()):
    def build(net: Net, t: str) -> str:
        scale = net.normal(8)
        scale[list(scale_zero)] = 0
        return net.op("GroupNormalization", t, net.const(scale), net.const(net.normal(8)), num_groups=4)

    return build


WITH_SCALES = 2 * 4
"""Scale and bias of the four channels that go."""


@TRAPS.add(chain_cut(4) + WITH_SCALES, "two whole groups are zero: they give their biases, which fold")
def group_norm_whole_groups() -> Net:
    return chain(group_norm(), zero=GROUPS, pad=0, opset=21, ir_version=10)


@TRAPS.add(0, "half of each group is zero: the statistics need all of it, and nothing goes")
def group_norm_half_groups() -> Net:
    return chain(group_norm(), zero=(0, 2, 4, 6), still_known=False, opset=21, ir_version=10)


@TRAPS.add(chain_cut(2) + 4, "nobody reads one whole group and half of another")
def group_norm_unread() -> Net:
    return chain(group_norm(), zero=(), unread=(0, 1, 4), opset=21, ir_version=10)


@TRAPS.add(chain_cut(2) + 4, "scale zero in both channels of a group: its input is not read, its output is the bias")
def group_norm_scale_zero() -> Net:
    return chain(group_norm((2, 3)), zero=(), pad=0, opset=21, ir_version=10)


def decomposed(net: Net, t: str) -> str:
    """As exporters write it: InstanceNormalization over groups, then scale and shift of the channels."""
    shape = net.op("Shape", t)
    t = net.op("Reshape", t, net.const([0, 4, -1]))
    t = net.op("InstanceNormalization", t, net.const(np.ones(4)), net.const(np.zeros(4)))
    t = net.op("Reshape", t, shape)
    t = net.op("Mul", t, net.const(net.normal(8, 1, 1)))
    return net.op("Add", t, net.const(net.normal(8, 1, 1)))


@TRAPS.add(chain_cut(4) + WITH_SCALES + 4, "decomposed: two whole groups go, with scale, shift and the inner ones")
def group_norm_decomposed() -> Net:
    return chain(decomposed, zero=GROUPS, pad=0)


@TRAPS.add(
    chain_cut(4) + WITH_SCALES + 4,
    "the same with dynamic height and width",
    sizes=({"h": 8, "w": 8}, {"h": 5, "w": 9}),
)
def group_norm_decomposed_dynamic() -> Net:
    return chain(decomposed, zero=GROUPS, pad=0, shape=(2, 3, "h", "w"))


@TRAPS.add(0, "decomposed, half of each group: nothing goes")
def group_norm_decomposed_half() -> Net:
    return chain(decomposed, zero=(0, 2, 4, 6), still_known=False)


# --- lengths that are not known


@TRAPS.add(
    None,
    "the factor's channels are one or eight, as the caller likes: eight must stay",
    sizes=({"n": 8}, {"n": 1}),
)
def open_broadcast() -> Net:
    def scale(net: Net, t: str) -> str:
        return net.op("Mul", t, net.input("scale", (2, "n", 1, 1)))

    return chain(scale, zero=DEAD)


@TRAPS.add(None, "joined along the width with channels whose number is not declared", sizes=({"n": 8},))
def open_concat() -> Net:
    def join(net: Net, t: str) -> str:
        return net.op("Concat", t, net.input("more", (2, "n", 8, 3)), axis=3)

    return chain(join, zero=DEAD, still_known=False)


@TRAPS.add(None, "a batch of products: the other operand's batch may be one or three", sizes=({"n": 3}, {"n": 1}))
def open_batch() -> Net:
    net = Net()
    t = net.conv(net.input("x", (2, 3, 4, 4)), 3, 3, zero=[1])
    t = net.op("MatMul", t, net.input("other", (2, "n", 4, 4)))
    return net.output(net.conv(t, 3, 4, name="y"))
