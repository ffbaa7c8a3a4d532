"""Schedules: numbers as pure functions of the progress of a phase, so that a resumed run needs no state for them."""

import math
from collections.abc import Iterable

from torch import nn

from .gate import gates_of


def cubic_ramp(progress: float, start: float = 0.5, full: float = 1.0, maximum: float = 1.0) -> float:
    """Weight of the ejector: 0 up to `start`, maximum * ((p - start) / (full - start))^3 until `full`, then maximum."""
    if progress <= start:
        return 0.0
    if progress >= full:
        return maximum
    return maximum * ((progress - start) / (full - start)) ** 3


def one_cycle(progress: float, peak: float, warmup: float = 0.2) -> float:
    """Learning rate: linear from 0 to `peak` over the share `warmup` of the phase, then a half cosine down to 0."""
    if progress < warmup:
        return peak * progress / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))


def set_slope(module: nn.Module, slope: float) -> None:
    """Set the slope of every gate's sigmoid: raised as training goes on, it is the annealed form.

    A gate that starts at the identity is still exactly 1 where it started.
    """
    for gate in gates_of(module):
        gate.slope = float(slope)


def parameter_groups(module: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """(weights, gates): the module's parameters without its gates, and the gates, which must have no weight decay.

    Decay pulls alpha to 0, which is the undecided point and not a small gate.
    """
    alphas = [gate.alpha for gate in gates_of(module)]
    return _without(module.parameters(), alphas), alphas


def _without(parameters: Iterable[nn.Parameter], excluded: list[nn.Parameter]) -> list[nn.Parameter]:
    ids = set(map(id, excluded))
    return [p for p in parameters if id(p) not in ids]
