"""Every error a user can meet: one line that names the file, the node and the cure, and an exit code."""

from __future__ import annotations

from typing import Any


class OnnxshrinkError(Exception):
    """Base of all errors that are reported as one line without a traceback.

    ``exit_code`` is what the command line returns: 1 error, 2 usage, 3 not equal, 4 a `--fail-if-*` condition.
    """

    exit_code = 1

    def __init__(self, what: str, *, file: str | None = None, node: str | None = None, cure: str | None = None):
        self.what, self.file, self.node, self.cure = what, file, node, cure
        where = (f"{file}: " if file else "") + (f"node {node}: " if node else "")
        super().__init__(" ".join(f"{where}{what}{'; ' + cure if cure else ''}".split()))


class ModelError(OnnxshrinkError):
    """The file is not a model that can be read, or says something that cannot be right."""


class RuntimeMissingError(OnnxshrinkError):
    """ONNX Runtime is missing, doubled, or lacks the provider that was asked for."""


class InputError(OnnxshrinkError):
    """Data, shapes or ranges given by the caller do not fit the model."""

    exit_code = 2


class NotEqualError(OnnxshrinkError):
    """The result differs from the original; nothing was written."""

    exit_code = 3


class ConditionError(OnnxshrinkError):
    """A condition that the caller asked for (`--fail-if-unchanged`, `--fail-if-slower`) was met; no model was written.

    Attributes:
        result: what `optimize` would have returned.
    """

    exit_code = 4

    def __init__(self, what: str, result: Any, *, file: str | None = None, cure: str | None = None):
        super().__init__(what, file=file, cure=cure)
        self.result = result


def short(error: BaseException, limit: int = 300) -> str:
    """The first `limit` characters of an error's message, on one line."""
    return " ".join(str(error).split())[:limit]
