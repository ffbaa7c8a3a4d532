"""Suite: architectures of `transformers` from tiny configurations, exported both ways, with planted channels and heads.

Each case builds a module with random weights (nothing is downloaded), plants, exports, optimizes, and holds the result
against the original under ONNX Runtime and each layer's width against what the planter says a consistent cut leaves.
"""

from __future__ import annotations

import io
import logging
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import torch
import transformers
from onnx import ModelProto
from torch import nn
from transformers.models.whisper.modeling_whisper import WhisperEncoder

import onnxshrink
from tests.zoo import oracle

from .outcome import Outcome
from .planter import Layer, Planter, layers, width

NAME = "architectures"

EXPORTERS = ("dynamo", "torchscript")
VOCABULARY = 50
FIXED: tuple[tuple[str, ...], ...] = ((),)
ALL: tuple[tuple[str, ...], ...] = ((), ("dynamic",), ("eager",), ("eager", "dynamic"))
TOKENS = ("input_ids", "attention_mask")


@dataclass(frozen=True)
class Architecture:
    """How to build one, what to feed it (the shape of each input, by name), what to plant, and variants of the export.

    Variants hold "dynamic" (open batches and sequences) and "eager" (attention written out in operators).
    """

    build: Callable[[], nn.Module]
    inputs: dict[str, tuple[int, ...]]
    plant: Callable[[Planter], None]
    variants: tuple[tuple[str, ...], ...] = ((), ("dynamic",))


# --- what is planted in each family


def feed_forward(planter: Planter, first: str, second: str) -> None:
    """Hidden units of two dense layers with an activation between: all of them go."""
    for kind in ("zero", "constant", "unread"):
        planter.channels(kind, 2, [Layer(first)], [second])


def attentions(
    planter: Planter, names: Sequence[tuple[str, str, str, str]], heads: int = 4, *, masked: bool = False
) -> None:
    """Alternately dead heads of all kinds, and dead inner dimensions beside a head that attends uniformly."""
    for number, (query, key, value, output) in enumerate(names):
        if number % 2 == 0:
            planter.attention(query, key, value, output, heads, zero=[0], unread=[2])
        else:
            planter.attention(
                query,
                key,
                value,
                output,
                heads,
                constant=[1],
                uniform=[0],
                value_dims=[2],
                score_dims=[1],
                constant_stays=masked,
            )


def encoder(
    planter: Planter,
    prefix: str,
    attention: tuple[str, str, str, str],
    dense: tuple[str, str],
    depth: int = 2,
    heads: int = 4,
    masked: bool = False,
) -> None:
    """Attention and feed-forward of a stack of layers."""
    names = [f"{prefix}.{i}" for i in range(depth)]
    attentions(
        planter,
        [(f"{n}.{attention[0]}", f"{n}.{attention[1]}", f"{n}.{attention[2]}", f"{n}.{attention[3]}") for n in names],
        heads,
        masked=masked,
    )
    for name in names:
        feed_forward(planter, f"{name}.{dense[0]}", f"{name}.{dense[1]}")


def projections(prefix: str, output: str = "o_proj") -> tuple[str, str, str, str]:
    return (f"{prefix}.q_proj", f"{prefix}.k_proj", f"{prefix}.v_proj", f"{prefix}.{output}")


def vit(planter: Planter) -> None:
    encoder(planter, "layers", projections("attention"), ("mlp.fc1", "mlp.fc2"))


def bert(planter: Planter) -> None:
    attention = ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense")
    encoder(planter, "encoder.layer", attention, ("intermediate.dense", "output.dense"), masked=True)


def distilbert(planter: Planter) -> None:
    attention = ("attention.q_lin", "attention.k_lin", "attention.v_lin", "attention.out_lin")
    encoder(planter, "transformer.layer", attention, ("ffn.lin1", "ffn.lin2"), masked=True)


def albert(planter: Planter) -> None:
    layer = "encoder.albert_layer_groups.0.albert_layers.0"
    attention = (f"{layer}.attention.query", f"{layer}.attention.key", f"{layer}.attention.value")
    attentions(planter, [(*attention, f"{layer}.attention.dense")])
    feed_forward(planter, f"{layer}.ffn", f"{layer}.ffn_output")


