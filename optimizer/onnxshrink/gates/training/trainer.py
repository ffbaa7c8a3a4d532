"""The trainer: dense network, gate search, collapse and fine-tuning by a recipe, resumable at every epoch."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import InputError, OnnxshrinkError
from ..augment import augment
from ..closing import close_gates, close_uniform
from ..collapse import TOLERANCE, collapse, compare, survives
from ..gate import Gate, prune_gates
from ..importance import Importance
from ..latency import Points, latency_costs
from ..loss import Size, ejector_loss
from ..removal import branches
from ..schedule import one_cycle, set_slope
from . import checkpoint
from .data import Data, sample
from .distributed import Ranks, synchronize
from .folder import Folder
from .monitor import Monitor
from .optimizers import Optimizers
from .recipe import Epoch, Recipe, plan
from .tasks import Task, Teacher

WATCH = 50
"""Batches between two looks at whether the loss is still a number; each look waits for the device."""


class Trainer:
    """A run of a recipe. All that a checkpoint holds is here.

    Args:
        network: the plain network, with its first weights.
        example: [N, ...] one input batch to trace with, N >= 2.
        out: folder of the checkpoints.
        latencies: of layers by channel counts (`read_latencies`), where the recipe's size is "latency".
        device: "cpu", "cuda" or "cuda:N".

    Raises:
        InputError: the network cannot be traced or gated, the table does not fit it, or no batch can be had of the
            data.
    """

    def __init__(
        self,
        network: nn.Module,
        example: Tensor,
        data: Data,
        task: Task,
        recipe: Recipe,
        out: Path,
        *,
        latencies: Mapping[str, Points] | None = None,
        device: str = "cpu",
        ranks: Ranks | None = None,
        monitor: Monitor | None = None,
    ) -> None:
        if len(data) < recipe.batch:
            raise InputError(
                f"an epoch has {len(data)} examples, fewer than a batch of {recipe.batch}",
                cure=f"give more examples, or batch={max(len(data), 1)} in the recipe",
            )
        batches = recipe.search_epochs * (len(data) // recipe.batch)
        if len(recipe.closings()) > batches:
            raise InputError(
                f"the search has {recipe.steps} steps in {batches} batches, and one without a batch measures nothing",
                cure=f"take at most steps={batches}, or more examples",
            )
        if latencies is not None and recipe.size != "latency":
            raise InputError(f"there is a table of latencies, but the size is {recipe.size}", cure="take size=latency")
        self.data, self.task, self.recipe, self.out, self.latencies = data, task, recipe, out, latencies
        self.device, self.ranks = torch.device(device), ranks or Ranks()
        self.ranks.shard(recipe.batch)  # refused now, not after the first cycle
        self.folder = Folder(out)
        self.monitor = monitor or Monitor(out if self.ranks.first else None)
        self.example = example.to(self.device)
        self.sample = sample(data)
        self.plan = plan(recipe)
        self.done = 0
        self.cuts: list[dict[str, Tensor]] = []
        self.plain = self._placed(network)
        self.teacher: Teacher | None = None
        self._begin()
        if self.ranks.first and (unknown := self.gated.coupling.told_unknown()):
            self.monitor.say(f"what these operators read keeps all its units, as nothing is known of them: {unknown}")
        self.units = {name: gate.units for name, gate in zip(self.gated.gates, self._gates, strict=True)}

    # state

    def _placed(self, network: nn.Module) -> nn.Module:
        network = network.to(self.device)
        if self.recipe.channels_last:
            for parameter in network.parameters():
                if parameter.dim() == 4:
                    parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
        return network

    def _begin(self) -> None:
        """Gates on the plain network, and fresh optimizers."""
        options: dict[str, Any] = {}
        if self.recipe.form == "sigmoid":
            options = {"identity": True, "slope": self.recipe.slope}
        self.gated = augment(copy.deepcopy(self.plain), self.example, form=self.recipe.form, **options)
        self.gated = self.gated.to(self.device)
        synchronize(self.gated, self.ranks)
        self.size = self._size(None)
        searching = self.recipe.search in ("importance", "relaxation")
        self.branches = branches(self.gated, self.example) if searching and self.recipe.vanish else set()
        for name, gate in zip(self.gated.gates, self._gates, strict=True):
            gate.anchored = self.recipe.search == "relaxation" and name not in self.branches
        self._optimize()

    def _size(self, whole: float | None) -> Size:
        if self.recipe.size != "latency":
            return Size(self.gated, self.recipe.size, whole=whole)
        if self.latencies is None:
            raise InputError("latency is the size, but there is no table", cure="write one with `bench --layers`")
        return Size(self.gated, costs=latency_costs(self.gated, self.latencies), whole=whole)

    def _optimize(self) -> None:
        """Fresh optimizers, and scores of nothing."""
        self.optimizers = Optimizers(self.gated, self.recipe.weight_decay, self.recipe.gate_rate)
        self.importance = Importance(self.gated)

    def _claim(self) -> None:
        """Begin in the folder, or go on in it: from now on its log has the epochs of this run only."""
        if self.folder.claim():
            self.monitor.keep(0)

    def save(self) -> None:
        """Write the checkpoint (the first process does)."""
        if self.ranks.first:
            state = {
                "recipe": asdict(self.recipe),
                "done": self.done,
                "examples": len(self.data),
                "sample": self.sample,
                "cuts": self.cuts,
                "network": self.gated.state_dict(),
                "optimizers": self.optimizers.state(),
                "importance": self.importance.scores,
            }
            checkpoint.save(state, self.folder.checkpoint)

    def save_network(self, path: Path) -> None:
        """Write the network without its gates, for `start_from` of another run."""
        checkpoint.save({"recipe": asdict(self.recipe), "network": self.gated.network.state_dict()}, path)

    def resume(self) -> bool:
        """Go on from the checkpoint in the folder; False if there is none.

        The recipe stays the caller's, so that epochs to come may be planned anew; what is other than it was is told.

        Raises:
            InputError: the checkpoint belongs to another architecture or data set, was made by a recipe that differs in
                what is trained already, or is beyond the end of the plan.
        """
        found = self.folder.read(self.recipe, len(self.plan), len(self.data), self.sample)
        if found is None:
            return False
        state, others = found
        if others and self.ranks.first:
            told = ", ".join(f"{name} {then} → {now}" for name, (then, now) in others.items())
            self.monitor.say(f"from epoch {state['done'] + 1} on: {told}")
        self._begin()
        self.cuts, self.done = [], state["done"]
        for masks in state["cuts"]:
            for name, mask in masks.items():
                self.gated.get_buffer(f"gates.{name}.mask").copy_(mask)
            self._collapse()
        checkpoint.fill(self.gated, state["network"], self.folder.checkpoint)
        self.optimizers.load(state["optimizers"])
        for score, saved in zip(self.importance.scores, state["importance"], strict=True):
            score.copy_(saved)
        self.monitor.keep(self.done)
        return True

    def start_from(self, dense: Path) -> None:
        """Take over a dense network that another run has trained, instead of the first cycle.

        Raises:
            InputError: it belongs to another architecture, or the folder has the checkpoint of another run.
        """
        state = checkpoint.load(dense, self.recipe.network)
        checkpoint.fill(self.gated.network, state["network"], dense)
        self._claim()
        if self.ranks.first and dense.resolve() != self.folder.dense.resolve():
            checkpoint.save(state, self.folder.dense)
        self.done = self.recipe.dense_epochs

    # training

    def fit(self, stop_after: int | None = None) -> None:
        """Run the plan from where it is.

        Args:
            stop_after: end after this many epochs of the plan.

        Raises:
            OnnxshrinkError: the loss is not a number any more; the last checkpoint is still good.
            InputError: the target cannot be reached, or the folder has the checkpoint of another run.
        """
        self._claim()
        for number in range(self.done, len(self.plan[:stop_after])):
            epoch = self.plan[number]
            if number == self.recipe.dense_epochs:
                self._prune_begins()
            began = time.monotonic()
            with self.monitor.epoch(f"epoch {number + 1}/{len(self.plan)} {epoch.phase}", len(self.data)):
                figures = self._run(epoch)
            seconds = time.monotonic() - began
            if self.recipe.collapse and epoch.phase == "search":
                figures |= self._collapse_checked()
            self.done = number + 1
            if epoch.phase == "dense" and self.done == self.recipe.dense_epochs and self.ranks.first:
                self.save_network(self.folder.dense)
            self.monitor.log(
                {
                    "epoch": self.done,
                    "phase": epoch.phase,
                    **figures,
                    "score": self.score(),
                    "kept": self.size.kept(),
                    "examples_per_second": len(self.data) / seconds,
                    "units": self.units,
                    "widths": {name: gate.kept for name, gate in zip(self.gated.gates, self._gates, strict=True)},
                }
            )
            self.save()  # after the line: a line without its checkpoint is dropped, and written again

    @property
    def _gates(self) -> list[Gate]:
        return self.gated.gate_list

    def _prune_begins(self) -> None:
        """The second cycle has optimizers of its own, so that it is the same from a dense network of another run."""
        self._optimize()
        if self.recipe.search == "uniform":
            close_uniform(self.gated, self.size, self.recipe.target, self.recipe.multiple)
            if self.recipe.collapse:
                self._collapse_checked()

    def _run(self, epoch: Epoch) -> dict[str, Any]:
        """Train for one epoch; returns what is worth logging."""
        recipe, searching = self.recipe, epoch.phase == "search"
        relaxing = searching and recipe.search == "relaxation"
        self._train(relaxing)
        for gate in self._gates:
            gate.alpha.requires_grad_(searching)
        if recipe.search == "relaxation" and epoch.phase != "dense":
            set_slope(self.gated, recipe.step_slope(epoch.search_begin if searching else 1.0))
        model = self.ranks.wrap(self.gated)
        teacher = self._teach() if epoch.phase != "dense" and recipe.distil else None
        steps = len(self.data) // recipe.batch
        # steps that end in one batch are one step to the last of them: after a closing, importance begins anew
        closings = {max(1, round(at * steps)): searched for at, searched in epoch.closings}
        seed = recipe.seed * 100_003 + self.done
        torch.manual_seed(seed)
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        figures: dict[str, Any] = {}
        peak = recipe.dense_rate if epoch.phase == "dense" else recipe.prune_rate
        batches = self.data.training(recipe.batch, seed, self.ranks.rank, self.ranks.world)
        for step, (inputs, targets) in enumerate(batches, 1):
            x, y = inputs.to(self.device, non_blocking=True), targets.to(self.device, non_blocking=True)
            progress = step / steps
            at = epoch.begin + progress * (epoch.end - epoch.begin)
            self.optimizers.set_rate(one_cycle(at, peak, recipe.warmup))
            searched = epoch.search_begin + progress * (epoch.search_end - epoch.search_begin)
            if relaxing:
                set_slope(self.gated, recipe.step_slope(searched))
            loss = self._loss(model, x, y, teacher)
            total += loss.detach()
            if relaxing:
                loss = loss + self._gates_loss(searched)
            self.optimizers.zero_grad()
            loss.backward()
            if searching and not relaxing:
                self.importance.add(self.ranks.mean)
            self.optimizers.step(gates=relaxing)
            self.monitor.advance(recipe.batch)
            if step % WATCH == 0 or step == steps or step in closings:
                self._watch(total, f"the loss is not a number any more in epoch {self.done + 1}, by batch {step}")
            if step in closings:
                found = self._close(closings[step], x)
                found["closed"] += figures.get("closed", 0)
                found["difference"] = max(found["difference"], figures.get("difference", 0.0))
                figures |= found
        figures["loss"] = float(self.ranks.mean(total)) / steps
        if relaxing:
            figures |= self._decided()
        self._check(x, y)
        return figures

    def _train(self, relaxing: bool) -> None:
        """Training, in which gates are drawn only where they are trained."""
        self.gated.train()
        for gate in self._gates:
            gate.train(relaxing)

    def _loss(self, model: nn.Module, x: Tensor, y: Tensor, teacher: Teacher | None = None) -> Tensor:
        """The task's loss, and the teacher's share of it."""
        recipe = self.recipe
        with torch.autocast(self.device.type, torch.bfloat16, enabled=recipe.bf16):
            output = model(x)
            told = None if teacher is None else teacher.loss(x, output)
        loss = self.task.loss(output.float(), y, recipe.label_smoothing)
        return loss if told is None else (1 - recipe.distil) * loss + recipe.distil * told

    def _gates_loss(self, searched: float) -> Tensor:
        """What trains the gates besides the task."""
        recipe = self.recipe
        size = recipe.size_weight * self.size.loss(recipe.size_at(searched))
        return size + recipe.ejector(searched) * ejector_loss(self._gates, recipe.sigma)

    @torch.no_grad()
    def _decided(self) -> dict[str, Any]:
        """How far the gates that are trained have come."""
        w = torch.cat([gate.open()[gate.mask > 0] for gate in self._gates])
        return {"undecided": int(((w > 0.1) & (w < 0.9)).sum()), "relaxed": float(self.size.relaxed())}

    @torch.no_grad()
    def _check(self, x: Tensor, y: Tensor) -> None:
        """Stop where the epoch's last step, whose loss nothing has seen, ruined the network: it must not be saved."""
        self.gated.eval()
        known = self._loss(self.gated, x, y).double()
        tensors = [tensor for tensor in self.gated.state_dict().values() if tensor.is_floating_point()]
        known = known + 0.0 * sum(tensor.sum(dtype=torch.float64) for tensor in tensors)  # no number, if one is none
        self.gated.train()
        self._watch(known, f"the network is ruined by the last batch of epoch {self.done + 1}")

    def _watch(self, value: Tensor, what: str) -> None:
        """Stop where a number is none; all processes stop together.

        Raises:
            OnnxshrinkError: it says what, and where the last good checkpoint is.
        """
        if bool(torch.isfinite(self.ranks.total(value))):
            return
        rates = "with lower learning rates, or without bf16"
        good = self.folder.checkpoint
        if good.exists():
            raise OnnxshrinkError(
                f"{what}; the last good checkpoint is {good}, after epoch {self.done}", cure=f"resume from it {rates}"
            )
        raise OnnxshrinkError(f"{what}; there is no checkpoint yet", cure=f"begin again {rates}")

    def _teach(self) -> Teacher:
        """The dense network of this run."""
        if self.teacher is None:
            path = self.folder.dense
            network = copy.deepcopy(self.plain)
            checkpoint.fill(network, checkpoint.load(path, self.recipe.network)["network"], path)
            self.teacher = Teacher(network, self.recipe.temperature)
        return self.teacher

    # closing

    def _close(self, searched: float, x: Tensor) -> dict[str, Any]:
        """Close gates at the end of a step of the search."""
        before = copy.deepcopy(self.gated).eval()
        recipe = self.recipe
        relaxing = recipe.search == "relaxation"
        figures: dict[str, Any] = {"score_before_closing": self.score()} if relaxing else {}
        closed = prune_gates(self.gated, recipe.threshold_at(searched)) if relaxing else 0
        closed += close_gates(
            self.gated,
            self.gated.alphas() if relaxing else self.importance.row(),
            self.size,
            recipe.size_at(searched),
            recipe.floor,
            self.branches,
            lambda: survives(self.gated, self.example),
            per_cost=not relaxing,
            multiple=recipe.multiple,
        )
        self.importance = Importance(self.gated)
        figures["closed"] = closed
        figures["difference"] = compare(before, self.gated.eval(), x)
        if relaxing:
            figures["score_after_closing"] = self.score()
        self._train(relaxing)
        return figures

    def _collapse_checked(self) -> dict[str, Any]:
        """Cut the closed channels out, if any; the sliced network must answer as the masked one."""
        if all(gate.kept == gate.units for gate in self._gates):
            return {}
        before = self.gated.eval()
        self._collapse()
        x = torch.rand(self.example.shape, generator=torch.Generator().manual_seed(0)).to(self.device)
        difference = compare(before, self.gated.eval(), x)
        if not difference <= TOLERANCE:  # nor not a number
            raise OnnxshrinkError(
                f"the sliced network differs from the masked one by {difference:.1e} of the largest output",
                cure="collapse=false keeps the closed channels in the network",
            )
        return {"collapse_difference": difference}

    def _collapse(self) -> None:
        """Cut the closed channels out; optimizers and scores go on with what is left."""
        self.cuts.append({n: g.mask.cpu().clone() for n, g in zip(self.gated.gates, self._gates, strict=True)})
        found, optimizers, scores = collapse(self.gated, self.example), self.optimizers, self.importance.row()
        self.gated = found.gated
        self.branches &= set(self.gated.gates)
        self.gated.network = self._placed(self.gated.network)
        synchronize(self.gated, self.ranks)
        self.size = self._size(self.size.whole)
        self._optimize()
        self.optimizers.carry(optimizers, found)
        for name, score in zip(self.gated.gates, self.importance.scores, strict=True):
            score.copy_(scores[found.units[name].to(scores.device)])

    @torch.no_grad()
    def score(self) -> float:
        """The task's score on the data's checks; the first process's, for all."""
        training = self.gated.training
        self.gated.eval()
        counts: Tensor | None = None
        for inputs, targets in self.data.checks():
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.bf16):
                output = self.gated(inputs.to(self.device))
            found = self.task.counts(output.float(), targets.to(self.device))
            counts = found if counts is None else counts + found
        self.gated.train(training)
        return 0.0 if counts is None else self.task.score(counts)
