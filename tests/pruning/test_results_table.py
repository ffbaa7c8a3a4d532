"""The tables of pruning: what was run is shown and not run again, what failed says so, the section has its place."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("PIL")
pytest.importorskip("matplotlib")

from onnxshrink.errors import InputError
from tools import pruning_results, pruning_rows, pruning_tables, rows


def keep(folder: Path, group: str, name: str, **figures: object) -> None:
    rows.keep(folder / group / name, figures)


def section(folder: Path) -> str:
    return pruning_tables.section(folder, [*pruning_rows.all_rows(folder, folder, folder, folder)])


def test_what_was_run_is_in_its_cell(tmp_path: Path) -> None:
    keep(tmp_path, "resnet20", "dense", accuracy=0.8898, macs=1.0)
    keep(tmp_path, "resnet20", "wanda-global-0.45-repaired", accuracy=0.87654, macs=0.45)
    keep(tmp_path, "resnet20", "onnxsim-0.25", accuracy=0.1, accuracy_repaired=0.2, macs=0.25)
    text = section(tmp_path)
    assert "Unpruned: 88.98 %" in text
    assert "| `wanda global` |  | 87.65 |  |  |  |  |" in text
    assert "| onnxsim Wanda |  |  |  |  | 10.00 | 20.00 |" in text
    assert "Published models" not in text
    assert "`pfp`" not in text, "nothing of it was run"
    every = [*pruning_rows.all_rows(tmp_path, tmp_path, tmp_path, tmp_path)]
    assert f"{len(every) - 3} of {len(every)} rows are not run yet, such as resnet20/wanda-util" in text


def test_wins_are_counted_against_the_rival(tmp_path: Path) -> None:
    for model, ours, theirs in (
        ("yolox_nano_coco", 0.1, 0.2),
        ("rn56_c100_dense", 0.3, 0.2),
        ("vit_pgd_2_3_16", 0.3, None),
    ):
        keep(tmp_path, model, "macs-wanda-uniform", error=ours, agreement=None, share=0.75)
        keep(tmp_path, model, "macs-wanda-utilization", error=ours + 0.01, agreement=0.5, share=0.745)
        if theirs is None:
            keep(tmp_path, model, "macs-onnxsim", failed="no sparsity keeps to the budget")
        else:
            keep(tmp_path, model, "macs-onnxsim", error=theirs, agreement=0.9, share=0.75)
    text = section(tmp_path)
    assert "at least as good as the rival on 2 of 3 models and better on 2; on 1 of these no sparsity" in text
    assert "| 0.300 (at 75.0 %) |  | 0.310, 50.0 % (at 74.5 %) | 0.200, 90.0 % (at 75.0 %) |" in text
    assert "– (no sparsity keeps to the budget) |" in text


def test_curves_are_drawn_where_they_are_asked_for(tmp_path: Path) -> None:
    keep(tmp_path, "resnet20-curve", "pfp", points=[[1.0, 0.0], [0.5, 0.3]])
    every = [*pruning_rows.all_rows(tmp_path, tmp_path, tmp_path, tmp_path)]
    assert "![" not in pruning_tables.section(tmp_path, every)
    picture = tmp_path / "pruning.png"
    assert "![Size against error](pruning.png)" in pruning_tables.section(tmp_path, every, picture)
    assert picture.stat().st_size > 5000


def test_the_cascade_is_told_against_the_dense_network(tmp_path: Path) -> None:
    keep(tmp_path, "cascade", "pfp-0.7-x2", accuracy=0.89, dense=0.895, macs=0.698)
    assert "| `pfp` | 20, 10 + 10 | 69.8 % | 89.00 | 89.50 | -0.50 |" in section(tmp_path)


def test_a_row_is_run_once_and_a_failure_is_a_row(tmp_path: Path) -> None:
    made: list[int] = []

    def make() -> dict[str, object]:
        made.append(1)
        if len(made) == 2:
            raise InputError("cannot be reached")
        return {"error": 0.5}

    for name in ("first", "second"):
        for _ in range(2):
            pruning_rows.Row("group", name, make).run(tmp_path)
    assert len(made) == 2
    assert rows.read(tmp_path / "group" / "first") == pytest.approx({"error": 0.5, "seconds": 0.0})
    failed = rows.read(tmp_path / "group" / "second")
    assert failed is not None
    assert failed["failed"] == "cannot be reached"
    assert not list(tmp_path.rglob("*.partial"))


def test_names_that_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["tool", "--rows", str(tmp_path), "--only", "resnet21"])
    with pytest.raises(SystemExit, match="no row resnet21; groups: resnet20, resnet20-curve"):
        pruning_results.main()


def test_the_settings_are_options_of_prune() -> None:
    """A misspelt option would fail after an hour."""
    import inspect

    import onnxshrink

    known = set(inspect.signature(onnxshrink.prune).parameters)
    for options in (*pruning_rows.METHODS.values(), *pruning_rows.OURS.values()):
        assert set(options) <= known
    assert len(pruning_rows.PUBLISHED) == 10


def test_the_large_layer_is_told_in_a_sentence(tmp_path: Path) -> None:
    keep(
        tmp_path,
        "large-layer",
        "repaired",
        seconds=380.4,
        peak_mb=3449.7,
        inputs=2017,
        error=0.005,
        error_before_repair=0.054,
    )
    text = section(tmp_path)
    assert "keeps 2,017 inputs" in text
    assert "380 s for the whole of `prune`, at a peak of 3,450 MB" in text
    assert "falls from 0.054 to 0.005." in text
