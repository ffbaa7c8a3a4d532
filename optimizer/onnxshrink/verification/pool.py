"""Sessions of original and result, each opened once and closed when there would be too many.

A session costs as much memory as the weights and, for a small model, more time than a run; so every variant of a model
is opened once for each optimization level, and all draws go through it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from .. import runtime
from ..errors import ModelError, short
from .compare import flatten
from .variants import Source

Arrays = dict[str, np.ndarray]
Side = Literal["original", "result"]

PLAIN = "plain"
#: Weights above this are held twice at a time, not four times.
BIG = 1 << 30


class BrokenError(Exception):
    """A model does not open (`running` is false), or does not run on these inputs; `side` says which model."""

    def __init__(self, side: Side, what: str, running: bool = True):
        self.side, self.what, self.running = side, what, running
        super().__init__(what)


class Pool:
    """Sessions by side, variant and optimization level."""

    def __init__(self, original: Source, result: Source, provider: str):
        self.sources: dict[Side, Source] = {"original": original, "result": result}
        self.provider = provider
        self.limit = 2 if max(s.bytes_of_weights() for s in self.sources.values()) > BIG else 64
        # Tensor cores round float32 to 11 bits; with them on, nothing smaller than 1e-3 could be seen.
        self.options = {"use_tf32": "0"} if provider == "cuda" else None
        self._open: OrderedDict[tuple[Side, str, bool], Any] = OrderedDict()
        self._made: dict[tuple[Side, str], Callable[[], bytes]] = {}

    def define(self, side: Side, variant: str, make: Callable[[], bytes]) -> None:
        """Says how to make a variant; one of that name that is open is closed."""
        self._made[side, variant] = make
        for optimize in (False, True):
            self._open.pop((side, variant, optimize), None)

    def run(
        self,
        side: Side,
        variant: str,
        optimize: bool,
        feeds: Mapping[str, np.ndarray],
        names: Sequence[str] | None = None,
    ) -> Arrays:
        """Outputs by name.

        Args:
            side: original or result.
            variant: PLAIN for the file itself, or a name given to `define`.
            optimize: graph optimizations on or off.
            feeds: values for the inputs.
            names: the outputs to compute; all by default.

        Raises:
            BrokenError: ONNX Runtime refuses the model or the inputs.
            RuntimeMissingError: ONNX Runtime or the provider is not there.
        """
        session = self._session(side, variant, optimize)
        try:
            values = session.run(names, dict(feeds))
        except Exception as error:  # the C++ layer raises many unrelated types
            raise BrokenError(side, short(error)) from error
        return flatten(names or [o.name for o in session.get_outputs()], values)

    def _session(self, side: Side, variant: str, optimize: bool) -> Any:
        key = (side, variant, optimize)
        if key in self._open:
            self._open.move_to_end(key)
            return self._open[key]
        while len(self._open) >= self.limit:
            self._open.popitem(last=False)
        source = self.sources[side]
        model = source.path if variant == PLAIN else self._made[side, variant]()
        try:
            self._open[key] = runtime.session(
                model, provider=self.provider, optimize=optimize, provider_options=self.options, folder=source.folder
            )
        except ModelError as error:
            raise BrokenError(side, error.what, running=False) from error
        return self._open[key]
