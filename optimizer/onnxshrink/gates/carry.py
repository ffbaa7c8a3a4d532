"""The way back: a network cut as `onnxshrink optimize` or `prune` cut the file that was exported from it."""

from __future__ import annotations

import base64
import copy
import warnings
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from ..errors import InputError
from .augment import Gated, folded
from .coupling import Coupling, couple
from .export import TRANSPOSED
from .removal import cut
from .trace import inputs_of

VERSION = 2
CLOSE = "close these units with gates instead, so that they are zero"
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
        InputError: the map has another version or no weights, none of them is a parameter of the network, sizes
            differ, or parameters are shared or equal, so that no parameter can be what the file's constants are.

    Warns:
        UserWarning: weights of layers that the map makes smaller are not the network's.
    """
    if mapping.get("version") != VERSION:
        raise InputError(f"this is a map of version {mapping.get('version')}, expected {VERSION}")
    if "weights" not in mapping:
        raise InputError("this map has no weights", cure="give what --map wrote, as json.load reads it")
    inputs = inputs_of(example)
    plain = folded(network) if isinstance(network, Gated) else copy.deepcopy(network)
    shapes = {name: tuple(p.shape) for name, p in plain.named_parameters()}
    names = _names(plain)
    mapping = {**mapping, "weights": [_of_parameter(entry, names) for entry in mapping["weights"]]}
    mapping = _without_twins(mapping, plain)
    closed = closed_by(mapping, shapes)
    _tell_strangers(mapping, {*shapes, *dict(plain.named_buffers())})
    coupling = couple(plain, inputs)
    _keep_shared(closed, mapping, coupling)
    _close_gone(closed, {names[name] for name in map(_plainly, mapping.get("gone", ())) if name in names}, coupling)
    _absorb(plain, mapping, coupling)
    closed = _whole_units(plain, closed, coupling)
    small = cut(plain, inputs, closed)
    _restore(small, mapping, coupling, closed)
    return small


def _names(network: nn.Module) -> dict[str, str]:
    """For each name of a parameter, of which shared ones have several, the one that it goes by."""
    first = {id(parameter): name for name, parameter in network.named_parameters()}
    return {name: first[id(parameter)] for name, parameter in network.named_parameters(remove_duplicate=False)}


def _of_parameter(entry: Mapping[str, Any], names: Mapping[str, str]) -> Mapping[str, Any]:
    """An entry as its parameter has it: `gates.export` names a weight that the file holds transposed `NAME.T`."""
    source = entry["source"] or ""
    if source in names:
        return {**entry, "source": names[source]}
    name = _plainly(source)
    if name not in names:
        return entry
    turned = {str(1 - int(axis)): indices for axis, indices in entry["axes"].items()}
    return {**entry, "source": names[name], "axes": turned, "turned": True}


def _plainly(constant: str) -> str:
    """The name of the parameter that a constant of the file is, which may be transposed there."""
    return constant.removesuffix(TRANSPOSED)


def _tell_strangers(mapping: Mapping[str, Any], known: Collection[str]) -> None:
    """Warn of layers that the file has smaller, and whose weights the network does not have."""
    layers = [entry for entry in mapping["weights"] if _multiplies(entry) and entry["axes"]]
    strangers = [str(entry["source"]) for entry in layers if entry["source"] not in known]
    if strangers:
        warnings.warn(
            f"{len(strangers)} of {len(layers)} layers that the map makes smaller have weights that are not the "
            f"network's, such as {strangers[0]}: what they lose stays, as zeros; gates.export keeps the names",
            stacklevel=3,
        )


def _multiplies(entry: Mapping[str, Any]) -> bool:
    """Whether an entry is of the weight of a convolution or a product."""
    return entry["op"] in LAYERS and entry["input"] == 1


def _is_layer(entry: Mapping[str, Any]) -> bool:
    """Whether an entry is of the weight of a layer, embeddings included."""
    return _multiplies(entry) or (entry["op"] == "Gather" and entry["input"] == 0)


def _without_twins(mapping: Mapping[str, Any], network: nn.Module) -> Mapping[str, Any]:
    """The map without entries that may be another parameter's: exporters write small equal constants once.

    What is lost of a bias, the weight beside it says.

    Raises:
        InputError: a weight, or a bias that `prune` repaired, may be another parameter's.
    """
    parameters = dict(network.named_parameters())
    named = {entry["source"] for entry in mapping["weights"]}
    twin_of: dict[str, str | None] = {}
    for name in named & parameters.keys():
        own = parameters[name]
        twins = (
            n for n, p in parameters.items() if n not in named and p.shape == own.shape and bool(torch.equal(p, own))
        )
        twin_of[name] = next(twins, None)
    for entry in mapping["weights"]:
        twin = twin_of.get(entry["source"])
        if twin is not None and (_is_layer(entry) or _repaired(entry, mapping)):
            raise InputError(
                f"`{entry['source']}` and `{twin}` are equal: the map does not say which of them {entry['node']} reads",
                cure="train the network first, or make them differ",
            )
    return {**mapping, "weights": [entry for entry in mapping["weights"] if twin_of.get(entry["source"]) is None]}


def _keep_shared(closed: dict[str, dict[int, Tensor]], mapping: Mapping[str, Any], coupling: Coupling) -> None:
    """Keep parameters that several operators share, and that the file has whole for one of them, in place.

    Raises:
        InputError: `prune` cut such a weight otherwise for each layer, or an absorbed constant changes one of them.
    """
    layers: dict[str, list[Mapping[str, Any]]] = {}
    readers = Counter(name for name, _ in {(entry["source"], entry["node"]) for entry in mapping["weights"]})
    for name, uses in coupling.uses.items():
        if name in closed and readers[name] < uses:
            closed[name] = {axis: torch.zeros_like(mask) for axis, mask in closed[name].items()}
    for entry in mapping["weights"]:
        if _is_layer(entry):
            layers.setdefault(entry["source"], []).append(entry)
    absorbing = {item["node"] for item in mapping["absorbed"] if item["into"] != "nothing"}
    for name, uses in Counter(name for name, _ in coupling.layers).items():
        entries = layers.get(name, [])
        if uses == 1 or not entries:
            continue
        whole = len(entries) < uses
        cuts = [(entry["axes"], entry.get("value")) for entry in entries]
        if _pruned(mapping) and (whole or any(cut != cuts[0] for cut in cuts)):
            raise InputError(
                f"`{name}` is the weight of {uses} layers, and the file has it pruned otherwise for each of them",
                cure="give each layer a weight of its own, or choose the units with gates",
            )
        if any(entry["node"] in absorbing for entry in entries):
            raise InputError(
                f"constants were absorbed by {entries[0]['node']}, whose weight `{name}` is that of {uses} layers",
                cure=CLOSE,
            )


def closed_by(mapping: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, dict[int, Tensor]]:
    """For each parameter: axis -> bool [n], the slices that the map says are gone.

    Raises:
        InputError: nothing of the map belongs to the network, or a parameter has another size than the map says.
    """
    closed: dict[str, dict[int, Tensor]] = {}
    own = [entry for entry in mapping["weights"] if not (entry["source"] or "").endswith("@known")]
    entries = [entry for entry in own if entry["source"] in shapes]
    if own and not entries:
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


def _close_gone(closed: dict[str, dict[int, Tensor]], gone: Collection[str], coupling: Coupling) -> None:
    """Close what layers that the file does not have make and read, in place, as far as no other layer does either.

    Such are the inner units of a branch of which nothing is left.
    """
    weights = {name for name, _ in coupling.layers}
    stay = {0}
    for name in weights - set(gone):
        for axis, units in coupling.axes.get(name, {}).items():
            mask = closed.get(name, {}).get(axis, torch.zeros(len(units), dtype=torch.bool))
            stay.update(units[~mask].tolist())
    for name in weights & set(gone):
        for axis, units in coupling.axes.get(name, {}).items():
            closed.setdefault(name, {})[axis] = torch.tensor([unit not in stay for unit in units.tolist()])


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
    parameters = dict(network.named_parameters())
    layers = {
        entry["node"]: entry for entry in mapping["weights"] if entry["input"] == 1 and entry["source"] in parameters
    }
    for item in mapping["absorbed"]:
        if item["into"] == "nothing":
            continue
        entry = layers.get(item["node"])
        if entry is None:
            raise InputError(
                f"constants were absorbed by {item['node']}, whose weight is no parameter of the network", cure=CLOSE
            )
        weight = _inputs_first(parameters[entry["source"]].data, entry)
        values = torch.tensor(item["values"], dtype=weight.dtype, device=weight.device)
        added = weight.new_zeros(weight.shape[0], weight.shape[2])
        for slice_, value in zip(item["slices"], values, strict=True):
            group, place = divmod(slice_, weight.shape[1])
            if item["into"] == "carrier":
                weight[group, item["carrier"] % weight.shape[1]] += weight[group, place] * value / item["carried_value"]
            else:
                added[group] += weight[group, place].reshape(weight.shape[2], -1).sum(1) * value
            weight[group, place] = 0  # also where the slice is coupled with others here, and stays
        if item["into"] == "bias":
            _shift(network, item["node"], entry["source"], added.flatten(), coupling)


def _inputs_first(weight: Tensor, entry: Mapping[str, Any]) -> Tensor:
    """The weight of a layer as [groups, inputs of a group, outputs of a group, ...], a view."""
    groups = entry["group"]["before"] if "group" in entry else 1
    grouped = weight.unflatten(0, (groups, -1))
    turned = bool(entry.get("transposed")) != bool(
        entry.get("turned")
    )  # [outputs, inputs], where a product has them so
    product_first = entry["op"] == "ConvTranspose" or (entry["op"] != "Conv" and not turned)
    return grouped if product_first else grouped.transpose(1, 2)


def _layer_of(network: nn.Module, weight: str, what: str, cure: str) -> Any:
    """The layer of torch whose weight a parameter is.

    Raises:
        InputError: it is that of a function in a module's own code, which has no place for another bias.
    """
    owner, _, leaf = weight.rpartition(".")
    layer = network.get_submodule(owner)
    if leaf != "weight" or not isinstance(layer, nn.Linear | nn.modules.conv._ConvNd):
        raise InputError(f"{what}, whose weight `{weight}` is that of no layer of torch", cure=cure)
    return layer


def _shift(network: nn.Module, node: str, weight: str, amount: Tensor, coupling: Coupling) -> None:
    """Add a constant to each output of a layer: in its bias, or the mean of the BatchNorm that alone reads it."""
    layer = _layer_of(network, weight, f"constants were absorbed by {node}", CLOSE)
    if layer.bias is not None:
        layer.bias.data += amount
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
    for (node, _), weight in entries.items():
        layer_weight = _multiplies(weight)
        if not (_repaired(weight, mapping) or (layer_weight and "value" in weight)):
            continue
        name = weight["source"]
        if name not in names:
            raise InputError(
                f"{'the weight of ' if layer_weight else ''}{node} was repaired, and is no parameter of the network",
                cure="prune with --no-repair",
            )
        parameter = network.get_parameter(name).data
        here, kept = closed.get(name, {}), {int(axis): indices for axis, indices in weight["axes"].items()}
        new = _value(weight).to(parameter)
        for axis, indices in kept.items():
            new = _spread(new, axis, indices, parameter.shape[axis], here.get(axis))
        if new.shape != parameter.shape:
            raise InputError(f"`{name}` is {list(parameter.shape)} here, and {list(new.shape)} in the map of {node}")
        if not layer_weight:
            parameter.copy_(new)
            continue
        along = 1 if weight["op"] == "ConvTranspose" else 0
        bias = _value(entries[node, 2]).to(parameter) if "value" in entries.get((node, 2), {}) else None
        if bias is not None and along in kept:
            bias = _spread(bias, 0, kept[along], parameter.shape[along], here.get(along))
        owner = coupling.normalized.get(name, "").rpartition(".")[0]
        folded = bool(owner) and f"{owner}.weight" not in mapping.get("normalizations", ())
        own = entries.get((node, 2), {}).get("source")
        if not folded:
            parameter.copy_(new)
        if folded:
            layer = _layer_of(network, name, f"{node} was repaired", "prune with --no-repair")
            _unfold(network.get_submodule(owner), layer, new, bias, along)
        elif bias is not None and own in names:
            network.get_parameter(own).data.copy_(bias)
        elif bias is not None:
            layer = _layer_of(network, name, f"{node} was repaired", "prune with --no-repair")
            layer.register_parameter("bias", nn.Parameter(bias))


def _pruned(mapping: Mapping[str, Any]) -> bool:
    """Whether a map is of `prune`: its cut is no mere matter of what is dead."""
    return "normalizations" in mapping


def _repaired(entry: Mapping[str, Any], mapping: Mapping[str, Any]) -> bool:
    """Whether what a node adds is the bias of a layer that `prune` repaired, and nothing that the network computes."""
    named = entry["source"] is not None and not entry["source"].endswith("@known")
    repaired = _pruned(mapping) and "value" in entry and entry["dtype"].startswith("float")
    return entry["op"] == "Add" and named and repaired


def _spread(value: Tensor, axis: int, indices: Sequence[int], size: int, closed: Tensor | None) -> Tensor:
    """An array of the map at the size that an axis has here; slices that are not in the file are zero."""
    left = torch.arange(size) if closed is None else (~closed).nonzero()[:, 0]
    places = torch.searchsorted(left, torch.tensor(indices)).to(value.device)
    shape = [size if a == axis else n for a, n in enumerate(value.shape)]
    return value.new_zeros(shape).index_copy_(axis, places, value)


def _value(entry: Mapping[str, Any]) -> Tensor:
    """The array that an entry of the map holds, as its parameter has it."""
    held = bytearray(base64.b64decode(entry["value"]["base64"]))
    array = torch.frombuffer(held, dtype=getattr(torch, entry["dtype"])).reshape(entry["value"]["shape"])
    return array.T if entry.get("turned") else array


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