def whisper(planter: Planter) -> None:
    encoder(planter, "layers", projections("self_attn", "out_proj"), ("fc1", "fc2"))
    planter.channels("zero", 2, [Layer("conv1")], ["conv2"])
    planter.channels("constant", 3, [Layer("conv1")], ["conv2"], stay=1)  # zero padding: a carrier stays
    planter.channels("unread", 2, [Layer("conv1")], ["conv2"])


def wav2vec2(planter: Planter) -> None:
    encoder(
        planter,
        "encoder.layers",
        projections("attention", "out_proj"),
        ("feed_forward.intermediate_dense", "feed_forward.output_dense"),
    )
    first = Layer("feature_extractor.conv_layers.0.conv", "feature_extractor.conv_layers.0.layer_norm")
    for kind in ("zero", "constant", "unread"):
        planter.channels(kind, 2, [first], ["feature_extractor.conv_layers.1.conv"])


def clip(planter: Planter) -> None:
    for tower, masked in (("text_model", True), ("vision_model", False)):
        encoder(
            planter,
            f"{tower}.encoder.layers",
            projections("self_attn", "out_proj"),
            ("mlp.fc1", "mlp.fc2"),
            masked=masked,
        )


def swin(planter: Planter) -> None:
    for stage, heads in enumerate((4, 4)):
        blocks = [f"encoder.layers.{stage}.blocks.{i}" for i in range(2)]
        attentions(planter, [projections(f"{b}.attention") for b in blocks], heads)
        for block in blocks:
            feed_forward(planter, f"{block}.mlp.fc1", f"{block}.mlp.fc2")


def segformer(planter: Planter) -> None:
    for stage, heads in enumerate((2, 4)):
        blocks = [f"segformer.stages.{stage}.blocks.{i}" for i in range(2)]
        if heads == 4:
            attentions(planter, [projections(f"{b}.attention") for b in blocks])
        else:
            planter.attention(*projections(f"{blocks[0]}.attention"), heads, zero=[1])
            planter.attention(*projections(f"{blocks[1]}.attention"), heads, unread=[0], value_dims=[3])
        for block in blocks:
            first, spatial, second = f"{block}.mlp.fc1", f"{block}.mlp.dwconv.dwconv", f"{block}.mlp.fc2"
            for kind in ("zero", "unread"):
                planter.channels(kind, 2, [Layer(first)], [second], follow=[spatial])
            planter.channels("constant", 2, [Layer(spatial)], [second], follow=[first])
    fuse = Layer("decode_head.linear_fuse", "decode_head.batch_norm")
    for kind in ("zero", "constant", "unread"):
        planter.channels(kind, 2, [fuse], ["decode_head.classifier"])


def detr(planter: Planter) -> None:
    for part, kind in (("encoder", "self_attn"), ("decoder", "encoder_attn")):
        blocks = [f"model.{part}.layers.{i}" for i in range(2)]
        attentions(planter, [projections(f"{block}.{kind}") for block in blocks], masked=True)
        for block in blocks:
            feed_forward(planter, f"{block}.mlp.fc1", f"{block}.mlp.fc2")
    # the decoder's first self-attention is over zeros, and the exporter computes it
    attentions(planter, [projections("model.decoder.layers.1.self_attn")])
    for first in (0, 1):
        for kind in ("zero", "constant", "unread"):
            producer = Layer(f"bbox_predictor.layers.{first}")
            planter.channels(kind, 2, [producer], [f"bbox_predictor.layers.{first + 1}"])
    for stage in (0, 1):
        block = f"model.backbone.model.encoder.stages.{stage}.layers.0.layer"
        convolutions(planter, [(block, 2)], padded=True)


def conv(prefix: str) -> Layer:
    return Layer(f"{prefix}.convolution", f"{prefix}.normalization")


