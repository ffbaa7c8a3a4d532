"""Scores of units from one pass over the calibration data.

A class may have several consumers. For PFP the sensitivity of a unit is its largest over them, so the bound holds for
each. For Wanda-like scores and magnitudes each layer's are divided by the layer's sum first, then added: what a unit
is worth in a layer is its share there, and a unit that several layers read is lost to all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx

from ..choices import Reduction
from ..ops.rule import Context
from ..ops.tie import Port
from .calibration import Calibration
from .coupling import CouplingClass, output_port
from .patches import Reader
from .pfp import TINY, Importance, shares, totals_of
from .probe import Watch, passes, probe, stream

PATCHES = 16
"""Patches drawn from each sample for each layer."""

PLACES = 128
"""Patches of a layer that are read at once, where a batch has fewer: a call for each unit is dear for a few."""


@dataclass
class Reading:
    """What the calibration data say of one class at one of its consumers.

    Attributes:
        wanda: sum over outputs and taps of |W| times the norm of the input, [units].
        sensitivity, held: largest shares on the samples that score, and on those held out, [units].
        outcomes: outputs times places looked at.
        spread: largest over places of the mean over outputs of (z+ + z-) / |z|.
    """

    wanda: np.ndarray
    sensitivity: np.ndarray
    held: np.ndarray
    outcomes: int = 0
    spread: float = 1.0


@dataclass
class Scores:
    """Readings by class and consumer (node index), in the order of the classes."""

    readings: list[dict[int, Reading]] = field(default_factory=list)
    activations: int = 0
    largest: int = 0

    def wanda(self) -> list[np.ndarray]:
        """Wanda-like scores, [units] of each class."""
        return [_added([reading.wanda for reading in found.values()]) for found in self.readings]

    def importance(self) -> list[Importance]:
        """What PFP needs of each class."""
        return [
            Importance(
                np.max([reading.sensitivity for reading in found.values()], axis=0),
                sum(reading.outcomes for reading in found.values()),
            )
            for found in self.readings
        ]

    def held_out_k(self) -> list[float]:
        """For each class the largest ratio of a share on held-out samples to the sensitivity: what K would be."""
        ratios = []
        for found in self.readings:
            s = np.max([reading.sensitivity for reading in found.values()], axis=0)
            h = np.max([reading.held for reading in found.values()], axis=0)
            ratios.append(float((h / np.maximum(s, TINY)).max(initial=0)))
        return ratios


def magnitudes(context: Context, classes: Sequence[CouplingClass]) -> list[np.ndarray]:
    """L1 norms of the filters that produce a unit, [units] of each class."""
    scores = []
    for found in classes:
        parts = []
        for node in found.producers:
            matrix = np.abs(Reader(node, context).matrix(context.graph.constants[node.inputs[1]])).sum(axis=(1, 2))
            width = matrix.size // (context.size(*output_port(node, context)) or 1)
            norms = matrix.reshape(-1, width).sum(axis=1)  # a ConvTranspose has an output for each tap
            parts.append(norms[found.slices[output_port(node, context)]].sum(axis=1))
        scores.append(_added(parts))
    return scores


def _added(parts: list[np.ndarray]) -> np.ndarray:
    return np.asarray(sum(part / max(float(part.sum()), TINY) for part in parts))


def score(
    context: Context,
    classes: Sequence[CouplingClass],
    model: onnx.ModelProto,
    calibration: Calibration,
    *,
    sensitivities: bool,
    reduction: Reduction = "sum",
    provider: str = "cpu",
    folder: Path | None = None,
    seed: int = 0,
    watch: Watch = lambda done, all: None,
) -> Scores:
    """Stream the calibration data once through the model and score every unit.

    Memory: the samples, `probe.MEMORY` of exposed tensors, and `PLACES` patches of each layer or one batch of them.

    Args:
        sensitivities: compute those of PFP too.
        watch: told how far the pass is.
    """
    jobs: dict[int, list[tuple[int, Port]]] = {}
    scores = Scores([{} for _ in classes])
    nodes = {node.index: node for found in classes for node, _ in found.consumers}
    for number, found in enumerate(classes):
        for node, port in found.consumers:
            jobs.setdefault(node.index, []).append((number, port))
            zeros = np.zeros((3, found.units))
            scores.readings[number][node.index] = Reading(*zeros)
    tensors = {nodes[index].inputs[0]: bytes_of(context, nodes[index].inputs[0]) for index in jobs}
    groups = list(passes(tensors))
    squares: dict[int, np.ndarray] = {}
    steps, done = len(groups) * len(calibration), 0
    for names, batch in groups:
        opened = probe(model, names, provider=provider, folder=folder)
        for samples, held in ((calibration.scoring, False), (calibration.held, True)):
            if held and not sensitivities:
                continue
            start = done

            def report(now: int, _: int, base: int = start) -> None:
                watch(base + now, steps)

            readers = {index: Reader(nodes[index], context) for index in jobs if nodes[index].inputs[0] in names}
            batches = stream(opened, calibration, samples, batch, report)
            for index, rows in _gathered(readers, batches, seed, held):
                if not held:
                    squares[index] = squares.get(index, 0) + np.square(rows).sum(axis=0)
                if sensitivities:
                    weight = readers[index].matrix(context.graph.constants[nodes[index].inputs[1]])
                    _read(scores, classes, jobs[index], index, weight, rows, held, reduction)
            done = start + len(samples)
    for index, wanted in jobs.items():
        weight = np.abs(Reader(nodes[index], context).matrix(context.graph.constants[nodes[index].inputs[1]]))
        worth = (weight * np.sqrt(squares[index])).sum(axis=(0, 2))
        for number, port in wanted:
            scores.readings[number][index].wanda = worth[classes[number].slices[port]].sum(axis=1)
    return scores


def _gathered(
    readers: Mapping[int, Reader], batches: Iterable[tuple[int, Mapping[str, np.ndarray]]], seed: int, held: bool
) -> Iterator[tuple[int, np.ndarray]]:
    """Patches of the layers, `PATCHES` from each sample, `PLACES` of a layer or more at once: (node index, patches)."""
    waiting: dict[int, list[np.ndarray]] = {index: [] for index in readers}
    for number, (samples, values) in enumerate(batches):
        for index, reader in readers.items():
            rng = np.random.default_rng([seed, index, number, held])
            waiting[index].append(reader.rows(values[reader.node.inputs[0]], PATCHES * samples, rng))
            if sum(map(len, waiting[index])) >= PLACES:
                yield index, np.concatenate(waiting[index])
                waiting[index] = []
    for index, rows in waiting.items():
        if rows:
            yield index, np.concatenate(rows)


def _read(
    scores: Scores,
    classes: Sequence[CouplingClass],
    wanted: list[tuple[int, Port]],
    index: int,
    weight: np.ndarray,
    rows: np.ndarray,
    held: bool,
    reduction: Reduction,
) -> None:
    """Shares of units at one consumer, for one batch of patches."""
    totals = totals_of(weight.reshape(len(weight), -1), rows.reshape(len(rows), -1))
    signed = sum(w * a * total for (w, a), total in totals.items())
    spread = float((sum(totals.values()) / np.maximum(np.abs(signed), TINY)).mean(axis=1).max(initial=1))
    for number, port in wanted:
        where = classes[number].slices[port]
        reading = scores.readings[number][index]
        units = (len(weight), len(where), -1)
        largest = shares(
            weight[:, where].reshape(units),
            rows[:, where].reshape(len(rows), len(where), -1),
            totals,
            "sum" if held else reduction,
        )
        if held:
            reading.held = np.maximum(reading.held, largest)
            continue
        reading.sensitivity = np.maximum(reading.sensitivity, largest)
        reading.outcomes += sum(total.size for total in totals.values())
        reading.spread = max(reading.spread, spread)


def bytes_of(context: Context, tensor: str) -> int | None:
    """Bytes of a tensor for one sample, where its shape is known but for the batch."""
    shape = context.shape(tensor)
    if shape is None or any(not isinstance(dim, int) for dim in shape[1:]):
        return None
    return int(np.prod([dim for dim in shape[1:] if isinstance(dim, int)])) * 4
