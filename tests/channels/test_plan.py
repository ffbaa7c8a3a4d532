"""The plan as data: each kind of channel that goes, each reason why one stays, and what alignment retains."""

from __future__ import annotations

import json

import numpy as np
import pytest
from onnx import ModelProto

import onnxshrink
from onnxshrink.channels.analysis import Options, analyse
from onnxshrink.channels.plan import Plan
from onnxshrink.graph.inline import inlined
from onnxshrink.graph.model import read
from onnxshrink.graph.view import build
from onnxshrink.look import Difference, Inspection
from tests.zoo import oracle
from tests.zoo.net import Net
from tests.zoo.trap import DEAD, chain, chain_cut
from tests.zoo.trap_merges import residual

SHAPE = (2, 3, 8, 8)


def plan_of(net: Net, **options: object) -> Plan:
    """The plan, and with it the promise that what it does is equal."""
    model = net.model()
    found = onnxshrink.inspect(model, **options)
    assert isinstance(found, Inspection)
    result = onnxshrink.optimize(model, align=int(options.get("align", 1)), negligible=options.get("negligible", 1e-8))
    arrays = oracle.feeds(model, 0)
    oracle.assert_equal(oracle.run(model, arrays), oracle.run(result.model, arrays))
    assert result.plan.to_json() == found.plan.to_json(), "inspect says what optimize does"
    return found.plan


def gone(plan: Plan) -> dict[str, int]:
    return {kind: count for kind, count in plan.removed.items() if count}


# --- kinds


def test_zero() -> None:
    plan = plan_of(chain(lambda net, t: net.op("Relu", t)))
    assert gone(plan) == {"zero": 4}
    assert plan.kept["relu_1"] == {1: [0, 2, 5, 7]}
    assert plan.channels == (15, 11)
    first = plan.layers[1]
    assert (first.before, first.after, first.parameters) == (8, 4, (8 * 27 + 8, 4 * 27 + 4))
    assert first.macs == (2 * 64 * 8 * 27, 2 * 64 * 4 * 27)


def test_zero_through_an_operator_that_does_not_keep_zero() -> None:
    plan = plan_of(chain(lambda net, t: net.op("Sigmoid", t)))
    assert gone(plan) == {"zero": 3}, "one stays as carrier of 0.5 under padding"
    (carried,) = [item for item in plan.absorbed if item.into == "carrier"]
    assert set(carried.values) == {0.5}
    assert carried.carrier in DEAD
    assert set(carried.slices) | {carried.carrier} == set(DEAD)


def test_known() -> None:
    plan = plan_of(
        chain(lambda net, t: net.op("Relu", t), zero=(), constant={2: 0.5, 5: -1.0, 6: 2.0}, pad=0, kernel=1)
    )
    assert gone(plan) == {"zero": 1, "known": 2}, "what the Relu leaves of -1 is zero"
    (folded,) = [item for item in plan.absorbed if item.into == "bias"]
    assert dict(zip(folded.slices, folded.values, strict=True)) == {2: 0.5, 6: 2.0}


def test_unread() -> None:
    plan = plan_of(chain(lambda net, t: net.op("Relu", t), zero=(), unread=DEAD))
    assert gone(plan) == {"unread": 4}
    (claim,) = plan.unread
    assert (claim.axis, claim.slices) == (1, DEAD)


def test_range() -> None:
    """Inputs within [0, 1] cannot lift channels 1 and 4 above zero."""

    def limited(net: Net, x: str) -> str:
        weight, bias = net.filters(3, 8, 3), np.full(8, 0.5)
        bias[[1, 4]] = -np.abs(weight[[1, 4]]).sum(axis=(1, 2, 3)) - 0.01
        return net.op("Relu", net.op("Conv", x, net.const(weight), net.const(bias), pads=[1] * 4))

    net = Net()
    x = net.op("Sigmoid", net.input("x", SHAPE))
    plan = plan_of(net.output(net.conv(limited(net, x), 8, 4, name="y")))
    assert gone(plan) == {"range": 2}
    unbounded = Net()
    x = unbounded.input("x", SHAPE)
    assert gone(plan_of(unbounded.output(unbounded.conv(limited(unbounded, x), 8, 4, name="y")))) == {}


def test_range_that_a_byte_input_gives() -> None:
    net = Net()
    x = net.op("Cast", net.input("x", SHAPE, np.uint8), to=1)
    weight, bias = net.filters(3, 8, 3), np.full(8, 0.5)
    bias[[3]] = -256 * np.abs(weight[[3]]).sum()
    t = net.op("Relu", net.op("Conv", x, net.const(weight), net.const(bias), pads=[1] * 4))
    assert gone(plan_of(net.output(net.conv(t, 8, 4, name="y")))) == {"range": 1}


