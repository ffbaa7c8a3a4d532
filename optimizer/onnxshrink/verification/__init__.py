"""Whether a result computes what its original computes: structure, numbers, and the refusal to guess.

`verify` is the whole of it; `structure.check` is the structural check alone, for one model or after a rewrite.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from ..choices import Provider, check_choice
from ..errors import InputError, ModelError
from . import interface, structure
from .inputs import Ranges
from .numbers import Comparison, Options
from .pool import Pool
from .result import Draw, State, Verification
from .structure import Finding, check, introduced
from .variants import open_source
from .verdict import conclude

__all__ = ["Draw", "Finding", "Ranges", "State", "Verification", "check", "introduced", "verify"]


def verify(
    a: str | Path,
    b: str | Path,
    *,
    data: str | Path | None = None,
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
    provider: Provider = "cpu",
    seeds: int = 3,
    tolerance: float | None = None,
    progress: Callable[[str], None] | None = None,
    apart: Collection[str] = (),
    input_ranges: Ranges | None = None,
    kept: Mapping[str, Mapping[int, Sequence[int]]] | None = None,
) -> Verification:
    """Holds the result `b` against the original `a`: interface, structure, then numbers under ONNX Runtime.

    The numbers are compared with graph optimizations off and on, on draws of several distributions, batch sizes and,
    where dynamic, other sizes. A tensor passes if it differs by at most max(1e-5 * max|y|, 3 * the original's own
    noise); float64, float16 and bfloat16 have bounds of their own, integers must be equal. See judge.py, and
    piecewise.py for what follows discontinuous operators.

    Args:
        a: the original model file.
        b: the model file made from it.
        data: the caller's inputs, .npz or a folder of .npz or .npy files (data.load); drawn ones are used as well.
        input_shapes: sizes for inputs with dynamic dimensions; by default sizes are tried until the original runs.
        provider: "cpu", "cuda" or "tensorrt".
        seeds: draws to compare at least, if time allows; two in any case, more if they prove nothing.
        tolerance: relative to max|y|, instead of the bounds above for floats.
        progress: told what is being done.
        apart: inner tensors that are not the same in both models although their outputs are: not compared.
        input_ranges: least and largest value of inputs; nothing outside is drawn.
        kept: inner tensors of which `b` holds a part: by axis, the indices that stay, in their order.

    Returns:
        The verdict and its numbers; "failed" and "unverified" are results, not errors.

    Raises:
        ModelError: `a` cannot be read.
        InputError: there is no such provider, `data` or `input_shapes` do not fit the model, or the original does not
            run on them.
        RuntimeMissingError: ONNX Runtime or the provider is not there.
    """
    check_choice("provider", provider, Provider)
    started = time.monotonic()
    original = open_source(a)
    try:
        result = open_source(b)
    except ModelError as error:
        return _verdict("failed", [str(error)], started)
    told = [
        *interface.differences(original.model, result.model),
        *map(str, introduced(result.model, original.model, folder=result.folder, source=original.folder)),
    ]
    if told:
        return _verdict("failed", told, started)
    if original.marks.random:
        names = ", ".join(dict.fromkeys(structure.label(n) for n in original.marks.random[:3]))
        return _verdict("unverified", [f"the model draws random numbers ({names}), no two runs agree"], started)
    if why := interface.unexchangeable(original.model):
        return _verdict("unverified", [why], started)
    options = Options(
        data,
        input_shapes or {},
        max(seeds, 2),
        tolerance,
        progress or (lambda _: None),
        frozenset(apart),
        input_ranges or {},
        kept or {},
    )
    try:
        comparison = Comparison(original, result, Pool(original, result, provider), options)
    except InputError as error:
        if data is not None or input_shapes:
            raise
        return _verdict("unverified", [str(error)], started)
    return conclude(comparison, started)


def _verdict(state: State, notes: list[str], started: float) -> Verification:
    return Verification(state, notes=notes, seconds=time.monotonic() - started)
