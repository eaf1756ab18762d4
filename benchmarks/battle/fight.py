"""Does what was planned to whom it hits, and watches what becomes of the dead."""

from __future__ import annotations

import contextlib
import heapq
import itertools
import json
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import redis

from benchmarks.battle.faults import AUTOSCALER_FAULTS, DISPATCHER_FAULTS, REDIS_FAULTS, Done, Kind, Planned
from benchmarks.battle.field import Field, children_of, send, send_group
from dispatcher.store.keys import Keys
from dispatcher.worker.leasing.celery_host import EXIT_DECLARED_DEAD

KEYS = Keys()


def now_ms() -> int:
    """The ledger dates its lines by the same clock."""
    return round(time.time() * 1000)


class Fighter(threading.Thread):
    """Goes through the plan; a fault that finds no target is left out. ``done`` is what was done."""

    def __init__(self, field: Field, plan: list[Planned]) -> None:
        super().__init__(name="fighter", daemon=True)
        self._field = field
        self._plan = plan
        self._later: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._frozen: set[int] = set()
        self._busy_until = 0.0  # of Redis: its faults do not overlap
        self.done: list[Done] = []
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            began = time.monotonic()
            for planned in self._plan:
                self._wait(began + planned.at_s)
                self._do(planned)
            self._wait(None)
        except BaseException as exc:
            self.error = exc
            raise

    def _wait(self, until: float | None) -> None:
        """Do what is due later until then; with ``None`` all of it."""
        while self._later and (until is None or self._later[0][0] <= until):
            at, _, act = heapq.heappop(self._later)
            time.sleep(max(0.0, at - time.monotonic()))
            act()
        if until is not None:
            time.sleep(max(0.0, until - time.monotonic()))

    def _in(self, seconds: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._later, (time.monotonic() + seconds, next(self._order), act))

    def _note(self, kind: Kind, at_ms: int, *pids: int, who: str = "") -> Done:
        self.done.append(Done(kind, at_ms, now_ms(), pids, who))
        return self.done[-1]

    # -- the faults

    def _do(self, planned: Planned) -> None:
        field, kind = self._field, planned.kind
        if kind in DISPATCHER_FAULTS:
            target = self._leader()
        elif kind in AUTOSCALER_FAULTS:
            target = field.pid("autoscaler") if field.dispatched else None
        elif kind in REDIS_FAULTS:
            self._harm_redis(planned)
            return
        else:
            pids = [pid for pid in field.workers() if kind is Kind.KILL_WORKER or pid not in self._frozen]
            if kind is Kind.KILL_CHILD:
                pids = [pid for pid in pids if children_of(pid)]
            target = pids[int(planned.dice * len(pids))] if pids else None
        if not target:
            return
        if kind is Kind.KILL_CHILD:
            self._kill_child(target, planned.dice)
        elif kind.is_kill:
            self._kill(kind, target)
        elif kind in {Kind.TERM_WORKER, Kind.TERM_DISPATCHER, Kind.TERM_AUTOSCALER}:
            field.may_end(target, 0, -signal.SIGTERM)  # the latter where it was still starting
            self._note(kind, now_ms(), target, who=field.who(target))
            send(target, signal.SIGTERM)
        else:
            self._freeze(kind, target, planned.span_s)

    def _kill(self, kind: Kind, target: int) -> None:
        """The process alone: what it started must manage. A killed autoscaler takes its workers with it."""
        family = children_of(target)
        pools = [pid for child in family for pid in children_of(child)] if kind is Kind.KILL_AUTOSCALER else []
        self._field.may_end(target, -signal.SIGKILL)
        who, at_ms = self._field.who(target), now_ms()
        send(target, signal.SIGKILL)
        done = self._note(kind, at_ms, target, *family, *pools, who=who)
        # Until the kernel has ended them all, on a busy machine.
        self._in(0.3, lambda: setattr(done, "until_ms", at_ms + 300))

    def _kill_child(self, worker: int, dice: float) -> None:
        pool = children_of(worker)
        if not pool:
            return
        victim, at_ms = pool[int(dice * 977) % len(pool)], now_ms()
        send(victim, signal.SIGKILL)
        self._note(Kind.KILL_CHILD, at_ms, victim, who=self._field.who(worker))

    def _freeze(self, kind: Kind, target: int, span_s: float) -> None:
        alone = kind is Kind.FREEZE_MAIN
        stop = send if alone else send_group
        done = self._note(kind, now_ms(), target, *children_of(target), who=self._field.who(target))
        done.until_ms = done.at_ms + 3_600_000
        if kind in {Kind.FREEZE_WORKER, Kind.FREEZE_MAIN}:
            self._field.may_end(target, EXIT_DECLARED_DEAD)
        self._frozen.add(target)
        stop(target, signal.SIGSTOP)

        def thaw() -> None:
            stop(target, signal.SIGCONT)
            self._frozen.discard(target)
            # What it does until its next beat tells it that it is dead is the freeze's doing too.
            done.until_ms = now_ms() + 1500

        self._in(span_s, thaw)

    def _leader(self) -> int | None:
        if not self._field.dispatched:
            return None
        try:
            with redis.Redis.from_url(self._field.broker.url, decode_responses=True, socket_timeout=2) as client:
                info = client.hget(KEYS.leader_info, "info")
        except redis.RedisError:
            return self._field.pid("dispatcher1")
        pid = int(json.loads(info)["pid"]) if info else 0
        return pid if pid in {self._field.pid("dispatcher1"), self._field.pid("dispatcher2")} else self._field.pid("dispatcher1")

    def _harm_redis(self, planned: Planned) -> None:
        broker, kind = self._field.broker, planned.kind
        if time.monotonic() < self._busy_until:
            return
        at_ms = now_ms()
        if kind is Kind.CUT:
            with contextlib.suppress(redis.RedisError), redis.Redis.from_url(broker.url, socket_timeout=5) as client:
                client.client_kill_filter(_type="normal", skipme=True)
                client.client_kill_filter(_type="pubsub", skipme=True)
            self._note(kind, at_ms)
            return
        done = self._note(kind, at_ms)
        done.until_ms = at_ms + 3_600_000
        self._busy_until = time.monotonic() + planned.span_s + 5
        if kind is Kind.FREEZE_REDIS:
            assert broker.child is not None
            broker.child.signal(signal.SIGSTOP)
        else:
            broker.stop(signal.SIGKILL if kind is Kind.CRASH_REDIS else signal.SIGTERM)

        def back() -> None:
            if kind is Kind.FREEZE_REDIS:
                assert broker.child is not None
                broker.child.signal(signal.SIGCONT)
            else:
                broker.start()
            done.until_ms = now_ms()

        self._in(planned.span_s, back)


