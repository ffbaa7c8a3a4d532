"""Barriers on purpose: operators of ONNX Runtime's own domains that nothing is cut through, and why.

A barrier costs channels, never correctness. Quantized operators have theirs beside their rules.
"""

from __future__ import annotations

from .fused import DOMAIN
from .rule import Rule, register

register(
    Rule("each step's keys and values join a cache that the caller holds, with all its heads"),
    *("DecoderAttention", "DecoderMaskedMultiHeadAttention", "DecoderMaskedSelfAttention", "PagedAttention"),
    *("SparseAttention", "SparsePagedAttention"),
    domain=DOMAIN,
)
register(
    Rule("its state goes from call to call, with all its channels"),
    *("CausalConvWithState", "GatedDeltaNet", "LinearAttention", "VarlenCausalConvWithState"),
    domain=DOMAIN,
)
register(
    Rule("ONNX Runtime has no kernel for it on a CPU, so no rule could be held against it"),
    *("BiasSoftmax", "BiasSplitGelu", "BitmaskBiasDropout", "BitmaskDropout", "BiasDropout"),
    *("ComplexMul", "ComplexMulConj", "DynamicSparseAttention", "GatedRelativePositionBias", "GemmFloat8"),
    *("GemmaRotaryEmbedding", "GroupNorm", "Irfft", "IsAllFinite", "LongformerAttention", "NhwcConv"),
    *("NhwcFusedConv", "PackedAttention", "PackedMultiHeadAttention", "PackedSparseAttentionIndexer"),
    *("RelativePositionBias", "RemovePadding", "RestorePadding", "Rfft", "SkipGroupNorm", "SparseAttentionIndexer"),
    *("TorchEmbedding",),
    domain=DOMAIN,
)
register(
    Rule("it normalizes or mixes over the whole of its last axis"),
    *("BranchwiseRMSNorm", "EngramGate", "GatedRMSNorm", "HyperConnectionPostMix", "HyperConnectionPreMix"),
    *("LinearAttentionGate", "MRotaryEmbedding"),
    domain=DOMAIN,
)
register(
    Rule("which expert computes a row is chosen at run time, and all experts share one width"), "MoE", domain=DOMAIN
)
register(
    Rule("its pads are known at run time only, and what they make of a constant with them"),
    "ConvTransposeWithDynamicPads",
    domain=DOMAIN,
)
register(
    Rule("elements of different rows and columns meet in each result"),
    *("CDist", "DynamicTimeWarping", "Inverse", "SparseToDenseMatMul", "Trilu", "UnfoldTensor"),
    domain=DOMAIN,
)
register(Rule("a mask of positions decides which elements of a channel count"), "MaxpoolWithMask", domain=DOMAIN)
register(Rule("it rounds to its type between its steps"), "ScaledSiLU", domain=DOMAIN)
register(
    Rule("it works on tokens, words, indices or whole sequences, which have no channels"),
    *("BifurcationDetector", "MurmurHash3", "NGramHashMapping", "NGramRepeatBlock", "Tokenizer", "Unique"),
    *("VarlenNGramHashMapping", "WordConvEmbedding", "GatherND", "Range"),
    domain=DOMAIN,
)
register(
    Rule("it runs a network of its own, step by step, whose decoder is a body with a cache"),
    *("BeamSearch", "GreedySearch", "Sampling", "WhisperBeamSearch"),
    domain=DOMAIN,
)
register(
    Rule("what it computes was compiled for one accelerator and cannot be read"), "EPContext", "Snpe", domain=DOMAIN
)
register(Rule("it is an example of ONNX Runtime's documentation"), "SampleOp", domain=DOMAIN)

# ONNX Runtime makes these for the machine that it runs on, when it optimizes a layout.
register(
    Rule("channels are laid out in blocks of as many as the vector unit of one machine holds"),
    *("AveragePool", "Conv", "GlobalAveragePool", "GlobalMaxPool", "MaxPool", "ReorderInput", "ReorderOutput"),
    "Upsample",
    domain="com.microsoft.nchwc",
)
register(
    Rule("the inside of a session, for one execution provider; no file that others can load has it"),
    *("AveragePool", "BatchNormalization", "Conv", "ConvTranspose", "DepthToSpace", "GlobalAveragePool"),
    *("GlobalLpPool", "GlobalMaxPool", "GridSample", "InstanceNormalization", "LRN", "LpPool", "MaxPool"),
    *("MaxUnpool", "QLinearAveragePool", "QLinearConv", "QLinearConvTranspose", "Resize", "SpaceToDepth"),
    domain="com.ms.internal.nhwc",
)
