"""The shapes that a batch size, and the shapes a caller gives, make of a model's inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..verification.inputs import InputSpec, sizes


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
