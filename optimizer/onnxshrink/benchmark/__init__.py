"""What a model costs: latency measured on a provider, multiply-adds and parameters counted from its shapes."""

from .latency import BatchTiming, Benchmark, Ratio, Timing, bench, ratio_is_slower
from .multiply_adds import MacCount, NodeMacs, count_macs, macs, parameters

__all__ = [
    "BatchTiming",
    "Benchmark",
    "MacCount",
    "NodeMacs",
    "Ratio",
    "Timing",
    "bench",
    "count_macs",
    "macs",
    "parameters",
    "ratio_is_slower",
]
