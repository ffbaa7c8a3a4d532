"""The mutants themselves: that each one is a fault that can be made. Whether it is caught, tools/mutants.py says."""

from __future__ import annotations

import ast

import pytest

from .chosen import CHOSEN
from .equivalent import EQUIVALENT
from .mutant import PACKAGE, Mutant
from .run import SUITE, all_mutants
from .systematic import TARGETS, mutants


def name_of(mutant: Mutant) -> str:
    return mutant.name


@pytest.mark.parametrize("mutant", all_mutants(), ids=name_of)
def test_a_mutant_is_one_place_and_still_python(mutant: Mutant) -> None:
    source = (PACKAGE / mutant.file).read_text(encoding="utf-8")
    mutated = mutant.apply(source)
    assert ast.dump(ast.parse(mutated)) != ast.dump(ast.parse(source))


def test_there_are_enough_and_no_two_are_the_same() -> None:
    everything = all_mutants()
    assert len(everything) - len(EQUIVALENT) >= 100
    assert len({(m.file, m.find, m.replace) for m in everything}) == len(everything)
    assert len(CHOSEN) >= 40


def test_the_same_source_gives_the_same_mutants() -> None:
    assert mutants() == mutants()


def test_every_target_gives_its_share() -> None:
    found = [mutant.file for mutant in mutants()]
    assert {file: found.count(file) for file in TARGETS} == TARGETS


def test_what_is_called_equivalent_is_a_mutant() -> None:
    """An entry that no mutant matches any more is deleted."""
    there = {(mutant.file, *(text.strip() for text in mutant.changed())) for mutant in all_mutants()}
    assert set(EQUIVALENT) <= there


def test_the_short_suite_is_there() -> None:
    root = PACKAGE.parent.parent
    assert [name for stage in SUITE for name in stage if not (root / name).exists()] == []
