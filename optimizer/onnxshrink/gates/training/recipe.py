"""Recipes: all that defines a training run, as data, and the plan of its epochs.

A run has two learning rate cycles. The first trains the dense network. The second prunes and fine-tunes: channels are
closed in its first part, while the learning rate is high, and the rest of it belongs to what is left. Every search,
the uniform one included, gets the same second cycle: the same epochs, rates and batches.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from ...errors import InputError
from ..gate import FORMS
from ..loss import KINDS
from ..schedule import cubic_ramp

SEARCHES = ("importance", "relaxation", "uniform", "none")
PATHS = ("linear", "geometric")

SIZES = (*KINDS, "latency")

LIMITS = {
    "dense_epochs": (0, math.inf),
    "search_epochs": (0, math.inf),
    "finetune_epochs": (0, math.inf),
    "batch": (1, math.inf),
    "multiple": (1, math.inf),
    "seed": (-(2**40), 2**40),
    "floor": (0, 1),
    "warmup": (0, 0.99),
    "label_smoothing": (0, 1),
    "distil": (0, 1),
    "ejector_start": (0, 1),
    "ejector_full": (0, 1),
    "gate_rate": (0, math.inf),
    "size_weight": (0, math.inf),
    "ejector_weight": (0, math.inf),
    "dense_rate": (0, math.inf),
    "prune_rate": (0, math.inf),
    "weight_decay": (0, math.inf),
    "slope": (1e-3, 1e3),
    "slope_end": (1e-3, 1e3),
    "sigma": (1e-3, math.inf),
    "temperature": (1e-3, math.inf),
}
"""The least and the largest value of fields that have one; an infinite one is itself no value."""


@dataclass(frozen=True)
class Recipe:
    """What defines a run.

    `search` says how channels are chosen. "importance" and "relaxation" close them in `steps` steps along `path`:
    "importance" those that matter least to the loss for what they cost; "relaxation" trains the gates with the size
    loss and the ejector, and closes those that fell to a threshold, and then the lowest. "uniform" closes the same
    share of every layer, by L1 norm, before the second cycle begins. "none" closes nothing: the dense network with the
    same epochs.

    Attributes:
        network: name of the architecture; a checkpoint belongs to it.
        search: see above.
        size: "macs", "parameters" or "latency".
        target: share of the size to keep.
        dense_epochs: of the first cycle.
        search_epochs: of the second cycle, in which channels are closed.
        finetune_epochs: of the second cycle, after the last was closed.
        steps: how often channels are closed.
        path: how the size goes down in the search: "linear" in equal parts of the original, the last of which are large
            parts of what is left; "geometric" in equal parts of what is left. The size loss of "relaxation" asks for
            it, too: asked for the target at once, all gates fall together.
        thresholds: of "relaxation", where the search begins and where it ends; in equal ratios between.
        floor: share of its units that each gate keeps at least.
        multiple: channel counts stay multiples of it; odd counts can be slower than the dense network.
        vanish: whole branches may be closed where the network can do without them: blocks of a ResNet, but also the
            levels of a U-Net, of which the loss of the moment says little.
        form: of the gates: "sigmoid", "step" or "hard-concrete".
        slope: of the sigmoid at the beginning of the search.
        slope_end: of the sigmoid at its end; more than `slope` is the annealed form.
        gate_rate: learning rate of the gates (Adam, no weight decay).
        size_weight, ejector_weight, ejector_start, ejector_full, sigma: of the two losses that gates add; the
            ejector's ramp is told in shares of each step.
        collapse: cut closed channels out as training goes on.
        batch: examples in a batch, over all processes.
        dense_rate, prune_rate: peaks of the two cycles (SGD, Nesterov momentum).
        warmup: share of each cycle in which the rate rises.
        weight_decay: of weights with more than one axis.
        label_smoothing: of the task's loss.
        distil: weight of the dense network's answers against the labels, in [0, 1].
        temperature: of the distillation.
        bf16: autocast to bfloat16.
        channels_last: memory format of images and weights.
        seed: of weights, batches and augmentation.
    """

    network: str = "resnet20"
    search: str = "importance"
    size: str = "macs"
    target: float = 0.5
    dense_epochs: int = 20
    search_epochs: int = 6
    finetune_epochs: int = 14
    steps: int = 18
    path: str = "linear"
    thresholds: tuple[float, ...] = (0.02, 0.25)
    floor: float = 0.1
    multiple: int = 1
    vanish: bool = True
    form: str = "sigmoid"
    slope: float = 5.0
    slope_end: float = 5.0
    gate_rate: float = 0.02
    size_weight: float = 1.0
    ejector_weight: float = 1.0
    ejector_start: float = 0.5
    ejector_full: float = 0.9
    sigma: float = 0.5
    collapse: bool = True
    batch: int = 128
    dense_rate: float = 0.25
    prune_rate: float = 0.1
    warmup: float = 0.2
    weight_decay: float = 5e-4
    label_smoothing: float = 0.1
    distil: float = 0.0
    temperature: float = 4.0
    bf16: bool = True
    channels_last: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        words = (
            (self.search, SEARCHES, "search"),
            (self.path, PATHS, "path"),
            (self.form, tuple(FORMS), "gate form"),
            (self.size, SIZES, "size"),
        )
        for value, names, what in words:
            if value not in names:
                raise InputError(f"there is no {what} {value!r}", cure=f"take one of {', '.join(names)}")
        for name, (least, largest) in LIMITS.items():
            if not least <= getattr(self, name) <= largest or math.isinf(getattr(self, name)):
                until = "" if largest == math.inf else f" and at most {largest:g}"
                raise InputError(f"{name} is {getattr(self, name)}", cure=f"take at least {least:g}{until}")
        if not 0 < self.target <= 1:
            raise InputError(f"the target is a share of the size, {self.target} is not", cure="take one in (0, 1]")
        if self.search == "importance" and self.form != "sigmoid":
            raise InputError(f"importance is measured at sigmoid gates, not at {self.form}", cure="take relaxation")
        if len(self.thresholds) != 2 or not 0 < self.thresholds[0] <= self.thresholds[1] < 1:
            raise InputError(
                f"thresholds are {self.thresholds}", cure="give those of the beginning and the end, 0 < a <= b < 1"
            )
        if self.search in ("importance", "relaxation") and not (self.search_epochs and self.closings()):
            raise InputError("a search needs epochs and steps", cure="give both, or take the uniform search")

    @staticmethod
    def of(table: Mapping[str, Any], **changes: Any) -> Recipe:
        """A recipe from a table of its fields, as TOML or JSON has it.

        Raises:
            InputError: there is no such field, or its value is of another kind.
        """
        defaults = {field.name: field.default for field in fields(Recipe)}
        values: dict[str, Any] = {}
        for name, value in {**table, **changes}.items():
            if name not in defaults:
                raise InputError(f"a recipe has no field {name!r}", cure=f"take one of {', '.join(defaults)}")
            values[name] = _fitting(name, value, defaults[name])
        return Recipe(**values)

    def closings(self) -> list[float]:
        """How far the search has come at the end of each step, where channels are closed."""
        if self.search in ("importance", "relaxation"):
            return [(step + 1) / self.steps for step in range(self.steps)]
        return []

    def size_at(self, progress: float) -> float:
        """The share of the size that is left where the search has come so far."""
        return self.target**progress if self.path == "geometric" else 1 - (1 - self.target) * progress

    def threshold_at(self, progress: float) -> float:
        """The threshold of the gates where the search has come so far."""
        first, last = self.thresholds
        return first * (last / first) ** progress

    def step_slope(self, progress: float) -> float:
        """The sigmoid's slope where the search has come so far."""
        return self.slope + (self.slope_end - self.slope) * progress

    def ejector(self, progress: float) -> float:
        """The ejector's weight where the search has come so far; the ramp begins anew in each step."""
        steps = len(self.closings())
        within = progress * steps - min(int(progress * steps), steps - 1)
        return cubic_ramp(within, self.ejector_start, self.ejector_full, self.ejector_weight)


