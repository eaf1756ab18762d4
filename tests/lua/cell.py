"""One cell on a real Redis, and short ways to bring it into any state. Scripts are called as the product calls them: by the stores."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import redis

from dispatcher.core.admission.rules import Admission, Admitted, Refused
from dispatcher.core.facts.decisions import Assign
from dispatcher.store.frame import Entry, parse_entry
from dispatcher.store.keys import Keys
from dispatcher.store.leader.admit_batch import AdmitBatch, IngressList
from dispatcher.store.leader.dispatch_store import Applied, DispatchStore
from dispatcher.store.redis_client.connection import connect
from dispatcher.store.registration import Registration
from dispatcher.store.scripts.call import Scripts
from tests.life import Life
from tests.messages import TASK, message

LANE = f"dispatch/{TASK}/default/p0/c10"
DISPATCH = IngressList("dispatch", "dispatch", 0)
BYTES_MAX = 16 * 1024 * 1024


class Cell:
    """Leader ``store``, with ``client`` (bytes) and ``text`` to look with."""

    def __init__(self, url: str, keys: Keys | None = None) -> None:
        self.url = url
        self.keys = keys or Keys()
        self.client = connect(url, text=False)
        self.text = connect(url)
        self.scripts = Scripts(self.client)
        self.store = self.leader("leader-1")

    def close(self) -> None:
        self.client.close()
        self.text.close()

    def leader(self, token: str) -> DispatchStore:
        """A dispatcher's store whose token holds the lead now, whoever held it before."""
        store = DispatchStore(self.client, self.keys, token)
        self.client.delete(self.keys.leader)
        assert store.elect(ttl_ms=60_000, info={"host": token})
        return store

    def impostor(self) -> DispatchStore:
        """A store that was leader once, or never."""
        return DispatchStore(self.client, self.keys, "impostor")

    # -- jobs

    def push(self, *messages: bytes, queue: str = "dispatch") -> None:
        """Send messages, the first to be served first."""
        for raw in messages:
            self.client.lpush(queue, raw)

    def ingress(self, queue: str = "dispatch") -> list[bytes]:
        """Messages waiting, next first."""
        return list(reversed(cast("list[bytes]", self.client.lrange(queue, 0, -1))))

    def decide(self, messages: Sequence[bytes], source: IngressList = DISPATCH) -> list[Admitted | Refused]:
        rules = Admission(routes={}, default_cost_s=1.0)
        return [rules.read(raw, ingress=source.queue, step=source.step, now_ms=0) for raw in messages]

    def admit(
        self, messages: Sequence[bytes] | None = None, *, store: DispatchStore | None = None, source: IngressList = DISPATCH
    ) -> int:
        """Admit what was planned: by default what lies in the ingress, at most 500."""
        planned = self.ingress(source.key)[:500] if messages is None else messages
        batch = AdmitBatch(source, planned, self.decide(planned, source))
        return (store or self.store).apply([batch], tuple, promote=0).admitted[0]

    def waiting(self, lane: str = LANE) -> list[Entry]:
        """Frames of a lane, next first."""
        return [parse_entry(frame + lane) for frame in cast("list[str]", self.text.lrange(self.keys.lane(lane), 0, -1))]

    def jobs(self, count: int) -> list[str]:
        """``count`` jobs waiting in :data:`LANE`; their numbers, next first."""
        before = len(self.waiting())
        left = count
        while left:
            self.push(*[message(f"job-{before + count - left + i}") for i in range(min(left, 500))])
            left -= self.admit()
        return [entry.job for entry in self.waiting()[before:]]

    def messages(self) -> dict[str, bytes]:
        messages = cast("dict[bytes, bytes]", self.client.hgetall(self.keys.messages))
        return {job.decode(): raw for job, raw in messages.items()}

    # -- workers

    def worker(self, epoch: str = "aaaaaaaaaaaa", **facts: Any) -> Life:
        store = Life(self.text, self.keys, epoch)
        given: dict[str, Any] = {"name": f"{epoch}@h", "host": "h", "pid": 1, "concurrency": 1, "tasks": (TASK,)}
        assert store.register(Registration(**(given | facts)))
        return store

    def assign(self, *assignments: Assign, store: DispatchStore | None = None) -> list[int]:
        return (store or self.store).apply([], lambda: assignments, promote=0).assigned

    def give(self, worker: Life, count: int, *, window: int = 10_000, lane: str = LANE) -> list[str]:
        """Assign ``count`` jobs to the worker; the new ids in its queue, next first."""
        before = self.queued(worker)
        left = count
        while left:
            done = self.assign(Assign(lane, worker.epoch, min(left, 500), window, 0.0))[0]
            assert done
            left -= done
        return self.queued(worker)[len(before) :]

    def leased(self, worker: Life, count: int) -> list[str]:
        """``count`` new jobs, leased to the worker; lease ids, next first."""
        self.jobs(count)
        return self.give(worker, count)

    def queued(self, worker: Life) -> list[str]:
        """Lease ids in the worker's queue, next first."""
        return list(reversed(cast("list[str]", self.text.lrange(self.keys.worker_queue(worker.epoch), 0, -1))))

    def pop(self, worker: Life) -> str:
        """What the worker's BRPOP would get."""
        lease_id = cast("str | None", self.text.rpop(self.keys.worker_queue(worker.epoch)))
        assert lease_id is not None
        return lease_id

    def leases(self, worker: Life) -> dict[str, Entry]:
        entries = cast("dict[str, str]", self.text.hgetall(self.keys.leases(worker.epoch)))
        return {id_: parse_entry(entry) for id_, entry in entries.items()}

    def taken(self, worker: Life) -> set[str]:
        return set(cast("list[str]", self.text.hkeys(self.keys.taken(worker.epoch))))

    # -- what is there

    def whereabouts(self) -> list[str]:
        """Job numbers of everything in keeping, one for each place a job is in."""
        jobs: list[str] = []
        for lane in cast("set[str]", self.text.smembers(self.keys.lanes)):
            jobs += [entry.job for entry in self.waiting(lane)]
        jobs += [entry[:16] for entry in cast("list[str]", self.text.zrange(self.keys.scheduled, 0, -1))]
        jobs += cast("list[str]", self.text.zrange(self.keys.dead_letters, 0, -1))
        for key in self.text.scan_iter(self.keys.leases("*")):
            if self.text.type(key) == "hash":
                jobs += [entry[:16] for entry in cast("list[str]", self.text.hvals(key))]
        return sorted(jobs)

    def woken(self) -> bool:
        """Whether somebody asked the dispatcher to wake up since the last call."""
        return bool(self.client.delete(self.keys.wake))


