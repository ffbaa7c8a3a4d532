"""The plan's cuts, tested on the original: what was cut gets the values that it has on another input."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import ModelProto, helper, numpy_helper

from tests.zoo import oracle
from tests.zoo.oracle import Arrays

from .equality import differs, feeds, grain, worlds
from .precise import in_double, run_double

Kept = dict[str, dict[int, list[int]]]


def moved(model: ModelProto, kept: Kept) -> str:
    """Which output moves when every slice that was cut gets the values of another input, all at once; "" for none.

    Args:
        model: the original.
        kept: for each tensor that is cut, for each axis that is, the indices that stay (`Plan.kept`).
    """
    inner = {o for n in model.graph.node for o in n.output if o}
    outputs = [o.name for o in model.graph.output]
    cut = {t: axes for t, axes in kept.items() if t in inner and t not in outputs}
    if not cut:
        return ""
    exposed = oracle.session(oracle.expose(model, list(cut)), optimize=False, threads=1)
    names = [o.name for o in exposed.get_outputs()]
    world = worlds(model)[-1]
    one, other = (
        dict(zip(names, exposed.run(names, feeds(model, seed, world, scale)), strict=True))
        for seed, scale in ((31, 1.0), (32, 3.0))
    )
    cut = {t: axes for t, axes in cut.items() if one[t].dtype.kind == "f"}
    noisy, values = _overwritten(model, cut, other)
    arrays = feeds(model, 31, world, 1.0)
    expected = oracle.run(model, arrays)  # ONNX Runtime drops pairs of Casts, but not where they are outputs
    if not all(np.isfinite(a).all() for a in [*expected.values(), *values] if a.dtype.kind == "f"):
        return ""
    actual = oracle.run(noisy, arrays)
    worst = differs(expected, actual, grain(model))
    return "" if worst and _same_in_double(model, cut, arrays, feeds(model, 32, world, 3.0)) else worst


def _same_in_double(model: ModelProto, cut: Kept, arrays: Arrays, others: Arrays) -> bool:
    """The same test without rounding; true only where it can be made."""
    precise = in_double(model)
    other = run_double(oracle.expose(precise, list(cut)), others)
    expected = run_double(precise, arrays)
    if other is None or expected is None:
        return False
    actual = run_double(_overwritten(precise, cut, other)[0], arrays)
    return actual is not None and not differs(expected, actual, grain(model), 1e-6)


def _overwritten(model: ModelProto, cut: Kept, values: Arrays) -> tuple[ModelProto, list[np.ndarray]]:
    """The model with the cut slices of every tensor replaced by given values."""
    copy = ModelProto()
    copy.CopyFrom(model)
    nodes, used = [], []
    for node in copy.graph.node:
        after = []
        for place, name in enumerate(node.output):
            if name not in cut:
                continue
            array = values[name]
            kept = np.ones(array.shape, bool)
            for axis, indices in cut[name].items():
                mask = np.zeros(array.shape[axis], bool)
                mask[indices] = True
                kept &= mask.reshape([-1 if a == axis else 1 for a in range(array.ndim)])
            node.output[place] = f"{name}:clean"
            for label, value in (("kept", kept), ("noise", array)):
                tensor = numpy_helper.from_array(np.ascontiguousarray(value), f"{name}:{label}")
                after.append(helper.make_node("Constant", [], [f"{name}:{label}"], value=tensor))
            after.append(helper.make_node("Where", [f"{name}:kept", f"{name}:clean", f"{name}:noise"], [name]))
            used.append(array)
        nodes += [node, *after]
    kept_nodes = [onnx.NodeProto.FromString(n.SerializeToString()) for n in nodes]
    del copy.graph.node[:]
    copy.graph.node.extend(kept_nodes)
    return copy, used
