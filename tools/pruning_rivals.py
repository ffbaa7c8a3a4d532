"""onnxsim's structured Wanda pruning with its ridge repair, at the sparsity that first keeps to a budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

Feeds = dict[str, np.ndarray]
Cost = Callable[[onnx.ModelProto], float]
"""Share of the original's cost that a model keeps."""

STEPS = 7
"""Halvings of the sparsity."""


@dataclass(frozen=True)
class Rival:
    """What came out: the model before and after its repair, the sparsity, and the share that is left."""

    plain: onnx.ModelProto
    repaired: onnx.ModelProto
    sparsity: float
    share: float


def wanda(model: onnx.ModelProto, samples: Sequence[Feeds], cost: Cost, target: float) -> Rival | None:
    """The least sparsity of a few that keeps to the target, or None where none does.

    The model is simplified first, as that tool's users do: it does not prune in front of a BatchNormalization, and its
    simplifier folds those.

    Args:
        model: the original.
        samples: what it calibrates on.
        cost: of a pruned model.
        target: the largest share.

    Raises:
        SystemExit: onnxsim is not installed.
    """
    try:
        import onnxsim
    except ModuleNotFoundError as missing:
        raise SystemExit("the comparison needs onnxsim: pip install -c constraints.txt onnxsim") from missing
    model, _ = onnxsim.simplify(_fed(model))
    found: Rival | None = None
    low, high = 0.0, 1.0
    for _ in range(STEPS):
        middle = (low + high) / 2
        pruned = onnxsim.apply_structured_wanda_pruning(model, list(samples), sparsity=middle)
        share = cost(pruned)
        if share <= target:
            high, found = middle, Rival(pruned, pruned, middle, share)
        else:
            low = middle
    if found is None:
        return None
    repaired = onnxsim.apply_pruning_finetune(model, found.plain, list(samples))
    return Rival(found.plain, repaired, found.sparsity, found.share)


def _fed(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model whose graph inputs are those that samples feed: onnxsim asks for a sample of each weight among them."""
    own = onnx.ModelProto()
    own.CopyFrom(model)
    weights = {weight.name for weight in model.graph.initializer}
    fed = [entry for entry in model.graph.input if entry.name not in weights]
    del own.graph.input[:]
    own.graph.input.extend(fed)
    return own
