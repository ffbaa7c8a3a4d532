"""Calibration data: the caller's samples, checked, and split into those that score and those that are held out."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from ..errors import InputError
from ..verification import data as files
from ..verification import inputs
from ..verification.inputs import Feeds, InputSpec
from . import images

Data = str | Path | Iterable[Mapping[str, np.ndarray]]
"""An .npz or .npy file, a folder of them or of images, "module:function" that yields feeds, or an iterable of feeds."""

HELD_EVERY = 4
"""Every so many-th sample is held out: used for errors, never for scores or repair."""

LEAST = 2
"""Samples: one to score on, one to hold out."""


@dataclass(frozen=True)
class Calibration:
    """Samples for a model's inputs, held in memory.

    Attributes:
        specs: the inputs.
        scoring: samples that scores and repair are computed from.
        held: samples that errors are computed from.
        random: whether the samples are noise rather than data.
    """

    specs: tuple[InputSpec, ...]
    scoring: list[Feeds]
    held: list[Feeds]
    random: bool = False

    def __len__(self) -> int:
        return len(self.scoring) + len(self.held)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of one sample, by input."""
        return {name: tuple(array.shape) for name, array in self.scoring[0].items()}

    def batches(self, samples: Sequence[Feeds], size: int) -> Iterator[tuple[int, Feeds]]:
        """Samples joined along free first dimensions, at most `size` at a time, and how many; singly where they do not
        join.
        """
        for start in range(0, len(samples), size):
            some = samples[start : start + size]
            joined = files.batch(some, self.specs, len(some))
            yield from [(len(some), joined)] if joined is not None else [(1, sample) for sample in some]


def load(
    model: onnx.ModelProto,
    data: Data,
    limit: int,
    pixels: str | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
) -> Calibration:
    """The caller's samples, checked against the model.

    Args:
        data: see `Data`; of arrays as verification reads them, samples lie along the first axis.
        limit: at most this many samples are used.
        pixels: of images, what bytes become (see images.parse_pixels).
        shapes: of images, the size of inputs that leave it open.

    Raises:
        InputError: a name, shape or dtype that does not fit, NaN or infinity, fewer than two samples or a `limit` to
            fewer, only zeros, or the caller's function raises.
    """
    _enough(limit, "--limit")
    specs = inputs.signature(model)
    name, given = _named(data), _resolve(data)
    scaling = None if pixels is None else images.parse_pixels(pixels)
    found = images.find(given) if isinstance(given, Path) and given.is_dir() else []
    if found and any(path.suffix in files.SUFFIXES for path in Path(name).iterdir()):
        raise InputError("holds images and arrays", file=name, cure="give a folder of one kind")
    if scaling is not None and not found:
        raise InputError("holds no images, and arrays are taken as they are", file=name, cure="leave --pixels out")
    if found:
        samples = images.load(found, specs, limit, scaling, shapes or {})
    else:
        samples = files.load(given, specs, limit) if isinstance(given, Path) else _collect(given, specs, limit, name)
    _enough(len(samples), name)
    if all(not np.any(array) for feeds in samples for array in feeds.values()):
        raise InputError("all samples are zero", file=name, cure="give inputs as the model sees them in use")
    return _split(specs, samples)


def draw(model: onnx.ModelProto, count: int, shapes: Mapping[str, tuple[int, ...]], seed: int) -> Calibration:
    """Normal noise in place of data.

    Raises:
        InputError: values of an input cannot be drawn, `shapes` do not fit, or `count` is below two.
    """
    _enough(count, "--random-data")
    specs = inputs.signature(model)
    inputs.require_drawable(specs)
    sizes = next(inputs.sizes(specs, shapes))
    samples = [inputs.draw(specs, sizes, "normal", seed + number) for number in range(count)]
    return _split(specs, samples, random=True)


def _enough(count: int, file: str) -> None:
    if count < LEAST:
        raise InputError(
            f"too few samples to score on and to hold out: {count}",
            file=file,
            cure=f"give at least {LEAST}, better 128 or more",
        )


def _split(specs: tuple[InputSpec, ...], samples: list[Feeds], *, random: bool = False) -> Calibration:
    held = samples[HELD_EVERY - 1 :: HELD_EVERY] or samples[-1:]
    ids = {id(sample) for sample in held}
    return Calibration(specs, [sample for sample in samples if id(sample) not in ids], held, random)


def _named(data: Data) -> str:
    return str(data) if isinstance(data, str | Path) else "data"


def _resolve(data: Data) -> Path | Iterable[Mapping[str, np.ndarray]]:
    if isinstance(data, Path):
        return data
    if isinstance(data, str):
        if Path(data).exists() or ":" not in data:
            return Path(data)
        return _Lazy(imported(data), data)
    return data


@dataclass(frozen=True)
class _Lazy:
    """What a caller's function yields."""

    function: Callable[..., Any]
    name: str

    def __iter__(self) -> Iterator[Mapping[str, np.ndarray]]:
        return iter(self.function())


def imported(name: str) -> Callable[..., Any]:
    """The function that "module:function" names; modules of the working directory count.

    Raises:
        InputError: there is no such module or function, or importing it raises.
    """
    module, _, function = name.rpartition(":")
    sys.path.insert(0, str(Path.cwd()))
    try:
        found = getattr(importlib.import_module(module), function)
    except Exception as error:  # whatever the caller's module raises
        raise InputError(
            f"cannot be imported: {type(error).__name__}: {error}", file=name, cure="give module:function"
        ) from error
    finally:
        sys.path.pop(0)
    if not callable(found):
        raise InputError("is no function", file=name, cure="give module:function")
    return found


def _collect(
    given: Iterable[Mapping[str, np.ndarray]], specs: tuple[InputSpec, ...], limit: int, name: str
) -> list[Feeds]:
    samples: list[Feeds] = []
    try:
        for feeds in given:
            if not isinstance(feeds, Mapping):
                raise InputError(f"yields {type(feeds).__name__}, not a mapping from input names to arrays", file=name)
            samples += files.take({key: np.asarray(value) for key, value in feeds.items()}, specs, name)
            if len(samples) >= limit:
                break
    except InputError:
        raise
    except Exception as error:  # whatever the caller's function raises
        raise InputError(f"raised {type(error).__name__}: {error}", file=name) from error
    return samples[:limit]
