"""Runs the short suite against mutants, each in a copy of the package in a process of its own.

The processes are forked from one that has imported what the suite needs from elsewhere, so a mutant that the first
tests catch costs a second.
"""

from __future__ import annotations

import compileall
import json
import multiprocessing
import multiprocessing.connection
import os
import resource
import shutil
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from .chosen import CHOSEN
from .equivalent import reason_of
from .mutant import PACKAGE, Mutant
from .systematic import mutants as systematic

ROOT = PACKAGE.parent.parent

TRAPS_ONCE = "tests/mutation/short.py"
SUITE = (
    ("tests/channels/test_ties.py", TRAPS_ONCE),
    ("tests/golden", "tests/channels", "tests/rewrite", "tests/mutation/test_rules.py"),
)
"""The short suite, in two stages, as most mutants do not see the second: ties and every trap; models that once went
wrong, plans, facts and rewrites, with random models, and unit tests of rules. About a minute together.
"""

CPU_SECONDS = 180
"""A mutant that takes longer is caught: it does not end."""


@dataclass(frozen=True)
class Verdict:
    """What became of a mutant: the test that caught it, "" where it survived, and why where it may."""

    mutant: str
    caught_by: str
    seconds: float
    equivalent: str = ""


def all_mutants() -> list[Mutant]:
    """The chosen ones, then the systematic ones."""
    return [*CHOSEN, *systematic()]


def run(
    mutants: Sequence[Mutant], jobs: int, log: Path | None, say: Callable[[Verdict], None], extra: Sequence[str] = ()
) -> list[Verdict]:
    """A verdict for each mutant; with `log`, those that it holds are not examined again.

    Raises:
        RuntimeError: the suite does not pass without a mutant.
    """
    done = _read(log)
    waiting = [mutant for mutant in mutants if mutant.name not in done]
    compileall.compile_dir(PACKAGE, quiet=2)
    if waiting and (failed := _examine(None, extra)):
        raise RuntimeError(f"without a mutant this fails: {failed}")
    with ThreadPoolExecutor(jobs) as pool:
        running: set[Future[Verdict]] = {pool.submit(_verdict, mutant, extra) for mutant in waiting}
        while running:
            finished, running = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                verdict = future.result()
                done[verdict.mutant] = verdict
                say(verdict)
                if log is not None:
                    with log.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(asdict(verdict)) + "\n")
    return [done[mutant.name] for mutant in mutants]


def _read(log: Path | None) -> dict[str, Verdict]:
    lines = log.read_text(encoding="utf-8").splitlines() if log is not None and log.exists() else []
    return {verdict.mutant: verdict for verdict in (Verdict(**json.loads(line)) for line in lines)}


@cache
def _files() -> dict[str, frozenset[str]]:
    """For each trap, the files whose rules its operators have."""
    from onnxshrink.ops.rule import _RULES
    from tests.zoo.traps import TRAPS

    files = {
        operator: {kind.__module__.removeprefix("onnxshrink.").replace(".", "/") + ".py" for kind in type(rule).__mro__}
        for operator, rule in _RULES.items()
    }
    return {
        trap.name: frozenset().union(*(files.get((node.domain, node.op_type), ()) for node in trap.net().nodes))
        for trap in TRAPS
    }


def near(mutant: Mutant) -> list[str]:
    """The traps that a mutated rule sees, most of which would be reached late: these are run first."""
    files = _files()
    mixed = sorted(files, key=lambda name: zlib.crc32(name.encode()))
    return [f"{TRAPS_ONCE}::test_trap[{name}]" for name in mixed if mutant.file in files[name]]


def _verdict(mutant: Mutant, extra: Sequence[str]) -> Verdict:
    started = time.perf_counter()
    caught = _examine(mutant, extra)
    return Verdict(mutant.name, caught, time.perf_counter() - started, "" if caught else reason_of(mutant))


def _examine(mutant: Mutant | None, extra: Sequence[str]) -> str:
    """The first test that fails with the mutant, "" if none does."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["numpy", "onnx.reference", "onnxruntime", "onnx_graphsurgeon", "pytest", "rich"])
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        shutil.copytree(PACKAGE, Path(folder) / "onnxshrink")  # with what is compiled
        if mutant is not None:
            path = Path(folder) / "onnxshrink" / mutant.file
            path.write_text(mutant.apply(path.read_text(encoding="utf-8")), encoding="utf-8")
        ours, theirs = context.Pipe(duplex=False)
        stages = [near(mutant), *SUITE] if mutant is not None else SUITE
        process = context.Process(target=_suite, args=(folder, theirs, tuple(extra), stages))
        process.start()
        theirs.close()
        try:
            return str(ours.recv())
        except EOFError:  # it died: of its time, or of a crash in native code
            process.join()
            return f"ended with {process.exitcode}"
        finally:
            process.join()


def _suite(
    folder: str, answer: multiprocessing.connection.Connection, extra: tuple[str, ...], stages: Sequence[Sequence[str]]
) -> None:
    """In a process of its own: run the stages of the short suite on the package in `folder`."""
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
    os.chdir(ROOT)
    sys.path.insert(0, folder)
    sys.dont_write_bytecode = False  # the next mutant reads what this one compiled of the tests
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, 1)
    os.dup2(devnull, 2)
    import pytest

    class First:
        """Keeps the name of the first test that fails, or of the file that cannot be collected."""

        name = ""

        def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
            if report.failed and not self.name:
                self.name = report.nodeid

        def pytest_collectreport(self, report: pytest.CollectReport) -> None:
            if report.failed and not self.name:
                self.name = report.nodeid

    first = First()
    for stage in filter(None, stages):
        code = pytest.main(["-x", "-q", "-p", "no:cacheprovider", "--tb=no", *extra, *stage], plugins=[first])
        if code:
            first.name = first.name or f"pytest ended with {code}"
            break
    import onnxshrink

    assert str(onnxshrink.__file__).startswith(folder), "the suite ran on the copy"
    answer.send(first.name)
    answer.close()
