"""A run's folder: whose checkpoint is in it, and whether a recipe can go on from it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ...errors import InputError
from . import checkpoint
from .data import alike
from .recipe import Recipe, changed

Others = dict[str, tuple[Any, Any]]
"""What is other than it was: (then, now)."""


class Folder:
    """Where a run keeps its checkpoint, and the dense network that its second cycle begins with.

    Args:
        path: of the folder, which is made.

    Raises:
        InputError: it cannot be made.
    """

    def __init__(self, path: Path) -> None:
        self.checkpoint, self.dense = path / "checkpoint.pt", path / "dense.pt"
        self.claimed = False
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"this folder cannot be made: {error.strerror}", file=str(path)) from error

    def claim(self) -> bool:
        """Make the folder the run's; whether it has only become that.

        Raises:
            InputError: it has the checkpoint of another run, which would be overwritten.
        """
        if self.claimed:
            return False
        if self.checkpoint.exists():
            raise InputError(
                "this folder has the checkpoint of another run",
                file=str(self.checkpoint),
                cure="go on from it with --resume (`Trainer.resume`), take another folder, or remove it",
            )
        self.claimed = True
        return True

    def read(self, recipe: Recipe, epochs: int, examples: int, sample: Tensor) -> tuple[dict[str, Any], Others] | None:
        """The checkpoint, and what is other than when it was made; None if there is none.

        Args:
            recipe: what goes on from it.
            epochs: of the recipe's plan.
            examples: of an epoch.
            sample: of the data; of epochs with another number of examples it may be another.

        Raises:
            InputError: the checkpoint belongs to another architecture or data set, was made by a recipe that differs in
                what is trained already, or is beyond the end of the plan.
        """
        path = self.checkpoint
        if not path.exists():
            return None
        state = checkpoint.load(path, recipe.network)
        if "done" not in state:
            raise InputError(
                "this is a network alone, without the state of its training",
                file=str(path),
                cure="begin from it with --dense (`Trainer.start_from`)",
            )
        others = self._changed(state, recipe)
        if state["done"] > epochs:
            raise InputError(
                f"this checkpoint is after epoch {state['done']}, the plan ends after {epochs}",
                file=str(path),
                cure="give it as many epochs, or begin in another folder",
            )
        if (before := state.get("examples", examples)) != examples:
            others["examples"] = (before, examples)
        elif not alike(state.get("sample", sample), sample):
            raise InputError(
                "this checkpoint was trained with other data: its first examples differ",
                file=str(path),
                cure="give the data that it was trained with, or begin in another folder",
            )
        self.claimed = True
        return state, others

    def _changed(self, state: Mapping[str, Any], recipe: Recipe) -> Others:
        try:
            return changed(state["recipe"], recipe, state["done"])
        except InputError as error:
            raise InputError(error.what, file=str(self.checkpoint), cure=error.cure) from None
