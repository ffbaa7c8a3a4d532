"""Repair without training: each layer that lost inputs is fitted to what it gave before, by least squares.

Layer by layer in graph order, with A the inputs of the pruned network as it is so far (channels that are left, all
taps), z the layer's outputs in the original network on the same samples and places, and W its weights:

    minimize over D, d:  |A (W + D) + (b + d) - z|^2 + ridge |D|^2,

solved from the Gram matrix A'A, which is streamed. The intercept d takes the means of what went. The ridge is the one
that serves best on samples that were not fitted; doing nothing is among the candidates, so a layer is never made worse
there. What earlier layers still get wrong is in A, so later layers make up for it.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..channels.solve import Solution
from ..graph.view import Node
from ..ops.matmul import Multiplication
from ..ops.rule import Context
from ..ops.tie import Port
from .calibration import Calibration
from .coupling import depthwise, layer, output_port
from .frontier import Frontier
from .masks import write
from .patches import Reader
from .probe import MEMORY

RIDGES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Candidates, as shares of the Gram matrix's mean diagonal."""

BLOCK = 1024
"""Rows of a Gram matrix that are worked on at once."""

ROWS_PER_FEATURE, LEAST_ROWS = 6, 8192
"""Places that are fitted: so many for each unknown of an output, and at least so many."""

CHOOSING_ROWS = 2048
"""Places that choose the ridge, at most about."""

ROOM: dict[type[np.floating], int] = {np.float64: 13_500, np.float32: 23_170}
"""Inputs times taps of the largest Gram matrix of each type (1.4 and 2 GiB); a layer that keeps more is left alone."""

BATCH = 16
CHOOSE_EVERY = 5
"""Every so many-th scoring sample chooses the ridge instead of being fitted."""


@dataclass(frozen=True)
class Fit:
    """How one layer was repaired.

    Attributes:
        node: its label.
        before, after: |error|^2 over |z|^2 on samples that were not fitted.
        ridge: the candidate taken; None where the layer was left alone.
        rows: places that were fitted; 0 for a layer whose equations had no room.
    """

    node: str
    before: float
    after: float
    ridge: float | None
    rows: int


@dataclass
class Repaired:
    """New values of constant edges, biases of layers that had none, and what was done."""

    changed: dict[str, np.ndarray]
    biases: dict[int, np.ndarray]
    fits: list[Fit]


def repair(
    solution: Solution,
    zeros: Mapping[str, np.ndarray],
    dead: Mapping[Port, np.ndarray],
    calibration: Calibration,
    *,
    apart: bool = True,
    provider: str = "cpu",
    folder: Path | None = None,
    seed: int = 0,
    watch: Callable[[str], None] = lambda text: None,
) -> Repaired:
    """Fit every layer behind the first that lost inputs, one at a time.

    Memory: the samples, a batch of what is alive at the layer, `probe.MEMORY` of patches, and the Gram matrix of one
    layer with its right-hand sides: bytes of `precision` times the square of kept input channels times taps. That is
    below 4 GB for 2,048 inputs and outputs of 3x3, in a network that has one such layer. On disk: twice what is alive
    at the layer.

    Args:
        zeros: constants with zeros (see masks.zeroed).
        dead: slices that went, by port.
        apart: fit layers that share a weight or bias too, which gives each its own.
        watch: told what is being done.
    """
    context = solution.context
    graph = context.graph
    done = Repaired(dict(zeros), {}, [])
    shared = frozenset() if apart else _shared(context)
    layers = [node for node in graph.nodes if solution.active(node) and _fittable(node, solution, shared)]
    chosen = calibration.scoring[CHOOSE_EVERY - 1 :: CHOOSE_EVERY]
    fitted = [s for k, s in enumerate(calibration.scoring) if k % CHOOSE_EVERY != CHOOSE_EVERY - 1]
    started = False
    with tempfile.TemporaryDirectory(prefix="onnxshrink-") as scratch:
        places = []
        for name, samples in (("fitted", fitted), ("chosen", chosen or fitted)):
            batches = [feeds for _, feeds in calibration.batches(samples, BATCH)]
            pair = []
            for kind in ("original", "now"):
                own = Path(scratch) / name / kind
                own.mkdir(parents=True)
                pair.append(Frontier(graph.model.proto, batches, own, provider=provider, data_folder=folder))
            places.append((pair[0], pair[1]))
        for number, node in enumerate(layers):
            rule = layer(node, context)
            read = rule.absorbing_port(node, context) if rule is not None else None
            assert read is not None
            started |= read in dead
            if not started:
                continue
            watch(f"repairing layer {number + 1} of {len(layers)}")
            now = write(graph, done.changed, done.biases)
            for original, pruned in places:
                original.move(graph.model.proto, node.position)
                pruned.move(now, node.position)
            _Job(solution, node, read, dead, done, seed).run(*places)
    return done


