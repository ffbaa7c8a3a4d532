"""Files that are the old one or the new one, never a part of it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from .errors import InputError


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A place to write a file at, which then takes the place of `path`; whatever is raised, `path` stays as it is.

    Raises:
        InputError: the system refuses, as the folder is closed or the disk is full.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        yield partial
        os.replace(partial, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise InputError(f"cannot write: {error.strerror}", file=str(path)) from error
        raise


def write_whole(path: Path, text: str) -> None:
    """Write a file of text.

    Raises:
        InputError: the system refuses.
    """
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")
