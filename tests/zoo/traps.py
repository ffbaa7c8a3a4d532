"""All traps, in the order of their families. See trap.py for what a trap is."""

from __future__ import annotations

from . import (
    trap_activations,
    trap_bodies,
    trap_constants,
    trap_convolutions,
    trap_dense,
    trap_fused,
    trap_interfaces,
    trap_merges,
    trap_mutants,
    trap_operators,
    trap_opsets,
    trap_permutations,
    trap_quantized,
    trap_recurrent,
    trap_shapes,
    trap_transformers,
)
from .trap import Trap

FAMILIES = (
    trap_activations,
    trap_constants,
    trap_merges,
    trap_operators,
    trap_permutations,
    trap_convolutions,
    trap_shapes,
    trap_dense,
    trap_interfaces,
    trap_bodies,
    trap_opsets,
    trap_fused,
    trap_quantized,
    trap_recurrent,
    trap_transformers,
    trap_mutants,
)

TRAPS: tuple[Trap, ...] = tuple(trap for family in FAMILIES for trap in family.TRAPS)

if len({trap.name for trap in TRAPS}) != len(TRAPS):
    raise ValueError("two traps have the same name")
