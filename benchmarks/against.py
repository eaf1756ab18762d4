"""Two commits side by side: is the new tree as quick as the old, and does a job cost it as much processor time?

Each side runs a benchmark of its own tree, as a process of its own: old, new, new, old, and so on, because a shared machine's speed
drifts. A round is one run of each. A ratio is new ÷ old, turned over where small is good, so that above 1 is always better; its 90 %
interval is that of the median, by resampling the rounds. The value is the lowest lower end over all figures of the benchmark.
Processor time is what the benchmark and all its descendants used, Redis and workers included, for the same number of jobs.

    python -m benchmarks.against overhead --old 00f5908 [--new REV] [--rounds 15]

Without ``--new`` the new side is the tree that this file lies in. ``decision_cost``, ``dispatch_rate`` and ``overhead`` can be compared.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import mean, median
from typing import Any

from benchmarks.result import finish

TREE = Path(__file__).resolve().parents[1]
RATIO_MIN = 0.93
CPU_RATIO_MAX = 1.03
RESAMPLES = 4000


@dataclass(frozen=True, slots=True)
class Comparison:
    """How one benchmark is run once, and which figures of its last line are compared."""

    arguments: tuple[str, ...]
    larger_is_better: tuple[str, ...] = ()
    smaller_is_better: tuple[str, ...] = ()


COMPARISONS = {
    "overhead": Comparison(  # one pair a run scatters by 40 %: it says nothing of 7 %
        ("--pairs", "3", "--jobs", "2000", "--samples", "60"),
        larger_is_better=("prefork_throughput_ratio", "threads_throughput_ratio"),
        smaller_is_better=("prefork_latency_p50_ratio", "threads_latency_p50_ratio"),
    ),
    "dispatch_rate": Comparison(("--runs", "1", "--jobs", "40000"), larger_is_better=("jobs_per_s",)),
    "decision_cost": Comparison(("--runs", "1"), smaller_is_better=("us_a_job", "tick_ms")),
}


def checkout(revision: str, folder: Path) -> Path:
    """The files of ``revision`` in ``folder``, without its history."""
    archive = subprocess.run(["git", "archive", revision], cwd=TREE, check=True, capture_output=True).stdout
    folder.mkdir()
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        files.extractall(folder, filter="data")
    return folder


def run_once(tree: Path, name: str, comparison: Comparison) -> dict[str, float]:
    """The benchmark's figures, and ``cpu_s``: processor seconds of it and of all processes it has waited for."""
    environ = {**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": ""}
    process = subprocess.Popen(
        [sys.executable, "-m", f"benchmarks.{name}", *comparison.arguments], cwd=tree, env=environ, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    printed = process.stdout.read()
    _, _, usage = os.wait4(process.pid, 0)
    process.returncode = 0  # it was waited for just now; a limit that a single short run misses is no failure here
    try:
        said: dict[str, Any] = json.loads(printed.strip().splitlines()[-1])
    except (IndexError, ValueError):
        raise SystemExit(f"{name} in {tree} did not end in a JSON line:\n{printed}") from None
    figures = {}
    for figure in (*comparison.larger_is_better, *comparison.smaller_is_better):
        value = said[figure]
        figures[figure] = mean(value.values()) if isinstance(value, dict) else float(value)
    return figures | {"cpu_s": usage.ru_utime + usage.ru_stime}


def interval(ratios: list[float]) -> tuple[float, float, float]:
    """(5 %, median, 95 %) of the median ratio, by resampling the rounds."""
    rng = Random(1)
    medians = sorted(median(rng.choices(ratios, k=len(ratios))) for _ in range(RESAMPLES))
    return medians[RESAMPLES // 20], median(ratios), medians[-RESAMPLES // 20]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("benchmark", choices=sorted(COMPARISONS))
    parser.add_argument("--old", required=True, help="a commit")
    parser.add_argument("--new", help="a commit; without it, this tree as it is")
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    comparison = COMPARISONS[options.benchmark]
    ratios: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="against-", dir="/tmp") as scratch:
        old = checkout(options.old, Path(scratch, "old"))
        new = checkout(options.new, Path(scratch, "new")) if options.new else TREE
        for number in range(options.rounds):
            sides = {"old": old, "new": new} if number % 2 == 0 else {"new": new, "old": old}
            figures = {side: run_once(tree, options.benchmark, comparison) for side, tree in sides.items()}
            for figure, value in figures["new"].items():
                ratio = value / figures["old"][figure]
                ratios.setdefault(figure, []).append(1 / ratio if figure in comparison.smaller_is_better else ratio)
            print(f"round {number + 1}: " + ", ".join(f"{figure} {values[-1]:.3f}" for figure, values in ratios.items()), flush=True)
    spans = {figure: interval(values) for figure, values in ratios.items()}
    for figure, (low, middle, high) in spans.items():
        print(f"{figure:28} {middle:.3f}  ({low:.3f} to {high:.3f})")
    value = min(low for figure, (low, _, _) in spans.items() if figure != "cpu_s")
    cpu_ratio = spans["cpu_s"][1]
    finish(
        f"against_{options.benchmark}", value=value, limit=RATIO_MIN, ok=value >= RATIO_MIN and cpu_ratio <= CPU_RATIO_MAX,
        runs=[min(values) for values in zip(*(ratios[figure] for figure in ratios if figure != "cpu_s"), strict=True)],
        cpu_ratio=round(cpu_ratio, 4), cpu_ratio_limit=CPU_RATIO_MAX, old=options.old, new=options.new or "this tree",
        intervals={figure: [round(number, 4) for number in span] for figure, span in spans.items()},
    )  # fmt: skip


if __name__ == "__main__":
    main()