def convolutions(planter: Planter, blocks: Sequence[tuple[str, int]], *, padded: bool) -> None:
    """Channels between the convolutions of a block; a constant before zero padding leaves a carrier."""
    for block, count in blocks:
        for i in range(count - 1):
            consumer = f"{block}.{i + 1}.convolution"
            same = padded or planter.module.get_submodule(consumer).kernel_size[0] > 1
            planter.channels("zero", 1, [conv(f"{block}.{i}")], [consumer])
            planter.channels("constant", 2, [conv(f"{block}.{i}")], [consumer], stay=int(same))
            planter.channels("unread", 1, [conv(f"{block}.{i}")], [consumer])


def resnet(planter: Planter) -> None:
    for stage in (0, 1):
        for block in (0, 1):
            convolutions(planter, [(f"encoder.stages.{stage}.layers.{block}.layer", 3)], padded=False)
    first, second = (f"encoder.stages.0.layers.{i}" for i in (0, 1))
    following = "encoder.stages.1.layers.0"
    addends = [conv(f"{first}.shortcut"), conv(f"{first}.layer.2"), conv(f"{second}.layer.2")]
    consumers = [f"{second}.layer.0", f"{following}.shortcut", f"{following}.layer.0"]
    for kind in ("zero", "unread"):
        planter.channels(kind, 2, addends, [f"{name}.convolution" for name in consumers])
    planter.partial(addends)


def regnet(planter: Planter) -> None:
    for stage, channels in ((0, 16), (1, 32)):
        for block in (0, 1):
            layer = f"encoder.stages.{stage}.layers.{block}.layer"
            squeeze, gate = f"{layer}.2.attention.0", f"{layer}.2.attention.2"
            planter.channels("constant", 1, [Layer(squeeze)], [gate])
            outputs, readers = conv(f"{layer}.1"), [squeeze, f"{layer}.3.convolution"]
            if block == 0:  # a whole group of four, and what only it reads
                inputs = f"{layer}.0.convolution"
                planter.channels("zero", 4, [outputs], readers, follow=[inputs, gate], among=range(4, 8))
            else:  # one output of each group
                count = channels // 4
                planter.channels("unread", count, [outputs], readers, follow=[gate], among=range(2, channels, 4))


def mobilenet(planter: Planter) -> None:
    for i in range(6):
        expand, spatial, reduce = (f"layer.{i}.{part}" for part in ("expand_1x1", "conv_3x3", "reduce_1x1"))
        planter.channels("zero", 3, [conv(expand)], [f"{reduce}.convolution"], follow=[f"{spatial}.convolution"])
        planter.channels("constant", 3, [conv(spatial)], [f"{reduce}.convolution"], follow=[f"{expand}.convolution"])
        planter.channels("unread", 3, [conv(expand)], [f"{reduce}.convolution"], follow=[f"{spatial}.convolution"])
    # a constant plane is none behind a padded depthwise convolution
    planter.channels("constant", 2, [conv("layer.6.expand_1x1")], [], stay=2)


def efficientnet(planter: Planter) -> None:
    for i in (1, 2):
        block = f"encoder.blocks.{i}"
        spatial = Layer(f"{block}.depthwise_conv.depthwise_conv", f"{block}.depthwise_conv.depthwise_norm")
        expand, gate = f"{block}.expansion.expand_conv", f"{block}.squeeze_excite.expand"
        squeeze, project = f"{block}.squeeze_excite.reduce", f"{block}.projection.project_conv"
        for kind in ("zero", "unread"):
            planter.channels(kind, 3, [spatial], [squeeze, project], follow=[expand, gate])
        planter.channels("unread", 1, [Layer(squeeze)], [gate])


def convnext(planter: Planter) -> None:
    for stage in (0, 1):
        for block in (0, 1):
            layer = f"encoder.stages.{stage}.layers.{block}"
            feed_forward(planter, f"{layer}.pwconv1", f"{layer}.pwconv2")


# --- the architectures

IMAGE = {"pixel_values": (2, 3, 32, 32)}
LARGE = {"pixel_values": (2, 3, 64, 64)}
TEXT = {"input_ids": (2, 7), "attention_mask": (2, 7)}
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 32}
PATCHES = {**SIZES, "image_size": 32, "patch_size": 16}
WORDS = {"vocab_size": VOCABULARY, "max_position_embeddings": 32}


