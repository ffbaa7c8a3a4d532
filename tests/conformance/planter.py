"""Plants channels and attention heads in torch modules, and says by how much each layer must shrink.

Nothing here knows the optimizer: what can go follows from the structure of the network, which the caller describes.
A channel is *zero* (its producers write nothing), *constant* (its producers write one value), or *unread* (no consumer
has a weight for it). The names of modules survive into both kinds of export, so widths are read from the ONNX files by
module.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
import torch
from onnx import ModelProto, numpy_helper
from torch import nn

CONTRACTIONS = ("Conv", "Gemm", "MatMul")


@dataclass(frozen=True)
class Layer:
    """A contraction by module name, with the normalization behind it that may take part in what it writes."""

    name: str
    norm: str = ""


@dataclass
class Width:
    """One side of a layer: channels before, how many carry nothing, and how many of these a cut can remove."""

    before: int
    planted: int = 0
    removable: int = 0


@dataclass
class Planter:
    """A module under preparation.

    `widths` collects what was planted, by (module, side); `dead` weights that nobody can see any more, as (module,
    side, slices), which `noise` puts to the test.
    """

    module: nn.Module
    seed: int = 0
    widths: dict[tuple[str, str], Width] = field(default_factory=dict)
    dead: list[tuple[str, str, list[int]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        self._taken: dict[str, set[int]] = {}
        self._randomize()

    def _randomize(self) -> None:
        """Weights that keep activations near one, and no value that two parameters share by accident."""
        generator = torch.Generator().manual_seed(self.seed)

        def normal(tensor: torch.Tensor, scale: float) -> None:
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * scale)

        def spread(tensor: torch.Tensor) -> None:
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)

        with torch.no_grad():
            for name, tensor in [*self.module.named_parameters(), *self.module.named_buffers()]:
                leaf = name.rsplit(".", 1)[-1]
                if not tensor.is_floating_point():
                    continue
                if leaf in ("running_var", "original0", "layer_scale_parameter") or (
                    leaf == "weight" and tensor.ndim == 1
                ):
                    spread(tensor)
                elif isinstance(
                    self.module.get_submodule(name.rsplit(".", 1)[0]) if "." in name else None, nn.Embedding
                ):
                    normal(tensor, 1.0)
                elif tensor.ndim < 2:
                    normal(tensor, 0.3)
                else:
                    normal(tensor, float(np.prod(tensor.shape[1:])) ** -0.5)

    # what is planted

    def channels(
        self,
        kind: str,
        count: int,
        producers: Sequence[Layer],
        consumers: Sequence[str],
        *,
        follow: Sequence[str] = (),
        stay: int = 0,
        among: Sequence[int] | None = None,
    ) -> None:
        """Plant `count` channels of a tensor that `producers` write (as addends) and `consumers` read.

        Args:
            kind: "zero", "constant" or "unread".
            follow: layers between the two that have one filter for each channel.
            stay: how many of them no consistent cut can remove.
            among: where to plant; anywhere unless told.
        """
        index = self._pick([*(layer.name for layer in producers), *follow], count, among)
        if kind == "unread":
            for name in consumers:
                self._unread(name, index)
            self.dead += [(layer.name, "out", index) for layer in producers]
        else:
            for layer in producers:
                self._silence(layer, index, constant=kind == "constant")
            self.dead += [(layer.name, "out", index) for layer in producers if layer.norm]
        if kind == "zero" and not follow:  # a layer between may make another value of it
            self.dead += [(name, "in", index) for name in consumers]
        gone = count - stay
        self._count(producers[0].name, "out", count, gone)
        for name in (*(layer.name for layer in producers[1:]), *follow):
            self._count(name, "out", count, gone)
        for name in consumers:
            self._count(name, "in", count, gone)

    def partial(self, producers: Sequence[Layer]) -> None:
        """Plant one channel in the first of several addends only: it must stay."""
        index = self._pick([layer.name for layer in producers], 1)
        self._silence(producers[0], index, constant=False)
        self._count(producers[0].name, "out", 1, 0)

    def attention(
        self,
        query: str,
        key: str,
        value: str,
        output: str,
        heads: int,
        *,
        zero: Sequence[int] = (),
        constant: Sequence[int] = (),
        unread: Sequence[int] = (),
        uniform: Sequence[int] = (),
        value_dims: Sequence[int] = (),
        score_dims: Sequence[int] = (),
        constant_stays: bool = False,
    ) -> None:
        """Plant in one attention whose heads are runs of equal length.

        A head is dead if its value rows are zero or its columns in the output projection are: then its query and key
        rows go too. If the value rows are constant the head is, because weights sum to one; not so where a row of the
        mask may be empty (`constant_stays`). A head whose query rows are zero attends uniformly and must stay. An
        inner dimension goes if it is dead in every head.

        Args:
            zero, constant, unread, uniform: heads, by index.
            value_dims, score_dims: inner dimensions that are zero in the value, or the query, of every head.
        """
        length = self._size(value) // heads

        def rows(chosen: Iterable[int]) -> list[int]:
            return [head * length + i for head in chosen for i in range(length)]

        def across(dims: Iterable[int]) -> list[int]:
            return [head * length + i for head in range(heads) for i in dims]

        self._silence(Layer(value), rows(constant), constant=True)
        self._silence(Layer(value), [*rows(zero), *across(value_dims)], constant=False)
        self._unread(output, rows(unread))
        self._silence(Layer(query), [*rows(uniform), *across(score_dims)], constant=False)
        dead = [*zero, *unread, *(() if constant_stays else constant)]
        self.dead += [(query, "out", rows(dead)), (key, "out", rows(dead)), (key, "out", across(score_dims))]
        seen = [i for i in across(value_dims) if i // length not in unread]
        self.dead += [(value, "out", rows(unread)), (output, "in", [*rows(zero), *seen])]
        whole, left = len(dead) * length, heads - len(dead)
        stays = len(constant) * length if constant_stays else 0
        for name, side, dims, idle in (
            (value, "out", len(value_dims), stays),
            (output, "in", len(value_dims), stays),
            (query, "out", len(score_dims), len(uniform) * length),
            (key, "out", len(score_dims), 0),
        ):
            self._count(name, side, whole + left * dims + idle, whole + left * dims)

    def noise(self) -> int:
        """Put noise into all dead weights; returns how many were changed."""
        changed = 0
        with torch.no_grad():
            for name, side, index in self.dead:
                weight = self._weight(name)
                part = weight[index] if side == "out" else weight[:, index]
                noisy = part + torch.from_numpy(self.rng.normal(0, 2, tuple(part.shape))).float()
                if side == "out":
                    weight[index] = noisy
                else:
                    weight[:, index] = noisy
                changed += part.numel()
        return changed

    # the weights

    def _pick(self, owners: Sequence[str], count: int, among: Sequence[int] | None = None) -> list[int]:
        """Channels of a tensor in which nothing was planted yet; `owners` are the layers that have them as filters."""
        taken = set().union(*(self._taken.setdefault(owner, set()) for owner in owners))
        places = self.rng.permutation(self._size(owners[0]) if among is None else list(among))
        free = [int(i) for i in places if int(i) not in taken]
        assert len(free) >= count, f"{owners[0]} has no {count} channels left"
        for owner in owners:
            self._taken[owner].update(free[:count])
        return sorted(free[:count])

    def _size(self, name: str) -> int:
        return int(self._weight(name).shape[0])

    def _weight(self, name: str) -> torch.Tensor:
        weight = self.module.get_submodule(name).weight
        assert isinstance(weight, torch.Tensor)
        return weight

    def _silence(self, layer: Layer, index: list[int], *, constant: bool) -> None:
        """Rows without weights: at the normalization if there is one, otherwise at the layer itself."""
        module = self.module.get_submodule(layer.norm or layer.name)
        with torch.no_grad():
            module.weight[index] = 0
            values = torch.from_numpy(self.rng.uniform(0.5, 1.5, len(index))).float() if constant else 0.0
            if module.bias is not None:
                module.bias[index] = values
            else:
                assert not constant, f"{layer.name} has no bias to be constant with"

    def _unread(self, name: str, index: list[int]) -> None:
        with torch.no_grad():
            self._weight(name)[:, index] = 0

    def _count(self, name: str, side: str, planted: int, removable: int) -> None:
        module, weight = self.module.get_submodule(name), self._weight(name)
        before = weight.shape[0] if side == "out" else weight.shape[1] * getattr(module, "groups", 1)
        width = self.widths.setdefault((name, side), Width(int(before)))
        width.planted += planted
        width.removable += removable


# --- widths in an ONNX file


def layers(model: ModelProto) -> dict[str, list[str]]:
    """Outputs of the contractions that belong to each torch module, by the module's name."""
    found: dict[str, list[str]] = {}
    for node in model.graph.node:
        if node.op_type in CONTRACTIONS:
            for name in _modules(node):
                found.setdefault(name, []).append(node.output[0])
    return found


