"""Which prefix of the order of units a budget asks for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx

from . import benchmark
from .benchmark import LatencyTable, Ratio
from .benchmark.environment import environment
from .candidates import Candidates
from .errors import InputError
from .pruning.allocation import for_size, prefix
from .pruning.budget import Budget, longest, metric
from .pruning.latency import LatencyFunction
from .runtime import PROVIDERS

TRIES = 6
"""How often a budget is tightened when what comes out is more than the function of the units kept says."""

MEASURED_TRIES = 6
"""The same where each costs a measurement."""

CLOSE = 0.02
"""A measured latency this close to the wanted one meets it: two sessions of one model differ by as much."""

LOOSE = 0.05
"""A latency further below the wanted one than this gives up more than it has to."""

SECONDS = 2.0


def by_size(candidates: Candidates, budget: Budget, repairing: bool) -> int:
    """The shortest prefix whose shrunk model keeps to the budget: found by the size function, then held against the
    shrink itself, which may keep a carrier or fill up a group.

    Args:
        candidates: the order, and the model of any prefix.
        budget: of MACs or parameters.
        repairing: whether layers may get biases.

    Raises:
        InputError: the MACs are not known, or the budget cannot be met.
    """
    what, share = ("macs", budget.macs) if budget.macs is not None else ("parameters", budget.parameters)
    size = candidates.macs if what == "macs" else candidates.parameters
    full = candidates.before[what]
    if size is None or full is None or share is None:
        raise InputError(
            "the MACs of this model are not known",
            file=candidates.model.name,
            cure="--keep-parameters, or --input-shape",
        )
    order, limit = candidates.selector.order, share * full

    def after(gone: int) -> int:
        candidates.say(f"counting with {gone} of {len(order)} units gone")
        return candidates.count(candidates.shrunk(candidates.selector(gone), repairing), what) or 0

    target = limit
    for _ in range(TRIES):
        gone = for_size(order, size, target)
        if gone is None:
            break
        count = after(gone)
        if count <= limit:
            return gone
        target -= max(count - limit, 1)
    # the function takes weights that layers share for cut apart, where the shrink may cut them alike
    gone = prefix(order, lambda some: after(some) <= limit)
    if gone is not None:
        return gone
    raise InputError(
        f"{100 * share:.4g} % of the {what} cannot be reached",
        file=candidates.model.name,
        cure=f"the nearest reachable is {100 * after(len(order)) / full:.1f} %",
    )


def by_latency(candidates: Candidates, share: float, repairing: bool, folder: Path) -> int:
    """The prefix whose latency is the wanted share of the original's: found by the table, then held against the clock
    where the table is of this machine, and looked for again with what the clock said.

    Args:
        candidates: the order, and the model of any prefix; with a table.
        share: of the original's latency.
        repairing: whether layers may get biases.
        folder: an empty one for models to measure.

    Raises:
        InputError: the budget cannot be met, as the table says and, where it is of this machine, the clock.
    """
    latency, table, order = candidates.latency, candidates.table, candidates.selector.order
    assert latency is not None
    assert table is not None
    function: LatencyFunction = latency

    def predicted(gone: int) -> float:
        return float(function(order.counts(order.masks(gone)))) / function.whole

    def told(target: float) -> int | None:
        return for_size(order, function, target * function.whole)

    def unreachable(nearest: float, source: str) -> InputError:
        return InputError(
            f"{100 * share:.4g} % of the latency cannot be reached",
            file=candidates.model.name,
            cure=f"the nearest reachable is {100 * nearest:.1f} %, as the {source} says",
        )

    first = told(share)
    if not here(candidates, table):
        if first is None:
            raise unreachable(predicted(len(order)), "table")
        return first
    gone = len(order) if first is None else first
    tried: dict[int, float] = {}
    slow, fast = -1, len(order) + 1  # the longest prefix that is too slow, and the shortest that is not
    while len(tried) < MEASURED_TRIES and slow < gone < fast:
        candidates.say(f"measuring {gone} of {len(order)} units gone")
        proto = candidates.shrunk(candidates.selector(gone), repairing)
        tried[gone] = ratio = measure(candidates, proto, table, folder).ratio
        if share * (1 - LOOSE) <= ratio <= share * (1 + CLOSE):
            break
        slow, fast = (slow, gone) if ratio <= share * (1 + CLOSE) else (gone, fast)
        wanted = told(min(predicted(gone) * share / ratio, 1.0))
        gone = len(order) if wanted is None else wanted
        if not slow < gone < fast:  # the table is of no more help
            gone = (slow + fast) // 2
    met = [gone for gone, ratio in tried.items() if ratio <= share * (1 + CLOSE)]
    if not met and first is None:
        raise unreachable(min(tried.values()), "clock")
    return min(met) if met else min(tried, key=lambda gone: tried[gone])


def here(candidates: Candidates, table: LatencyTable) -> bool:
    """Whether a table was measured on this machine, with the provider in use."""
    own = LatencyTable(PROVIDERS[candidates.provider], table.threads, {}, "", environment(candidates.provider))
    return own.same_place(table)


def measure(
    candidates: Candidates, proto: onnx.ModelProto, table: LatencyTable, folder: Path, seconds: float = SECONDS
) -> Ratio:
    """Latency of a model over the original's, in turns, at the shapes and threads of the table."""
    source, result = folder / "original.onnx", folder / "measured.onnx"
    candidates.write(candidates.model.proto, source)
    candidates.write(proto, result)
    measured = benchmark.bench(
        source,
        result,
        provider=candidates.provider,
        threads=table.threads or None,
        input_shapes=table.shapes,
        seconds=seconds,
    )
    ratio = measured.batches[0].ratio
    assert ratio is not None
    return ratio