def _fitting(name: str, value: Any, default: Any) -> Any:
    """The value of a field, of its default's kind: a whole number may stand for a number, a number for a list of one.

    Raises:
        InputError: it is of another kind.
    """
    if isinstance(default, tuple):
        found = tuple(value) if isinstance(value, list | tuple) else (value,)
        return tuple(_fitting(name, one, default[0]) for one in found)
    kinds = {bool: "true or false", int: "a whole number", float: "a number", str: "a word"}
    if type(value) is type(default) or (type(default) is float and type(value) is int):
        return value
    raise InputError(f"{name} is {kinds[type(default)]}, {value!r} is not")


@dataclass(frozen=True)
class Epoch:
    """One epoch of the plan.

    Attributes:
        phase: "dense", "search" or "finetune".
        begin, end: where in its learning rate cycle it lies, in [0, 1].
        search_begin, search_end: where in the search it lies, in [0, 1].
        closings: (share of the epoch, how far the search has come then), in order.
    """

    phase: str
    begin: float
    end: float
    search_begin: float = 0.0
    search_end: float = 0.0
    closings: tuple[tuple[float, float], ...] = ()


def plan(recipe: Recipe) -> list[Epoch]:
    """All epochs in order."""
    n, searching, total = recipe.dense_epochs, recipe.search_epochs, recipe.search_epochs + recipe.finetune_epochs
    epochs = [Epoch("dense", i / n, (i + 1) / n) for i in range(n)]
    steps = recipe.closings()
    # where each step ends, in epochs of the search; a step that ends on the border of two epochs is of the first
    ends = [searching * (step + 1) / len(steps) for step in range(len(steps))]
    for i in range(total):
        cycle = (i / total, (i + 1) / total)
        if i >= searching or not steps:
            epochs.append(Epoch("finetune", *cycle))
            continue
        here = tuple((end - i, searched) for end, searched in zip(ends, steps, strict=True) if i < end <= i + 1)
        epochs.append(Epoch("search", *cycle, i / searching, (i + 1) / searching, here))
    return epochs