def faded(*, ratio: float = 1e-20, middle: str = "Relu") -> Net:
    """Channels 1 and 4 hold what weight decay leaves."""
    net = Net()
    weight, bias = net.filters(3, 8, 3), net.normal(8)
    weight[[1, 4]] *= ratio
    bias[[1, 4]] *= ratio
    t = net.op("Conv", net.input("x", SHAPE), net.const(weight, "w"), net.const(bias), pads=[1] * 4, name="first")
    return net.output(net.conv(net.op(middle, t), 8, 4, name="y"))


def test_negligible() -> None:
    plan = plan_of(faded())
    assert gone(plan) == {"negligible": 2}
    item = next(item for item in plan.negligible if item["constant"] == "w")
    assert (item["axis"], item["slices"]) == (0, [1, 4])
    assert 0 < item["largest"] < 1e-19
    assert item["evidence"] in ("proven", "tested")


def test_negligible_is_a_choice() -> None:
    assert gone(plan_of(faded(), negligible=0)) == {}
    assert gone(plan_of(faded(ratio=1e-6))) == {}


def test_all_kinds_in_one_layer() -> None:
    net = Net()
    x = net.op("Sigmoid", net.input("x", SHAPE))
    weight, bias = net.filters(3, 16, 1), np.full(16, 0.5)
    weight[0], bias[0] = 0, 0
    weight[1], bias[1] = 0, 1.5
    bias[2] = -np.abs(weight[2]).sum() - 0.01
    weight[3] *= 1e-20
    bias[3] = 0
    t = net.op("Relu", net.op("Conv", x, net.const(weight), net.const(bias)))
    plan = plan_of(net.output(net.conv(t, 16, 4, 1, unread=[4], name="y")))
    assert gone(plan) == {"zero": 1, "known": 1, "unread": 1, "range": 1, "negligible": 1}
    assert plan.layers[0].removed == {"zero": 1, "known": 1, "unread": 1, "range": 1, "negligible": 1}
    assert plan.layers[0].after == 11


def test_plan_is_plain_data() -> None:
    for net in (faded(), residual((0, 1, 2, 3), (2, 3, 4, 5)), chain(lambda net, t: net.op("Sigmoid", t))):
        report = plan_of(net).to_json()
        assert json.loads(json.dumps(report)) == json.loads(json.dumps(report, default=str)), "only plain types"


# --- reasons


def stays(plan: Plan) -> dict[tuple[str, tuple[int, ...]], tuple[str, str]]:
    return {(stay.layer, stay.slices): (stay.holder, stay.reason) for stay in plan.stays}


def test_an_add_whose_branches_disagree_names_the_other_branch() -> None:
    net = residual((0, 1, 2, 3), (2, 3, 4, 5))
    stem, branch = net.nodes[0].output[0], net.nodes[1].output[0]
    add = next(node for node in net.nodes if node.op_type == "Add")
    found = stays(plan_of(net))
    assert found == {
        (f"Conv `{net.nodes[0].name}`", (0, 1)): (f"Add `{add.name}`", f"live in `{branch}`"),
        (f"Conv `{net.nodes[1].name}`", (4, 5)): (f"Add `{add.name}`", f"live in `{stem}`"),
    }


def test_what_holds_is_found_through_what_only_passes_on() -> None:
    """Relu, MaxPool and Concat lie between the layer and the Add that holds it."""
    net = Net()
    x = net.input("x", SHAPE)
    a = net.op("MaxPool", net.op("Relu", net.conv(x, 3, 4, zero=(1, 2))), kernel_shape=[2, 2], strides=[2, 2])
    b = net.op("MaxPool", net.conv(x, 3, 4), kernel_shape=[2, 2], strides=[2, 2])
    other = net.conv(x, 3, 8, stride=2, name="other")
    total = net.op("Add", net.op("Concat", b, a, axis=1), other, name="total")
    plan = plan_of(net.output(net.conv(total, 8, 4, name="y")))
    assert stays(plan) == {(f"Conv `{net.nodes[0].name}`", (1, 2)): ("Add `node_total`", "live in `other`")}


def test_an_output_keeps_its_shape() -> None:
    net = Net()
    net.output(net.conv(net.input("x", SHAPE), 3, 8, zero=DEAD, name="y"))
    ((holder, reason),) = stays(plan_of(net)).values()
    assert (holder, reason) == ("output `y`", "the graph's output keeps its shape")


def test_an_operator_without_a_rule_is_named() -> None:
    found = onnxshrink.inspect(chain(lambda net, t: net.op("Own", t, domain="com.example", name="own")).model())
    assert isinstance(found, Inspection)
    ((holder, reason),) = stays(found.plan).values()
    assert holder == "Own `node_own`"
    assert "no rule for this operator" in reason


