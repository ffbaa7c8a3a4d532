"""The shapes that a batch size, and the shapes a caller gives, make of a model's inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ..errors import InputError
from ..graph.model import Model
from ..verification.inputs import InputSpec, describe, signature, sizes
from ..verification.shapes import model_facts


def shapes_at(
    specs: Sequence[InputSpec], batch: int, given: Mapping[str, Sequence[int]]
) -> dict[str, tuple[int | str, ...]]:
    """Shapes of the inputs at one batch size; a dimension that nothing decides keeps its name.

    Args:
        specs: the inputs.
        batch: size of each leading dimension that is free, and of all that share its name.
        given: shapes by the caller. They win, also over `batch`, except for a leading 1.

    Raises:
        InputError: `given` names no input, or contradicts what the model declares.
    """
    next(sizes(specs, given))  # raises
    bound = {d: n for s in specs if s.name in given for d, n in zip(s.dims, given[s.name], strict=True)}
    leading = {s.dims[0] for s in specs if s.dims}
    bound |= {d: batch for d in leading if bound.get(d, 1) == 1}
    return {s.name: tuple(d if isinstance(d, int) else bound.get(d, d) for d in s.dims) for s in specs}


def open_dimensions(specs: Sequence[InputSpec], shapes: Mapping[str, tuple[int | str, ...]]) -> list[str]:
    """What the undecided dimensions are called: the model's own symbol, or input[axis] where it has none."""
    names = [
        name.removeprefix(f"{spec.name}.{axis}.").strip("?") or f"{spec.name}[{axis}]"
        for spec in specs
        for axis, name in enumerate(shapes[spec.name])
        if isinstance(name, str)
    ]
    return list(dict.fromkeys(names))


def inputs_of(model: Model) -> tuple[InputSpec, ...]:
    """The inputs to feed, with what the model's own folder says of them."""
    return signature(model.proto, model_facts(model.proto, model.path.parent if model.path is not None else None))


def common(a: Sequence[InputSpec], b: Sequence[InputSpec]) -> tuple[InputSpec, ...]:
    """The inputs of both models; a dimension that either fixes is fixed.

    Raises:
        InputError: the two have different inputs.
    """
    if [(s.name, s.dtype, len(s.dims)) for s in a] != [(s.name, s.dtype, len(s.dims)) for s in b]:
        raise InputError("the two models have different inputs", cure="compare models of the same interface")
    common = []
    for spec, other in zip(a, b, strict=True):
        pairs = list(zip(spec.dims, other.dims, strict=True))
        if any(isinstance(d, int) and isinstance(e, int) and d != e for d, e in pairs):
            raise InputError(f"input `{spec.name}` is {describe(spec)} in one model and {describe(other)} in the other")
        common.append(replace(spec, dims=tuple(e if isinstance(e, int) else d for d, e in pairs)))
    return tuple(common)


def feed_shapes(
    specs: Sequence[InputSpec], batch: int, given: Mapping[str, Sequence[int]]
) -> tuple[dict[str, tuple[int, ...]], int]:
    """Shapes to feed, and the batch that they come to: the leading dimension of the first input that has one."""
    shapes = shapes_at(specs, batch, given)
    if dynamic := open_dimensions(specs, shapes):
        name = next(n for n, shape in shapes.items() if any(isinstance(d, str) for d in shape))
        raise InputError(
            f"input `{name}` has dynamic dimensions: {', '.join(dynamic)}",
            cure=f"give its shape, as in --input-shape {name}=1,3,224,224",
        )
    sizes = {name: tuple(int(d) for d in shape) for name, shape in shapes.items()}
    return sizes, next((shape[0] for shape in sizes.values() if shape), 1)
