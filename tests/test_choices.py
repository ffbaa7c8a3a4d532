"""What callers choose from: the Python face refuses what the command line refuses, before anything is read."""

from __future__ import annotations

from typing import Any, get_args

import click
import pytest

import onnxshrink
from onnxshrink.benchmark import measure_layers
from onnxshrink.choices import Allocation, Method, Provider, Reduction, Variant
from onnxshrink.cli import cli
from onnxshrink.errors import InputError
from onnxshrink.runtime import PROVIDERS

PRUNING = {"random_data": 4, "keep_macs": 0.5}
PFP = {**PRUNING, "method": "pfp"}
BAD_ALIGN = [0, -4, 2000, 1.5, True, "few"]
WRONG: list[tuple[Any, dict[str, Any], str]] = [
    (onnxshrink.prune, {**PRUNING, "method": "Wanda"}, "no method 'Wanda'; take one of wanda, pfp, magnitude, random"),
    (onnxshrink.prune, {**PRUNING, "allocation": "even"}, "no allocation 'even'; take one of utilization, "),
    (onnxshrink.prune, {**PRUNING, "allocation": ""}, "no allocation ''"),
    (onnxshrink.prune, {**PFP, "variant": "drawn"}, "no variant 'drawn'; take one of top, sampled, mixed"),
    (onnxshrink.prune, {**PFP, "reduction": "mean"}, "no reduction 'mean'; take one of sum, max"),
    (onnxshrink.prune, {**PRUNING, "provider": "gpu"}, "no provider 'gpu'; take one of cpu, cuda, tensorrt"),
    (onnxshrink.optimize, {"provider": "gpu"}, "no provider 'gpu'"),
    (onnxshrink.bench, {"provider": "gpu"}, "no provider 'gpu'"),
    (onnxshrink.verify, {"b": "nowhere.onnx", "provider": "gpu"}, "no provider 'gpu'"),
    (measure_layers, {"provider": "gpu"}, "no provider 'gpu'"),
    *((onnxshrink.optimize, {"align": align}, "cannot align to .*; give a number from 1") for align in BAD_ALIGN),
    *((onnxshrink.prune, {**PRUNING, "align": align}, "cannot align to") for align in [*BAD_ALIGN, "auto"]),
    *((onnxshrink.inspect, {"align": align}, "cannot align to") for align in [*BAD_ALIGN, "auto", None]),
    *((f, {"negligible": share}, "is no negligible share; give a number from 0 to 0.001")
      for f in (onnxshrink.optimize, onnxshrink.inspect) for share in (-1, 2.0, float("nan"), "few")),
]  # fmt: skip


@pytest.mark.parametrize(("function", "options", "message"), WRONG)
def test_what_is_no_choice_is_refused_before_anything_is_read(
    function: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message) as found:
        function("nowhere.onnx", **options)
    assert "\n" not in str(found.value)


def test_every_provider_has_its_name() -> None:
    assert tuple(PROVIDERS) == get_args(Provider)


@pytest.mark.parametrize(
    ("option", "words"),
    [("method", Method), ("allocation", Allocation), ("variant", Variant), ("reduction", Reduction)],
)
def test_the_command_line_offers_the_same(option: str, words: Any) -> None:
    kinds = {one.name: one.type for one in cli.commands["prune"].params}
    assert isinstance(kinds[option], click.Choice)
    assert tuple(kinds[option].choices) == get_args(words)
