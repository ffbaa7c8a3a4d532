"""The plan's claims, tested one by one on the original: noise where it says "unread", values where it says "known".

Equal outputs test the sum of all claims; this tests each claim. Noise is written over every channel that the plan
calls unread, and the outputs must not move; every channel that it calls known is looked at, and must be what the
plan says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ..errors import InputError, ModelError
from ..graph.model import Model
from ..graph.shapes import skeleton
from ..runtime import session
from .footprint import fitting_first
from .inputs import Feeds, Ranges, draw, signature, sizes
from .shapes import model_facts
from .stability import BASES, stability

MOVED = 1e-5
"""How far noise in unread channels may move an output, relative to max|y|."""

OFF = 1e-4
"""How far a known value may be from the claim, relative to the tensor's largest: the original's own rounding, which a
normalization raises by 1 / sqrt(epsilon), some 300 times. A wrong claim is off by the size of the values."""

OFF_HALF = 1e-2
"""The same where there are 16-bit floats on the way: ten of their roundings."""


class Claim(Protocol):
    """Slices of a tensor along an axis."""

    @property
    def tensor(self) -> str: ...

    @property
    def axis(self) -> int: ...

    @property
    def slices(self) -> tuple[int, ...]: ...


class ValueClaim(Claim, Protocol):
    """Slices of known value."""

    @property
    def values(self) -> tuple[float, ...]: ...


@dataclass(frozen=True)
class Planted:
    """What the test of the claims found.

    Attributes:
        unread: channels that noise was written over.
        moved: largest change of an output that this caused, relative to max|y|.
        known: channels whose value was looked at.
        off: largest difference from the claimed value, relative to the tensor's largest value.
        broken: tensors whose claims do not hold.
    """

    unread: int
    moved: float
    known: int
    off: float
    broken: tuple[str, ...]

    @property
    def passed(self) -> bool:
        return not self.broken

    def __add__(self, other: Planted) -> Planted:
        """Both tests as one."""
        return Planted(
            self.unread + other.unread,
            max(self.moved, other.moved),
            self.known + other.known,
            max(self.off, other.off),
            self.broken + other.broken,
        )


def example(
    path: Path, input_shapes: Mapping[str, tuple[int, ...]] | None = None, input_ranges: Ranges | None = None
) -> Feeds | None:
    """One drawn input on which the model runs, at the plainest size; None if there is none.

    There is none either where an input cannot be drawn or ONNX Runtime refuses the model; `verify` says which.
    """
    model = onnx.load_model(str(path), load_external_data=False)
    try:
        specs = signature(model, model_facts(model, path.parent), input_ranges)
        runner = session(path, optimize=False)
    except (InputError, ModelError):
        return None
    for shapes in fitting_first(model, path.parent, sizes(specs, input_shapes)):
        feed = draw(specs, shapes, "uniform", 0)
        try:
            runner.run(None, dict(feed))
        except Exception:  # the model does not run at this size; ONNX Runtime raises many types
            continue
        return feed
    return None


Kept = Mapping[str, Mapping[int, list[int]]]


def plant(
    path: Path,
    proto: onnx.ModelProto,
    feed: Mapping[str, np.ndarray],
    unread: list[Any],
    known: list[Any],
    kept: Kept,
) -> Planted:
    """Test claims about a model on one input.

    Args:
        path: the original model.
        proto: its graph as the claims name its tensors, with functions inlined.
        feed: inputs by name.
        unread: claims that slices are read by nobody.
        known: claims of values, one for all elements of a slice that stay along the other axes.
        kept: for each tensor that is cut, for each axis that is, the indices that stay.
    """
    original = session(path, optimize=False)
    names = [o.name for o in original.get_outputs()]
    clean = original.run(names, dict(feed))
    broken: list[str] = []
    moved = _noise(path, proto, feed, unread, names, clean) if unread else 0.0
    if moved > MOVED:
        broken.append(f"unread channels move an output by {moved:.1e} of its largest value")
    off, wrong = _values(path, proto, feed, known, kept) if known else (0.0, [])
    return Planted(sum(len(c.slices) for c in unread), moved, sum(len(c.slices) for c in known), off, (*broken, *wrong))


def _run(path: Path, proto: onnx.ModelProto, feed: Mapping[str, np.ndarray], names: list[str]) -> list[np.ndarray]:
    """Outputs of a probe made from the model at `path`, whose external data is found beside that."""
    probe = session(proto.SerializeToString(), optimize=False, folder=path.parent)
    outputs: list[np.ndarray] = probe.run(names, dict(feed))
    return outputs


def _noise(
    path: Path,
    proto: onnx.ModelProto,
    feed: Mapping[str, np.ndarray],
    unread: list[Any],
    names: list[str],
    clean: list[np.ndarray],
) -> float:
    """Largest relative change of an output when unread slices hold noise."""
    noisy = onnx.ModelProto()
    noisy.CopyFrom(proto)
    by_tensor: dict[str, list[Any]] = {}
    for claim in unread:
        by_tensor.setdefault(claim.tensor, []).append(claim)
    rng = np.random.default_rng(0)
    nodes = list(noisy.graph.node)
    del noisy.graph.node[:]
    ranks = _ranks(proto)
    for node in nodes:
        noisy.graph.node.append(node)
        added = noisy.graph.node[-1]
        for place, name in enumerate(added.output):
            for claim in by_tensor.get(name, ()):
                rank, size = ranks.get(name, (None, ()))
                if rank is None:
                    continue
                width = size[claim.axis]
                mask, noise = np.zeros(width, bool), np.zeros(width, np.float32)
                mask[list(claim.slices)] = True
                noise[mask] = rng.uniform(1, 3, mask.sum()) * rng.choice([-1, 1], mask.sum())
                column = [width if a == claim.axis else 1 for a in range(rank)]
                raw = f"{name}@raw"
                added.output[place] = raw
                for label, array in (("mask", mask), ("noise", noise)):
                    noisy.graph.node.insert(
                        len(noisy.graph.node) - 1,
                        helper.make_node(
                            "Constant",
                            [],
                            [f"{name}@{label}"],
                            value=numpy_helper.from_array(array.reshape(column), f"{name}@{label}"),
                        ),
                    )
                noisy.graph.node.append(helper.make_node("Where", [f"{name}@mask", f"{name}@noise", raw], [name]))
                break
    moved = 0.0
    for before, after in zip(clean, _run(path, noisy, feed, names), strict=True):
        if isinstance(before, np.ndarray) and before.dtype.kind == "f" and before.size:
            scale = float(np.abs(before).max()) or 1.0
            moved = max(moved, float(np.nanmax(np.abs(after.astype(np.float64) - before)) / scale))
    return moved


def _ranks(proto: onnx.ModelProto) -> dict[str, tuple[int | None, tuple[int, ...]]]:
    """Rank and dimensions (0 where dynamic) of every declared or inferred float32 tensor."""
    inferred = onnx.shape_inference.infer_shapes(skeleton(Model(proto)), data_prop=True)
    found: dict[str, tuple[int | None, tuple[int, ...]]] = {}
    for value in [*inferred.graph.value_info, *inferred.graph.output, *inferred.graph.input]:
        tensor = value.type.tensor_type
        if tensor.elem_type == onnx.TensorProto.FLOAT and tensor.HasField("shape"):
            found[value.name] = (len(tensor.shape.dim), tuple(int(d.dim_value) for d in tensor.shape.dim))
    return found


def _values(
    path: Path, proto: onnx.ModelProto, feed: Mapping[str, np.ndarray], known: list[Any], kept: Kept
) -> tuple[float, list[str]]:
    """Largest relative difference from claimed values, and the tensors where it is too large."""
    probe = onnx.ModelProto()
    probe.CopyFrom(proto)
    produced = {o for n in probe.graph.node for o in n.output}
    tensors = sorted({c.tensor for c in known} & produced)
    present = {o.name for o in probe.graph.output}
    probe.graph.output.extend(helper.make_empty_tensor_value_info(t) for t in tensors if t not in present)
    off, wrong = 0.0, list[str]()
    if not tensors:  # all claims are about inputs and constants
        return off, wrong
    arrays = dict(zip(tensors, _run(path, probe, feed, tensors), strict=True))
    facts = model_facts(proto, path.parent)
    marks = stability(proto.graph, facts)
    for claim in known:
        array, shape = arrays.get(claim.tensor), facts.shape(claim.tensor)
        if array is None or not array.size or array.dtype.kind != "f":
            continue
        if array.ndim <= claim.axis or (shape is not None and len(shape) != array.ndim):
            continue  # a Squeeze of all axes of length one takes a batch of one with it
        half = array.dtype.itemsize == 2 or marks.base(claim.tensor) >= BASES[onnx.TensorProto.FLOAT16]
        limit = OFF_HALF if half else OFF
        for axis, indices in kept.get(claim.tensor, {}).items():
            if axis != claim.axis:
                array = array.take(indices, axis)
        if not array.size:
            continue
        array = np.moveaxis(array.astype(np.float64), claim.axis, 0)
        there = array[list(claim.slices)].reshape(len(claim.slices), -1)
        scale = float(np.nanmax(np.abs(array))) or 1.0
        difference = float(np.abs(there - np.array(claim.values)[:, None]).max(initial=0.0)) / scale
        off = max(off, difference)
        if difference > limit:
            wrong.append(f"channels of `{claim.tensor}` differ from their known value by {difference:.1e}")
    return off, wrong
