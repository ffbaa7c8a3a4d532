"""Trap: a small graph in which some channels carry nothing, and what a consistent cut of it can remove.

`removable` counts parameters (floating-point initializer elements) and is derived here from the planted widths by hand
arithmetic, never by looking at the package. It is a lower bound: a tool may remove more. None means that leaving the
graph alone is acceptable and only equality is asked for.

Most traps are chains, x -> Conv(3, 8) -> thing -> Conv(8, 4) with 3x3 kernels and biases; a dead channel in the middle
costs 27 + 1 parameters before the thing and 4 * 9 after it, so k of them cost `chain_cut(k)` = 64 k.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from onnx import ModelProto, helper

from .net import Net

DEAD = (1, 3, 4, 6)
"""The planted channels of a chain: four of eight, neither contiguous nor aligned."""


@dataclass(frozen=True, eq=False)
class Trap:
    """One graph and its answer.

    Attributes:
        name: unique, and the test id.
        net: builds the graph and its claims, deterministically.
        removable: parameters that a consistent cut removes at least, None where a barrier is acceptable.
        why: what is special about it.
        sizes: one assignment of the symbolic dimensions for each size to be tested.
        negligible: dead channels are only negligible, so the default threshold and verification are part of the answer.
        integers: integers of quantized layers count as parameters, too.
        drops_default_inputs: initializers listed as inputs of an IR 4 model may disappear from the inputs.
    """

    name: str
    net: Callable[[], Net]
    removable: int | None
    why: str
    sizes: tuple[Mapping[str, int], ...] = ({},)
    negligible: bool = False
    integers: bool = False
    drops_default_inputs: bool = False

    def build(self) -> ModelProto:
        return self.net().model()


class Family(list):
    """A list of traps that a file of builders fills with its decorator."""

    def add(self, removable: int | None, why: str, *, name: str | None = None, **options: object) -> Callable:
        """Registers a builder `() -> Net` under `name`, or under its own name."""

        def register(build: Callable[[], Net]) -> Callable[[], Net]:
            self.append(Trap(name or build.__name__, build, removable, why, **options))
            return build

        return register


def conv_size(cin: int, cout: int, kernel: int = 3, *, group: int = 1, dims: int = 2, bias: bool = True) -> int:
    """Parameters of a Conv; ConvTranspose has the same number."""
    return cin // group * cout * kernel**dims + cout * bias


def chain_cut(channels: int) -> int:
    return conv_size(3, 8) + conv_size(8, 4) - conv_size(3, 8 - channels) - conv_size(8 - channels, 4)


def chain(
    middle: Callable[[Net, str], str] | None = None,
    *,
    zero: Iterable[int] = DEAD,
    constant: Mapping[int, float] | None = None,
    unread: Iterable[int] = (),
    still_known: bool = True,
    pad: int | None = None,
    kernel: int = 3,
    shape: tuple = (2, 3, 8, 8),
    width: int = 8,
    conv1: Mapping[str, object] | None = None,
    conv2: Mapping[str, object] | None = None,
    **net_options: object,
) -> Net:
    """x -> ConvTranspose(3, 3) -> Conv(3, 8) -> middle -> Conv(width, 4) -> y; plants in the first Conv, `unread` in
    the second. The 1x1 ConvTranspose loses channels if something behind it fails to ask for the right values.

    Args:
        middle: adds nodes and returns the last tensor; None for nothing.
        still_known: the planted channels are also claimed to be known after `middle` (same channel axis).
        pad, kernel: of the second Conv; padded by kernel // 2 unless told.
        width: input channels of the second Conv.
    """
    net = Net(**net_options)
    x = net.input("x", shape)
    constant = dict(constant or {})
    zero = [channel for channel in zero if channel not in constant]
    planted = (*zero, *constant)
    first = net.conv("mixed", 3, 8, zero=zero, constant=constant, **(conv1 or {}))
    if planted and (conv1 or {}).get("bias", True):
        net.known(first, planted)
    last = middle(net, first) if middle else first
    if planted and middle and still_known:
        net.known(last, planted)
    if unread:
        net.unread(last, unread)
    net.output(net.conv(last, width, 4, kernel, pad=pad, unread=unread, name="y", **(conv2 or {})))
    mixing = net.const(net.normal(3, 3, *[1] * (len(shape) - 2)))
    net.nodes.insert(0, helper.make_node("ConvTranspose", [x, mixing], ["mixed"], "mixing"))
    return net
