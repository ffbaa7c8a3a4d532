"""How far a pruned model's outputs are from the original's, on some of the samples."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx

from ..verification.inputs import Feeds
from .calibration import Calibration
from .probe import MAX_BATCH, probe


class Outputs:
    """The original's outputs on some samples, kept in memory."""

    def __init__(
        self,
        model: onnx.ModelProto,
        calibration: Calibration,
        samples: Sequence[Feeds],
        provider: str,
        folder: Path | None,
    ):
        self._calibration, self._samples, self._provider, self._folder = calibration, samples, provider, folder
        self._names = [value.name for value in model.graph.output]
        self._right = self._run(model)

    def error(self, model: onnx.ModelProto) -> float:
        """The largest over outputs of |y' - y| / |y| in the Euclidean norm over all samples; of an integer
        output the share of elements that differ.
        """
        worst = 0.0
        for right, now in zip(self._right, self._run(model), strict=True):
            if right.dtype.kind == "f":
                norm = float(np.linalg.norm(right.astype(np.float64)))
                worst = max(worst, float(np.linalg.norm((now - right).astype(np.float64))) / (norm or 1.0))
            elif right.size:
                worst = max(worst, float((now != right).mean()) if now.shape == right.shape else 1.0)
        return worst

    def _run(self, model: onnx.ModelProto) -> list[np.ndarray]:
        opened = probe(model, self._names, provider=self._provider, folder=self._folder)
        values: list[list[np.ndarray]] = [[] for _ in self._names]
        for _, feeds in self._calibration.batches(self._samples, MAX_BATCH // 4):
            for place, value in zip(values, opened(feeds).values(), strict=True):
                place.append(np.asarray(value).reshape(-1))
        return [np.concatenate(parts) for parts in values]
