"""The way back: a network cut as `onnxshrink optimize` or `prune` cut the file that was exported from it."""

from __future__ import annotations

import base64
import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from ..errors import InputError
from .augment import Gated, folded
from .coupling import Coupling, couple
from .removal import cut

VERSION = 2
LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
TINY = 1e-4
"""A BatchNorm's scale below this share of its deviation is not divided by."""


def apply(network: nn.Module, mapping: Mapping[str, Any], example: Tensor | tuple[Tensor, ...]) -> fx.GraphModule:
    """Cut a network by the map of its exported file, to train it on and export it again.

    In evaluation it computes what the smaller file computes. Constants that the file absorbed go where they went there:
    into the bias of the layer that read them, or the mean of the BatchNorm behind it. So do weights that `prune`
    repaired; where the file has a BatchNorm inside of its layer, they are divided by its scale. Slices that are coupled
    with others here, and are not in the file, stay as zeros.

    Args:
        network: what was exported, with its gates or folded; it is left as it is.
        mapping: what `--map` wrote, as read from JSON.
        example: inputs to trace with, with a batch of at least 2.

    Raises:
        InputError: the map has another version, none of its weights is a parameter of the network, or sizes differ.
    """
    if mapping.get("version") != VERSION:
        raise InputError(f"this is a map of version {mapping.get('version')}, expected {VERSION}")
    inputs = example if isinstance(example, tuple) else (example,)
    plain = folded(network) if isinstance(network, Gated) else copy.deepcopy(network)
    closed = closed_by(mapping, {name: tuple(p.shape) for name, p in plain.named_parameters()})
    coupling = couple(plain, inputs)
    _absorb(plain, mapping, coupling)
    closed = _whole_units(plain, closed, coupling)
    small = cut(plain, inputs, closed)
    _restore(small, mapping, coupling, closed)
    return small


def closed_by(mapping: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, dict[int, Tensor]]:
    """For each parameter: axis -> bool [n], the slices that the map says are gone.

    Raises:
        InputError: nothing of the map belongs to the network, or a parameter has another size than the map says.
    """
    closed: dict[str, dict[int, Tensor]] = {}
    entries = [entry for entry in mapping["weights"] if entry["source"] in shapes]
    if mapping["weights"] and not entries:
        raise InputError(
            "none of the map's weights is a parameter of the network",
            cure="export with torch.onnx.export or onnxshrink.gates.export, which keep the names",
        )
    for entry in entries:
        name, kept = entry["source"], {int(axis): indices for axis, indices in entry["axes"].items()}
        if "group" in entry:
            kept = {0: entry["group"]["inputs" if entry["op"] == "ConvTranspose" else "outputs"]}
        for axis, indices in kept.items():
            size = shapes[name][axis]
            if indices and max(indices) >= size:
                raise InputError(f"the map keeps slice {max(indices)} of `{name}`, which has {size} along axis {axis}")
            gone = torch.ones(size, dtype=torch.bool)
            gone[indices] = False
            before = closed.setdefault(name, {}).get(axis)
            closed[name][axis] = gone if before is None else before & gone
    return closed


@torch.no_grad()
def _whole_units(
    network: nn.Module, closed: Mapping[str, Mapping[int, Tensor]], coupling: Coupling
) -> dict[str, dict[int, Tensor]]:
    """What of the closed slices can be cut: units of which all slices are closed. The others become zero, in place."""
    places = [
        (name, axis, mask, coupling.axes.get(name, {}).get(axis, torch.zeros(len(mask), dtype=torch.long)))
        for name, axes in closed.items()
        for axis, mask in axes.items()
    ]
    stay = {0, *(unit for _, _, mask, units in places for unit in units[~mask].tolist())}
    found: dict[str, dict[int, Tensor]] = {}
    for name, axis, mask, units in places:
        whole = mask & torch.tensor([unit not in stay for unit in units.tolist()])
        if whole.any():
            found.setdefault(name, {})[axis] = whole
        parameter = network.get_parameter(name)
        parameter.index_fill_(axis, (mask & ~whole).nonzero()[:, 0].to(parameter.device), 0)
    return found


def _absorb(network: nn.Module, mapping: Mapping[str, Any], coupling: Coupling) -> None:
    """Put constants that vanish into the layers that read them, in place."""
    layers = {
        entry["node"]: entry["source"]
        for entry in mapping["weights"]
        if entry["input"] == 1 and entry["source"] in coupling.shapes
    }
    for item in mapping["absorbed"]:
        if item["into"] == "nothing":
            continue
        name = layers.get(item["node"])
        if name is None:
            raise InputError(
                f"constants were absorbed by {item['node']}, which is no layer of the network",
                cure="close these units with gates instead, so that they are zero",
            )
        weight = network.get_parameter(name).data
        rows = weight.flatten(2).sum(2) if weight.dim() > 2 else weight  # [out, in]
        values = torch.tensor(item["values"], dtype=weight.dtype, device=weight.device)
        if item["into"] == "carrier":
            ratio = (values / item["carried_value"]).view(1, -1, *[1] * (weight.dim() - 2))
            weight[:, item["carrier"]] += (weight[:, item["slices"]] * ratio).sum(1)
        else:
            _shift(network, name, rows[:, item["slices"]] @ values, coupling)
            weight[:, item["slices"]] = 0


