"""Random graphs for as long as one likes: `python -m tests.fuzz.run --seconds 60`.

Seeds are examined in blocks by worker processes; with `--log FOLDER` the tally is written after every block, and the
next run with the same folder goes on behind the last seed. A finding is one line there, with the seed, and the text of
a minimal model. `--seed N` examines one seed and prints what it finds.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path

from tests.zoo import oracle

from .campaign import Tally, run_seed
from .generate import random_model

BLOCK = 50


def block(first: int, shrink_for: float, count: int = BLOCK) -> Tally:
    """The tally of the seeds `first` to `first` + count."""
    tally = Tally()
    for seed in range(first, first + count):
        run_seed(seed, tally, shrink_for=shrink_for)
    return tally


def original(seed: int) -> None:
    """Load the graph of a seed as it is; ONNX Runtime's optimizations do not survive some."""
    oracle.session(random_model(seed), optimize=True, threads=1)


def one_by_one(first: int, shrink_for: float) -> Tally:
    """The tally of a block in which a process died: each seed has one of its own."""
    total = Tally()
    for seed in range(first, first + BLOCK):
        try:
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                total.merge(pool.submit(block, seed, shrink_for, 1).result())
        except BrokenProcessPool:
            try:
                with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                    pool.submit(original, seed).result()
            except BrokenProcessPool:
                total.states["the runtime dies of the original"] += 1
            else:
                total.findings.append({"seed": seed, "kind": "died", "what": "the process died", "text": ""})
                total.states["finding"] += 1
    return total


def campaign(seconds: float, graphs: int, first: int, processes: int, log: Path | None, shrink_for: float) -> Tally:
    """Blocks until the time or the number of graphs is used up.

    The seeds of a block whose process dies are examined one by one.
    """
    total, start = _resumed(log)
    following = max(first, start)
    began = time.monotonic()
    done = 0
    while time.monotonic() - began < seconds and done < graphs:
        with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
            running: dict[Future[Tally], int] = {}
            try:
                while True:
                    left = time.monotonic() - began < seconds and done + len(running) * BLOCK < graphs
                    while left and len(running) < processes:
                        running[pool.submit(block, following, shrink_for)] = following
                        following += BLOCK
                        left = done + len(running) * BLOCK < graphs
                    if not running:
                        break
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        tally = future.result()
                        del running[future]
                        total.merge(tally)
                        done += tally.graphs
                        _report(total, tally, following, time.monotonic() - began, done, log)
            except BrokenProcessPool:
                for first_seed in running.values():
                    tally = one_by_one(first_seed, shrink_for)
                    total.merge(tally)
                    done += tally.graphs
                    _report(total, tally, following, time.monotonic() - began, done, log)
    return total


def _resumed(log: Path | None) -> tuple[Tally, int]:
    file = log / "tally.json" if log else None
    if file is None or not file.is_file():
        return Tally(), 0
    data = json.loads(file.read_text())
    return Tally.of(data["tally"]), data["next"]


def _report(total: Tally, tally: Tally, following: int, took: float, done: int, log: Path | None) -> None:
    for finding in tally.findings:
        print(f"seed {finding['seed']}: {finding['kind']}: {finding['what']}\n{finding['text']}", flush=True)
    if done % (20 * BLOCK) < tally.graphs:
        print(f"{took:.0f} s, {done / took:.1f} graphs/s; " + "; ".join(total.lines()), flush=True)
    if log is not None:
        log.mkdir(parents=True, exist_ok=True)
        staged = log / "tally.json.new"
        staged.write_text(json.dumps({"next": following, "tally": total.to_json()}))
        staged.replace(log / "tally.json")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--graphs", type=int, default=10**9)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--shrink-seconds", type=float, default=60.0)
    parser.add_argument("--log", type=Path)
    parser.add_argument("--seed", type=int, help="examine this seed alone")
    parser.add_argument("--pairs", action="store_true", help="print the operator pairs")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if options.seed is not None:
        total = Tally()
        run_seed(options.seed, total, shrink_for=options.shrink_seconds)
    else:
        total = campaign(
            options.seconds, options.graphs, options.first_seed, options.processes, options.log, options.shrink_seconds
        )
    for finding in total.findings:
        print(f"\nseed {finding['seed']}: {finding['kind']}: {finding['what']}\n{finding['text']}")
    if options.pairs:
        for pair, (count, cut) in sorted(total.pairs.items(), key=lambda item: -item[1][0]):
            print(f"{pair:40s} {count:6d} {cut:6d}")
    print("\n" + "\n".join(total.lines()))


if __name__ == "__main__":
    main()
