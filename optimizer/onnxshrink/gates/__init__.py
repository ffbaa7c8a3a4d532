"""Gates: teach a PyTorch network which channels it can do without, and export it with those channels at zero."""

try:
    import torch  # noqa: F401
except ModuleNotFoundError as missing:
    raise ModuleNotFoundError("onnxshrink.gates needs PyTorch; pip install 'onnxshrink[train]'") from missing

from .augment import Gated, augment, folded
from .carry import apply
from .coupling import Cost, Coupling, couple
from .export import export
from .gate import Gate, HardConcrete, StepGate, gates_of, prune_gates
from .importance import Importance, close_gates
from .loss import Size, ejector_loss
from .removal import removed
from .schedule import cubic_ramp, one_cycle, parameter_groups

__all__ = [
    "Cost",
    "Coupling",
    "Gate",
    "Gated",
    "HardConcrete",
    "Importance",
    "Size",
    "StepGate",
    "apply",
    "augment",
    "close_gates",
    "couple",
    "cubic_ramp",
    "ejector_loss",
    "export",
    "folded",
    "gates_of",
    "one_cycle",
    "parameter_groups",
    "prune_gates",
    "removed",
]
