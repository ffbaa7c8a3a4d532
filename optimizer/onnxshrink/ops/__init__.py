"""One rule per operator family, and the registry that finds it. Importing this package registers all rules."""

from . import (  # noqa: F401
    attention,
    barriers,
    broadcast,
    cast,
    chains,
    contrib_barriers,
    control_flow,
    conv,
    einsum,
    finite,
    fused,
    grid,
    integer_convolution,
    integer_product,
    jumps,
    matmul,
    movement,
    normalization,
    packed_attention,
    pad,
    passing,
    pool,
    quantized,
    recurrent,
    reduction,
    requantizing,
    rotary,
    selection,
    shape,
    spatial,
)
from .rule import Rule, rule_for

__all__ = ["Rule", "rule_for"]
