"""What `prune` chooses from: a model's coupling classes, scored and in order, and the model of any selection."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx

from . import benchmark
from .benchmark import LatencyTable
from .channels.analysis import Options, analyse
from .choices import Allocation, Method, Provider, Reduction, Variant
from .draft import Progress, Shapes, default_align, draft
from .errors import ModelError
from .graph.model import Model
from .graph.view import build
from .graph.write import Staged
from .ops.rule import Context
from .pruning import calibration as samples
from .pruning import masks as zeros
from .pruning.allocation import Size
from .pruning.budget import Budget
from .pruning.calibration import Data
from .pruning.coupling import CouplingClass, find_classes, output_port
from .pruning.errors import Outputs
from .pruning.latency import LatencyFunction, latency_function
from .pruning.method import Selection, Selector, selector
from .pruning.repair import Fit, biases_to_come, repair
from .pruning.scoring import Scores, score
from .pruning.size import mac_function, parameter_function

MEASURED = 64
"""Samples that a class's own error is measured on."""

LAYER_SECONDS = 1.0
"""How long each layer is measured where there is no table."""


class Candidates:
    """All selections of one model and one order."""

    selector: Selector
    scores: Scores | None
    method: Method
    apart: bool
    """Whether layers that share a weight may be repaired apart, which makes it two: not on a budget of parameters."""

    def __init__(
        self,
        model: Model,
        data: Data | None,
        random_data: int | None,
        pixels: str | None,
        align: int | None,
        limit: int,
        input_shapes: Shapes,
        provider: Provider,
        seed: int,
        say: Progress,
    ):
        """Find the classes, and read the samples.

        Raises:
            ModelError: no channel can go.
            InputError: the samples do not fit.
        """
        self.model, self.provider, self.seed, self.say = model, provider, seed, say
        self.folder = model.path.parent if model.path is not None and model.external_files() else None
        self.input_shapes = dict(input_shapes or {})
        say("finding coupling classes")
        graph = build(model)
        self.align = default_align(graph) if align is None else align
        self.solution = analyse(graph, Options(0.0, 1)).solution
        self.graph, self.context = self.solution.context.graph, self.solution.context
        self.classes = find_classes(self.solution)
        if not self.classes:
            raise ModelError(
                "no channel of this model can be pruned",
                file=model.name,
                cure="onnxshrink inspect says what holds them",
            )
        if data is not None:
            self.calibration = samples.load(model.proto, data, limit, pixels, self.input_shapes)
        else:
            self.calibration = samples.draw(model.proto, random_data or 0, self.input_shapes, seed)
        self.shapes = {**self.calibration.shapes, **self.input_shapes}
        self.macs = mac_function(self.solution, self.classes, self.shapes)
        self.parameters = parameter_function(self.solution, self.classes)
        full = benchmark.count_macs(model.proto, self.shapes).total
        self.before = {"parameters": benchmark.parameters(model.original), "macs": full}
        self.held = Outputs(model.proto, self.calibration, self.calibration.held, provider, self.folder)
        self.table: LatencyTable | None = None
        self.latency: LatencyFunction | None = None

    def use_table(self, table: LatencyTable | None) -> None:
        """Take latencies from a table; where there is none, measure this model's layers first.

        Raises:
            InputError: the table is not complete or not of this model.
        """
        if table is None:
            with tempfile.TemporaryDirectory(prefix="onnxshrink-") as folder:
                self.write(self.model.proto, Path(folder) / "model.onnx")
                table = benchmark.measure_layers(
                    Path(folder) / "model.onnx",
                    provider=self.provider,
                    input_shapes=self.shapes,
                    seconds=LAYER_SECONDS,
                    progress=self.say,
                )
        self.table, self.latency = table, latency_function(self.solution, self.classes, table)

    def rank(
        self, method: Method, variant: Variant, allocation: Allocation, reduction: Reduction, budget: Budget
    ) -> None:
        """Score all units and put them in order."""
        self.method, self.scores, self.apart = method, None, budget.parameters is None
        if method in ("pfp", "wanda"):
            self.scores = score(
                self.context,
                self.classes,
                self.model.proto,
                self.calibration,
                sensitivities=method == "pfp",
                reduction=reduction,
                provider=self.provider,
                folder=self.folder,
                seed=self.seed,
                watch=lambda done, total: self.say(f"scoring, {100 * done // max(total, 1)} %"),
            )
        alignment = [_alignment(found, self.align, self.context) for found in self.classes]
        aligned, rooms = [multiple for multiple, _ in alignment], [room for _, room in alignment]
        self.selector = selector(
            method,
            variant,
            allocation,
            self.context,
            self.classes,
            self.scores,
            aligned,
            rooms,
            self.seed,
            self.cost(budget),
            self._error_alone(),
        )

    def cost(self, budget: Budget) -> Size:
        """What a budget counts: latency, parameters, or MACs where they are known."""
        if budget.latency is not None and self.latency is not None:
            return self.latency
        return self.parameters if budget.parameters is not None or self.macs is None else self.macs

    def _error_alone(self) -> Callable[[Sequence[np.ndarray]], float]:
        """The error of masks on scoring samples, unrepaired; for classes that are pruned one at a time."""
        found: list[Outputs] = []
        done = 0

        def error(masks: Sequence[np.ndarray]) -> float:
            nonlocal done
            if not found:
                some = self.calibration.scoring[:MEASURED]
                found.append(Outputs(self.model.proto, self.calibration, some, self.provider, self.folder))
            done += 1
            self.say(f"measuring what each class is worth, {done} of about {3 * len(self.classes)}")
            return found[0].error(self.model_of(Selection([*masks]), repairing=False)[0])

        return error

    def model_of(self, selection: Selection, *, repairing: bool) -> tuple[onnx.ModelProto, list[Fit]]:
        """The original's graph with zeros, reweighed or repaired."""
        dead = zeros.dead_slices(self.classes, selection.masks)
        changed = zeros.zeroed(self.context, dead)
        if selection.factors is not None:
            changed = zeros.reweigh(self.context, self.classes, selection.factors, changed)
        if not repairing:
            return zeros.write(self.graph, changed, {}), []
        done = repair(
            self.solution,
            changed,
            dead,
            self.calibration,
            apart=self.apart,
            provider=self.provider,
            folder=self.folder,
            seed=self.seed,
            watch=self.say,
        )
        return zeros.write(self.graph, done.changed, done.biases), done.fits

    def shrunk(self, selection: Selection, repairing: bool) -> onnx.ModelProto:
        """What the shrink makes of a selection that is not repaired, with the biases that the repair may add."""
        dead = zeros.dead_slices(self.classes, selection.masks)
        biases = biases_to_come(self.solution, dead, apart=self.apart) if repairing else {}
        return self.cut(zeros.write(self.graph, zeros.zeroed(self.context, dead), biases))

    def cut(self, proto: onnx.ModelProto) -> onnx.ModelProto:
        """The model without what carries nothing, not verified."""
        return draft(build(Model(proto, self.model.path)), Options(align=self.align), self.shapes).model

    def count(self, proto: onnx.ModelProto, what: str) -> int | None:
        """Its "macs" or "parameters"."""
        return benchmark.count_macs(proto, self.shapes).total if what == "macs" else benchmark.parameters(proto)

    def write(self, proto: onnx.ModelProto, path: Path) -> None:
        """Write a model beside its external data, whole or not at all."""
        with Staged(proto, self.model, path) as staged:
            staged.commit()


def _alignment(found: CouplingClass, align: int, context: Context) -> tuple[int, int]:
    """Units that make up a multiple of `align` channels in every layer that produces the class, and units that these
    layers have channels for.
    """
    ports = [output_port(node, context) for node in found.producers]
    widths = [found.slices[port].shape[1] for port in ports]
    rooms = [(context.size(*port) or 1) // width for port, width in zip(ports, widths, strict=True)]
    return max(align // math.gcd(align, width) for width in widths), max(found.units, min(rooms))
