"""One worker life: it registers, beats from a thread of its own, drains, and says goodbye.

It needs a thread because a solo pool runs jobs in the loop, and connections of its own because the consumer's break.
The thread ends after the last job: a worker that finishes its last jobs in silence would be reaped.
"""

from __future__ import annotations

import atexit
import logging
import math
import os
import threading
from dataclasses import replace
from queue import Empty, SimpleQueue
from typing import Any

import redis

from dispatcher.clock import Clock
from dispatcher.core.facts.header import turn_of
from dispatcher.core.facts.message import plain_text
from dispatcher.core.returns.ending import BadEnd, Cause, verdict
from dispatcher.errors import FormatMismatch
from dispatcher.settings import Settings
from dispatcher.store.frame import parse_entry
from dispatcher.store.keys import Keys
from dispatcher.store.redis_client.connection import is_demoted
from dispatcher.store.registration import Registration, encode_registration
from dispatcher.store.worker.lease_pipe import LeasePipe
from dispatcher.store.worker.revoke_store import RevokeStore
from dispatcher.store.worker.worker_store import ALIVE_TTL_MS, Beat, BeatStatus, WorkerStore, new_epoch
from dispatcher.worker.life.cut_off import CutOffWatch
from dispatcher.worker.life.held import Held
from dispatcher.worker.life.host import Host
from dispatcher.worker.life.keeper import LeaseKeeper
from dispatcher.worker.life.leader_watch import LeaderWatch
from dispatcher.worker.life.lifeline import Lifeline
from dispatcher.worker.life.loop_lag import LoopLag
from dispatcher.worker.life.models import ModelMemory
from dispatcher.worker.life.refusals import Refusals
from dispatcher.worker.life.revokes import Revokes
from dispatcher.worker.life.unread import pass_on

log = logging.getLogger(__name__)

STOP_BEAT_S = 10.0
"""How long the end of a life waits for its beat thread, which may be waiting for Redis."""

GOODBYE_TRIES = 5
"""Tries of a worker that has time, half a beat apart: a failover of Redis takes some seconds. After them the leader
reaps the worker.
"""


