"""What an operator does to a cell: look, drain, pause, release, purge, see to dead letters. No leader is needed for any of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import redis

from dispatcher.clock import Clock, SystemClock
from dispatcher.core.facts.lane import parse_lane
from dispatcher.core.facts.message import headers_of
from dispatcher.core.facts.snapshot import ALL_QUEUES
from dispatcher.core.returns.ending import GiveBack
from dispatcher.errors import Invalid, Unavailable
from dispatcher.store.frame import Entry, parse_entry, read_record, story_of
from dispatcher.store.keys import Keys, text_names
from dispatcher.store.leader.rollout_store import RolloutStore
from dispatcher.store.operator.status import lane_ingress, read_status
from dispatcher.store.scripts.sources import Scripts
from dispatcher.store.worker.worker_store import giveback

CALL_MAX = 500
"""Jobs that one script call moves at most."""

PURGE_CALL_MAX = 100
"""As :data:`CALL_MAX`, for calls that read the messages too."""

MESSAGE_READ_BYTES_MAX = 1024 * 1024
"""A dead letter's message above this is not read for its task id."""

RELEASE_TIMEOUT_S = 60.0
QUIET_S = 0.5
"""Nothing new may turn up for this long before a release is over: a dispatcher that looked before the pause acts within it."""



@dataclass(frozen=True, slots=True)
class Released:
    """What a release moved. ``running`` jobs stay with their workers: they have been started."""

    jobs: int
    recalled: int
    running: int


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A job that was refused, or given up. ``died_s_ago`` by Redis' clock. ``story``: of each run that ended with its worker or process,
    ``worker``, ``epoch``, ``how``, ``alone``, and when it began and ended.
    """

    job: str
    reason: str
    detail: str
    task: str | None
    task_id: str | None
    ingress: str | None
    died_s_ago: float
    story: list[dict[str, Any]] = field(default_factory=list)


class AdminStore:
    """The operator's store of one cell. ``client`` answers with text (:func:`~dispatcher.store.redis_client.connection.connect`)."""

    def __init__(self, client: redis.Redis, keys: Keys, queues: Sequence[str] = (), clock: Clock | None = None) -> None:
        """``queues``: ingress queues to count besides those that workers named."""
        self.keys = keys
        self._client = client
        self._run = Scripts(client)
        self._queues = tuple(queues)
        self._clock = clock or SystemClock()

    def status(self) -> dict[str, Any]:
        """The cell now, as ``dispatcher status --json`` prints it."""
        return read_status(self._client, self._run, self.keys, self._queues)

    def rollouts(self) -> RolloutStore:
        """The aliases of the cell, as an operator reads and changes them."""
        return RolloutStore(self._client, self.keys)

    # -- workers

    def drain(self, worker: str, *, keep: bool = False) -> str:
        """Give the worker nothing new; it finishes what it runs and exits, or stays where ``keep``. Returns its node name.

        Raises :class:`Invalid` if no such worker lives, or where it is to stay and exits already.
        """
        return self._drain(worker, "keep" if keep else "exit")

    def undrain(self, worker: str) -> str:
        """Take back a drain with ``keep``. Raises :class:`Invalid` for a worker that exits, and where none of that name lives."""
        return self._drain(worker, "")

    def _drain(self, worker: str, mode: str) -> str:
        keys = self.keys
        live: dict[str, str] = {one["epoch"]: one["name"] for one in self.status()["workers"] if one["state"] != "dead"}
        epochs = [epoch for epoch, name in live.items() if worker in (name, epoch)]
        epochs = epochs or [epoch for epoch, name in live.items() if name.partition("@")[0] == worker]
        names = sorted({live[epoch] for epoch in epochs})
        if len(names) > 1:
            raise Invalid(f"{worker!r} may be {' or '.join(names)}: write the whole name")
        drained = [self._run("drain_worker", [keys.alive(e), keys.worker(e), keys.wake], [mode]) for e in epochs]
        if not any(drained):
            raise Invalid(f"no worker {worker!r} lives: there are {', '.join(sorted(set(live.values()))) or 'none'}")
        if max(drained) < 0:
            raise Invalid(f"{names[0]} is about to exit, and that cannot be taken back: start another")
        return names[0]

    # -- pausing

    def pause(self, queue: str | None = None) -> None:
        """Leave the queue's jobs where they are, those in its lanes too; ``None``: every queue. Running jobs go on."""
        self._check_queue(queue)
        self._client.sadd(self.keys.paused, queue or ALL_QUEUES)

    def resume(self, queue: str | None = None) -> None:
        """Take a pause back; ``None``: every pause. Raises :class:`Invalid` where the queue is not paused by its name."""
        if queue is None:
            self._client.delete(self.keys.paused)
        elif not self._client.srem(self.keys.paused, queue):
            everything = self._client.sismember(self.keys.paused, ALL_QUEUES)
            raise Invalid("all queues are paused together: resume without a name" if everything else f"queue {queue!r} is not paused")
        with self._client.pipeline() as pipe:
            pipe.lpush(self.keys.wake, "1")
            pipe.ltrim(self.keys.wake, 0, 0)
            pipe.execute()

    def paused(self) -> set[str]:
        """Names of paused queues; ``*`` for all."""
        return cast("set[str]", self._client.smembers(self.keys.paused))

    def ingress_queues(self) -> set[str]:
        """Every ingress queue that is known of."""
        return {*self._queues, *text_names(cast("set[str]", self._client.smembers(self.keys.ingress_queues)))}

    def _check_queue(self, queue: str | None) -> None:
        known = self.ingress_queues()
        if queue is not None and queue not in known:
            raise Invalid(f"no ingress queue {queue!r}: there are {', '.join(sorted(known))}")

    # -- the way back, and the way out

    def release(self) -> Released:
        """Pause everything and return every job that has not been started to its queue, as the Celery message it was.

        Queues stay paused, or a dispatcher would fetch the jobs again. Raises :class:`Unavailable` if jobs keep turning up.
        """
        self.pause()
        jobs = recalled = 0
        started_ms = quiet_since_ms = self._clock.monotonic_ms()
        while (now_ms := self._clock.monotonic_ms()) - quiet_since_ms < QUIET_S * 1000:
            back = self._recall_all()
            moved = self._empty_lanes() + self._empty_scheduled()
            jobs, recalled = jobs + moved, recalled + back
            if moved or back:
                quiet_since_ms = self._clock.monotonic_ms()
            if now_ms - started_ms > RELEASE_TIMEOUT_S * 1000:
                raise Unavailable(f"released {jobs} jobs and more keep coming: stop whatever sends jobs back, then release again")
            self._clock.sleep(0.05)
        return Released(jobs, recalled, sum(worker["running"] for worker in self.status()["workers"]))

    def purge(self, forgotten: Callable[[Sequence[str]], None] = lambda _: None) -> int:
        """Forget every job that waits: in ingress queues, lanes and `scheduled`. How many. Leased jobs are left alone.

        ``forgotten`` gets their messages, at most :data:`PURGE_CALL_MAX` at a time, right after each call: nobody else can tell those
        who wait for the results.
        """
        keys = self.keys
        purged = 0
        for lane in cast("set[str]", self._client.smembers(keys.lanes)):
            while frames := cast("list[str]", self._client.lrange(keys.lane(lane), 0, PURGE_CALL_MAX - 1)):
                purged += self._purge(keys.lane(lane), lane, frames, forgotten)
        while entries := cast("list[str]", self._client.zrange(keys.scheduled, 0, PURGE_CALL_MAX - 1)):
            purged += self._purge(keys.scheduled, "", entries, forgotten)
        for queue in self.ingress_queues():
            for one in keys.ingress(queue):
                left = self._client.llen(one)  # what comes later was not meant
                while left > 0 and (messages := cast("list[str]", self._client.lpop(one, min(left, PURGE_CALL_MAX)) or [])):
                    left -= len(messages)
                    purged += len(messages)
                    forgotten(messages)
        return purged

    def _purge(self, source: str, lane: str, entries: Sequence[str], forgotten: Callable[[Sequence[str]], None]) -> int:
        keys = self.keys
        messages = cast("list[str | None]", self._client.hmget(keys.messages, [parse_entry(entry).job for entry in entries]))
        gone = self._run("purge", [source, keys.messages, keys.lanes], [lane, *entries])
        found = [message for message, one in zip(messages, gone, strict=True) if one and message is not None]
        forgotten(found)
        return sum(gone)

    def _recall_all(self) -> int:
        keys = self.keys
        ended = 0
        for epoch in cast("set[str]", self._client.smembers(keys.workers)):
            with self._client.pipeline(transaction=False) as pipe:
                pipe.hgetall(keys.leases(epoch))
                pipe.hkeys(keys.taken(epoch))
                pipe.exists(keys.alive(epoch))
                leases, taken, alive = pipe.execute()
            waiting = sorted(leases.keys() - set(taken), key=lambda id_: parse_entry(leases[id_]).job, reverse=True)
            # An ended life has no `alive`; `dead` is then what says that this is its state.
            guard = keys.alive(epoch) if alive else keys.dead(epoch)
            for batch in _batches(waiting):
                given = [GiveBack(id_, "recalls") for id_ in batch]
                ended += max(0, giveback(self._run, keys, epoch, given, guard=guard, guard_value=""))
        return ended

    def _empty_lanes(self) -> int:
        moved = 0
        for lane in cast("set[str]", self._client.smembers(self.keys.lanes)):
            while count := self._release(self.keys.lane(lane), lane_ingress(self.keys, lane), lane, ()):
                moved += count
        return moved

    def _empty_scheduled(self) -> int:
        moved = 0
        while entries := cast("list[str]", self._client.zrange(self.keys.scheduled, 0, CALL_MAX - 1)):
            by_ingress: dict[str, list[str]] = {}
            for entry in entries:
                by_ingress.setdefault(lane_ingress(self.keys, parse_entry(entry).lane), []).append(entry)
            moved += sum(self._release(self.keys.scheduled, one, "", some) for one, some in by_ingress.items())
        return moved

    def _release(self, source: str, ingress: str, lane: str, entries: Sequence[str]) -> int:
        keys = self.keys
        return int(self._run("release", [source, ingress, keys.messages, keys.lanes], [lane, CALL_MAX, *entries]))

    # -- dead letters

    def dead_list(self, limit: int = 100) -> list[DeadLetter]:
        """Dead letters, the newest first."""
        keys = self.keys
        found = cast("list[tuple[str, float]]", self._client.zrange(keys.dead_letters, 0, limit - 1, desc=True, withscores=True))
        if not found:
            return []
        jobs = [job for job, _ in found]
        with self._client.pipeline(transaction=False) as pipe:
            pipe.time()
            pipe.hmget(keys.dead_reasons, jobs)
            for job in jobs:
                pipe.hstrlen(keys.messages, job)
            (seconds, micros), records, *sizes = pipe.execute()
            now_ms = seconds * 1000 + micros // 1000
            for job, size in zip(jobs, sizes, strict=True):
                pipe.hget(keys.messages, job if 0 < size <= MESSAGE_READ_BYTES_MAX else "")
            messages = pipe.execute()
        return [
            _dead_letter(job, record, message, (now_ms - died_ms) / 1000)
            for (job, died_ms), record, message in zip(found, records, messages, strict=True)
        ]

    def dead_requeue(self, jobs: Sequence[str] | None = None) -> int:
        """Send dead letters back to the queues they came from; ``None``: all. How many there were of those named."""
        return self._end_dead(jobs, "requeue")

    def dead_purge(self, jobs: Sequence[str] | None = None) -> int:
        """Forget dead letters; ``None``: all. How many there were of those named."""
        return self._end_dead(jobs, "purge")

    def _end_dead(self, jobs: Sequence[str] | None, action: str) -> int:
        keys = self.keys
        if jobs is None:
            jobs = cast("list[str]", self._client.zrange(keys.dead_letters, 0, -1))
        ended = 0
        for batch in _batches(jobs):
            records = cast("list[str | None]", self._client.hmget(keys.dead_reasons, list(batch)))
            for job, record in zip(batch, records, strict=True):
                names = [keys.dead_letters, keys.dead_reasons, keys.unsettled, keys.messages, self._dead_ingress(record)]
                ended += int(self._run("requeue_dead", names, [job, action]))
        return ended

    def _dead_ingress(self, record: str | None) -> str:
        facts = read_record(record)
        if (entry := _entry(facts)) is not None:
            return lane_ingress(self.keys, entry.lane)
        queue, step = _text(facts.get("ingress")) or min(self.ingress_queues(), default="dispatch"), facts.get("step", 0)
        steps = self.keys.priority_steps
        return self.keys.ingress(queue)[steps.index(step) if step in steps else 0]


def _batches(items: Sequence[str]) -> Iterator[Sequence[str]]:
    return (items[at : at + CALL_MAX] for at in range(0, len(items), CALL_MAX))


def _entry(record: dict[str, Any]) -> Entry | None:
    text = record.get("entry")
    try:
        entry = parse_entry(text) if isinstance(text, str) else None
        if entry is not None:
            parse_lane(entry.lane)
    except (Invalid, ValueError):
        return None
    return entry


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _dead_letter(job: str, text: str | None, message: str | None, died_s_ago: float) -> DeadLetter:
    record = read_record(text)
    entry = _entry(record)
    lane = parse_lane(entry.lane) if entry is not None else None
    task_id = record.get("task_id") or headers_of(message).get("id")
    return DeadLetter(
        job=job,
        reason=str(record.get("reason", "")),
        detail=str(record.get("detail", "")),
        task=lane.task if lane is not None else _text(record.get("task")),
        task_id=_text(task_id),
        ingress=lane.ingress if lane is not None else _text(record.get("ingress")),
        died_s_ago=round(died_s_ago, 3),
        story=story_of(record),
    )