def biases_to_come(solution: Solution, dead: Mapping[Port, np.ndarray], *, apart: bool = True) -> dict[int, np.ndarray]:
    """Biases of ones, by node index, for the layers that the repair may give a bias: for counting what that costs."""
    context, found = solution.context, dict[int, np.ndarray]()
    shared = frozenset() if apart else _shared(context)
    for node in context.graph.nodes:
        if solution.active(node) and _fittable(node, solution, shared) and _place(node, context) == "":
            port = output_port(node, context)
            bias = np.zeros(context.size(*port) or 0, context.graph.constants[node.inputs[1]].dtype)
            bias[_left(port, solution, dead)] = 1
            found[node.index] = bias
    return found


def _left(port: Port, solution: Solution, dead: Mapping[Port, np.ndarray]) -> np.ndarray:
    """Slices that stay."""
    mask = solution.kept(port).copy()
    mask[dead.get(port, np.zeros(0, int))] = False
    return np.flatnonzero(mask)


def _place(node: Node, context: Context) -> str | None:
    """The constant edge that takes an intercept, "" where the layer can get a bias of its own, None for neither."""
    rule, constants = layer(node, context), context.graph.constants
    if isinstance(rule, Multiplication):
        edge = rule.bias(node, context)
        if edge and constants[edge].shape[-1] != context.size(node.outputs[0], -1):
            return None
        return edge if node.attr("beta", 1.0) == 1.0 else None
    bias = node.input(2)
    return bias if not bias or bias in constants else None


def _shared(context: Context) -> frozenset[str]:
    """Constants of the file that are read more than once."""
    source = context.graph.source
    uses = Counter(source[name] for node in context.graph.nodes for name in node.inputs if name in source)
    return frozenset(name for name, count in uses.items() if count > 1)


def _fittable(node: Node, solution: Solution, shared: frozenset[str]) -> bool:
    """Whether a layer can be fitted; one that reads any of `shared` cannot."""
    context = solution.context
    return (
        layer(node, context) is not None
        and not depthwise(node, context)
        and node.inputs[0] not in context.graph.constant_only
        and Reader(node, context).dense
        and shared.isdisjoint(context.graph.source.get(name, "") for name in node.inputs[1:])
    )


Places = tuple[Frontier, Frontier]
"""The original and the pruned network in front of a layer."""


