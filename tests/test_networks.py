"""ResNet-50, MobileNetV2 and U-Net, zeroed in four ways: equal, and as small as the masks allow.

The peer figures are the smallest exact results of other tools on the same architectures and schemes (other random
masks), in parameters of the model with BatchNormalization folded. The counts come from tests/zoo/channels.py, which
shares no code with the package.
"""

from __future__ import annotations

import functools
from pathlib import Path

import onnx
import pytest
from onnx import ModelProto

import onnxshrink
from tests.zoo import networks, oracle
from tests.zoo.channels import ChannelGraph
from tests.zoo.net import parameters

# (architecture, scheme) -> parameters of the best exact peer, in the folded model. With `const` no peer is exact and
# smaller; the bound there is the figure of `inner` with room for the carriers.
PEERS = {
    ("resnet50", "inner"): 12.360e6,
    ("resnet50", "coupled"): 9.778e6,
    ("resnet50", "indep"): 12.287e6,
    ("resnet50", "const"): 12.450e6,
    ("mobilenet_v2", "inner"): 2.600e6,
    ("mobilenet_v2", "coupled"): 1.958e6,
    ("mobilenet_v2", "indep"): 2.226e6,
    ("mobilenet_v2", "const"): 2.600e6,
    ("unet", "inner"): 0.575e6,
    ("unet", "const"): 0.592e6,
    ("unet_upsample", "inner"): 0.510e6,
    ("unet_upsample", "const"): 0.525e6,
}
SLOW = {("resnet50", "coupled"), ("resnet50", "indep")}

TOLERANCE = 2e-6

CASES = [pytest.param(case, marks=pytest.mark.slow if case in SLOW else (), id="-".join(case)) for case in PEERS]


class Case:
    """A zeroed network and, made when it is first asked for, its result without alignment."""

    def __init__(self, architecture: str, scheme: str, folded: bool = True):
        self.architecture, self.scheme = architecture, scheme
        self.planted = networks.planted(architecture, scheme, folded=folded)
        self.before = self.planted.model

    @functools.cached_property
    def after(self) -> ModelProto:
        return onnxshrink.optimize(self.before, align=1, negligible=0, verify=False).model


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return Case(*request.param)


def assert_same_function(before: ModelProto, after: ModelProto) -> None:
    assert oracle.interface(after) == oracle.interface(before)
    for seed, optimize in ((0, False), (1, True)):
        arrays = oracle.feeds(before, seed)
        oracle.assert_equal(oracle.run(before, arrays), oracle.run(after, arrays, optimize=optimize), TOLERANCE)


@pytest.mark.parametrize(
    ("architecture", "folded", "count"),
    [
        ("resnet50", True, 25_530_472),
        ("mobilenet_v2", True, 3_487_816),
        ("unet", True, 1_925_601),
        ("unet_upsample", True, 1_796_577),
        ("resnet50", False, 25_557_032 + 2 * 26_560),
    ],
)
def test_published_sizes(architecture: str, folded: bool, count: int) -> None:
    """The builders have the sizes of the published networks; unfolded, torch does not count the running statistics."""
    assert parameters_of_layers(networks.dense_at(architecture, folded=folded).model) == count


def test_count_from_masks_agrees_with_the_peers(case: Case) -> None:
    """Needs nothing of the package: what a consistent cut leaves, and a network built at these widths."""
    graph, peer = ChannelGraph(case.before), PEERS[case.architecture, case.scheme]
    assert graph.parameters() <= peer
    if case.scheme in ("inner", "coupled"):
        dense = case.planted.dense
        kept = dict(dense.widths)
        for norm, dead in case.planted.dead.items():
            kept[dense.norms[norm]] = dense.widths[dense.norms[norm]] - len(dead)
        ideal = networks.dense_at(case.architecture, kept).model
        assert parameters_of_layers(ideal) == graph.parameters()
        assert oracle.interface(ideal)["outputs"] == oracle.interface(case.before)["outputs"]


def test_equal(case: Case) -> None:
    assert_same_function(case.before, case.after)


def test_as_small_as_the_masks_allow(case: Case) -> None:
    after = parameters_of_layers(case.after)
    assert after <= ChannelGraph(case.before).parameters()
    assert after <= PEERS[case.architecture, case.scheme]


@pytest.mark.parametrize("architecture", ["mobilenet_v2", "unet", pytest.param("resnet50", marks=pytest.mark.slow)])
@pytest.mark.parametrize("scheme", ["inner", "const"])
def test_batch_normalization_as_nodes(architecture: str, scheme: str) -> None:
    """Constants may cost a bias for each Conv that had none: at most one parameter for each output channel."""
    nodes = Case(architecture, scheme, folded=False)
    assert_same_function(nodes.before, nodes.after)
    count = ChannelGraph(nodes.before).parameters()
    biases = sum(tensor.dims[0] for tensor in nodes.after.graph.initializer if len(tensor.dims) == 4)
    assert parameters_of_layers(nodes.after) <= count + (biases if scheme == "const" else 0)


@pytest.mark.parametrize("align", [4, 16])
def test_alignment_rounds_up(align: int) -> None:
    """A few dead channels of MobileNetV2 stay, for kept widths that kernels like."""
    model = networks.planted("mobilenet_v2", "inner").model
    result = onnxshrink.optimize(model, align=align, negligible=0, verify=False).model
    assert_same_function(model, result)
    exact = ChannelGraph(model).parameters()
    assert exact <= parameters_of_layers(result) < 1.06 * exact


def test_a_file_with_external_data(tmp_path: Path) -> None:
    model = networks.planted("unet", "inner").model
    written = ModelProto()
    written.CopyFrom(model)
    onnx.save(written, tmp_path / "unet.onnx", save_as_external_data=True, location="unet.data", size_threshold=0)
    result = onnxshrink.optimize(tmp_path / "unet.onnx", tmp_path / "out.onnx", align=1, negligible=0)
    assert result.verification is not None
    after = onnx.load(tmp_path / "out.onnx")
    assert_same_function(model, after)
    assert parameters_of_layers(after) <= ChannelGraph(model).parameters()


def parameters_of_layers(model: ModelProto) -> int:
    """Parameters without the scalar bounds of Clip and the scales of Resize."""
    small = {name for node in model.graph.node if node.op_type in ("Clip", "Resize") for name in node.input[1:]}
    return parameters(model) - sum(
        max(1, tensor.dims[0] if tensor.dims else 1)
        for tensor in model.graph.initializer
        if tensor.name in small and tensor.data_type == 1
    )
