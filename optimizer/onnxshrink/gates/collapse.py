"""Collapse: closed units leave a gated network while it trains, which gets faster by it.

Unlike `removed`, the gates stay: what is left of them goes on with the values that it had. Branches and levels of
which nothing is left go too.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..errors import InputError
from .augment import Gated, classes_of, key_of
from .coupling import couple
from .gate import Gate, settled
from .removal import closed_slices, cut
from .trace import inputs_of

CONSTANT = re.compile(r"^\w+_constant(_again)*$")
"""Names that `cut` gives to what a branch still adds after it vanished."""

TOLERANCE = 1e-3
"""Largest difference of masked and sliced network, relative to the largest output, that rounding can explain."""


@dataclass(frozen=True)
class Collapsed:
    """A gated network without its closed units.

    Attributes:
        gated: the smaller network, with gates.
        slices: for each parameter of the network: axis -> int64 [n], which slices of the old one are left.
        units: for each gate by its new name: int64 [n], the places in the old network's `factors`.
    """

    gated: Gated
    slices: dict[str, dict[int, Tensor]]
    units: dict[str, Tensor]

    def parameter(self, name: str, tensor: Tensor) -> Tensor:
        """What is left of a tensor shaped like the old parameter, such as its momentum."""
        for axis, kept in self.slices.get(name, {}).items():
            tensor = tensor.index_select(axis, kept.to(tensor.device))
        return tensor


def collapse(gated: Gated, example: Tensor | tuple[Tensor, ...]) -> Collapsed:
    """Cut the closed units out of a gated network; the gates of the others stay and can be trained on.

    Args:
        gated: the network with gates; it is left as it is.
        example: inputs to trace with, with a batch of at least 2.

    Raises:
        InputError: nothing is left of the network or of its gates, or a branch that vanished feeds an operator that
            cannot do without it.

    Source: Larson et al. (arXiv 2308.14605), "sub-network collapse and removal".
    """
    with settled(gated):
        return _collapsed(gated, inputs_of(example))


def _collapsed(gated: Gated, inputs: tuple[Tensor, ...]) -> Collapsed:
    coupling, closed = gated.coupling, closed_slices(gated)
    network = cut(gated.network, inputs, closed, gated.parameters_with_gates())
    found = couple(network, inputs)
    slices = {
        name: {axis: (~mask).nonzero()[:, 0] for axis, mask in axes.items()}
        for name, axes in closed.items()
        if name in found.shapes
    }
    place: dict[int, int] = {}  # of a new unit in the old row of factors
    for name, axes in found.axes.items():
        for axis, units in axes.items():
            if axis in coupling.axes.get(name, {}):
                before = gated.places(coupling.axes[name][axis])[slices[name][axis].cpu()]
                place.update({u: p for u, p in zip(units.tolist(), before.tolist(), strict=True) if u and p})
    classes = {
        name: left for name, all_units in classes_of(found).items() if (left := [u for u in all_units if u in place])
    }
    if not classes:
        raise InputError("no unit is left that could go", cure="take `removed`: the network without gates")
    alphas, factors = gated.alphas().detach(), gated.factors().detach()
    owners = [gate for gate in gated.gate_list for _ in range(gate.units)]
    gates: dict[str, Gate] = {}
    rows: dict[str, Tensor] = {}
    for name, members in classes.items():
        key, row = key_of(name), torch.tensor([place[u] for u in members], device=alphas.device)
        gates[key] = _joined([owners[p - 1] for p in row.tolist()], alphas[row], factors[row])
        rows[key] = row.cpu()
    smaller = Gated(network, found, gates, list(classes.values())).to(alphas.device)
    _keep_function(gated, smaller, slices)
    smaller.training = gated.training  # its parts have their modes, which may be others, such as that of a frozen part
    return Collapsed(smaller, slices, rows)


@torch.no_grad()
def _joined(owners: Sequence[Gate], alphas: Tensor, factors: Tensor) -> Gate:
    """One gate of units that gates held before: of one gate, or of several whose classes have become one.

    A unit that was open only because it was anchored has to be open by itself if another one is the anchor now.
    """
    gate = copy.deepcopy(owners[0])
    gate.anchored = any(owner.anchored for owner in owners)
    gate.alpha = nn.Parameter(alphas.clone(), requires_grad=gate.alpha.requires_grad)
    gate.mask = torch.ones_like(alphas)
    while (lost := (gate.weights() == 0) & (factors != 0)).any():
        gate.alpha[lost] = gate.alpha[lost].abs().clamp_min(1e-6)
    return gate


@torch.no_grad()
def _keep_function(old: Gated, new: Gated, slices: dict[str, dict[int, Tensor]]) -> None:
    """Scale parameters that have lost a gate, or got one, so that parameter times gate is what it was.

    A unit loses its gate where it is now read beside a constant; a constant, whose value holds the gate, gets one
    where it is added to gated units; a grouped convolution becomes a depthwise one, whose gates are its input's.
    """
    before, after = old.factors(), new.factors()
    for name, parameter in new.network.named_parameters():
        if name not in old.coupling.shapes and not CONSTANT.search(name):
            continue
        unit = torch.ones((), device=parameter.device)
        had, has = unit, unit
        for axis, units in old.coupling.gated.get(name, {}).items():
            had = had * _along(before[old.places(units)[slices[name][axis].cpu()]], axis, parameter)
        for axis, units in new.coupling.gated.get(name, {}).items():
            has = has * _along(after[new.places(units)], axis, parameter)
        # Where a gate is 0 now but not pruned, the product is 0 with any parameter: it stays as it is.
        parameter.mul_(torch.where((has == 0) | (had == has), unit, had / has))


def _along(factors: Tensor, axis: int, parameter: Tensor) -> Tensor:
    """Factors in the shape that multiplies a parameter along an axis."""
    return factors.view([-1 if place == axis else 1 for place in range(parameter.dim())])


def survives(gated: Gated, example: Tensor | tuple[Tensor, ...]) -> bool:
    """Whether the network can do without all units that are closed now: whole branches may be among them."""
    try:
        cut(gated.network, inputs_of(example), closed_slices(gated))
    except InputError:
        return False
    return True


@torch.no_grad()
def compare(before: Callable[[Tensor], Tensor], after: Callable[[Tensor], Tensor], inputs: Tensor) -> float:
    """Largest difference of two networks' answers, relative to the largest answer of the first."""
    expected, found = before(inputs).float(), after(inputs).float()
    return float((found - expected).abs().max() / expected.abs().max().clamp_min(1e-30))
