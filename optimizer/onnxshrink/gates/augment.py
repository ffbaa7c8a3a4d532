"""Augmentation: any network with gates on its units, without a change to its code."""

import copy
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ..errors import InputError
from .coupling import Coupling, couple
from .gate import FORMS, Gate, settled
from .recompute import Recompute
from .trace import inputs_of


class Gated(nn.Module):
    """A network whose units are multiplied by gates.

    A gate multiplies parameters, not activations: scale and shift of the normalization behind a layer, or the layer's
    own weight and bias where there is none. w (gamma x + beta) = (w gamma) x + w beta, so this is the gate behind the
    layer, it costs no pass over an activation, and folding it is exact. Units that an activation makes other than zero
    have their gate in front of the layers that read them, in the columns of their weights.

    Attributes:
        network: the network as it was given.
        gates: one gate for each class of coupled units, by the name of the first layer that makes them.
        coupling: what couples the units.
        holders: for each parameter the names that it has in different modules: shared ones have several.
        felt: w dL/dw of each w of `factors`, [1 + units], the sum over all backward passes since `Importance` took it;
            None if there was none.
    """

    def __init__(self, network: nn.Module, coupling: Coupling, gates: Mapping[str, Gate], classes: list[list[int]]):
        super().__init__()
        self.network = network
        self.gates = nn.ModuleDict(gates)
        self.coupling = coupling
        self.place = {unit: 1 + k for k, unit in enumerate(u for units in classes for u in units)}
        # by unit; the last one stands for all above
        self._places = torch.zeros(2 + max(self.place, default=0), dtype=torch.long)
        self._places[list(self.place)] = torch.tensor(list(self.place.values()), dtype=torch.long)
        for number, (_, _, units) in enumerate(self._gated()):
            self.register_buffer(f"index{number}", self.places(units), persistent=False)
        self.holders = _holders(network)
        self.felt: Tensor | None = None
        self._recompute = Recompute()

    def _gated(self) -> list[tuple[str, int, Tensor]]:
        """Parameters that gates multiply, with the axis and its units."""
        return [(name, axis, units) for name, axes in self.coupling.gated.items() for axis, units in axes.items()]

    def places(self, units: Tensor) -> Tensor:
        """Where in `factors` each unit's gate is, [n]; 0 for what has none."""
        return self._places[units.clamp(max=len(self._places) - 1)]

    def factors(self) -> Tensor:
        """All gates in a row behind a 1 for what has no gate, [1 + units]."""
        return self._row([gate.weights() for gate in self.gate_list])

    def open(self) -> Tensor:
        """How far each unit counts in a cost, in the order of `factors`."""
        return self._row([gate.open() for gate in self.gate_list])

    def masks(self) -> Tensor:
        """1 for what is kept, 0 for what is pruned, in the order of `factors`."""
        return self._row([gate.mask for gate in self.gate_list])

    def alphas(self) -> Tensor:
        """What the gates are functions of, in the order of `factors`."""
        return self._row([gate.alpha for gate in self.gate_list])

    @property
    def gate_list(self) -> list[Gate]:
        return [gate for gate in self.gates.values() if isinstance(gate, Gate)]

    def _row(self, parts: Sequence[Tensor]) -> Tensor:
        return torch.cat([parts[0].new_ones(1), *parts])

    def parameters_with_gates(self) -> dict[str, Tensor]:
        """The gated parameters times their gates."""
        factors, own = self.factors(), dict(self.network.named_parameters())
        found: dict[str, Tensor] = {}
        if factors.requires_grad:
            self._feel(factors)
        for number, (name, axis, _) in enumerate(self._gated()):
            parameter = found.get(name, own[name])
            shape = [1] * parameter.dim()
            shape[axis] = -1
            index: Tensor = getattr(self, f"index{number}")
            found[name] = parameter * factors[index].view(shape).to(parameter.dtype)
        return found

    def _feel(self, factors: Tensor) -> None:
        """Have a backward pass note what the loss says of these factors."""
        values = factors.detach()

        def note(gradient: Tensor) -> None:
            change = values * gradient.detach()
            self.felt = change if self.felt is None else self.felt + change

        factors.register_hook(note)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the network answers with its gates."""
        self._recompute.leave()
        found = self.parameters_with_gates()
        values = {place: value for name, value in found.items() for place in self.holders[name]}
        answer = functional_call(self.network, values, args, kwargs, tie_weights=False)
        self._recompute.prepare(self.network, answer, values)
        return answer

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """As that of every module, with the network's own parameters."""
        self._recompute.leave()
        return super().state_dict(*args, **kwargs)


