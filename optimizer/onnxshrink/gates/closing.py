"""Closing: gates are closed down to a share of the size, by importance or, to compare, by uniform L1 norms."""

from __future__ import annotations

from collections.abc import Callable, Collection

import torch
from torch import Tensor

from ..errors import InputError
from .augment import Gated
from .gate import Gate
from .loss import Size


@torch.no_grad()
def close_gates(
    gated: Gated,
    scores: Tensor,
    size: Size,
    target: float,
    floor: float = 0.25,
    branches: Collection[str] = (),
    survives: Callable[[], bool] = lambda: True,
    *,
    per_cost: bool = True,
    multiple: int = 1,
) -> int:
    """Close the units with the lowest score for what they save, until at most `target` is left.

    Changes the masks. Each gate keeps at least one unit and the share `floor` of those that it once had.

    Args:
        scores: [1 + units] in the order of `Gated.factors`: `Importance.row()`, or `Gated.alphas()`.
        target: share of the original size.
        branches: names of gates that may be closed altogether (`gates.branches`); the floor is not theirs.
        survives: asked when the last unit of one of them is closed, because two branches may be each other's bypass.
        per_cost: divide scores by what closing saves; not where the scores know costs already, as trained gates do.
        multiple: close so many units of a gate at once, so that what is left is a multiple of it: odd counts of
            channels can be slower than all of them.

    Returns:
        How many units were closed.

    Raises:
        InputError: a score is not finite, or the floors do not let the size down to the target; as much as they allow
            was closed.
    """
    gates, scores, first = gated.gate_list, _finite(scores.detach().cpu(), "scores"), _first(gated.gate_list)
    lowest = [
        0 if name in branches else max(1, round(floor * g.whole)) for name, g in zip(gated.gates, gates, strict=True)
    ]
    closed: list[tuple[Gate, Tensor]] = []
    while size.kept() > target:
        savings = _savings(size)
        candidates: list[tuple[float, int, Tensor]] = []
        for number, gate in enumerate(gates):
            count = _chunk(gate, multiple)
            if not count or gate.kept - count < lowest[number]:
                continue
            own, saved = (row[first[number] :][: gate.units] for row in (scores, savings))
            values = own / saved if per_cost else own
            places = _lowest(gate, values, count)
            value = own[places].sum() / saved[places].sum() if per_cost else own[places].mean()
            candidates.append((float(value), number, places))
        if not candidates:
            raise _unreachable(size, target, f"a lower floor than {floor:g}, or another target")
        _, number, places = min(candidates, key=lambda candidate: candidate[:2])
        gate = gates[number]
        gate.mask[places] = 0
        if not gate.kept and not survives():
            gate.mask[places], lowest[number] = 1, 1
            continue
        closed.append((gate, places))
    return _count(closed, size, target)


@torch.no_grad()
def close_uniform(gated: Gated, size: Size, target: float, multiple: int = 1) -> int:
    """Close the same share of every gate's units, those with the smallest L1 norm, until at most `target` is left.

    Changes the masks. Shares differ by less than `multiple` units. This is the baseline that a search has to beat.

    Args:
        multiple: close so many units of a gate at once.

    Returns:
        How many units were closed.

    Raises:
        InputError: a norm is not finite, or what the last units of each gate cost is still too much.

    Source: Li et al., "Pruning Filters for Efficient ConvNets" (arXiv 1608.08710), section 3; in a residual stream the
    norm of a unit is the mean over the layers that write it, each relative to its layer's mean.
    """
    gates, row, first = gated.gate_list, _finite(_l1(gated), "L1 norms"), _first(gated.gate_list)
    closed: list[tuple[Gate, Tensor]] = []
    while size.kept() > target:
        counts = [_chunk(gate, multiple) for gate in gates]
        shares = [(gate.kept - count) / gate.whole for gate, count in zip(gates, counts, strict=True)]
        number = max(range(len(gates)), key=shares.__getitem__)
        gate = gates[number]
        if shares[number] <= 0:
            raise _unreachable(size, target, "another target")
        places = _lowest(gate, row[first[number] :][: gate.units], counts[number])
        gate.mask[places] = 0
        closed.append((gate, places))
    return _count(closed, size, target)


def _chunk(gate: Gate, multiple: int) -> int:
    """How many units of a gate go at once: down to the next multiple."""
    return gate.kept % multiple or min(multiple, gate.kept)


def _lowest(gate: Gate, values: Tensor, count: int) -> Tensor:
    """The places of so many units with the lowest values among those that are open."""
    open_places = gate.mask.cpu().nonzero()[:, 0]
    return open_places[values[open_places].topk(count, largest=False).indices]


def _finite(row: Tensor, what: str) -> Tensor:
    """The row, in the order of `Gated.factors`, if all that is said of units is finite.

    Raises:
        InputError: it is not.
    """
    if strange := int((~row[1:].isfinite()).sum()):
        raise InputError(
            f"the {what} of {strange} units of {len(row) - 1} are not finite",
            cure="train at a lower rate: a weight or the loss is infinite or not a number",
        )
    return row


def _first(gates: list[Gate]) -> list[int]:
    """Where each gate begins in the order of `Gated.factors`."""
    return [1 + sum(gate.units for gate in gates[:number]) for number in range(len(gates))]


def _savings(size: Size) -> Tensor:
    with torch.enable_grad():
        return size.savings().cpu().clamp_min(1e-30)


def _l1(gated: Gated) -> Tensor:
    """The relative L1 norm of each unit's filters, in the order of `Gated.factors`."""
    tensors = dict([*gated.network.named_parameters(), *gated.network.named_buffers()])
    total, count = torch.zeros(1 + len(gated.place)), torch.zeros(1 + len(gated.place))
    for name, axis in gated.coupling.layers:
        units = gated.coupling.axes.get(name, {}).get(axis)
        if units is None:
            continue
        weight = tensors[name].detach().float().cpu().transpose(0, axis).flatten(1)
        norms = weight.abs().sum(1)
        places = gated.places(units)
        total.index_add_(0, places, norms / norms.mean().clamp_min(1e-30))
        count.index_add_(0, places, torch.ones(len(places)))
    return total / count.clamp_min(1)


def _count(closed: list[tuple[Gate, Tensor]], size: Size, target: float) -> int:
    """How many units were closed, after opening again what the last ones made superfluous to close."""
    count = 0
    for gate, places in reversed(closed):
        if gate.kept:
            gate.mask[places] = 1
            if size.kept() <= target:
                continue
            gate.mask[places] = 0
        count += len(places)
    return count


def _unreachable(size: Size, target: float, cure: str) -> InputError:
    return InputError(
        f"{100 * size.kept():.1f} % of the size is left when every gate is at its floor, the target is "
        f"{100 * target:.1f} %",
        cure=cure,
    )
