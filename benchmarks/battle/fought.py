"""One battle, from the first process to the verdict."""

from __future__ import annotations

import json
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import redis

from benchmarks.battle.downs import Down, downs_of
from benchmarks.battle.faults import AUTOSCALER_FAULTS, DISPATCHER_FAULTS, REDIS_FAULTS, Done, Kind, plan_faults
from benchmarks.battle.field import Exit, Field
from benchmarks.battle.fight import KEYS, Fighter, Life, Watcher
from benchmarks.battle.jobs import Producer, plan_jobs, plan_odd
from benchmarks.battle.ledger import Ledger
from benchmarks.battle.lines import Submitter
from benchmarks.battle.odd import OF_A_LINE, Ends, hits, read_ends, wrong_ends
from benchmarks.battle.verdict import Verdict, judge, percentile
from dispatcher.batches.submission import TASK as INFER
from dispatcher.settings import Settings

WORKERS = (("prefork1", "prefork", 3), ("prefork2", "prefork", 2), ("threads1", "threads", 4), ("solo1", "solo", 1), ("solo2", "solo", 1))
SCALED = 2
"""Workers that the autoscaler starts besides, at least; it counts all of them, so that it replaces any that dies."""
LIMIT_S = 7.0
"""What recovery may take, from a SIGKILL to the last lease back in line."""
READY_TIMEOUT_S = 120.0
ODD_ATTEMPTS_MAX = 4
"""Times that a job may kill its worker or process where some do so on purpose. No other is hit so often by chance."""
JOBS_OF = ("messages", "lanes", "scheduled", "lane:", "leases:", "taken:", "wq:", "dead_letters", "dead_reasons", "unsettled")
"""What keys of ours that may hold a job begin with, after the cell's name."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is fought. ``visibility_s``, of stock Celery: 0 is its default. ``others``: the faults besides kills; empty: drawn."""

    jobs: int
    kills: int
    seed: int
    kill_every_s: float
    quiet_s: float
    dispatched: bool = True
    visibility_s: float = 0.0
    workers: Sequence[tuple[str, str, int]] = WORKERS
    others: Sequence[Kind] = ()
    odd_share: float = 0.0
    """Part of the jobs that no worker can do."""

    @property
    def seconds(self) -> float:
        return max(10.0, self.kills * self.kill_every_s)


@dataclass(slots=True)
class Report:
    """What came of it. ``planned`` is every fault that was, ``faults`` what was done of them. ``in_line_ms``: from each SIGKILL of a worker
    to its last lease back in line, and whether a leader and Redis were there all the while. ``odd``: how many jobs of each kind no worker
    could do; ``wrong``: what became of them that must not, a sentence each.
    """

    plan: Plan
    verdict: Verdict
    planned: list[Kind]
    faults: list[Done]
    unsure: int
    dead: list[str]
    left: dict[str, int]
    exits: list[Exit]
    false_deaths: list[Life]
    in_line_ms: list[int] = field(default_factory=list)
    in_line_late_ms: list[int] = field(default_factory=list)
    seconds: float = 0.0
    folder: Path = Path()
    odd: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    downs: list[Down] = field(default_factory=list)

    @property
    def kills(self) -> int:
        return sum(fault.kind.is_kill for fault in self.faults)

    @property
    def skipped(self) -> Counter[Kind]:
        """Planned faults that found no target, or Redis still busy with another."""
        return Counter(self.planned) - Counter(fault.kind for fault in self.faults)

    @property
    def unproven(self) -> list[str]:
        """What was asked for, and neither done nor measured: without it, a battle that looks won says nothing."""
        # Plain Celery has neither dispatcher nor autoscaler to kill, and no leases whose recovery could be measured.
        nobody = set() if self.plan.dispatched else DISPATCHER_FAULTS | AUTOSCALER_FAULTS
        missed = sum(count for kind, count in self.skipped.items() if kind.is_kill and kind not in nobody)
        said = [f"{missed} of the {self.plan.kills} kills that were planned were not done"] if missed else []
        if self.plan.dispatched and Kind.KILL_WORKER in self.planned and not self.in_line_ms:
            said.append("no recovery of a killed worker's leases was measured while a dispatcher led and Redis answered")
        return said

    @property
    def late(self) -> bool:
        """Whether recovery took longer than it may."""
        return self.plan.dispatched and percentile(self.in_line_ms, 0.99) > LIMIT_S * 1000

    @property
    def ok(self) -> bool:
        won = self.verdict.ok and not self.dead and not self.left and not self.late and not self.unproven
        return won and not self.wrong and not any(down.is_wrong for down in self.downs if self.plan.odd_share)


