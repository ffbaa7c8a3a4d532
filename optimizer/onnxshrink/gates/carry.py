"""The way back: a network cut as `onnxshrink optimize` or `prune` cut the file that was exported from it."""

from __future__ import annotations

import base64
import copy
from collections.abc import Mapping
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
    repaired; where the file has a BatchNorm inside of its layer, they are divided by its scale.

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
    small = cut(plain, inputs, closed)
    _restore(small, mapping, coupling)
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


def _restore(network: fx.GraphModule, mapping: Mapping[str, Any], coupling: Coupling) -> None:
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
        new = _value(weight).to(parameter)
        if weight["op"] == "MatMul" or (weight["op"] == "Gemm" and not weight.get("transposed")):
            new = new.T
        if new.shape != parameter.shape:
            raise InputError(f"`{name}` is {list(parameter.shape)} here, and {list(new.shape)} in the map of {node}")
        given = entries.get((node, 2), {})
        bias = _value(given).to(parameter) if "value" in given else None
        owner = coupling.normalized.get(name, "").rpartition(".")[0]
        if owner and f"{owner}.weight" not in mapping.get("normalizations", ()):
            _unfold(
                network.get_submodule(owner), parameter, new, bias, along=1 if weight["op"] == "ConvTranspose" else 0
            )
            continue
        parameter.copy_(new)
        if bias is not None:
            layer = network.get_submodule(name.rpartition(".")[0])
            layer.register_parameter("bias", nn.Parameter(bias))


def _value(entry: Mapping[str, Any]) -> Tensor:
    """The array that an entry of the map holds."""
    held = bytearray(base64.b64decode(entry["value"]["base64"]))
    return torch.frombuffer(held, dtype=getattr(torch, entry["dtype"])).reshape(entry["value"]["shape"])


def _unfold(norm: Any, weight: Tensor, new: Tensor, bias: Tensor | None, along: int) -> None:
    """Make a layer and the BatchNorm behind it compute what one layer with a new weight and bias does, in place.

    With scale g and deviation s the layer in the file is g/s W x + b, b = shift - g mean / s. So W becomes s/g times
    the new weight, and the mean takes the bias; a scale too small to divide by becomes s.
    """
    deviation = torch.sqrt(norm.running_var + norm.eps)
    scale, shift = norm.weight.data, norm.bias.data
    before = shift - scale / deviation * norm.running_mean
    scale[:] = torch.where(scale.abs() < TINY * deviation, deviation, scale)
    ratio = scale / deviation
    weight.copy_(new / ratio.view([-1 if axis == along else 1 for axis in range(new.dim())]))
    norm.running_mean.copy_((shift - (before if bias is None else bias)) / ratio)
