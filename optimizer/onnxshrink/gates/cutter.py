"""The cutter: copies a traced graph node by node, with fewer channels (removal.py has the idea)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx import Node

from ..errors import InputError
from .attention import Attention
from .coupling import Trace, compress, handler_of
from .elementwise import ELEMENTWISE
from .layers import convolution, linear, transposed
from .left import Left
from .modes import DROPOUTS, SETTLED
from .movement import LIKE, concat, movement, spatial, stack
from .nodes import argument
from .parts import Packed, dropout, move, spread, spread_like
from .selection import Selection

aten = torch.ops.aten


class Cutter:
    """Copies a traced graph node by node, with fewer channels; the trace is only read."""

    def __init__(
        self,
        trace: Trace,
        network: nn.Module,
        closed: dict[str, dict[int, Tensor]],
        factored: Mapping[str, Tensor],
    ):
        self.trace, program, coupling = trace, trace.program, trace.coupling
        gone = {
            unit
            for name, axes in closed.items()
            for axis, mask in axes.items()
            for unit in coupling.axes.get(name, {}).get(axis, torch.zeros(0))[mask].tolist()
        } - {0}
        self.left = Left(self.trace, torch.tensor(sorted(gone), dtype=torch.long))
        self.axes = coupling.axes
        constants = {name: value for name, value in program.constants.items() if isinstance(value, Tensor)}
        self.tensors = {**constants, **dict(network.named_parameters()), **dict(network.named_buffers())}
        self.factored = {**self.tensors, **factored}
        self.training = network.training
        self.source, self.regions = program.graph, program.graph_module
        self.packing = program.call_spec.out_spec
        self.root = nn.Module()
        self.graph = fx.Graph()
        self.new: dict[Node, Any] = {}
        self.constant: dict[Node, Tensor] = {}
        self.dead: set[Node] = set()
        self.layers: dict[tuple[tuple[str, str], ...], str] = {}

    def run(self) -> fx.GraphModule:
        """Copy the graph."""
        for node in self.source.nodes:
            if node.op == "placeholder":
                if node.name not in self.trace.names:
                    self.new[node] = self.graph.placeholder(str(node.target))
            elif node.op == "get_attr":  # what runs in a mode of its own, such as without autocast, and is kept
                self.root.add_module(node.target, self.regions.get_submodule(node.target))
                self.new[node] = self.graph.get_attr(node.target)
            elif node.op == "output":
                self._output(node)
            elif node.op == "call_function":
                self._copy(node)
        module = fx.GraphModule(self.root, self.graph)
        module.graph.eliminate_dead_code()
        module.recompile()
        module.delete_all_unused_submodules()
        module.train(self.training)
        return module

    # what stays

    def sliced(self, name: str, *, constant: bool = False) -> Tensor:
        """A parameter or buffer without what goes; its value as a part of a constant may be another."""
        tensor = (self.factored if constant else self.tensors)[name].detach()
        for axis, units in self.axes.get(name, {}).items():
            tensor = tensor.index_select(axis, self.left.kept(units).nonzero()[:, 0].to(tensor.device))
        return tensor.clone()

    # copying

    def _output(self, node: Any) -> None:
        for source in node.all_input_nodes:
            if source in self.constant or source in self.dead:
                raise InputError("nothing of the network is left: an output depends on no unit that stays")
        found: Any = tuple(self._argument(node.args[0]))
        if self.packing is None:
            self.graph.output(found)
        elif self.packing.is_leaf():
            self.graph.output(found[0])
        else:
            name = self._unused("outputs")
            self.root.add_module(name, Packed(self.packing))
            self.graph.output(self.graph.call_module(name, found))

    def _argument(self, value: Any) -> Any:
        return fx.map_arg(value, self._value)

    def _value(self, node: Any) -> Node:
        """The new node of an argument; parameters and constants become attributes where they are first read."""
        if node not in self.new:
            name = self.trace.names.get(node.name)
            if name is not None:
                self.new[node] = self._attribute(name, self.sliced(name), name in self.trace.trainable)
            elif node in self.constant:
                self.new[node] = self._attribute(self._unused(f"{node.name}_constant"), self.constant[node], True)
            elif node in self.trace.passed:
                self.new[node] = self.graph.call_function(node.target, *self._argument((node.args, node.kwargs)))
            else:
                raise self._indispensable(node)
        found = self.new[node]
        assert isinstance(found, Node)
        return found

    def _unused(self, name: str) -> str:
        """A name that no tensor of the network has."""
        while name in self.tensors:
            name += "_again"
        return name

    @staticmethod
    def _indispensable(node: Node) -> InputError:
        return InputError(
            f"a branch of which nothing is left is read by an operator that cannot do without it ({node.name})",
            cure="anchor its gate, so that one unit stays",
        )

    def _attribute(self, name: str, tensor: Tensor, trainable: bool) -> Node:
        *path, leaf = name.split(".")
        owner = self._module(path)
        if trainable:
            learns = name not in self.tensors or self.tensors[name].requires_grad
            owner.register_parameter(leaf, nn.Parameter(tensor, requires_grad=learns))
        else:
            owner.register_buffer(leaf, tensor)
        return self.graph.get_attr(name)

    def _module(self, path: list[str]) -> nn.Module:
        owner = self.root
        for part in path:
            if not hasattr(owner, part):
                owner.add_module(part, nn.Module())
            owner = getattr(owner, part)
        return owner

    def _owned(self, tensors: dict[str, Any]) -> bool:
        """Whether tensors are the parameters of one layer of torch: others stay tensors, under their own names."""
        names = {field: name for field, value in tensors.items() if (name := self.trace.named(value)) is not None}
        owner, _, _ = next(iter(names.values())).rpartition(".")
        return all(name in self.trace.trainable and name == f"{owner}.{field}" for field, name in names.items())

    def _layer(self, node: Any, make: Callable[[], nn.Module], tensors: dict[str, Any]) -> None:
        """A layer as a module under the name that it had; the same module where it is used again."""
        names = {leaf: name for leaf, argument in tensors.items() if (name := self.trace.named(argument)) is not None}
        owner, _, _ = next(iter(names.values())).rpartition(".")
        target = owner if owner and type(self._module(owner.split("."))) is nn.Module else f"{node.name}_layer"
        *path, leaf = target.split(".")
        key = tuple(names.items())
        if key in self.layers:
            target = self.layers[key]
        else:
            layer, before = make(), self._module(target.split("."))
            for field, name in names.items():
                getattr(layer, field).data = self.sliced(name)
                getattr(layer, field).requires_grad_(self.tensors[name].requires_grad)
            move(before, layer)
            setattr(self._module(path), leaf, layer)
            self.layers[key] = target
        self.new[node] = self.graph.call_module(target, (self._value(node.args[0]),))

    def _copy(self, node: Any) -> None:
        if node not in self.trace.live:
            return  # such as the count of batches, which a BatchNorm keeps itself
        if node in self.trace.passed:
            return  # the last node of its chain decides whether the chain stays
        selection = self.trace.selections.get(node)
        if selection is not None and self._changed(selection.source):
            self._select(node, selection)
            return
        inputs = [n for n in node.all_input_nodes if n.name not in self.trace.names]
        tensors = [n for n in inputs if isinstance(n.meta.get("val"), Tensor | list | tuple)]
        handler = handler_of(node)
        widths = self.left.widths(node)
        lost = [n for n in tensors if n in self.dead]
        if any(not mask.any() for mask in widths.values()) or (lost and not isinstance(node.meta["val"], Tensor)):
            self.dead.add(node)
            return
        fixed = [n for n in tensors if n in self.constant]
        if tensors and len(lost) + len(fixed) == len(tensors):
            self._settle(node, handler, lost)
            return
        if handler in (concat, stack):
            parts: Any = node.args[0]
            left = [part for part in parts if part not in self.dead]
            self._joined(node, left)
            return
        tensors = [n for n in node.args[1:] if isinstance(n, Node) and isinstance(n.meta.get("val"), Tensor)]
        computed = not all(self.trace.named(n) is not None for n in tensors)
        layer = bool(tensors) and not computed and not node.meta.get(SETTLED, False)
        if layer and handler in (convolution, transposed):
            self._convolution(node)
        elif layer and handler is linear:
            self._linear(node)
        elif layer and node.target is aten.batch_norm.default:
            self._batch_norm(node)
        elif layer and node.target is aten.group_norm.default:
            self._group_norm(node)
        elif node.target in DROPOUTS and not node.meta.get(SETTLED, False):
            name = f"{node.name}_module"
            self.root.add_module(name, dropout(node))
            self.new[node] = self.graph.call_module(name, (self._value(node.args[0]),))
        elif node.target is aten.scaled_dot_product_attention.default and not node.meta.get(SETTLED, False):
            self._attention(node)
        elif node.target in LIKE:
            arguments = self._value(node.args[0]), self._shape(node, widths)
            self.new[node] = self.graph.call_function(LIKE[node.target], arguments)
        else:
            target, arguments, keywords = self.left.resized(node, widths)
            value = self._value if handler in ELEMENTWISE and self._covered(node) else self._whole
            arguments, keywords = fx.map_arg((arguments, keywords), value)
            self.new[node] = self.graph.call_function(target, arguments, keywords)

    def _covered(self, node: Any) -> bool:
        """Whether an operand that is no constant has the size of the result, so that constants are spread to it."""
        sizes = (n.meta["val"].shape for n in node.all_input_nodes if n not in self.constant)
        return any(str(size) == str(node.meta["val"].shape) for size in sizes)

    def _whole(self, node: Any) -> Node:
        """The new node of an argument, where a constant's size counts in the axes along which it does not vary."""
        if node not in self.constant:
            return self._value(node)
        sizes = []
        for axis, (size, own) in enumerate(zip(node.meta["val"].shape, self.constant[node].shape, strict=True)):
            sizes.append(self.left.width(node, axis) if isinstance(size, int) else self._open(node, size))
            if own > 1:
                sizes[-1] = own
        return self.graph.call_function(aten.expand.default, (self._value(node), sizes))

    def _open(self, node: Node, size: Any) -> Node:
        """A size that is known when the network runs only, as that of an input."""
        for place in self.source.nodes:
            if place.op == "placeholder" and place.name not in self.trace.names:
                for axis, other in enumerate(place.meta["val"].shape):
                    if str(other) == str(size):
                        return self.graph.call_function(aten.sym_size.int, (self.new[place], axis))
        raise self._indispensable(node)

    def _shape(self, node: Any, widths: dict[int, Tensor]) -> list[Any]:
        """The shape of a node that has another's, after the cut; open axes are read from that other."""
        other = node.args[1]
        return [
            int(widths[axis].sum())
            if axis in widths
            else size
            if isinstance(size, int)
            else self.graph.call_function(aten.sym_size.int, (self._value(other), axis))
            for axis, size in enumerate(node.meta["val"].shape)
        ]

    def _changed(self, node: Node) -> bool:
        return node in self.dead or node in self.constant or bool(self.left.widths(node))

    def _select(self, node: Node, selection: Selection) -> None:
        """What is left of a selection: where it finds among what stays the slices that stay."""
        source, axis, index = selection.source, selection.axis, selection.index
        mask = self.left.widths(source).get(axis)
        if mask is not None:
            index = (mask.cumsum(0) - 1)[index[mask[index]]]
        if source in self.dead or not len(index):
            self.dead.add(node)
        elif source in self.constant:
            value = self.constant[source]
            wide = value.shape[axis] > 1
            self.constant[node] = value.index_select(axis, index.to(value.device)) if wide else value
        elif torch.equal(index, torch.arange(self.left.width(source, axis))):
            self.new[node] = self._value(source)
        else:
            places = self._attribute(self._unused(f"{node.name}_index"), index, False)
            self.new[node] = self.graph.call_function(torch.index_select, (self._value(source), axis, places))

    def _joined(self, node: Any, parts: list[Node]) -> None:
        """What is left in a row, or side by side; a constant part is spread to the size of the others."""
        values = [self._value(part) for part in parts]
        stacked, axis = node.target is aten.stack.default, int(argument(node, 1, "dim", 0))
        if len(values) == 1 and not stacked:
            self.new[node] = values[0]
            return
        like = next(v for part, v in zip(parts, values, strict=True) if part not in self.constant)
        values = [
            self.graph.call_function(spread_like, (v, like, None if stacked else axis)) if part in self.constant else v
            for part, v in zip(parts, values, strict=True)
        ]
        self.new[node] = self.graph.call_function(torch.stack if stacked else torch.cat, (values, axis))

    def _settle(self, node: Any, handler: Any, lost: list[Node]) -> None:
        """What reads nothing that is left is a constant: the bias, shifted and activated as the network does."""
        if not isinstance(node.meta["val"], Tensor):
            raise self._indispensable(node)
        rank = node.meta["val"].dim()
        column = [1] * rank
        if handler in (convolution, transposed, linear):
            if not lost:
                raise self._indispensable(node)  # a constant plane is uneven behind a padded or transposed layer
            bias = self.trace.named(node.args[2]) if len(node.args) > 2 else None
            dims = 0 if handler is linear else len(self.trace.shapes[self._name(node.args[1])]) - 2
            axis = rank - dims - 1  # without a batch, channels come first
            column[axis] = -1
            if bias is not None:
                value = self.sliced(bias, constant=True)
            else:
                value = self.tensors[self._name(node.args[1])].new_zeros(self.left.width(node, axis))
            self.constant[node] = value.reshape(column)
        elif lost:
            self.dead.add(node)
        elif node.target is aten.batch_norm.default:
            x, *tensors = node.args[:5]
            scale, shift, mean, variance = (None if n is None else self._known(n) for n in tensors)
            known = self.constant[x]
            whole = known.expand(known.shape[0], self.left.width(node, 1), *known.shape[2:])
            settled = nn.functional.batch_norm(whole, mean, variance, scale, shift, eps=float(node.args[7]))
            self.constant[node] = settled
        elif node.target in DROPOUTS or handler is spatial:
            self.constant[node] = self.constant[node.args[0]]
        elif handler in ELEMENTWISE:
            arguments = fx.map_arg(node.args, self._known)
            self.constant[node] = node.target(*arguments, **node.kwargs)
        elif handler is movement:
            target, arguments, keywords = self.left.resized(node, self.left.widths(node))
            x, *rest = fx.map_arg(arguments, lambda n: self._known(n) if n in self.constant else int(n.meta["val"]))
            source: Any = node.args[0]
            sizes = [int(size) for size in source.meta["val"].shape]
            for axis, mask in self.left.widths(source).items():
                sizes[axis] = int(mask.sum())
            self.constant[node] = compress(target(x.expand(sizes).contiguous(), *rest, **keywords))
        else:
            raise self._indispensable(node)

    def _known(self, node: Any) -> Tensor:
        """The value of a constant or a parameter."""
        return self.constant[node] if node in self.constant else self.sliced(self._name(node), constant=True)

    def _name(self, node: Any) -> str:
        name = self.trace.named(node)
        assert name is not None
        return name

    def _convolution(self, node: Any) -> None:
        transposed = "transpose" in str(node.target)
        defaults: tuple[Any, ...] = (None, 1, 0, 0, 1, 1) if transposed else (None, 1, 0, 1, 1)
        bias, stride, padding, *rest = tuple(node.args[2:]) + defaults[len(node.args) - 2 :]
        extra, groups, dilation = rest if transposed else (0, rest[1], rest[0])
        weight: Any = node.args[1]
        cut = self.sliced(self._name(weight))
        dims = cut.dim() - 2
        width = self.left.width(node.args[0], node.meta["val"].dim() - dims - 1)
        if not transposed:
            groups = width // cut.shape[1]
        elif groups == weight.meta["val"].shape[0]:
            groups = width
        stride, dilation, extra = (spread(value, dims) for value in (stride, dilation, extra))
        padding = padding if isinstance(padding, str) else spread(padding, dims)
        named = {"weight": weight, "bias": bias}
        if not self._owned(named):
            ends = (extra, groups, dilation) if transposed else (dilation, groups)
            arguments = self._argument((node.args[0], weight, bias, stride, padding, *ends))
            self.new[node] = self.graph.call_function(node.target, arguments)
            return
        out = cut.shape[1] * groups if transposed else cut.shape[0]
        kind = getattr(nn, f"Conv{'Transpose' if transposed else ''}{dims}d")
        options = {
            "kernel_size": tuple(cut.shape[2:]),
            "stride": stride,
            "padding": padding,
            "dilation": dilation,
            "groups": groups,
            "bias": bias is not None,
            **({"output_padding": extra} if transposed else {}),
        }
        self._layer(node, lambda: kind(width, out, **options), named)

    def _linear(self, node: Any) -> None:
        out, into = self.sliced(self._name(node.args[1])).shape
        named = {"weight": node.args[1], "bias": argument(node, 2, "bias")}
        if not self._owned(named):
            self.new[node] = self.graph.call_function(node.target, self._argument(node.args))
            return
        self._layer(node, lambda: nn.Linear(into, out, bias=named["bias"] is not None), named)

    def _batch_norm(self, node: Any) -> None:
        scale, shift, mean, variance, _, momentum, epsilon, *_ = node.args[1:]
        width = self.left.width(node, 1)
        kind = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}[node.meta["val"].dim()]
        named = {"weight": scale, "bias": shift, "running_mean": mean, "running_var": variance}
        given = {"affine": scale is not None, "track_running_stats": mean is not None}
        self._layer(node, lambda: kind(width, eps=epsilon, momentum=momentum, **given), named)

    def _group_norm(self, node: Any) -> None:
        groups, scale, shift = node.args[1:4]
        channels, width = self.trace.shapes[self._name(scale)][0], self.sliced(self._name(scale)).numel()
        epsilon, left = float(argument(node, 4, "eps", 1e-5)), groups * width // channels
        named = {"weight": scale, "bias": shift}
        self._layer(node, lambda: nn.GroupNorm(left, width, epsilon), named)

    def _attention(self, node: Any) -> None:
        defaults: tuple[Any, ...] = (None, 0.0, False)
        q, k, v, mask, rate, causal, *_ = tuple(node.args) + defaults[len(node.args) - 3 :]
        name = f"{node.name}_module"
        scale, shared = node.kwargs.get("scale"), bool(node.kwargs.get("enable_gqa"))
        self.root.add_module(name, Attention(float(rate), bool(causal), scale, shared))
        arguments = self._argument((q, k, v) if mask is None else (q, k, v, mask))
        self.new[node] = self.graph.call_module(name, arguments)