def _of(model: str, config: str, **options: object) -> Callable[[], nn.Module]:
    return lambda: getattr(transformers, model)(getattr(transformers, config)(**options))


def _backbone() -> transformers.ResNetConfig:
    return transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[16, 32], depths=[1, 1], layer_type="basic", out_features=["stage2"]
    )


ARCHITECTURES: dict[str, Architecture] = {
    "resnet": Architecture(
        _of("ResNetModel", "ResNetConfig", embedding_size=8, hidden_sizes=[32, 48], depths=[2, 2]),
        IMAGE,
        resnet,
    ),
    "regnet": Architecture(
        _of("RegNetModel", "RegNetConfig", embedding_size=8, hidden_sizes=[16, 32], depths=[2, 2], groups_width=4),
        IMAGE,
        regnet,
        FIXED,
    ),
    "convnext": Architecture(
        _of("ConvNextModel", "ConvNextConfig", num_stages=2, hidden_sizes=[8, 16], depths=[2, 2], image_size=32),
        IMAGE,
        convnext,
        FIXED,
    ),
    "mobilenetv2": Architecture(
        _of("MobileNetV2Model", "MobileNetV2Config", depth_multiplier=0.25, min_depth=8, image_size=32),
        IMAGE,
        mobilenet,
        FIXED,
    ),
    "efficientnet": Architecture(
        _of(
            "EfficientNetModel",
            "EfficientNetConfig",
            image_size=32,
            width_coefficient=0.25,
            depth_coefficient=0.5,
            depth_divisor=4,
            in_channels=[32, 32, 48],
            out_channels=[32, 48, 64],
            kernel_sizes=[3, 3, 5],
            strides=[1, 2, 2],
            expand_ratios=[1, 4, 4],
            num_block_repeats=[1, 2, 2],
            hidden_dim=320,
        ),
        IMAGE,
        efficientnet,
        FIXED,
    ),
    "vit": Architecture(_of("ViTModel", "ViTConfig", **PATCHES), IMAGE, vit, ALL),
    "deit": Architecture(_of("DeiTModel", "DeiTConfig", **PATCHES), IMAGE, vit),
    "swin": Architecture(
        _of(
            "SwinModel",
            "SwinConfig",
            image_size=32,
            patch_size=4,
            embed_dim=16,
            depths=[2, 2],
            num_heads=[4, 4],
            window_size=4,
            mlp_ratio=2.0,
        ),
        IMAGE,
        swin,
    ),
    "segformer": Architecture(
        _of(
            "SegformerForSemanticSegmentation",
            "SegformerConfig",
            num_encoder_blocks=2,
            depths=[2, 2],
            sr_ratios=[4, 1],
            hidden_sizes=[16, 16],
            patch_sizes=[7, 3],
            strides=[4, 2],
            num_attention_heads=[2, 4],
            mlp_ratios=[2, 2],
            decoder_hidden_size=16,
            num_labels=5,
        ),
        LARGE,
        segformer,
    ),
    "detr": Architecture(
        lambda: transformers.DetrForObjectDetection(
            transformers.DetrConfig(
                use_timm_backbone=False,
                use_pretrained_backbone=False,
                backbone=None,
                backbone_config=_backbone(),
                d_model=16,
                encoder_layers=2,
                decoder_layers=2,
                encoder_attention_heads=4,
                decoder_attention_heads=4,
                encoder_ffn_dim=32,
                decoder_ffn_dim=32,
                num_queries=5,
                num_labels=4,
            )
        ),
        LARGE,
        detr,
    ),
    "bert": Architecture(_of("BertModel", "BertConfig", **SIZES, **WORDS), TEXT, bert, ALL),
    "distilbert": Architecture(
        _of("DistilBertModel", "DistilBertConfig", dim=16, n_layers=2, n_heads=4, hidden_dim=32, **WORDS),
        TEXT,
        distilbert,
    ),
    "albert": Architecture(_of("AlbertModel", "AlbertConfig", embedding_size=8, **SIZES, **WORDS), TEXT, albert),
    "whisper": Architecture(
        lambda: WhisperEncoder(
            transformers.WhisperConfig(
                d_model=16,
                encoder_layers=2,
                encoder_attention_heads=4,
                encoder_ffn_dim=32,
                num_mel_bins=8,
                max_source_positions=16,
            )
        ),
        {"input_features": (2, 8, 32)},
        whisper,
    ),
    "wav2vec2": Architecture(
        _of(
            "Wav2Vec2Model",
            "Wav2Vec2Config",
            **SIZES,
            conv_dim=(16, 16),
            conv_stride=(4, 2),
            conv_kernel=(8, 3),
            num_feat_extract_layers=2,
            num_conv_pos_embeddings=8,
            num_conv_pos_embedding_groups=4,
        ),
        {"input_values": (2, 400)},
        wav2vec2,
    ),
    "clip": Architecture(
        _of(
            "CLIPModel",
            "CLIPConfig",
            text_config={**SIZES, **WORDS, "eos_token_id": 49, "bos_token_id": 48, "pad_token_id": 1},
            vision_config=PATCHES,
            projection_dim=12,
        ),
        {"input_ids": (2, 7), "pixel_values": (2, 3, 32, 32)},
        clip,
        ALL,
    ),
}


