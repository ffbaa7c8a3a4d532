"""The files in models/: small, with cards that say what they are, and each a real job for `optimize`."""

import json
import re
from pathlib import Path

import onnx
import pytest
from click.testing import CliRunner

pytest.importorskip("onnxruntime")

import onnxshrink
from onnxshrink import benchmark
from onnxshrink.cli import cli

MODELS = sorted((Path(__file__).parent.parent / "models").glob("*.onnx"))


def said(card: str, pattern: str) -> list[int]:
    """The numbers of one row of a card."""
    found = re.search(pattern, card)
    assert found is not None, pattern
    return [int(number.replace(",", "")) for number in found.groups()]


def test_both_reference_networks_are_here_and_small():
    assert [path.stem for path in MODELS] == ["resnet20_cifar10_gated", "unet-small_camvid_gated"]
    assert sum(path.stat().st_size for path in MODELS) < 2_000_000


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_a_file_is_what_its_card_says(path):
    card = path.with_suffix(".md").read_text(encoding="utf-8")
    assert said(card, r"\| file \| ([\d,]+) bytes") == [path.stat().st_size]
    stored, left = said(card, r"\| multiply-adds \| ([\d,]+) as stored; ([\d,]+) \(")
    assert benchmark.macs(onnx.load(path)) == stored
    result = onnxshrink.optimize(path, align=1)  # verified, or it raises
    assert benchmark.macs(result.model) == left
    (aligned,) = said(card, r"the default: ([\d,]+) multiply-adds")
    assert benchmark.macs(onnxshrink.optimize(path).model) == aligned


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_the_map_leads_back_to_the_network_of_the_catalogue(path, tmp_path, monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.syspath_prepend(path.parent)
    import catalogue

    from onnxshrink import gates

    entry = catalogue.entry(path.stem.split("_")[0])
    mapping, smaller = tmp_path / "map.json", tmp_path / "smaller.onnx"
    done = CliRunner().invoke(cli, ["optimize", str(path), str(smaller), "--map", str(mapping)])
    assert done.exit_code == 0, done.output
    small = gates.apply(entry.network(), json.loads(mapping.read_text(encoding="utf-8")), entry.data_set.example())
    sizes = {name: list(weight.shape) for name, weight in small.named_parameters()}
    kernels = {t.name: list(t.dims) for t in onnx.load(smaller).graph.initializer if t.name.endswith(".weight")}
    assert len(kernels) > 15
    assert {name: sizes.get(name) for name in kernels} == kernels
