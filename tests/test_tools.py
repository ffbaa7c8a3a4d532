"""What maintainers' tools write into docs/results.md."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.fuzz.campaign import Tally
from tools.fuzzer import main, section
from tools.page import write_section


def test_sections_go_between_their_markers(tmp_path: Path) -> None:
    page = tmp_path / "results.md"
    page.write_text("# Results\n\nbefore\n")
    write_section("one", "One", "python one", "first", page)
    write_section("two", "Two", "python two", "second", page)
    page.write_text(page.read_text() + "\nafter\n")
    write_section("one", "One", "python one", "third", page)
    text = page.read_text()
    places = [text.index(what) for what in ("before", "## One", "python one", "third", "## Two", "second", "after")]
    assert places == sorted(places)
    assert "first" not in text
    assert text.count("<!-- one: begin -->") == text.count("<!-- one: end -->") == 1


def test_findings_of_the_fuzzer_are_told() -> None:
    tally = Tally(Counter(equal=3, unchanged=2, finding=1), {"Conv>Relu": [4, 1], "Relu>Conv": [5, 0]})
    assert "No finding." in section(tally, 1)
    tally.findings.append({"seed": 7, "kind": "again", "what": "the result is cut again", "text": ""})
    text = section(tally, 1)
    assert "- seed 7: again: the result is cut again" in text
    assert "2 operators in 2 pairs of neighbours, of which 1 were cut across" in text
    assert "| Relu → Conv | 5 | 0 |" in text
    assert "Conv → Relu" not in text
    assert "| graphs | 6 |" in text


@pytest.mark.parametrize("content", [None, "nonsense", "[]", "{}"])
def test_a_folder_without_a_tally_is_one_line(
    content: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if content is not None:
        (tmp_path / "tally.json").write_text(content)
    monkeypatch.setattr("sys.argv", ["fuzzer.py", str(tmp_path)])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert capsys.readouterr().err.splitlines()[-1].endswith(f"no tally.json of a campaign in {tmp_path}")