# --- building, exporting, running


class Wrapped(nn.Module):
    """A model with positional inputs and a plain list of tensors as output."""

    def __init__(self, model: nn.Module, names: Sequence[str]):
        super().__init__()
        self.model, self.names = model, tuple(names)

    def forward(self, *arrays: torch.Tensor) -> list[torch.Tensor]:
        answer = self.model(**dict(zip(self.names, arrays, strict=True)))
        return [value for value in answer.values() if isinstance(value, torch.Tensor)]


def open_axes(architecture: Architecture) -> dict[str, dict[int, str]]:
    """The axes of each input that a dynamic export leaves open: batches, and the length of token sequences."""
    return {name: {0: "batch", 1: "sequence"} if name in TOKENS else {0: "batch"} for name in architecture.inputs}


def feeds(architecture: Architecture, seed: int, more: int = 0) -> dict[str, np.ndarray]:
    """Tokens, masks that hide the end of each row (with seed 2 all of the first row), and normal noise.

    Args:
        more: how much longer than declared the open axes are.
    """
    rng = np.random.default_rng(seed)
    arrays: dict[str, np.ndarray] = {}
    for name, declared in architecture.inputs.items():
        longer = open_axes(architecture)[name]
        shape = tuple(d + more if axis in longer else d for axis, d in enumerate(declared))
        if name == "input_ids":
            arrays[name] = rng.integers(2, VOCABULARY, shape)
        elif name == "attention_mask":
            arrays[name] = (np.arange(shape[1]) < rng.integers(3, shape[1] + 1, (shape[0], 1))).astype(np.int64)
            if seed == 2:
                arrays[name][0] = 0
        else:
            arrays[name] = rng.standard_normal(shape).astype(np.float32)
    return arrays


def prepared(name: str, *, eager: bool = False) -> tuple[Architecture, Planter]:
    """The architecture and its module with everything planted; `eager`: attention written out in operators."""
    architecture = ARCHITECTURES[name]
    module = architecture.build().eval()
    if eager:
        module.set_attn_implementation("eager")
    planter = Planter(module)
    architecture.plant(planter)
    return architecture, planter


