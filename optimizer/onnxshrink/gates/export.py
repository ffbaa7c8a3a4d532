"""Export: a gated network becomes one ONNX file in which every pruned unit is a zero filter with a zero bias."""

import ast
import copy
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import InputError, short
from ..files import replacing
from .attention import written_out
from .augment import Gated, folded
from .trace import batches, exported, inputs_of
from .writes import functional

OPSET = 18

# The exporter notes for every node the lines of Python it came from, with paths of the machine that ran it.
STACK_TRACE = "pkg.torch.onnx.stack_trace"

# The exporter's optimizer notes which constants a constant was computed from, as the text of a list of names.
FOLDED_FROM = "pkg.onnxscript.optimizer.folded_from"

TRANSPOSED = ".T"
"""What the name of a parameter ends with where the file holds it transposed."""


def export(
    module: nn.Module, path: str | os.PathLike[str], example: Tensor | tuple[Tensor, ...], opset: int = OPSET
) -> None:
    """Write a network, in eval mode, with its gates folded if it has any, to `path` with a dynamic batch dimension.

    A single input is named `input`, several are `input0`, `input1` and so on; outputs likewise. Constants have the
    names of their parameters; the exporter transposes the weights of some Linear layers, these are `NAME.T`. It folds
    each BatchNorm into its Conv. The file appears whole or not at all.

    Args:
        example: inputs, [N, ...] each, N >= 2 (the exporter makes a batch of 1 a constant).

    Raises:
        InputError: the example has a batch of 1, torch.onnx cannot export the network, or nothing can be written there.
    """
    inputs = inputs_of(example)
    if any(tensor.dim() and tensor.shape[0] < 2 for tensor in inputs):
        raise InputError("the batch dimension would not stay dynamic", cure="export with an example batch of 2 or more")
    network = folded(module) if isinstance(module, Gated) else copy.deepcopy(module)
    shapes = batches(network, inputs, torch.export.Dim("batch"))
    try:
        traced = written_out(functional(exported(network, inputs, shapes, training=False)))
        program = torch.onnx.export(
            traced, inputs, opset_version=opset, dynamic_shapes=shapes, dynamo=True, verbose=False
        )
    except Exception as error:  # many unrelated types
        what = short(error.__cause__ or error, 200)
        raise InputError(
            f"{type(network).__name__} cannot be exported by torch.onnx with an open batch: {what}",
            cure="fold the gates with `folded`, and export the network as it was exported before",
        ) from error
    assert program is not None  # dynamo=True
    graph = program.model.graph
    _name_transposed(graph, dict(network.named_parameters(remove_duplicate=False)))
    for word, values in (("input", graph.inputs), ("output", graph.outputs)):
        for number, value in enumerate(values):
            value.name = word if len(values) == 1 else f"{word}{number}"
    for node in graph.all_nodes():
        node.metadata_props.pop(STACK_TRACE, None)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        program.save(partial, external_data=False)


def _name_transposed(graph: Any, parameters: Mapping[str, nn.Parameter]) -> None:
    """Constants that are a transposed parameter get its name, so that a map finds it."""
    for value in list(graph.initializers.values()):
        sources = ast.literal_eval(value.metadata_props.get(FOLDED_FROM, "[]"))
        parameter = parameters.get(sources[0]) if len(sources) == 1 else None
        if parameter is None or parameter.dim() != 2 or f"{sources[0]}{TRANSPOSED}" in graph.initializers:
            continue
        if np.array_equal(value.const_value.numpy().astype(float), parameter.detach().cpu().double().numpy().T):
            value.name = f"{sources[0]}{TRANSPOSED}"
