"""The traps: small graphs with dead channels, each result against its original.

`test_claims` and `test_original_depends_on_its_input` need nothing of the package: they say that the material is sound.
"""

from __future__ import annotations

import functools

import numpy as np
import onnx
import pytest
from onnx import ModelProto

import onnxshrink
from tests.zoo import oracle
from tests.zoo.net import parameters
from tests.zoo.trap import Trap
from tests.zoo.traps import TRAPS

each_trap = pytest.mark.parametrize("trap", TRAPS, ids=lambda trap: trap.name)

# The output of these is a constant by construction.
CONSTANT_OUTPUT = {
    "gate_scalar_zero",
    "conv_channels_all_zero_mid",
    "conv_channels_all_constant_mid",
    "output_conv_all_zero",
}


# The cut itself: no alignment, exact zeros only, and no verification that would refuse what is wrong.
EXACT = {"align": 1, "negligible": 0, "verify": False}


def options(trap: Trap) -> dict[str, object]:
    return {"align": 1} if trap.negligible else EXACT


@functools.cache
def original(trap: Trap) -> ModelProto:
    return trap.build()


@functools.cache
def shrunk(trap: Trap) -> ModelProto:
    """Exact cuts only, unverified, so that nothing but the cut itself is under test; see Trap.negligible."""
    return onnxshrink.optimize(original(trap), **options(trap)).model


@each_trap
def test_claims(trap: Trap) -> None:
    oracle.assert_claims(original(trap), trap.net().claims, trap.sizes[0])


@each_trap
def test_original_depends_on_its_input(trap: Trap) -> None:
    model = original(trap)
    first, second = (oracle.run(model, oracle.feeds(model, seed, trap.sizes[0])) for seed in (0, 1))
    assert all(np.isfinite(array).all() for array in first.values())
    changed = max(oracle.relative_error(first[name], second[name]) for name in first)
    assert (changed == 0) if trap.name in CONSTANT_OUTPUT else (changed > 0.01)


@each_trap
def test_equal_under_onnxruntime(trap: Trap) -> None:
    result = shrunk(trap)
    for optimize in (False, True):
        before = oracle.session(original(trap), optimize=False)
        after = oracle.session(result, optimize=optimize)
        names = [output.name for output in before.get_outputs()]
        for size in trap.sizes:
            for seed in range(3):
                arrays = oracle.feeds(original(trap), seed, size)
                expected = dict(zip(names, before.run(None, arrays), strict=True))
                actual = dict(zip(names, after.run(names, arrays), strict=True))
                oracle.assert_equal(expected, actual, what=f"optimize={optimize}, {size}, seed {seed}")


@each_trap
def test_equal_under_the_reference(trap: Trap) -> None:
    for size in trap.sizes:
        arrays = oracle.feeds(original(trap), 0, size)
        expected = oracle.run_reference(original(trap), arrays)
        truth = oracle.run(original(trap), arrays)
        if expected is None or max(oracle.relative_error(truth[name], expected[name]) for name in truth) > 1e-3:
            pytest.skip("onnx.reference does not run the original, or runs it differently from ONNX Runtime")
        actual = oracle.run_reference(shrunk(trap), arrays)
        assert actual is not None, "onnx.reference runs the original, not the result"
        oracle.assert_equal(expected, actual, what=f"{size}")


@each_trap
def test_interface_unchanged(trap: Trap) -> None:
    before, after = original(trap), shrunk(trap)
    assert oracle.interface(after) == oracle.interface(before)
    metadata = {entry.key: entry.value for entry in after.metadata_props}
    assert {entry.key: entry.value for entry in before.metadata_props}.items() <= metadata.items()
    documents = {(node.op_type, node.output[0]): node.doc_string for node in before.graph.node}
    for node in after.graph.node:
        assert node.doc_string == documents.get((node.op_type, node.output[0]), node.doc_string)
    names = [node.name for node in after.graph.node if node.name]
    assert len(set(names)) == len(names), "node names are unique"
    listed, held = ({value.name for value in after.graph.input}, {tensor.name for tensor in after.graph.initializer})
    if before.ir_version < 4:
        assert held <= listed, "below IR 4 every initializer is listed as an input"
    elif not trap.drops_default_inputs:
        assert [value.name for value in after.graph.input] == [value.name for value in before.graph.input]


@each_trap
def test_removes_what_can_go(trap: Trap) -> None:
    before, after = (parameters(model, integers=trap.integers) for model in (original(trap), shrunk(trap)))
    assert before - after >= (trap.removable or 0), f"{before} -> {after}, {trap.removable} can go: {trap.why}"


@pytest.mark.parametrize("trap", [t for t in TRAPS if any(t.sizes)], ids=lambda trap: trap.name)
def test_what_inference_left_in_the_file_takes_nothing_away(trap: Trap) -> None:
    """Simplifiers leave names of their own for what they do not know, which say less than the shapes themselves."""
    inferred = onnx.shape_inference.infer_shapes(original(trap))
    again = onnxshrink.optimize(inferred, **options(trap)).model
    assert parameters(again, integers=trap.integers) <= parameters(shrunk(trap), integers=trap.integers)


@each_trap
def test_running_twice_changes_nothing_more(trap: Trap) -> None:
    again = onnxshrink.optimize(shrunk(trap), **options(trap)).model
    assert again.graph == shrunk(trap).graph


@each_trap
def test_input_is_not_touched_and_result_is_deterministic(trap: Trap) -> None:
    model = trap.build()
    result = onnxshrink.optimize(model, **options(trap)).model
    assert model == original(trap)
    assert result.SerializeToString(deterministic=True) == shrunk(trap).SerializeToString(deterministic=True)


@each_trap
@pytest.mark.slow
def test_default_options(trap: Trap) -> None:
    """With verification and the default threshold for negligible weights nothing is refused and no less is cut."""
    result = onnxshrink.optimize(original(trap), align=1)
    assert parameters(result.model) <= parameters(shrunk(trap))
    arrays = oracle.feeds(original(trap), 5, trap.sizes[0])
    oracle.assert_equal(oracle.run(original(trap), arrays), oracle.run(result.model, arrays, optimize=True))