OF_RELAXATION = {
    *("thresholds", "form", "slope", "slope_end", "gate_rate", "size_weight"),
    *("ejector_weight", "ejector_start", "ejector_full", "sigma"),
}
"""Fields that change nothing but the search that trains gates: all others keep gates at 1, of any form and slope."""

OF_SEARCHES = OF_RELAXATION | {"steps", "path", "floor", "vanish"}
"""Fields that change nothing but a search for channels."""


def changed(before: Mapping[str, Any], recipe: Recipe, done: int) -> dict[str, tuple[Any, Any]]:
    """The fields that a recipe has otherwise than the one that a run was begun with: (then, now).

    Args:
        before: the recipe's fields then; what is missing there is as it is now.
        done: epochs that are trained.

    Raises:
        InputError: one of them decided what was trained. All others are of epochs to come only.
    """
    now = asdict(recipe)
    then = now | {name: value for name, value in before.items() if name in now}
    found = {name: (then[name], value) for name, value in now.items() if then[name] != value}
    decided = [name for name in found if name in _decided(then, now, done)]
    if decided:
        was, is_now = (", ".join(f"{name}={found[name][k]}" for name in decided) for k in (0, 1))
        raise InputError(
            f"{done} epochs were trained with {was}, the recipe has {is_now}",
            cure="give what they were trained with, or begin in another folder",
        )
    return found


def _decided(then: Mapping[str, Any], now: Mapping[str, Any], done: int) -> set[str]:
    """The fields that `done` epochs are made by, so that they cannot change any more."""
    names = {"network", "form", "slope", "seed"}
    if done > then["dense_epochs"] or done >= now["dense_epochs"]:
        names.add("dense_epochs")
    searched = done - then["dense_epochs"]  # epochs of the second cycle
    if searched <= 0:
        return names
    names |= {"search", "size", "slope_end"}
    if then["search"] == "uniform":
        names |= {"target", "multiple"}
    elif then["search"] != "none":
        if searched >= min(then["search_epochs"], now["search_epochs"]):
            names.add("search_epochs")
        if searched >= then["search_epochs"]:
            names |= OF_SEARCHES | {"target", "multiple"}
    return names
