"""The caller's own data: a .npz file, or a folder of .npz and .npy files, as samples for a model's inputs."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from ..errors import InputError
from .inputs import Feeds, InputSpec, describe

SUFFIXES = frozenset({".npy", ".npz"})


def load(path: str | Path, specs: Sequence[InputSpec], limit: int | None = None) -> list[Feeds]:
    """Samples, each ready to be fed: one array per input, in the input's dtype and rank.

    An array whose rank is the input's has samples along its first axis, as many rows to a sample as the input's first
    dimension says (one where it is free). An array with one axis more has a complete input in each entry. An input for
    which there is one sample only goes with every sample of the others.

    Args:
        path: `.npz` with arrays named by input, `.npy` for a model with one input, or a folder of such files, taken in
            the order of their names.
        specs: the inputs (inputs.signature).
        limit: at most this many samples are returned.

    Raises:
        InputError: nothing there, a name, shape or dtype that does not fit, NaN or infinity.
    """
    place = Path(path)
    if not place.exists():
        raise InputError("there is no such file or folder", file=str(path))
    files = sorted(p for p in place.iterdir() if p.suffix in SUFFIXES) if place.is_dir() else [place]
    if not files:
        raise InputError("the folder has no .npz or .npy file", file=str(path))
    samples: list[Feeds] = []
    for file in files:
        samples += _samples(file, specs)
        if limit is not None and len(samples) >= limit:
            return samples[:limit]
    return samples


def batch(samples: Sequence[Feeds], specs: Sequence[InputSpec], size: int) -> Feeds | None:
    """The first `size` samples as one, along free first dimensions; None where an input has none or shapes differ."""
    chosen = samples[:size]
    if len(chosen) < size or size < 2:
        return None
    for spec in specs:
        if not spec.dims or isinstance(spec.dims[0], int) or len({s[spec.name].shape[1:] for s in chosen}) != 1:
            return None
    return {spec.name: np.concatenate([s[spec.name] for s in chosen]) for spec in specs}


def _samples(file: Path, specs: Sequence[InputSpec]) -> Iterator[Feeds]:
    return take(_read(file, specs), specs, file)


def take(arrays: Mapping[str, np.ndarray], specs: Sequence[InputSpec], file: str | Path) -> Iterator[Feeds]:
    """Arrays by input name as samples, as `load` takes them from a file; `file` is what errors name.

    Raises:
        InputError: a name, shape or dtype that does not fit, NaN or infinity.
    """
    _names(arrays, specs, file)
    pieces: dict[str, list[np.ndarray]] = {}
    for spec in specs:
        array = _cast(file, spec, arrays[spec.name])
        pieces[spec.name] = _cut(file, spec, array)
    counts = {len(p) for p in pieces.values()} - {1}
    if len(counts) > 1:
        told = ", ".join(f"{name}: {len(p)}" for name, p in pieces.items())
        raise InputError(f"inputs have different numbers of samples ({told})", file=str(file))
    for i in range(counts.pop() if counts else 1):
        yield {name: p[i if len(p) > 1 else 0] for name, p in pieces.items()}


def _read(file: Path, specs: Sequence[InputSpec]) -> Mapping[str, np.ndarray]:
    names = [s.name for s in specs]
    try:
        found = np.load(file, allow_pickle=False)
    except (ValueError, OSError, zipfile.BadZipFile, EOFError) as error:
        raise InputError("is no NumPy file that can be read without pickle", file=str(file)) from error
    if isinstance(found, np.ndarray):
        if len(names) != 1:
            raise InputError(
                f"a .npy file fits one input, the model has {len(names)}",
                file=str(file),
                cure=f"save them by name: np.savez(file, **{{{', '.join(repr(n) + ': ...' for n in names)}}})",
            )
        return {names[0]: found}
    if file.suffix != ".npz":
        raise InputError("is neither .npz nor .npy", file=str(file))
    _names(found, specs, file)
    try:
        return {name: found[name] for name in names}
    except ValueError as error:
        raise InputError("holds Python objects", file=str(file)) from error


def _names(given: Iterable[str], specs: Sequence[InputSpec], file: str | Path) -> None:
    names = [s.name for s in specs]
    missing, extra = sorted(set(names) - set(given)), sorted(set(given) - set(names))
    if missing or extra:
        wrong = [f"no array `{n}`" for n in missing] + [f"`{n}` is no input" for n in extra]
        raise InputError(", ".join(wrong), file=str(file), cure=f"the inputs are: {', '.join(names)}")


def _cast(file: str | Path, spec: InputSpec, array: np.ndarray) -> np.ndarray:
    if spec.dtype == np.dtype(object):
        return array.astype(object)
    kinds = array.dtype.kind + ("f" if spec.dtype.kind in "fV" else spec.dtype.kind)
    if kinds not in ("ff", "uf", "if", "bf", "ii", "uu", "iu", "ui", "bb"):
        raise InputError(f"`{spec.name}` is {array.dtype}, the input wants {spec.dtype}", file=str(file))
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise InputError(f"`{spec.name}` holds NaN or infinity", file=str(file))
    if spec.range is not None and array.size and not spec.range[0] <= array.min() <= array.max() <= spec.range[1]:
        raise InputError(
            f"`{spec.name}` has values from {array.min():g} to {array.max():g}, its range was given as "
            f"{spec.range[0]:g} to {spec.range[1]:g}",
            file=str(file),
        )
    if array.dtype == spec.dtype:
        return array
    with np.errstate(over="ignore"):
        result = array.astype(spec.dtype)
    lost = not np.isfinite(result.astype(np.float64)).all() if kinds[1] == "f" else not np.array_equal(result, array)
    if lost:
        raise InputError(f"values of `{spec.name}` do not fit into {spec.dtype}", file=str(file))
    return result


def _cut(file: str | Path, spec: InputSpec, array: np.ndarray) -> list[np.ndarray]:
    rank = len(spec.dims)
    if array.ndim == rank + 1 and _fits(spec.dims, array.shape[1:]):
        return list(array)
    if array.ndim == rank and (rank == 0 or _fits(spec.dims[1:], array.shape[1:])):
        rows = spec.dims[0] if rank and isinstance(spec.dims[0], int) else 1
        if rank == 0:
            return [array]
        if array.shape[0] and array.shape[0] % rows == 0:
            return [array[i : i + rows] for i in range(0, array.shape[0], rows)]
    raise InputError(
        f"`{spec.name}` has shape {list(array.shape)}, which is no number of samples of {describe(spec)}",
        file=str(file),
    )


def _fits(dims: Sequence[int | str], shape: Sequence[int]) -> bool:
    return len(dims) == len(shape) and all(isinstance(d, str) or d == n for d, n in zip(dims, shape, strict=True))
