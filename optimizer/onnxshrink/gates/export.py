"""Export: a gated network becomes one ONNX file in which every pruned unit is a zero filter with a zero bias."""

import copy
import os
import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import InputError
from .augment import Gated, folded

OPSET = 18

# The exporter notes for every node the lines of Python it came from, with paths of the machine that ran it.
STACK_TRACE = "pkg.torch.onnx.stack_trace"


def export(module: nn.Module, path: str | os.PathLike[str], example: Tensor, opset: int = OPSET) -> None:
    """Write a network, in eval mode, with its gates folded if it has any, to `path` with a dynamic batch dimension.

    The input is named `input`, the output `output`; the exporter folds each BatchNorm into its Conv. The file appears
    whole or not at all.

    Args:
        example: [N, ...] float32, N >= 2 (the exporter makes a batch of 1 a constant).

    Raises:
        InputError: the example has a batch of 1.
    """
    if example.shape[0] < 2:
        raise InputError("the batch dimension would not stay dynamic", cure="export with an example batch of 2 or more")
    network = folded(module) if isinstance(module, Gated) else copy.deepcopy(module)
    program = torch.onnx.export(
        network.eval(),
        (example,),
        input_names=["input"],
        output_names=["output"],
        opset_version=opset,
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        dynamo=True,
        verbose=False,
    )
    assert program is not None  # dynamo=True
    for node in program.model.graph.all_nodes():
        node.metadata_props.pop(STACK_TRACE, None)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        temporary = Path(folder) / path.name
        program.save(temporary, external_data=False)
        os.replace(temporary, path)
