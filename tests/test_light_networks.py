"""The light networks: real topologies with planted channels, against the original and an independent count.

`test_count_is_sound` needs nothing of the package: it says that what the count calls removable carries nothing.
"""

from __future__ import annotations

import functools

import numpy as np
import pytest
from onnx import ModelProto

import onnxshrink
from tests.zoo import light, oracle
from tests.zoo.net import conv_outputs

# The others have many multiply-adds (VGG-19: 20 G) or large weights and take longer.
DEFAULT = ("squeezenet", "shufflenet", "inception_v1", "densenet121", "resnet50")
NAMES = [name if name in DEFAULT else pytest.param(name, marks=pytest.mark.slow) for name in light.NAMES]


class Case:
    """A planted network and, made when it is first asked for, its result without alignment."""

    def __init__(self, name: str):
        self.light = light.build(name)
        self.before = self.light.model

    @functools.cached_property
    def after(self) -> ModelProto:
        return onnxshrink.optimize(self.before, align=1, negligible=0, verify=False).model


@pytest.fixture(scope="module", params=NAMES)
def case(request: pytest.FixtureRequest) -> Case:
    return Case(request.param)


def test_count_is_sound(case: Case) -> None:
    """Known channels have the value that is said, and noise in the removable unknown ones changes nothing."""
    network, rng = case.light, np.random.default_rng(3)
    graph, kept = network.channels, network.channels.kept()
    arrays = oracle.feeds(network.model, 0)
    tensors = [reader.tensor for reader in graph.readers if reader.tensor in graph.elements]
    noise = {}
    for producer in graph.producers:
        tensor = producer.node.output[0]
        unknown = ~kept[producer.elements] & np.isnan(graph.values[tensor])
        noise[tensor] = (10 * rng.standard_normal(len(unknown)) * unknown).astype(np.float32).reshape(-1, 1, 1)
    answers = oracle.run(oracle.expose(network.model, tensors), arrays)
    outputs = [output.name for output in network.model.graph.output]
    expected = {output: answers[output] for output in outputs}
    assert all(np.isfinite(array).all() and array.std() > 0 for array in expected.values())
    for tensor in dict.fromkeys(tensors):
        if tensor in outputs:
            continue
        values = graph.values[tensor].ravel()
        known, planes = ~np.isnan(values), np.moveaxis(answers[tensor], 1, 0).reshape(len(values), -1)
        error = np.abs(planes[known] - values[known, None]).max(initial=0)
        assert error <= 1e-4 * np.abs(planes).max(), f"{tensor} is not what is known of it: {error}"
    oracle.assert_equal(expected, oracle.run(oracle.with_noise(network.model, noise), arrays), 1e-6)
    removable = graph.removable()
    assert 0.15 < removable / conv_outputs(network.model) < 0.6, "the planting lost its aim"


def test_equal(case: Case) -> None:
    assert oracle.interface(case.after) == oracle.interface(case.before)
    for seed, optimize in ((0, False), (1, True)):
        arrays = oracle.feeds(case.before, seed)
        oracle.assert_equal(oracle.run(case.before, arrays), oracle.run(case.after, arrays, optimize=optimize))


def test_removes_at_least_the_count(case: Case) -> None:
    before, after = conv_outputs(case.before), conv_outputs(case.after)
    expected = case.light.channels.removable()
    assert before - after >= expected, f"{before - after} of {before} Conv channels are gone, {expected} can go"
