"""Export: a gated network becomes one ONNX file in which every pruned unit is a zero filter with a zero bias."""

import copy
import os
import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import InputError
from .augment import Gated, folded
from .trace import batches

OPSET = 18

# The exporter notes for every node the lines of Python it came from, with paths of the machine that ran it.
STACK_TRACE = "pkg.torch.onnx.stack_trace"


def export(
    module: nn.Module, path: str | os.PathLike[str], example: Tensor | tuple[Tensor, ...], opset: int = OPSET
) -> None:
    """Write a network, in eval mode, with its gates folded if it has any, to `path` with a dynamic batch dimension.

    A single input is named `input`, several are `input0`, `input1` and so on; outputs likewise. The exporter folds each
    BatchNorm into its Conv. The file appears whole or not at all.

    Args:
        example: inputs, [N, ...] each, N >= 2 (the exporter makes a batch of 1 a constant).

    Raises:
        InputError: the example has a batch of 1.
    """
    inputs = example if isinstance(example, tuple) else (example,)
    if any(tensor.dim() and tensor.shape[0] < 2 for tensor in inputs):
        raise InputError("the batch dimension would not stay dynamic", cure="export with an example batch of 2 or more")
    network = folded(module) if isinstance(module, Gated) else copy.deepcopy(module)
    program = torch.onnx.export(
        network.eval(),
        inputs,
        opset_version=opset,
        dynamic_shapes=batches(network, inputs, torch.export.Dim("batch")),
        dynamo=True,
        verbose=False,
    )
    assert program is not None  # dynamo=True
    graph = program.model.graph
    for word, values in (("input", graph.inputs), ("output", graph.outputs)):
        for number, value in enumerate(values):
            value.name = word if len(values) == 1 else f"{word}{number}"
    for node in graph.all_nodes():
        node.metadata_props.pop(STACK_TRACE, None)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        temporary = Path(folder) / path.name
        program.save(temporary, external_data=False)
        os.replace(temporary, path)
