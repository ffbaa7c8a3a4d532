"""Architectures of `transformers`, exported both ways with planted channels and heads. See architectures.py."""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="the architectures are torch modules")
pytest.importorskip("transformers", reason="the architectures are those of transformers")
pytest.importorskip("onnxscript", reason="torch.onnx.export needs it")

from . import architectures

QUICK = {"vit-torchscript", "bert-torchscript-dynamic", "resnet-torchscript"}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in architectures.names()]
)
def test_planted_channels_go_and_results_are_equal(name: str) -> None:
    outcome = architectures.run(name)
    assert outcome.state == "equal", outcome.reason
    assert outcome.planted >= outcome.removable > 0
    assert outcome.removed == outcome.removable


@pytest.mark.parametrize("name", architectures.ARCHITECTURES)
def test_plants_are_what_they_claim(name: str) -> None:
    """Without the optimizer: noise in what nobody can see changes no output of the torch module."""
    changed, error = architectures.noise_in_dead_weights(name)
    assert changed > 0
    assert error <= 1e-5
