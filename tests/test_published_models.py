"""The published models: every one is optimized without an error and without an unproven claim.

The floors are output channels of Conv and ConvTranspose layers, counted by an independent script (interval propagation
forward, liveness backward, on the file's own weights).
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import shared_folder
from tools.published_models import measure

FOLDER = shared_folder()
MODELS = sorted((FOLDER / "onnx").glob("*.onnx")) if FOLDER else []

FLOORS = {
    "pfld_112": 2573,
    "rn56_c100_taylor50": 372,
    "road_seg_adas0001": 355,
    "ppocrv3_det_ch": 144,
    "rn56_c100_simdoc50": 38,
    "fastestdet_coco": 4,
    "mnist_cnn_pruned": 1,
}
COUNT = 38

pytestmark = [
    pytest.mark.shared,
    pytest.mark.slow,
]


def test_all_are_there() -> None:
    assert len(MODELS) >= COUNT
    assert set(FLOORS) <= {model.stem for model in MODELS}


@pytest.mark.parametrize("model", MODELS, ids=lambda path: path.stem)
def test_published_model(model: Path) -> None:
    row = measure(model)
    assert row.code == 0, row.error
    assert row.state in ("passed", "unverified", "unchanged")
    if row.state == "unverified":
        assert row.notes, "what is not verified says why"
    before, after = row.convolutions
    assert before - after >= FLOORS.get(model.stem, 0), f"{before} -> {after} Conv channels"
    was, now = row.macs
    assert was is None or now is None or now <= was
    was, now = row.parameters
    assert was is not None
    assert now is not None
    assert now <= was or any("parameters grow" in note for note in row.notes), "a result that grows says so"
    if row.state == "unchanged":
        assert before == after
        assert not row.removed
