"""What each operator demands of its operands' shapes: a table of (operator of ONNX's own domain, predicate).

A predicate yields one sentence for each demand that is certainly broken; whatever is not known is not judged, so a
valid model never raises a finding. An operator that is not in the table is not judged either. Sources: the ONNX
operator specifications (Operators.md, onnx 1.23).
"""

from __future__ import annotations

from collections.abc import Callable

from . import arithmetic, movement
from .operand import Findings, Op

TABLE: dict[str, Callable[[Op], Findings]] = {**arithmetic.TABLE, **movement.TABLE}
