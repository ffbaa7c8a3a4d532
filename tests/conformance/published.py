"""The published models: through the command line, every one without an error and without an unproven claim.

The floors are output channels of Conv and ConvTranspose layers, counted by an independent script (interval propagation
forward, liveness backward, on the file's own weights).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tests.conftest import shared_folder
from tools.published_models import measure

from .outcome import Outcome

NAME = "published models"

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

STATES = {"passed": "equal", "unverified": "unverified", "unchanged": "unchanged"}


def folder() -> Path:
    """Where the models are; a folder without any where there are none."""
    return (shared_folder() or Path(__file__).parent) / "onnx"


def names() -> Sequence[str]:
    return sorted(path.stem for path in folder().glob("*.onnx"))


def run(name: str) -> Outcome:
    path = folder() / f"{name}.onnx"
    row = measure(path)
    assert row.code == 0, row.error
    assert row.state in STATES
    if row.state == "unverified":
        assert row.notes, "what is not verified says why"
    before, after = row.convolutions
    floor = FLOORS.get(name, 0)
    assert before - after >= floor, f"{before} -> {after} Conv channels"
    was, now = row.macs
    assert was is None or now is None or now <= was
    was, now = row.parameters
    assert was is not None
    assert now is not None
    assert now <= was or any("parameters grow" in note for note in row.notes), "a result that grows says so"
    if row.state == "unchanged":
        assert before == after
        assert not row.removed
    reason = "; ".join(row.notes) if row.state == "unverified" else ""
    size = path.stat().st_size
    return Outcome(name, STATES[row.state], floor, floor, before - after, row.seconds, reason, size)
