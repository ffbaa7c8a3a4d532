"""One run of `prune`: classes, scores, budget, zeros, repair, and then the lossless `optimize`."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx

from . import benchmark
from .channels.analysis import Options, analyse
from .draft import Progress, Shapes, default_align, draft
from .errors import InputError, ModelError
from .graph.model import Model
from .graph.view import build
from .graph.write import Staged
from .ops.rule import Context
from .pruned import ClassMask, Point, Pruned
from .pruning import calibration as samples
from .pruning import guarantee as theorem
from .pruning import masks as zeros
from .pruning.allocation import for_size, prefix
from .pruning.budget import Budget, longest, metric
from .pruning.calibration import Data
from .pruning.coupling import CouplingClass, find_classes, output_port
from .pruning.errors import HeldOut
from .pruning.guarantee import Guarantee
from .pruning.method import Allocation, Method, Selection, Selector, selector
from .pruning.pfp import Reduction, Variant, calibration_size
from .pruning.repair import Fit, biases_to_come, repair
from .pruning.scoring import score
from .pruning.size import SizeFunction, mac_function, parameter_function
from .shrink import optimize

CURVE = 8
"""Points of the budget curve."""

TRIES = 6
"""How often a budget is tightened when the shrink leaves more than the size function says."""


class Pruner:
    """One run of `prune`."""

    def __init__(
        self,
        model: Model,
        data: Data | None,
        random_data: int | None,
        align: int | None,
        limit: int,
        input_shapes: Shapes,
        provider: str,
        seed: int,
        say: Progress,
    ):
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
            self.calibration = samples.load(model.proto, data, limit)
        else:
            self.calibration = samples.draw(model.proto, random_data or 0, self.input_shapes, seed)
        self.shapes = {**self.calibration.shapes, **self.input_shapes}
        self.macs = mac_function(self.solution, self.classes, self.shapes)
        self.parameters = parameter_function(self.solution, self.classes)
        full = benchmark.count_macs(model.proto, self.shapes).total
        self.before = {"parameters": benchmark.parameters(model.original), "macs": full}
        self.held = HeldOut(model.proto, self.calibration, provider, self.folder)

    def rank(self, method: Method, variant: Variant, allocation: Allocation, reduction: Reduction) -> None:
        """Score all units and put them in order."""
        self.method: Method = method
        self.scores = None
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
        self.selector: Selector = selector(
            method, variant, allocation, self.context, self.classes, self.scores, aligned, rooms, self.seed
        )

    def run(
        self, budget: Budget, name: str, repairing: bool, masks_only: bool, output: str | Path | None, folder: Path
    ) -> Pruned:
        """Find the selection that the budget asks for, and make its model."""
        measured: tuple[float, float] | None = None
        if budget.evaluate is not None:
            gone, measured = self._search_metric(budget, name, repairing, folder)
        elif budget.error is not None:
            gone = self._search_error(budget.error, repairing)
        else:
            gone = self._for_size(budget, repairing)
        selection = self.selector(gone)
        plain, _ = self._model(selection, repairing=False)
        proto, fits = self._model(selection, repairing=repairing)
        before = self.held.error(plain)
        error = self.held.error(proto) if repairing else before
        guarantee, reason = self._guarantee(selection, repairing)
        curve = self._curve()
        shrunk = None
        masked = folder / "pruned.onnx"
        if masks_only:
            if output is not None:
                self._write(proto, Path(output))
        else:
            self._write(proto, masked)
            shrunk = optimize(
                masked,
                output,
                align=self.align,
                input_shapes=self.input_shapes or None,
                provider=self.provider,
                progress=self.say,
            )
            shrunk.map["source"]["sha256"] = self.model.digest()
            shrunk.map["options"]["pruned"] = self.method
        now = self.selector.order.counts(selection.masks)
        sizes: dict[str, tuple[int | None, int | None]] = {
            "parameters": (self.before["parameters"], round(self.parameters(now))),
            "macs": (self.before["macs"], None if self.macs is None else round(self.macs(now))),
        }
        if shrunk is not None:
            sizes = {**sizes, "parameters": (self.before["parameters"], benchmark.parameters(shrunk.model))}
            after = benchmark.count_macs(shrunk.model, self.shapes).total
            sizes["macs"] = (self.before["macs"], after)
        notes = [] if gone else ["cutting what carries nothing is enough for this budget: no channel was given up"]
        for what, share in (("parameters", budget.parameters), ("macs", budget.macs)):
            was, now_is = sizes[what]
            if share is not None and was and now_is and now_is > share * was:
                notes.append(
                    f"{100 * now_is / was:.1f} % of the {what}: layers that shared a weight were repaired apart"
                )
        notes += ["the samples are noise: the error says little about real inputs"] if self.calibration.random else []
        return Pruned(
            proto if shrunk is None else shrunk.model,
            self._masks(selection),
            error,
            before,
            selection.epsilon,
            guarantee,
            reason,
            curve,
            fits,
            sizes,
            measured,
            shrunk,
            notes,
        )

    # budgets

    def _for_size(self, budget: Budget, repairing: bool) -> int:
        """The shortest prefix whose shrunk model keeps to the budget: found by the size function, then held against
        the shrink itself, which may keep a carrier or fill up a group.
        """
        what, share = ("macs", budget.macs) if budget.macs is not None else ("parameters", budget.parameters)
        size: SizeFunction | None = self.macs if what == "macs" else self.parameters
        full = self.before[what]
        if size is None or full is None or share is None:
            raise InputError(
                "the MACs of this model are not known", file=self.model.name, cure="--keep-parameters, or --input-shape"
            )
        target = share * full
        for _ in range(TRIES):
            gone = for_size(self.selector.order, size, target)
            if gone is None:
                break
            after = self._shrunk_size(self.selector(gone), what, repairing)
            if after is None or after <= share * full:
                return gone
            target -= max(after - share * full, 1)
        least = self._shrunk_size(self.selector(len(self.selector.order)), what, repairing) or full
        raise InputError(
            f"{100 * share:.4g} % of the {what} cannot be reached",
            file=self.model.name,
            cure=f"the nearest reachable is {100 * least / full:.1f} %",
        )

    def _shrunk_size(self, selection: Selection, what: str, repairing: bool) -> int | None:
        """The true count of a selection's model after the shrink, with the biases that the repair may add."""
        dead = zeros.dead_slices(self.classes, selection.masks)
        biases = biases_to_come(self.solution, dead) if repairing else {}
        proto = zeros.write(self.graph, zeros.zeroed(self.context, dead), biases)
        made = draft(build(Model(proto, self.model.path)), Options(align=self.align), self.shapes)
        return made.macs[1] if what == "macs" else benchmark.parameters(made.execution.model)

    def _search_error(self, limit: float, repairing: bool) -> int:
        order = self.selector.order

        def error(gone: int) -> float:
            self.say(f"trying {gone} of {len(order)} units")
            return self.held.error(self._model(self.selector(gone), repairing=repairing)[0])

        gone, least = longest(len(order), lambda some: error(some) <= limit), self._least()
        if gone < least:
            raise InputError(
                f"no unit can go within an error of {limit:g}",
                file=self.model.name,
                cure=f"the nearest reachable error is {error(least):.3g}",
            )
        return gone

    def _search_metric(
        self, budget: Budget, name: str, repairing: bool, folder: Path
    ) -> tuple[int, tuple[float, float]]:
        assert budget.drop is not None
        found: dict[int, float] = {}

        def measure(gone: int) -> float:
            if gone not in found:
                self.say(f"evaluating, {gone} of {len(self.selector.order)} units gone")
                path = folder / "evaluated.onnx"
                proto = self._model(self.selector(gone), repairing=repairing)[0] if gone else self.model.proto
                self._write(proto, path)
                assert budget.evaluate is not None
                found[gone] = metric(budget.evaluate, name, path)
            return found[gone]

        least = measure(0) - budget.drop
        gone, first = longest(len(self.selector.order), lambda some: measure(some) >= least), self._least()
        if gone < first:
            raise InputError(
                f"no unit can go within a drop of {budget.drop:g}",
                file=self.model.name,
                cure=f"the nearest reachable drop is {measure(0) - measure(first):.3g}",
            )
        return gone, (measure(0), measure(gone))

    def _least(self) -> int:
        """The shortest prefix of which anything goes."""
        order = self.selector.order
        return prefix(order, lambda gone: any(not mask.all() for mask in order.masks(gone))) or len(order)

    def _counts(self, gone: int) -> list[int]:
        return self.selector.order.counts(self.selector.order.masks(gone))

    def _curve(self) -> list[Point]:
        order, points = self.selector.order, []
        size = self.macs or self.parameters
        full, least = size(self._counts(0)), size(self._counts(len(order)))
        for step in range(1, CURVE + 1):
            gone = for_size(order, size, full - (full - least) * step / (CURVE + 1))
            if gone is None:
                continue
            self.say(f"budget curve, {step} of {CURVE}")
            selection = self.selector(gone)
            now = self.selector.order.counts(selection.masks)
            macs = None if self.macs is None or not self.before["macs"] else self.macs(now) / self.before["macs"]
            parameters = self.parameters(now) / (self.before["parameters"] or 1)
            points.append(Point(macs, parameters, self.held.error(self._model(selection, repairing=False)[0])))
        return points

    # models

    def _model(self, selection: Selection, *, repairing: bool) -> tuple[onnx.ModelProto, list[Fit]]:
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
            provider=self.provider,
            folder=self.folder,
            seed=self.seed,
            watch=self.say,
        )
        return zeros.write(self.graph, done.changed, done.biases), done.fits

    def _write(self, proto: onnx.ModelProto, path: Path) -> None:
        with Staged(proto, self.model, path) as staged:
            staged.commit()

    def _guarantee(self, selection: Selection, repairing: bool) -> tuple[Guarantee | None, str]:
        if self.method != "pfp":
            return None, f"{self.method} has no theorem"
        if selection.factors is None or self.selector.drawn is None:
            return None, "the theorem is about sampled channels (--variant sampled), not about a chosen selection"
        if repairing:
            return None, "the theorem is about reweighed channels (--no-repair), not about repaired ones"
        if self.calibration.random:
            return None, "the theorem is about the data that scored, and these are noise"
        assert self.scores is not None
        assert self.selector.importance is not None
        assert selection.epsilon is not None
        self.say("checking the bound on held-out samples")
        bounds = theorem.bounds(self.classes, self.selector.importance, self.scores, selection.masks, selection.epsilon)
        within, worst = theorem.hold_out(
            self.context,
            self.classes,
            selection.factors,
            selection.epsilon,
            self.model.proto,
            self.calibration,
            provider=self.provider,
            folder=self.folder,
        )
        asked = calibration_size(*self._activations())
        return Guarantee(bounds, within, worst, asked, len(self.calibration.scoring)), ""

    def _activations(self) -> tuple[int, int]:
        """Elements of all layers' outputs for one sample, and of the largest one's."""
        counts = []
        for node in self.graph.nodes:
            shape = self.context.shape(node.outputs[0]) or ()
            if self.context.channels(node) is not None:
                counts.append(math.prod(dim for dim in shape[1:] if isinstance(dim, int)))
        return sum(counts), max(counts, default=1)

    def _masks(self, selection: Selection) -> list[ClassMask]:
        return [
            ClassMask(
                one.name,
                tuple(node.label for node in one.producers),
                one.units,
                tuple(int(unit) for unit in np.flatnonzero(mask)),
            )
            for one, mask in zip(self.classes, selection.masks, strict=True)
        ]


def _alignment(found: CouplingClass, align: int, context: Context) -> tuple[int, int]:
    """Units that make up a multiple of `align` channels in every layer that produces the class, and units that these
    layers have channels for.
    """
    ports = [output_port(node, context) for node in found.producers]
    widths = [found.slices[port].shape[1] for port in ports]
    rooms = [(context.size(*port) or 1) // width for port, width in zip(ports, widths, strict=True)]
    return max(align // math.gcd(align, width) for width in widths), max(found.units, min(rooms))
