"""What each operator demands of its operands' shapes: tables of (operator, predicate), one for each domain.

A predicate yields one sentence for each demand that is certainly broken; whatever is not known is not judged, so a
valid model never raises a finding. An operator that is not in the table is not judged either. Sources: the ONNX
operator specifications (Operators.md, onnx 1.23).
"""

from __future__ import annotations

from collections.abc import Callable

from . import arithmetic, fused, movement, quantized
from .operand import Findings, Op

TABLE: dict[str, dict[str, Callable[[Op], Findings]]] = {
    "": {**arithmetic.TABLE, **movement.TABLE, **fused.TABLE, **quantized.TABLE},
    "com.microsoft": {**fused.CONTRIB, **quantized.CONTRIB},
}
