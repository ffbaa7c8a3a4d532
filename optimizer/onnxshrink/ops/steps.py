"""What integers stand for: (q - zero point) * scale. Facts of integers are facts of these numbers, and back.

The real bounds of an operator's output, divided by its scale and rounded, are integers of the type's range, and where
both bounds round to one integer the output is known. That is so for known inputs, and for a quantizer that saturates
or rounds all that can reach it to one value. Slices that equal their zero point are zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper

from ..graph.view import Node
from . import interval
from .broadcast import lifted
from .fact import Fact, collapse, unknown
from .rule import Context, free_slices

MICROSOFT = "com.microsoft"

TIE = 1e-3
"""How near to the middle between two steps rounding may go either way, in steps: 256 steps times the noise of
float32 arithmetic, with room; more for types of more steps. What may round to two values is not known."""

TIE_HALF = 0.25
"""The same where the arithmetic before the quantizer has 16 bits."""


@dataclass(frozen=True)
class Steps:
    """What integers of a tensor stand for: real = (integer - zero) * scale, arrays broadcastable to the tensor."""

    scale: np.ndarray
    zero: np.ndarray


def steps(scale: str, zero: str, rank: int, axis: int, context: Context) -> Steps | None:
    """The steps of a tensor of `rank`, per tensor (`axis` -1) or along `axis`; None unless they are known."""
    size = context.array(scale)
    if size is None or not np.isfinite(size.astype(np.float64)).all():
        return None
    middle = context.array(zero) if zero else np.zeros(size.shape, np.int64)
    along = max(size.size, 0 if middle is None else middle.size)
    if middle is None or size.ndim > 1 or middle.ndim > 1 or (along > 1 and not 0 <= axis < rank):
        return None

    def spread(array: np.ndarray) -> np.ndarray:
        return array.reshape([array.size if a == axis else 1 for a in range(rank)])

    return Steps(spread(size), spread(middle.astype(np.int64)))


def span(dtype: np.dtype) -> tuple[int, int] | None:
    """Least and largest integer of a type; None for what is no integer (float8)."""
    name = dtype.name
    bits = int("".join(c for c in name if c.isdigit()) or 0)
    if name.startswith("uint"):
        return 0, 2**bits - 1
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if name.startswith("int") else None


def wide(array: np.ndarray) -> np.ndarray:
    """An array in the precision in which runtimes quantize and dequantize: at least float32."""
    return array.astype(np.promote_types(array.dtype, np.float32))


def dequantized(
    fact: Fact | None, dtype: np.dtype, grid: Steps | None, zero: np.ndarray | None, into: np.dtype
) -> Fact:
    """The fact of the real numbers that integers stand for.

    Args:
        fact: of the integers, of the rank of `grid` or `zero`; None where nothing is known beyond their type.
        dtype: type of the integers.
        grid: None where the scale is not known.
        zero: the zero point, for an unknown scale; None where it is not known either.
        into: type of the reals.
    """
    if grid is None:
        assert fact is not None
        known = fact.known & (fact.value.astype(np.int64) == zero) if zero is not None else np.zeros_like(fact.known)
        return Fact(np.zeros(fact.value.shape, into), known)
    fact = fact or unknown(grid.scale.ndim, dtype)
    limits = span(dtype)
    whole = fact.value.astype(np.int64 if limits else np.float32)
    with np.errstate(all="ignore"):
        scale = wide(grid.scale)
        value = ((whole - grid.zero).astype(scale.dtype) * scale).astype(into)
    if fact.all_known:
        return Fact(value, fact.known)
    low, high = fact.bounds()
    if limits:
        low, high = np.maximum(low, limits[0]), np.minimum(high, limits[1])
    scale = grid.scale.astype(np.float64)
    ends = (low - grid.zero) * scale, (high - grid.zero) * scale
    low, high = np.minimum(*ends), np.maximum(*ends)
    noise = interval.rounding(into)
    return Fact(value, fact.known, low - noise * np.abs(low), high + noise * np.abs(high))


def quantized(low: np.ndarray, high: np.ndarray, grid: Steps, dtype: np.dtype, slack: float) -> Fact | None:
    """The fact of integers that numbers between two bounds are rounded to.

    Args:
        low, high: bounds in float64, infinite where there are none.
        grid: what the integers stand for.
        dtype: their type.
        slack: room for rounding, in steps of a type of eight bits.
    """
    limits = span(dtype)
    if limits is None:
        known = (low == 0) & (high == 0) & (grid.zero == 0)
        return collapse(Fact(np.zeros(known.shape, dtype), known))
    scale = grid.scale.astype(np.float64)
    if not (scale > 0).all():
        return None
    low = np.where(np.isnan(low), -np.inf, low) / scale
    high = np.where(np.isnan(high), np.inf, high) / scale
    slack *= max(1.0, (limits[1] - limits[0]) / 255)
    least = np.clip(np.rint(low - slack) + grid.zero, *limits)
    most = np.clip(np.rint(high + slack) + grid.zero, *limits)
    known = least == most
    return collapse(Fact(np.where(known, least, 0).astype(dtype), known, least, most))


def slack_of(tensor: str, context: Context) -> float:
    """Room for rounding of what a quantizer reads, in steps."""
    dtype = context.graph.dtypes.get(tensor)
    return TIE_HALF if dtype is not None and context.graph.is_float(tensor) and dtype.itemsize == 2 else TIE


def neutral(tensor: str, zero: str, axis: int, context: Context) -> np.ndarray:
    """Slices along an axis that stand for zero throughout, whatever the scale (see `zeros`), bool [n]."""
    source = _quantized_from(tensor, zero, context)
    if source is not None:
        uniform, real = free_slices(source, axis, context)
        return uniform & (real == 0)
    uniform, value = free_slices(tensor, axis, context)
    middle = context.array(zero) if zero else np.zeros((), np.int64)
    if middle is None or middle.size != 1:
        return np.zeros_like(uniform)
    return uniform & (value == float(middle.astype(np.int64).reshape(-1)[0]))


def zeros(tensor: str, zero: str, context: Context) -> np.ndarray | None:
    """Elements that stand for zero whatever the scale, broadcastable to the tensor; None where nothing is known.

    They equal the zero point, or were quantized from zeros by the DynamicQuantizeLinear that also made this zero point.
    """
    source = _quantized_from(tensor, zero, context)
    if source is not None:
        real = context.fact(source)
        return None if real is None else np.asarray(real.zero())
    fact, middle = context.fact(tensor), context.array(zero) if zero else np.zeros((), np.int64)
    if fact is None or middle is None or middle.size != 1:
        return None
    return np.asarray(fact.known & (fact.value.astype(np.int64) == int(middle.astype(np.int64).reshape(-1)[0])))


def _quantized_from(tensor: str, zero: str, context: Context) -> str | None:
    """What a DynamicQuantizeLinear made a tensor and this zero point of; None if none did."""
    maker = context.graph.producer.get(tensor)
    dynamic = maker is not None and maker.op == "DynamicQuantizeLinear" and zero == maker.outputs[2]
    return maker.inputs[0] if dynamic and maker is not None else None


def stand_in(
    node: Node, op: str, inputs: Sequence[str], kind: int | None = None, **attributes: Any
) -> list[onnx.NodeProto]:
    """Nodes of the default domain with the output's name: `op`, and a Cast where the output is of another type."""
    name = node.proto.output[0]
    if kind is None:
        return [helper.make_node(op, inputs, [name], **attributes)]
    return [
        helper.make_node(op, inputs, [f"{name}@uncast"], **attributes),
        helper.make_node("Cast", [f"{name}@uncast"], [name], to=kind),
    ]


