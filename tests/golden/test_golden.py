"""Models that once went wrong, as ONNX text: each minimal, found by the fuzzer or by a person.

Every oracle of the fuzzer must hold for each, and as many weights must go as stand here.
"""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from tests.fuzz.oracles import Options, examine

FILES = sorted(Path(__file__).parent.glob("*.txt"))

REMOVED = {
    "add_what_is_left": 52,
    "attention_heads_left": 14,
    "batchnorm_of_known_columns": 12,
    "dead_depthwise": 14,
    "known_output_beside_one_nobody_reads": 75,
    "known_pool_with_unread_positions": 2,
    "known_product_of_rows": 18,
    "known_row_by_row": 14,
    "split_of_which_the_first_is_unread": 6,
    "squeeze_of_all_ones": 8,
    "sum_of_known": 9,
}
"""Float weights that go at least, where it was a cut that was missing."""


@pytest.mark.parametrize("align", [1, 4])
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_oracle_holds(file: Path, align: int) -> None:
    model = onnx.parser.parse_model(file.read_text())
    outcome = examine(model, Options(align=align, verify=True, facts=True, reference=True))
    assert not outcome.findings, outcome.findings
    assert align > 1 or outcome.removed >= REMOVED.get(file.stem, outcome.removed)


def test_counts_name_models() -> None:
    assert set(REMOVED) <= {file.stem for file in FILES}