def export(architecture: Architecture, module: nn.Module, exporter: str, *, dynamic: bool = False) -> ModelProto:
    """The module as an ONNX model, with static shapes or with open batches and sequences."""
    wrapped = Wrapped(module, list(architecture.inputs)).eval()
    arguments = tuple(torch.from_numpy(array) for array in feeds(architecture, 0).values())
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    options: dict[str, object] = {"input_names": list(architecture.inputs)}
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if exporter == "dynamo":
            if dynamic:
                # the wrapper takes its inputs as *arrays: one entry, a tuple
                kinds = torch.export.Dim
                options["dynamic_shapes"] = (
                    tuple(
                        {axis: kinds.DYNAMIC if axis in axes else kinds.STATIC for axis in range(len(shape))}
                        for shape, axes in zip(
                            architecture.inputs.values(), open_axes(architecture).values(), strict=True
                        )
                    ),
                )
            program = torch.onnx.export(wrapped, arguments, dynamo=True, verbose=False, **options)
            assert program is not None
            return program.model_proto
        file = io.BytesIO()
        if dynamic:
            options["dynamic_axes"] = open_axes(architecture)
        torch.onnx.export(wrapped, arguments, file, dynamo=False, opset_version=17, **options)
    return onnx.load_from_string(file.getvalue())


def names() -> list[str]:
    """Every architecture by both exporters; with open batches and sequences, and attention written out, where said."""
    return [
        "-".join([name, exporter, *variant])
        for name, architecture in ARCHITECTURES.items()
        for exporter in EXPORTERS
        for variant in architecture.variants
    ]


def run(name: str) -> Outcome:
    """Plant, export, optimize, compare, and count."""
    key, exporter, *variant = name.split("-")
    dynamic = "dynamic" in variant
    architecture, planter = prepared(key, eager="eager" in variant)
    original = export(architecture, planter.module, exporter, dynamic=dynamic)
    start = time.perf_counter()
    result = onnxshrink.optimize(original, align=1)
    seconds = time.perf_counter() - start
    before = oracle.session(original, optimize=False)
    for optimize in (False, True):
        after = oracle.session(result.model, optimize=optimize)
        outputs = [output.name for output in before.get_outputs()]
        for seed in range(3):
            arrays = feeds(architecture, seed, more=seed if dynamic else 0)
            expected = dict(zip(outputs, before.run(outputs, arrays), strict=True))
            actual = dict(zip(outputs, after.run(outputs, arrays), strict=True))
            oracle.assert_equal(expected, actual, what=f"{name}, optimize={optimize}, seed {seed}")
    again = onnxshrink.optimize(result.model, align=1, verify=False).model
    assert again.graph == result.model.graph, f"{name}: optimizing twice changes more"
    left, removed = _left(original, result.model, planter)
    sides = [planter.widths[key] for key in planter.widths if key[1] == "out"]
    planted, removable = sum(s.planted for s in sides), sum(s.removable for s in sides)
    assert not left, f"{name}: {'; '.join(left)}"
    assert result.verification is not None
    state = "equal" if result.verification.passed else "unverified"
    reason = "" if state == "equal" else "; ".join(result.verification.notes)
    return Outcome(name, state, planted, removable, removed, seconds, reason)


def noise_in_dead_weights(name: str) -> tuple[int, float]:
    """(weights changed, largest difference relative to max |y|) of noise in what nobody can see, in torch alone."""
    architecture, planter = prepared(name)
    wrapped = Wrapped(planter.module, list(architecture.inputs)).eval()
    arguments = [[torch.from_numpy(a) for a in feeds(architecture, seed).values()] for seed in range(3)]
    with torch.no_grad():
        before = [value for given in arguments for value in wrapped(*given)]
        changed = planter.noise()
        after = [value for given in arguments for value in wrapped(*given)]
    return changed, max(oracle.relative_error(x.numpy(), y.numpy()) for x, y in zip(before, after, strict=True))


def _left(original: ModelProto, result: ModelProto, planter: Planter) -> tuple[list[str], int]:
    """Sides that are wider than they need to be, as text, and how many planted channels are gone."""
    outputs, left, removed = layers(original), [], 0
    for (module, side), expected in planter.widths.items():
        places = outputs.get(module, [])
        assert places, f"no contraction of {module} in the export: {sorted(outputs)}"
        for place in places:
            assert width(original, place, side) == expected.before, f"{module} {side} before"
        after = max(width(result, place, side) for place in places)
        gone = expected.before - after
        if gone < expected.removable:
            left.append(f"{module} {side}: {gone} of {expected.removable} gone, {expected.planted} planted")
        if side == "out":
            removed += min(gone, expected.removable)
    return left, removed
