"""One rule per operator family, and the registry that finds it. Importing this package registers all rules."""

from . import broadcast, conv, finite, grid, matmul, movement, normalization, pad, pool, reduction, selection, shape  # noqa: F401

from . import integer_convolution, integer_product, quantized, requantizing  # noqa: F401  # isort: skip
from . import barriers, einsum, passing, recurrent, spatial  # noqa: F401  # isort: skip
from . import attention, contrib_barriers, fused  # noqa: F401  # isort: skip
from . import control_flow  # noqa: F401  # isort: skip
from .rule import Rule, rule_for

__all__ = ["Rule", "rule_for"]
