"""The pop window: a job that Redis has handed to a worker which never reads it.

A worker stands idle at its queue and is frozen (SIGSTOP). A job is sent; Redis pops it into the frozen worker's socket. The worker is
killed (SIGKILL) and started again. With the dispatcher, at its default settings, what was popped is the id of a lease, and the job starts
on another worker once the dead one's silence is noticed: the value is the longest time from the kill to that start. Plain Celery, with
``acks_late`` and ``reject_on_worker_lost``, popped the message itself, and writes it to ``unacked`` only when it has read it: afterwards
no key of Redis holds the job, so that no visibility timeout can bring it back. It counts as lost there if it has not begun 15 s after the
kill and its id is in no key.

    python -m benchmarks.pop_window [--repeats 3]
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import redis
from celery import Celery

from benchmarks.battle.field import Field, send, send_group
from benchmarks.battle.ledger import Ledger
from benchmarks.cluster import wait_for
from benchmarks.result import finish
from dispatcher.store.keys import Keys
from dispatcher.store.redis_client.connection import celery_url, connect

LIMIT_S = 6.0
GIVE_UP_S = 15.0
TRIES = 50
KEYS = Keys()


@contextmanager
def cell(*, dispatched: bool) -> Iterator[Field]:
    """Two Redis servers, and perhaps a dispatcher; no worker yet."""
    folder = Path(tempfile.mkdtemp(prefix="pop-window-", dir="/tmp"))
    field = Field(folder, dispatched=dispatched)
    try:
        field.start_servers()
        if dispatched:
            field.start_dispatcher("dispatcher1")
        yield field
    finally:
        field.end()
        shutil.rmtree(folder, ignore_errors=True)


class Stage:
    """What both halves do: send, wait for a start, freeze the worker with a job in its socket."""

    def __init__(self, field: Field) -> None:
        self.field = field
        self.client: redis.Redis = connect(field.broker.url)
        self.ledger = Ledger(field.ledger.url)
        self._producer = Celery("producer", broker=celery_url(field.broker.url), set_as_current=False)
        self._producer.conf.task_default_queue = "dispatch"

    def send(self) -> str:
        return str(self._producer.send_task("battle.noop", ignore_result=True).id)

    def started_ms(self, job: str) -> int | None:
        self.ledger.read()
        return next((run.started_ms for run in self.ledger.runs if run.job == f"{job}:0"), None)

    def ran(self, job: str) -> bool:
        return self.started_ms(job) is not None

    def pop_into_frozen(self, is_idle: Callable[[], bool], reached: Callable[[], bool], popped: Callable[[], bool]) -> str:
        """Freeze worker ``first`` so that the next job is popped by it and not read; the job. The worker stays frozen.

        ``is_idle``: it owes nothing. ``reached``: Redis gave the job to it, or would. ``popped``: it is in its socket.
        """
        for _ in range(TRIES):
            wait_for(is_idle, 60)
            pid = self.field.pid("first")
            send_group(pid, signal.SIGSTOP)
            job = self.send()
            wait_for(reached, 30)
            if popped():
                return job
            send_group(pid, signal.SIGCONT)  # it was frozen while not at its queue
            wait_for(lambda job=job: self.ran(job), 30)
        raise TimeoutError("it was never waiting at its queue")

    def kill(self) -> int:
        """SIGKILL the frozen worker; when."""
        pid = self.field.pid("first")
        at_ms = self.ledger.now_ms()
        self.field.may_end(pid, -signal.SIGKILL)
        send(pid, signal.SIGKILL)
        return at_ms


def dispatched(repeats: int) -> list[float]:
    """Seconds from each kill to the job's start."""
    times = []
    with cell(dispatched=True) as field:
        stage = Stage(field)
        client = stage.client
        for name in ("first", "second"):
            field.start_worker(name, "prefork", 1)

        def epoch_of(name: str) -> str | None:
            for epoch in client.smembers(KEYS.workers):
                text = client.hget(KEYS.worker(epoch), "registration")
                if text and json.loads(text)["pid"] == field.pid(name):
                    return str(epoch)
            return None

        for _ in range(repeats):
            wait_for(lambda: epoch_of("first") is not None and epoch_of("second") is not None, 60)
            first, second = epoch_of("first"), epoch_of("second")
            assert first is not None
            assert second is not None
            # The other worker is to have the job only when the first one has died with it.
            client.hset(KEYS.worker(second), "draining", "keep")
            wait_for(lambda second=second: client.hlen(KEYS.leases(second)) == 0, 30)
            job = stage.pop_into_frozen(
                lambda first=first: client.hlen(KEYS.leases(first)) == 0,
                lambda first=first: client.hlen(KEYS.leases(first)) == 1,
                lambda first=first: client.llen(KEYS.worker_queue(first)) == 0,
            )
            assert client.hlen(KEYS.taken(first)) == 0
            client.hdel(KEYS.worker(second), "draining")
            killed_at_ms = stage.kill()
            wait_for(lambda job=job: stage.ran(job), 60)
            times.append(((stage.started_ms(job) or 0) - killed_at_ms) / 1000)
            print(f"dispatcher: started elsewhere {times[-1]:.2f} s after the kill", flush=True)
    return times


def plain(repeats: int) -> int:
    """How many jobs were lost."""
    lost = 0
    with cell(dispatched=False) as field:
        stage = Stage(field)
        field.start_worker("first", "prefork", 1)
        wait_for(lambda: stage.client.scard("_kombu.binding.celery.pidbox") == 1, 60)
        warm = stage.send()
        wait_for(lambda: stage.ran(warm), 60)
        for _ in range(repeats):
            job = stage.pop_into_frozen(
                lambda: stage.client.llen("dispatch") == 0 and stage.client.hlen("unacked") == 0,
                lambda: True,
                lambda: stage.client.llen("dispatch") == 0,
            )
            stage.kill()
            try:
                wait_for(lambda job=job: stage.ran(job), GIVE_UP_S, 0.05)
            except TimeoutError:
                held = holders(stage.client, job)
                lost += not held
                print(f"Celery: not begun {GIVE_UP_S:.0f} s after the kill; keys that hold it: {', '.join(held) or 'none'}", flush=True)
            warm = stage.send()
            wait_for(lambda warm=warm: stage.ran(warm), 60)  # its successor is up
    return lost


def holders(client: redis.Redis, job: str) -> list[str]:
    """Keys whose value, whatever its type, names the job."""
    holders = []
    for key in client.scan_iter(count=1000):
        kind = client.type(key)
        if kind == "list":
            texts = client.lrange(key, 0, -1)
        elif kind == "hash":
            texts = [text for pair in client.hgetall(key).items() for text in pair]
        elif kind == "set":
            texts = list(client.smembers(key))
        elif kind == "zset":
            texts = client.zrange(key, 0, -1)
        else:
            texts = [client.get(key) or ""]
        holders += [key] if any(job in text for text in texts) else []
    return holders


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    times = dispatched(args.repeats)
    lost = plain(args.repeats)
    print(f"of {args.repeats} jobs each: the dispatcher lost 0, plain Celery {lost}")
    finish(
        "pop_window", value=max(times), limit=LIMIT_S, ok=max(times) <= LIMIT_S and lost == args.repeats, runs=times, celery_lost=lost
    )


if __name__ == "__main__":
    main()
