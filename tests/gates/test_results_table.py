"""The table of trained networks: what was run with mean and spread, what was not; a row is made once, and measured."""

import pytest

pytest.importorskip("torch")
pytest.importorskip("matplotlib")
pytest.importorskip("onnxruntime")

from tools import rows as kept
from tools import training_results, training_rows


def ended(row, folder, seed, score, share):
    """A run that was made."""
    recipe = training_rows.as_json(row.entry(seed).recipe)
    epochs = [[1, score - 0.1], [2, score]]
    figures = {"recipe": recipe, "score": score, "parameters": 1000, "share": share, "latency": 0.5, "epochs": epochs}
    kept.keep(row.path(folder, seed), figures)


def test_rows_have_mean_and_spread_or_say_not_run(tmp_path):
    names = ("none", "uniform-0.5", "importance-0.5", "relaxation-0.5")
    rows = [row for row in training_rows.ROWS if row.recipe == "resnet20" and row.name in names]
    dense, uniform, importance, _ = rows
    for seed, (one, two) in enumerate(((0.91, 0.90), (0.92, 0.90))):
        ended(dense, tmp_path, seed, one, 1.0)
        ended(uniform, tmp_path, seed, two, 0.5)
    ended(importance, tmp_path, 0, 0.905, 0.495)
    text = training_results.section(rows, tmp_path, [0, 1], tmp_path / "curves.png")
    assert "| resnet20 | dense | 100.0 ± 0.0 % | 2 | 91.50 ± 0.71 |" in text
    assert "| resnet20 | uniform L1 | 50.0 ± 0.0 % | 2 | 90.00 ± 0.00 | -1.50 ± 0.71 |  | 1,000 | 0.50 ± 0.00 |" in text
    assert "| resnet20 | gates, importance | 49.5 % | 1 | 90.50 | -0.50 | 0.50 | 1,000 | 0.50 |" in text
    assert "gates, relaxed" not in text
    assert text.split("| --- | --- | --- |\n")[-1].splitlines() == [
        "| resnet20/importance-0.5 | 1 |  |",
        "| resnet20/relaxation-0.5 | 0,1 |  |",
    ]
    assert (tmp_path / "curves.png").exists()


def test_a_row_is_compared_with_others_of_its_seed_only(tmp_path):
    dense, uniform = (
        row for row in training_rows.ROWS if row.recipe == "resnet20" and row.name in ("none", "uniform-0.5")
    )
    ended(uniform, tmp_path, 0, 0.9, 0.5)
    ended(dense, tmp_path, 1, 0.5, 1.0)
    text = training_results.section([uniform], tmp_path, [0, 1])
    assert "| resnet20 | uniform L1 | 50.0 % | 1 | 90.00 |  |  | 1,000 | 0.50 |" in text
    ended(dense, tmp_path, 0, 0.91, 1.0)
    assert "| 90.00 | -1.00 |  | 1,000 | 0.50 |" in training_results.section([uniform], tmp_path, [0, 1])


def test_a_recipe_that_was_not_run_has_one_line(tmp_path):
    rows = [row for row in training_rows.ROWS if row.recipe in ("vgg16", "resnet56")]
    first, second = training_results.section(rows, tmp_path, [0, 1]).splitlines()[-2:]
    assert first.startswith("| resnet56 | 0,1 | DAIS 93.53")
    assert second.startswith("| vgg16 | 0,1 | OCSPruner 93.76")


def test_every_row_has_a_recipe_that_takes_it():
    for row in training_rows.ROWS:
        assert row.entry(3).recipe.search == row.search
        assert row.entry(3).recipe.seed == 3


def test_a_row_of_another_recipe_does_not_count(tmp_path):
    (row,) = (row for row in training_rows.ROWS if (row.recipe, row.name) == ("resnet20", "uniform-0.5"))
    ended(row, tmp_path, 0, 0.9, 0.5)
    figures = row.read(tmp_path, 0)
    assert figures is not None
    figures["recipe"]["finetune_epochs"] += 1
    kept.keep(row.path(tmp_path, 0), figures)
    assert row.read(tmp_path, 0) is None


def test_a_row_does_not_depend_on_what_its_run_never_reads(tmp_path):
    """Fields of a search, where there is none; fields that came later, at their defaults."""
    uniform, importance = (
        row for row in training_rows.ROWS if row.recipe == "resnet20" and row.name in ("uniform-0.5", "importance-0.5")
    )

    def counts(row, **changes):
        figures = kept.read(row.path(tmp_path, 0))
        figures["recipe"] |= changes
        return training_rows.decisive(figures["recipe"]) == training_rows.decisive(
            training_rows.as_json(row.entry(0).recipe)
        )

    for row in (uniform, importance):
        ended(row, tmp_path, 0, 0.9, 0.5)
        figures = row.read(tmp_path, 0)
        assert figures["recipe"].pop("path") == "linear"
        kept.keep(row.path(tmp_path, 0), figures)
        assert row.read(tmp_path, 0) == figures
        assert not counts(row, batch=64)
    epochs = {"search_epochs": 4, "finetune_epochs": 16}
    for changes in (epochs, {"floor": 0.2}, {"path": "geometric"}):
        assert counts(uniform, **changes)
        assert not counts(importance, **changes)
    assert not counts(uniform, search_epochs=4)


def test_a_row_is_trained_once_from_the_first_cycle_of_the_dense_one(tmp_path, monkeypatch):
    """What is run is recorded in place of training; the file that it would leave is one that was never trained."""
    from onnxshrink import gates

    (row,) = (row for row in training_rows.ROWS if (row.recipe, row.name) == ("resnet20", "uniform-0.5"))
    entry, said = row.entry(0), []

    def train(command, **_):
        said.append(command)
        folder = row.folder(tmp_path, 0)
        folder.mkdir(parents=True, exist_ok=True)
        gates.export(entry.network(), row.exported(tmp_path, 0), entry.data_set.example())
        (folder / "log.jsonl").write_text('{"epoch": 1, "score": 0.25, "phase": "dense", "kept": 1}\n')

    class Images:
        def batches(self):
            torch = pytest.importorskip("torch")
            yield torch.zeros(4, 3, 32, 32), torch.zeros(4, dtype=torch.long)

    monkeypatch.setattr(training_rows.subprocess, "run", train)
    monkeypatch.setattr(training_rows.catalogue, "read_final", lambda *_: Images())
    for _ in range(2):
        row.make(tmp_path / "rows", tmp_path, tmp_path, 0, "1", 0.05)
    first, second = said
    assert first[-2:] == ["multiple=1", "--resume"]
    assert first[first.index("--stop-after") + 1] == "20"
    assert "search=none" in first
    assert second[second.index("--dense") + 1] == str(tmp_path / "resnet20" / "0" / "none" / "dense.pt")
    figures = row.read(tmp_path / "rows", 0)
    assert figures is not None
    assert figures["score"] in (0.0, 1.0)
    assert figures["share"] == 1.0
    assert figures["epochs"] == [[1, 0.25]]
