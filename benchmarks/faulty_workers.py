"""How soon a faulty worker is routed around, and how many jobs it harms meanwhile, with the default settings.

Four Celery workers (threads, four slots each) get 50 jobs/s of 200 ms. After a while one of them has a fault, one of four: it *fails*
every job at once; it is ten times *slower* than it was; its event loop *hangs* for 15 s; its *model* has to be loaded again, and half a
second later that fails. For each: the time from the fault to the last job that was sent and still went to that worker, in the 20 s
after the fault; jobs harmed, which are those that failed and those that took over a second longer than their work; and jobs lost, which
are those that neither ended well nor failed, once all is quiet. The value is the longest of the four times. A fault runs alone, on
fresh processes and a Redis of its own.

    python -m benchmarks.faulty_workers [--faults fails,slow,hangs,model] [--before 15] [--after 20]
"""

from __future__ import annotations

import argparse
import threading
import time
from dataclasses import dataclass

from benchmarks.cluster import WorkerSpec, celery_broker, fleet, outstanding, wait_for
from benchmarks.private_redis import private_redis
from benchmarks.result import finish
from dispatcher.store.redis_client.connection import connect

LIMIT_S = 10.0
FAULTS = ("fails", "slow", "hangs", "model")
HANG_S = 15
RATE = 50.0
WORK_S = 0.2
LATE_S = 1.0
WORKERS = [WorkerSpec(f"w{number}", 4, "threads") for number in range(4)]
FAULTY = "w2"


@dataclass(frozen=True, slots=True)
class Job:
    """One run of a job, as its worker saw it."""

    number: int
    worker: str
    sent_at: float
    ended_at: float
    failed: bool


def send(url: str, seconds: float, fault_at_s: float, fault: str) -> tuple[int, float]:
    """Send at an even pace; how many, and when the fault began."""
    from benchmarks.app import app

    client = connect(url)
    began = time.time()
    fault_at = 0.0
    count = int(seconds * RATE)
    with app.connection_for_write(url=celery_broker(url)) as connection:
        for number in range(count):
            due = began + number / RATE
            if not fault_at and due >= began + fault_at_s:
                fault_at = time.time()
                client.set(f"bench:fault:{FAULTY}", f"{fault} {HANG_S}")
            if (rest := due - time.time()) > 0:
                time.sleep(rest)
            app.send_task("bench.faulty", args=(number, time.time(), WORK_S), connection=connection)
    return count, fault_at


def measure(fault: str, before_s: float, after_s: float) -> dict[str, float]:
    """One fault on a fresh fleet."""
    with private_redis() as url, fleet(url, WORKERS, dispatched=True):
        client = connect(url)
        seen: set[str] = set()
        stop = threading.Event()
        watcher = threading.Thread(target=watch, args=(url, seen, stop), daemon=True)
        watcher.start()
        sent, fault_at = send(url, before_s + after_s, before_s, fault)
        client.delete(f"bench:fault:{FAULTY}")
        wait_for(lambda: outstanding(url) == 0, 60, 0.05)
        stop.set()
        watcher.join()
        lines = [line.split() for line in client.lrange("bench:faulty", 0, -1)]
    jobs = [Job(int(n), worker, float(at), float(end), how == "failed") for n, worker, at, _, end, how in lines]
    there = [job.sent_at for job in jobs if job.worker == FAULTY and job.sent_at >= fault_at]
    late = [job for job in jobs if not job.failed and job.ended_at - job.sent_at > WORK_S + LATE_S]
    return {
        "routed_around_s": max(there, default=fault_at) - fault_at,
        "failed": sum(job.failed for job in jobs),
        "late": len(late),
        "lost": sent - len({job.number for job in jobs}),
        "sent_after": sum(job.sent_at >= fault_at for job in jobs),
        "ejected_others": len(seen - {FAULTY}),
    }


def watch(url: str, seen: set[str], stop: threading.Event) -> None:
    """Who is ejected, by name."""
    from dispatcher.store.keys import Keys
    from dispatcher.store.operator.admin_store import AdminStore

    admin = AdminStore(connect(url), Keys(), ("dispatch",))
    while not stop.wait(0.5):
        seen |= {worker["name"].partition("@")[0] for worker in admin.status()["workers"] if worker["state"] == "ejected"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--faults", default=",".join(FAULTS))
    parser.add_argument("--before", type=float, default=15.0, help="seconds of load before the fault")
    parser.add_argument("--after", type=float, default=20.0, help="seconds of load from the fault on")
    options = parser.parse_args()
    by_fault: dict[str, dict[str, float]] = {}
    for fault in options.faults.split(","):
        figures = by_fault[fault] = measure(fault, options.before, options.after)
        print(
            f"{fault:6} routed around after {figures['routed_around_s']:5.2f} s; of {figures['sent_after']:.0f} jobs "
            f"{figures['failed']:.0f} failed and {figures['late']:.0f} were late; {figures['lost']:.0f} lost; "
            f"{figures['ejected_others']:.0f} healthy workers ejected",
            flush=True,
        )
    times = [figures["routed_around_s"] for figures in by_fault.values()]
    ok = max(times) <= LIMIT_S and not any(figures["lost"] for figures in by_fault.values())
    table = {fault: {name: round(value, 2) for name, value in figures.items()} for fault, figures in by_fault.items()}
    finish("faulty_workers", value=max(times), limit=LIMIT_S, ok=ok, runs=times, faults=table)


if __name__ == "__main__":
    main()
