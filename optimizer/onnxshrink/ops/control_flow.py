"""Operators that run bodies, and operators on what is no tensor: sequences, optionals, strings.

A body is cut for itself (see bodies.py); what goes into it, comes out of it or is read by it stays whole.
"""

from __future__ import annotations

from .rule import Rule, register


class Holder(Rule):
    """Bodies are cut each for itself; what they are given, read from around them and give back stays whole."""

    family = "control flow"


register(Holder(), "If", "Loop", "Scan", "SequenceMap")

register(
    Rule("tensors of one sequence may be of any number, and each reader sees all of them"),
    *("SequenceAt", "SequenceConstruct", "SequenceEmpty", "SequenceErase", "SequenceInsert", "SequenceLength"),
    *("ConcatFromSequence", "SplitToSequence"),
)
register(
    Rule("whether an optional holds a tensor is known at run time only"),
    *("Optional", "OptionalGetElement", "OptionalHasElement"),
)
register(
    Rule("strings carry no numbers"),
    *("RegexFullMatch", "StringConcat", "StringNormalizer", "StringSplit", "TfIdfVectorizer"),
)
