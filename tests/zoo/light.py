"""The nine light networks of the onnx wheel, with random weights and planted zero, constant and unread channels.

As shipped (onnx/backend/test/data/light) every weight is ConstantOfShape(shape, 0.02): small files, real topologies,
but outputs with one value. Here each becomes a seeded initializer: He-normal weights, BatchNormalization statistics
measured on a random image, classifiers scaled to logits of size 1. The hidden fully connected layers of AlexNet, VGG-19
and ZFNet-512 are 256 wide instead of 4096; nothing else is changed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, TensorProto, helper, numpy_helper

from . import calibrate, oracle
from .channels import ChannelGraph, Weights, skeleton_shapes
from .planting import plant

FOLDER = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"

NAMES = (
    "squeezenet",
    "shufflenet",
    "inception_v1",
    "inception_v2",
    "densenet121",
    "resnet50",
    "bvlc_alexnet",
    "zfnet512",
    "vgg19",
)

HIDDEN, SHIPPED_HIDDEN = 256, 4096


@dataclass
class Light:
    """A planted network, its channels and what was planted (for the record)."""

    model: ModelProto
    channels: ChannelGraph
    planted: dict[str, int] = field(default_factory=dict)


def build(name: str, seed: int = 0, fraction: float = 0.4) -> Light:
    """The network `name` with `fraction` of the channels of its prunable layers planted."""
    model = onnx.load(FOLDER / f"light_{name}.onnx")
    rng = np.random.default_rng(seed)
    weights = random_weights(model, rng)
    install(model, weights)
    shapes = skeleton_shapes(model)
    image = oracle.feeds(model, 99)
    statistics = calibrate.batch_statistics(model, image)
    weights.update(statistics)
    scale_logits(model, weights, image)
    planted = plant(ChannelGraph(model, weights, shapes), weights, rng, fraction)
    scale_logits(model, weights, image)
    return Light(model, ChannelGraph(model, weights, shapes), planted)


def random_weights(model: ModelProto, rng: np.random.Generator) -> Weights:
    """A value for the output of each ConstantOfShape, by the role of its reader."""
    shapes = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    readers = first_readers(model.graph)
    hidden = {name for name, (node, _) in readers.items() if node.op_type == "Gemm"}
    weights = {}
    for node in model.graph.node:
        if node.op_type == "ConstantOfShape":
            name = node.output[0]
            shape = [int(size) for size in shapes[node.input[0]]]
            if name in hidden:
                shape = [HIDDEN if size == SHIPPED_HIDDEN else size for size in shape]
            weights[name] = draw(*readers[name], shape, rng).astype(np.float32)
    return weights


def first_readers(graph: GraphProto) -> dict[str, tuple[onnx.NodeProto, int]]:
    """Tensor -> (node, position) of its first reader, looking through Unsqueeze and Reshape."""
    readers: dict[str, tuple[onnx.NodeProto, int]] = {}
    for node in reversed(graph.node):
        for position, name in enumerate(node.input):
            through = node.op_type in ("Unsqueeze", "Reshape") and node.output[0] in readers
            readers[name] = readers[node.output[0]] if through and position == 0 else (node, position)
    return readers


def draw(node: onnx.NodeProto, position: int, shape: list[int], rng: np.random.Generator) -> np.ndarray:
    if node.op_type in ("Conv", "Gemm") and position == 1:
        fan_in = int(np.prod(shape[1:]))
        return rng.standard_normal(shape, dtype=np.float32) * (2 / fan_in) ** 0.5
    if node.op_type in ("Conv", "Gemm", "Add"):
        return 0.2 * rng.standard_normal(shape)
    if node.op_type == "BatchNormalization":
        draws = {1: rng.uniform(0.5, 1.5, shape), 2: 0.2 * rng.standard_normal(shape), 3: np.zeros(shape)}
        return draws.get(position, np.ones(shape))
    if node.op_type == "Mul":
        return rng.uniform(0.5, 1.5, shape)
    raise NotImplementedError(f"{node.op_type} input {position}")


def install(model: ModelProto, weights: Weights) -> None:
    """Replaces the ConstantOfShape nodes by initializers; like all of IR 3, these are listed as inputs."""
    graph = model.graph
    nodes = [node for node in graph.node if node.op_type != "ConstantOfShape"]
    shapes = {node.input[0] for node in graph.node if node.op_type == "ConstantOfShape"}
    initializers = [tensor for tensor in graph.initializer if tensor.name not in shapes]
    inputs = [value for value in graph.input if value.name not in shapes]
    initializers += [numpy_helper.from_array(array, name) for name, array in weights.items()]
    inputs += [helper.make_tensor_value_info(name, TensorProto.FLOAT, array.shape) for name, array in weights.items()]
    for field_, values in (("node", nodes), ("initializer", initializers), ("input", inputs)):
        kept = [type(value).FromString(value.SerializeToString()) for value in values]
        del getattr(graph, field_)[:]
        getattr(graph, field_).extend(kept)
    weights.update({t.name: numpy_helper.to_array(t) for t in graph.initializer if t.name not in weights})


def scale_logits(model: ModelProto, weights: Weights, image: oracle.Arrays) -> None:
    """Scales the last Gemm or Conv: what goes into the Softmax, or out of the graph, gets deviation 1."""
    last = [node for node in model.graph.node if node.op_type in ("Conv", "Gemm")][-1]
    softmax = [node.input[0] for node in model.graph.node if node.op_type == "Softmax"]
    logits = (softmax or [model.graph.output[0].name])[0]
    calibrate.set_initializers(model, weights)
    deviation = oracle.run(oracle.expose(model, [logits]), image)[logits].std()
    for name, (node, _) in first_readers(model.graph).items():
        if node == last and name in weights and weights[name].dtype == np.float32:
            weights[name] = (weights[name] / deviation).astype(np.float32)
    calibrate.set_initializers(model, weights)
