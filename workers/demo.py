"""The demo, ``make demo``: a real embedding job on three unequal workers, one of which is killed half-way.

It embeds paragraphs of Python's language reference, counts that every line came out exactly once, and searches them.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
from collections import Counter
from dataclasses import dataclass, field
from operator import mul
from pathlib import Path
from textwrap import fill
from typing import Any, Final

import msgspec
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dispatcher.batches import Progress, Summary, submit_file
from dispatcher.clock import SystemClock
from dispatcher.errors import DispatcherError, Unavailable
from dispatcher.provision.base import WorkerKind
from dispatcher.provision.local_cluster import LocalCluster, LocalWorker
from dispatcher.settings import Settings
from dispatcher.store.operator.status import ENDED
from dispatcher.store.redis_client.connection import celery_url
from workers.app import make_app
from workers.corpus import Paragraph, paragraphs, write_batch
from workers.runtimes import RUNTIMES, Runtime, minilm_weights

PARAGRAPHS: Final = 600
QUESTION: Final = "how are default arguments evaluated?"
SLOTS: Final = {"large": 2, "small": 1, "doomed": 1}
"""Worker → concurrency; the one that is killed has a name that says so."""
CHUNK_TOKENS: Final = 512
"""Small chunks, so that a run of half a minute has jobs enough to share out."""

console = Console(highlight=False, soft_wrap=True)
clock = SystemClock()


@dataclass
class MidwayKill:
    """Kills one worker when half the lines are done, and measures how soon its jobs are back in line."""

    cluster: LocalCluster
    victim: str
    held: int | None = None
    """Jobs that it held when it was killed; ``None`` before."""
    done_before: int = 0
    """Chunks that were done by then."""
    recovery_s: float | None = None
    _watch: threading.Thread | None = field(default=None, repr=False)

    def __call__(self, progress: Progress) -> None:
        if self.held is None and progress.done * 2 >= progress.lines:
            self.held = self._leased() or 0
            self.done_before = sum(share.chunks for share in progress.by_worker.values())
            self.cluster.kill(self.victim)
            self._watch = threading.Thread(target=self._measure, args=(clock.monotonic_ms(),), daemon=True)
            self._watch.start()
            console.print(f"{progress.done} of {progress.lines} lines done: [bold]killed worker {self.victim}[/] with SIGKILL; "
                          f"it held {self.held} jobs")

    def wait(self) -> None:
        """Until the measurement is done; short, for the submission waited for the same jobs."""
        if self._watch is not None:
            self._watch.join(timeout=30)

    def _measure(self, killed_at_ms: int) -> None:
        while self._leased():
            clock.sleep(0.05)
        self.recovery_s = (clock.monotonic_ms() - killed_at_ms) / 1000

    def _leased(self) -> int | None:
        """Jobs that the victim holds; ``None`` when the dispatcher no longer counts it among the living."""
        for worker in self.cluster.status()["workers"]:
            if short(worker["name"]) == self.victim and worker["state"] not in ENDED:
                return int(worker["leased"])
        return None


def short(name: str) -> str:
    """A node name without its host."""
    return name.partition("@")[0]


def choose_model() -> tuple[str, Runtime]:
    """The real encoder where it can be had, else the lexical encoder; the console says which."""
    try:
        if not minilm_weights.present():
            console.print("fetching the weights of all-MiniLM-L6-v2 (84 MB, once) …")
            minilm_weights.fetch(timeout_s=120)
        return "minilm", loaded("minilm")
    except DispatcherError as problem:
        console.print(f"[yellow]all-MiniLM-L6-v2 is not to be had: {escape(str(problem))}[/]")
        console.print("[yellow]Using hash-384 instead. It compares letters, not meaning. No neural model runs.[/]")
        return "hash-384", loaded("hash-384")


def loaded(model: str) -> Runtime:
    """The model, for this process alone."""
    runtime = RUNTIMES[model]()
    runtime.load()
    return runtime


def count_lines(summary: Summary, texts: list[Paragraph]) -> dict[str, list[float]]:
    """custom_id → vector. Prints the count, and raises :class:`Unavailable` unless every line came out exactly once."""
    seen: Counter[str] = Counter()
    vectors: dict[str, list[float]] = {}
    for path in filter(None, (summary.out, summary.errors)):
        for raw in path.read_bytes().splitlines():
            line: dict[str, Any] = msgspec.json.decode(raw)
            seen[line["custom_id"]] += 1
            if path == summary.out:
                vectors[line["custom_id"]] = line["response"]["body"]["data"][0]["embedding"]
    missing = sum(1 for paragraph in texts if paragraph.name not in seen)
    repeated = sum(1 for count in seen.values() if count > 1)
    failed = len(texts) - missing - len(vectors)
    console.print(f"{len(texts)} lines in, {seen.total()} lines out: {missing} missing, {repeated} repeated, {failed} failed")
    if missing or repeated or failed or seen.total() != len(texts):
        raise Unavailable("not every line came out exactly once: that is a bug in the dispatcher, please report it")
    return vectors


def shares(progress: Progress, workers: list[LocalWorker], kill: MidwayKill) -> Table:
    """Who did what, beside what the capacities (weight × concurrency) say; the killed one counts while it lived."""
    capacity = {short(worker.name): worker.weight * worker.concurrency for worker in workers}
    total = sum(share.chunks for share in progress.by_worker.values())
    done = {short(name): share for name, share in progress.by_worker.items()}
    table = Table("worker", "weight", "slots", "jobs done", "expected", "had", "seconds busy", box=SIMPLE_HEAD, pad_edge=False)
    table.columns[0].no_wrap = True
    for column in table.columns[1:]:
        column.justify = "right"
    for worker in workers:
        name = short(worker.name)
        expected = kill.done_before * capacity[name] / sum(capacity.values())
        if name != kill.victim:
            expected += (total - kill.done_before) * capacity[name] / (sum(capacity.values()) - capacity[kill.victim])
        mine = done.get(name)
        table.add_row(f"{name}, killed" if name == kill.victim else name, f"{worker.weight:g}", str(worker.concurrency),
                      str(mine.chunks if mine else 0), f"{expected / total:.0%}", f"{(mine.chunks if mine else 0) / total:.0%}",
                      f"{(mine.busy_ms if mine else 0) / 1000:.1f}")
    return table


def search(
    question: str, runtime: Runtime, texts: list[Paragraph], vectors: dict[str, list[float]]
) -> list[tuple[float, Paragraph]]:
    """The three paragraphs whose vectors are nearest to the question's."""
    (answer,) = runtime.run([{"input": question}])
    if not isinstance(answer, dict):
        raise answer
    wanted = answer["data"][0]["embedding"]
    scored = [(sum(map(mul, wanted, vectors[text.name])), text) for text in texts]
    return sorted(scored, key=lambda pair: -pair[0])[:3]


