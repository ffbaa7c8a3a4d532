"""`prune` on published models, on a little noise: whatever the layers, the budget is met and the shrink is exact."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import onnxshrink
from onnxshrink.errors import InputError, ModelError

SHAPES = {
    "retinaface_mb025": {"input": (1, 3, 96, 96)},
    "silero_vad_16k": {"input": (1, 512)},
    "ppocrv3_det_ch": {"x": (1, 3, 96, 96)},
    "ppocr_mobile_cls": {"x": (1, 3, 48, 96)},
}


@pytest.mark.shared
@pytest.mark.slow
def test_prune_a_published_model(published: Path) -> None:
    options = {"random_data": 8, "keep_parameters": 0.9, "input_shapes": SHAPES.get(published.stem)}
    try:
        result = onnxshrink.prune(published, **options)
    except (InputError, ModelError) as error:
        if not re.search("no channel of this model can be pruned|the nearest reachable is", str(error)):
            raise
        return
    before, after = result.sizes["parameters"]
    assert before is not None
    assert after is not None
    assert after <= 0.9 * before
    assert result.shrunk is not None
    verdict = result.shrunk.verification
    assert verdict is not None
    assert verdict.state in ("passed", "unverified")
    assert all(fit.after <= fit.before for fit in result.fits)