def _modules(node: onnx.NodeProto) -> set[str]:
    """Names of the modules that a node comes from, outermost wrapper removed.

    The dynamo exporter writes scopes as metadata; where it fused a normalization the scope is the normalization's, and
    the weight has the layer's name. The TorchScript exporter writes scopes into the node's name.
    """
    metadata = {entry.key: entry.value for entry in node.metadata_props}
    scopes = metadata.get("pkg.torch.onnx.name_scopes")
    if scopes is not None:
        weight = node.input[1].removesuffix(".weight") if node.input[1].endswith(".weight") else ""
        innermost = ast.literal_eval(scopes)[-2]
        return {(weight or innermost).removeprefix("model.")}
    parts = [part for part in node.name.split("/") if part][:-1]
    path: list[str] = []
    for part in parts:
        if path and part.startswith(path[-1] + "."):  # a container that is called, then its child
            path[-1] = part
        else:
            path.append(part)
    return {".".join(path).removeprefix("model.")}


def width(model: ModelProto, output: str, side: str) -> int:
    """Channels on one side of the contraction that writes `output`; 0 if the model has none."""
    producers = {name: node for node in model.graph.node for name in node.output}
    node = producers.get(output)
    if node is None or node.op_type not in CONTRACTIONS:
        return 0
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    shape = _shape(model, node.input[1], producers)
    if node.op_type == "Conv":
        return int(shape[0] if side == "out" else shape[1] * attributes.get("group", 1))
    rows, columns = shape[-2:]
    if attributes.get("transB", 0):
        rows, columns = columns, rows
    return int(columns if side == "out" else rows)


def _shape(model: ModelProto, name: str, producers: dict[str, onnx.NodeProto]) -> tuple[int, ...]:
    """The shape of a weight: an initializer, a Constant, or either of them by another name."""
    for tensor in model.graph.initializer:
        if tensor.name == name:
            return tuple(tensor.dims)
    node = producers[name]
    if node.op_type == "Identity":
        return _shape(model, node.input[0], producers)
    assert node.op_type == "Constant", f"{name} is no weight"
    return tuple(numpy_helper.to_array(node.attribute[0].t).shape)