def fight(plan: Plan, folder: Path | None = None) -> Report:
    """Fight it. Where it goes wrong the folder is left, with the log of every process, the ledger, the faults and the verdict."""
    folder = folder or Path(tempfile.mkdtemp(prefix=f"battle-{plan.seed}-", dir="/tmp"))
    folder.mkdir(parents=True, exist_ok=True)
    # A job may be hit three times by chance, with kills so dense; that is no reason to bury it here.
    field_ = Field(
        folder, dispatched=plan.dispatched, visibility_s=plan.visibility_s, drain_timeout_s=20,
        odd=bool(plan.odd_share), attempts_max=ODD_ATTEMPTS_MAX if plan.odd_share else 99,
        autoscaler_workers_min=len(plan.workers) + SCALED, autoscaler_workers_max=len(plan.workers) + SCALED + 1,
    )  # fmt: skip
    try:
        report = _fight(plan, field_, folder)
    finally:
        field_.end()
    report.folder = folder
    if report.ok:
        shutil.rmtree(folder, ignore_errors=True)
    return report


def _fight(plan: Plan, field_: Field, folder: Path) -> Report:
    rng = Random(plan.seed)
    units = plan_jobs(plan.jobs, rng)
    lines = 0
    if plan.odd_share:
        units, lines = plan_odd(units, plan.odd_share, Random(plan.seed))
    faults = plan_faults(plan.kills, plan.seconds, rng, lease_ttl_s=Settings().lease_ttl_s, others=plan.others)
    field_.start_servers()
    if plan.dispatched:
        field_.start_dispatcher("dispatcher1")
        field_.start_dispatcher("dispatcher2")
        field_.start_autoscaler()
    scaled = [] if plan.dispatched else [(f"scaled{number}", "prefork", 2) for number in range(SCALED)]
    for worker in (*plan.workers, *scaled):
        field_.start_worker(*worker)
    began = time.monotonic()
    ledger = Ledger(field_.ledger.url)
    producer = Producer(field_.broker.url, units, plan.seconds, Random(plan.seed))
    watcher = Watcher(field_.broker.url)
    fighter = Fighter(field_, faults)
    submitter = Submitter(field_.broker.url, folder, lines, plan.seconds, Random(plan.seed))
    _wait_until_ready(field_, len(plan.workers) + SCALED)
    watcher.start()
    producer.start()
    fighter.start()
    if lines:
        submitter.start()
    while producer.is_alive() or fighter.is_alive():
        producer.join(1.0)
        fighter.join(0.1)
        ledger.read()
        _raise_of(producer, fighter, watcher, submitter)
    odd = producer.expected.odd
    _wait_until_quiet(plan, field_, producer, ledger)
    submitter.finish()
    _wait_until_quiet(plan, field_, producer, ledger)
    _wait_until_back(plan, field_, watcher)
    watcher.stop()
    _raise_of(producer, fighter, watcher, submitter)
    ledger.read()
    ends = read_ends(field_.broker.url, KEYS, list(odd))
    with redis.Redis.from_url(field_.broker.url, decode_responses=True, encoding_errors="replace") as client:
        left = remains(client)
        kept = kept_ids(client)
    with redis.Redis.from_url(field_.ledger.url, decode_responses=True) as client:
        by_lines = [Done(Kind.LINE, at_ms, at_ms + 300, pids) for at_ms, pids in hits(client)]
    done = [*fighter.done, *by_lines]
    verdict = judge(producer.expected, ledger.runs, ledger.ended, done, kept=kept)
    lives = list(watcher.lives.values())
    dead = _unexpected(ends, {f"{task_id}:0" for task_id in odd} | producer.expected.unsure)
    if left == dict.fromkeys((KEYS.messages, KEYS.dead_letters, KEYS.dead_reasons), len(ends.letters)) and not dead:
        left = {}  # only dead letters that must be there
    killed = {pid for fault in by_lines for pid in fault.pids}
    exits = [exit_ for exit_ in field_.exits if exit_.pid not in killed or exit_.code != -signal.SIGKILL]
    report = Report(
        plan, verdict, [fault.kind for fault in faults], done, len(producer.expected.unsure),
        dead, left, exits, _false_deaths(lives, done), seconds=time.monotonic() - began,
        odd=Counter(odd.values()), wrong=wrong_ends(odd, ends) + submitter.wrong,
        downs=downs_of(field_.restarts, lives, done),
    )  # fmt: skip
    report.odd["line"] = lines
    _recoveries(report, lives)
    if not report.ok:
        _write_down(report, producer, ledger, folder, lives)
    return report