def by_error(candidates: Candidates, limit: float, repairing: bool) -> int:
    """The longest prefix whose error on held-out samples is within the limit.

    Raises:
        InputError: no unit can go.
    """

    def error(gone: int) -> float:
        candidates.say(f"trying {gone} of {len(candidates.selector.order)} units")
        return candidates.held.error(candidates.model_of(candidates.selector(gone), repairing=repairing)[0])

    return _longest(candidates, error, limit, f"within an error of {limit:g}", "error")


def by_metric(
    candidates: Candidates, budget: Budget, name: str, repairing: bool, folder: Path
) -> tuple[int, tuple[float, float]]:
    """The longest prefix whose metric drops by no more than the budget allows, and the metric before and after.

    Args:
        candidates: the order, and the model of any prefix.
        budget: of a drop.
        name: of the metric, for errors.
        repairing: whether the models that are evaluated are repaired.
        folder: for models to evaluate.

    Raises:
        InputError: no unit can go, or the caller's function raises.
    """
    found: dict[int, float] = {}

    def value(gone: int) -> float:
        if gone not in found:
            candidates.say(f"evaluating, {gone} of {len(candidates.selector.order)} units gone")
            path = folder / "evaluated.onnx"
            pruned = candidates.model_of(candidates.selector(gone), repairing=repairing)[0]
            candidates.write(pruned if gone else candidates.model.proto, path)
            assert budget.evaluate is not None
            found[gone] = metric(budget.evaluate, name, path)
        return found[gone]

    assert budget.drop is not None
    whole = value(0)
    gone = _longest(
        candidates, lambda some: whole - value(some), budget.drop, f"within a drop of {budget.drop:g}", "drop"
    )
    return gone, (whole, value(gone))


def _longest(candidates: Candidates, loss: Callable[[int], float], limit: float, told: str, what: str) -> int:
    """The longest prefix whose loss is within the limit."""
    order = candidates.selector.order
    gone = longest(len(order), lambda some: loss(some) <= limit)
    first = prefix(order, lambda some: any(not mask.all() for mask in order.masks(some))) or len(order)
    if gone < first:
        raise InputError(
            f"no unit can go {told}",
            file=candidates.model.name,
            cure=f"the nearest reachable {what} is {loss(first):.3g}",
        )
    return gone