def dump(client: redis.Redis, *, without: str = "") -> dict[bytes, object]:
    """Every key with its type, whether it expires, and its value.

    Not by Redis' DUMP: a hash that is growing comes out of that in changing orders.
    """
    keys = cast("list[list[Any]]", client.eval(_DUMP, 0))
    return {key: (kind, expires, _ORDERED.get(kind, list)(value)) for key, kind, expires, value in keys if key.decode() != without}


_DUMP = """
local read = {
    string = function(key) return {redis.call('GET', key)} end,
    list = function(key) return redis.call('LRANGE', key, 0, -1) end,
    hash = function(key) return redis.call('HGETALL', key) end,
    set = function(key) return redis.call('SMEMBERS', key) end,
    stream = function(key) return redis.call('XRANGE', key, '-', '+') end,
    zset = function(key) return redis.call('ZRANGE', key, 0, -1, 'WITHSCORES') end,
    none = function() return {} end, -- it expires just now
}
local all = {}
for i, key in ipairs(redis.call('KEYS', '*')) do
    local kind = redis.call('TYPE', key).ok
    all[i] = {key, kind, redis.call('PTTL', key) > 0 and 1 or 0, read[kind](key)}
end
return all
"""
"""In one call: a walk looks after every event, and hundreds of commands cost more than what they look at."""

_ORDERED: dict[bytes, Callable[[list[bytes]], object]] = {
    b"hash": lambda flat: dict(zip(flat[::2], flat[1::2], strict=True)),
    b"set": set,
}
"""What Redis keeps in no order."""


@contextmanager
def nothing_written(cell: Cell, *, without: str = "") -> Iterator[None]:
    """What stands inside leaves every key as it was (a key named by ``without`` aside)."""
    before = dump(cell.client, without=without)
    assert before, "an empty Redis proves little"
    yield
    assert dump(cell.client, without=without) == before


__all__ = ["BYTES_MAX", "DISPATCH", "LANE", "Applied", "Cell", "dump", "nothing_written"]
