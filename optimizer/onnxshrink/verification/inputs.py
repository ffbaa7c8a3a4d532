"""What to feed a model: its inputs, sizes for dynamic dimensions, and seeded values of several distributions.

One distribution is not enough: a detector answers 1e-7 everywhere to normal noise, an image model trained on 0..255
is numb to [0, 1). Sizes are tried until the original runs. The caller's own data is read by data.py.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from ..errors import InputError
from .shapes import Facts, dims_of, domain_of

Shapes = dict[str, tuple[int, ...]]
Feeds = dict[str, np.ndarray]

#: Sizes for dynamic dimensions of images (rank 4 and more) and of everything else, in the order they are tried.
IMAGE_SIZES = (128, 224, 64, 256, 320, 96, 32, 192, 416, 512, 640)
OTHER_SIZES = (16, 32, 128, 64, 512, 576, 256, 8, 1024, 4, 1, 4096, 16000)
#: Upper ends of integer ranges, in the order they are tried: bytes, few classes, a mask.
INTEGER_LIMITS = (256, 10, 2)


@dataclass(frozen=True)
class InputSpec:
    """One input that must be fed: `dims` has an int or the name of a free size for each axis.

    `limit` is the exclusive upper end for integers that index a table; `values` are the constants that the model
    compares an integer with (a sample rate, a mode). `range` is what the caller promises of the values, ends included.
    """

    name: str
    dtype: np.dtype
    dims: tuple[int | str, ...]
    limit: int | None = None
    values: tuple[int, ...] = ()
    range: tuple[float, float] | None = None

    @property
    def dynamic(self) -> bool:
        return any(isinstance(d, str) for d in self.dims)


Ranges = Mapping[str, tuple[float, float]]
"""For inputs of which the caller promises a range: the least and the largest value."""


def signature(
    model: onnx.ModelProto, facts: Facts | None = None, ranges: Ranges | None = None
) -> tuple[InputSpec, ...]:
    """The inputs to feed, in order; initializers that are listed as inputs are constants here and left out.

    Args:
        model: the model; weights are not read.
        facts: what is known of its tensors (shapes.model_facts); sharpens the range of integer inputs.
        ranges: values to which draws are held.

    Raises:
        InputError: an input is no tensor, or declares no shape.
    """
    ranges = ranges or {}
    defaults = {t.name for t in model.graph.initializer}
    fed = [v for v in model.graph.input if v.name not in defaults]
    params = [d for v in fed for d in {d for d in dims_of(v) or () if isinstance(d, str)}]
    specs = []
    for value in fed:
        if not value.type.HasField("tensor_type"):
            raise InputError(f"input `{value.name}` is not a tensor, such inputs cannot be fed")
        dims = dims_of(value)
        if dims is None:
            raise InputError(f"input `{value.name}` declares no shape", cure=f"--input-shape {value.name}=1,3,224,224")
        own = list(dims)
        free: list[int | str] = []
        for axis, d in enumerate(own):
            # A name is shared between inputs only if it names one axis of each: exporters write `?` for any of them.
            shared = isinstance(d, str) and own.count(d) == 1 and params.count(d) > 1 and d not in ("?", "None")
            free.append(d if isinstance(d, int) and d > 0 else str(d) if shared else f"{value.name}.{axis}.{d or ''}")
        dtype = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        limit, constants = (
            _integer_range(model.graph, value.name, facts) if facts and dtype.kind in "iu" else (None, ())
        )
        specs.append(InputSpec(value.name, dtype, tuple(free), limit, constants, ranges.get(value.name)))
    return tuple(specs)


_PASSES = {
    *("Cast", "Unsqueeze", "Squeeze", "Reshape", "Identity", "Slice", "Transpose", "Concat", "Flatten", "Expand"),
    *("Tile", "Gather"),
}
#: Where an operator takes a size: a large random number there asks for a tensor that no machine can hold.
_SIZES = {"Reshape": {1}, "Expand": {1}, "Tile": {1}, "ConstantOfShape": {0}, "Resize": {3}, "Range": {0, 1, 2}}
_SIZES |= {"Pad": {1}, "OneHot": {1}, "TopK": {1}, "Split": {1}, "Loop": {0}, "CenterCropPad": {1}, "AffineGrid": {1}}
_SIZE_LIMIT = 3


def _integer_range(graph: onnx.GraphProto, start: str, facts: Facts) -> tuple[int | None, tuple[int, ...]]:
    """Where an integer input ends up: the smallest table it indexes, and the constants it is compared with."""
    reached, limits, values = {start}, [], set()
    for node in graph.node:
        hits = [i for i, name in enumerate(node.input) if name in reached]
        if not hits or domain_of(node) not in ("", "com.microsoft"):
            continue
        if node.op_type in ("Gather", "GatherElements", "GatherND") and 1 in hits:
            axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
            table = facts.shape(node.input[0])
            if table and -len(table) <= axis < len(table) and isinstance(size := table[axis], int):
                limits.append(size)
        elif node.op_type == "OneHot" and 0 in hits and (depth := facts.integers(node.input[1])):
            limits.append(int(depth[0]))
        elif node.op_type == "Equal":
            other = facts.integers(node.input[1 - hits[0]])
            if other is not None and len(other) <= 8:
                values |= {int(v) for v in other if isinstance(v, (int, float))}
        elif _SIZES.get(node.op_type, set()).intersection(hits):
            limits.append(_SIZE_LIMIT)
        elif node.op_type in _PASSES:
            reached.update(node.output)
    return (min(limits) if limits else None), tuple(sorted(values))


def sizes(specs: Sequence[InputSpec], fixed: Mapping[str, Sequence[int]] | None = None) -> Iterator[Shapes]:
    """Shapes to try, plainest first: batch 1 and one size for all other free dimensions.

    Args:
        specs: the inputs.
        fixed: shapes that the caller asks for, by input name; a size that inputs share follows.

    Raises:
        InputError: `fixed` names no input, or contradicts what the model declares.
    """
    bound = _bind(specs, fixed or {})
    free = [d for d in dict.fromkeys(d for s in specs for d in s.dims if isinstance(d, str)) if d not in bound]
    inner = [d for d in free if not _is_batch(d, specs)]
    options = [dict.fromkeys(inner, size) for size in _sizes_for(specs, inner)] if inner else [{}]
    for option in options:
        yield _fill(specs, {**dict.fromkeys(free, 1), **option, **bound})


def other_sizes(
    specs: Sequence[InputSpec], base: Shapes, fixed: Mapping[str, Sequence[int]] | None = None
) -> Iterator[Shapes]:
    """Shapes that differ from `base` in whatever is dynamic, most different first: batch 2 or 3 and other sizes."""
    bound = _bind(specs, fixed or {})
    now = {d: n for s in specs for d, n in zip(s.dims, base[s.name], strict=True) if isinstance(d, str)}
    free = [d for d in now if d not in bound]
    inner = [d for d in free if not _is_batch(d, specs)]
    batch = [d for d in free if d not in inner]
    resized: list[dict[str, int]] = [{}]
    if inner:
        # Two free sizes of an image get different values: a width taken for a height shows only then.
        larger = {d: now[d] + 32 * (i % 2 + 1) for i, d in enumerate(inner)}
        smaller = {d: max(now[d] // (2 - i % 2), 1) for i, d in enumerate(inner)}
        even = [n for n in _sizes_for(specs, inner) if n != now[inner[0]]]
        least = [n for n in sorted(even)[:2] if n not in even[:3]]
        resized = [larger, *(dict.fromkeys(inner, n) for n in even[:3]), {}, smaller]
        resized += [dict.fromkeys(inner, n) for n in least]
    for count, change in itertools.product((2, 3, 1) if batch else (1,), resized):
        if change or count > 1:
            yield _fill(specs, {**now, **change, **dict.fromkeys(batch, count), **bound})


def _is_batch(dim: str, specs: Sequence[InputSpec]) -> bool:
    if re.search(r"batch|(^|\.)[nN]$", dim):
        return True
    return any(s.dims and s.dims[0] == dim and len(s.dims) > 1 for s in specs)


def _sizes_for(specs: Sequence[InputSpec], inner: Sequence[str]) -> tuple[int, ...]:
    return IMAGE_SIZES if any(len(s.dims) >= 4 and set(s.dims) & set(inner) for s in specs) else OTHER_SIZES


def _bind(specs: Sequence[InputSpec], fixed: Mapping[str, Sequence[int]]) -> dict[str, int]:
    by_name = {s.name: s for s in specs}
    bound: dict[str, int] = {}
    for name, shape in fixed.items():
        if name not in by_name:
            raise InputError(f"there is no input `{name}`", cure=f"the inputs are: {', '.join(by_name)}")
        spec = by_name[name]
        wrong = len(shape) != len(spec.dims) or any(n < 1 for n in shape)
        if wrong or any(isinstance(d, int) and d != n for d, n in zip(spec.dims, shape, strict=True)):
            raise InputError(f"shape {list(shape)} does not fit input `{name}` {describe(spec)}")
        for d, n in zip(spec.dims, shape, strict=True):
            if isinstance(d, str) and bound.setdefault(d, int(n)) != n:
                raise InputError(f"shapes give `{d}` two sizes, {bound[d]} and {n}")
    return bound


def _fill(specs: Sequence[InputSpec], known: Mapping[str, int]) -> Shapes:
    return {s.name: tuple(d if isinstance(d, int) else known[d] for d in s.dims) for s in specs}


def require_drawable(specs: Sequence[InputSpec]) -> None:
    """Raises InputError where values cannot be drawn: for strings."""
    for spec in specs:
        if spec.dtype == np.dtype(object):
            raise InputError(f"input `{spec.name}` holds strings, which cannot be drawn", cure="give --data")


def describe(spec: InputSpec) -> str:
    """The declared shape as people write it; `?` for a free size."""
    return "[" + ", ".join(str(d) if isinstance(d, int) else "?" for d in spec.dims) + "]"


# Values.


def _smooth(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """A few random waves in [0, 1] with 2 % noise: what a photograph has and noise has not, large even areas."""
    total = np.zeros(shape)
    for _ in range(4):
        phase = np.zeros(shape) + rng.uniform(0, 6.28)
        for axis, size in enumerate(shape):
            step = rng.uniform(-12, 12) / max(size, 1) if size > 4 else rng.uniform(-1, 1)
            phase = phase + step * np.arange(size).reshape([-1 if a == axis else 1 for a in range(len(shape))])
        total += np.cos(phase)
    return np.clip(total / 6 + 0.5 + 0.02 * rng.standard_normal(shape), 0, 1)


#: Distributions of float inputs, the most informative for most models first.
DISTRIBUTIONS: dict[str, Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]] = {
    "normal": lambda rng, shape: rng.standard_normal(shape),
    "uniform": lambda rng, shape: rng.random(shape),
    "bytes": lambda rng, shape: rng.integers(0, 256, shape).astype(np.float64),
    "smooth": _smooth,
    "smooth bytes": lambda rng, shape: np.round(255 * _smooth(rng, shape)),
    "sparse": lambda rng, shape: rng.standard_normal(shape) * (rng.random(shape) < 0.1),
    "small": lambda rng, shape: 0.01 * rng.standard_normal(shape),
    "flat": lambda rng, shape: rng.uniform(-1, 1) + 0.001 * rng.standard_normal(shape),
}


def draw(
    specs: Sequence[InputSpec], shapes: Shapes, distribution: str, seed: int, limit: int = INTEGER_LIMITS[0]
) -> Feeds:
    """Values for all inputs; the same arguments give the same values.

    A single boolean is what an If asks for: the first two of them take both values within any three seeds in a row.

    Args:
        specs: the inputs.
        shapes: a shape for each.
        distribution: a key of DISTRIBUTIONS; it rules the floats only.
        seed: of the generator.
        limit: exclusive upper end for integers of which the model says nothing.
    """
    rng = np.random.default_rng([seed, *distribution.encode()])
    feeds: Feeds = {}
    switches: list[str] = []
    for spec in specs:
        shape = shapes[spec.name]
        if spec.dtype == np.dtype(bool) and not shape and len(switches) < 2:
            value: np.ndarray = np.array(bool(seed >> len(switches) & 1))
            switches.append(spec.name)
        elif spec.dtype == np.dtype(bool):
            value = rng.random(shape) < 0.5
        elif spec.dtype.kind in "iu":
            value = _integers(spec, shape, rng, limit)
        else:
            value = DISTRIBUTIONS[distribution](rng, shape)
            value = value if spec.range is None else _spread(value, *spec.range)
        feeds[spec.name] = np.asarray(value).astype(spec.dtype)
    return feeds


def _spread(value: np.ndarray, low: float, high: float) -> np.ndarray:
    """The values moved and scaled so that they fill a range."""
    least, most = value.min(initial=0.0), value.max(initial=0.0)
    share = (value - least) / (most - least) if most > least else np.full_like(value, 0.5)
    return low + (high - low) * share


def _integers(spec: InputSpec, shape: tuple[int, ...], rng: np.random.Generator, limit: int) -> np.ndarray:
    if spec.range is not None:
        return rng.integers(int(np.ceil(spec.range[0])), int(np.floor(spec.range[1])) + 1, shape)
    if spec.values and not shape:
        return rng.choice(np.array(spec.values), shape)
    if spec.limit is None and re.search("mask", spec.name, re.I):
        limit = 2
    top = spec.limit or limit
    info = np.iinfo(spec.dtype)
    low = -128 if spec.limit is None and spec.dtype == np.int8 else 0
    return rng.integers(low, min(top, info.max + 1), shape)
