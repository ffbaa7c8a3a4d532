"""onnxshrink: cut the channels that carry nothing out of an ONNX model, and prove that the result is equal.

result = onnxshrink.optimize("model.onnx", "smaller.onnx")
print(result.plan.removed, result.verification)
"""

from __future__ import annotations

__version__ = "0.1.0"
__all__ = ["__version__", "bench", "inspect", "optimize", "prune", "verify"]

from .benchmark import bench
from .look import inspect
from .lossy import prune
from .shrink import optimize
from .verification import verify
