"""`prune`: channels go at a known loss; zeros, repair, and then the lossless shrink."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import onnx

from .benchmark import LatencyTable, read_table
from .candidates import Candidates
from .choices import Allocation, Method, Provider, Reduction, Variant, check_align, check_choice
from .draft import Progress, Shapes
from .errors import InputError, ModelError
from .graph.inline import inlined
from .graph.model import read
from .graph.write import refuse_overwriting
from .pruned import Pruned
from .pruner import run
from .pruning import calibration as samples
from .pruning.budget import Budget
from .pruning.calibration import Data

SCORED = ("wanda", "magnitude")
"""Methods that leave the allocation to the caller."""


def prune(
    source: str | Path | onnx.ModelProto,
    output: str | Path | None = None,
    *,
    data: Data | None = None,
    random_data: int | None = None,
    pixels: str | None = None,
    keep_macs: float | None = None,
    keep_parameters: float | None = None,
    keep_latency: float | None = None,
    table: str | Path | LatencyTable | None = None,
    max_error: float | None = None,
    evaluate: str | Callable[[Path], float] | None = None,
    max_drop: float | None = None,
    method: Method = "wanda",
    allocation: Allocation | None = None,
    variant: Variant = "top",
    reduction: Reduction = "sum",
    repair_weights: bool = True,
    masks_only: bool = False,
    align: int | None = None,
    limit: int = 512,
    points: int = 8,
    input_shapes: Shapes = None,
    provider: Provider = "cpu",
    seed: int = 0,
    progress: Progress | None = None,
) -> Pruned:
    """Give up channels at a known loss: write zeros, repair what reads them, and cut the zeros out.

    Args:
        source: a path, or a ModelProto with its weights inside.
        output: where to write the result.
        data: calibration samples (see pruning.calibration.Data); every fourth is held out and only measured on.
        random_data: so many samples of normal noise instead of data.
        pixels: of a folder of images, what their bytes 0 to 255 become: a range such as "0,1", or "imagenet".
        keep_macs, keep_parameters: share of the original's that stays, 0.5 for half.
        keep_latency: share of the original's latency that stays, as a table of layer latencies says, and as is measured
            in turns with the original where the table is of this machine.
        table: what `onnxshrink bench --layers` wrote; by default this model's layers are measured first.
        max_error: largest error on held-out samples (see Pruned.error); the smallest model within it is searched.
        evaluate: "module:function" or a function that gives a model file's metric, more is better.
        max_drop: largest drop of that metric; the smallest model within it is searched.
        method: "wanda" (weights times activations), "pfp" (see pruning/pfp.py), "magnitude" or "random".
        allocation: of Wanda and magnitude: "utilization", the default, takes what loses least for what it saves, by
            the measured error of each class (pruning/knapsack.py), "knapsack" the same by scores, "uniform" the same
            share of every class, "global" what is below one threshold.
        variant: of PFP: "top", "sampled" or "mixed".
        reduction: of PFP's sensitivities over kernel taps: "sum" or "max".
        repair_weights: fit what reads pruned channels to the original's outputs (pruning/repair.py).
        masks_only: write the original's graph with zeros (and repaired weights); do not shrink.
        align: classes go down to multiples of this; default 4 for float32, 8 for float16.
        limit: at most this many samples are used.
        points: of the budget curve; each takes a run over the held-out samples.
        input_shapes: shapes of dynamic inputs, for `random_data` and the verification of the shrink.
        provider: "cpu", "cuda" or "tensorrt".
        seed: of patches, draws and noise.
        progress: told what is being done.

    Raises:
        ModelError: the model cannot be read, has no channel that could go, or cannot be written.
        InputError: options, data, budget or metric make no sense, or the budget cannot be met.
        NotEqualError: the shrink differs from the model with zeros; nothing was written.
        RuntimeMissingError: ONNX Runtime, or the provider, is not there.
    """
    say = progress or (lambda _: None)
    name = evaluate if isinstance(evaluate, str) else getattr(evaluate, "__name__", "evaluate")
    function = samples.imported(evaluate) if isinstance(evaluate, str) else evaluate
    budget = Budget(keep_macs, keep_parameters, keep_latency, max_error, max_drop, function)
    budget.check()
    if allocation is None:
        allocation = "utilization" if method in SCORED else "uniform"
    check_choice("method", method, Method)
    check_choice("allocation", allocation, Allocation)
    check_choice("variant", variant, Variant)
    check_choice("reduction", reduction, Reduction)
    check_choice("provider", provider, Provider)
    if align is not None:
        check_align(align)
    if allocation != "uniform" and method not in SCORED:
        raise InputError(f"{method} has an allocation of its own", cure="leave --allocation out, or --method wanda")
    for option, given, default in (("variant", variant, "top"), ("reduction", reduction, "sum")):
        if method != "pfp" and given != default:
            raise InputError(f"{method} has no {option}", cure=f"leave --{option} out, or --method pfp")
    if pixels is not None and data is None:
        raise InputError(
            "pixels are scaled of images, and there is no data", cure="leave --pixels out, or --data FOLDER"
        )
    if table is not None and keep_latency is None:
        raise InputError("a table is read for a latency budget only", cure="--keep-latency 50%")
    if (data is None) == (random_data is None):
        raise InputError(
            "there is no calibration data" if data is None else "there is data and random data",
            cure="--data FILE|FOLDER|module:function, or --random-data 128 for noise, which guarantees nothing",
        )
    model = inlined(read(source))
    if output is not None:
        refuse_overwriting(Path(output), model)
        if not Path(output).parent.is_dir():
            raise ModelError("cannot write there", file=str(output), cure="give a folder that exists")
    candidates = Candidates(model, data, random_data, pixels, align, limit, input_shapes, provider, seed, say)
    if keep_latency is not None:
        candidates.use_table(read_table(table) if isinstance(table, str | Path) else table)
    candidates.rank(method, variant, allocation, reduction, budget)
    with tempfile.TemporaryDirectory(prefix="onnxshrink-") as folder:
        return run(candidates, budget, name, repair_weights, masks_only, output, Path(folder), points)
