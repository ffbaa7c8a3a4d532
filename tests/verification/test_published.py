"""The published models: none alarms when held against itself saved once more, none passes with a layer that is off."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from onnxshrink.verification import Verification, verify

from .models import changed, off_by, tensors

pytestmark = pytest.mark.shared

QUICK = ("mnist_cntk", "silero_vad_16k", "ppocrv3_det_ch", "squeezenet_fp16", "carvana_unet_simp", "rn56_c100_taylor50")


def layers(model: onnx.ModelProto) -> list[str]:
    """Weights of Conv and ConvTranspose, in graph order."""
    held = {name for name, tensor in tensors(model) if tensor.data_type != onnx.TensorProto.INT8}
    convs = [n for n in model.graph.node if n.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul")]
    return list(dict.fromkeys(n.input[1] for n in convs if n.input[1] in held))


def share(model: onnx.ModelProto) -> float:
    """How far off a layer is made: 1 %, in float16 5 %, where 1 % of one layer is as small as its rounding."""
    return 5e-2 if any(t.data_type == onnx.TensorProto.FLOAT16 for _, t in tensors(model)) else 1e-2


@pytest.mark.parametrize("name", QUICK)
def test_itself(shared: Path, name: str, held_against: Callable[..., Verification]) -> None:
    model = onnx.load(shared / "onnx" / f"{name}.onnx")
    verdict = held_against(model, model)
    assert verdict.passed, verdict.notes
    assert any(d.evidence for d in verdict.draws)


@pytest.mark.parametrize("name", QUICK)
def test_a_layer_that_is_off(shared: Path, name: str, held_against: Callable[..., Verification]) -> None:
    model = onnx.load(shared / "onnx" / f"{name}.onnx")
    weights = layers(model)
    verdict = held_against(model, changed(model, weights[len(weights) // 2], off_by(share(model))))
    assert verdict.state == "failed", verdict.notes


@pytest.mark.slow
def test_every_model_itself(published: Path, tmp_path: Path) -> None:
    onnx.save(onnx.load(published), tmp_path / "again.onnx")
    verdict = verify(published, tmp_path / "again.onnx")
    assert verdict.passed, verdict.notes
    assert verdict.max_rel == 0
    assert any(d.evidence for d in verdict.draws)


@pytest.mark.slow
def test_every_model_off_by_rounding(published: Path, held_against: Callable[..., Verification]) -> None:
    """Half a last bit in every float weight: what another order of summation does."""
    model = noisy = onnx.load(published)
    for seed, name in enumerate(layers(model)):
        noisy = changed(noisy, name, off_by(3e-8, seed))
    verdict = held_against(model, noisy)
    assert verdict.passed, verdict.notes


@pytest.mark.slow
@pytest.mark.parametrize("place", [0.25, 0.5, 1])
def test_every_model_with_a_layer_that_is_off(
    published: Path, place: float, held_against: Callable[..., Verification]
) -> None:
    model = onnx.load(published)
    weights = layers(model)
    if not weights:
        pytest.skip("no layer with float weights of its own")
    verdict = held_against(model, changed(model, weights[round(place * (len(weights) - 1))], off_by(share(model))))
    assert verdict.state == "failed", verdict.notes