def _shift(network: nn.Module, weight: str, amount: Tensor, coupling: Coupling) -> None:
    """Add a constant to each output of a layer: in its bias, or the mean of the BatchNorm that alone reads it."""
    owner, _, _ = weight.rpartition(".")
    layer = network.get_submodule(owner)
    if getattr(layer, "bias", None) is not None:
        layer.bias.data += amount  # type: ignore[operator]
        return
    behind = coupling.normalized.get(weight)
    if behind is None:
        layer.register_parameter("bias", nn.Parameter(amount))
    else:
        network.get_buffer(behind).sub_(amount)


def _restore(
    network: fx.GraphModule,
    mapping: Mapping[str, Any],
    coupling: Coupling,
    closed: Mapping[str, Mapping[int, Tensor]],
) -> None:
    """Give the layers of a cut network the weights and biases that the map writes down for them, in place."""
    names = {name for name, _ in network.named_parameters()}
    entries = {(entry["node"], entry["input"]): entry for entry in mapping["weights"]}
    for (node, index), weight in entries.items():
        if index != 1 or weight["op"] not in LAYERS or "value" not in weight:
            continue
        name = weight["source"]
        if name not in names:
            raise InputError(
                f"the weight of {node} was repaired, and is no parameter of the network", cure="prune with --no-repair"
            )
        parameter = network.get_parameter(name).data
        here, kept = closed.get(name, {}), {int(axis): indices for axis, indices in weight["axes"].items()}
        new = _value(weight).to(parameter)
        for axis, indices in kept.items():
            new = _spread(new, axis, indices, parameter.shape[axis], here.get(axis))
        if new.shape != parameter.shape:
            raise InputError(f"`{name}` is {list(parameter.shape)} here, and {list(new.shape)} in the map of {node}")
        layer = network.get_submodule(name.rpartition(".")[0])
        along = 1 if weight["op"] == "ConvTranspose" else 0
        bias = _value(entries[node, 2]).to(parameter) if "value" in entries.get((node, 2), {}) else None
        if bias is not None and along in kept:
            bias = _spread(bias, 0, kept[along], parameter.shape[along], here.get(along))
        owner = coupling.normalized.get(name, "").rpartition(".")[0]
        if owner and f"{owner}.weight" not in mapping.get("normalizations", ()):
            _unfold(network.get_submodule(owner), layer, new, bias, along)
            continue
        parameter.copy_(new)
        if bias is not None:
            layer.register_parameter("bias", nn.Parameter(bias))


def _spread(value: Tensor, axis: int, indices: Sequence[int], size: int, closed: Tensor | None) -> Tensor:
    """An array of the map at the size that an axis has here; slices that are not in the file are zero."""
    left = torch.arange(size) if closed is None else (~closed).nonzero()[:, 0]
    places = torch.searchsorted(left, torch.tensor(indices)).to(value.device)
    shape = [size if a == axis else n for a, n in enumerate(value.shape)]
    return value.new_zeros(shape).index_copy_(axis, places, value)


def _value(entry: Mapping[str, Any]) -> Tensor:
    """The array that an entry of the map holds."""
    held = bytearray(base64.b64decode(entry["value"]["base64"]))
    return torch.frombuffer(held, dtype=getattr(torch, entry["dtype"])).reshape(entry["value"]["shape"])


def _unfold(norm: Any, layer: Any, new: Tensor, bias: Tensor | None, along: int) -> None:
    """Make a layer and the BatchNorm behind it compute what one layer with a new weight and bias does, in place.

    With scale g and deviation s, the layer W x + c is g/s W x + b in the file, b = shift + g/s (c - mean). So W becomes
    s/g times the new weight, and the mean takes the bias; a scale too small to divide by becomes s.
    """
    deviation = torch.sqrt(norm.running_var + norm.eps)
    scale, shift = norm.weight.data, norm.bias.data
    own = torch.zeros_like(shift) if layer.bias is None else layer.bias.data
    before = shift + scale / deviation * (own - norm.running_mean)
    scale[:] = torch.where(scale.abs() < TINY * deviation, deviation, scale)
    ratio = scale / deviation
    layer.weight.data.copy_(new / ratio.view([-1 if axis == along else 1 for axis in range(new.dim())]))
    norm.running_mean.copy_(own + (shift - (before if bias is None else bias)) / ratio)
