"""The command line: what it prints and writes, its exit codes, and that nothing is left behind where it fails.

Runs in this process through `main`, as the entry point does; a few go through a real process.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

import onnxshrink
from onnxshrink import acceptance, cli, draft, shrink
from onnxshrink.benchmark import latency
from onnxshrink.cli import output
from onnxshrink.errors import InputError
from onnxshrink.rewrite import map as maps
from tests.zoo import oracle
from tests.zoo.net import Net
from tests.zoo.trap import DEAD, chain


@dataclass(frozen=True)
class Answer:
    """What a run of the command line left: exit code and both streams."""

    code: int
    out: str
    err: str


def run(*arguments: object) -> Answer:
    """The command line in this process."""
    out, err = io.StringIO(), io.StringIO()
    before = sys.argv
    sys.argv = ["onnxshrink", *map(str, arguments)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as stopped:
            cli.main()
    finally:
        sys.argv = before
    return Answer(int(stopped.value.code or 0), out.getvalue(), err.getvalue())


def process(*arguments: object, **environment: str) -> Answer:
    """The command line as a process."""
    command = [sys.executable, "-m", "onnxshrink", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **environment})
    return Answer(done.returncode, done.stdout, done.stderr)


def prunable() -> ModelProto:
    return chain(lambda net, t: net.op("Relu", t)).model()


def dense() -> ModelProto:
    return chain(lambda net, t: net.op("Relu", t), zero=()).model()


def dynamic() -> ModelProto:
    return chain(lambda net, t: net.op("Relu", t), shape=("batch", 3, "height", "width")).model()


def saved(model: ModelProto, path: Path) -> Path:
    path.write_bytes(model.SerializeToString(deterministic=True))
    return path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return saved(prunable(), tmp_path / "model.onnx")


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """The same interface, other weights."""
    return saved(chain(lambda net, t: net.op("Relu", t), seed=1).model(), tmp_path / "other.onnx")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """One short start for each measurement: what is measured does not matter here."""
    monkeypatch.setattr(latency, "STARTS", 1)
    monkeypatch.setattr(latency, "WARM_UP_SECONDS", 0.01)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones included."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def folders(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_dir())


def assert_refused(answer: Answer, code: int, *words: str) -> None:
    """One line on standard error, none on standard output, and no traceback."""
    assert answer.code == code, answer
    assert "Traceback" not in answer.err + answer.out
    assert answer.out == ""
    assert "internal error" not in answer.err
    lines = answer.err.splitlines()
    assert len(lines) == 1, answer.err
    for word in words:
        assert word in lines[0]


# --- what works


def test_optimize(model: Path, tmp_path: Path) -> None:
    output = tmp_path / "smaller.onnx"
    answer = run("optimize", model, output, "--align", 1)
    assert answer.code == 0, answer.err
    assert "channels 15 → 11 (4 zero)" in answer.out
    assert "equal" in answer.out
    before, after = onnx.load(model), onnx.load(output)
    arrays = oracle.feeds(before, 0)
    oracle.assert_equal(oracle.run(before, arrays), oracle.run(after, arrays))
    assert list(contents(tmp_path)) == ["model.onnx", "smaller.onnx"]


def test_json_on_standard_output_is_nothing_but_json(model: Path, tmp_path: Path) -> None:
    answer = process("optimize", model, tmp_path / "smaller.onnx", "--align", 1, "--json", "-")
    assert answer.code == 0, answer.err
    report = json.loads(answer.out)
    for size in ("parameters", "macs", "file_bytes"):
        assert 0 < report[size]["after"] < report[size]["before"]
    assert report["parameters"]["before"] - report["parameters"]["after"] == 64 * len(DEAD)
    assert report["channels"]["before"] == 15
    assert report["channels"]["after"] == 15 - len(DEAD)
    assert report["channels"]["removed"] == {"zero": 4, "known": 0, "unread": 0, "range": 0, "negligible": 0}
    assert report["stays"] == []
    verification = report["verification"]
    assert verification["state"] == "passed"
    for figure in ("max_abs", "max_rel", "noise_floor", "min_tolerance"):
        assert 0 <= verification[figure] < 1e-5
    assert report["seconds"]
    assert all(seconds >= 0 for seconds in report["seconds"].values())
    assert report["claims"]["passed"] is True


def test_json_and_map_files(model: Path, tmp_path: Path) -> None:
    report, mapping, output = (tmp_path / name for name in ("report.json", "map.json", "smaller.onnx"))
    answer = run("optimize", model, output, "--align", 1, "--json", report, "--map", mapping)
    assert answer.code == 0, answer.err
    assert "channels 15 → 11" in answer.out, "tables stay where JSON goes to a file"
    assert json.loads(report.read_text())["changed"] is True
    original = {t.name: numpy_helper.to_array(t) for t in onnx.load(model).graph.initializer}
    result = {t.name: numpy_helper.to_array(t) for t in onnx.load(output).graph.initializer}
    rebuilt = maps.rebuild(json.loads(mapping.read_text()), original)
    assert rebuilt
    for name, array in rebuilt.items():
        np.testing.assert_array_equal(result[name], array)


def test_map_keeps_names_that_are_not_ascii(tmp_path: Path) -> None:
    proto = prunable()
    proto.graph.initializer[0].name = proto.graph.node[1].input[1] = "poids/été"
    source, mapping = saved(proto, tmp_path / "modèle.onnx"), tmp_path / "map.json"
    answer = process("optimize", source, tmp_path / "sortie.onnx", "--map", mapping, "--align", 1, PYTHONUTF8="1")
    assert answer.code == 0, answer.err
    assert "poids/été" in [w["source"] for w in json.loads(mapping.read_text(encoding="utf-8"))["weights"]]


def test_nothing_to_cut(tmp_path: Path) -> None:
    """Exit code 0, a sentence that names the lossy way, and the same bytes."""
    source, output = saved(dense(), tmp_path / "dense.onnx"), tmp_path / "same.onnx"
    answer = run("optimize", source, output)
    assert answer.code == 0, answer.err
    said = " ".join(answer.out.split())
    assert "no channel of this model can go without loss" in said
    assert "onnxshrink.gates" in said
    assert output.read_bytes() == source.read_bytes()


def test_nothing_to_cut_leaves_bytes_alone_whatever_wrote_them(tmp_path: Path) -> None:
    """Fields in another order than protobuf would write them, and fields that it does not know."""
    proto = dense()
    proto.metadata_props.add(key="z", value="1")
    proto.metadata_props.add(key="a", value="2")
    source, output = tmp_path / "dense.onnx", tmp_path / "same.onnx"
    unknown = bytes([0xC2, 0x3E, 0x03]) + b"abc"  # field 1000, three bytes
    source.write_bytes(unknown + proto.SerializeToString())
    assert run("optimize", source, output).code == 0
    assert output.read_bytes() == source.read_bytes()


def test_optimized_twice_is_unchanged(model: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first.onnx", tmp_path / "second.onnx"
    assert run("optimize", model, first, "--align", 1).code == 0
    assert run("optimize", first, second, "--align", 1).code == 0
    assert second.read_bytes() == first.read_bytes()


def test_overwrites_an_earlier_result(model: Path, tmp_path: Path) -> None:
    output = tmp_path / "smaller.onnx"
    output.write_bytes(b"old")
    assert run("optimize", model, output).code == 0
    onnx.checker.check_model(onnx.load(output))


def test_inspect(model: Path, tmp_path: Path) -> None:
    answer = run("inspect", model)
    assert answer.code == 0, answer.err
    assert "channels 15 → 11 (4 zero)" in answer.out
    report = json.loads(run("inspect", model, "--json", "-").out)
    assert report["channels"]["after"] == 11
    assert report["parameters"]["before"] - report["parameters"]["after"] == 64 * len(DEAD)
    assert list(contents(tmp_path)) == ["model.onnx"]


def test_inspect_of_a_dense_model_names_the_lossy_way(tmp_path: Path) -> None:
    answer = run("inspect", saved(dense(), tmp_path / "dense.onnx"))
    assert answer.code == 0
    assert "can go without loss: it is dense" in " ".join(answer.out.split())


def test_inspect_two_models(model: Path, tmp_path: Path) -> None:
    output = tmp_path / "smaller.onnx"
    run("optimize", model, output, "--align", 1)
    report = json.loads(run("inspect", model, output, "--json", "-").out)
    shapes = {(tuple(layer["a"]), tuple(layer["b"])) for layer in report["layers"]}
    assert shapes == {((8, 3, 3, 3), (4, 3, 3, 3)), ((4, 8, 3, 3), (4, 4, 3, 3))}
    assert run("inspect", model, model).out.count("same operators, same weight shapes") == 1


def test_verify(model: Path, tmp_path: Path) -> None:
    output = tmp_path / "smaller.onnx"
    run("optimize", model, output, "--align", 1)
    answer = run("verify", model, output)
    assert answer.code == 0
    assert answer.out.startswith("equal")
    assert json.loads(run("verify", model, output, "--json", "-").out)["state"] == "passed"


@pytest.mark.usefixtures("quick")
def test_bench(model: Path, other: Path) -> None:
    answer = run("bench", model, other, "--seconds", 0.1, "--threads", 1, "--json", "-")
    assert answer.code == 0, answer.err
    batch = json.loads(answer.out)["batches"][0]
    assert batch["ratio"]["low"] <= batch["ratio"]["ratio"] <= batch["ratio"]["high"]
    assert run("bench", model, "--seconds", 0.1).code == 0


def test_input_shapes_and_data(tmp_path: Path) -> None:
    source, data = saved(dynamic(), tmp_path / "dynamic.onnx"), tmp_path / "data.npz"
    np.savez(data, x=np.random.default_rng(0).standard_normal((5, 3, 9, 7)).astype(np.float32))
    answer = run("optimize", source, tmp_path / "a.onnx", "--input-shape", "x:2,3,10,12", "--json", "-")
    assert answer.code == 0, answer.err
    draws = json.loads(answer.out)["verification"]["draws"]
    assert {tuple(draw["shapes"]["x"]) for draw in draws} == {(2, 3, 10, 12)}
    answer = run("verify", source, tmp_path / "a.onnx", "--data", data, "--json", "-")
    assert answer.code == 0, answer.err
    assert (1, 3, 9, 7) in {tuple(draw["shapes"]["x"]) for draw in json.loads(answer.out)["draws"]}


@pytest.mark.usefixtures("quick")
def test_align(model: Path, tmp_path: Path) -> None:
    sizes = {}
    for align in (1, 3, 8, "auto"):
        answer = run("optimize", model, tmp_path / f"{align}.onnx", "--align", align, "--json", "-")
        assert answer.code == 0, answer.err
        sizes[align] = json.loads(answer.out)["layers"][1]["after"]
    assert sizes[1] == 4
    assert sizes[3] == 6
    assert sizes[8] == 8
    assert sizes["auto"] in (4, 8)


def test_no_verify_says_nothing_of_equality(model: Path, tmp_path: Path) -> None:
    answer = run("optimize", model, tmp_path / "out.onnx", "--no-verify", "--json", "-")
    assert answer.code == 0
    assert json.loads(answer.out)["verification"] is None
    assert "not verified" in answer.err
    assert "equal" not in answer.err


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["optimize", "--help"], ["--version"]])
def test_help(arguments: list[str]) -> None:
    answer = process(*arguments)
    assert answer.code == 0
    assert answer.err == ""
    assert onnxshrink.__version__ in answer.out or "Usage:" in answer.out


# --- exit code 3: not equal


def test_verify_tells_two_models_apart(model: Path, other: Path) -> None:
    answer = run("verify", model, other)
    assert answer.code == 3
    assert answer.out.startswith("NOT EQUAL")


def test_verify_tells_each_difference_once(model: Path, tmp_path: Path) -> None:
    renamed = prunable()
    renamed.graph.input[0].name = renamed.graph.node[0].input[0] = "image"
    answer = run("verify", model, saved(renamed, tmp_path / "renamed.onnx"))
    assert answer.code == 3
    assert (answer.out.count("`x` is gone"), answer.out.count("`image` is new")) == (1, 1)


def broken(monkeypatch: pytest.MonkeyPatch, spoil: Callable[[ModelProto], None]) -> None:
    """Every cut comes out spoilt."""
    right = draft.execute

    def wrong(*arguments: Any, **options: Any) -> Any:
        execution = right(*arguments, **options)
        spoil(execution.model)
        return execution

    monkeypatch.setattr(draft, "execute", wrong)


def off_by_a_little(model: ModelProto) -> None:
    """One weight is off by 1 %."""
    tensor = next(t for t in model.graph.initializer if len(t.dims) == 4)
    array = np.array(numpy_helper.to_array(tensor))
    array.flat[0] *= 1.01
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def one_filter_less(model: ModelProto) -> None:
    """The second Conv expects a channel that is no longer there; ONNX Runtime's default path does not notice."""
    tensor = next(t for t in model.graph.initializer if len(t.dims) == 4)
    tensor.CopyFrom(numpy_helper.from_array(np.array(numpy_helper.to_array(tensor)[1:]), tensor.name))