class _Job:
    """The repair of one layer."""

    def __init__(
        self, solution: Solution, node: Node, read: Port, dead: Mapping[Port, np.ndarray], done: Repaired, seed: int
    ):
        self.seed = seed
        self.context, self.node, self.done = solution.context, node, done
        self.reader = Reader(node, solution.context)
        self.original = self.reader.matrix(solution.context.graph.constants[node.inputs[1]])
        self.inputs = _left(read, solution, dead)
        self.outputs = _left(output_port(node, solution.context), solution, dead)
        self.taps = self.original.shape[2]

    def run(self, fitted: Places, chosen: Places) -> None:
        """Fit the layer, and store what it becomes.

        Args:
            fitted, chosen: original and pruned network in front of the layer, on the samples to fit and on those that
                choose the ridge.
        """
        place = _place(self.node, self.context)
        features = self.inputs.size * self.taps
        kind = precision(features + (place is not None))
        fit, solved = self._gather(fitted, chosen, place is not None, kind).best(self.node.label)
        self.done.fits.append(fit)
        if solved is not None:
            self._store(solved[:features], solved[features] if place is not None else None, place)

    def _gather(self, fitted: Places, chosen: Places, intercept: bool, kind: type[np.floating] | None) -> _System:
        """Stream the samples into the equations of the layer; where these have no room, those that are held alone."""
        name = self.node.inputs[0]
        weight = self.original[np.ix_(self.outputs, self.inputs)].reshape(self.outputs.size, -1).T
        features = weight.shape[0]
        full = self.original[self.outputs].reshape(self.outputs.size, -1).T
        most = max(1, MEMORY // (8 * full.shape[0]))  # places in memory

        def pairs(networks: Places, wanted: int, salt: int) -> Iterator[tuple[np.ndarray, ...]]:
            """(inputs now, what the outputs lack, what they should be) of places of some samples."""
            count = min(most, -(-wanted // len(networks[0])))
            for batch in range(len(networks[0])):
                right, now = (
                    self.reader.rows(
                        network(batch, name), count, np.random.default_rng([self.seed, self.node.index, batch, salt])
                    )
                    for network in networks
                )
                target = right.reshape(len(right), -1) @ full
                rows = now[:, self.inputs].reshape(len(now), -1)
                if intercept:
                    rows = np.concatenate([rows, np.ones((len(rows), 1), np.float32)], axis=1)
                yield rows, target - rows[:, :features] @ weight, target

        if kind is None:
            system = _System(0, False, 0, np.float32)
        else:
            system = _System(features, intercept, self.outputs.size, kind)
            for rows, missing, _ in pairs(fitted, max(LEAST_ROWS, ROWS_PER_FEATURE * features), 0):
                system.add(rows, missing)
        for rows, missing, target in pairs(chosen, CHOOSING_ROWS, 1):
            system.hold(rows, missing, target)
        return system

    def _store(self, change: np.ndarray, intercept: np.ndarray | None, place: str | None) -> None:
        constants = self.context.graph.constants
        edge = self.node.inputs[1]
        matrix = self.reader.matrix(self.done.changed.get(edge, constants[edge]))
        block = self.original[np.ix_(self.outputs, self.inputs)]
        matrix[np.ix_(self.outputs, self.inputs)] = block + change.T.reshape(block.shape)
        self.done.changed[edge] = self.reader.store(matrix, constants[edge])
        if intercept is None:
            return
        if place:
            bias = np.array(self.done.changed.get(place, constants[place]))
            bias[..., self.outputs] = (bias[..., self.outputs] + intercept).astype(bias.dtype)
            self.done.changed[place] = bias
        else:
            bias = np.zeros(self.original.shape[0], constants[edge].dtype)
            bias[self.outputs] = intercept
            self.done.biases[self.node.index] = bias


class _System:
    """The equations of one layer: the Gram matrix of its inputs, right-hand sides, and places that choose the ridge.

    Args:
        features: inputs times taps, to which a constant one is added for an `intercept`.
        kind: what is computed in.
    """

    def __init__(self, features: int, intercept: bool, outputs: int, kind: type[np.floating]):
        size = features + intercept
        self.gram, self.right = np.zeros((size, size), kind), np.zeros((size, outputs), kind)
        self.features, self.total = features, 0
        self.held: list[tuple[np.ndarray, np.ndarray]] = []
        self.power = 0.0

    def add(self, rows: np.ndarray, missing: np.ndarray) -> None:
        """Places to fit: inputs [places, size], and what the outputs lack there."""
        add_gram(self.gram, rows)
        self.right += rows.T @ missing
        self.total += len(rows)

    def hold(self, rows: np.ndarray, missing: np.ndarray, target: np.ndarray) -> None:
        """Places that choose the ridge, with what the outputs should be."""
        self.held.append((rows, missing))
        self.power += float(np.square(target).sum())

    def best(self, label: str) -> tuple[Fit, np.ndarray | None]:
        """The solution [size, outputs] that serves best where nothing was fitted; None where none serves."""
        before = sum(float(np.square(missing).sum()) for _, missing in self.held)
        found: tuple[float, float | None, np.ndarray | None] = (before, None, None)
        weights = np.arange(len(self.gram)) < self.features
        mean = float(np.diagonal(self.gram)[weights].mean(dtype=np.float64)) if self.total else 0.0
        for ridge in RIDGES if self.total else ():
            solved = solve(self.gram, self.right, np.where(weights, ridge * mean, 1e-9 * self.total))
            if solved is None:
                continue
            error = sum(float(np.square(missing - rows @ solved).sum()) for rows, missing in self.held)
            if error < found[0]:
                found = (error, ridge, solved)
        power = self.power or 1.0
        return Fit(label, before / power, found[0] / power, found[1], self.total), found[2]


def precision(size: int) -> type[np.floating] | None:
    """The type of a Gram matrix of so many rows: the best that has room; None where none has."""
    return next((kind for kind, most in ROOM.items() if size <= most), None)


def add_gram(gram: np.ndarray, rows: np.ndarray) -> None:
    """Add rows' @ rows to the lower triangle of `gram`, and mirror it, in place; no product is symmetric to the bit."""
    for start in range(0, gram.shape[0], BLOCK):
        end = start + BLOCK
        part = rows[:, start:end].T @ rows[:, :end]
        gram[start:end, :end] += part
        own = gram[start:end, start:end]
        own[:] = np.tril(own) + np.tril(own, -1).T
        gram[:start, start:end] = gram[start:end, :start].T


def solve(gram: np.ndarray, right: np.ndarray, penalty: np.ndarray) -> np.ndarray | None:
    """The solution x of (gram + diag(penalty)) x = right; None where that is not positive definite.

    Cholesky factors are written over the lower triangle of `gram` and taken back afterwards from the upper one, so
    that no second matrix of its size is needed.

    Args:
        gram: symmetric, [n, n] float64 or float32, which is also what is computed in.
        right: [n, outputs].
        penalty: [n].
    """
    n = gram.shape[0]
    diagonal = np.diagonal(gram).copy()
    blocks = [slice(start, min(start + BLOCK, n)) for start in range(0, n, BLOCK)]
    inverses: list[np.ndarray] = []
    solution = np.array(right, gram.dtype)
    try:
        gram[np.arange(n), np.arange(n)] += penalty
        for k, now in enumerate(blocks):
            lower = np.linalg.cholesky(gram[now, now])
            inverses.append(np.linalg.inv(lower))
            for later in blocks[k + 1 :]:
                gram[later, now] = gram[later, now] @ inverses[k].T
            for later in blocks[k + 1 :]:
                for column in blocks[k + 1 :]:
                    if column.start <= later.start:
                        update = gram[later, now] @ gram[column, now].T
                        if column == later:  # only the lower half may change: the upper one is the original
                            update = np.tril(update)
                        gram[later, column] -= update
        for k, now in enumerate(blocks):
            for before in blocks[:k]:
                solution[now] -= gram[now, before] @ solution[before]
            solution[now] = inverses[k] @ solution[now]
        for k in reversed(range(len(blocks))):
            for later in blocks[k + 1 :]:
                solution[blocks[k]] -= gram[later, blocks[k]].T @ solution[later]
            solution[blocks[k]] = inverses[k].T @ solution[blocks[k]]
    except np.linalg.LinAlgError:
        return None
    finally:
        for now in blocks:
            upper = np.triu(gram[now, now], 1)
            gram[now, now] = upper + upper.T
            gram[now.stop :, now] = gram[now, now.stop :].T
        gram[np.arange(n), np.arange(n)] = diagonal
    return solution if np.isfinite(solution).all() else None