def run(texts: list[Paragraph], question: str, folder: Path) -> None:
    """Everything between the arguments and the exit code."""
    model, runtime = choose_model()
    batch = folder / "paragraphs.jsonl"
    write_batch(batch, texts, model)
    console.print(f"{len(texts)} paragraphs of Python's language reference, model [bold]{model}[/]; starting a cluster …")
    fleet = [WorkerKind(name, concurrency=slots, models=(model,)) for name, slots in SLOTS.items()]
    with LocalCluster(fleet) as cluster:
        workers = cluster.workers
        for worker in workers:
            slots = "1 slot" if worker.concurrency == 1 else f"{worker.concurrency} slots"
            console.print(f"  {worker.name}: pid {worker.pid}, {slots}, weight {worker.weight:g}")
        url = celery_url(cluster.redis_url)
        settings = Settings(redis_url=cluster.redis_url, chunk_tokens_max=CHUNK_TOKENS)
        kill = MidwayKill(cluster, "doomed")
        summary = submit_file(make_app(settings, url), batch, folder / "vectors.jsonl", progress=kill, settings=settings)
        kill.wait()
        vectors = count_lines(summary, texts)
        console.print(shares(summary.progress, workers, kill))
    jobs = summary.progress.chunks
    recovery = f"{kill.recovery_s:.1f} s" if kill.recovery_s is not None else "not seen"
    console.print(f"recovery: {recovery} from SIGKILL until the {kill.held} jobs were back in line")
    console.print(f"{jobs} jobs (chunks of paragraphs) in {summary.elapsed_s:.1f} s: {jobs / summary.elapsed_s:.1f} jobs/s, "
                  f"{len(texts) / summary.elapsed_s:.0f} paragraphs/s")
    console.print(f"\n[bold]{escape(question)}[/]" + (" (lexical search)" if model == "hash-384" else ""))
    for place, (score, text) in enumerate(search(question, runtime, texts, vectors), start=1):
        line = f"{place}. {score:.3f}  ({text.topic}) {text.text}"
        console.print(escape(fill(line, width=100, initial_indent="  ", subsequent_indent="     ")))


def main(arguments: list[str] | None = None) -> int:
    """0 when every line came out exactly once, 1 when not, 2 for bad use."""
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--ask", default=QUESTION, metavar="QUESTION", help="what to search for (default: %(default)s)")
    parser.add_argument("--paragraphs", type=int, default=PARAGRAPHS, metavar="N", help="how many to embed (default: %(default)s)")
    parser.add_argument("--all", action="store_true", help="embed all of them")
    options = parser.parse_args(arguments)
    if options.paragraphs < 1:
        parser.error("--paragraphs must be at least 1")
    try:
        with tempfile.TemporaryDirectory(prefix="dispatcher-demo-") as folder:
            run(paragraphs(None if options.all else options.paragraphs), options.ask, Path(folder))
    except DispatcherError as problem:
        console.print(f"[red]{escape(str(problem))}[/]")
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
