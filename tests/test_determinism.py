"""The same input and options give the same bytes: in other processes and with other hash seeds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import ModelProto

from tests.zoo.net import Net
from tests.zoo.trap import DEAD, chain
from tests.zoo.traps import TRAPS

SEEDS = ("0", "1", "4242")
NAMES = ("carriers_and_choices", "shared_weight", "ir3_constant", "unchanged")


def carriers_and_choices() -> ModelProto:
    """Every kind of choice: carriers, the fill of a grouped Conv, alignment, a residual sum, shared constants."""
    net = Net()
    x = net.input("x", ("n", 3, 12, 12))
    a = net.op("Sigmoid", net.conv(x, 3, 16, zero=(0, 3, 4, 7, 9, 15)))
    b = net.conv(a, 16, 16, group=4, zero=(1, 2, 3, 6, 10), constant={12: 0.5})
    c = net.conv(a, 16, 16, zero=(1, 2, 6, 10), constant={12: 0.25, 13: -1.0})
    t = net.op("Relu", net.op("Add", b, c))
    t = net.op("Concat", t, a, axis=1)
    left, right = net.conv(t, 32, 8, zero=DEAD), net.conv(t, 32, 8, constant=dict.fromkeys(DEAD, 1.5))
    return net.output(net.conv(net.op("Concat", left, right, axis=1), 16, 5, name="y")).model()


def build(name: str) -> ModelProto:
    if name == "carriers_and_choices":
        return carriers_and_choices()
    if name == "unchanged":
        return chain(lambda net, t: net.op("Relu", t), zero=()).model()
    return next(trap for trap in TRAPS if trap.name == name).build()


def optimized(source: Path, folder: Path, *options: str, **environment: str) -> dict[str, bytes]:
    """Every file that a process of its own writes."""
    folder.mkdir()
    command = [sys.executable, "-m", "onnxshrink", "optimize", str(source), "out.onnx", *options]
    command += ["--map", "map.json", "--json", "report.json"]
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    files["report.json"] = json.dumps(timeless(json.loads(files["report.json"]))).encode()
    return files


def timeless(report: Any) -> Any:
    """A report without what a clock says."""
    if isinstance(report, dict):
        return {key: timeless(value) for key, value in report.items() if key not in ("seconds", "latency")}
    return [timeless(value) for value in report] if isinstance(report, list) else report


@pytest.mark.parametrize("name", NAMES)
def test_same_bytes_with_other_hash_seeds(tmp_path: Path, name: str) -> None:
    source = tmp_path / "model.onnx"
    source.write_bytes(build(name).SerializeToString())
    first, *others = (optimized(source, tmp_path / seed, "--no-verify", PYTHONHASHSEED=seed) for seed in SEEDS)
    assert sorted(first) == ["map.json", "out.onnx", "report.json"]
    for other in others:
        assert other == first


def test_same_bytes_and_same_report_with_verification(tmp_path: Path) -> None:
    source = tmp_path / "model.onnx"
    source.write_bytes(carriers_and_choices().SerializeToString())
    first = optimized(source, tmp_path / "a", PYTHONHASHSEED="1")
    second = optimized(source, tmp_path / "b", PYTHONHASHSEED="2")
    assert first["out.onnx"] == second["out.onnx"]
    assert first["map.json"] == second["map.json"]
    # figures may differ where threads of ONNX Runtime sum in another order, the verdict may not
    reports = [json.loads(files["report.json"]) for files in (first, second)]
    assert [report["verification"]["state"] for report in reports] == ["passed", "passed"]
    for report in reports:
        del report["verification"], report["claims"]
    assert reports[0] == reports[1]


def test_same_bytes_with_external_data(tmp_path: Path) -> None:
    source = tmp_path / "model.onnx"
    onnx.save(carriers_and_choices(), source, save_as_external_data=True, location="weights.bin", size_threshold=0)
    first, second = (optimized(source, tmp_path / seed, "--no-verify", PYTHONHASHSEED=seed) for seed in SEEDS[:2])
    assert sorted(first) == ["map.json", "out.onnx", "out.onnx.data", "report.json"]
    assert first == second