@dataclass(frozen=True)
class Operand:
    """Indices of a quantized tensor's data, scale and zero point among inputs; without a scale a plain tensor."""

    data: int
    scale: int = -1
    zero: int = -1

    def real(self, node: Node, rank: int, context: Context) -> Fact | None:
        """The fact of the numbers it stands for, lifted to `rank`; None where scale or zero point is not known."""
        name = node.input(self.data)
        fact, dtype = lifted(context.fact(name), name, rank, context), context.graph.dtypes.get(name)
        if self.scale < 0:
            return fact
        grid = steps(node.input(self.scale), node.input(self.zero), rank, -1, context)
        if grid is None or dtype is None or grid.scale.size != 1:
            return None
        return dequantized(fact, dtype, grid, None, np.dtype(np.float64))


def requantized(node: Node, bounds: interval.Bounds, scale: int, zero: int, context: Context) -> Fact | None:
    """The fact of a quantized output whose real values lie between bounds; scale and zero point by input index."""
    low, high = bounds
    grid = steps(node.input(scale), node.input(zero), low.ndim, -1, context)
    dtype = context.graph.dtypes.get(node.outputs[0])
    if grid is None or dtype is None or grid.scale.size != 1:
        return None
    return quantized(low, high, grid, dtype, TIE)
