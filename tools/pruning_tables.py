"""The tables of pruning as Markdown, of the rows that were run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from tools.pruning_rows import (
    BUDGETS,
    CALIBRATION,
    CASCADES,
    CURVES,
    DEFAULT,
    HELD_OUT,
    KEPT,
    METHODS,
    PUBLISHED,
    SHARES,
    WIDE,
    Row,
)
from tools.rows import Figures, read
from tools.table import table
from tools.training_rows import dense_row

NAMES = {"macs": "multiply-adds", "latency": "latency"}

Found = dict[tuple[str, str], Figures | None]


def section(folder: Path, rows: Sequence[Row], picture: Path | None = None) -> str:
    """All tables, of what was run; the budget curves are drawn where a picture is asked for."""
    found = {(row.group, row.name): read(row.path(folder)) for row in rows}
    parts = [
        resnet20_table(found),
        curves(found, picture),
        published_table(found),
        cascade_table(found),
        scoring_table(found),
        large_layer(found),
    ]
    missing = [f"{group}/{name}" for (group, name), figures in found.items() if figures is None]
    if missing:
        parts.append(f"{len(missing)} of {len(found)} rows are not run yet, such as {', '.join(missing[:3])}.")
    return "\n\n".join(part for part in parts if part)


def resnet20_table(found: Found) -> str:
    """Accuracy by method and budget."""
    dense = found.get(("resnet20", "dense"))
    heads = [f"{100 * share:g} % of MACs{kind}" for share in SHARES for kind in ("", ", repaired")]
    lines = [["method", *heads]]
    for name in METHODS:
        cells = [
            _percent(found.get(("resnet20", f"{name.replace(' ', '-')}-{share:g}-{kind}")), "accuracy")
            for share in SHARES
            for kind in ("plain", "repaired")
        ]
        lines.append([f"`{name}`", *cells])
    rival_cells = [
        _percent(found.get(("resnet20", f"onnxsim-{share:g}")), key)
        for share in SHARES
        for key in ("accuracy", "accuracy_repaired")
    ]
    lines.append(["onnxsim Wanda", *rival_cells])
    lines = [line for line in lines if any(line[1:])]
    if len(lines) == 1:
        return ""
    whole = f" Unpruned: {_percent(dense, 'accuracy')} %." if dense else ""
    text = (
        "Accuracy in % on the 10,000 test images of CIFAR-10 of the gated ResNet-20 of this repository, of which the "
        "lossless shrink alone leaves 49.9 % of the multiply-adds; 512 training images, no training, `--align 1`."
        f"{whole}"
    )
    return f"### ResNet-20 on CIFAR-10, one shot\n\n{text}\n\n{table(lines, markdown=True)}"


def curves(found: Found, picture: Path | None) -> str:
    """The budget curves of all methods in one picture."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    lines = {m: one["points"] for m in CURVES if (one := found.get(("resnet20-curve", m))) is not None}
    if picture is None or not lines:
        return ""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for method, points in lines.items():
        axes.plot([100 * macs for macs, _ in points], [e for _, e in points], "o-", markersize=3, label=method)
    axes.set_xlabel("MACs kept, % of the file's")
    axes.set_ylabel("error on held-out images, |y' − y| / |y|")
    axes.grid(color="#e3e3e3", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(picture, dpi=100)
    text = "Every budget of one scoring run, before repair: what `onnxshrink prune --curve` draws for one method."
    return f"{text}\n\n![Size against error]({picture.name})"


def published_table(found: Found) -> str:
    """Errors and agreements of published models, a table for each budget."""
    tables = []
    for budget, methods in BUDGETS.items():
        kinds = [*methods, "onnxsim"]
        lines = [["model", "images, scaling", *(f"`{kind}`" for kind in methods), "onnxsim Wanda, ridge"]]
        outcomes = []
        for name, (images, scaling) in PUBLISHED.items():
            figures = [found.get((name, f"{budget}-{kind.replace(' ', '-')}")) for kind in kinds]
            if all(one is None for one in figures):
                continue
            lines.append([name, f"{images}, {scaling}", *(_judged(one) for one in figures)])
            ours, theirs = figures[kinds.index(DEFAULT)], figures[-1]
            if ours is not None and theirs is not None:
                outcomes.append((ours.get("error", math.inf), theirs.get("error", math.inf)))
        if len(lines) == 1:
            continue
        good, better = sum(a <= b for a, b in outcomes), sum(a < b for a, b in outcomes)
        alone = sum(a < b == math.inf for a, b in outcomes)
        told = (
            f"At 75 % of the {NAMES[budget]}, `{DEFAULT}` is at least as good as the rival on {good} of "
            f"{len(outcomes)} models and better on {better}; on {alone} of these no sparsity of the rival keeps to the "
            "budget."
        )
        tables.append(f"{told if outcomes else ''}\n\n{table(lines, markdown=True)}")
    if not tables:
        return ""
    text = (
        f"Error |y' − y| / |y| (largest over outputs), share of samples with the same largest output where the first "
        f"output is a vector, and share of the budget that is left, on {HELD_OUT} images that no method saw; "
        f"{CALIBRATION} to calibrate. Latency at one thread, measured in turns with the original. The rival: onnxsim "
        "simplifies the model, prunes by Wanda at the least sparsity that keeps to the budget, and repairs by ridge "
        "regression. Its repair fits MatMul and Gemm, not Conv; it knows no multiples of channels, so it has to take "
        f"more before a model becomes faster. `{DEFAULT}` became the default on some of these rows and those of the "
        "ResNet-20: the choice has seen them. Images are those at hand, not what each model was made for: the error is "
        "the distance to the original, not a loss of accuracy."
    )
    return "\n\n".join(["### Published models", text, *tables])


def cascade_table(found: Found) -> str:
    """Accuracy after pruning and retraining."""
    recipe = dense_row("resnet20").entry(0).recipe
    retraining = recipe.search_epochs + recipe.finetune_epochs  # so many epochs, in all rounds together
    before = {"dense": recipe.dense_epochs, "trained": recipe.dense_epochs + retraining}
    whole = f"dense, {before['trained']} epochs, %"
    lines = [["method", "epochs before, in rounds", "MACs", "accuracy, %", whole, "difference"]]
    for name, (method, _, rounds, begin) in CASCADES.items():
        one = found.get(("cascade", name))
        if one is not None:
            lines.append(
                [
                    f"`{method}`",
                    f"{before[begin]}, {' + '.join([str(retraining // rounds)] * rounds)}",
                    f"{100 * one['macs']:.1f} %",
                    _percent(one, "accuracy"),
                    _percent(one, "dense"),
                    f"{100 * (one['accuracy'] - one['dense']):+.2f}",
                ]
            )
    if len(lines) == 1:
        return ""
    text = (
        f"`models/cascade.py`: the dense ResNet-20, trained to the end ({before['trained']} epochs) or after its first "
        f"learning rate cycle ({before['dense']}), is exported, pruned with repair on 512 training images, sliced by "
        f"the map and retrained, in rounds of {retraining} epochs together. One seed. Published for PFP at 70 % of the "
        "FLOPs, from a network trained to the end that is better than this one, with more epochs: -0.28."
    )
    return f"### Prune and retrain\n\n{text}\n\n{table(lines, markdown=True)}"


def scoring_table(found: Found) -> str:
    """Time and memory of scoring."""
    lines = [["method", "reading, classes: s", "scoring: s", "peak memory: MB"]]
    for (group, name), figures in found.items():
        if group == "resnet50-scoring" and figures is not None:
            lines.append([f"`{name}`", *(f"{figures[key]:.0f}" for key in ("prepare", "score", "peak_mb"))])
    if len(lines) == 1:
        return ""
    text = (
        "ResNet-50 at its published widths, 256 images of 224x224 from files (154 MB of them in memory), in a process "
        "of its own."
    )
    return f"### Scoring a ResNet-50\n\n{text}\n\n{table(lines, markdown=True)}"


def large_layer(found: Found) -> str:
    """Time and memory of the repair of a large layer, in a sentence."""
    one = found.get(("large-layer", "repaired"))
    if one is None:
        return ""
    errors = f"from {one['error_before_repair']:.3f} to {one['error']:.3f}"
    text = (
        f"A layer of {WIDE:,} inputs and outputs of 3x3 (37.7 million weights) keeps {one['inputs']:,} inputs in a "
        f"network that keeps {100 * KEPT:g} % of its MACs: {one['seconds']:.0f} s for the whole of `prune`, at a peak "
        f"of {one['peak_mb']:,.0f} MB. The error on held-out samples falls {errors}."
    )
    return f"### Repairing a large layer\n\n{text}"


def _percent(figures: Figures | None, key: str) -> str:
    if figures is None:
        return ""
    return f"{100 * figures[key]:.2f}" if key in figures else "–"


def _judged(figures: Figures | None) -> str:
    if figures is None:
        return ""
    if "failed" in figures:
        return f"– ({figures['failed'].split('.onnx: ')[-1]})"
    agreement = "" if figures["agreement"] is None else f", {100 * figures['agreement']:.1f} %"
    return f"{figures['error']:.3f}{agreement} (at {100 * figures['share']:.1f} %)"
