"""What a model costs: latency measured on a provider, multiply-adds and parameters counted from its shapes."""

from .latency import BatchTiming, Benchmark, Ratio, Timing, bench, ratio_is_slower
from .layer_latency import additivity, measure_layers, own_widths
from .multiply_adds import MacCount, NodeMacs, count_macs, macs, parameters
from .table import LatencyTable, LayerLatency, read_table

__all__ = [
    "BatchTiming",
    "Benchmark",
    "LatencyTable",
    "LayerLatency",
    "MacCount",
    "NodeMacs",
    "Ratio",
    "Timing",
    "additivity",
    "bench",
    "count_macs",
    "macs",
    "measure_layers",
    "own_widths",
    "parameters",
    "ratio_is_slower",
    "read_table",
]
