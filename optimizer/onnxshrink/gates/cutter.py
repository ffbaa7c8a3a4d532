"""The cutter: copies a traced graph node by node, with fewer channels (removal.py has the idea)."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx import Node
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm

from ..errors import InputError
from .attention import attention_of
from .coupling import Trace, handler_of
from .elementwise import ELEMENTWISE
from .labels import compress, shape_of
from .layers import convolution, linear, transposed
from .left import Left
from .modes import DROPOUTS, SETTLED
from .movement import LIKE, concat, stack
from .nodes import argument, out_of_place
from .parts import Packed, dropout, move
from .remake import Remade, Remake
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
        self.network = network
        self.taken = {*self.tensors, *(name for name, _ in network.named_modules())}
        self.modes: dict[str, bool] = {}
        self.source, self.regions = program.graph, program.graph_module
        self.packing = program.call_spec.out_spec
        self.root = nn.Module()
        self.graph = fx.Graph()
        self.new: dict[Node, Any] = {}
        self.constant: dict[Node, Any] = {}  # a tensor, with length one where nothing varies, or several of these
        self.dead: set[Node] = set()
        self.layers: dict[tuple[tuple[str, str], ...], str] = {}
        self.remake = Remake(self.trace, self.left)

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
        module.train(self.network.training)
        for name, part in module.named_modules():
            part.training = self.modes.get(name, part.training)
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
        """A name that no tensor or module of the network has."""
        while name in self.taken:
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

    def _layer(self, node: Any, found: Remade) -> None:
        """A layer as a module under the name that it had, the same one where it is used again; or as a function, where
        its tensors are not the parameters of one layer of torch: these stay under their own names.
        """
        names = {leaf: name for leaf, value in found.tensors.items() if (name := self.trace.named(value)) is not None}
        owner, _, _ = next(iter(names.values())).rpartition(".")
        owned = all(name in self.trace.trainable and name == f"{owner}.{leaf}" for leaf, name in names.items())
        if found.arguments is not None and not owned:
            self.new[node] = self.graph.call_function(node.target, self._argument(found.arguments))
            return
        there = owner and type(self._module(owner.split("."))) is nn.Module
        target = owner if there else self._unused(f"{node.name}_layer")
        *path, leaf = target.split(".")
        key = tuple(names.items())
        if key in self.layers:
            target = self.layers[key]
        else:
            layer, before = found.make(), self._module(target.split("."))
            for field, name in names.items():
                getattr(layer, field).data = self.sliced(name)
                getattr(layer, field).requires_grad_(self.tensors[name].requires_grad)
            move(before, layer)
            setattr(self._module(path), leaf, layer)
            self.layers[key] = target
            self.modes[target] = self._source(node).training
            if isinstance(layer, BatchNorm) and isinstance(source := self._source(node), BatchNorm):
                layer.momentum = source.momentum
                layer.num_batches_tracked = copy.deepcopy(source.num_batches_tracked)
        self.new[node] = self.graph.call_module(target, (self._value(node.args[0]),))

    def _source(self, node: Any) -> nn.Module:
        """The module in whose forward pass an operator is."""
        stack = list((node.meta.get("nn_module_stack") or {}).values())
        path = re.sub(r"@\d+", "", stack[-1][0]) if stack else ""  # of a module's second use, torch says `NAME@1`
        return self.network.get_submodule(path)

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
            self._joined(node)
            return
        if node.meta.get(SETTLED, False):
            self._call(node, handler, widths)
        elif node.target in DROPOUTS:
            self._module_of(node, dropout(node), (node.args[0],))
        elif node.target is aten.scaled_dot_product_attention.default:
            self._module_of(node, *attention_of(node))
        elif node.target in LIKE:
            gone = node.args[1] in self.dead or node.args[1] in self.constant
            target, like = (LIKE[node.target], self._shape(node)) if gone else (node.target, self._value(node.args[1]))
            self.new[node] = self.graph.call_function(target, (self._whole(node.args[0]), like))
        elif (found := self.remake(node)) is not None:
            self._layer(node, found)
        else:
            self._call(node, handler, widths)

    def _module_of(self, node: Node, module: nn.Module, arguments: tuple[Any, ...]) -> None:
        """A module without tensors of its own, in place of an operator."""
        name = self._unused(f"{node.name}_module")
        self.root.add_module(name, module)
        self.modes[name] = self._source(node).training
        self.new[node] = self.graph.call_module(name, self._argument(arguments))

    def _call(self, node: Any, handler: Any, widths: dict[int, Tensor]) -> None:
        """An operator as it was, with the sizes that are left."""
        target, arguments, keywords = self.left.resized(node, widths)
        if arguments and arguments[0] in self.constant:
            target = out_of_place(target)
        value = self._value if handler in ELEMENTWISE and self._covered(node) else self._whole
        arguments, keywords = fx.map_arg((arguments, keywords), value)
        self.new[node] = self.graph.call_function(target, arguments, keywords)

    def _covered(self, node: Any) -> bool:
        """Whether an operand that is no constant has the size of the result, so that constants are spread to it."""
        sizes = (n.meta["val"].shape for n in node.all_input_nodes if n not in self.constant)
        return any(str(size) == str(node.meta["val"].shape) for size in sizes)

    def _whole(self, node: Any) -> Node:
        """The new node of an argument whose size counts: a constant has length one where it does not vary."""
        if node not in self.constant:
            return self._value(node)
        return self.graph.call_function(aten.expand.default, (self._value(node), self._shape(node)))

    def _shape(self, node: Any) -> list[Any]:
        """The shape of an activation after the cut; open axes are read from what has the same."""
        return [
            self.left.width(node, axis) if isinstance(size, int) else self._open(node, size)
            for axis, size in enumerate(node.meta["val"].shape)
        ]

    def _open(self, node: Node, size: Any) -> Node:
        """A size that is known when the network runs only, such as the first of an input."""
        for place, new in self.new.items():
            if place not in self.constant and isinstance(place.meta.get("val"), Tensor):
                for axis, other in enumerate(place.meta["val"].shape):
                    if str(other) == str(size):
                        return self.graph.call_function(aten.sym_size.int, (new, axis))
        raise self._indispensable(node)

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

    def _row(self, node: Any) -> tuple[Any, list[Node], int]:
        """What is left in a row, or side by side: the function that joins it, the parts and the axis."""
        parts = [part for part in node.args[0] if part not in self.dead]
        return torch.stack if node.target is aten.stack.default else torch.cat, parts, int(argument(node, 1, "dim", 0))

    def _joined(self, node: Any) -> None:
        """Join what is left; one part of a row is the row."""
        join, parts, axis = self._row(node)
        if len(parts) == 1 and join is torch.cat:
            self.new[node] = self._value(parts[0])
        else:
            self.new[node] = self.graph.call_function(join, ([self._whole(part) for part in parts], axis))

    def _settle(self, node: Any, handler: Any, lost: list[Node]) -> None:
        """What reads nothing that is left is a constant: the bias, shifted and activated as the network does."""
        if lost and handler in (convolution, transposed, linear):
            self.constant[node] = self._bias(node, handler)
        elif handler in (concat, stack):
            join, parts, axis = self._row(node)
            self.constant[node] = compress(join([self._full(part) for part in parts], axis))
        else:
            found = self._computed(node)
            uneven = handler in (convolution, transposed) and any(n > 1 for n in found.shape[2:])
            if uneven:  # a plane behind a padded layer has other values at its borders: more numbers than weights
                raise self._indispensable(node)
            self.constant[node] = found

    def _bias(self, node: Any, handler: Any) -> Tensor:
        """What a layer makes of zeros."""
        bias = self.trace.named(node.args[2]) if len(node.args) > 2 else None
        rank = node.meta["val"].dim()
        dims = 0 if handler is linear else len(self.trace.shapes[self._name(node.args[1])]) - 2
        axis = rank - dims - 1  # without a batch, channels come first
        column = [-1 if place == axis else 1 for place in range(rank)]
        if bias is not None:
            return self.sliced(bias, constant=True).reshape(column)
        return self.tensors[self._name(node.args[1])].new_zeros(self.left.width(node, axis)).reshape(column)

    def _computed(self, node: Any) -> Any:
        """What an operator makes of constants, computed in evaluation and at the sizes that it was traced at.

        A branch of which nothing is left is zero; what reads it and is there is as large as ever.
        """
        target, arguments, keywords = node.target, node.args, node.kwargs
        if not any(n in self.dead for n in node.all_input_nodes):
            target, arguments, keywords = self.left.resized(node, self.left.widths(node))
        if target is aten.batch_norm.default:
            arguments = (*arguments[:5], arguments[3] is None, *arguments[6:])
        elif target in DROPOUTS:
            return self.constant[node.args[0]]
        elif torch.Tag.nondeterministic_seeded in getattr(target, "tags", ()):
            raise self._indispensable(node)
        arguments, keywords = fx.map_arg((tuple(arguments), dict(keywords)), self._full)
        try:
            found = target(*arguments, **keywords)
        except (RuntimeError, IndexError) as error:
            raise self._indispensable(node) from error
        if not isinstance(found, Tensor):
            return found
        found = compress(found)
        open_axes = [axis for axis, size in enumerate(node.meta["val"].shape) if not isinstance(size, int)]
        if any(found.shape[axis] > 1 for axis in open_axes):
            raise self._indispensable(node)  # as many values as the example has inputs
        return found

    def _full(self, node: Any) -> Any:
        """The value of a constant or a parameter at its size, zeros of a branch that is gone, or a size."""
        value = node.meta.get("val")
        if node in self.dead:
            return torch.zeros(shape_of(node), dtype=value.dtype, device=value.device)
        if node not in self.constant:
            return self.sliced(self._name(node), constant=True) if isinstance(value, Tensor) else int(value)
        known = self.constant[node]
        if not isinstance(known, Tensor):
            return known
        return known.expand([self.left.width(node, axis) for axis in range(known.dim())]).clone()

    def _name(self, node: Any) -> str:
        name = self.trace.named(node)
        assert name is not None
        return name
