"""ONNX Runtime: found, checked and opened. The only importer of onnxruntime.

`onnxruntime` and `onnxruntime-gpu` are two distributions with one import package: installed together they break
each other silently, so both cases, none and two, are errors with their cure. A provider that was asked for is
asserted, because ONNX Runtime falls back to the CPU without a word.
"""

from __future__ import annotations

import functools
import importlib.metadata
from pathlib import Path
from typing import Any

from .errors import ModelError, RuntimeMissingError, short

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}

DISTRIBUTIONS = {
    "onnxruntime",
    "onnxruntime-directml",
    "onnxruntime-gpu",
    "onnxruntime-openvino",
    "onnxruntime-rocm",
    "onnxruntime-training",
}
"""Distributions that bring the one import package `onnxruntime`."""


@functools.cache  # reading the metadata of all installed distributions takes 60 ms
def onnxruntime() -> Any:
    """The imported `onnxruntime` package.

    Raises:
        RuntimeMissingError: none is installed, or two distributions of it are.
    """
    names = {(d.metadata["Name"] or "").lower().replace("_", "-") for d in importlib.metadata.distributions()}
    found = sorted(names & DISTRIBUTIONS)
    if len(found) > 1:
        raise RuntimeMissingError(
            f"{' and '.join(found)} are both installed and overwrite each other",
            cure=f"pip uninstall -y {' '.join(found)}, then pip install one of 'onnxshrink[cpu]', 'onnxshrink[gpu]'",
        )
    try:
        import onnxruntime as ort
    except ImportError as error:
        raise RuntimeMissingError(
            "ONNX Runtime is not installed",
            cure="pip install 'onnxshrink[cpu]', or on a machine with CUDA: pip install 'onnxshrink[gpu]'",
        ) from error
    if not hasattr(ort, "InferenceSession"):
        name = found[0] if found else "onnxruntime"
        raise RuntimeMissingError(
            f"the installed {name} is broken",
            cure=f"pip uninstall -y {name}, then pip install --force-reinstall {name}",
        )
    return ort


def session(
    model: str | Path | bytes,
    *,
    provider: str = "cpu",
    optimize: bool = True,
    threads: int = 0,
    provider_options: dict[str, Any] | None = None,
    folder: str | Path | None = None,
    profile: Path | None = None,
) -> Any:
    """An `InferenceSession` on a model, with the provider asserted.

    Args:
        model: the path of the model; or its bytes, then with `folder`.
        provider: "cpu", "cuda" or "tensorrt".
        optimize: graph optimizations on (ORT_ENABLE_ALL) or off (ORT_DISABLE_ALL).
        threads: intra-op threads; 0 lets ONNX Runtime choose.
        provider_options: options of the provider (for CUDA `use_tf32`, `prefer_nhwc`, `enable_cuda_graph`, ...).
        folder: where external data of a model given as bytes lies; a path finds its own.
        profile: how the name of the file begins into which every node's time goes, at `end_profiling`.

    Raises:
        RuntimeMissingError: ONNX Runtime or the provider is not there.
        ModelError: ONNX Runtime refuses the model; the message is its own, shortened.
    """
    ort = onnxruntime()
    name = PROVIDERS[provider]
    options = ort.SessionOptions()
    level = ort.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimize else level.ORT_DISABLE_ALL
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # what it would print is raised as well
    if isinstance(model, bytes) and folder is not None:
        options.add_session_config_entry(
            "session.model_external_initializers_file_folder_path", str(Path(folder).resolve())
        )
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, str(profile)
    if name not in ort.get_available_providers():
        raise RuntimeMissingError(
            f"this ONNX Runtime has no {name}", cure="pip install 'onnxshrink[gpu]', or use --provider cpu"
        )
    try:
        what = model if isinstance(model, bytes) else str(model)
        opened = ort.InferenceSession(what, options, providers=[(name, provider_options or {})])
    except Exception as error:  # the C++ layer raises many unrelated types
        if provider != "cpu":
            raise RuntimeMissingError(
                f"{name} did not start: {short(error)}", cure="check the driver, CUDA and cuDNN, or use --provider cpu"
            ) from error
        file = None if isinstance(model, bytes) else str(model)
        raise ModelError(f"ONNX Runtime refuses the model: {short(error)}", file=file) from error
    if opened.get_providers()[0] != name:
        raise RuntimeMissingError(
            f"{name} was asked for, {opened.get_providers()[0]} would run",
            cure="check the driver, CUDA and cuDNN, or use --provider cpu",
        )
    return opened
