"""Operators through which nothing is cut, each with its reason: a deliberate barrier, not one for want of a rule.

A barrier reads all of its inputs, and all of its outputs stay.
"""

from __future__ import annotations

from .rule import Rule, register

register(
    Rule("what is drawn for one element depends on how many were drawn before it"),
    "Bernoulli",
    "Multinomial",
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
)
register(
    Rule("how many results there are, and in what order, depends on the values"),
    "NonZero",
    "NonMaxSuppression",
    "Unique",
)
register(Rule("its indices count positions in the whole tensor"), "MaxUnpool")
register(Rule("its output is a grid of coordinates"), "AffineGrid")
register(
    Rule("makes a table from a size, which is a constant like any other"),
    "BlackmanWindow",
    "HammingWindow",
    "HannWindow",
    "MelWeightMatrix",
)
register(Rule("labels name classes by number"), "NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss")
register(
    Rule("works on strings"), "RegexFullMatch", "StringConcat", "StringNormalizer", "StringSplit", "TfIdfVectorizer"
)
register(Rule("decodes a file"), "ImageDecoder")
register(Rule("holds no dense array of numbers"), "Constant")
register(
    Rule("experimental before ONNX 1.5 and removed since; its shapes are not inferred"),
    "Affine",
    "Crop",
    "DynamicSlice",
    "GRUUnit",
    "GivenTensorFill",
    "ImageScaler",
    "ParametricSoftplus",
    "Scale",
    "ScaledTanh",
)
register(
    Rule("a plugin of TensorRT"),
    "DisentangledAttention_TRT",
    "EfficientNMS_TRT",
    "MultilevelCropAndResize_TRT",
    "PyramidROIAlign_TRT",
)
register(Rule("copies between devices inside of a session"), "MemcpyFromHost", "MemcpyToHost")
register(Rule("heads share a state from step to step"), "LinearAttention")
register(Rule("its scores pass through a graph of their own"), "FlexAttention", domain="ai.onnx.preview")
register(
    Rule("a step of training, not of inference"),
    "Adagrad",
    "Adam",
    "Gradient",
    "Momentum",
    domain="ai.onnx.preview.training",
)
register(
    Rule("features are named by number in the attributes of a classical model"),
    "ArrayFeatureExtractor",
    "FeatureVectorizer",
    "Imputer",
    "LinearClassifier",
    "LinearRegressor",
    "Normalizer",
    "SVMClassifier",
    "SVMRegressor",
    "Scaler",
    "TreeEnsemble",
    "TreeEnsembleClassifier",
    "TreeEnsembleRegressor",
    "Binarizer",
    "OneHotEncoder",
    domain="ai.onnx.ml",
)
register(
    Rule("translates labels, maps and categories"),
    "CastMap",
    "CategoryMapper",
    "DictVectorizer",
    "LabelEncoder",
    "ZipMap",
    domain="ai.onnx.ml",
)
