"""Operators of layers that change with the mode, training or evaluation."""

from typing import Any

import torch

aten = torch.ops.aten

DROPOUTS = (aten.dropout.default, aten.dropout_.default, aten.feature_dropout.default, aten.feature_dropout_.default)
MODES: dict[Any, int] = {
    **dict.fromkeys(DROPOUTS, 2),
    aten.batch_norm.default: 5,
    aten.scaled_dot_product_attention.default: 4,
}
"""Which argument says the mode."""

SETTLED = "settled"
"""What a graph's node notes if it does the same in both modes."""
