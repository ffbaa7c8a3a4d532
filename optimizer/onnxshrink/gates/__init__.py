"""Gates: teach a PyTorch network which channels it can do without, and export it with those channels at zero."""

try:
    import torch  # noqa: F401
except ModuleNotFoundError as missing:
    raise ModuleNotFoundError("onnxshrink.gates needs PyTorch; pip install 'onnxshrink[train]'") from missing

from .augment import Gated, augment, folded
from .carry import apply
from .closing import close_gates, close_uniform
from .collapse import Collapsed, collapse, compare, survives
from .coupling import Cost, Coupling, couple
from .export import export
from .gate import Gate, HardConcrete, StepGate, gates_of, prune_gates
from .importance import Importance
from .latency import LatencyCost, latency_costs, read_latencies
from .loss import Size, ejector_loss
from .removal import branches, removed
from .schedule import cubic_ramp, one_cycle, parameter_groups, set_slope

__all__ = [
    "Collapsed",
    "Cost",
    "Coupling",
    "Gate",
    "Gated",
    "HardConcrete",
    "Importance",
    "LatencyCost",
    "Size",
    "StepGate",
    "apply",
    "augment",
    "branches",
    "close_gates",
    "close_uniform",
    "collapse",
    "compare",
    "couple",
    "cubic_ramp",
    "ejector_loss",
    "export",
    "folded",
    "gates_of",
    "latency_costs",
    "one_cycle",
    "parameter_groups",
    "prune_gates",
    "read_latencies",
    "removed",
    "set_slope",
    "survives",
]