@pytest.mark.parametrize("spoil", [off_by_a_little, one_filter_less])
@pytest.mark.parametrize("earlier", [False, True], ids=["", "earlier_result"])
def test_a_wrong_cut_is_refused(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoil: Callable[[ModelProto], None], earlier: bool
) -> None:
    broken(monkeypatch, spoil)
    output = tmp_path / "out.onnx"
    if earlier:
        output.write_bytes(b"an earlier result")
    before = contents(tmp_path)
    files = [tmp_path / "map.json", tmp_path / "report.json"]
    assert_refused(run("optimize", model, output, "--map", files[0], "--json", files[1]), 3, "model.onnx")
    assert contents(tmp_path) == before
    assert folders(tmp_path) == []


def test_no_verify_never_skips_the_structural_check(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken(monkeypatch, one_filter_less)
    assert_refused(run("optimize", model, tmp_path / "out.onnx", "--no-verify"), 3)
    assert list(contents(tmp_path)) == ["model.onnx"]


def test_a_wrong_claim_is_refused(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Outputs agree, but the plan says of a live channel that nobody reads it."""
    from onnxshrink.channels.plan import Unread

    right = draft.make_plan

    def wrong(*arguments: Any) -> Any:
        plan = right(*arguments)
        plan.unread.append(Unread(plan.layers[0].tensor, 1, (0,)))
        return plan

    monkeypatch.setattr(draft, "make_plan", wrong)
    assert_refused(run("optimize", model, tmp_path / "out.onnx"), 3, "claim")
    assert list(contents(tmp_path)) == ["model.onnx"]


# --- exit code 4: conditions


def test_fail_if_unchanged(tmp_path: Path) -> None:
    source = saved(dense(), tmp_path / "dense.onnx")
    answer = run("optimize", source, tmp_path / "out.onnx", "--fail-if-unchanged")
    assert_refused(answer, 4, "dense.onnx", "onnxshrink.gates", "no model was written;")
    assert list(contents(tmp_path)) == ["dense.onnx"]
    assert folders(tmp_path) == []
    assert not assert_only_the_report(source, tmp_path, "--fail-if-unchanged")["changed"]


def assert_only_the_report(source: Path, folder: Path, option: str) -> dict[str, Any]:
    """A condition that is met leaves the report, in a file or on standard output, and neither model nor map."""
    report, before = folder / "report.json", contents(folder)
    arguments = ["optimize", source, folder / "out.onnx", "--map", folder / "map.json", option, "--json"]
    assert_refused(run(*arguments, report), 4, "no model was written, only the report;")
    assert contents(folder).keys() - before.keys() == {"report.json"}
    shown = run(*arguments, "-")
    assert shown.code == 4
    written = json.loads(report.read_text())
    assert written["output"] is None
    assert json.loads(shown.out).keys() == written.keys()
    return written


@pytest.mark.parametrize("slower", [False, True])
def test_fail_if_slower(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slower: bool) -> None:
    factor = 1.5 if slower else 0.5
    ratio = onnxshrink.benchmark.Ratio(factor, factor - 0.1, factor + 0.1, 0.95, 10, 5)
    timing = onnxshrink.benchmark.Timing(1.0, 0.9, 1.1, 100)
    batch = onnxshrink.benchmark.BatchTiming(1, {"x": (1,)}, timing, timing, ratio)
    measured = onnxshrink.benchmark.Benchmark("a", "b", "CPU", {}, 0, {}, (batch,))
    monkeypatch.setattr(shrink.benchmark, "bench", lambda *_, **__: measured)
    answer = run("optimize", model, tmp_path / "out.onnx", "--fail-if-slower")
    if slower:
        assert_refused(answer, 4, "slower", "--align auto", "no model was written;")
        assert list(contents(tmp_path)) == ["model.onnx"]
        report = assert_only_the_report(model, tmp_path, "--fail-if-slower")
        assert report["latency"]["batches"][0]["ratio"]["ratio"] == factor
        assert report["changed"]
    else:
        assert answer.code == 0, answer.err
        assert "0.500" in answer.out


# --- exit codes 1 and 2: input that cannot be used


def external(folder: Path, name: str = "external.onnx") -> Path:
    path = folder / name
    onnx.save(prunable(), path, save_as_external_data=True, location=f"{name}.data", size_threshold=0)
    return path


def non_utf8() -> bytes:
    """A model whose weight has a name that is not UTF-8."""
    return prunable().SerializeToString().replace(b"const_0", b"const_\xff")


def bad_files(folder: Path) -> dict[str, Path]:
    whole = prunable().SerializeToString()
    content = {
        "empty": b"",
        "random": np.random.default_rng(0).bytes(5000),
        "zeros": bytes(5000),
        "truncated": whole[: len(whole) // 2],
        "cut_by_one": whole[:-1],
        "text": b"this is a text file\n" * 20,
        "json": b'{"a": 1}',
        "pickle": b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00}\x94\x8c\x01a\x94K\x01s.",
    }
    files = {}
    for name, data in content.items():
        files[name] = folder / f"{name}.onnx"
        files[name].write_bytes(data)
    files["directory"] = folder / "directory.onnx"
    files["directory"].mkdir()
    files["missing"] = folder / "missing.onnx"
    lost = external(folder, "lost.onnx")
    (folder / "lost.onnx.data").unlink()
    short = external(folder, "short.onnx")
    with (folder / "short.onnx.data").open("r+b") as file:
        file.truncate(100)
    outside = external(folder, "outside.onnx")
    proto = onnx.load(outside, load_external_data=False)
    for tensor in proto.graph.initializer:
        tensor.external_data[0].value = "../elsewhere.data"
    saved(proto, outside)
    dangling = prunable()
    dangling.graph.node[0].input[1] = "nobody"
    cyclic = prunable()
    cyclic.graph.node[0].input[0] = cyclic.graph.node[-1].output[0]
    opsetless = prunable()
    del opsetless.opset_import[:]
    lengthless = prunable()
    lengthless.graph.initializer[0].raw_data = b"1234"
    files |= {"lost": lost, "short": short, "outside": outside}
    graphs = {
        "dangling": dangling, "cyclic": cyclic, "opsetless": opsetless, "lengthless": lengthless,
    }  # fmt: skip
    files |= {name: saved(proto, folder / f"{name}.onnx") for name, proto in graphs.items()}
    return files


BAD = (
    "empty", "random", "zeros", "truncated", "cut_by_one", "text", "json", "pickle", "directory", "missing", "lost",
    "short", "outside", "dangling", "cyclic", "opsetless", "lengthless",
)  # fmt: skip


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("command", ["optimize", "inspect", "verify", "bench"])
def test_a_bad_model_is_one_line(tmp_path: Path, command: str, name: str) -> None:
    (tmp_path / "in").mkdir()
    bad, good = bad_files(tmp_path / "in")[name], saved(prunable(), tmp_path / "in" / "good.onnx")
    before = contents(tmp_path)
    arguments = {"optimize": [tmp_path / "out.onnx"], "inspect": [], "verify": [good], "bench": [good]}[command]
    if command == "bench":
        arguments += ["--seconds", "0.1"]
    assert_refused(run(command, bad, *arguments), 1, bad.name)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("command", ["optimize", "inspect"])
def test_names_that_are_not_utf8(tmp_path: Path, command: str) -> None:
    source = tmp_path / "model.onnx"
    source.write_bytes(non_utf8())
    arguments = [tmp_path / "out.onnx"] if command == "optimize" else []
    answer = run(command, source, *arguments)
    assert list(contents(tmp_path)) == ["model.onnx"]
    assert_refused(answer, 1, "model.onnx")


@pytest.mark.parametrize("name", ["missing", "text", "directory", "lost"])
def test_a_bad_second_model_is_not_equal_or_an_error(tmp_path: Path, name: str) -> None:
    bad, good = bad_files(tmp_path)[name], saved(prunable(), tmp_path / "good.onnx")
    answer = run("verify", good, bad)
    if name == "lost":
        assert answer.code == 3, "it can be read, and it does not compute the same"
    else:
        assert_refused(answer, 1, bad.name)
        assert_refused(run("inspect", good, bad), 1, bad.name)
    assert_refused(run("bench", good, bad, "--seconds", 0.1), 1, bad.name)


def test_output_folder_does_not_exist(model: Path, tmp_path: Path) -> None:
    assert_refused(run("optimize", model, tmp_path / "no" / "out.onnx"), 1, "out.onnx", "folder")
    assert list(contents(tmp_path)) == ["model.onnx"]
    assert folders(tmp_path) == []


@pytest.mark.parametrize("how", ["same", "relative", "link", "hard"])
def test_output_would_overwrite_the_input(
    model: Path, tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    output = {"same": model, "relative": Path("model.onnx")}.get(how, tmp_path / "link.onnx")
    if how == "link":
        output.symlink_to(model)
    if how == "hard":
        output.hardlink_to(model)
    before = model.read_bytes()
    assert_refused(run("optimize", model, output), 1, "overwrite")
    assert model.read_bytes() == before


def test_output_data_would_overwrite_the_inputs_data(tmp_path: Path) -> None:
    """OUT.onnx.data of the result, or the result itself, is where the source keeps its weights."""
    source = tmp_path / "source.onnx"
    onnx.save(prunable(), source, save_as_external_data=True, location="out.onnx.data", size_threshold=0)
    before = contents(tmp_path)
    for name in ("out.onnx", "out.onnx.data"):
        assert_refused(run("optimize", source, tmp_path / name), 1, "overwrite")
        pruning = ["prune", source, tmp_path / name, "--random-data", 4, "--keep-macs", "50%"]
        assert_refused(run(*pruning), 1, "overwrite")
        assert contents(tmp_path) == before


def test_output_is_a_folder(model: Path, tmp_path: Path) -> None:
    (tmp_path / "out.onnx").mkdir()
    assert_refused(run("optimize", model, tmp_path / "out.onnx"), 1, "out.onnx")
    assert list(contents(tmp_path)) == ["model.onnx"]
    assert folders(tmp_path) == ["out.onnx"]


@pytest.mark.parametrize("option", ["--map", "--json"])
def test_report_cannot_be_written(model: Path, tmp_path: Path, option: str) -> None:
    """Known before anything is written: a run that fails leaves nothing."""
    answer = run("optimize", model, tmp_path / "out.onnx", option, tmp_path / "no" / "report.json")
    assert_refused(answer, 2, "report.json")
    assert list(contents(tmp_path)) == ["model.onnx"]


@pytest.mark.parametrize("option", ["--map", "--json"])
def test_report_would_overwrite_a_model(model: Path, tmp_path: Path, option: str) -> None:
    for target in (model, tmp_path / "out.onnx"):
        before = contents(tmp_path)
        assert_refused(run("optimize", model, tmp_path / "out.onnx", option, target), 2, target.name)
        assert contents(tmp_path) == before


@pytest.mark.parametrize(
    "arguments",
    [
        ["optimize", "in.onnx", "out.onnx", "--data", "calib.npz", "--json", "calib.npz"],
        ["optimize", "in.onnx", "out.onnx", "--data", "calib.npz", "--map", "link.npz"],
        ["optimize", "in.onnx", "out.onnx", "--json", "in.onnx.data"],
        ["optimize", "in.onnx", "out.onnx", "--json", "out.onnx.data"],
        ["optimize", "in.onnx", "out.onnx", "--json", "new.json", "--map", "./new.json"],
        ["optimize", "in.onnx", "calib.npz", "--data", "calib.npz"],
        ["prune", "in.onnx", "out.onnx", "--data", "calib.npz", "--keep-macs", "50%", "--json", "calib.npz"],
        ["prune", "in.onnx", "out.onnx", "--data", "samples", "--keep-macs", "50%", "--map", "samples/a.npy"],
        ["prune", "in.onnx", "out.onnx", "--data", "samples", "--keep-macs", "50%", "--curve", "samples/curve.png"],
        ["prune", "in.onnx", "out.onnx", "--random-data", "4", "--keep-latency", "50%", "--table", "table.json",
         "--json", "table.json"],
        ["prune", "in.onnx", "table.json", "--random-data", "4", "--keep-latency", "50%", "--table", "table.json"],
        ["verify", "in.onnx", "other.onnx", "--data", "calib.npz", "--json", "calib.npz"],
        ["verify", "in.onnx", "other.onnx", "--json", "in.onnx.data"],
        ["bench", "in.onnx", "other.onnx", "--json", "hard.onnx"],
        ["bench", "in.onnx", "--json", "in.onnx.data"],
        ["bench", "in.onnx", "--layers", "-o", "new.json", "--json", "new.json"],
        ["inspect", "other.onnx", "in.onnx", "--json", "in.onnx.data"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_nothing_is_written_over_another_file_of_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    external(tmp_path, "in.onnx")
    saved(prunable(), tmp_path / "other.onnx")
    Path("hard.onnx").hardlink_to("other.onnx")
    np.savez("calib.npz", x=np.ones((4, 3, 8, 8), np.float32))
    Path("link.npz").symlink_to("calib.npz")
    Path("samples").mkdir()
    np.save("samples/a.npy", np.ones((4, 3, 8, 8), np.float32))
    Path("table.json").write_text("{}")
    before = contents(tmp_path)
    assert_refused(run(*arguments), 2, "would overwrite")
    assert contents(tmp_path) == before


def test_a_report_may_lie_beside_samples_and_be_written_again(model: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "calib.npz", x=np.ones((4, 3, 8, 8), np.float32))
    for _ in range(2):
        answer = run("optimize", model, tmp_path / "o.onnx", "--data", tmp_path, "--json", tmp_path / "report.json")
        assert answer.code == 0, answer.err


@pytest.mark.parametrize("shape", ["x", "x:", ":1,3", "x:1,3,a", "x:1,3,0,8", "x:1,-3,8,8", ""])
def test_bad_input_shape(model: Path, tmp_path: Path, shape: str) -> None:
    answer = run("optimize", model, tmp_path / "out.onnx", "--input-shape", shape)
    assert answer.code == 2
    assert answer.out == ""
    assert "Traceback" not in answer.err
    assert list(contents(tmp_path)) == ["model.onnx"]


@pytest.mark.parametrize("shape", ["other:2,3,8,8", "x:2,4,8,8", "x:2,3,8"])
@pytest.mark.parametrize("command", ["optimize", "verify", "bench", "inspect"])
def test_input_shape_that_does_not_fit(model: Path, tmp_path: Path, command: str, shape: str) -> None:
    arguments = {"optimize": [tmp_path / "out.onnx"], "verify": [model], "bench": [], "inspect": []}[command]
    answer = run(command, model, *arguments, "--input-shape", shape)
    assert_refused(answer, 2, shape.split(":")[0])
    assert list(contents(tmp_path)) == ["model.onnx"]


def bad_data(folder: Path, name: str) -> Path:
    path, good = folder / f"{name}.npz", np.zeros((2, 3, 8, 8), np.float32)
    match name:
        case "nan":
            np.savez(path, x=np.full_like(good, np.nan))
        case "infinite":
            np.savez(path, x=np.full_like(good, np.inf))
        case "names":
            np.savez(path, image=good)
        case "extra":
            np.savez(path, x=good, y=good)
        case "shape":
            np.savez(path, x=good[:, :2])
        case "kind":
            np.savez(path, x=good.astype(complex))
        case "text":
            np.savez(path, x=np.array(["a"]))
        case "objects":
            np.savez(path, x=np.array([{}], object))
        case "no_zip":
            path.write_text("nothing")
        case "empty_file":
            path.write_bytes(b"")
        case "truncated":
            np.savez(path, x=good)
            path.write_bytes(path.read_bytes()[:200])
        case "no_rows":
            np.savez(path, x=good[:0])
        case "empty_folder":
            path.mkdir()
    return path


@pytest.mark.parametrize(
    "name",
    ["nan", "infinite", "names", "extra", "shape", "kind", "text", "objects", "no_zip", "empty_file", "truncated",
     "no_rows", "empty_folder", "missing"],
)  # fmt: skip
def test_bad_data(model: Path, tmp_path: Path, name: str) -> None:
    data = bad_data(tmp_path, name)
    before = contents(tmp_path)
    assert_refused(run("optimize", model, tmp_path / "out.onnx", "--data", data), 2, data.name)
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nothing"],
        ["optimize"],
        ["optimize", "in.onnx"],
        ["optimize", "in.onnx", "out.onnx", "--align", "0"],
        ["optimize", "in.onnx", "out.onnx", "--align", "few"],
        ["optimize", "in.onnx", "out.onnx", "--negligible", "-1"],
        ["optimize", "in.onnx", "out.onnx", "--negligible", "nan"],
        ["optimize", "in.onnx", "out.onnx", "--provider", "tpu"],
        ["inspect", "in.onnx", "--align", "0"],
        ["inspect", "in.onnx", "--align", "-4"],
        ["bench", "in.onnx", "--batch", "0"],
        ["bench", "in.onnx", "--batch", "a"],
        ["bench", "in.onnx", "--threads", "0"],
        ["verify", "in.onnx"],
    ],
    ids=" ".join,
)
def test_usage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]) -> None:
    monkeypatch.chdir(tmp_path)
    answer = run(*arguments)
    assert answer.code == 2, answer
    assert "Traceback" not in answer.err
    assert contents(tmp_path) == {}


def test_interrupted_leaves_nothing(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(acceptance.verification, "verify", stop)
    answer = run("optimize", model, tmp_path / "out.onnx")
    assert answer.code == 130
    assert "Traceback" not in answer.err
    assert list(contents(tmp_path)) == ["model.onnx"]
    assert folders(tmp_path) == []


def test_what_nobody_foresaw_is_one_line(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise RuntimeError("two\nlines")

    monkeypatch.setattr(acceptance.verification, "verify", stop)
    answer = run("optimize", model, tmp_path / "out.onnx")
    assert answer.code == 1
    assert answer.err.splitlines() == [
        "onnxshrink: internal error, RuntimeError: two lines; "
        "please report it (`onnxshrink --traceback COMMAND ...` shows where)"
    ]
    assert list(contents(tmp_path)) == ["model.onnx"]
    monkeypatch.setattr(sys, "argv", ["onnxshrink", "--traceback", "optimize", str(model), str(tmp_path / "out.onnx")])
    with pytest.raises(RuntimeError, match="two"):
        cli.main()


def test_names_that_look_like_markup(tmp_path: Path) -> None:
    """Names from models are printed as they are."""
    net = Net()
    t = net.conv(net.input("x", (1, 3, 8, 8)), 3, 8, zero=DEAD, name="[bold red]a[/]")
    net.output(net.conv(t, 8, 4, name="[/y]"))
    source = saved(net.model(), tmp_path / "model.onnx")
    answer = run("optimize", source, tmp_path / "[out].onnx", "--align", 1)
    assert answer.code == 0, answer.err
    assert "[bold red]a[/]" in "".join(answer.out.split("\n"))
    assert "[out].onnx" in answer.out.replace("\n", "")


def test_a_model_that_onnxruntime_refuses(tmp_path: Path) -> None:
    """An operator that exists nowhere: it can be planned around, but not verified by running it."""
    value = helper.make_tensor_value_info
    node = helper.make_node("Imaginary", ["x"], ["y"], domain="nowhere")
    graph = helper.make_graph([node], "g", [value("x", TensorProto.FLOAT, [1])], [value("y", TensorProto.FLOAT, [1])])
    proto = helper.make_model(
        graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("nowhere", 1)]
    )
    source = saved(proto, tmp_path / "model.onnx")
    assert run("optimize", source, tmp_path / "out.onnx").code == 0
    assert_refused(run("bench", source, "--seconds", 0.1), 1, "model.onnx")


def test_a_report_where_nothing_can_be_written_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "write_text", closed)
    monkeypatch.setattr(Path, "unlink", closed)
    with pytest.raises(InputError, match=r"map\.json: cannot write: Read-only file system"):
        output.write_json(str(tmp_path / "map.json"), {})
