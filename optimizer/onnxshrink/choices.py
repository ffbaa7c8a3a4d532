"""What callers choose from: the face refuses anything else, and the command line offers the same."""

from __future__ import annotations

from typing import Any, Literal, get_args

from .errors import InputError

Provider = Literal["cpu", "cuda", "tensorrt"]
Method = Literal["wanda", "pfp", "magnitude", "random"]
Allocation = Literal["utilization", "knapsack", "uniform", "global"]
Variant = Literal["top", "sampled", "mixed"]
Reduction = Literal["sum", "max"]

MOST_ALIGN = 1024
"""The largest multiple that channel counts are rounded to."""

MOST_NEGLIGIBLE = 1e-3
"""The largest share of a layer's largest weight that counts as zero."""


def check_choice(what: str, value: object, choices: Any) -> None:
    """Raise InputError unless a value is one of a Literal's; `what` names it in the message."""
    if value not in get_args(choices):
        raise InputError(f"there is no {what} {value!r}", cure=f"take one of {', '.join(get_args(choices))}")


def check_align(align: object) -> None:
    """Raise InputError unless channel counts can be rounded to multiples of this."""
    if not isinstance(align, int) or isinstance(align, bool) or not 1 <= align <= MOST_ALIGN:
        raise InputError(f"cannot align to {align!r}", cure=f"give a number from 1 to {MOST_ALIGN}")


def check_negligible(share: object) -> None:
    """Raise InputError unless weights below this share of their layer's largest may count as zero."""
    if not isinstance(share, int | float) or not 0 <= share <= MOST_NEGLIGIBLE:  # NaN is no share either
        raise InputError(f"{share!r} is no negligible share", cure=f"give a number from 0 to {MOST_NEGLIGIBLE:g}")