def test_a_carrier_is_named_as_a_choice() -> None:
    plan = plan_of(chain(lambda net, t: net.op("Sigmoid", t)))
    (stay,) = plan.stays
    assert len(stay.slices) == 1
    assert "carrier" in stay.reason


def test_every_idle_channel_has_a_reason() -> None:
    """Nothing that is known or not live stays without a word."""
    for seed_zero, branch_zero in (((0, 1), (1, 2)), ((0, 1, 2), ()), ((), (5, 6, 7))):
        plan = plan_of(residual(seed_zero, branch_zero))
        told = sum(len(stay.slices) for stay in plan.stays)
        assert told == len(set(seed_zero) ^ set(branch_zero))
        assert all(stay.reason and stay.holder != "-" for stay in plan.stays)


# --- alignment


@pytest.mark.parametrize("multiple", [2, 3, 4, 5, 8, 16])
def test_alignment_keeps_multiples(multiple: int) -> None:
    """Up to a multiple, or to all there were; what stays only for that is said; and it is still equal."""
    net = Net()
    a = net.op("Relu", net.conv(net.input("x", SHAPE), 3, 20, zero=range(0, 20, 2)))
    b = net.op("Relu", net.conv(a, 20, 14, zero=range(1, 14, 3)))
    net.output(net.conv(b, 14, 4, name="y"))
    plan, exact = plan_of(net, align=multiple), plan_of(net)
    for layer, free in zip(plan.layers[:2], exact.layers[:2], strict=True):
        assert layer.after % multiple == 0 or layer.after == layer.before
        assert free.after <= layer.after < free.after + multiple
        assert layer.aligned == layer.after - free.after
    told = sum(len(stay.slices) for stay in plan.stays if stay.holder == "alignment")
    assert told == sum(layer.aligned for layer in plan.layers)


@pytest.mark.parametrize("multiple", [2, 4])
def test_alignment_of_groups_and_sums(multiple: int) -> None:
    net = Net()
    stem = net.conv(net.input("x", SHAPE), 3, 16, zero=(0, 1, 4, 5, 6, 8, 9, 13))
    branch = net.conv(stem, 16, 16, group=4, zero=(0, 1, 4, 5, 8, 9, 12))
    net.output(net.conv(net.op("Add", stem, branch), 16, 4, name="y"))
    plan = plan_of(net, align=multiple)
    assert all(layer.after % multiple == 0 for layer in plan.layers)


def test_alignment_of_depthwise_layers_moves_together() -> None:
    net = Net()
    t = net.op("Relu", net.conv(net.input("x", SHAPE), 3, 8, 1, zero=(0, 2, 7)))
    t = net.op("Relu", net.conv(t, 8, 8, group=8, zero=(0, 2, 7)))
    plan = plan_of(net.output(net.conv(t, 8, 4, 1, name="y")), align=2)
    assert [layer.after for layer in plan.layers] == [6, 6, 4]


def widening(own: tuple[int, ...] = ()) -> Net:
    """A residual stream of 16 channels, 8 of them dead, that padding widens to 22, `own` of the added ones dead."""
    net, dead = Net(), tuple(range(8))
    t = net.op("Relu", net.conv(net.input("x", SHAPE), 3, 16, zero=dead))
    t = net.op("Relu", net.op("Add", t, net.conv(t, 16, 16, zero=dead)))
    wide = net.op("Pad", t, net.const(np.array([0, 0, 0, 0, 0, 6, 0, 0])))
    t = net.op("Relu", net.op("Add", wide, net.conv(t, 16, 22, zero=(*dead, *own))))
    return net.output(net.conv(t, 22, 4, name="y"))


def test_alignment_does_not_keep_everything_where_it_cannot_be_met() -> None:
    """8 and 14 channels: each slice that would round the 14 up to 16 is one of the 8 too, and so on to the last."""
    plan, exact = plan_of(widening(), align=4), plan_of(widening())
    assert [layer.after for layer in plan.layers] == [8, 8, 14, 4]
    assert [layer.aligned for layer in plan.layers] == [0, 0, 0, 0]
    assert (plan.kept, plan.stays) == (exact.kept, exact.stays)


def test_alignment_takes_slices_that_no_other_count_has() -> None:
    plan = plan_of(widening(own=(17, 18, 19)), align=4)
    assert [layer.after for layer in plan.layers] == [8, 8, 12, 4]


