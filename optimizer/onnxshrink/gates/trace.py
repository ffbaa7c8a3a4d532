"""Tracing: any module as a graph that is right in evaluation and, as far as its code allows, in training.

Layers of torch that change with the mode (dropout, BatchNorm, the dropout of attention) are operators in the graph and
become layers again when it is cut. What a module's own code does in training only (stochastic depth, second outputs) is
burnt into a graph of training and would stay there in evaluation: then the graph is that of evaluation, with a warning.
"""

import contextlib
import inspect
import io
import sys
import warnings
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx import Node

from ..errors import InputError, short
from .modes import MODES, SETTLED
from .nodes import argument
from .writes import functional, updated

aten = torch.ops.aten
PLAIN = {aten.max.dim: aten.amax.default, aten.min.dim: aten.amin.default}
"""What gives values and their places, and what gives the values alone."""


def trace(network: nn.Module, example: tuple[Tensor, ...], *, free_batch: bool = False) -> torch.export.ExportedProgram:
    """The graph of a module: of training if only layers of torch make the difference, else of evaluation.

    Args:
        network: any module that torch.export can trace; it is left as it is.
        example: inputs to trace with.
        free_batch: leave the first axis of each input open where torch.export can.

    Raises:
        InputError: torch.export cannot trace it, or cannot do without its writes in place, or a part of it has a name
            that torch.fx, which holds what is cut, has for something else.

    Warns:
        UserWarning: the module's code does other things in training than in evaluation, writes into a buffer of its
            own, or its layers cannot be told from their own writes in place.
    """
    own, held = [*network._modules, *network._parameters, *network._buffers], fx.GraphModule(nn.Module(), fx.Graph())
    if taken := [name for name in own if hasattr(held, name)]:
        raise InputError(
            f"`{taken[0]}` of {type(network).__name__} has a name that torch.fx has for something else",
            cure="give it another name, or put the network into a module",
        )
    shapes = batches(network, example, torch.export.Dim.AUTO) if free_batch else None
    evaluation = exported(network, example, shapes, training=False)
    try:
        training = exported(network, example, shapes, training=True)
    except InputError:
        training = None
    what = "does other things in training than in evaluation, such as stochastic depth"
    if training is not None and (names := updated(training)):
        warnings.warn(
            f"{type(network).__name__} writes into its buffer `{names[0]}` in training; what is cut out of it does not",
            stacklevel=2,
        )
    if training is not None and told(training) == told(evaluation):
        found = functional(training)
        if len(_modal(found)) == len(_modal(training)):
            _settle_modes(found, evaluation)
            return _without_places(found)
        what = "writes in place into what it reads again, and drops out whole channels"
    warnings.warn(
        f"the code of {type(network).__name__}, or of a module in it, {what}; what is cut out of it does in training "
        "what it does in evaluation",
        stacklevel=2,
    )
    return _without_places(functional(evaluation))


def inputs_of(example: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The inputs of a network; one alone may be given as it is."""
    return example if isinstance(example, tuple) else (example,)


def exported(
    network: nn.Module, example: tuple[Tensor, ...], shapes: Any, *, training: bool
) -> torch.export.ExportedProgram:
    """The program of a module in evaluation or in training, as torch.export makes it; the module is left as it is.

    Args:
        network: the module.
        example: inputs to trace with.
        shapes: of the inputs, what torch.export takes as dynamic shapes.
        training: which of the two.

    Raises:
        InputError: torch.export cannot trace it.
    """
    modes = {module: module.training for module in network.modules()}
    said = io.StringIO()  # where torch.export fails, it prints the graph that it has so far
    try:
        with contextlib.redirect_stderr(said):
            program = torch.export.export(network.train(training), example, dynamic_shapes=shapes, strict=False)
    except Exception as error:  # it raises many unrelated types
        raise InputError(
            f"{type(network).__name__} cannot be traced by torch.export: {short(error, 200)}",
            cure="make the forward pass free of data-dependent control flow, or gate the parts that are",
        ) from error
    finally:
        for module, mode in modes.items():
            module.training = mode
    sys.stderr.write(said.getvalue())
    return program


def _without_places(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """The program with plain extremes where nobody asks for their places."""
    graph = program.graph
    for node in list(graph.nodes):
        parts = [user for user in node.users if user.users]
        if node.target in PLAIN and all(part.args[1] == 0 for part in parts):
            for values in parts:
                with graph.inserting_before(values):
                    keepdim = bool(argument(node, 2, "keepdim", False))
                    found = graph.call_function(PLAIN[node.target], (node.args[0], [argument(node, 1, "dim")], keepdim))
                found.meta = dict(values.meta)
                values.replace_all_uses_with(found)
    return program


def _modal(program: torch.export.ExportedProgram) -> list[Any]:
    """The operators that change with the mode; without writes in place, some are taken apart for good."""
    return [node for node in program.graph.nodes if node.target in MODES]


def _settle_modes(training: torch.export.ExportedProgram, evaluation: torch.export.ExportedProgram) -> None:
    """Note the operators that do in training what they do in evaluation, as a frozen BatchNorm, in place."""
    for node, other in zip(_modal(training), _modal(evaluation), strict=True):
        modes = [argument(n, MODES[n.target], "dropout_p", 0.0) for n in (node, other)]
        node.meta[SETTLED] = modes[0] == modes[1]


def told(program: torch.export.ExportedProgram) -> list[tuple[Any, str]]:
    """The operators that the outputs depend on, with their arguments, but for those that say the mode."""
    live: set[Node] = {next(node for node in program.graph.nodes if node.op == "output")}
    for node in reversed(program.graph.nodes):
        if node in live:
            live.update(node.all_input_nodes)
    nodes = [node for node in program.graph.nodes if node in live]
    number: dict[Node, Any] = {node: place for place, node in enumerate(nodes)}
    found = []
    for node in nodes:
        mode = MODES.get(node.target)
        arguments = tuple(argument for place, argument in enumerate(node.args) if place != mode)
        keywords = {name: value for name, value in node.kwargs.items() if mode is None or name != "dropout_p"}
        found.append((node.target, str(fx.map_arg((arguments, keywords), number.__getitem__))))
    return found


def batches(network: nn.Module, example: tuple[Tensor, ...], size: Any) -> tuple[Any, ...]:
    """The first axis of each input is `size`: what torch.export takes as dynamic shapes.

    Inputs that the forward pass takes as `*inputs` are one entry there, a tuple.
    """
    found: list[Any] = [{0: size} if tensor.dim() else {} for tensor in example]
    kinds = [parameter.kind for parameter in inspect.signature(network.forward).parameters.values()]
    if inspect.Parameter.VAR_POSITIONAL in kinds:
        named = kinds.index(inspect.Parameter.VAR_POSITIONAL)
        found[named:] = [tuple(found[named:])]
    return tuple(found)