class WorkerLife:
    """Begins with :meth:`begin`, ends with :meth:`finish`. :meth:`step` is one beat."""

    def __init__(
        self,
        registration: Registration,
        settings: Settings,
        keys: Keys,
        client: redis.Redis,
        clock: Clock,
        host: Host,
        memory: ModelMemory,
        lifeline: Lifeline | None = None,
        refusals: Refusals | None = None,
        leader_watch: LeaderWatch | None = None,
    ) -> None:
        self.registration = registration
        self._resident: tuple[str, ...] | None = None
        """The models in memory when it registered."""
        self.settings = settings
        self._keys = keys
        self._client = client
        self._clock = clock
        self._host = host
        self._memory = memory
        self._lifeline = lifeline
        self._refusals = refusals
        self._leader_watch = leader_watch
        self._pid = os.getpid()
        """The process that began this life: a child that was forked from it must not end it."""
        self._notes: SimpleQueue[str] = SimpleQueue()  # put() is safe in a signal handler, where an Event's set() is not
        self._thread: threading.Thread | None = None
        self._finished = False
        self._drain_wanted: str | None = None
        """The drain mode that the next beat sets in Redis; ``None``: it sets none."""
        self._leaving = False
        """The worker was told to finish what runs and to end."""
        self._cut_at_ms: int | None = None
        """When its time to stop is up (monotonic clock); ``None``: never."""
        self._away = False
        """The last beat failed, and the log says so."""
        self._totals_sent = b""
        """The totals that Redis has of this life."""
        self._heard_ms = 0
        """Redis' time at the last beat that it answered."""
        self._unadopted = False
        """This life was begun because Redis lost the last one, and what runs here is not leased to it yet."""
        self.revokes = Revokes(RevokeStore(client, keys, kept_s=settings.revokes_kept_s))
        self._watch: CutOffWatch | None = None
        if settings.on_cut_off == "stop":
            self._watch = CutOffWatch(clock, lease_ttl_s=settings.lease_ttl_s, heartbeat_s=settings.heartbeat_s, stop=self._stop_cut_off)
        self._store, pipe = self._new_life()
        self.keeper = LeaseKeeper(
            self._store, pipe, clock, reject_backoff_ms=round(settings.reject_backoff_s * 1000),
            call_soon=host.call_soon if host.has_loop else None, loading_ms=memory.loading_ms,
        )  # fmt: skip
        self._loop_lag = LoopLag(clock, host, is_busy=lambda: bool(self.keeper.held()))

    @property
    def epoch(self) -> str:
        return self._store.epoch

    @property
    def queue_name(self) -> str:
        """kombu's name of the worker's list."""
        return self._store.queue_name

    @property
    def queue_key(self) -> str:
        """Redis' name of it."""
        return self._keys.worker_queue(self._store.epoch)

    def has_later_turn(self, held: Held, headers: dict[str, Any]) -> bool:
        """True if a retry of the same task, or the task that replaced it, was admitted after this job: the run that
        sent it was over but for its ack. Asks Redis; raises what redis-py raises.
        """
        turn, at_ms = self._store.turn(plain_text(headers["id"]))
        # Some give each day's job the same id: what was retried yesterday is another job.
        is_later = at_ms >= parse_entry(held.entry.decode()).admitted_ms
        return is_later and turn > turn_of(headers.get("retries"), headers.get("replaced_task_nesting"))

    def begin(self) -> None:
        """Register, and beat from now on. Raises what redis-py raises; may then be called again."""
        self._register()
        self._thread = threading.Thread(target=self._run, name="dispatcher-beat", daemon=True)
        self._thread.start()
        if self._watch is not None:
            self._watch.start()
        atexit.register(self.finish)

    def finish(self, *, is_warm: bool = False) -> None:
        """End this life after its last job: send the outbox, then say goodbye. Returns within the time that is left;
        never raises; may be called again.

        ``is_warm``: the pool has ended every job that it began, so the jobs that are still held (waiting for their rate
        limit, say) never ran.
        """
        if self._finished or os.getpid() != self._pid:
            return
        self._finished = True
        if self._watch is not None:
            self._watch.close()
        atexit.unregister(self.finish)
        self._notes.put("stop")
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(max(0.0, min(STOP_BEAT_S, self._left_s())))
        if is_warm:
            self.keeper.return_unbegun()
        if not self.keeper.ended:
            self._say_goodbye()
        self.keeper.close()
        if self._lifeline is not None:
            self._lifeline.release()
        self._memory.close()
        self._client.close()

    def stands_for(self, queue: str) -> bool:
        """True if a worker without ``queue`` would be given no jobs: its own list, or the only queue that it named."""
        return queue == self.queue_name or self.registration.ingress == (queue,)

    def drain(self, mode: str) -> None:
        """Ask for nothing new ("exit", "keep"), or for jobs again (""). Returns at once; safe in a signal handler."""
        self._drain_wanted = mode
        self._notes.put("drain")

    def leave(self, within_s: float | None) -> None:
        """As ``drain("exit")``; jobs that still run after ``within_s`` are cut short and go back in line. ``None``: no
        limit.

        Of several calls the earliest time counts. Returns at once; safe in a signal handler.
        """
        if within_s is not None:
            at_ms = self._clock.monotonic_ms() + round(within_s * 1000)
            self._cut_at_ms = at_ms if self._cut_at_ms is None else min(at_ms, self._cut_at_ms)
        self.drain("exit")

    def has_tasks(self, tasks: tuple[str, ...], at_most_once: tuple[str, ...]) -> None:
        """From now on the worker has these tasks: the next beat says so. Returns at once."""
        said = self.registration
        if (tasks, at_most_once) != (said.tasks, said.at_most_once):
            self.registration = replace(said, tasks=tasks, at_most_once=at_most_once, changes=said.changes + 1)
            self._notes.put("tasks")

    def end_badly(self, lease_id: str, cause: Cause, how: str) -> None:
        """A job's run went wrong: its lease is given back as :func:`~dispatcher.core.returns.ending.verdict` says."""
        all_held = self.keeper.held()
        held = all_held.get(lease_id)
        if held is None:  # it was ended before
            return
        end = BadEnd(
            lease_id,
            cause,
            how,
            self.registration.name,
            self.epoch,
            alone=len(all_held) == 1,
            deaths=parse_entry(held.entry.decode()).deaths,
            at_most_once=self._host.runs_at_most_once(held.task),
        )
        lease = verdict(end, attempts_max=self.settings.attempts_max)
        if cause is Cause.UNREADABLE:
            lease = pass_on(lease, held, self._store, self.registration)
        self.keeper.give_back(lease)

    def is_reserved(self, lease_id: str) -> bool:
        """True if Celery has a request for this lease, and so will end it."""
        return self._host.is_reserved(lease_id)

    # -- the beat thread

    def _run(self) -> None:
        note = ""
        while note != "stop":
            try:
                self.step()
                if self._away:
                    self._away = False
                    log.info("Redis answers again")
            except FormatMismatch as exc:  # Redis lost its state, and a newer cell began in it
                if not self._leaving:
                    self._leaving = True
                    log.critical("%s; finishing what runs here, and ending", exc)
                    self._host.stop_warm()
            except redis.RedisError as exc:
                if not self._away:
                    self._away = True
                    log.warning("cannot reach Redis, beating on: %s: %s", type(exc).__name__, exc)
                if is_demoted(exc):
                    self._client.connection_pool.disconnect(inuse_connections=False)
            except Exception:
                log.exception("a beat failed; the next one tries again")
            left_s = self._left_s()
            if left_s <= 0:
                self._cut_short()
                return
            try:
                note = self._notes.get(timeout=min(left_s, self.settings.heartbeat_s))
            except Empty:
                note = ""

    def _left_s(self) -> float:
        """How long until its time to stop is up; for ever, where it has no end."""
        return math.inf if self._cut_at_ms is None else (self._cut_at_ms - self._clock.monotonic_ms()) / 1000

    def step(self) -> None:
        """Beat once and do what the answer says. Raises what redis-py raises."""
        if self.keeper.ended:
            return
        wanted = self._drain_wanted
        if wanted is not None:
            self._store.drain(wanted)
            if self._drain_wanted == wanted:
                self._drain_wanted = None
        registration = self.registration
        totals = self.keeper.totals(self._memory.read(), registration.changes)
        changed = b"" if totals == self._totals_sent else totals
        sent_ms = self._clock.monotonic_ms()
        facts: dict[str, Any] = {**self.keeper.facts(), "loop_lag_ms": self._loop_lag.read_ms()}
        if self._refusals is not None:
            facts["refused"] = self._refusals.now()
        if registration.changes:  # with each beat, for a Redis that is full refuses it and does not say so
            facts["registration"] = encode_registration(replace(registration, resident=self._resident))
        beat = self._store.heartbeat(facts, changed)
        if self._watch is not None:
            self._watch.answered(sent_ms)
        # After a day without a beat Redis has forgotten, too, that it declared this life dead (a machine that was
        # asleep).
        is_forgotten = beat.status is BeatStatus.UNKNOWN and 0 < self._heard_ms <= beat.now_ms - ALIVE_TTL_MS
        if beat.status is BeatStatus.DEAD or is_forgotten:
            self._die()
            return
        self._heard_ms = beat.now_ms
        if self._lifeline is not None:
            self._lifeline.heard(sent_ms)
        if beat.status is BeatStatus.UNKNOWN:
            self._begin_anew()
        else:
            self._totals_sent = totals
            if self._unadopted:
                self._adopt()
            self._obey(beat)
            self.keeper.answered(beat)
            if self._leader_watch is not None and not self._leaving:
                self._leader_watch.answered(is_led=beat.is_led)
            self.revokes.report()  # last: a Redis that is full refuses it, and must not miss a beat for it

    def _obey(self, beat: Beat) -> None:
        if beat.draining and not self.keeper.paused:
            log.info("draining: nothing new is started here")
            self.keeper.paused = True
        elif not beat.draining and self.keeper.paused and not self._leaving:
            log.info("no longer draining: jobs are started again")
            self.keeper.resume()
            self._host.call_soon(lambda: None)  # the loop may be asleep
        if beat.draining:
            self.keeper.recall(beat.queued & beat.leases)
        if beat.draining == "exit" and not self._leaving:
            self._leaving = True
            self._host.stop_warm()
        if self._leaving and not beat.draining:
            self._drain_wanted = "exit"  # Redis lost it, and would have jobs wait here

    def _die(self) -> None:
        self.keeper.end()
        log.critical("worker life %s was declared dead and its jobs were given to others: ending at once", self.epoch)
        self._host.stop_dead()

    def _stop_cut_off(self) -> None:
        self.keeper.end()
        log.critical(
            "worker life %s is cut off: Redis has not answered for so long that its jobs may be given to others, so they are killed here",
            self.epoch,
        )
        self._host.stop_dead()

    def _cut_short(self) -> None:
        """Its time to stop is up: give back what still runs, no death counted, and end."""
        if self.keeper.ended:
            return
        log.warning("out of time to stop: %d jobs are cut short and go back in line", len(self.keeper.held()))
        self.keeper.outbox.flush_last()
        self.keeper.end()  # from here on the pool dies, which must not be reported as what the jobs did
        self._host.kill_pool()
        try:
            if self.keeper.unsent:  # they would go back in line at once, with what is cut short
                raise redis.ConnectionError(f"{self.keeper.unsent} ended jobs are unknown to Redis")
            self._store.goodbye()
        except redis.RedisError as exc:
            log.warning("left without a goodbye (%s): its jobs go back in line when it has been silent for lease_ttl_s", exc)
        self._host.stop_short()

    def _begin_anew(self) -> None:
        if not self._unadopted:  # else the new life was made, and Redis has not heard of it
            log.warning("Redis does not know worker life %s (it lost its state): beginning a new one", self.epoch)
            self._store, pipe = self._new_life()
            self.keeper.move(self._store, pipe)
            self._totals_sent = b""
            # Set before it registers: if that answer is lost, the next beat finds a life that Redis knows, and still
            # adopts.
            self._unadopted = True
            self._host.call_soon(self._host.switch_queue)
        self._register()
        self._adopt()

    def _adopt(self) -> None:
        """Have the jobs that are running here leased to the new life: were it to die now, they must run again."""
        jobs = [(lease_id, held.entry, held.message) for lease_id, held in self.keeper.held().items()]
        adopted = self._store.adopt(jobs)
        self._unadopted = False
        if adopted < len(jobs):
            log.warning("%d of %d jobs that run here came back with Redis' older state and may run again", len(jobs) - adopted, len(jobs))

    def loop_restarts(self) -> None:
        """The loop was taken down and starts again (a reconnect): what was asked of the old one may be lost."""
        self._loop_lag.restart()
        self.keeper.outbox.loop_restarts()

    # -- beginning and ending

    def _new_life(self) -> tuple[WorkerStore, LeasePipe]:
        epoch = new_epoch()
        return WorkerStore(self._client, self._keys, epoch), LeasePipe(self._client, self._keys, epoch)

    def _register(self) -> None:
        memory = self._memory.read()
        self._resident = None if memory is None else tuple(memory.resident)
        now_ms = self._store.register(replace(self.registration, resident=self._resident))
        if not now_ms:
            raise redis.RedisError(f"worker life {self.epoch} is registered already")
        self.keeper.heard_time(now_ms)

    def _say_goodbye(self) -> None:
        """Tell Redis what has ended, then say goodbye: with a goodbye alone, jobs that have ended would run again."""
        for _ in range(GOODBYE_TRIES):
            try:
                if self.keeper.outbox.try_all():
                    self._store.goodbye()
                    return
            except redis.RedisError:
                pass
            if self._left_s() <= 0:
                break
            self._clock.sleep(self.settings.heartbeat_s / 2)
        log.warning("left without a goodbye: %d ended jobs are unknown to Redis and may run again", self.keeper.unsent)
