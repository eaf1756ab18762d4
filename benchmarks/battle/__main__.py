"""A battle: real processes, seeded faults, and an independent ledger that says what became of every job.

A cell of two dispatchers, an autoscaler and seven or eight workers (prefork, threads, solo) over one Redis with an append-only file gets
plain Celery jobs: most do nothing, some sleep, some retry, some are chords. Meanwhile processes are killed (SIGKILL of workers, of single
pool processes, of the leading dispatcher, of the autoscaler with its workers), told to end, and frozen, for shorter and longer than a
lease lives; Redis is restarted, killed and frozen, and all connections are cut. What dies is started again. Every run of a task is written
to a ledger, a Redis of its own, by the process that runs it.

The verdict: *lost* (sent, never ended, gone), *stuck* (never ended, still in Redis), *run again inside* (the worker of each run but the
last was killed, or frozen for longer than a lease lives, before Redis can have known that it had ended) or *outside* such a window, and
what is left in Redis when all is quiet. *Back in line* is from a SIGKILL of a worker to the last of its leases back in its lane; the
value is its p99, over the kills during which a dispatcher led and Redis answered; *started again* is from the kill to the next start of a
job that was cut short, whatever else went on. Exit code 1 where a job was lost, is stuck, ran again outside a window or is a dead letter,
anything is left, the value is over its limit, or nothing was proven: fewer kills than planned, or no recovery measured; then the folder
that is named keeps the log of every process, the ledger, the faults and the runs in question. Exit code 2 where that folder, which each
battle gets one of its own in, is not empty before.

``--vs-celery`` fights the same jobs and faults on plain Celery with ``acks_late`` and ``reject_on_worker_lost`` beside it, once with its
default visibility timeout of an hour and once with one of 30 s, ten times the longest job, swept every second; those of the faults that
hit dispatchers and autoscaler find nobody there.

With ``--odd-share 0.01`` one job in a hundred is one that no worker can do (``odd.py``): its arguments cannot be handed to the pool, the
process that reads it dies, its body cannot be decoded, its sender is to be told by ``rpc://``, or it is a line of a batch that kills its
worker. Each must become a dead letter of the right reason, and its sender must be told; all other lines have answers; and no worker is down
for longer than its restart takes.

    python -m benchmarks.battle [--jobs 200000] [--kills 200] [--seed 1] [--odd-share 0.01] [--vs-celery] [--folder DIR]
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.battle.fought import LIMIT_S, Plan, Report, fight
from benchmarks.battle.jobs import NAP_MAX_S
from benchmarks.battle.verdict import percentile

SCALED_S = 10 * NAP_MAX_S


def seconds(values: Sequence[int], share: float) -> str:
    return f"{percentile(values, share) / 1000:.1f} s" if values else "-"


def table(reports: dict[str, Report]) -> str:
    rows = {
        "jobs": lambda r: r.verdict.expected,
        "kills": lambda r: r.kills,
        "other faults": lambda r: len(r.faults) - r.kills,
        "skipped faults": lambda r: r.skipped.total(),
        "lost": lambda r: len(r.verdict.lost),
        "stuck": lambda r: len(r.verdict.stuck),
        "run again outside a window": lambda r: len(r.verdict.outside),
        "run again inside one": lambda r: len(r.verdict.inside),
        "dead letters that must not be": lambda r: len(r.dead),
        "jobs that no worker can do": lambda r: ", ".join(f"{count} {kind}" for kind, count in sorted(r.odd.items()) if count) or 0,
        "  ended otherwise than they must": lambda r: len(r.wrong),
        "left in Redis": lambda r: sum(r.left.values()),
        "recoveries measured": lambda r: len(r.in_line_ms),
        "back in line p50": lambda r: seconds(r.in_line_ms, 0.5),
        "back in line p99": lambda r: seconds(r.in_line_ms, 0.99),
        "  with leader or Redis away p99": lambda r: seconds(r.in_line_late_ms, 0.99),
        "started again p50": lambda r: seconds(r.verdict.restarts_ms, 0.5),
        "started again p99": lambda r: seconds(r.verdict.restarts_ms, 0.99),
        "workers started again": lambda r: len(r.downs),
        "  down p50, most": lambda r: f"{seconds([d.down_ms for d in r.downs], 0.5)}, {seconds([d.down_ms for d in r.downs], 1.0)}",
        "  down for longer than a restart": lambda r: sum(down.is_wrong for down in r.downs),
        "processes that ended untouched": lambda r: len(r.exits),
        "declared dead untouched": lambda r: len(r.false_deaths),
        "sends that failed": lambda r: r.unsure,
        "took": lambda r: f"{r.seconds:.0f} s",
    }
    lines = [f"{'':34}" + "".join(f"{name:>26}" for name in reports)]
    lines += [f"{label:34}" + "".join(f"{show(report)!s:>26}" for report in reports.values()) for label, show in rows.items()]
    return "\n".join(lines)


def folder_of(name: str, folder: Path | None) -> Path | None:
    """Each battle's own: a Redis that found another one's append-only file would begin with its jobs."""
    return folder and folder / name.replace(",", "").replace(" ", "-")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.battle", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--jobs", type=int, default=200_000, help="messages to send")
    parser.add_argument("--kills", type=int, default=200, help="SIGKILLs; two other faults come with five of them")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--odd-share", type=float, default=0.0, metavar="PART", help="of the jobs, those that no worker can do")
    parser.add_argument("--kill-every", type=float, default=5.5, metavar="S", help="mean time between kills")
    parser.add_argument("--quiet", type=float, default=60.0, metavar="S", help="give up when nothing has happened for so long")
    parser.add_argument("--vs-celery", action="store_true", help="the same over plain Celery, with two visibility timeouts")
    parser.add_argument("--only-celery", type=float, metavar="S", help="plain Celery alone, with that visibility timeout")
    parser.add_argument("--folder", type=Path, help="for logs and data; a temporary one otherwise, left where something goes wrong")
    args = parser.parse_args()
    if args.odd_share and (args.vs_celery or args.only_celery is not None):
        parser.exit(2, "--odd-share is for the dispatcher alone: plain Celery would be stopped by the first such job.\n")
    args.folder = args.folder and args.folder.absolute()  # the processes of the battle have working folders of their own
    if args.folder and args.folder.exists() and not (args.folder.is_dir() and not any(args.folder.iterdir())):
        parser.exit(2, f"{args.folder} is not an empty folder: name one that is, or that does not exist yet.\n")
    plan = Plan(args.jobs, args.kills, args.seed, args.kill_every, args.quiet, odd_share=args.odd_share)
    scaled = f"Celery, {SCALED_S:.0f} s visible"
    plans = {"dispatcher": plan}
    if args.only_celery is not None:
        plans = {f"Celery, {args.only_celery:.0f} s visible": replace(plan, dispatched=False, visibility_s=args.only_celery)}
    if args.vs_celery:
        plans["Celery, defaults"] = replace(plan, dispatched=False)
        plans[scaled] = replace(plan, dispatched=False, visibility_s=SCALED_S, quiet_s=max(plan.quiet_s, 2 * SCALED_S))
    reports: dict[str, Report] = {}
    for name, chosen in plans.items():
        reports[name] = report = fight(chosen, folder_of(name, args.folder))
        done = Counter(fault.kind.value for fault in report.faults)
        print(f"{name}: " + ", ".join(f"{count} × {kind}" for kind, count in done.most_common()), flush=True)
        if report.skipped:
            skipped = ", ".join(f"{count} × {kind.value}" for kind, count in report.skipped.most_common())
            print(f"{name}: skipped, for there was no target, or Redis was away: {skipped}", flush=True)
        for what in report.unproven:
            print(f"{name}: {what}", flush=True)
        if not report.ok:
            print(f"{name}: what went wrong is in {report.folder}", flush=True)
        for sentence in report.wrong[:10]:
            print(f"{name}: {sentence}", flush=True)
        for exit_ in report.exits[:10]:
            print(f"{name}: {exit_.name} ended with {exit_.code}, and nothing had been done to it", flush=True)
    print(table(reports), flush=True)
    first = next(iter(reports.values()))
    value = round(percentile(first.in_line_ms, 0.99) / 1000, 3) if first.in_line_ms else None
    verdict = first.verdict
    print(json.dumps({
        "name": "battle", "value": value, "limit": LIMIT_S, "ok": first.ok,
        "runs": [round(ms / 1000, 3) for ms in sorted(first.in_line_ms)],
        "jobs": verdict.expected, "kills": first.kills, "faults": len(first.faults), "skipped": first.skipped.total(), "seed": args.seed,
        "lost": len(verdict.lost), "stuck": len(verdict.stuck), "again_outside": len(verdict.outside), "again_inside": len(verdict.inside),
        "odd": first.odd, "odd_wrong": len(first.wrong), "down_too_long": sum(down.is_wrong for down in first.downs),
    }))  # fmt: skip
    sys.exit(0 if first.ok else 1)


if __name__ == "__main__":
    main()