def test_a_choice_that_is_taken_back_leaves_no_trace() -> None:
    graph = build(inlined(read(widening().model())))
    plain, aligned = (analyse(graph, Options(0.0, align)).solution for align in (1, 4))
    for tensor in graph.tensors():
        assert plain.needed(tensor) == aligned.needed(tensor)
        for axis, (live, other) in enumerate(zip(plain.live(tensor), aligned.live(tensor), strict=True)):
            np.testing.assert_array_equal(live, other)
            np.testing.assert_array_equal(plain.kept((tensor, axis)), aligned.kept((tensor, axis)))
    assert plain.cause.keys() == aligned.cause.keys()
    for port, cause in plain.cause.items():
        np.testing.assert_array_equal(cause, aligned.cause[port])


def test_a_model_that_alignment_keeps_whole_is_not_called_dense() -> None:
    net = Net()
    t = net.op("Relu", net.conv(net.input("x", SHAPE), 3, 8, zero=(1, 2)))
    result = onnxshrink.optimize(net.output(net.conv(t, 8, 4, name="y")).model(), align=4)
    assert result.changed is False
    assert result.notes == ["no channel goes: 2 that carry nothing stay for alignment; --align 1 cuts them"]


# --- what is not needed is not cut


def test_outputs_that_nobody_reads_are_no_change() -> None:
    """An LSTM whose last states nobody asks for: there is nothing to cut."""
    net = Net()
    x = net.input("x", (5, 1, 4))
    weights = [net.const(net.normal(1, 12, n)) for n in (4, 3)]
    t = net.op("LSTM", x, *weights, count=3, hidden_size=3)
    result = onnxshrink.optimize(net.output(net.op("Squeeze", t, net.const([1]), name="y")).model(), align=1)
    assert result.changed is False


# --- the fall-back for negligible weights


def amplified() -> ModelProto:
    """Three layers with negligible channels; a factor of 1e12 behind the second lifts one of its to size one."""
    net = Net()
    t = net.input("x", SHAPE)
    for layer, cin in enumerate((3, 8, 8)):
        weight, bias = net.filters(cin, 8, 3), net.normal(8, scale=0.1)
        weight[[1, 4]] *= 1e-12
        bias[[1, 4]] = 0
        t = net.op("Conv", t, net.const(weight), net.const(bias), pads=[1] * 4, name=f"layer{layer}")
        t = net.op("Tanh", t)
        if layer == 1:
            factor = np.ones((8, 1, 1))
            factor[4] = 1e12
            t = net.op("Mul", t, net.const(factor))
    return net.output(net.conv(t, 8, 4, name="y")).model()


def test_one_harmful_layer_stays_and_the_others_go() -> None:
    model = amplified()
    result = onnxshrink.optimize(model, align=1)
    assert [layer.after for layer in result.plan.layers] == [6, 8, 6, 4]
    (note,) = [note for note in result.notes if "negligible weights" in note]
    assert "1 layers" in note
    assert "Conv `node_layer1`" in note
    assert result.verification is not None
    assert result.verification.passed
    assert result.plan.removed["negligible"] == 4
    exact = onnxshrink.optimize(model, align=1, negligible=0)
    assert exact.changed is False


def test_without_verification_negligible_weights_are_believed() -> None:
    """Nobody looks, so the plan stands; whoever skips the verification has been told."""
    result = onnxshrink.optimize(amplified(), align=1, verify=False)
    assert result.plan.removed["negligible"] == 6


def test_sizes_are_those_of_the_files() -> None:
    model = chain(lambda net, t: net.op("Relu", t)).model()
    found = onnxshrink.inspect(model)
    assert isinstance(found, Inspection)
    before, after = found.sizes["parameters"]
    assert before is not None
    assert after is not None
    assert before - after == chain_cut(4)


# --- names


def two_layers(channels: int, *, same: bool = True) -> ModelProto:
    """Two layers of different sizes, of one name or of two."""
    net = Net()
    net.output(net.conv(net.conv(net.input("x", SHAPE), 3, channels, zero=(2,)), channels, 4, kernel=1))
    model = net.model()
    for node in model.graph.node:
        node.name = "layer" if same else node.name
    return model


def test_nodes_that_share_a_name_keep_their_own_figures() -> None:
    shared, apart = (onnxshrink.optimize(two_layers(8, same=same), align=1).plan for same in (True, False))
    assert [layer.macs for layer in shared.layers] == [layer.macs for layer in apart.layers]
    assert len({layer.node for layer in shared.layers}) == 2
    assert {stay.layer for stay in shared.stays} <= {layer.node for layer in shared.layers}


def test_differences_of_nodes_that_share_a_name() -> None:
    shared, apart = (onnxshrink.inspect(two_layers(8, same=s), two_layers(6, same=s)) for s in (True, False))
    assert isinstance(shared, Difference)
    assert isinstance(apart, Difference)
    assert [sizes for _, *sizes in shared.layers] == [sizes for _, *sizes in apart.layers]
    assert len({name for name, *_ in shared.layers}) == len(shared.layers) == 2
