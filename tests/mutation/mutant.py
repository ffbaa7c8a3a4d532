"""A mutant: one fault in the rules, as data. It is applied to a copy of the package, never to the package itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent.parent / "optimizer" / "onnxshrink"


@dataclass(frozen=True)
class Mutant:
    """A fault.

    Attributes:
        file: within the package.
        find: source text that occurs exactly once in the file.
        replace: what stands there instead.
        kind: the kind of fault.
        line: where it is; for people.
    """

    file: str
    find: str
    replace: str
    kind: str
    line: int = 0

    @property
    def name(self) -> str:
        before, after = ("".join(text.split()) for text in self.changed())
        return f"{self.file}:{self.line} {self.kind}: {before[:60]} -> {after[:60]}"

    def changed(self) -> tuple[str, str]:
        """The lines that differ, before and after, without the lines around them that make the text unique."""
        before, after = self.find.split("\n"), self.replace.split("\n")
        while len(before) > 1 and after and before[0] == after[0]:
            before, after = before[1:], after[1:]
        while len(before) > 1 and after and before[-1] == after[-1]:
            before, after = before[:-1], after[:-1]
        return "\n".join(before), "\n".join(after)

    def apply(self, source: str) -> str:
        """The source with the fault.

        Raises:
            ValueError: the text does not occur exactly once.
        """
        if source.count(self.find) != 1:
            raise ValueError(f"{self.file}: {source.count(self.find)} occurrences of {self.find!r}")
        return source.replace(self.find, self.replace)
