"""Checkpoints: files that are the old one or the new one, never a part, and that say whose they are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import InputError, short
from ...files import replacing
from ..gate import EXTRA


def save(state: Mapping[str, Any], path: Path) -> None:
    """Write a checkpoint; a process that is killed while it writes, or cannot, leaves the one before.

    Raises:
        InputError: it cannot be written, as the folder is closed or the disk is full.
    """
    with replacing(path) as partial:
        try:
            torch.save(state, partial)
        except RuntimeError as error:  # of torch's own writer
            raise InputError(f"cannot write: {short(error, 120)}", file=str(path)) from error


def load(path: Path, network: str) -> dict[str, Any]:
    """Read a checkpoint of an architecture.

    Raises:
        InputError: it cannot be read, or belongs to another architecture.
    """
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
        made_for = state["recipe"]["network"]
    except Exception as error:  # pickle, zip and torch raise many types
        cause = f": {error.strerror}" if isinstance(error, OSError) else ""
        raise InputError(
            f"this is no checkpoint of a training{cause}", file=str(path), cure="give a .pt file that a training wrote"
        ) from error
    if made_for != network:
        raise InputError(
            f"this checkpoint belongs to the architecture {made_for}, the recipe is for {network}",
            file=str(path),
            cure="give the recipe that it was made with, or another folder",
        )
    return dict(state)


def fill(module: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Load a module's tensors.

    Raises:
        InputError: names or shapes differ, so the file belongs to another architecture.
    """
    own = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    wrong = [name for name in own if name in state and tuple(state[name].shape) != own[name]]
    wrong += [name for name in own if name not in state and not name.endswith(EXTRA)]
    wrong += [name for name in state if name not in own]
    if wrong:
        has = tuple(state[wrong[0]].shape) if wrong[0] in state else "nothing"
        raise InputError(
            f"this checkpoint belongs to another architecture: it has {has} for `{wrong[0]}`, "
            f"the network has {own.get(wrong[0], 'nothing')}",
            file=str(path),
        )
    module.load_state_dict(state)
