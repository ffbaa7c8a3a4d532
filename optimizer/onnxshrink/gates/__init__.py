"""Gates: teach a PyTorch network which channels it can do without, and export it with those channels at zero."""

try:
    import torch  # noqa: F401
except ModuleNotFoundError as missing:
    raise ModuleNotFoundError("onnxshrink.gates needs PyTorch; pip install 'onnxshrink[train]'") from missing

from .export import export
from .fold import folded
from .gate import Gate, gates_of, prune_gates
from .importance import Importance, close_gates
from .layer import GatedConv, GatedLinear
from .loss import Contraction, contractions_of, ejector_loss, kept_macs, relative_macs, size_loss
from .schedule import cubic_ramp, one_cycle, parameter_groups

__all__ = [
    "Contraction",
    "Gate",
    "GatedConv",
    "GatedLinear",
    "Importance",
    "close_gates",
    "contractions_of",
    "cubic_ramp",
    "ejector_loss",
    "export",
    "folded",
    "gates_of",
    "kept_macs",
    "one_cycle",
    "parameter_groups",
    "prune_gates",
    "relative_macs",
    "size_loss",
]