@dataclass(slots=True)
class Life:
    """A worker's life, as Redis tells of it."""

    epoch: str
    name: str
    pid: int
    registered_ms: int = 0
    gone_ms: int | None = None
    ended: str = ""


class Watcher(threading.Thread):
    """Sees which worker lives there are, and when the last lease of each was back in line."""

    def __init__(self, url: str) -> None:
        super().__init__(name="watcher", daemon=True)
        self._client = redis.Redis.from_url(url, decode_responses=True, socket_timeout=5)
        self._over = threading.Event()
        self.lives: dict[str, Life] = {}
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self._watch()
        except BaseException as exc:
            self.error = exc
            raise

    def _watch(self) -> None:
        while not self._over.wait(0.2):
            try:
                self.look()
            except redis.RedisError:
                continue

    def look(self) -> None:
        client = self._client
        for epoch in client.smembers(KEYS.workers):
            if epoch in self.lives:
                continue
            text, at_ms = client.hmget(KEYS.worker(epoch), "registration", "registered_ms")
            if text:
                registration = json.loads(text)
                self.lives[epoch] = Life(epoch, registration["name"], registration["pid"], int(at_ms or 0))
        for epoch, at_ms in client.zrange(KEYS.gone, 0, -1, withscores=True):
            if (life := self.lives.get(epoch)) is not None and life.gone_ms is None:
                life.gone_ms = int(at_ms)
                life.ended = client.get(KEYS.dead(epoch)) or ""

    def stop(self) -> None:
        self._over.set()
        self.join(10)
        with contextlib.suppress(redis.RedisError):
            self.look()
        self._client.close()
