"""One rule per operator family, and the registry that finds it. Importing this package registers all rules."""

from . import broadcast, conv, grid, matmul, movement, normalization, pad, pool, reduction, selection, shape  # noqa: F401
from .rule import Rule, rule_for

__all__ = ["Rule", "rule_for"]
