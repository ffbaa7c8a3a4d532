"""The results table: what was run with mean and spread, what was not with its command."""

import json

import pytest

pytest.importorskip("torch")
pytest.importorskip("matplotlib")
pytest.importorskip("onnxruntime")


@pytest.fixture
def tool():
    from tools import training_results

    return training_results


def ended(row, runs, seed, score, macs):
    """A run that has ended and was measured."""
    folder = row.folder(runs, seed)
    folder.mkdir(parents=True)
    (folder / "resnet20_cifar10.onnx").write_bytes(b"")
    (folder / "figures.json").write_text(json.dumps({"score": score, "parameters": 1000, "macs": macs}))
    (folder / "latency.json").write_text("0.5")
    (folder / "log.jsonl").write_text(json.dumps({"epoch": 1, "score": score}) + "\n")


def test_rows_have_mean_and_spread_or_say_not_run(tool, tmp_path):
    rows = [row for row in tool.ROWS if row.recipe == "resnet20" and row.target in (1, 0.5) and row.multiple == 1]
    dense, uniform, importance, _ = rows
    for seed, (one, two) in enumerate(((0.91, 0.90), (0.92, 0.90))):
        ended(dense, tmp_path, seed, one, 200)
        ended(uniform, tmp_path, seed, two, 100)
    ended(importance, tmp_path, 0, 0.905, 99)
    text = tool.section(rows, tmp_path, tmp_path, [0, 1], 0.1, tmp_path / "curves.png")
    assert "| resnet20 | dense | 100.0 ± 0.0 % | 2 | 91.50 ± 0.71 |" in text
    assert "| resnet20 | uniform L1 | 50.0 ± 0.0 % | 2 | 90.00 ± 0.00 | -1.50 ± 0.71 |  | 1,000 | 0.50 ± 0.00 |" in text
    assert "| resnet20 | gates, importance | 49.5 % | 1 | 90.50 | -0.50 | 0.50 | 1,000 | 0.50 |" in text
    assert "gates, relaxed" not in text
    assert text.split("| --- | --- | --- |\n")[-1].splitlines() == [
        "| resnet20/importance-0.5 | 1 |  |",
        "| resnet20/relaxation-0.5 | 0,1 |  |",
    ]
    assert (tmp_path / "curves.png").exists()


def test_a_row_alone_is_compared_with_the_dense_one(tool, tmp_path):
    dense, uniform = (row for row in tool.ROWS if row.recipe == "resnet20" and row.name in ("none", "uniform-0.5"))
    ended(uniform, tmp_path, 0, 0.9, 100)
    assert "| resnet20 | uniform L1 |  | 1 | 90.00 |  |  | 1,000 |  |" in tool.section(
        [uniform], tmp_path, tmp_path, [0], 0.1
    )
    ended(dense, tmp_path, 0, 0.91, 200)
    text = tool.section([uniform], tmp_path, tmp_path, [0], 0.1)
    assert "| resnet20 | uniform L1 | 50.0 % | 1 | 90.00 | -1.00 |  | 1,000 | 0.50 |" in text


def test_a_recipe_that_was_not_run_has_one_line(tool, tmp_path):
    rows = [row for row in tool.ROWS if row.recipe in ("vgg16", "resnet56")]
    text = tool.section(rows, tmp_path, tmp_path, [0, 1], 0.1)
    first, second = text.splitlines()[-2:]
    assert first.startswith("| resnet56 | 0,1 | DAIS 93.53")
    assert second.startswith("| vgg16 | 0,1 | OCSPruner 93.76")


def test_every_row_has_a_recipe_that_takes_it(tool, tmp_path):
    import catalogue

    for row in tool.ROWS:
        fields = {"search": row.search, "target": row.target, "multiple": row.multiple}
        assert catalogue.entry(row.recipe, **fields).recipe.search == row.search
