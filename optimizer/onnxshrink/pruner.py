"""One run of `prune`: scores, budget, zeros, repair, and then the lossless `optimize`."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx

from .candidates import Candidates
from .pruned import ClassMask, Latency, Point, Pruned
from .pruning import guarantee as theorem
from .pruning.allocation import for_size
from .pruning.budget import Budget
from .pruning.guarantee import Guarantee
from .pruning.map import against_original
from .pruning.method import Selection
from .pruning.pfp import calibration_size
from .search import by_error, by_latency, by_metric, by_size, here, measure
from .shrink import optimize

FINAL_SECONDS = 5.0
"""How long the result is measured."""


def run(
    found: Candidates,
    budget: Budget,
    name: str,
    repairing: bool,
    masks_only: bool,
    output: str | Path | None,
    folder: Path,
    points: int,
) -> Pruned:
    """Find the selection that the budget asks for, and make its model.

    Args:
        found: the candidates, in order.
        budget: what the caller allows.
        name: of the caller's metric, for errors.
        repairing: whether layers are fitted.
        masks_only: write the model with zeros, and do not shrink.
        output: where to write, if anywhere.
        folder: an empty one.
        points: of the budget curve.
    """
    measured: tuple[float, float] | None = None
    if budget.evaluate is not None:
        gone, measured = by_metric(found, budget, name, repairing, folder)
    elif budget.error is not None:
        gone = by_error(found, budget.error, repairing)
    elif budget.latency is not None:
        gone = by_latency(found, budget.latency, repairing, folder)
    else:
        gone = by_size(found, budget, repairing)
    selection = found.selector(gone)
    plain, _ = found.model_of(selection, repairing=False)
    proto, fits = found.model_of(selection, repairing=repairing)
    before = found.held.error(plain)
    error = found.held.error(proto) if repairing else before
    guarantee, reason = _guarantee(found, selection, repairing)
    curve = _curve(found, budget, points)
    shrunk = None
    masked = folder / "pruned.onnx"
    if masks_only:
        if output is not None:
            found.write(proto, Path(output))
    else:
        found.write(proto, masked)
        shrunk = optimize(
            masked,
            output,
            align=found.align,
            input_shapes=found.input_shapes or None,
            provider=found.provider,
            progress=found.say,
        )
        onnx.load_external_data_for_model(shrunk.model, str(folder))  # which is gone when the caller has the model
        shrunk.map = against_original(shrunk.map, found.graph, shrunk.model)
        shrunk.map["source"]["sha256"] = found.model.digest()
        shrunk.map["options"]["pruned"] = found.method
    now = found.selector.order.counts(selection.masks)
    sizes: dict[str, tuple[int | None, int | None]] = {
        "parameters": (found.before["parameters"], round(found.parameters(now))),
        "macs": (found.before["macs"], None if found.macs is None else round(found.macs(now))),
    }
    if shrunk is not None:
        for what, (was, _) in list(sizes.items()):
            sizes[what] = (was, found.count(shrunk.model, what))
    notes = [] if gone else ["cutting what carries nothing is enough for this budget: no channel was given up"]
    if found.graph.default_inputs:
        notes.append(
            f"{len(found.graph.default_inputs)} initializers were listed as inputs (overridable defaults); they are "
            "constants now"
        )
    was, left = sizes["parameters"]
    if was is not None and left is not None and left > was:
        notes.append(
            "more parameters than before: layers that shared a weight got one each; --keep-parameters forbids that"
        )
    large = [fit.node for fit in fits if not fit.rows]
    if large:
        notes.append(f"too large to be repaired: {', '.join(large)}")
    notes += ["the samples are noise: the error says little about real inputs"] if found.calibration.random else []
    return Pruned(
        proto if shrunk is None else shrunk.model,
        _masks(found, selection),
        error,
        before,
        selection.epsilon,
        guarantee,
        reason,
        curve,
        _point(found, now, error),
        fits,
        sizes,
        measured,
        _latency(found, budget, now, None if shrunk is None else shrunk.model, folder),
        shrunk,
        notes,
    )


def _latency(
    found: Candidates, budget: Budget, now: list[int], result: onnx.ModelProto | None, folder: Path
) -> Latency | None:
    if budget.latency is None or found.latency is None or found.table is None:
        return None
    predicted = float(found.latency(now)) / found.latency.whole
    measured = None
    if result is not None and here(found, found.table):
        found.say("measuring the result")
        measured = measure(found, result, found.table, folder, seconds=FINAL_SECONDS)
    place = ", ".join(filter(None, (found.table.environment.get("cpu"), found.table.environment.get("gpu"))))
    return Latency(budget.latency, predicted, measured, f"{found.table.provider} on {place}")


def _curve(found: Candidates, budget: Budget, points: int) -> list[Point]:
    order, size = found.selector.order, found.cost(budget)
    full, least = (size(order.counts(order.masks(gone))) for gone in (0, len(order)))
    wanted = [for_size(order, size, full - (full - least) * step / (points + 1)) for step in range(points + 1)]
    curve = []
    for step, gone in enumerate(dict.fromkeys(gone for gone in wanted if gone is not None)):
        found.say(f"budget curve, {step + 1} of {points + 1}")
        selection = found.selector(gone)
        error = found.held.error(found.model_of(selection, repairing=False)[0])
        curve.append(_point(found, order.counts(selection.masks), error))
    return curve


def _point(found: Candidates, now: list[int], error: float) -> Point:
    return Point(
        None if found.macs is None or not found.before["macs"] else found.macs(now) / found.before["macs"],
        found.parameters(now) / (found.before["parameters"] or 1),
        error,
        None if found.latency is None else float(found.latency(now)) / found.latency.whole,
    )


def _guarantee(found: Candidates, selection: Selection, repairing: bool) -> tuple[Guarantee | None, str]:
    if found.method != "pfp":
        return None, f"{found.method} has no theorem"
    if found.selector.drawn is None:
        return None, "the theorem is about sampled channels (--variant sampled), not about a chosen selection"
    if selection.factors is None:
        return None, "no channel was given up, so none was sampled"
    if repairing:
        return None, "the theorem is about reweighed channels (--no-repair), not about repaired ones"
    if found.calibration.random:
        return None, "the theorem is about the data that scored, and these are noise"
    assert found.scores is not None
    assert found.selector.importance is not None
    assert selection.epsilon is not None
    found.say("checking the bound on held-out samples")
    bounds = theorem.bounds(found.classes, found.selector.importance, found.scores, selection.masks, selection.epsilon)
    within, worst = theorem.hold_out(
        found.context,
        found.classes,
        selection.factors,
        selection.epsilon,
        found.model.proto,
        found.calibration,
        provider=found.provider,
        folder=found.folder,
    )
    asked = calibration_size(*_activations(found))
    return Guarantee(bounds, within, worst, asked, len(found.calibration.scoring)), ""


def _activations(found: Candidates) -> tuple[int, int]:
    """Elements of all layers' outputs for one sample, and of the largest one's."""
    counts = []
    for node in found.graph.nodes:
        shape = found.context.shape(node.outputs[0]) or ()
        if found.context.channels(node) is not None:
            counts.append(math.prod(dim for dim in shape[1:] if isinstance(dim, int)))
    return sum(counts), max(counts, default=1)


def _masks(found: Candidates, selection: Selection) -> list[ClassMask]:
    return [
        ClassMask(
            one.name,
            tuple(node.label for node in one.producers),
            one.units,
            tuple(int(unit) for unit in np.flatnonzero(mask)),
        )
        for one, mask in zip(found.classes, selection.masks, strict=True)
    ]
