"""The way back: a network cut as `onnxshrink optimize` cut the file that was exported from it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from ..errors import InputError
from .augment import Gated, folded
from .coupling import Coupling, couple
from .removal import cut

VERSION = 1


def apply(network: nn.Module, mapping: Mapping[str, Any], example: Tensor | tuple[Tensor, ...]) -> fx.GraphModule:
    """Cut a network by the map of its exported file, to train it on and export it again.

    In evaluation it computes what the optimized file computes. Constants that the file absorbed go where they went
    there: into the bias of the layer that read them, or the mean of the BatchNorm behind it.

    Args:
        network: what was exported, with its gates or folded; it is left as it is.
        mapping: what `onnxshrink optimize --map` wrote, as read from JSON.
        example: inputs to trace with, with a batch of at least 2.

    Raises:
        InputError: the map has another version, none of its weights is a parameter of the network, or sizes differ.
    """
    if mapping.get("version") != VERSION:
        raise InputError(f"this is a map of version {mapping.get('version')}, expected {VERSION}")
    inputs = example if isinstance(example, tuple) else (example,)
    plain = folded(network) if isinstance(network, Gated) else copy.deepcopy(network)
    closed = closed_by(mapping, {name: tuple(p.shape) for name, p in plain.named_parameters()})
    _absorb(plain, mapping, couple(plain, inputs))
    return cut(plain, inputs, closed)


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
