"""What the calibration data say of units, whatever the shape in which they come."""

from __future__ import annotations

import numpy as np
import pytest

from onnxshrink.candidates import Candidates
from onnxshrink.graph.inline import inlined
from onnxshrink.graph.model import read
from onnxshrink.pruning.budget import Budget
from onnxshrink.pruning.scoring import Scores
from tests.pruning.nets import inputs, residual


def scores(batch: int | str, count: int) -> Scores:
    """Of a network whose batch is fixed or free, on the same samples."""
    model = residual()
    samples = [{"x": x[None]} for x in inputs(model, count)]
    first = model.graph.input[0].type.tensor_type.shape.dim[0]
    first.Clear()
    if isinstance(batch, int):
        first.dim_value = batch
    else:
        first.dim_param = batch
    found = Candidates(inlined(read(model)), samples, None, None, None, 512, None, "cpu", 0, lambda text: None)
    found.rank("pfp", "top", "uniform", "sum", Budget(macs=0.9))
    assert found.scores is not None
    return found.scores


def test_a_sample_is_drawn_from_alike_in_batches_and_alone() -> None:
    """48 samples score: in one batch of a free dimension, or in 48 calls."""
    together, alone = scores("n", 64), scores(1, 64)
    for one, other in zip(together.importance(), alone.importance(), strict=True):
        assert one.outcomes == other.outcomes
    for one, other in zip(together.wanda(), alone.wanda(), strict=True):
        assert other == pytest.approx(one, rel=0.15)  # other places of the same images
        assert np.corrcoef(one, other)[0, 1] > 0.99
