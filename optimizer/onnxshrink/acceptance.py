"""What lets a draft out: structure, numbers, claims; and the fall-back for negligible weights."""

from __future__ import annotations

import tempfile
from pathlib import Path

import onnx

from . import verification
from .channels.analysis import Options
from .choices import Provider
from .draft import Draft, Progress, Shapes, draft
from .errors import NotEqualError
from .graph.model import Model
from .graph.view import Graph
from .graph.write import Staged
from .verification.inputs import Feeds
from .verification.planted import Planted, example, plant

PREFIX = "onnxshrink."


def accepted(
    judge: Judge, graph: Graph, made: Draft, options: Options
) -> tuple[Staged, verification.Verification | None, Planted | None, Draft, list[str]]:
    """The first draft that verifies: with all negligible weights, else without those layers that break it.

    Raises:
        NotEqualError: even the exact cut differs.
    """
    try:
        return (*judge(made), made, [])
    except NotEqualError as failure:
        layers = sorted(made.negligible())
        if not layers:
            raise
        judge.say("not equal with negligible weights as zeros; trying layer by layer")
        judge(draft(graph, Options(0.0, options.align)))[0].discard()
        spared = _harmful(judge, graph, options, layers)
        made = draft(graph, Options(options.negligible, options.align, frozenset(spared)))
        names = ", ".join(graph.producer[name].label for name in spared)
        note = f"negligible weights of {len(spared)} layers change the outputs and stay: {names} ({failure.what})"
        return (*judge(made), made, [note])


def _harmful(judge: Judge, graph: Graph, options: Options, layers: list[str]) -> list[str]:
    """Layers, by their first output, whose negligible weights must stay, found by halving."""

    def fine(group: list[str]) -> bool:
        stay = frozenset(set(layers) - set(group))
        try:
            judge(draft(graph, Options(options.negligible, options.align, stay)))[0].discard()
        except NotEqualError:
            return False
        return True

    def search(group: list[str]) -> list[str]:
        if fine(group):
            return []
        if len(group) == 1:
            return group
        half = len(group) // 2
        return search(group[:half]) + search(group[half:])

    harmful = search(layers)
    good = [layer for layer in layers if layer not in harmful]
    # each half may pass alone and fail together: rounding adds up
    return harmful if not good or fine(good) else layers


class Judge:
    """Checks, stages and verifies a draft."""

    def __init__(
        self,
        model: Model,
        origin: Path,
        destination: Path,
        verify: bool,
        data: str | Path | None,
        input_shapes: Shapes,
        input_ranges: verification.Ranges,
        provider: Provider,
        say: Progress,
    ):
        self.input_ranges = input_ranges
        self.model, self.origin, self.destination, self.verify = model, origin, destination, verify
        self.data, self.input_shapes, self.provider, self.say = data, input_shapes, provider, say
        self.result = model.original

    def __call__(self, made: Draft) -> tuple[Staged, verification.Verification | None, Planted | None]:
        """The draft on disk with its verdict.

        Raises:
            NotEqualError: the structure is broken, a claim does not hold, or the numbers differ.
        """
        proto = onnx.ModelProto()
        proto.CopyFrom(made.model if made.plan.changes else self.model.original)
        if made.plan.changes:
            _sign(proto, self.model, made, self.input_ranges)
        self.result = proto
        staged = Staged(proto, self.model, self.destination, verbatim=not made.plan.changes)
        try:
            verdict, planted = None, None
            if made.plan.changes:
                if self.verify:  # which begins with the structure
                    verdict, planted = self._numbers(staged, made)
                else:
                    self._structure(staged)
            return staged, verdict, planted
        except BaseException:
            staged.discard()
            raise

    def _structure(self, staged: Staged) -> None:
        self.say("checking the structure")
        proto = onnx.load_model(str(staged.path), load_external_data=False)
        found = verification.introduced(proto, self.model.proto, folder=staged.path.parent, source=self.origin.parent)
        if found:
            raise NotEqualError(
                f"the result's structure is broken ({found[0].what}), {len(found)} findings",
                file=self.model.name,
                node=found[0].node,
                cure="this is a bug of onnxshrink: please report it with the model",
            )

    def _numbers(self, staged: Staged, made: Draft) -> tuple[verification.Verification, Planted | None]:
        self.say("verifying")
        verdict = verification.verify(
            self.origin,
            staged.path,
            data=self.data,
            input_shapes=self.input_shapes,
            provider=self.provider,
            progress=self.say,
            apart=made.apart(),
            input_ranges=self.input_ranges,
            kept=made.plan.kept,
        )
        if verdict.state == "failed":
            what = f"result differs from the original by {verdict.max_rel:.1e} of max|y| at output "
            what += f"`{verdict.worst_output}` (allowed {verdict.bound:.1e})"
            raise NotEqualError(
                f"{verdict.notes[0] if verdict.worst_output is None and verdict.notes else what}; nothing was written",
                file=self.model.name,
                cure="--negligible 0, or report it with the model",
            )
        planted = None
        feed = example(self.origin, self.input_shapes, self.input_ranges)
        if feed is not None:
            self.say("testing the plan's claims")
            planted = self._claims(made, feed)
            if not planted.passed:
                raise NotEqualError(
                    f"a claim of the plan does not hold: {planted.broken[0]}; nothing was written",
                    file=self.model.name,
                    cure="--negligible 0, or report it with the model",
                )
        return verdict, planted

    def _claims(self, made: Draft, feed: Feeds) -> Planted:
        """The test of each pass's claims, on the model that it looked at."""
        found = []
        with tempfile.TemporaryDirectory(prefix="onnxshrink-") as folder:
            for number, one in enumerate(made.passes):
                origin, proto, plan = self.origin, self.model.proto, one.plan
                if number:
                    origin = Path(folder) / f"pass{number}.onnx"
                    with Staged(made.passes[number - 1].execution.model, self.model, origin) as staged:
                        staged.commit()
                    proto = onnx.load_model(str(origin), load_external_data=False)
                found.append(plant(origin, proto, feed, plan.unread, plan.absorbed, plan.kept))
        return sum(found[1:], start=found[0])


def _sign(proto: onnx.ModelProto, model: Model, made: Draft, ranges: verification.Ranges) -> None:
    """Source, version and options in prefixed metadata; the first source stays the source."""
    from . import __version__

    options = made.options
    values = {
        "version": __version__,
        "source_sha256": model.digest(),
        "options": f"align={options.align} negligible={options.negligible:g}",
    }
    if ranges:
        values["input_ranges"] = " ".join(f"{name}:{low:g},{high:g}" for name, (low, high) in sorted(ranges.items()))
    for entry in list(proto.metadata_props):
        if entry.key.startswith(PREFIX):
            proto.metadata_props.remove(entry)
    for key, value in values.items():
        proto.metadata_props.add(key=PREFIX + key, value=value)
