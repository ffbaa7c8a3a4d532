"""What a measured figure depends on beside the model: versions and hardware, as portable as it can be told."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

import numpy as np

from .. import runtime


def environment(provider: str = "cpu") -> dict[str, str]:
    """Versions and hardware that a figure depends on; the GPU and its driver where one is used."""
    ort = runtime.onnxruntime()
    names = {(d.metadata["Name"] or "").lower() for d in importlib.metadata.distributions()}
    found = {
        "onnxruntime": ort.__version__,
        "distribution": " ".join(sorted(name for name in names if name.startswith("onnxruntime"))),
        "onnx": importlib.metadata.version("onnx"),
        "numpy": np.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": cpu_name(),
        "cpus": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()),
    }
    if provider != "cpu":
        found["gpu"] = _gpu_name()
    return found


def cpu_name() -> str:
    """The processor's model name, or what `platform` knows of it."""
    if platform.system() == "Linux":
        try:
            for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
        except OSError:
            pass
    return platform.processor() or platform.machine()


def _gpu_name() -> str:
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout.splitlines()[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        return "unknown"