def _unexpected(ends: Ends, odd: Collection[str]) -> list[str]:
    """The dead letters of jobs that could have been done: of all but ``odd`` ones, and of chunks with lines that kill."""
    return [
        f"{task_id}: {reason} ({task})" for task_id, (reason, task) in ends.letters.items()
        if f"{task_id}:0" not in odd and not (task == INFER and reason in OF_A_LINE)
    ]  # fmt: skip


def _raise_of(*threads: Producer | Fighter | Watcher | Submitter) -> None:
    """A battle without one of them would be won by whoever is not looked at."""
    for thread in threads:
        if thread.error is not None:
            raise RuntimeError(f"the {thread.name} failed, not what it fights") from thread.error


def _wait_until_ready(field_: Field, workers: int) -> None:
    deadline = time.monotonic() + READY_TIMEOUT_S
    with redis.Redis.from_url(field_.broker.url) as client:
        while True:
            if field_.dispatched:
                ready = client.scard(KEYS.workers) >= workers and client.exists(KEYS.leader)
            else:
                ready = client.scard("_kombu.binding.celery.pidbox") >= workers
            if ready:
                return
            if time.monotonic() > deadline:
                raise TimeoutError(f"not ready within {READY_TIMEOUT_S} s: see the logs in {field_.folder}")
            time.sleep(0.1)


def _wait_until_quiet(plan: Plan, field_: Field, producer: Producer, ledger: Ledger) -> None:
    """Until every job has ended and nothing is left, or nothing has happened for ``quiet_s``."""
    wanted = producer.expected.after.keys() - producer.expected.unsure
    last, before = time.monotonic(), {}
    with redis.Redis.from_url(field_.broker.url, decode_responses=True, encoding_errors="replace") as client:
        while time.monotonic() < last + plan.quiet_s:
            if ledger.read():
                last = time.monotonic()
            left = remains(client)
            if left != before:  # jobs that no worker can do are not in the ledger
                last, before = time.monotonic(), left
            if plan.odd_share and _is_of_dead_letters(client, left):
                left = {}
            if wanted <= ledger.ended and not left:
                time.sleep(2.0)  # whoever was about to run something once more
                if not ledger.read():
                    return
            time.sleep(0.25)


def _wait_until_back(plan: Plan, field_: Field, watcher: Watcher) -> None:
    """Until every worker that was started again has registered, if it ever will."""
    deadline = time.monotonic() + (plan.quiet_s if plan.odd_share else 0)
    while time.monotonic() < deadline:
        there = {life.pid for life in list(watcher.lives.values())}
        if there.issuperset(field_.pid(name) for name, *_ in plan.workers):
            return
        time.sleep(0.25)


