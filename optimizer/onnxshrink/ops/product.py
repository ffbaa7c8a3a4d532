"""What a product of matrices knows of its terms, and needs of its operands."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .fact import Fact, unknown
from .rule import Context, Demand


def of_operand(
    tensor: str, inner: int, wanted: np.ndarray, outer: int, place: int, live: Demand, context: Context
) -> Demand:
    """What a product needs of one operand.

    Args:
        inner: the axis that is summed over, with the features `wanted` along it.
        outer: the axis that is the output's axis `place`; those in front of both are the output's too.
        live: what is needed of the output.
    """
    own = context.rank(tensor) or 0
    demand = []
    for axis in range(own):
        length = context.size(tensor, axis) or 1
        target = live[place] if axis == outer else live[axis + len(live) - own]
        if axis == inner:
            demand.append(wanted)
        else:
            demand.append(target if target.size == length else np.ones(length, bool))
    return demand


class Factor(NamedTuple):
    """What is known of one operand of a product: where it is not zero for certain, where it is not known, and its
    values with zeros where they are not known. Axes along which nothing varies may have length one.
    """

    nonzero: np.ndarray
    unknown: np.ndarray
    value: np.ndarray


def _factor(fact: Fact) -> Factor:
    known = fact.known & np.isfinite(fact.value)
    nonzero = fact.value != 0
    if known.all():
        return Factor(nonzero, np.zeros_like(fact.known), fact.value)
    return Factor(nonzero | ~known, ~known, np.where(known, fact.value, np.zeros((), fact.value.dtype)))


def any_term(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The product of two matrices of booleans."""
    if not left.any() or not right.any():
        shape = np.broadcast_shapes(left.shape[:-2], right.shape[:-2])
        return np.zeros((*shape, left.shape[-2], right.shape[-1]), bool)
    return np.asarray(left.astype(np.float32) @ right.astype(np.float32) > 0)


def terms(name: str, inner: int, right: bool, context: Context) -> Factor:
    """What is known of the left operand as [..., m, k], or the `right` one as [..., k, n].

    The inner axis has its full length if that is known.
    """
    rank, size, fact = context.rank(name) or 0, context.size(name, inner), context.fact(name)
    if fact is not None and size is not None:
        fact = fact.expand(context.shape(name) or (), [inner])
    if fact is None:
        fact = unknown(rank, context.graph.dtypes.get(name, np.dtype(np.float32)))
        fact = fact.expand((1,) * inner + (size or 1,) + (1,) * (rank - inner - 1)) or fact
    if name in context.graph.constants:
        factor = context.derived(name, "factor", lambda: _factor(fact))
    else:
        factor = _factor(fact)
    if size is None:  # nobody knows how many terms there are: only zeros add up to something known
        factor = factor._replace(unknown=factor.nonzero)
    return factor if inner == rank - 1 - right else Factor(*(np.swapaxes(a, -1, -2) for a in factor))
