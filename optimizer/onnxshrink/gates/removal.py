"""Removal: the network without the units that are closed, smaller and dense, to train on or to export.

The result is a torch.fx.GraphModule of ordinary layers under their old names. A branch of which nothing is left leaves
the graph; what it still adds, the shift of a BatchNorm that reads only zeros, becomes a parameter of that shape.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, fx, nn

from ..errors import InputError
from .augment import Gated, folded
from .coupling import Trace
from .cutter import Cutter
from .trace import inputs_of, trace


def removed(gated: Gated, example: Tensor | tuple[Tensor, ...]) -> fx.GraphModule:
    """The network with its gates folded in and its closed units cut out.

    In evaluation it computes what the gated network computes.

    Args:
        gated: the network with gates; it is left as it is.
        example: inputs to trace with, with a batch of at least 2; the batch stays free where torch.export allows it.

    Raises:
        InputError: nothing is left of the network, or a branch that vanished feeds an operator that cannot do
            without it.
    """
    return cut(folded(gated), inputs_of(example), closed_slices(gated))


def closed_slices(gated: Gated) -> dict[str, dict[int, Tensor]]:
    """For each parameter: axis -> bool [n], the slices whose gates are closed."""
    masks = gated.masks()
    return {
        name: {axis: masks[gated.places(units)] == 0 for axis, units in axes.items()}
        for name, axes in gated.coupling.axes.items()
    }


def cut(
    network: nn.Module,
    example: tuple[Tensor, ...],
    closed: dict[str, dict[int, Tensor]],
    factored: Mapping[str, Tensor] | None = None,
) -> fx.GraphModule:
    """A network without some slices of its parameters, and without all that stands and falls with them.

    Args:
        network: the network; its parameters are copied.
        example: inputs to trace with.
        closed: for each parameter: axis -> bool [n], the slices that go.
        factored: other values of parameters, for what becomes a constant; a constant is named `..._constant`.
    """
    return Cutter(Trace(trace(network, example, free_batch=True)), network, closed, factored or {}).run()


def branches(gated: Gated, example: Tensor | tuple[Tensor, ...]) -> set[str]:
    """The names of the gates of whole branches: those that the network can do without, one at a time."""
    inputs = inputs_of(example)
    network, traced = gated.network, Trace(trace(gated.network, inputs, free_batch=True))
    found = set()
    for name, gate in zip(gated.gates, gated.gate_list, strict=True):
        mask = gate.mask.clone()
        gate.mask.zero_()
        closed = closed_slices(gated)
        gate.mask.copy_(mask)
        try:
            Cutter(traced, network, closed, {}).run()
        except InputError:
            continue
        found.add(name)
    return found