def _is_of_dead_letters(client: redis.Redis, left: dict[str, int]) -> bool:
    """True if dead letters are all that is left, and the sender of each was told."""
    sizes = {left.get(key, 0) for key in (KEYS.messages, KEYS.dead_letters, KEYS.dead_reasons)}
    return len(left) == 3 and len(sizes) == 1 and not client.exists(KEYS.unsettled)


def remains(client: redis.Redis) -> dict[str, int]:
    """Every place in Redis that may hold a job, and holds something: its size."""
    sizes = {"list": client.llen, "hash": client.hlen, "set": client.scard, "zset": client.zcard}
    held = {}
    for key in client.scan_iter(count=1000):
        ours = key.startswith("dispatch:") and key.removeprefix("dispatch:").startswith(JOBS_OF)
        if ours or key in {"dispatch", "unacked", "unacked_index"} or key.startswith("dispatch\x06"):
            held[key] = int(sizes.get(client.type(key), lambda _: 1)(key))
    return held


def kept_ids(client: redis.Redis) -> set[str]:
    """Task ids of the messages that Redis still has."""
    texts = [*client.hvals(KEYS.messages), *client.lrange("dispatch", 0, -1)]
    ids = {json.loads(text)["headers"]["id"] for text in texts}
    return ids | {json.loads(text)[0]["headers"]["id"] for text in client.hvals("unacked")}


def _false_deaths(lives: list[Life], faults: list[Done]) -> list[Life]:
    """Workers that were declared dead though nothing was done to them."""
    hit = {pid for fault in faults if fault.breaks_runs for pid in fault.pids}
    return [life for life in lives if life.ended == "silent" and life.pid not in hit]


def _recoveries(report: Report, lives: list[Life]) -> None:
    """Of each worker that was killed, had registered, and had not been frozen before."""
    by_pid = {life.pid: life for life in lives}
    # Lines kill so often that, with a kill, more than half of the workers may be silent at once: that takes a lease_ttl_s more.
    upset = [fault for fault in report.faults if fault.kind in DISPATCHER_FAULTS | REDIS_FAULTS | {Kind.LINE}]
    seen: set[int] = set()
    for fault in report.faults:
        for pid in fault.pids if fault.breaks_runs else ():
            life = by_pid.get(pid)
            if pid in seen or life is None or life.gone_ms is None or life.gone_ms < fault.at_ms:
                continue
            seen.add(pid)
            if not fault.kind.is_kill:
                continue
            alone = not any(
                other.at_ms <= life.gone_ms and other.until_ms + 3000 >= fault.at_ms for other in upset
            )
            (report.in_line_ms if alone else report.in_line_late_ms).append(life.gone_ms - fault.at_ms)


def _write_down(report: Report, producer: Producer, ledger: Ledger, folder: Path, lives: list[Life]) -> None:
    ledger.dump(folder / "ledger.txt")
    verdict = report.verdict
    with (folder / "verdict.txt").open("w") as file:
        print(" ".join(sys.argv), file=file)
        by_job: dict[str, list[Any]] = {}
        for run in ledger.runs:
            by_job.setdefault(run.job, []).append(run)
        for name in ("lost", "stuck", "outside", "inside", "unknown"):
            for job in getattr(verdict, name):
                print(name, job, *by_job.get(job, ()), sep="\n    ", file=file)
        for name in ("unproven", "skipped", "odd", "dead", "left", "exits", "false_deaths", "in_line_ms", "in_line_late_ms"):
            print(name, getattr(report, name), file=file)
        print(*report.wrong, *report.downs, sep="\n", file=file)
    (folder / "faults.txt").write_text("\n".join(
        f"{fault.at_ms} {fault.until_ms} {fault.kind.value} {fault.who} {fault.pids}" for fault in report.faults
    ))  # fmt: skip
    (folder / "lives.txt").write_text("\n".join(map(str, lives)))
    (folder / "failed_sends.txt").write_text("\n".join(f"{at * 1000:.0f} {what}" for at, what in producer.failures))