def _holders(network: nn.Module) -> dict[str, list[str]]:
    """For each parameter the names that it has in different modules; a module that has several names counts once.

    To let `functional_call` tie them would leave its tensors in a module that has several names.
    """
    found: dict[int, list[str]] = {}
    for path, module in network.named_modules():
        for leaf, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            found.setdefault(id(parameter), []).append(f"{path}.{leaf}" if path else leaf)
    return {names[0]: names for names in found.values()}


def augment(
    network: nn.Module,
    example: Tensor | tuple[Tensor, ...],
    *,
    form: str = "sigmoid",
    anchored: Sequence[str] = (),
    **options: Any,
) -> Gated:
    """Put gates on every unit of a network that can go.

    Args:
        network: any module that torch.export can trace; it is used, not copied.
        example: inputs to trace it with, with a batch of at least 2.
        form: "sigmoid", "step" or "hard-concrete".
        anchored: names of gates (of the first layer of their class) of which one unit always stays open.
        options: of the gate: start, identity and, of a sigmoid or a step, slope (see `Gate`).

    Raises:
        InputError: the network cannot be traced, nothing in it can be gated, units that would be gated are made by no
            layer, there is no such form or gate, or gates of this form have no such option or value of it.
    """
    if form not in FORMS:
        raise InputError(f"there is no gate form {form!r}", cure=f"take one of {', '.join(FORMS)}")
    known = [name for name in inspect.signature(FORMS[form]).parameters if name not in ("units", "anchored")]
    for name in options:
        if name not in known:
            raise InputError(
                f"gates of the form {form} have no option {name!r}", cure=f"take one of {', '.join(known)}"
            )
    coupling = couple(network, inputs_of(example))
    classes = classes_of(coupling)
    if not classes:
        unknown = coupling.told_unknown()
        raise InputError(
            f"no unit of {type(network).__name__} can go: every layer's outputs are the network's own, or are read by "
            f"an operator that needs them all{unknown and ', or of which nothing is known: ' + unknown}"
        )
    made = {0, *(unit for units in classes.values() for unit in units)}
    for name, axes in coupling.gated.items():
        if lost := {unit for units in axes.values() for unit in units.tolist()} - made:
            raise InputError(
                f"`{name}` would get gates, but no layer makes {len(lost)} of its units: they begin with a parameter",
                cure="make them with a layer, or give the part of the network that follows",
            )
    strangers = set(anchored) - set(classes)
    if strangers:
        raise InputError(f"there is no gate {sorted(strangers)[0]!r}", cure=f"the gates are: {', '.join(classes)}")
    gates = {
        key_of(name): FORMS[form](len(units), anchored=name in anchored, **options) for name, units in classes.items()
    }
    return Gated(network, coupling, gates, list(classes.values()))


def key_of(layer: str) -> str:
    """Where a gate is in `gates`: the name of its layer with slashes, and one more where a module has that name."""
    key = layer.replace(".", "/")
    return f"{key}/" if hasattr(nn.ModuleDict(), key) else key


def classes_of(coupling: Coupling) -> dict[str, list[int]]:
    """The units that one gate holds: those of layers that share any of them, by the first such layer's name.

    Where a module has several such layers, the others have the names of their weights.
    """
    found: dict[str, list[int]] = {}
    owner: dict[int, str] = {}
    gated = {unit for axes in coupling.gated.values() for units in axes.values() for unit in units.tolist()}
    for weight, axis in coupling.layers:
        units = coupling.axes.get(weight, {}).get(axis)
        own = [u for u in dict.fromkeys(units.tolist() if units is not None else ()) if u and u in gated]
        if not own:
            continue
        module = weight.rpartition(".")[0]
        name = next((owner[u] for u in own if u in owner), weight if not module or module in found else module)
        for other in {owner[u] for u in own if u in owner} - {name}:
            for unit in found.pop(other):
                owner[unit] = name
                found[name].append(unit)
        for unit in own:
            if unit not in owner:
                owner[unit] = name
                found.setdefault(name, []).append(unit)
    return found


@torch.no_grad()
def folded(gated: Gated) -> nn.Module:
    """A copy of the network without gates that computes the same function, bit for bit.

    A pruned unit is zero in all parameters that made it, or in all weights that read it. The gated network is left as
    it is.
    """
    with settled(gated):
        parameters = gated.parameters_with_gates()
    copied = copy.deepcopy(gated.network)
    for name, parameter in copied.named_parameters():
        if name in parameters:
            parameter.copy_(parameters[name])
    return copied
